"""Slopes from scores: whether a model's gradients tell how its scores change, and what to follow where they do not."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.attacks.finite_differences import per_group
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls
from robustscope.models.classifier import Classifier

FADING = 0.75
"""Weight of the earlier estimates of a descent against the next one, unless another one is given."""

RIDGE = 0.3
"""Share of the mean square distance that is added where slopes are fitted, against scores that move in steps."""


def differences(
    model: Classifier, threat: ThreatModel, x: Tensor, draws: Draws, purpose: str, pairs: int, share: float
) -> tuple[Tensor, Tensor]:
    """Return how scores differ between Gaussian points on opposite sides of each sample.

    Args:
        model: classifier under attack; only its scores are used.
        threat: linf, l2 or l1; the points lie in its bounds, and not always inside its radius.
        x: (b, *S).
        draws: random numbers of these samples.
        purpose: of the random numbers.
        pairs: of points, for each sample.
        share: standard deviation of each value, as a share of the radius (l2: radius / sqrt(d), l1: radius / d).

    Returns:
        The distances between the points (b, P, d) and the differences of the logits (b, P, K).
    """
    flat, delta = x.flatten(1), moves(threat, x, draws, purpose, pairs, share)
    above = (flat[:, None] + delta).clamp_(*threat.bounds)
    below = (flat[:, None] - delta).clamp_(*threat.bounds)
    logits = model.logits(torch.cat([above, below], 1).view(-1, *x.shape[1:])).view(len(x), 2, pairs, -1)
    return above - below, logits[:, 0] - logits[:, 1]


def moves(threat: ThreatModel, x: Tensor, draws: Draws, purpose: str, count: int, share: float) -> Tensor:
    """Return Gaussian moves away from each sample, (b, ``count``, d), as large as :func:`differences` says."""
    size = x[0].numel()
    spread = share * threat.radius(x) / {"linf": 1.0, "l2": size**0.5, "l1": size}[threat.norm]
    return draws.normal(purpose, x.new_empty(len(x), count, size)) * spread[:, None, None]


def agreement(
    model: Classifier,
    threat: ThreatModel,
    x: Tensor,
    y: Tensor,
    targets: Tensor,
    draws: Draws,
    pairs: int = 16,
    share: float = 0.1,
) -> Tensor:
    """Return the correlation of true and predicted differences of Z_y - Z_t, over pairs of points: (B,), in [-1, 1].

    1 where the gradient at ``x`` tells how the scores change nearby, -1 where it tells the opposite; 0 where it tells
    nothing, or nothing changes. Costs 2 ``pairs`` + 1 rows forward and one backward for each of the targets.

    Args:
        model: classifier under attack.
        threat: linf, l2 or l1, radius, bounds.
        x: (B, *S).
        y: int64 (B,), true classes.
        targets: int64 (B, T), other classes.
        draws: random numbers of these samples.
        pairs: of points, for each sample.
        share: how far from ``x`` they are, see :func:`differences`.
    """
    parts = torch.arange(len(x), device=x.device).split(per_group(2 * pairs, x[0].numel())) if len(x) else ()
    found = [_agreement(model, threat.select(p), x[p], y[p], targets[p], draws.select(p), pairs, share) for p in parts]
    return torch.cat(found) if found else x.new_empty(0)


def _agreement(
    model: Classifier,
    threat: ThreatModel,
    x: Tensor,
    y: Tensor,
    targets: Tensor,
    draws: Draws,
    pairs: int,
    share: float,
) -> Tensor:
    apart, change = differences(model, threat, x, draws, "agreement", pairs, share)
    true = _gaps(change, y, targets)
    _, gradients, _ = model.jacobian(lambda z, rows: z.gather(1, y[rows, None]) - z.gather(1, targets[rows]), x)
    predicted = apart @ (gradients.flatten(2) / largest(gradients)[:, None]).transpose(1, 2)
    true, predicted = (values / largest(values)[:, None] for values in (true, predicted))
    length = (true.square().sum((1, 2)) * predicted.square().sum((1, 2))).sqrt()
    return (true * predicted).sum((1, 2)) / torch.where(length > 0, length, torch.ones_like(length))


def _gaps(logits: Tensor, y: Tensor, targets: Tensor) -> Tensor:
    """Return Z_y - Z_t: (b, P, K), (b,), (b, T) -> (b, P, T)."""
    pairs = logits.shape[1]
    own = logits.gather(2, y[:, None, None].expand(-1, pairs, 1))
    return own - logits.gather(2, targets[:, None].expand(-1, pairs, -1))


def slopes(apart: Tensor, gains: Tensor) -> Tensor:
    """Return the shortest slopes that explain the gains (b, P, T) over the distances (b, P, d): (b, T, d).

    Gains are brought to a size of one before they are fitted, with a ridge, so that neither their scale nor steps in
    the scores harm the fit.
    """
    scale = largest(gains)[:, None]
    products = apart @ apart.transpose(1, 2)
    ridge = RIDGE * products.diagonal(dim1=1, dim2=2).mean(1)
    ridge = torch.where(ridge > 0, ridge, torch.ones_like(ridge))[:, None, None]
    weights = torch.linalg.solve(products + ridge * torch.eye(apart.shape[1]).to(products), gains / scale)
    return weights.transpose(1, 2) @ apart * scale


def order_of(
    model: Classifier, threat: ThreatModel, x: Tensor, y: Tensor, others: Tensor, draws: Draws, pairs: int, share: float
) -> Tensor:
    """Return the classes ``others`` (B, T), the nearest first as estimated slopes have it: int64 (B, T).

    Costs 2 ``pairs`` + 1 rows forward; see :func:`differences` for ``pairs`` and ``share``.
    """
    parts = torch.arange(len(x), device=x.device).split(per_group(2 * pairs, x[0].numel()))
    found = []
    for p in parts:
        near, centre = threat.select(p), x[p]
        apart, change = differences(model, near, centre, draws.select(p), "order", pairs, share)
        falls = [
            ((centre - balls.furthest(near, centre, -slope)) * slope).flatten(1).sum(1)
            for slope in slopes(apart, _gaps(change, y[p], others[p])).view(len(p), -1, *x.shape[1:]).unbind(1)
        ]
        gap = _gaps(model.logits(centre)[:, None], y[p], others[p])[:, 0]
        found.append(others[p].gather(1, (gap - torch.stack(falls, 1)).argsort(dim=1, stable=True)))
    return torch.cat(found)


def largest(values: Tensor) -> Tensor:
    """Return the largest size of the values of each sample, or 1 if all are zero: (b, 1)."""
    size = values.flatten(1).abs().amax(1, keepdim=True)
    return torch.where(size > 0, size, torch.ones_like(size))


class Estimate:
    """Gradients of Z_t - Z_y from scores alone, as the fading sum of what random pairs of points tell at each iterate.

    Args:
        x: (B, *S), the samples of a descent, in its order.
        draws: their random numbers.
        pairs: of points, for each estimate.
        share: how far from the iterate they are, see :func:`differences`.
        fading: weight of the earlier estimates against the next one.
    """

    def __init__(self, x: Tensor, draws: Draws, pairs: int, share: float, fading: float = FADING) -> None:
        self.draws, self.pairs, self.share, self.weight = draws, pairs, share, fading
        self.fading = torch.zeros_like(x)

    @property
    def rows(self) -> int:
        """Rows sent forward by one estimate, without the iterate itself."""
        return 2 * self.pairs

    def at(
        self, model: Classifier, threat: ThreatModel, rows: Tensor, point: Tensor, y: Tensor, targets: Tensor, step: str
    ) -> tuple[Tensor, Tensor]:
        """Return the logits (b, K) and estimated gradients (b, *S) at the iterates ``point`` of the samples ``rows``.

        Args:
            model: classifier under attack.
            threat: of all samples.
            rows: (b,), samples that are still attacked.
            point: (b, *S), their iterates.
            y: int64 (B,), true classes.
            targets: int64 (B,), classes to go towards.
            step: purpose of the random numbers.
        """
        logits = model.logits(point)
        for part in torch.arange(len(rows), device=rows.device).split(per_group(self.rows, point[0].numel())):
            own = rows[part]
            draws, within = self.draws.select(own), threat.select(own)
            apart, change = differences(model, within, point[part], draws, step, self.pairs, self.share)
            gain = -_gaps(change, y[own], targets[own, None])
            now = balls.steepest("l2", slopes(apart, gain)[:, 0].view_as(point[part]))
            self.fading[own] = self.weight * self.fading[own] + (1 - self.weight) * now
        return logits, self.fading[rows]
