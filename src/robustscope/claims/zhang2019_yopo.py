"""Zhang 2019 (YOPO): an adversary of the first layer alone trains as robust a network, for less."""

from __future__ import annotations

from robustscope.claims._trained import COST, ahead, cost, judged, objectives
from robustscope.claims.cards import Evidence, Rule, register
from robustscope.claims.lab import Lab
from robustscope.training.objectives.yopo import BIBTEX


@register(
    "zhang2019_yopo",
    version=1,
    source="Zhang et al., 2019, arXiv:1905.00877, Sec. 3 and 4",
    bibtex=BIBTEX,
    topic="robustness and resources",
    finding="The adversary is coupled with the weights of the first layer alone; steps that go through this layer only, between a "
    "few passes through the whole network, train a network as robust as PGD training does, at a fraction of its cost.",
    hypothesis="YOPO-5-3 reaches a robust accuracy within a few points of that of PGD training with less than half of its "
    "passes through the whole network.",
    rules=(
        Rule("shortfall", "percentage points of robust accuracy below PGD training", "below", 5.0, 10.0),
        Rule("passes", "percent of the backward passes of PGD training", "below", 50.0, 100.0),
    ),
    caveats="Passes through the first layer are counted apart (first_layer_passes). They are nearly free in a deep network; here "
    "the first of three layers holds a fifth of the weights.",
    cause=("objective",),
    full={"samples": 1000, "epochs": 36},
    full_recipe="cifar10-fast",
    quick={"seeds": 2, "samples": 10, "epochs": 1},
)
def zhang2019_yopo(lab: Lab, *, seeds: int = 3, samples: int = 300, epochs: int = 60) -> Evidence:
    """Train networks by YOPO-5-3 and by PGD-10; compare robust accuracy and passes.

    Args:
        lab: data, networks, measurements.
        seeds: networks of each kind.
        samples: test samples.
        epochs: of each training.

    Returns:
        Two effects: robust accuracy short of PGD training, and passes in percent of its passes.
    """
    rows = judged(lab, objectives("standard", "yopo", "pgd"), seeds, samples, epochs=epochs)
    effects = {"shortfall": ahead(rows, "robust", "pgd", "yopo"), "passes": cost(rows, "yopo", "pgd")}
    return Evidence(effects, {"networks": rows}, (COST,))
