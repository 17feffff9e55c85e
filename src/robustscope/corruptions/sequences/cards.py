"""The card of a sequence, the registry of them, and the constants that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import Tensor

from robustscope.core.errors import InvalidValue
from robustscope.core.registry import Card, Registry

Constants = Literal["auto", "imagenet-p", "cifar-10-p"]
T = TypeVar("T")


@dataclass(frozen=True)
class SequenceCard(Card):
    """What a sequence says about itself.

    The function has the form ``(x (B, C, H, W), *, draws, ...) -> (B, frames, C, H, W)`` on values in [0, 1].

    Args:
        noise: whether the frames are independent noise on one picture, so that each is compared with the first.
        context: whether the frames show what lies beyond the edge, so that they are cropped after the change.
        stochastic: whether it draws random numbers.
        channels: numbers of channels that it is defined for; None means any.
    """

    noise: bool = False
    context: bool = False
    stochastic: bool = False
    channels: tuple[int, ...] | None = None


SEQUENCES: Registry[SequenceCard] = Registry("sequence", SequenceCard)
register = SEQUENCES.register


def constant(table: Mapping[str, T], constants: Constants, x: Tensor) -> T:
    """Return the constant of a benchmark: the one named, or CIFAR-10-P's up to 48 pixels and ImageNet-P's above.

    Raises:
        InvalidValue: for another name.
    """
    name = constants
    if name == "auto":
        name = "cifar-10-p" if min(x.shape[-2:]) <= 48 else "imagenet-p"
    if name not in table:
        raise InvalidValue(
            f"constants={constants!r} were given", f"'auto' or one of {tuple(table)} is allowed", "Choose one of them."
        )
    return table[name]


def of_difficulty(values: tuple[T, ...], difficulty: int) -> T:
    """Return the constant of a difficulty.

    Raises:
        InvalidValue: for a difficulty that there is not.
    """
    if difficulty not in range(1, len(values) + 1):
        raise InvalidValue(
            f"difficulty={difficulty!r} was given", f"1 to {len(values)} is allowed", "The paper reports 1."
        )
    return values[difficulty - 1]
