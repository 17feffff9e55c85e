"""The suites of corruptions that have a name, and the one way in which runs make pictures of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.corruptions import CORRUPTIONS, corrupt
from robustscope.corruptions.tables import Constants, Rounding
from robustscope.data.base import Dataset

BENCHMARKS: Mapping[str, tuple[str, Constants]] = {
    "imagenet-c": ("imagenet-c", "auto"),
    "imagenet-c-extra": ("imagenet-c-extra", "auto"),
    "tiny-imagenet-c": ("imagenet-c", "tiny-imagenet-c"),
    "cifar10-c": ("imagenet-c", "cifar-10-c"),
    "mnist-c": ("mnist-c", "mnist-c"),
}
"""Benchmark -> its suite, and the constants that its name stands for."""


def corrupted(
    x: Tensor,
    part: tuple[str, int],
    ids: Sequence[int],
    seed: int,
    constants: Constants,
    rounding: Rounding = "truncate",
) -> Tensor:
    """Return pictures (B, C, H, W) in a corruption of a severity, drawn for their sample ids."""
    name, severity = part
    draws = Draws(seed, tuple(ids))
    parameters: dict[str, Any] = {"constants": constants} if "constants" in CORRUPTIONS[name].parameters else {}
    return corrupt(name, x, severity, draws=draws, rounding=rounding, **parameters)


def check_pictures(data: Dataset, parts: Iterable[tuple[str, int]]) -> None:
    """Refuse data that the corruptions are not defined for.

    Raises:
        InvalidValue: for samples that are no pictures, or of other channels.
    """
    if len(data.shape) != 3 or data.shape[0] not in (1, 3):
        raise InvalidValue(
            f"samples of shape {data.shape} were given",
            "pictures (C, H, W) with C = 1 or 3 are allowed",
            "Files of pictures hold grey or RGB.",
        )
    for name, _ in parts:
        channels = CORRUPTIONS[name].channels
        if channels is not None and data.shape[0] not in channels:
            raise InvalidValue(
                f"{name!r} was asked for pictures of {data.shape[0]} channels",
                f"{' or '.join(map(str, channels))} channels are allowed for it",
                "Leave it out: name the corruptions one by one.",
            )
