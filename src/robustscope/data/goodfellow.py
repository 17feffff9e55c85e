"""Networks that hide their gradients, with known radii: what fools every estimate that is made from sampled gradients.

The three constructions of Goodfellow 2018: inputs rounded down to stairs, probabilities of a saturated softmax, and a
needle that sampling does not find. Each tells its exact radius, so that an estimate can be held against it.

Source: Goodfellow 2018, "Gradient Masking Causes CLEVER to Overestimate Adversarial Perturbation Size", arXiv:1804.07870.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Norm
from robustscope.data.problems import Problem, linear_distance

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")


def length(norm: Norm, delta: Tensor) -> Tensor:
    """Return the length of each row of ``delta`` (..., d) in "linf", "l2" or "l1": (...)."""
    return torch.linalg.vector_norm(delta, {"linf": float("inf"), "l2": 2, "l1": 1}[norm], dim=-1)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise InvalidValue(f"{name}={value} was given", "a positive number is allowed", f"Correct {name}.")


class Stairs(nn.Module):
    """Inputs rounded down to multiples of 1 / stairs, before a network; gradients are zero wherever they exist."""

    def __init__(self, network: nn.Module, stairs: int) -> None:
        super().__init__()
        self.network, self.stairs = network, stairs
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's logits (B, K) of floor(stairs * x) / stairs."""
        return self.network((x * self.stairs).floor() / self.stairs)


def staircase(stairs: int = 256, n: int = 8, classes: int = 4, dtype: torch.dtype = torch.float64) -> Problem:
    """Return a network whose logits are its inputs rounded down: the class is the input on the highest stair.

    Sample i has ``classes`` input values; class j takes over from class y as soon as value j stands on a higher stair than
    value y, or on the same one where j < y. Each pair is a choice of the stair on which they pass each other: value j
    climbs to it and value y drops below it.

    Args:
        stairs: number of stairs between 0 and 1, >= 2; 256 is what 8-bit images do.
        n: number of samples.
        classes: number of classes and of input values, >= 2.
        dtype: of the samples.

    Returns:
        The problem; radii of all three norms are exact up to one unit of rounding, as infima: dropping below a stair means
        any point beneath it.

    Raises:
        InvalidValue: for fewer than two stairs or classes.

    Example:
        >>> problem = staircase(stairs=4, n=2)
        >>> bool((problem.module(problem.x).argmax(1) == problem.y).all())
        True
    """
    if stairs < 2 or classes < 2:
        raise InvalidValue(
            f"stairs={stairs} and classes={classes} were given", "two or more of each are allowed", "Raise them."
        )
    like = torch.empty(n, classes, dtype=dtype)
    lead = nn.functional.one_hot(torch.arange(n) % classes, classes).to(dtype)  # values of two classes never tie
    x = Draws(0, tuple(range(n)), "goodfellow").uniform("stairs", like, 0.0, 0.4) + 0.59 * lead
    module = Stairs(nn.Identity(), stairs)
    y = module(x).argmax(1)
    edges = torch.arange(stairs + 1, dtype=torch.float64) / stairs
    own = x.double().gather(1, y[:, None])[:, :, None]  # (n, 1, 1)
    other = x.double()[:, :, None]  # (n, classes, 1)
    # Value y drops below edge s; value j climbs to s if it loses ties, or to the stair below if it wins them.
    wins = (torch.arange(classes)[None] < y[:, None])[:, :, None]
    climb = (torch.where(wins, edges - 1 / stairs, edges) - other).clamp(min=0)
    drop = (own - edges).clamp(min=0).expand_as(climb)
    radius: dict[Norm, Tensor] = {}
    # Value j needs a stair that exists, and nothing is below the lowest.
    possible = (edges > 0).expand_as(climb)
    for norm in NORMS:
        cost = length(norm, torch.stack([climb, drop], -1)).masked_fill(~possible, torch.inf).amin(2)
        radius[norm] = cost.scatter(1, y[:, None], torch.inf).amin(1)
    return Problem(module, x, y, radius)


class Probabilities(nn.Module):
    """The probabilities of a network at a temperature: same decisions, gradients that vanish where it is confident."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return softmax(logits / temperature): (B, K)."""
        return (self.network(x) / self.temperature).softmax(1)


def saturated(temperature: float = 1e-3, n: int = 8, classes: int = 4, dtype: torch.dtype = torch.float64) -> Problem:
    """Return a linear network that answers with saturated probabilities; ``module.network`` answers with logits.

    The temperature changes no decision and no radius.

    Args:
        temperature: what the logits are divided by; small ones saturate.
        n: number of samples.
        classes: number of classes, >= 2.
        dtype: of weights and samples.

    Returns:
        The problem, with exact radii of all three norms inside the bounds.

    Raises:
        InvalidValue: for a temperature that is not positive.
    """
    _positive(temperature=temperature)
    values, source = 48, Draws(0, (0,), "goodfellow")
    weight = source.normal("weight", torch.empty(1, classes, values, dtype=torch.float64))[0]
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(values, classes, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(-weight.sum(1) / 2)
    noise = Draws(0, tuple(range(n)), "goodfellow").uniform("x", torch.empty(n, values, dtype=torch.float64))
    x = (0.5 + 0.05 * noise).to(dtype)
    y = layer(x).argmax(1).detach()
    parts = layer.weight.detach(), layer.bias.detach()
    return Problem(
        Probabilities(layer, temperature), x, y, {norm: linear_distance(norm, *parts, x, y) for norm in NORMS}
    )


class Needle(nn.Module):
    """Two classes: the first wins everywhere but near one point, by a constant margin that falls to it as a cone."""

    def __init__(self, norm: Norm, point: Tensor, margin: float, depth: float, width: float) -> None:
        super().__init__()
        self.norm: Norm = norm
        self.margin, self.depth, self.width = margin, depth, width
        self.point = nn.Parameter(point, requires_grad=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 2): half the margin for the first class, minus that for the second."""
        near = (1 - length(self.norm, (x - self.point).flatten(1)) / self.width).clamp(min=0)
        half = (self.margin - self.depth * near) / 2
        return torch.stack([half, -half], 1)


def needle(
    norm: Norm = "l2",
    values: int = 20,
    distance: float = 0.3,
    width: float = 0.1,
    margin: float = 1.0,
    depth: float = 4.0,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    """Return a network that is constant but for a cone of ``width`` around one point, at ``distance`` of its only sample.

    A point uniform in a ball of radius R that holds the cone falls into it with probability (width / R)^values, so that N
    points miss it with (1 - (width / R)^values)^N, and the estimate is then R.

    Args:
        norm: of distance and cone, "linf", "l2" or "l1".
        values: number of input values d.
        distance: of the tip from the sample, width < distance <= 0.5 - width, so that the cone lies in the bounds.
        width: radius of the cone.
        margin: elsewhere, > 0.
        depth: by how much the margin falls at the tip, > margin.
        dtype: of the sample.

    Returns:
        The problem of one sample; its radius in ``norm`` is distance - width (1 - margin / depth).

    Raises:
        InvalidValue: for figures outside these ranges.

    Example:
        >>> round(float(needle().radius["l2"][0]), 3)
        0.225
    """
    _positive(distance=distance, width=width, margin=margin)
    if norm not in NORMS or values < 1 or not (margin < depth and width < distance <= 0.5 - width):
        raise InvalidValue(
            f"norm={norm!r}, values={values}, margin={margin}, depth={depth}, distance={distance}, width={width} were given",
            f"a norm of {NORMS}, margin < depth and width < distance <= 0.5 - width are allowed",
            "Correct the figures, e.g. distance=0.3, width=0.1, margin=1.0, depth=4.0.",
        )
    x = torch.full((1, values), 0.5, dtype=dtype)
    point = x[0].clone()
    point[0] += distance
    module = Needle(norm, point, margin, depth, width)
    radius = torch.tensor([distance - width * (1 - margin / depth)], dtype=torch.float64)
    return Problem(module, x, torch.zeros(1, dtype=torch.int64), {norm: radius})
