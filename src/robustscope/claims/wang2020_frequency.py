"""Wang 2020: adversarially trained networks use less of what changes fast in a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, difference, percent
from robustscope.claims.lab import Lab, Subject
from robustscope.probes.why.frequency import WANG


@register(
    "wang2020_frequency",
    version=1,
    source="Wang et al., 2020, arXiv:1905.13545, Sec. 6",
    bibtex=WANG,
    topic="feature representation",
    finding="Convolutional networks use high frequencies that people hardly see; adversarially trained ones use less of them.",
    hypothesis="Of the samples that it classifies correctly, a standard convolutional network keeps more than an adversarially "
    "trained one when it is shown their high frequencies alone, averaged over where the spectrum is split.",
    rules=(
        Rule("difference", "percentage points kept on high frequencies, standard over adversarial", "above", 3.0, 0.0),
    ),
    caveats="A picture of 8 x 8 pixels has few frequencies, and what people see of a digit is among the high ones "
    "too; both trainings use them alike here.",
    cause=("objective",),
    full={"model": "preact_resnet18", "model_parameters": {}, "samples": 1000, "epochs": 200},
    quick={"seeds": 2, "samples": 40, "epochs": 1},
)
def wang2020_frequency(
    lab: Lab,
    *,
    objective: str = "pgd",
    model: str = "small_cnn",
    model_parameters: Mapping[str, Any] = {"width": 16},
    seeds: int = 3,
    samples: int = 300,
    epochs: int = 30,
) -> Evidence:
    """Show networks trained in the standard way and adversarially the low and the high frequencies of pictures alone.

    Args:
        lab: data, networks, measurements.
        objective: of adversarial training.
        model: architecture.
        model_parameters: of the architecture.
        seeds: networks of each kind.
        samples: test samples.
        epochs: of each training.

    Returns:
        One effect: the difference in what is kept.
    """
    batch, curves = lab.samples(samples), []

    def measure(subject: Subject) -> dict[str, float]:
        found = lab.find("frequency", subject, batch)
        right = found.pictures["high"].mean(0).tolist()
        radii = found.axes["high"][0].tolist()
        curves.extend(
            {"network": subject.name, "radius": radius, "high": 100 * share}
            for radius, share in zip(radii, right, strict=True)
        )
        return {
            "accuracy": percent(lab.correct(subject, batch)),
            "low_kept": 100 * float(found.columns["low_kept"].nanmean()),
            "high_kept": 100 * float(found.columns["high_kept"].nanmean()),
        }

    networks = {"standard": {"objective": "standard"}, "adversarial": {"objective": objective}}
    common = {"model": model, "model_parameters": model_parameters, "epochs": epochs}
    rows = lab.table(networks, seeds, measure, **common)
    standard, adversarial = (column(rows, "high_kept", network=kind) for kind in networks)
    title = "Accuracy on frequencies from a radius up, %"
    plot = Plot("frequencies", "points", "radius", "high", "network", title)
    return Evidence(
        {"difference": difference(standard, adversarial)}, {"networks": rows, "frequencies": curves}, (plot,)
    )
