"""Interval bound propagation: train on the worst logits that intervals allow."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from robustscope.certify.ibp import BIBTEX
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.training.bounded import against_bounds, between
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Network


@register(
    "ibp",
    version=1,
    source="Gowal et al., 2019, arXiv:1810.12715, Sec. 3",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    kind="certified",
    passes=lambda p: Passes(3, 3),
    neutral={"kappa": 1.0},
    quick={"ramp": 0.0, "kappa": 0.9},
)
def ibp(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    kappa: float = 0.5,
    ramp: float = 0.5,
) -> Iterator[Term]:
    """Train on k J(z) + (1 - k) J(z_worst), the worst logits those that interval bounds allow in the ball.

    k falls from 1 to ``kappa``. Let epsilon rise slowly too (``epsilon_ramp`` of the recipe, about as long): bounds of a
    network that was not trained for them are useless at full radius. What is trained so can be certified by ``ibp`` at
    the cost of two forward passes, and more closely by ``crown``.

    Args:
        network: the network in training; of layers that ``certify`` knows.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: not used.
        step: where training stands.
        kappa: weight of the clean loss at the end, 0 to 1.
        ramp: share of the training in which it falls from 1.

    Raises:
        InvalidValue: for a network that cannot be traced, naming the layer.

    Source: Gowal et al. 2019, arXiv:1810.12715, Eqs. 9 to 12.

    Departures: bounds see batch norm with its running statistics, and no dropout; the weight falls by epochs.
    """
    share = between(1.0, kappa, ramp, step.epoch / step.epochs)
    yield from against_bounds(network, x, y, threat, clean_share=share)
