"""What probes that change the data share: predictions on versions of the inputs, and what is kept of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from robustscope.core.errors import InvalidValue
from robustscope.models.classifier import Classifier


def correct(model: Classifier, y: Tensor, versions: Iterable[Tensor]) -> Tensor:
    """Return which samples are classified correctly in each of L >= 1 versions: (B, L), 0 or 1, in their dtype.

    Versions may leave the bounds of the model: what is asked is what it sees, not what an adversary may do.
    """
    return torch.stack([(model.decisions(version) == y).to(version.dtype) for version in versions], 1)


def kept(right: Tensor, clean: Tensor) -> Tensor:
    """Return the mean over versions for samples that are classified correctly as they are, NaN for the others.

    Args:
        right: (B, L).
        clean: bool (B,).
    """
    return torch.where(clean, right.mean(1), torch.nan)


def check_grid(name: str, values: Sequence[float], least: float, *, beyond: bool = False) -> tuple[float, ...]:
    """Return the values of a sweep: one or more, all different, each at least (or ``beyond``: above) a number.

    Raises:
        InvalidValue: for any other.
    """
    given = tuple(values)
    sound = [not isinstance(v, bool) and isinstance(v, (int, float)) and v >= least for v in given]
    if not given or not all(sound) or len(set(given)) < len(given) or (beyond and min(given) <= least):
        raise InvalidValue(
            f"{name}={given!r} was given",
            f"one or more different numbers {'>' if beyond else '>='} {least:g} are allowed",
            f"Write e.g. {name}=(2, 4).",
        )
    return given


def check_sides(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """Return the values of a sweep over whole numbers >= 1.

    Raises:
        InvalidValue: for any other.
    """
    given = check_grid(name, values, 1)
    if any(v != int(v) for v in given):
        raise InvalidValue(f"{name}={given!r} was given", "whole numbers are allowed", f"Write e.g. {name}=(2, 4).")
    return tuple(map(int, given))


def check_count(name: str, value: int) -> int:
    """Return a count of at least 1.

    Raises:
        InvalidValue: for any other.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidValue(f"{name}={value!r} was given", "an integer >= 1 is allowed", f"Write e.g. {name}=4.")
    return value
