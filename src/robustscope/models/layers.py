"""Build networks from lists of plain layer descriptions, as architecture cards hold them.

A layer is a dictionary with a ``type`` and the settings named below; every setting without a default is required, and
no other is allowed. ``index``, ``input_shape``, ``output_shape`` and ``detail`` may be added for readers; an ``index``
must be the position in the list. Shapes below leave the batch dimension out.

=================================  =================================================================================
type                               settings
=================================  =================================================================================
conv2d                             in, out, kernel, stride=1, padding=0, bias=true, dilation=1, groups=1
linear                             in, out, bias=true
relu, identity                     none
dropout                            share=0.5; share of the values set to 0 in training, nothing in evaluation
flatten                            order="C,H,W" (any text that begins so)
maxpool2d, avgpool2d               kernel, stride=kernel, padding=0
global_avgpool2d                   none; (C, H, W) -> (C,)
batchnorm2d, batchnorm1d           channels, eps=1e-5
residual_add                       main, shortcut: lists of layers; main(x) + shortcut(x), an empty list is the identity
subsample_and_zero_pad_channels    spatial_stride, pad_each_side; keeps every n-th row and column from the first on and
                                   adds that many zero channels before and behind
patch_embedding                    in, dim, patch, tokens; (C, H, W) -> (tokens, dim), token 0 is learned, positions
                                   are added
batchnorm_tokens                   dim, eps=1e-5; batch norm over the last axis of (tokens, dim)
multi_head_self_attention          dim, heads, scale; softmax(scale Q K^T) V in each head, then a linear map
mean_over_tokens                   none; (tokens, dim) -> (dim,)
=================================  =================================================================================
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustscope.core.errors import InvalidValue, RobustscopeError, UnknownName, did_you_mean

_FOR_READERS = {"index", "type", "input_shape", "output_shape", "detail"}
_BUILDERS: dict[str, Callable[..., nn.Module]] = {}


def _layer(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    def decorate(builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        _BUILDERS[name] = builder
        return builder

    return decorate


def layer_types() -> tuple[str, ...]:
    """Return the names of all layer types."""
    return tuple(sorted(_BUILDERS))


def build(layers: Sequence[Mapping[str, Any]], where: str = "layers") -> nn.Sequential:
    """Build a network from layer descriptions; its tensors are named ``<index>.<tensor>``.

    Args:
        layers: descriptions, in order; see the table at the top of this module.
        where: name of the list in messages.

    Raises:
        UnknownName: for a layer type or a setting that does not exist.
        InvalidValue: for a missing setting or a value that torch refuses.

    Example:
        >>> build([{"type": "linear", "in": 2, "out": 3}, {"type": "relu"}])(torch.zeros(1, 2)).shape
        torch.Size([1, 3])
    """
    if not isinstance(layers, Sequence) or isinstance(layers, (str, bytes)):
        raise InvalidValue(f"{where} is a {type(layers).__name__}", "a list of layers is allowed", "Write a list.")
    return nn.Sequential(*(_build_one(layer, f"{where}[{i}]", i) for i, layer in enumerate(layers)))


def _build_one(layer: Mapping[str, Any], where: str, position: int) -> nn.Module:
    if not isinstance(layer, Mapping) or "type" not in layer:
        raise InvalidValue(f"{where} is {layer!r:.80}", "an object with a 'type' is allowed", "Add the type.")
    kind = str(layer["type"])
    if kind not in _BUILDERS:
        raise UnknownName(f"the layer type {kind!r} was given in {where}", "", did_you_mean(kind, _BUILDERS))
    if layer.get("index", position) != position:
        raise InvalidValue(
            f"{where} has index {layer['index']}", f"index {position} is allowed there", "List all layers in order."
        )
    settings = {_python(key): value for key, value in layer.items() if key not in _FOR_READERS}
    parameters = inspect.signature(_BUILDERS[kind]).parameters
    for key in settings:
        if key not in parameters:
            raise UnknownName(
                f"the setting {key!r} was given to {kind} in {where}",
                "",
                did_you_mean(key, [name.rstrip("_") for name in parameters]),
            )
    missing = [n.rstrip("_") for n, p in parameters.items() if p.default is p.empty and n not in settings]
    if missing:
        raise InvalidValue(
            f"{where} ({kind}) lacks {', '.join(map(repr, missing))}", "every setting is needed", "Add what is missing."
        )
    try:
        return _BUILDERS[kind](**settings)
    except RobustscopeError:
        raise
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise InvalidValue(
            f"{where} ({kind}) cannot be built: {error}", "settings that torch accepts are allowed", "Correct them."
        ) from error


def _python(key: str) -> str:
    return "in_" if key == "in" else key


@_layer("conv2d")
def _conv2d(
    in_: int,
    out: int,
    kernel: Any,
    stride: Any = 1,
    padding: Any = 0,
    bias: bool = True,
    dilation: Any = 1,
    groups: int = 1,
) -> nn.Module:
    return nn.Conv2d(in_, out, _pair(kernel), _pair(stride), _pair(padding), _pair(dilation), groups, bool(bias))


@_layer("linear")
def _linear(in_: int, out: int, bias: bool = True) -> nn.Module:
    return nn.Linear(in_, out, bool(bias))


@_layer("relu")
def _relu() -> nn.Module:
    return nn.ReLU()


@_layer("identity")
def _identity() -> nn.Module:
    return nn.Identity()


@_layer("dropout")
def _dropout(share: float = 0.5) -> nn.Module:
    return nn.Dropout(share)


@_layer("flatten")
def _flatten(order: str = "C,H,W") -> nn.Module:
    if not str(order).startswith("C,H,W"):
        raise InvalidValue(f"flatten order {order!r} was given", "'C,H,W' is allowed", "Permute the weights instead.")
    return nn.Flatten()


@_layer("maxpool2d")
def _maxpool2d(kernel: Any, stride: Any = None, padding: Any = 0) -> nn.Module:
    return nn.MaxPool2d(_pair(kernel), None if stride is None else _pair(stride), _pair(padding))


@_layer("avgpool2d")
def _avgpool2d(kernel: Any, stride: Any = None, padding: Any = 0) -> nn.Module:
    return nn.AvgPool2d(_pair(kernel), None if stride is None else _pair(stride), _pair(padding))


@_layer("batchnorm2d")
def _batchnorm2d(channels: int, eps: float = 1e-5) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=eps)


@_layer("batchnorm1d")
def _batchnorm1d(channels: int, eps: float = 1e-5) -> nn.Module:
    return nn.BatchNorm1d(channels, eps=eps)


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class GlobalAverage(nn.Module):
    """Mean over height and width: (B, C, H, W) -> (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean over the last two axes."""
        return x.mean((2, 3))


class ResidualAdd(nn.Module):
    """Sum of two branches; an empty branch is the identity."""

    def __init__(self, main: nn.Sequential, shortcut: nn.Sequential) -> None:
        super().__init__()
        self.main, self.shortcut = main, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return main(x) + shortcut(x)."""
        return self.main(x) + self.shortcut(x)


class SubsampleAndPad(nn.Module):
    """Keep every n-th row and column, and add zero channels on both sides."""

    def __init__(self, spatial_stride: int, pad_each_side: int) -> None:
        super().__init__()
        self.spatial_stride, self.pad_each_side = int(spatial_stride), int(pad_each_side)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C + 2 pad, ceil(H / n), ceil(W / n))."""
        kept = x[:, :, :: self.spatial_stride, :: self.spatial_stride]
        return F.pad(kept, (0, 0, 0, 0, self.pad_each_side, self.pad_each_side))


class PatchEmbedding(nn.Module):
    """Cut an image into square patches, map each to a token, put a learned token first, add positions."""

    def __init__(self, channels: int, dim: int, patch: int, tokens: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, dim, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(dim))
        self.positions = nn.Parameter(torch.zeros(tokens, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, tokens, dim); patches are numbered row by row."""
        patches = self.projection(x).flatten(2).transpose(1, 2)
        first = self.cls_token.expand(len(x), 1, -1)
        return torch.cat([first, patches], dim=1) + self.positions


class TokenBatchNorm(nn.Module):
    """Batch norm over the feature axis of tokens."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head self-attention; heads are contiguous slices of the feature axis."""

    def __init__(self, dim: int, heads: int, scale: float) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim={dim} is not a multiple of heads={heads}")
        self.heads, self.scale = int(heads), float(scale)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        q, k, v = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        weights = (self.scale * q @ k.transpose(2, 3)).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class TokenMean(nn.Module):
    """Mean over all tokens: (B, T, D) -> (B, D)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean over the token axis."""
        return x.mean(1)


@_layer("global_avgpool2d")
def _global_avgpool2d() -> nn.Module:
    return GlobalAverage()


@_layer("mean_over_tokens")
def _mean_over_tokens() -> nn.Module:
    return TokenMean()


@_layer("subsample_and_zero_pad_channels")
def _subsample(spatial_stride: int, pad_each_side: int) -> nn.Module:
    return SubsampleAndPad(spatial_stride, pad_each_side)


@_layer("patch_embedding")
def _patch_embedding(in_: int, dim: int, patch: int, tokens: int) -> nn.Module:
    return PatchEmbedding(in_, dim, patch, tokens)


@_layer("batchnorm_tokens")
def _batchnorm_tokens(dim: int, eps: float = 1e-5) -> nn.Module:
    return TokenBatchNorm(dim, eps)


@_layer("multi_head_self_attention")
def _self_attention(dim: int, heads: int, scale: float) -> nn.Module:
    return SelfAttention(dim, heads, scale)


@_layer("residual_add")
def _residual_add(main: Any, shortcut: Any) -> nn.Module:
    return ResidualAdd(build(main, "main"), build(shortcut, "shortcut"))
