"""What each layer and each function of torch is as a node of the graph; whatever is not here is refused."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustscope.certify.operations import Convolution, Matrix, Moving, Reshape, Scale, Shape, Sum
from robustscope.certify.relaxations import Clipped, Curved, Kinked, MaxPool
from robustscope.core.errors import InvalidValue


class Refused(InvalidValue):
    """Says why a call cannot become a node; the graph turns it into an error that names the layer."""


class Made(NamedTuple):
    """A value of the network while its graph is built.

    Args:
        number: of its node.
        shape: without the batch.
        probe: (2, *shape), the value for two inputs.
    """

    number: int
    shape: Shape
    probe: Tensor


class Builder(Protocol):
    """What the handlers below need of the graph under construction."""

    def add(self, operation: Any, inputs: tuple[Made, ...], probe: Tensor, name: str = "") -> Made:
        """Append a node."""
        ...

    def weight(self, tensor: Tensor) -> Tensor:
        """Return a constant in the dtype of the bounds."""
        ...


SIGMOID = Curved("Sigmoid", torch.sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z), False)
TANH = Curved("Tanh", torch.tanh, lambda z: 1 - torch.tanh(z).square(), False)
SOFTPLUS = Curved("Softplus", F.softplus, torch.sigmoid, True)


# ------------------------------------------------------------------------------------------------------- affine maps


def matrix(b: Builder, x: Made, weight: Tensor, bias: Tensor | None = None) -> Made:
    """Add ``F.linear``."""
    operation = Matrix(b.weight(weight), None if bias is None else b.weight(bias))
    return b.add(operation, (x,), operation.forward(x.probe))


def convolution(
    b: Builder,
    input: Made,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Made:
    """Add ``F.conv2d``."""
    if isinstance(padding, str):
        padding = _named_padding(padding, weight, stride, dilation)
    bias = None if bias is None else b.weight(bias)
    sizes = (_pair(stride), _pair(padding), _pair(dilation))
    operation = Convolution(b.weight(weight), bias, *sizes, groups, input.shape)
    return b.add(operation, (input,), operation.forward(input.probe))


def _named_padding(padding: str, weight: Tensor, stride: Any, dilation: Any) -> tuple[int, int]:
    if padding == "valid":
        return (0, 0)
    total = [d * (k - 1) for d, k in zip(_pair(dilation), weight.shape[2:], strict=True)]
    if padding != "same" or any(t % 2 for t in total) or _pair(stride) != (1, 1):
        raise Refused(f"padding={padding!r} that is not the same on both sides")
    return (total[0] // 2, total[1] // 2)


def _convolution_layer(b: Builder, layer: nn.Conv2d, x: Made) -> Made:
    if layer.padding_mode != "zeros":
        raise Refused(f"padding_mode={layer.padding_mode!r}")
    return convolution(b, x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _batch_norm(b: Builder, layer: Any, x: Made) -> Made:
    if layer.running_mean is None:
        raise Refused("batch norm without running statistics couples the samples of a batch")
    scale = (layer.running_var.detach().double() + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight.double()
    shift = -layer.running_mean.detach().double() * scale
    shift = shift if layer.bias is None else shift + layer.bias.double()
    view = (-1, *([1] * (len(x.shape) - 1)))
    return scaled(b, x, scale.view(view), shift.view(view))


def scaled(b: Builder, x: Made, factor: Any, shift: Any) -> Made:
    """Add ``x * factor + shift`` with constants that broadcast to one sample."""
    full = [torch.as_tensor(each, dtype=torch.float64, device=x.probe.device) for each in (factor, shift)]
    full = [each[0] if each.dim() == len(x.shape) + 1 and len(each) == 1 else each for each in full]
    if not all(_fits(each.shape, x.shape) for each in full):
        raise Refused("arithmetic with a constant that changes the shape, or that differs between the samples")
    operation = Scale(*(b.weight(each.expand(x.shape).contiguous()) for each in full))
    return b.add(operation, (x,), operation.forward(x.probe))


def _fits(shape: Shape, onto: Shape) -> bool:
    """Tell whether a shape broadcasts to another; ``torch.broadcast_shapes`` takes seconds to import its symbols."""
    return len(shape) <= len(onto) and all(a in (1, b) for a, b in zip(shape[::-1], onto[::-1], strict=False))


def reshaped(b: Builder, x: Made, probe: Tensor) -> Made:
    """Add the reshape that gave ``probe``."""
    if len(probe) != len(x.probe) or probe[0].numel() != x.probe[0].numel():
        raise Refused("a reshape across the samples of a batch")
    operation = Reshape(x.shape, tuple(probe.shape[1:]))
    return b.add(operation, (x,), probe)


def moving(b: Builder, function: Callable[..., Tensor], *inputs: Made) -> Made:
    """Add a linear map with weights >= 0 and without constant."""
    probe = function(*(made.probe for made in inputs))
    if len(probe) != len(inputs[0].probe):
        raise Refused("an operation across the samples of a batch")
    return b.add(Moving(function, tuple(made.shape for made in inputs)), inputs, probe)


def _add(b: Builder, x: Any, y: Any, sign: float = 1.0, alpha: float = 1) -> Made:
    if isinstance(x, Made) and isinstance(y, Made):
        if x.shape != y.shape:
            raise Refused(f"a sum of the shapes {x.shape} and {y.shape}")
        operation = Sum((1.0, sign * alpha))
        return b.add(operation, (x, y), operation.forward(x.probe, y.probe))
    if isinstance(x, Made):
        return scaled(b, x, 1.0, sign * alpha * y)
    return scaled(b, y, sign * alpha, x)


def _multiply(b: Builder, x: Any, y: Any) -> Made:
    if isinstance(x, Made) and isinstance(y, Made):
        raise Refused("a product of two values that depend on the input")
    return scaled(b, x, y, 0.0) if isinstance(x, Made) else scaled(b, y, x, 0.0)


def _divide(b: Builder, x: Any, y: Any) -> Made:
    if isinstance(y, Made):
        raise Refused("a division by a value that depends on the input")
    return scaled(b, x, 1.0 / y, 0.0)


def _mean(b: Builder, x: Made, dim: Any = None, keepdim: bool = False) -> Made:
    _inner(dim, len(x.shape))
    return moving(b, lambda v: v.mean(dim, keepdim), x)


def _total(b: Builder, x: Made, dim: Any = None, keepdim: bool = False) -> Made:
    _inner(dim, len(x.shape))
    return moving(b, lambda v: v.sum(dim, keepdim), x)


def _inner(dims: Any, most: int) -> None:
    """Refuse to touch the axis of the samples."""
    numbers = [dims] if isinstance(dims, int) else dims
    if not isinstance(numbers, Sequence) or any(d == 0 or d < -most for d in numbers):
        raise Refused(f"dim={dims}, an operation across the samples of a batch")


def _permute(b: Builder, x: Made, *dims: Any) -> Made:
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    if order[0] != 0:
        raise Refused("a permutation of the samples' axis")
    return moving(b, lambda v: v.permute(*order), x)


def _transpose(b: Builder, x: Made, one: int, two: int) -> Made:
    _inner((one, two), len(x.shape))
    return moving(b, lambda v: v.transpose(one, two), x)


def _slice(b: Builder, x: Any, index: Any) -> Any:
    if not isinstance(x, Made):
        return x[index]
    places = index if isinstance(index, tuple) else (index,)
    known = all(p is Ellipsis or isinstance(p, (int, slice)) for p in places)
    if not known or places[0] not in (slice(None), Ellipsis) or len(places) > len(x.shape) + 1:
        raise Refused("an index that picks samples, or that is no slice")
    return moving(b, lambda v: v[index], x)


def _pad(b: Builder, x: Made, pad: Any, mode: str = "constant", value: float | None = None) -> Made:
    if mode != "constant" or len(pad) > 2 * len(x.shape):
        raise Refused(f"padding of mode {mode!r}")
    made = moving(b, lambda v: F.pad(v, tuple(pad)), x)
    if not value:
        return made
    return scaled(b, made, 1.0, F.pad(torch.zeros_like(x.probe), tuple(pad), value=value)[0])


def _cat(b: Builder, tensors: Any, dim: int = 0) -> Made:
    if not all(isinstance(each, Made) for each in tensors):
        raise Refused("a concatenation with constants")
    _inner(dim, len(tensors[0].shape))
    return moving(b, lambda *values: torch.cat(values, dim), *tensors)


def _average(b: Builder, x: Made, *args: Any, **kwargs: Any) -> Made:
    return moving(b, lambda v: F.avg_pool2d(v, *args, **kwargs), x)


# ------------------------------------------------------------------------------------------------------ nonlinear maps


def bent(b: Builder, x: Made, operation: Any) -> Made:
    """Add a nonlinear map of single values."""
    return b.add(operation, (x,), operation.value(x.probe))


def _clamped(b: Builder, x: Made, min: float | None = None, max: float | None = None) -> Made:
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        raise Refused("clipping to tensors")
    if min is None or max is None:  # one-sided: a ReLU, shifted or mirrored
        if min is None and max is None:
            return x
        sign, end = (1.0, float(min)) if min is not None else (-1.0, float(max or 0.0))
        return scaled(b, bent(b, scaled(b, x, sign, -sign * end), Kinked()), sign, end)
    if not min < max:
        raise Refused(f"clipping to [{min}, {max}]")
    return bent(b, x, Clipped(float(min), float(max)))


def _leaky(b: Builder, x: Made, negative_slope: float = 0.01, inplace: bool = False) -> Made:
    if not 0 <= negative_slope <= 1:
        raise Refused(f"negative_slope={negative_slope}, where 0 to 1 is allowed")
    return bent(b, x, Kinked(float(negative_slope)))


def _softplus(b: Builder, x: Made, beta: float = 1, threshold: float = 20) -> Made:
    if beta != 1 or threshold < 20:
        raise Refused("softplus with beta other than 1, or a threshold below 20")
    return bent(b, x, SOFTPLUS)


def _max_pool(
    b: Builder,
    x: Made,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Made:
    if _pair(dilation) != (1, 1) or return_indices or len(x.shape) != 3:
        raise Refused("max pooling with dilation or indices, or not over (C, H, W)")
    kernel = _pair(kernel_size)
    operation = MaxPool(kernel, _pair(stride) if stride else kernel, _pair(padding), ceil_mode, x.shape)
    return b.add(operation, (x,), operation.value(x.probe))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _same(b: Builder, x: Any, *args: Any, **kwargs: Any) -> Any:
    return x


def _dropped(b: Builder, x: Made, p: float = 0.5, training: bool = True, inplace: bool = False) -> Made:
    if training:
        raise Refused("dropout that is always on")
    return x


def _as(function: Callable[..., Any], *facts: str) -> Callable[..., Any]:
    """Make the handler of a layer: call the function's handler with the layer's own attributes."""
    return lambda b, layer, x: function(b, x, *(getattr(layer, fact) for fact in facts))


_RESHAPES = ("flatten", "reshape", "view", "squeeze", "unsqueeze", "unflatten")


def _reshape_by(name: str) -> Callable[..., Made]:
    return lambda b, x, *args, **kwargs: reshaped(b, x, getattr(x.probe.contiguous(), name)(*args, **kwargs))


MODULES: dict[type[nn.Module], Callable[..., Any]] = {
    nn.Linear: _as(matrix, "weight", "bias"),
    nn.Conv2d: _convolution_layer,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.Flatten: lambda b, layer, x: reshaped(b, x, layer(x.probe)),
    nn.Unflatten: lambda b, layer, x: reshaped(b, x, layer(x.probe)),
    nn.AvgPool2d: lambda b, layer, x: moving(b, layer, x),
    nn.AdaptiveAvgPool2d: lambda b, layer, x: moving(b, layer, x),
    nn.ZeroPad2d: lambda b, layer, x: moving(b, layer, x),
    nn.MaxPool2d: _as(_max_pool, "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    nn.ReLU: lambda b, layer, x: bent(b, x, Kinked()),
    nn.LeakyReLU: _as(_leaky, "negative_slope"),
    nn.ReLU6: lambda b, layer, x: bent(b, x, Clipped(0.0, 6.0)),
    nn.Hardtanh: _as(_clamped, "min_val", "max_val"),
    nn.Sigmoid: lambda b, layer, x: bent(b, x, SIGMOID),
    nn.Tanh: lambda b, layer, x: bent(b, x, TANH),
    nn.Softplus: _as(_softplus, "beta", "threshold"),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout2d), lambda b, layer, x: x),
}

LAYERS = tuple(sorted(layer.__name__ for layer in MODULES))

_NAMED: dict[str, Callable[..., Any]] = {
    "relu": lambda b, x, inplace=False: bent(b, x, Kinked()),
    "relu6": lambda b, x, inplace=False: bent(b, x, Clipped(0.0, 6.0)),
    "leaky_relu": _leaky,
    "hardtanh": lambda b, x, min_val=-1.0, max_val=1.0, inplace=False: _clamped(b, x, min_val, max_val),
    "sigmoid": lambda b, x: bent(b, x, SIGMOID),
    "tanh": lambda b, x: bent(b, x, TANH),
    "softplus": _softplus,
    "clamp": _clamped,
    "clip": _clamped,
    "add": _add,
    "sub": lambda b, x, y, alpha=1: _add(b, x, y, -1.0, alpha),
    "mul": _multiply,
    "div": _divide,
    "neg": lambda b, x: scaled(b, x, -1.0, 0.0),
    "mean": _mean,
    "sum": _total,
    "permute": _permute,
    "transpose": _transpose,
    "contiguous": _same,
    "max_pool2d": _max_pool,
    "avg_pool2d": _average,
    "adaptive_avg_pool2d": lambda b, x, size: moving(b, lambda v: F.adaptive_avg_pool2d(v, size), x),
    "linear": matrix,
    "conv2d": convolution,
    "cat": _cat,
    "pad": _pad,
    "dropout": _dropped,
    **{name: _reshape_by(name) for name in _RESHAPES},
}

CALLS: dict[Any, Callable[..., Any]] = {
    **_NAMED,
    **{getattr(room, name): handler for room in (torch, F) for name, handler in _NAMED.items() if hasattr(room, name)},
    **{
        name: _NAMED[name.rstrip("_")]
        for name in ("relu_", "tanh_", "sigmoid_", "clamp_", "add_", "sub_", "mul_", "div_")
    },
    **{room.relu_: _NAMED["relu"] for room in (torch, F)},
    operator.add: _add,
    operator.iadd: _add,
    operator.sub: _NAMED["sub"],
    operator.isub: _NAMED["sub"],
    operator.mul: _multiply,
    operator.imul: _multiply,
    operator.truediv: _divide,
    operator.itruediv: _divide,
    operator.neg: _NAMED["neg"],
    operator.getitem: _slice,
    "size": lambda b, x, dim=None: x.probe.shape if dim is None else x.probe.shape[dim],
    getattr: lambda b, x, name: _fact(x, name),
}


def _fact(x: Made, name: str) -> Any:
    if name not in ("shape", "dtype", "device", "ndim"):
        raise Refused(f"the attribute {name!r}")
    return getattr(x.probe, name)
