"""Yu 2019: adversarial examples are ordinary points just across the boundary, next to nearly every input."""

from __future__ import annotations

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, difference, mean, percent
from robustscope.claims.lab import Lab, Subject
from robustscope.geometry.pairwise import nearest
from robustscope.probes.why.kl_robustness import BIBTEX


@register(
    "yu2019_neighbours",
    version=1,
    source="Yu et al., 2019, arXiv:1905.04270, Sec. 3.2 (decision surfaces)",
    bibtex=BIBTEX,
    topic="local smoothness",
    finding="Decision surfaces show adversarial examples as points that exist in the close neighbourhood of natural inputs, "
    "just across a boundary that passes nearby.",
    hypothesis="Around nearly every correctly classified sample the decision of a standard network changes within the radius, "
    "around far fewer that of an adversarially trained one, and the boundary is much nearer than a sample of another class.",
    rules=(
        Rule("changed", "percent of correctly classified samples, standard networks", "above", 90.0, 50.0),
        Rule("fewer", "percentage points of them, standard less adversarial training", "above", 20.0, 0.0),
        Rule("nearness", "median percent of the l2 distance to the nearest other class", "below", 50.0, 100.0),
    ),
    caveats="That a search finds nothing does not prove that nothing is there, so the first figure is a lower bound. The "
    "distance to the boundary is that of DeepFool, an upper bound.",
    cause=("objective",),
    full={"samples": 1000},
    quick={"objective": "fast", "seeds": 2, "samples": 10, "epochs": 3},
)
def yu2019_neighbours(
    lab: Lab, *, objective: str = "pgd", seeds: int = 3, samples: int = 200, epochs: int = 60
) -> Evidence:
    """Search the neighbourhoods of test samples for other decisions, and measure how near the boundary is.

    Args:
        lab: data, networks, measurements.
        objective: of adversarial training.
        seeds: networks of each kind.
        samples: test samples.
        epochs: of each training.

    Returns:
        Three effects: how many decisions change, how many fewer after adversarial training, how near the boundary is.
    """
    batch, known = lab.samples(samples), lab.samples(len(lab.train_set), "train")
    other, _ = nearest("l2", batch.x, batch.y, known.x, known.y)

    def measure(subject: Subject) -> dict[str, float]:
        right = lab.correct(subject, batch)
        apart = lab.distance(subject, batch)[right] / other[right]
        return {
            "accuracy": percent(right),
            "changed": percent(~lab.robust(subject, batch)[right]),
            "nearness": 100 * float(apart.median()),
        }

    networks = {"standard": {"objective": "standard"}, "adversarial": {"objective": objective}}
    rows = lab.table(networks, seeds, measure, epochs=epochs)
    changed = {kind: column(rows, "changed", network=kind) for kind in networks}
    effects = {
        "changed": mean(changed["standard"]),
        "fewer": difference(changed["standard"], changed["adversarial"]),
        "nearness": mean(column(rows, "nearness", network="standard")),
    }
    title = "Decisions that change within the radius, and nearness of the boundary, %"
    return Evidence(effects, {"networks": rows}, (Plot("networks", "points", "changed", "nearness", "network", title),))
