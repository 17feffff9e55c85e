"""Bhagoji 2019: networks from adversarial training stay far from the accuracy that optimal transport leaves possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, mean, percent
from robustscope.claims.lab import Batch, Lab, Subject
from robustscope.limits.transport import BHAGOJI, transport_classes

TRAINED: Mapping[str, Mapping[str, Any]] = {"pgd": {"objective": "pgd"}, "trades": {"objective": "trades"}}
"""Networks that are trained to be robust."""


@register(
    "bhagoji2019",
    version=1,
    source="Bhagoji, Cullina and Mittal, 2019, arXiv:1909.12272, Sec. 5",
    bibtex=BHAGOJI,
    topic="benchmarks and bounds",
    finding="On the samples of the usual data sets a classifier with no adversarial error exists up to large radii, where "
    "adversarial training already loses much.",
    hypothesis="At the radius of training, the robust accuracy of adversarially trained networks is well below the largest "
    "that any classifier can have on the same samples, on test and on training samples.",
    rules=(
        Rule("gap_on_test_samples", "percentage points below the bound, mean over networks", "above", 10.0, 2.0),
        Rule("gap_on_training_samples", "percentage points below the bound, mean over networks", "above", 5.0, 1.0),
    ),
    caveats="The bound speaks of these samples, and is loose for the population: a classifier that reaches it on test "
    "samples need not be one that can be learned.",
    full={"samples": 2000},
    quick={"networks": ("pgd",), "samples": 6, "seeds": 2, "epochs": 1},
)
def bhagoji2019(
    lab: Lab, *, networks: Sequence[str] = tuple(TRAINED), seeds: int = 3, samples: int = 100, epochs: int = 60
) -> Evidence:
    """Train networks against perturbations; compare their robust accuracy with the bound by optimal transport.

    Args:
        lab: data, networks, measurements.
        networks: names of ``TRAINED``.
        seeds: networks of each objective.
        samples: that are attacked, of the test and of the training set.
        epochs: of each training.

    Returns:
        Two effects, means over the networks.
    """
    batches = {split: lab.samples(samples, split) for split in ("test", "train")}
    possible = {split: _possible(lab, batch) for split, batch in batches.items()}

    def measure(subject: Subject) -> dict[str, float]:
        robust = {split: percent(lab.robust(subject, batch)) for split, batch in batches.items()}
        gaps = {f"gap_{split}": possible[split][0]["possible"] - robust[split] for split in batches}
        return {**{f"robust_{split}": value for split, value in robust.items()}, **gaps}

    rows = lab.table({name: TRAINED[name] for name in networks}, seeds, measure, epochs=epochs)
    effects = {
        "gap_on_test_samples": mean(column(rows, "gap_test")),
        "gap_on_training_samples": mean(column(rows, "gap_train")),
    }
    curve = [{"samples": split, **row} for split, found in possible.items() for row in found]
    plots = (
        Plot(
            "possible", "lines", "epsilon", "possible", "samples", "Largest robust accuracy of any classifier, percent"
        ),
        Plot("networks", "points", "robust_train", "robust_test", "network", "Robust accuracy, percent"),
    )
    return Evidence(effects, {"networks": rows, "possible": curve}, plots)


def _possible(lab: Lab, batch: Batch) -> list[dict[str, float]]:
    """Return the largest robust accuracy possible on the samples, in percent, at the radius and at multiples of it."""
    epsilons = np.multiply((1.0, 1.25, 1.5, 1.75, 2.0), lab.threat.epsilon).tolist()
    found = transport_classes(batch.x, batch.y, norm=lab.threat.norm, epsilons=epsilons)
    shares = (100 * (1 - found.loss)).tolist()
    return [{"epsilon": epsilon, "possible": share} for epsilon, share in zip(epsilons, shares, strict=True)]
