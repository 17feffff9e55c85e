"""A second set of networks that hide their gradients, kept apart: what was tuned on the first is tried on these.

Source: thermometer code: Buckman et al. 2018; winners: Xiao et al. 2020, arXiv:1905.10510; random resizing and padding: Xie et
al. 2018, arXiv:1711.01991; distillation: Papernot et al. 2016, arXiv:1511.04508; votes: Cohen et al. 2019, arXiv:1902.02918.
The constructions here are this project's; none is a reproduction.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.data.masked import Mask, Scores, _activated, _borrowed, _fed, _scored, _sloped

LEVELS = 16
"""Levels of the thermometer code."""
VIEWS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1))
"""Shifts of a picture, in pixels."""
COPIES, SPREAD = 16, 0.1
"""Noisy copies that vote, and the standard deviation of their noise."""


class _Views(nn.Module):
    """A network on shifted pictures: values of some views, with the derivatives of others."""

    def __init__(
        self, network: nn.Module, value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.network, self.value, self.slope = network, value, slope

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of inputs (B, *S)."""
        with torch.no_grad():
            value = self._mean(self.value(x))
        return _borrowed(value, self._mean(self.slope(x))) if torch.is_grad_enabled() else value

    def _mean(self, views: Tensor) -> Tensor:
        """Return the mean logits of views (V, B, *S)."""
        return torch.stack([self.network(view) for view in views]).mean(0)


def _shifted(x: Tensor, down: int, right: int) -> Tensor:
    """Return the picture moved by so many pixels, zeros moving in."""
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    return padded[..., 1 - down : padded.shape[-2] - 1 - down, 1 - right : padded.shape[-1] - 1 - right]


def _all(x: Tensor) -> Tensor:
    return torch.stack([_shifted(x, *view) for view in VIEWS])


def _one(x: Tensor) -> Tensor:
    """Return the view that the last digits of the picture's sum choose: random to the eye, and always the same."""
    which = (x.flatten(1).double().sum(1) * 1e4).long() % len(VIEWS)
    return _all(x)[which, torch.arange(len(x))][None]


def _row(x: Tensor) -> Tensor:
    """Return three views: the picture, and it moved to either side."""
    return torch.stack([_shifted(x, 0, right) for right in (-1, 0, 1)])


def _thermometer(x: Tensor) -> Tensor:
    return sum(((x >= (k + 0.5) / LEVELS).to(x) for k in range(LEVELS)), torch.zeros_like(x)) / LEVELS


def _steep(x: Tensor) -> Tensor:
    edges = [(k + 0.5) / LEVELS for k in range(LEVELS)]
    return sum((torch.sigmoid(400 * (x - edge)) for edge in edges), torch.zeros_like(x)) / LEVELS


def _tenth(x: Tensor) -> Tensor:
    """Keep the tenth of the activations of a sample that is largest, and set the others to zero."""
    flat = x.flatten(1)
    least = flat.topk(max(flat.shape[1] // 10, 1), 1).values[:, -1:]
    return torch.where(flat >= least, flat, torch.zeros_like(flat)).view_as(x)


def _scrambled(network: nn.Module, x: Tensor) -> Tensor:
    """The network with the sign of half of the pixels' derivatives turned, always the same half."""
    signs = Draws(0, (0,), "masked_more").normal("signs", x[:1].detach()).sign()
    return network(_borrowed(x, signs * x))


def _votes(network: nn.Module, x: Tensor) -> Tensor:
    """Return the shares of votes of copies with fixed noise on the input."""
    scores = _copies(network, x)
    chosen = torch.zeros_like(scores).scatter(2, scores.argmax(2, keepdim=True), 1.0).mean(0)
    return _borrowed(chosen, 0 * scores.mean(0))


def _copies(network: nn.Module, x: Tensor) -> Tensor:
    draws = Draws(0, (0,), "masked_more")
    noisy = [x + SPREAD * draws.normal(f"copy/{k}", x[:1].detach()) for k in range(COPIES)]
    return torch.stack([network(one) for one in noisy])


class _Through(nn.Module):
    """A network whose scores are made by a function of it and the inputs."""

    def __init__(self, network: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.function = network, function

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores (B, K) of inputs (B, *S)."""
        return self.function(self.network, x)


class _Before(nn.Module):
    """A linear layer behind a function of its inputs."""

    def __init__(self, layer: nn.Module, function: Scores) -> None:
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's outputs."""
        return self.layer(self.function(x))


def _before_the_last(network: nn.Module, function: Scores) -> nn.Module:
    """Return a copy of the network with a function before its last linear layer."""
    made = copy.deepcopy(network)
    found = [(p, key) for p in made.modules() for key, each in p.named_children() if isinstance(each, nn.Linear)]
    if not found:
        raise InvalidValue(
            "a network without torch.nn.Linear modules was given",
            "a network with a linear layer is allowed for this mask",
            "Choose a mask of the inputs or the outputs.",
        )
    parent, key = found[-1]
    setattr(parent, key, _Before(getattr(parent, key), function))
    return made


def _halves(x: Tensor) -> Tensor:
    return (2 * x).round() / 2


HELD_OUT: dict[str, Mask] = {
    "thermometer": _fed(_thermometer, "inputs in a thermometer code of 16 levels"),
    "steep_thermometer": _fed(_steep, "inputs in a thermometer code of sigmoids that are all but steps"),
    "eight_bits": _fed(lambda x: (255 * x).round() / 255, "inputs rounded to 8 bits"),
    "winners_tenth": Mask(
        lambda n: _activated(n, _tenth),
        lambda n: _activated(n, lambda x: _borrowed(_tenth(x), x.relu())),
        False,
        "a tenth of the activations of each layer, the largest",
    ),
    "rounded_features": Mask(
        lambda n: _before_the_last(n, _halves),
        lambda n: _before_the_last(n, lambda x: _borrowed(_halves(x), x)),
        False,
        "features before the last layer rounded to halves",
    ),
    "distilled": _scored(lambda z: (100 * z).softmax(1), "probabilities of logits a hundred times as large"),
    "scrambled_gradient": _sloped(_scrambled, "the sign of half of the pixels' gradient turned"),
    "fainter_gradient": _sloped(lambda n, x: 1e-6 * n(x), "a gradient a millionth of its size"),
    "keyed_view": Mask(
        lambda n: _Views(n, _one, lambda x: x[None]),
        lambda n: _Views(n, _all, _all),
        False,
        "shifted by a pixel or not as the picture's last digits say, with the gradient of the picture as it is",
    ),
    "detached_views": Mask(
        lambda n: _Views(n, _row, lambda x: _shifted(x, 0, 1)[None]),
        lambda n: _Views(n, _row, _row),
        False,
        "the mean of three views, two of them detached",
    ),
    "votes": Mask(
        lambda n: _Through(n, _votes),
        lambda n: _Through(n, lambda network, x: _copies(network, x).softmax(2).mean(0).log()),
        False,
        "shares of the votes of 16 copies with fixed noise on the input",
    ),
}
"""Name -> mask."""
