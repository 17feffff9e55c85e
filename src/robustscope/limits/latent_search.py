"""The nearest code of the same class whose input is misclassified: projected gradient ascent in the latent space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import ModelError
from robustscope.geometry.losses import margin_loss
from robustscope.geometry.rules import is_adversarial
from robustscope.limits.cards import check_at_least, check_positive
from robustscope.limits.generators import Generator
from robustscope.models.classifier import Classifier


@dataclass(frozen=True)
class SearchPlan:
    """How long is searched; lengths are scaled, ||.||_2 / sqrt(latent), in which a typical code has length 1.

    Args:
        reach: largest length tried, > 0.
        repeats: runs for each sample, >= 1. Up to three quarters of them start at the centre, each towards another class,
            the likeliest first; the others at random, but the last at the centre, away from the true class.
        steps: gradient steps of each, >= 1.
        relative_step_size: length of a step as a fraction of the radius searched, > 0.
        halvings: of the way from the centre to each find, >= 0.
    """

    reach: float = 2.5
    repeats: int = 12
    steps: int = 50
    relative_step_size: float = 0.05
    halvings: int = 12

    def __post_init__(self) -> None:
        check_at_least(1, repeats=self.repeats, steps=self.steps)
        check_at_least(0, halvings=self.halvings)
        check_positive(reach=self.reach, relative_step_size=self.relative_step_size)


@dataclass(frozen=True)
class LatentSearch:
    """What the search found, one row for each sample.

    Args:
        radius: float64 (B,), scaled length of the shortest perturbation found; 0 where the centre itself is
            misclassified, ``inf`` where none was found. An upper bound on the least.
        codes: (B, latent), where it leads; the centre where none was found.
        change: float64 (B,), the same perturbation in the input space, ||.||_2 / sqrt(d), in the units of the inputs.
        forward: int64 (B,), rows that each sample sent forward through the model.
        backward: int64 (B,), rows that each sample sent backward.
    """

    radius: Tensor
    codes: Tensor
    change: Tensor
    forward: Tensor
    backward: Tensor


def scaled_length(codes: Tensor) -> Tensor:
    """Return ||.||_2 / sqrt(values) of each row: (B, *S) -> (B,)."""
    flat = codes.flatten(1)
    return torch.linalg.vector_norm(flat, dim=1) / flat.shape[1] ** 0.5


def search(
    model: Classifier, generator: Generator, centre: Tensor, y: Tensor, *, draws: Draws, plan: SearchPlan
) -> LatentSearch:
    """Look for the nearest code of the same class whose input is misclassified.

    Ascends the largest other logit (or that of one class) minus the true one, by steps of a fixed scaled length,
    projecting on the ball around the centre; a sample's run ends when it is misclassified, the way back to the centre
    is halved, and the next run searches inside the length found.

    Args:
        model: classifier of decoded inputs.
        generator: decodes the codes; its class for each sample is ``y``.
        centre: (B, latent).
        y: int64 (B,), true classes.
        draws: decide the random starts; the run is in the purpose.
        plan: lengths and counts.

    Raises:
        ModelError: if the generator's inputs do not depend on the codes through autograd.

    Source: Buzhinsky, Nerinovsky & Tripakis 2020, arXiv:2003.01993, Sec. 4, the search for minimal perturbations.

    Departures: the objective is the margin, not the cross-entropy, which vanishes where the model is sure; some runs go
        towards one class each, without which the nearest class is often missed; a find is pulled back by halving; a
        gradient of zero is no step instead of a division by zero.
    """
    forward, backward = (torch.zeros(len(y), dtype=torch.int64, device=y.device) for _ in range(2))
    logits = model.logits(generator.decode(centre, y).detach())
    start = is_adversarial(logits, y)
    others = logits.scatter(1, y[:, None], float("-inf"))
    likeliest = others.sort(dim=1, descending=True, stable=True).indices
    aimed = min(logits.shape[1] - 1, 3 * plan.repeats // 4)
    forward += 1
    radius = torch.where(start, 0.0, torch.inf).double()
    codes = centre.clone()
    rows = (~start).nonzero()[:, 0]
    for run in range(plan.repeats if len(rows) else 0):
        limit = radius[rows].clamp(max=plan.reach).to(centre.dtype)
        z = centre[rows].clone()
        targets = likeliest[rows, run] if run < aimed else None
        if aimed <= run < plan.repeats - 1:
            z += _inside(draws.select(rows), f"start/{run}", z) * limit[:, None]
        ball = Ball(centre[rows], limit, y[rows], targets)
        found, steps = _ascend(model, generator, ball, z, plan)
        forward[rows] += steps
        backward[rows] += steps
        hits = rows[found]
        shares = _halve(model, generator, centre[hits], z[found], y[hits], plan.halvings)
        forward[hits] += plan.halvings
        better = centre[hits] + shares[:, None] * (z[found] - centre[hits])
        length = scaled_length((better - centre[hits]).double())
        nearer = length < radius[hits]
        radius[hits[nearer]], codes[hits[nearer]] = length[nearer], better[nearer]
    change = scaled_length((generator.decode(codes, y) - generator.decode(centre, y)).detach().double())
    return LatentSearch(radius, codes, change, forward, backward)


def _inside(draws: Draws, purpose: str, like: Tensor) -> Tensor:
    """Return points uniform in the ball of scaled length 1: (B, latent)."""
    ray = draws.normal(purpose, like)
    share = draws.uniform(f"{purpose}/radius", like[:, :1], 0.0, 1.0) ** (1 / like.shape[1])
    return ray / scaled_length(ray).clamp(min=torch.finfo(ray.dtype).tiny)[:, None] * share


@dataclass(frozen=True)
class Ball:
    """Where a run may go, and what it is after.

    Args:
        centre: (B, latent).
        limit: (B,), scaled radius.
        y: int64 (B,), true classes.
        targets: int64 (B,), classes whose logits are raised; None raises the largest other one.
    """

    centre: Tensor
    limit: Tensor
    y: Tensor
    targets: Tensor | None

    def select(self, rows: Tensor) -> Ball:
        """Return the same of some samples."""
        targets = None if self.targets is None else self.targets[rows]
        return Ball(self.centre[rows], self.limit[rows], self.y[rows], targets)

    def score(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return what is ascended, for the logits (b, K) of the samples ``rows``: (b,)."""
        if self.targets is None:
            return margin_loss(logits, self.y[rows])
        reached, own = (logits.gather(1, classes[rows, None])[:, 0] for classes in (self.targets, self.y))
        return reached - own

    def project(self, z: Tensor) -> Tensor:
        """Return the nearest codes inside: (B, latent)."""
        delta = z - self.centre
        length = scaled_length(delta).clamp(min=torch.finfo(z.dtype).tiny)
        return self.centre + delta * (self.limit / length).clamp(max=1)[:, None]


def _ascend(model: Classifier, generator: Generator, ball: Ball, z: Tensor, plan: SearchPlan) -> tuple[Tensor, Tensor]:
    """Move the codes ``z`` (B, latent) in place until they are misclassified; return which are, and gradients spent."""
    found = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    spent = torch.zeros(len(z), dtype=torch.int64, device=z.device)
    left = torch.arange(len(z), device=z.device)
    for step in range(plan.steps + 1):
        here = ball.select(left)
        gradient, hit = _gradient(model, generator, here, z[left])
        spent[left] += 1
        found[left[hit]] = True
        left, here, gradient = left[~hit], here.select((~hit).nonzero()[:, 0]), gradient[~hit]
        if not len(left) or step == plan.steps:
            break
        size = scaled_length(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)
        z[left] = here.project(z[left] + (plan.relative_step_size * here.limit / size)[:, None] * gradient)
    return found, spent


def _gradient(model: Classifier, generator: Generator, ball: Ball, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of the score in the codes, (B, latent), and which are misclassified, bool (B,)."""
    with torch.enable_grad():
        leaf = z.detach().requires_grad_(True)
        x = generator.decode(leaf, ball.y)
    if not x.requires_grad:
        raise ModelError(
            "the generator's inputs do not depend on the codes through autograd",
            "a differentiable generator is allowed here",
            "Remove torch.no_grad, detach() or rounding from decode.",
        )
    _, slope, logits = model.gradient(ball.score, x.detach())
    (gradient,) = torch.autograd.grad(x, leaf, slope)
    return gradient, is_adversarial(logits, ball.y)


def _halve(model: Classifier, generator: Generator, centre: Tensor, z: Tensor, y: Tensor, halvings: int) -> Tensor:
    """Return how far along the way from centre to z an input is still misclassified: (B,), in (0, 1]."""
    low, high = torch.zeros(len(y), dtype=z.dtype, device=z.device), torch.ones(len(y), dtype=z.dtype, device=z.device)
    for _ in range(halvings if len(y) else 0):
        middle = (low + high) / 2
        x = generator.decode(centre + middle[:, None] * (z - centre), y).detach()
        hit = is_adversarial(model.logits(x), y)
        low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
    return high
