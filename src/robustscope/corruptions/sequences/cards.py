"""The card of a sequence, the registry of them, and the constants that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import Tensor

from robustscope.core.errors import InvalidValue
from robustscope.core.registry import Card, Registry

Constants = Literal["auto", "imagenet-p", "tiny-imagenet-p", "cifar-10-p"]
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
        validation: whether it is of the authors' validation set, which does not count in mFR.
    """

    noise: bool = False
    context: bool = False
    stochastic: bool = False
    channels: tuple[int, ...] | None = None
    validation: bool = False


SEQUENCES: Registry[SequenceCard] = Registry("sequence", SequenceCard)
register = SEQUENCES.register


def constant(table: Mapping[str, T], constants: Constants, x: Tensor) -> T:
    """Return the constant of a benchmark: the one named, or that of the size of the pictures.

    "auto" is CIFAR-10-P up to 48 pixels, Tiny ImageNet-P up to 112, and ImageNet-P above; the shorter side counts.

    Raises:
        InvalidValue: for another name.
    """
    name = constants
    if name == "auto":
        side = min(x.shape[-2:])
        name = "cifar-10-p" if side <= 48 else "tiny-imagenet-p" if side <= 112 else "imagenet-p"
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
