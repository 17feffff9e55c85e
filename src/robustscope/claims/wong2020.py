"""Wong 2020: one step from a random start trains as robust a network as many steps."""

from __future__ import annotations

from robustscope.claims._trained import COST, ahead, cost, judged, objectives
from robustscope.claims.cards import Evidence, Rule, register
from robustscope.claims.lab import Lab
from robustscope.training.objectives.fast import BIBTEX


@register(
    "wong2020",
    version=1,
    source="Wong, Rice, Kolter, 2020, arXiv:2001.03994, Sec. 4 and 5",
    bibtex=BIBTEX,
    topic="robustness and resources",
    finding="Training on one gradient step from a random point of the ball is as effective as training by projected gradient "
    "descent, at a fraction of its cost.",
    hypothesis="FAST reaches a robust accuracy within a few points of that of PGD training in as many epochs, with less than "
    "half of its passes.",
    rules=(
        Rule("shortfall", "percentage points of robust accuracy below PGD training", "below", 5.0, 10.0),
        Rule("passes", "percent of the backward passes of PGD training", "below", 50.0, 100.0),
    ),
    caveats="Both train for as many epochs; the paper shortens both trainings by mixed precision and a cyclic learning rate. "
    "Ten steps of PGD, where the paper has seven on CIFAR-10. On digits one step falls about five points short: whether that is "
    "a few, five networks of each kind cannot tell.",
    cause=("objective",),
    full={"samples": 1000, "epochs": 15},
    full_recipe="cifar10-fast",
    quick={"seeds": 2, "samples": 10, "epochs": 1},
)
def wong2020(lab: Lab, *, seeds: int = 5, samples: int = 300, epochs: int = 60) -> Evidence:
    """Train networks by FAST and by PGD; compare robust accuracy and passes.

    Args:
        lab: data, networks, measurements.
        seeds: networks of each kind.
        samples: test samples.
        epochs: of each training.

    Returns:
        Two effects: robust accuracy short of PGD training, and passes in percent of its passes.
    """
    rows = judged(lab, objectives("standard", "fast", "pgd"), seeds, samples, epochs=epochs)
    effects = {"shortfall": ahead(rows, "robust", "pgd", "fast"), "passes": cost(rows, "fast", "pgd")}
    return Evidence(effects, {"networks": rows}, (COST,))
