"""Zhang 2019 (TRADES): one weight trades accuracy for robustness."""

from __future__ import annotations

from collections.abc import Sequence

from robustscope.claims._trained import TRADE, ahead, judged
from robustscope.claims.cards import Evidence, Rule, register
from robustscope.claims.lab import Lab
from robustscope.training.objectives.trades import BIBTEX


@register(
    "zhang2019_trades",
    version=1,
    source="Zhang et al., 2019, arXiv:1901.08573, Sec. 5.2 and Table 4",
    bibtex=BIBTEX,
    topic="robustness and accuracy",
    finding="The robust error is the natural error plus the error at the boundary, and a loss that weighs the two trades "
    "accuracy for robustness as the weight of the second rises.",
    hypothesis="From the smallest to the largest beta, networks trained by TRADES gain robust accuracy and lose clean accuracy.",
    rules=(
        Rule("robust_gained", "percentage points of robust accuracy, largest over smallest beta", "above", 5.0, 0.0),
        Rule("accuracy_lost", "percentage points of clean accuracy, smallest over largest beta", "above", 1.0, 0.0),
    ),
    caveats="Digits lie far apart, so that at this radius little accuracy need be given up: about a point, which three networks of "
    "each kind cannot tell from none.",
    cause=("parameters",),
    full={"betas": (0.1, 1.0, 3.0, 6.0, 10.0), "samples": 1000, "epochs": 30},
    full_recipe="cifar10-fast",
    quick={"betas": (0.1, 6.0), "seeds": 2, "samples": 10, "epochs": 1},
)
def zhang2019_trades(
    lab: Lab, *, betas: Sequence[float] = (0.1, 1.0, 6.0), seeds: int = 3, samples: int = 300, epochs: int = 30
) -> Evidence:
    """Train networks by TRADES with a rising beta; compare the ends.

    Args:
        lab: data, networks, measurements.
        betas: weights of the divergence, rising.
        seeds: networks of each.
        samples: test samples.
        epochs: of each training.

    Returns:
        Two effects: robust accuracy gained, and clean accuracy lost.
    """
    networks = {f"beta {beta:g}": {"parameters": {"beta": beta}} for beta in betas}
    rows = judged(lab, networks, seeds, samples, epochs=epochs, objective="trades")
    least, *_, most = networks
    effects = {
        "robust_gained": ahead(rows, "robust", most, least),
        "accuracy_lost": ahead(rows, "accuracy", least, most),
    }
    return Evidence(effects, {"networks": rows}, (TRADE,))
