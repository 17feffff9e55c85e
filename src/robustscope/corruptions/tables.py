"""What all corruptions share: the constants of the benchmark whose pictures have the size of the inputs, and levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

from torch import Tensor

from robustscope.core.errors import InvalidValue

Constants = Literal["auto", "imagenet-c", "tiny-imagenet-c", "cifar-10-c", "mnist-c"]
Rounding = Literal["truncate", "nearest", "none"]
T = TypeVar("T")
SLACK = 1e-3
"""Share of a level within which a value counts as the level; float32 loses a hundredth of that."""


def benchmark(constants: Constants, x: Tensor) -> str:
    """Return the benchmark whose constants are meant.

    Args:
        constants: a benchmark, or "auto": MNIST-C for grey pictures up to 28 pixels, CIFAR-10-C up to 48, Tiny
            ImageNet-C up to 112, ImageNet-C above; the shorter side counts.
        x: (B, C, H, W).

    Raises:
        InvalidValue: for another name.

    Example:
        >>> import torch
        >>> benchmark("auto", torch.zeros(1, 3, 224, 224)), benchmark("auto", torch.zeros(1, 3, 32, 32))
        ('imagenet-c', 'cifar-10-c')
    """
    known = ("imagenet-c", "tiny-imagenet-c", "cifar-10-c", "mnist-c")
    if constants in known:
        return constants
    if constants != "auto":
        raise InvalidValue(
            f"constants={constants!r} were given", f"'auto' or one of {known} is allowed", "Write e.g. 'cifar-10-c'."
        )
    side = min(x.shape[-2:])
    if side <= 28 and x.shape[1] == 1:
        return "mnist-c"
    return "cifar-10-c" if side <= 48 else "tiny-imagenet-c" if side <= 112 else "imagenet-c"


def constant(table: Mapping[str, Sequence[T]], constants: Constants, x: Tensor, severity: int) -> T:
    """Return the constant of a severity.

    Args:
        table: benchmark -> one constant for each severity. MNIST-C took the functions of ImageNet-C, so that its
            constants are those where it has none of its own.
        constants: a benchmark or "auto"; see :func:`benchmark`.
        x: (B, C, H, W).
        severity: from 1.

    Raises:
        InvalidValue: for a severity that there is not.
    """
    name = benchmark(constants, x)
    values = table[name] if name in table else table["imagenet-c"]
    return values[check_severity(severity, len(values)) - 1]


def check_severity(severity: int, most: int = 5) -> int:
    """Return the severity.

    Raises:
        InvalidValue: unless it is an integer from 1 to ``most``.
    """
    if isinstance(severity, bool) or not isinstance(severity, int) or not 1 <= severity <= most:
        allowed = f"an integer from 1 to {most} is allowed" if most > 1 else "1 alone is allowed"
        raise InvalidValue(f"severity={severity!r} was given", allowed, "Choose among them.")
    return severity


def on_levels(x: Tensor, rounding: Rounding) -> Tensor:
    """Bring values of [0, 1] onto multiples of 1/255, in place; leave them as they are for "none".

    Example:
        >>> import torch
        >>> (on_levels(torch.tensor([0.999, 0.4]), "truncate") * 255).tolist()
        [254.0, 102.0]
    """
    if rounding == "none":
        return x
    return x.mul_(255).add_(SLACK if rounding == "truncate" else 0.5).floor_().div_(255)
