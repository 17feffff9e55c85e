"""Small architectures as lists of layers, for demonstrations and tests: train them with torch, save them as cards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from robustscope.core.errors import InvalidValue
from robustscope.core.registry import Card, Registry

ARCHITECTURES: Registry[Card] = Registry("architecture", Card)
"""Functions (shape, classes, *, <settings>) -> list of layers."""


@ARCHITECTURES.register(
    "small_cnn", version=1, source="this package: two strided convolutions, for tests and demonstrations"
)
def small_cnn(shape: tuple[int, ...], classes: int, *, width: int = 16) -> list[dict[str, Any]]:
    """Return the layers of a small convolutional network: two strided convolutions and two linear layers.

    Args:
        shape: (C, H, W) of the inputs; height and width are halved twice, rounding up.
        classes: number of outputs.
        width: channels of the first convolution; the second has twice as many.

    Example:
        >>> from robustscope.models.layers import build
        >>> sum(p.numel() for p in build(small_cnn((1, 8, 8), 10, width=8)).parameters())
        6058
    """
    channels, height, wide = picture(shape)
    pixels = -(-height // 4) * -(-wide // 4)
    return [
        {"type": "conv2d", "in": channels, "out": width, "kernel": 3, "stride": 2, "padding": 1},
        {"type": "relu"},
        {"type": "conv2d", "in": width, "out": 2 * width, "kernel": 3, "stride": 2, "padding": 1},
        {"type": "relu"},
        {"type": "flatten"},
        {"type": "linear", "in": 2 * width * pixels, "out": 8 * width},
        {"type": "relu"},
        {"type": "linear", "in": 8 * width, "out": classes},
    ]


@ARCHITECTURES.register("perceptron", version=1, source="fully connected layers with ReLU")
def perceptron(shape: tuple[int, ...], classes: int, *, hidden: Sequence[int] = (64,)) -> list[dict[str, Any]]:
    """Return the layers of a fully connected network with ReLU.

    Args:
        shape: of one input; it is flattened.
        classes: number of outputs.
        hidden: widths of the hidden layers.
    """
    layers: list[dict[str, Any]] = [{"type": "flatten"}]
    inputs = math.prod(shape)
    for width in hidden:
        layers += [{"type": "linear", "in": inputs, "out": width}, {"type": "relu"}]
        inputs = width
    return [*layers, {"type": "linear", "in": inputs, "out": classes}]


def picture(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return channels, height and width of an input.

    Raises:
        InvalidValue: if it is no picture.
    """
    if len(shape) != 3:
        raise InvalidValue(
            f"inputs of shape {tuple(shape)} were given to a convolutional network",
            "pictures (C, H, W) are allowed",
            "Take the architecture 'perceptron' for other inputs.",
        )
    return shape[0], shape[1], shape[2]
