"""The card of a limit, the registry of them, and the checks that all of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.core.registry import Card, Registry
from robustscope.core.types import Norm, parse_epsilon

Subject = Literal["samples", "population", "classifier"]


@dataclass(frozen=True)
class LimitCard(Card):
    """What a limit says about itself.

    Args:
        subject: what the number is true of: the "samples" that were given and nothing else, a "population" with a known
            law, or one "classifier" on given samples.
        direction: whether the truth is at least the number ("lower"), at most ("upper"), or equal to it ("exact");
            "estimate" where it is only measured.
        quantity: what is bounded, in the field's words.
        norms: norms in which it is known.
        quick: hyper-parameters for the checks.
    """

    subject: Subject = "samples"
    direction: Literal["lower", "upper", "exact", "estimate"] = "exact"
    quantity: str = ""
    norms: tuple[Norm, ...] = ("l2",)
    quick: Mapping[str, Any] = field(default_factory=dict)


LIMITS: Registry[LimitCard] = Registry("limit", LimitCard)
register = LIMITS.register


def check_labels(y: Tensor, n: int, classes: int | None = None) -> Tensor:
    """Return labels as int64 (n,).

    Args:
        y: (n,), integers >= 0.
        n: number of samples they belong to.
        classes: number of classes that must occur; None means two or more.

    Raises:
        InvalidType: for anything but a tensor of integers.
        InvalidValue: for another length, negative labels, or too few or too many classes.
    """
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InvalidType(
            f"labels of type {getattr(y, 'dtype', type(y).__name__)} were given",
            "a tensor of integers is allowed",
            "Write e.g. torch.as_tensor(dataset.labels).",
        )
    found = len(y.unique())
    if y.shape != (n,) or (n and int(y.min()) < 0) or (found != classes if classes else found < 2):
        raise InvalidValue(
            f"labels of shape {tuple(y.shape)} with {found} classes were given for {n} samples",
            f"one label >= 0 for each sample, of {classes or 'two or more'} classes, is allowed",
            "Give class numbers from 0, and samples of each class.",
        )
    return y.long()


def check_epsilons(epsilons: Sequence[float | str] | float | str) -> tuple[float, ...]:
    """Return radii as floats, in the order given.

    Raises:
        InvalidValue: for none, negative, infinite or unreadable ones.
    """
    several = (epsilons,) if isinstance(epsilons, (int, float, str)) else tuple(epsilons)
    radii = tuple(map(parse_epsilon, several))
    if not radii or max(radii) == float("inf"):
        raise InvalidValue(
            f"epsilons={epsilons!r} were given",
            "one finite radius >= 0 or more is allowed",
            "Write e.g. (0.1, '8/255').",
        )
    return radii


def check_share(name: str, value: float, above: float = 0.0, below: float = 1.0) -> None:
    """Refuse a number that is not strictly between two others.

    Raises:
        InvalidValue: if it is not.
    """
    if not above < value < below:
        raise InvalidValue(
            f"{name}={value} was given", f"a number strictly between {above} and {below} is allowed", "Correct it."
        )


def check_at_least(least: int, **counts: int) -> None:
    """Refuse counts below ``least``.

    Raises:
        InvalidValue: naming the first that is.
    """
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InvalidValue(f"{name}={value!r} was given", f"an integer >= {least} is allowed", f"Raise {name}.")


def check_positive(**values: float) -> None:
    """Refuse numbers that are not finite and above zero.

    Raises:
        InvalidValue: naming the first that is not.
    """
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise InvalidValue(f"{name}={value} was given", "a finite number > 0 is allowed", f"Correct {name}.")
