"""Bai 2020: adversarial examples of networks trained to be robust are further away; their distance measures robustness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, correlation, difference, percent
from robustscope.claims.lab import FAMILY, Lab, Subject

BIBTEX = """@article{bai2020recent,
  title = {Recent Advances in Understanding Adversarial Robustness of Deep Neural Networks},
  author = {Bai, Tao and Luo, Jinqi and Zhao, Jun},
  journal = {arXiv preprint arXiv:2011.01539},
  year = {2020}
}"""


@register(
    "bai2020_radius",
    version=1,
    source="Bai, Luo and Zhao, 2020, arXiv:2011.01539, Sec. 3.1; Moosavi-Dezfooli et al., 2016, arXiv:1511.04599, Sec. 4",
    bibtex=BIBTEX,
    topic="benchmarks and bounds",
    finding="The length of the perturbation that is needed measures robustness: a network that is fooled by larger ones only "
    "usually has a higher robust accuracy.",
    hypothesis="The nearest adversarial example found is further from the samples of PGD-trained networks than of standard "
    "ones, and its distance ranks networks as robust accuracy does.",
    rules=(
        Rule("gain", "median distance of PGD less standard, percent of epsilon", "above", 25.0, 0.0),
        Rule("agreement", "rank correlation of median distance and robust accuracy", "above", 0.8, 0.4),
    ),
    caveats="DeepFool's linf distances are upper bounds; networks of one architecture and one scale of inputs.",
    cause=("objective", "radius", "parameters"),
    full={"samples": 1000},
    quick={"networks": ("standard", "pgd"), "samples": 15, "seeds": 2, "epochs": 1},
)
def bai2020_radius(
    lab: Lab, *, networks: Sequence[str] = tuple(FAMILY), seeds: int = 3, samples: int = 100, epochs: int = 60
) -> Evidence:
    """Search for the nearest adversarial examples of a family of networks, and compare with their robust accuracy.

    Args:
        lab: data, networks, measurements.
        networks: members of the family; "pgd" and "standard" are among them.
        seeds: of each member of the family.
        samples: test samples; those misclassified count with distance 0.
        epochs: of each training.

    Returns:
        Two effects across networks.
    """
    batch, epsilon = lab.samples(samples), cast(float, lab.threat.epsilon)

    def measure(subject: Subject) -> dict[str, float]:
        distance = lab.distance(subject, batch, lab.threat.norm)
        return {
            "clean": percent(lab.correct(subject, batch)),
            "robust": percent(lab.robust(subject, batch)),
            "distance": float((100 * distance / epsilon).median()),
        }

    rows = lab.table({name: FAMILY[name] for name in networks}, seeds, measure, epochs=epochs)
    pgd, standard = (column(rows, "distance", network=name) for name in ("pgd", "standard"))
    effects = {
        "gain": difference(pgd, standard),
        "agreement": correlation(column(rows, "distance"), column(rows, "robust")),
    }
    plot = Plot("networks", "points", "distance", "robust", "network", "Median distance in percent of epsilon")
    return Evidence(effects, {"networks": rows}, (plot,))
