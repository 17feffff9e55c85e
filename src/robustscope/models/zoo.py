"""The small and the standard architectures of the field, as lists of layers: what ``training`` builds and cards describe.

Each is a function ``(shape of one input, number of classes, *, settings) -> layers`` with one registration; see
:mod:`robustscope.models.layers` for what a layer may be. Normalisation is not part of them: it stands in front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from robustscope.core.errors import InvalidValue
from robustscope.core.registry import Card, Registry

ARCHITECTURES: Registry[Card] = Registry("architecture", Card)
"""Functions (shape, classes, *, settings) -> list of layers."""

Layers = list[dict[str, Any]]


def picture(shape: Sequence[int], least: int = 1) -> tuple[int, int, int]:
    """Return channels, height and width of an input.

    Args:
        shape: of one input.
        least: smallest height and width that the architecture can take.

    Raises:
        InvalidValue: if it is no picture, or too small.
    """
    if len(shape) != 3 or min(shape[1:]) < least:
        raise InvalidValue(
            f"inputs of shape {tuple(shape)} were given to a convolutional network",
            f"pictures (C, H, W) of {least} x {least} or more are allowed",
            "Take another architecture: 'perceptron' for inputs that are no pictures, 'small_cnn' for small ones.",
        )
    return shape[0], shape[1], shape[2]


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, bias: bool = True
) -> dict[str, Any]:
    return {
        "type": "conv2d",
        "in": inputs,
        "out": outputs,
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        **({} if bias else {"bias": False}),
    }


def _linear(inputs: int, outputs: int) -> dict[str, Any]:
    return {"type": "linear", "in": inputs, "out": outputs}


def _norm(channels: int) -> dict[str, Any]:
    return {"type": "batchnorm2d", "channels": channels}


_RELU = {"type": "relu"}
_FLATTEN = {"type": "flatten"}


def _halved(size: int, kernel: int, padding: int, stride: int = 2) -> int:
    """Return the height or width after a strided convolution."""
    return (size + 2 * padding - kernel) // stride + 1


@ARCHITECTURES.register("small_cnn", version=1, source="this package: for demonstrations and tests")
def small_cnn(shape: Sequence[int], classes: int, *, width: int = 16) -> Layers:
    """Return a small convolutional network: two strided convolutions and two linear layers.

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
        _conv(channels, width, 3, 2, 1),
        _RELU,
        _conv(width, 2 * width, 3, 2, 1),
        _RELU,
        _FLATTEN,
        _linear(2 * width * pixels, 8 * width),
        _RELU,
        _linear(8 * width, classes),
    ]


@ARCHITECTURES.register("perceptron", version=1, source="fully connected layers with ReLU")
def perceptron(shape: Sequence[int], classes: int, *, hidden: Sequence[int] = (64,), dropout: float = 0.0) -> Layers:
    """Return a fully connected network with ReLU.

    Args:
        shape: of one input, which is flattened.
        classes: number of outputs.
        hidden: widths of the hidden layers.
        dropout: share of the hidden values that are dropped in training.
    """
    layers: Layers = [_FLATTEN]
    inputs = math.prod(shape)
    for width in hidden:
        layers += [_linear(inputs, width), _RELU]
        layers += [{"type": "dropout", "share": dropout}] if dropout else []
        inputs = width
    return [*layers, _linear(inputs, classes)]


@ARCHITECTURES.register(
    "cnn_a",
    version=1,
    source="Wong & Kolter, 2018, arXiv:1711.00851 (its small network); Wong, Rice, Kolter, 2020, arXiv:2001.03994 (MNIST)",
)
def cnn_a(shape: Sequence[int], classes: int, *, width: int = 16) -> Layers:
    """Return the small network of certified training, of FAST on MNIST, and CNN-A of later papers.

    Two convolutions of kernel 4 and stride 2, a hidden layer of 100: 166,406 weights on MNIST, 214,918 on CIFAR-10.

    Args:
        shape: (C, H, W).
        classes: number of outputs.
        width: channels of the first convolution; the second has twice as many.
    """
    channels, height, wide = picture(shape, 4)
    pixels = math.prod(_halved(_halved(n, 4, 1), 4, 1) for n in (height, wide))
    return [
        _conv(channels, width, 4, 2, 1),
        _RELU,
        _conv(width, 2 * width, 4, 2, 1),
        _RELU,
        _FLATTEN,
        _linear(2 * width * pixels, 100),
        _RELU,
        _linear(100, classes),
    ]


@ARCHITECTURES.register("madry_cnn", version=1, source="Madry et al., 2018, arXiv:1706.06083, Sec. 5 (MNIST)")
def madry_cnn(shape: Sequence[int], classes: int) -> Layers:
    """Return Madry's network for MNIST: two convolutions of kernel 5, each with max pooling, and a hidden layer of 1024."""
    channels, height, wide = picture(shape, 4)
    pool = {"type": "maxpool2d", "kernel": 2}
    return [
        _conv(channels, 32, 5, 1, 2),
        _RELU,
        pool,
        _conv(32, 64, 5, 1, 2),
        _RELU,
        pool,
        _FLATTEN,
        _linear(64 * (height // 4) * (wide // 4), 1024),
        _RELU,
        _linear(1024, classes),
    ]


@ARCHITECTURES.register("trades_cnn", version=1, source="Zhang et al., 2019, arXiv:1901.08573, Sec. 5 (MNIST)")
def trades_cnn(shape: Sequence[int], classes: int, *, dropout: float = 0.5) -> Layers:
    """Return the network of TRADES for MNIST: four convolutions, three linear layers, dropout behind the first of them.

    Departures: the last layer starts with the usual random weights; the published code starts it at 0.

    Args:
        shape: (C, H, W).
        classes: number of outputs.
        dropout: share of the values that are dropped in training.
    """
    channels, height, wide = picture(shape, 16)
    pool = {"type": "maxpool2d", "kernel": 2}
    sides = [((n - 4) // 2 - 4) // 2 for n in (height, wide)]
    return [
        _conv(channels, 32, 3),
        _RELU,
        _conv(32, 32, 3),
        _RELU,
        pool,
        _conv(32, 64, 3),
        _RELU,
        _conv(64, 64, 3),
        _RELU,
        pool,
        _FLATTEN,
        _linear(64 * math.prod(sides), 200),
        _RELU,
        {"type": "dropout", "share": dropout},
        _linear(200, 200),
        _RELU,
        _linear(200, classes),
    ]


def _plain_block(inputs: int, outputs: int, stride: int) -> Layers:
    """Return a residual block without batch norm, and the ReLU behind it."""
    shortcut = [] if stride == 1 and inputs == outputs else [_conv(inputs, outputs, 1, stride)]
    main = [_conv(inputs, outputs, 3, stride, 1), _RELU, _conv(outputs, outputs, 3, 1, 1)]
    return [{"type": "residual_add", "main": main, "shortcut": shortcut}, _RELU]


def _plain_resnet(shape: Sequence[int], classes: int, width: int, stages: int) -> Layers:
    channels, height, wide = picture(shape, 8)
    layers: Layers = [_conv(channels, width, 3, 2, 1), _RELU]
    inputs = width
    for _ in range(stages):
        layers += _plain_block(inputs, 2 * width, 2) + _plain_block(2 * width, 2 * width, 1)
        inputs = 2 * width
    pixels = math.prod(-(-n // 2 ** (stages + 1)) for n in (height, wide))
    return [*layers, _FLATTEN, _linear(inputs * pixels, 100), _RELU, _linear(100, classes)]


@ARCHITECTURES.register("resnet2b", version=1, source="Wang et al., 2021, arXiv:2103.06624; VNN-COMP 2021")
def resnet2b(shape: Sequence[int], classes: int) -> Layers:
    """Return ResNet-2B of the verification benchmarks: two residual blocks, no batch norm; 112,006 weights on CIFAR-10."""
    return _plain_resnet(shape, classes, 8, 1)


@ARCHITECTURES.register("resnet4b", version=1, source="Wang et al., 2021, arXiv:2103.06624; VNN-COMP 2021")
def resnet4b(shape: Sequence[int], classes: int) -> Layers:
    """Return ResNet-4B of the verification benchmarks: four residual blocks, no batch norm."""
    return _plain_resnet(shape, classes, 16, 2)


@ARCHITECTURES.register("preact_resnet18", version=1, source="He et al., 2016, arXiv:1603.05027; as used by FAST")
def preact_resnet18(shape: Sequence[int], classes: int, *, width: int = 64) -> Layers:
    """Return PreActResNet-18 for small pictures: eight blocks of batch norm, ReLU and convolution; 11.2 million weights.

    As in the published code of FAST, a shortcut that changes the size looks at the block's input before its batch norm.

    Args:
        shape: (C, H, W).
        classes: number of outputs.
        width: channels of the first of four stages; each stage doubles them.
    """
    channels, _, _ = picture(shape, 8)
    layers: Layers = [_conv(channels, width, 3, 1, 1, bias=False)]
    inputs = width
    for stage in range(4):
        outputs = width * 2**stage
        for stride in (1 if stage == 0 else 2, 1):
            main = [
                *[_norm(inputs), _RELU, _conv(inputs, outputs, 3, stride, 1, bias=False)],
                *[_norm(outputs), _RELU, _conv(outputs, outputs, 3, 1, 1, bias=False)],
            ]
            other = [] if stride == 1 and inputs == outputs else [_conv(inputs, outputs, 1, stride, bias=False)]
            layers.append({"type": "residual_add", "main": main, "shortcut": other})
            inputs = outputs
    return [*layers, _norm(inputs), _RELU, {"type": "global_avgpool2d"}, _linear(inputs, classes)]


@ARCHITECTURES.register(
    "wide_resnet", version=1, source="Zagoruyko & Komodakis, 2016, arXiv:1605.07146; as used by TRADES"
)
def wide_resnet(
    shape: Sequence[int], classes: int, *, depth: int = 34, factor: int = 10, dropout: float = 0.0
) -> Layers:
    """Return WideResNet-depth-factor: three stages of (depth - 4) / 6 blocks, ``factor`` times as wide as a ResNet.

    Args:
        shape: (C, H, W).
        classes: number of outputs.
        depth: 6 n + 4 layers: 10, 16, 28, 34, ...
        factor: width of each stage over 16, 32 and 64 channels.
        dropout: share of the values dropped inside each block in training.

    Raises:
        InvalidValue: for another depth.
    """
    channels, _, _ = picture(shape, 4)
    blocks, rest = divmod(depth - 4, 6)
    if blocks < 1 or rest:
        raise InvalidValue(f"depth={depth} was given", "6 n + 4 is allowed", "Write e.g. depth = 16, 28 or 34.")
    layers: Layers = [_conv(channels, 16, 3, 1, 1, bias=False)]
    drop = [{"type": "dropout", "share": dropout}] if dropout else []
    inputs = 16
    for stage in range(3):
        outputs = 16 * factor * 2**stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            first = [_norm(inputs), _RELU]
            main = [
                *[_conv(inputs, outputs, 3, stride, 1, bias=False), _norm(outputs), _RELU, *drop],
                _conv(outputs, outputs, 3, 1, 1, bias=False),
            ]
            if stride == 1 and inputs == outputs:
                layers.append({"type": "residual_add", "main": first + main, "shortcut": []})
            else:
                shortcut = [_conv(inputs, outputs, 1, stride, bias=False)]
                layers += [*first, {"type": "residual_add", "main": main, "shortcut": shortcut}]
            inputs = outputs
    return [*layers, _norm(inputs), _RELU, {"type": "global_avgpool2d"}, _linear(inputs, classes)]


@ARCHITECTURES.register(
    "vit", version=1, source="Dosovitskiy et al., 2021, arXiv:2010.11929; small, as in VNN-COMP 2023"
)
def vit(shape: Sequence[int], classes: int, *, patch: int = 8, dim: int = 48, depth: int = 2, heads: int = 3) -> Layers:
    """Return a small vision transformer with batch norm over features and ReLU, which certifiers can follow.

    Args:
        shape: (C, H, W); height and width are multiples of ``patch``.
        classes: number of outputs.
        patch: side of a patch, in pixels.
        dim: width of a token, a multiple of ``heads``.
        depth: blocks of attention and a two-layer perceptron.
        heads: of the attention.

    Raises:
        InvalidValue: if patches do not tile the picture, or heads the token.
    """
    channels, height, wide = picture(shape, patch)
    if height % patch or wide % patch or dim % heads:
        raise InvalidValue(
            f"patch={patch}, dim={dim} and heads={heads} were given for pictures of {height} x {wide}",
            "sides that are multiples of patch, and dim that is a multiple of heads, are allowed",
            "Write e.g. patch = 4, dim = 48, heads = 3.",
        )
    tokens = (height // patch) * (wide // patch) + 1
    layers: Layers = [{"type": "patch_embedding", "in": channels, "dim": dim, "patch": patch, "tokens": tokens}]
    norm = {"type": "batchnorm_tokens", "dim": dim}
    attention = {"type": "multi_head_self_attention", "dim": dim, "heads": heads, "scale": (dim // heads) ** -0.5}
    for _ in range(depth):
        layers.append({"type": "residual_add", "main": [norm, attention], "shortcut": []})
        mlp = [norm, _linear(dim, 2 * dim), _RELU, _linear(2 * dim, dim)]
        layers.append({"type": "residual_add", "main": mlp, "shortcut": []})
    return [*layers, {"type": "mean_over_tokens"}, {"type": "batchnorm1d", "channels": dim}, _linear(dim, classes)]
