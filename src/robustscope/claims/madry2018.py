"""Madry 2018: training on PGD samples withstands strong attacks."""

from __future__ import annotations

from robustscope.claims._trained import TRADE, ahead, judged, objectives
from robustscope.claims.cards import Evidence, Rule, register
from robustscope.claims.effects import column, mean
from robustscope.claims.lab import Lab
from robustscope.training.objectives.pgd import BIBTEX


@register(
    "madry2018",
    version=1,
    source="Madry et al., 2018, arXiv:1706.06083, Sec. 5",
    bibtex=BIBTEX,
    topic="adversarial training",
    finding="A network trained on the worst samples that projected gradient descent finds keeps most of its accuracy under "
    "the strongest attacks known; one trained on clean samples keeps none.",
    hypothesis="Under the `audited` search, at the radius of training, networks trained by PGD keep far more accuracy than "
    "networks trained on clean samples, which keep little.",
    rules=(
        Rule("gain", "percentage points of robust accuracy over standard training", "above", 20.0, 5.0),
        Rule("left_of_standard", "percent, robust accuracy of standard training", "below", 10.0, 30.0),
    ),
    caveats="Small networks on small pictures. What is left of standard training depends on the radius.",
    cause=("objective",),
    full={"samples": 1000, "epochs": 30},
    full_recipe="cifar10-fast",
    quick={"seeds": 2, "samples": 10, "epochs": 1},
)
def madry2018(lab: Lab, *, seeds: int = 5, samples: int = 300, epochs: int = 60) -> Evidence:
    """Train networks on clean samples and by PGD, and attack both with the whole `audited` search.

    Args:
        lab: data, networks, measurements.
        seeds: networks of each kind.
        samples: test samples.
        epochs: of each training.

    Returns:
        Two effects: the gain in robust accuracy, and the robust accuracy of standard training.
    """
    rows = judged(lab, objectives("standard", "pgd"), seeds, samples, epochs=epochs)
    effects = {
        "gain": ahead(rows, "robust", "pgd", "standard"),
        "left_of_standard": mean(column(rows, "robust", network="standard")),
    }
    return Evidence(effects, {"networks": rows}, (TRADE,))
