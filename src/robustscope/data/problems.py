"""Synthetic problems that know their answer: small models with samples and exact minimal distances.

Everything is computed from stored formulas: the weights come from :mod:`robustscope.core.draws`, so a problem is the
same on every machine and leaves the global generators alone. The distances are computed here with sorts of their own,
not with :mod:`robustscope.geometry`, so that each can judge the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Bounds, Norm

SHAPE = (3, 4, 4)
M = TypeVar("M", bound=nn.Module)
UNIT = Bounds(0.0, 1.0)
RADII: Mapping[Norm, float] = {"linf": 0.05, "l2": 0.2, "l1": 0.2}


@dataclass(frozen=True)
class Problem:
    """A model with samples, and what is known about them.

    Args:
        module: maps (B, *S) to logits (B, K); in evaluation mode.
        x: (B, *S), inside ``bounds``.
        y: int64 (B,); the classes that the module predicts, so that every sample is classified correctly.
        radius: norm -> float64 (B,), exact distance to the nearest point of another class inside the bounds, in the
            units of ``bounds``; a norm is absent where the answer is not known.
        bounds: valid range of every input value.
    """

    module: nn.Module
    x: Tensor
    y: Tensor
    radius: Mapping[Norm, Tensor] = field(default_factory=dict)
    bounds: Bounds = UNIT


def boxed_distance(norm: Norm, x: Tensor, v: Tensor, margin: Tensor, bounds: Bounds = UNIT) -> Tensor:
    """Return the length of the shortest d with v . d >= margin and x + d inside the bounds: float64 (B,).

    linf: every value moves by epsilon or to its bound; the gain is piecewise linear in epsilon. l2: the same with
    steps proportional to |v|. l1: values move to their bound by decreasing |v|. l0: values are spent by decreasing
    |v| times room. ``inf`` where the bounds let no such d exist, 0 where margin <= 0.

    Args:
        norm: "linf", "l2", "l1" or "l0".
        x: (B, d).
        v: (B, d), direction of gain, for instance the difference of two rows of a weight matrix.
        margin: (B,), what is to be gained.
        bounds: valid range of every input value.
    """
    x, v, margin = x.double(), v.double(), margin.double()
    slope = v.abs()
    room = torch.where(v > 0, bounds.upper - x, x - bounds.lower)
    if norm in ("linf", "l2"):
        rate = torch.ones_like(slope) if norm == "linf" else slope
        t = _solve_saturating(slope, rate, room, margin)
        length = t if norm == "linf" else torch.minimum(t[:, None] * slope, room).square().sum(1).sqrt()
    else:
        price = slope if norm == "l1" else slope * room
        order = price.argsort(dim=1, descending=True)
        gains = (slope * room).gather(1, order)
        total = gains.cumsum(1)
        index = (total < margin[:, None]).sum(1).clamp(max=x.shape[1] - 1)[:, None]
        if norm == "l0":
            length = index[:, 0].double() + 1
        else:
            rooms = room.gather(1, order)
            before = (total - gains).gather(1, index)[:, 0]
            part = (margin - before) / slope.gather(1, order).gather(1, index)[:, 0].clamp(min=1e-300)
            length = (rooms.cumsum(1) - rooms).gather(1, index)[:, 0] + part
    length = torch.where((slope * room).sum(1) < margin, torch.inf, length)
    return torch.where(margin <= 0, 0.0, length)


def _solve_saturating(slope: Tensor, rate: Tensor, room: Tensor, margin: Tensor) -> Tensor:
    """Return the smallest t with sum(slope * min(t * rate, room)) >= margin: (B,); any value if there is none."""
    turn = torch.where(rate > 0, room / rate.clamp(min=1e-300), 0.0)
    turn, order = turn.sort(dim=1)
    full = (slope * room).gather(1, order)
    speed = (slope * rate).gather(1, order)
    saturated = full.cumsum(1) - full
    moving = speed.flip(1).cumsum(1).flip(1)
    index = (saturated + turn * moving < margin[:, None]).sum(1).clamp(max=slope.shape[1] - 1)[:, None]
    left = margin - saturated.gather(1, index)[:, 0]
    return left / moving.gather(1, index)[:, 0].clamp(min=1e-300)


def linear_distance(norm: Norm, weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the exact distance of each sample to the nearest other class of a linear model in the box [0, 1].

    Args:
        norm: "linf", "l2", "l1" or "l0".
        weight: (K, d).
        bias: (K,).
        x: (B, d).
        y: int64 (B,), true classes.

    Returns:
        float64 (B,); 0 for samples of which another class already has a logit as large.

    Source: one linear constraint for each other class, so the nearest of the K - 1 nearest points.
    """
    weight, bias, x = weight.double(), bias.double(), x.double()
    logits = x @ weight.T + bias
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for target in range(len(weight)):
        gap = logits.gather(1, y[:, None])[:, 0] - logits[:, target]
        length = boxed_distance(norm, x, weight[target] - weight[y], gap)
        best = torch.where(y == target, best, torch.minimum(best, length))
    return best


def _numbers(seed: int, purpose: str, *shape: int) -> Tensor:
    """Return standard normal numbers in float64 that depend on seed and purpose alone."""
    return Draws(seed, (0,), "problems").normal(purpose, torch.empty(1, *shape, dtype=torch.float64))[0]


def _samples(seed: int, n: int, *shape: int) -> Tensor:
    """Return n samples uniform in [0, 1), float64; the first ones do not depend on n."""
    like = torch.empty(n, *shape, dtype=torch.float64)
    return Draws(seed, tuple(range(n)), "problems").uniform("x", like, 0.0, 1.0)


def _layer(kind: Callable[..., M], *shape: int, **facts: Any) -> M:
    """Build a layer without touching the global generator.

    ``torch.nn.utils.skip_init`` would do, but its first call imports torch's compiler, which takes a second.
    """
    with torch.random.fork_rng(devices=[]):
        return kind(*shape, **facts)


def _linear(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> nn.Sequential:
    layer = _layer(nn.Linear, weight.shape[1], weight.shape[0], dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return nn.Sequential(nn.Flatten(), layer).eval()


def _solved(module: nn.Sequential, x: Tensor, norms: tuple[Norm, ...]) -> Problem:
    """Build the problem of a linear module: labels are its predictions, radii are exact for its stored weights."""
    weight, bias = (parameter.detach() for parameter in module.parameters())
    flat = x.double().flatten(1)
    y = (flat @ weight.double().T + bias.double()).argmax(1)
    return Problem(module, x, y, {norm: linear_distance(norm, weight, bias, flat, y) for norm in norms})


def linear_binary(norm: Norm, dtype: torch.dtype = torch.float64, n: int = 8, seed: int = 0) -> Problem:
    """Two classes separated by a plane; all samples lie at one exact distance of it, and the box is far.

    The distance is ``RADII[norm]`` = |f(x)| / ||w||_q, with q dual to the norm. Samples alternate between the sides.

    Args:
        norm: "linf", "l2" or "l1".
        dtype: of the weights and the samples.
        n: number of samples.
        seed: decides weights and samples.

    Raises:
        InvalidValue: for l0, whose steps always reach the box; :func:`linear_boxed` has its distances.
    """
    if norm not in RADII:
        raise InvalidValue(
            f"linear_binary was asked for norm={norm!r}",
            f"one of {tuple(RADII)} is allowed",
            "Use linear_boxed for l0.",
        )
    raw = _numbers(seed, "binary/weight", 48)
    w = raw.sign() * (0.5 + raw.abs() / (1 + raw.abs()))
    dual = {"linf": w.abs().sum(), "l2": w.norm(), "l1": w.abs().max()}[norm]
    u = (_samples(seed, n, 48) - 0.5) * 0.2
    u = u - (u @ w)[:, None] * w / w.square().sum()
    side = 1.0 - 2.0 * (torch.arange(n) % 2).double()
    x = 0.5 + u + (side * RADII[norm] * dual / w.square().sum())[:, None] * w
    module = _linear(torch.stack([w, -w]) / 2, torch.stack([-w.sum(), w.sum()]) / 4, dtype)
    return _solved(module, x.to(dtype).view(n, *SHAPE), (norm,))


def linear_multiclass(dtype: torch.dtype = torch.float64, n: int = 8, seed: int = 0, classes: int = 5) -> Problem:
    """Several classes, samples near the middle of the box: min over t of (Z_y - Z_t) / ||w_y - w_t||_q is exact."""
    weight = _numbers(seed, "multiclass/weight", classes, 48)
    x = 0.5 + (_samples(seed, n, 48) - 0.5) * 0.1
    return _solved(_linear(weight, -weight.sum(1) / 2, dtype), x.to(dtype).view(n, *SHAPE), ("linf", "l2", "l1"))


def linear_boxed(dtype: torch.dtype = torch.float64, n: int = 8, seed: int = 0, classes: int = 4) -> Problem:
    """Several classes, samples all over the box, a third of the values on its bounds: the box binds in every norm."""
    weight = _numbers(seed, "boxed/weight", classes, 48)
    aim = weight[torch.arange(n) % classes]
    x = (_samples(seed, n, 48) + 0.25 * aim).clamp(0.0, 1.0)
    module = _linear(weight, -weight.sum(1) / 2, dtype)
    return _solved(module, x.to(dtype).view(n, *SHAPE), ("linf", "l2", "l1", "l0"))


def _fill(module: nn.Module, seed: int, name: str) -> nn.Module:
    """Give every parameter of a module fixed numbers of the usual size 1 / sqrt(fan in)."""
    with torch.no_grad():
        for key, tensor in module.named_parameters():
            fan_in = max(tensor[0].numel(), 1)
            tensor.copy_(_numbers(seed, f"{name}/{key}", *tensor.shape) / fan_in**0.5)
    return module.eval()


def _labelled(module: nn.Module, x: Tensor) -> Problem:
    with torch.no_grad():
        return Problem(module, x, module(x).argmax(1))


def _balance(layer: nn.Linear, module: nn.Module, middle: Tensor) -> None:
    """Shift the last bias so that the middle of the box lies on all decision boundaries."""
    with torch.no_grad():
        layer.bias.sub_(module(middle)[0])


def smooth_cnn(dtype: torch.dtype = torch.float32, n: int = 8, seed: int = 0) -> Problem:
    """A small convolutional network without kinks, four classes, inputs (2, 6, 6); its radii are not known."""
    head = _layer(nn.Linear, 72, 4)
    module = nn.Sequential(
        _layer(nn.Conv2d, 2, 6, 3, padding=1),
        nn.Tanh(),
        _layer(nn.Conv2d, 6, 8, 3, stride=2, padding=1),
        nn.Softplus(),
        nn.Flatten(),
        head,
    ).to(torch.float64)
    _fill(module, seed, "cnn")
    _balance(head, module, torch.full((1, 2, 6, 6), 0.5, dtype=torch.float64))
    return _labelled(module.to(dtype), _samples(seed, n, 2, 6, 6).to(dtype))


def normalised_cnn(dtype: torch.dtype = torch.float32, n: int = 8, seed: int = 0) -> Problem:
    """A small network with batch norm and dropout, in evaluation mode: what training mode would change shows."""
    batch_norm = nn.BatchNorm2d(6)
    module = nn.Sequential(
        _layer(nn.Conv2d, 2, 6, 3, padding=1),
        batch_norm,
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        _layer(nn.Linear, 216, 4),
    )
    _fill(module, seed, "norm")
    with torch.no_grad():
        batch_norm.weight.abs_().add_(0.5)
        batch_norm.running_mean = _numbers(seed, "norm/mean", 6).float() / 10
        batch_norm.running_var = _numbers(seed, "norm/var", 6).float().abs() + 0.5
    return _labelled(module.to(dtype), _samples(seed, n, 2, 6, 6).to(dtype))


def small_relu(dtype: torch.dtype = torch.float32, n: int = 8, seed: int = 0) -> Problem:
    """A network of 14 ReLUs, four classes, inputs (2, 6, 6): small enough for methods that look at every sign."""
    head = _layer(nn.Linear, 6, 4)
    module = nn.Sequential(
        _layer(nn.Conv2d, 2, 2, 3, stride=3),
        nn.ReLU(),
        nn.Flatten(),
        _layer(nn.Linear, 8, 6),
        nn.ReLU(),
        head,
    ).to(torch.float64)
    _fill(module, seed, "small")
    _balance(head, module, torch.full((1, 2, 6, 6), 0.5, dtype=torch.float64))
    return _labelled(module.to(dtype), _samples(seed, n, 2, 6, 6).to(dtype))


class Staircase(nn.Module):
    """A linear model of inputs rounded to quarters: its outputs change, its gradients are zero everywhere."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of inputs (B, *S)."""
        return self.linear((x * 4).round() / 4)


class Constant(nn.Module):
    """The same logits for every input: no attack can succeed, and no gradient exists."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) that do not depend on x (B, *S)."""
        return self.logits.expand(len(x), -1)


def flat_gradients(dtype: torch.dtype = torch.float32, n: int = 8, seed: int = 0) -> Problem:
    """A staircase: the gradient is exactly zero at every point, though adversarial points exist."""
    weight = _numbers(seed, "flat/weight", 4, 48)
    module = Staircase(_linear(weight, -weight.sum(1) / 2, dtype)).eval()
    return _labelled(module, _samples(seed, n, *SHAPE).to(dtype))


def faint_gradients(dtype: torch.dtype = torch.float32, n: int = 8, seed: int = 0) -> Problem:
    """A linear model whose gradients are so small that their squares underflow."""
    weight = _numbers(seed, "faint/weight", 4, 48) * torch.finfo(dtype).tiny ** 0.75
    return _labelled(_linear(weight, torch.zeros(4, dtype=torch.float64), dtype), _samples(seed, n, *SHAPE).to(dtype))


def constant(dtype: torch.dtype = torch.float32, n: int = 8, seed: int = 0) -> Problem:
    """The same logits for every input; every radius is infinite."""
    module = Constant(torch.tensor([0.5, -0.25, 0.125, 0.0], dtype=dtype)).eval()
    infinite = torch.full((n,), torch.inf, dtype=torch.float64)
    x = _samples(seed, n, *SHAPE).to(dtype)
    norms: tuple[Norm, ...] = ("linf", "l2", "l1", "l0")
    return Problem(module, x, torch.zeros(n, dtype=torch.int64), dict.fromkeys(norms, infinite))
