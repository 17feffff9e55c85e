"""Madry 2018: robustness needs capacity, more of it than accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustscope.claims._trained import Rows, both, gained, judged
from robustscope.claims.cards import Evidence, Rule, register
from robustscope.claims.effects import difference, mean
from robustscope.claims.lab import Lab
from robustscope.training.objectives.pgd import BIBTEX

DIGITS = ({"hidden": [8, 8]}, {"hidden": [32, 32]}, {"hidden": [256, 256]})


@register(
    "madry2018_capacity",
    version=1,
    source="Madry et al., 2018, arXiv:1706.06083, Sec. 4 and Fig. 4",
    bibtex=BIBTEX,
    topic="robustness and resources",
    finding="A network that is large enough to classify clean samples may be far too small to classify robustly; under "
    "adversarial training capacity alone raises robustness.",
    hypothesis="From the smallest to the largest network PGD training gains robust accuracy, and more of it than standard "
    "training gains clean accuracy.",
    rules=(
        Rule("robust_gained", "percentage points of robust accuracy of PGD training", "above", 5.0, 0.0),
        Rule("beyond_accuracy", "percentage points more than standard training gains in accuracy", "above", 3.0, 0.0),
    ),
    caveats="Networks grow in width alone.",
    cause=("model_parameters",),
    full={"networks": ({"width": 4}, {"width": 16}, {"width": 64}), "samples": 1000, "epochs": 30},
    full_recipe="cifar10-fast",
    quick={"networks": ({"hidden": [4]}, {"hidden": [64]}), "seeds": 2, "samples": 10, "epochs": 1},
)
def madry2018_capacity(
    lab: Lab,
    *,
    networks: Sequence[Mapping[str, Any]] = DIGITS,
    seeds: int = 3,
    samples: int = 300,
    epochs: int = 60,
) -> Evidence:
    """Train small to large networks by PGD and on clean samples; compare what size gains.

    Args:
        lab: data, networks, measurements.
        networks: parameters of the recipe's model, from the smallest network to the largest.
        seeds: networks of each size and kind.
        samples: test samples.
        epochs: of each training.

    Returns:
        Two effects: robust accuracy gained by PGD training, and how much more that is than the accuracy of standard training.
    """
    rows: Rows = []
    for size, parameters in enumerate(networks):
        kinds = {name: {"objective": name, "model_parameters": dict(parameters)} for name in ("standard", "pgd")}
        rows += [{"size": size, **row} for row in judged(lab, kinds, seeds, samples, epochs=epochs)]

    robust = gained(rows, "size", "robust", "pgd")
    effects = {
        "robust_gained": mean(robust),
        "beyond_accuracy": difference(robust, gained(rows, "size", "accuracy", "standard")),
    }
    return Evidence(effects, {"networks": rows}, both("size", "from small to large networks"))
