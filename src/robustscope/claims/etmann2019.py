"""Etmann 2019: networks that are harder to fool have saliency maps that resemble the image."""

from __future__ import annotations

from collections.abc import Sequence

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, correlation, percent
from robustscope.claims.lab import Lab, Subject
from robustscope.probes.why.alignment import BIBTEX


@register(
    "etmann2019",
    version=1,
    source="Etmann et al., 2019, arXiv:1905.04172, Sec. 4",
    bibtex=BIBTEX,
    topic="feature representation",
    finding="On simple data such as MNIST the alignment of the saliency map with the image rises with robustness.",
    hypothesis="Across networks trained with a rising penalty on the input gradient, and seeds, median alignment rises "
    "with median linearised robustness.",
    rules=(Rule("correlation", "rank correlation across networks, -1 to 1", "above", 0.5, 0.0),),
    caveats="The penalty is that of the input gradient of the loss, squared, for each sample; the paper's grid reaches "
    "penalties that destroy the network, where the link breaks.",
    cause=("parameters",),
    full={"seeds": 3, "samples": 1000},
    full_recipe="mnist-fast",
    quick={"penalties": (0.01, 1.0), "seeds": 2, "samples": 40, "epochs": 2},
)
def etmann2019(
    lab: Lab,
    *,
    penalties: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0),
    seeds: int = 3,
    samples: int = 300,
    epochs: int = 60,
) -> Evidence:
    """Train networks with a rising penalty on the input gradient; correlate alignment and linearised robustness.

    Args:
        lab: data, networks, measurements.
        penalties: weights of the squared l2 norm of the gradient of the loss.
        seeds: networks for each penalty.
        samples: test samples that are explained.
        epochs: of each training.

    Returns:
        One effect: the rank correlation of the medians across networks.
    """
    batch = lab.samples(samples)

    def measure(subject: Subject) -> dict[str, float]:
        found = lab.find("alignment", subject, batch).columns
        return {
            "accuracy": percent(lab.correct(subject, batch)),
            "alignment": float(found["alignment"].nanmedian()),
            "linearised_robustness": float(found["linearised_robustness"].nanmedian()),
        }

    networks = {f"penalty {weight:g}": {"parameters": {"weight": weight, "form": "squared"}} for weight in penalties}
    rows = lab.table(networks, seeds, measure, objective="input_gradient", epochs=epochs)
    effect = correlation(column(rows, "linearised_robustness"), column(rows, "alignment"))
    plot = Plot("networks", "points", "linearised_robustness", "alignment", "network", "Medians over the samples")
    return Evidence({"correlation": effect}, {"networks": rows}, (plot,))
