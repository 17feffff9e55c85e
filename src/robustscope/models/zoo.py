"""Small architectures as lists of layers, for demonstrations and tests: train them with torch, save them as cards."""

from __future__ import annotations

from typing import Any


def small_cnn(shape: tuple[int, int, int], classes: int, width: int = 16) -> list[dict[str, Any]]:
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
    channels, height, wide = shape
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


def perceptron(inputs: int, classes: int, hidden: tuple[int, ...] = (64,)) -> list[dict[str, Any]]:
    """Return the layers of a fully connected network with ReLU.

    Args:
        inputs: number of input values; inputs of any shape are flattened.
        classes: number of outputs.
        hidden: widths of the hidden layers.
    """
    layers: list[dict[str, Any]] = [{"type": "flatten"}]
    for width in hidden:
        layers += [{"type": "linear", "in": inputs, "out": width}, {"type": "relu"}]
        inputs = width
    return [*layers, {"type": "linear", "in": inputs, "out": classes}]
