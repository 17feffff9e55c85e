"""Yang 2020: whatever the training method, robust networks are locally smooth."""

from __future__ import annotations

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, correlation, percent
from robustscope.claims.lab import Lab, Subject
from robustscope.probes.why.local_lipschitz import BIBTEX


@register(
    "yang2020_lipschitz",
    version=1,
    source="Yang et al., 2020, arXiv:2003.02460, Sec. 5",
    bibtex=BIBTEX,
    topic="robustness and accuracy",
    finding="A robust and accurate classifier is a rounded locally Lipschitz function; methods that give robustness do so by "
    "local smoothness, and more robust networks have smaller local Lipschitz constants.",
    hypothesis="Across training methods and seeds, robust accuracy falls as the mean local Lipschitz constant of the logits "
    "rises.",
    rules=(Rule("correlation", "rank correlation across networks, -1 to 1", "below", -0.5, 0.0),),
    caveats="Logits have a scale of their own, which the constant contains as in the paper; the table also has it relative "
    "to the spread of the logits. In the paper the link breaks for the smoothest networks, which lose accuracy.",
    takes_models=True,
    cause=("objective", "radius"),
    full={"seeds": 1, "samples": 1000},
    quick={"seeds": 1, "samples": 12, "steps": 3, "epochs": 1},
)
def yang2020_lipschitz(
    lab: Lab, *, seeds: int = 2, samples: int = 200, steps: int = 10, epochs: int | None = None
) -> Evidence:
    """Measure robust accuracy and the local Lipschitz constant of networks from fragile to robust.

    Args:
        lab: data, networks, measurements.
        seeds: networks of each kind.
        samples: test samples.
        steps: of the ascent that looks for the constant, inside the threat set of the recipe.
        epochs: of each training; those of the recipe if None.

    Returns:
        One effect: the rank correlation across networks.
    """
    batch = lab.samples(samples)

    def measure(subject: Subject) -> dict[str, float | str]:
        found = lab.find("local_lipschitz", subject, batch, steps=steps).columns
        return {
            "network": subject.name,
            "accuracy": percent(lab.correct(subject, batch)),
            "robust": percent(lab.robust(subject, batch)),
            "lipschitz": float(found["local_lipschitz"].nanmean()),
            "relative_lipschitz": float(found["relative_lipschitz"].nanmean()),
        }

    rows = [measure(subject) for subject in lab.subjects(seeds, epochs=epochs)]
    effect = correlation(column(rows, "lipschitz"), column(rows, "robust"))
    plots = tuple(
        Plot("networks", "points", name, "robust", "network", title, ("x",))
        for name, title in (
            ("lipschitz", "Local Lipschitz constant and robust accuracy, %"),
            ("relative_lipschitz", "Relative to the spread of the logits"),
        )
    )
    return Evidence({"correlation": effect}, {"networks": rows}, plots)
