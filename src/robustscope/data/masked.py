"""Networks that hide their gradients without being any harder to attack: what an evaluation must not be fooled by.

Each mask makes of a given network one that decides alike, or nearly so, and whose scores or gradients tell an attack
less than the truth, or something else. Beside it stands the network to attack instead: what fools that one fools the
masked one too, so the best attack known to work is known.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue, UnknownName, did_you_mean

Wrap = Callable[[nn.Module], nn.Module]
Scores = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Mask:
    """A way to hide the gradients of a network.

    Args:
        wrap: makes the masked network of a network that maps (B, *S) to logits (B, K).
        beside: makes the network to attack instead, with the same decisions or nearly, and gradients that tell them.
        exact: whether masked and unmasked network decide alike on every input, but for rounding.
        says: what is hidden, and how.
    """

    wrap: Wrap
    beside: Wrap
    exact: bool
    says: str


def masked(name: str, network: nn.Module) -> nn.Module:
    """Return the network behind the mask ``name``, one of ``MASKED``, in evaluation mode.

    Args:
        name: of the mask.
        network: maps (B, *S) to logits (B, K); it is not changed.

    Raises:
        UnknownName: for a name that is not in ``MASKED``.
        InvalidValue: for a mask of activations and a network without ``nn.ReLU``.

    Example:
        >>> network = nn.Linear(4, 3)
        >>> x = torch.rand(5, 4)
        >>> hidden = masked("zero_gradient", network)
        >>> bool((hidden(x) == network(x)).all())
        True
    """
    return _of(name).wrap(network).eval()


def unmasked(name: str, network: nn.Module) -> nn.Module:
    """Return the network to attack instead of ``masked(name, network)``, in evaluation mode.

    Args:
        name: of the mask.
        network: maps (B, *S) to logits (B, K); it is not changed.

    Raises:
        UnknownName: for a name that is not in ``MASKED``.
        InvalidValue: for a mask of activations and a network without ``nn.ReLU``.
    """
    return _of(name).beside(network).eval()


def _of(name: str) -> Mask:
    if name not in MASKED:
        raise UnknownName(f"the mask {name!r} is not known", "", did_you_mean(name, MASKED))
    return MASKED[name]


# Values of one thing, derivatives of another.


def _borrowed(value: Tensor, slope: Tensor) -> Tensor:
    """Return ``value`` exactly, with the derivatives of ``slope``; both of one shape."""
    return value.detach() + (slope - slope.detach())


class _Scored(nn.Module):
    """A network whose logits go through a function that keeps the largest one the largest."""

    def __init__(self, network: nn.Module, scores: Scores) -> None:
        super().__init__()
        self.network, self.scores = network, scores

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores (B, K) of inputs (B, *S)."""
        return self.scores(self.network(x))


class _Fed(nn.Module):
    """A network behind a function of its inputs, with the function's own derivative or that of the identity."""

    def __init__(self, network: nn.Module, function: Scores, identity: bool) -> None:
        super().__init__()
        self.network, self.function, self.identity = network, function, identity

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of inputs (B, *S)."""
        seen = self.function(x)
        return self.network(_borrowed(seen, x) if self.identity else seen)


class _Replaced(nn.Module):
    """A network that answers as it is, and whose derivatives are those of another function of the same inputs."""

    def __init__(self, network: nn.Module, slope: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.slope = network, slope

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of inputs (B, *S)."""
        with torch.no_grad():
            value = self.network(x)
        return _borrowed(value, self.slope(self.network, x))


class _Activation(nn.Module):
    """An activation made of a function, in place of a rectifier."""

    def __init__(self, function: Scores) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations, shaped as ``x``."""
        return self.function(x)


class _Noisy(nn.Module):
    """The mean of a network over fixed draws of the noise in its layers, with the derivatives of one other draw."""

    def __init__(self, network: nn.Module, verdict: range, gradient: range) -> None:
        super().__init__()
        self.verdict = nn.ModuleList(_noisy(network, k) for k in verdict)
        self.gradient = nn.ModuleList(_noisy(network, k) for k in gradient)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean logits (B, K) of inputs (B, *S)."""
        with torch.no_grad():
            value = torch.stack([each(x) for each in self.verdict]).mean(0)
        if not torch.is_grad_enabled():
            return value
        return _borrowed(value, torch.stack([each(x) for each in self.gradient]).mean(0))


def _activated(network: nn.Module, function: Scores) -> nn.Module:
    """Return a copy of the network with ``function`` in place of each of its rectifiers."""
    made = copy.deepcopy(network)
    found = [
        (parent, key) for parent in made.modules() for key, each in parent.named_children() if type(each) is nn.ReLU
    ]
    if not found:
        raise InvalidValue(
            "a network without torch.nn.ReLU modules was given",
            "a network whose activations are modules is allowed for this mask",
            "Write them as nn.ReLU() in the network, or choose a mask of the inputs or the outputs.",
        )
    for parent, key in found:
        setattr(parent, key, _Activation(function))
    return made


def _noisy(network: nn.Module, number: int) -> nn.Module:
    return _activated(network, lambda x: _with_noise(x, number))


def _with_noise(x: Tensor, number: int) -> Tensor:
    """Return rectified ``x`` plus noise of the draw ``number``, the same for every row and for every layer of a shape."""
    return x.relu() + NOISE * Draws(0, (number,), "masked").normal(f"{tuple(x.shape[1:])}", x[:1].detach())


NOISE = 0.3
"""Standard deviation of the noise on activations."""


# What is done to logits; all keep the order of the first.


def _tanh(z: Tensor) -> Tensor:
    first = z.topk(2, 1).values
    return torch.tanh(50 * (z - first.mean(1, keepdim=True)))


def _plateau(z: Tensor) -> Tensor:
    return -(z.amax(1, keepdim=True) - z).clamp(max=0.5)


def _rounded(z: Tensor) -> Tensor:
    return -(z.amax(1, keepdim=True) - z).ceil()


def _labels(z: Tensor) -> Tensor:
    chosen = torch.zeros_like(z).scatter(1, z.argmax(1, keepdim=True), 1.0)
    return _borrowed(10 * chosen, 0 * z)


# What is done to inputs.


def _stairs(x: Tensor) -> Tensor:
    return (x * 5).floor() / 5


def _cosines(size: int, like: Tensor) -> Tensor:
    """Return the matrix of the orthonormal discrete cosine transform, (size, size)."""
    k = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * (k[None] + 0.5) * k[:, None]) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis.to(like)


def _compressed(x: Tensor) -> Tensor:
    """Round the cosine transform of the last two dimensions to multiples of 0.3, as lossy compression does."""
    rows, columns = _cosines(x.shape[-2], x), _cosines(x.shape[-1], x)
    spectrum = rows @ x @ columns.T
    return rows.T @ ((spectrum / 0.3).round() * 0.3) @ columns


def _coarse(network: nn.Module, x: Tensor) -> Tensor:
    """The network, detached from all of the input but the mean of pairs of rows."""
    pairs = (x + x.roll(1, 2)) / 2
    return network(_borrowed(x, pairs))


# What is done to activations.


def _shattered(x: Tensor) -> Tensor:
    return x.clamp(0, 6) + 3 / 200 * (200 * x).sin()


def _steps(x: Tensor) -> Tensor:
    return (x.clamp(0, 6) * 10).floor() / 10


def _winners(x: Tensor) -> Tensor:
    """Keep the fifth of the activations of a sample that is largest, and set the others to zero."""
    flat = x.flatten(1)
    least = flat.topk(max(flat.shape[1] // 5, 1), 1).values[:, -1:]
    return torch.where(flat >= least, flat, torch.zeros_like(flat)).view_as(x)


def _scored(function: Scores, says: str) -> Mask:
    return Mask(lambda network: _Scored(network, function), _itself, True, says)


def _sloped(slope: Callable[[nn.Module, Tensor], Tensor], says: str) -> Mask:
    return Mask(lambda network: _Replaced(network, slope), _itself, True, says)


def _fed(function: Scores, says: str) -> Mask:
    return Mask(lambda n: _Fed(n, function, False), lambda n: _Fed(n, function, True), False, says)


def _itself(network: nn.Module) -> nn.Module:
    return network


def _tempered(temperature: float) -> Mask:
    return _scored(lambda z: z / temperature, f"logits divided by {temperature:g}")


MASKED: dict[str, Mask] = {
    "probabilities": _scored(lambda z: (100 * z).softmax(1), "softmax so sharp that float32 rounds it to 1 and 0"),
    "log_probabilities": _scored(
        lambda z: (20 * z).softmax(1).clamp(min=1e-6).log(), "logarithms of probabilities, none below 1e-6"
    ),
    "tanh": _scored(_tanh, "logits through tanh(50 z), saturated at 1 and -1"),
    "temperature_1e3": _tempered(1e3),
    "temperature_1e-3": _tempered(1e-3),
    "temperature_1e30": _tempered(1e30),
    "temperature_1e-30": _tempered(1e-30),
    "plateau": _scored(_plateau, "gaps to the largest logit cut at 0.5: dead units wherever the network is surer"),
    "rounded_logits": _scored(_rounded, "gaps to the largest logit rounded up to whole numbers"),
    "labels": _scored(_labels, "the predicted class and nothing else"),
    "zero_gradient": _sloped(lambda network, x: 0 * network(x), "a backward pass that returns zero"),
    "reversed_gradient": _sloped(lambda network, x: -network(x), "a backward pass of the wrong sign"),
    "decoy_gradient": _sloped(lambda network, x: network(x.flip(-1)), "the gradient of the mirrored picture"),
    "detached_branch": _sloped(_coarse, "no gradient but that by the means of pairs of rows"),
    "input_stairs": _fed(_stairs, "inputs rounded down to fifths"),
    "input_compression": _fed(_compressed, "inputs whose cosine transform is rounded"),
    "activation_steps": Mask(
        lambda n: _activated(n, _steps),
        lambda n: _activated(n, lambda x: _borrowed(_steps(x), x.clamp(0, 6))),
        False,
        "ReLU6 in steps of 0.1",
    ),
    "shattered_relu6": Mask(
        lambda n: _activated(n, _shattered),
        lambda n: _activated(n, lambda x: _borrowed(_shattered(x), x.clamp(0, 6))),
        False,
        "ReLU6 with a ripple of height 0.015 and slopes from -2 to 4",
    ),
    "winners": Mask(
        lambda n: _activated(n, _winners),
        lambda n: _activated(n, lambda x: _borrowed(_winners(x), x.relu())),
        False,
        "a fifth of the activations of each layer, the largest",
    ),
    "noisy_layers": Mask(
        lambda n: _Noisy(n, range(8), range(8, 9)),
        lambda n: _Noisy(n, range(8), range(8)),
        False,
        "the mean over eight draws of noise on activations, with the gradient of one other draw",
    ),
}
"""Name -> mask."""
