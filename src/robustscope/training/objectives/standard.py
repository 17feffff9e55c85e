"""Standard training: the cross-entropy of clean samples."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Network


@register(
    "standard",
    version=1,
    source="empirical risk minimisation; the yardstick of every other objective",
    kind="standard",
    passes=lambda p: Passes(1, 1),
    neutral={},
)
def standard(
    network: Network, x: Tensor, y: Tensor, threat: ThreatModel, *, draws: Draws, step: Step
) -> Iterator[Term]:
    """Train on clean samples.

    Args:
        network: the network in training.
        x: (B, *S), inputs after augmentation.
        y: int64 (B,), true classes.
        threat: not used.
        draws: not used.
        step: not used.
    """
    yield Term(cross_entropy(network.logits(x), y))
