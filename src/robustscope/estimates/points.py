"""Points in a ball, in batches, and the largest value of a measurement over each batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel

BLOCK = 2**20
"""Numbers of one draw: a batch of points is drawn in blocks of at most so many, whatever is sent at once."""
HELD = 2**24
"""Numbers of all points that are held at once."""

Measure = Callable[[Tensor, Tensor], Tensor]


def batch_maxima(
    x: Tensor, threat: ThreatModel, draws: Draws, batches: int, points: int, measure: Measure
) -> tuple[Tensor, Tensor]:
    """Return the largest measurement over each batch of points of the ball, and the share of points that measure 0.

    Args:
        x: (B, *S), B >= 1, centres.
        threat: norm, finite radius, and bounds, to which the points are clipped.
        draws: random numbers of these samples.
        batches: number of batches N.
        points: number of points of each batch.
        measure: ``(points (m, *S), rows (m,)) -> (m, C)``; ``rows`` are the samples that the points belong to.

    Returns:
        Maxima, float64 (B, C, N), and shares, float64 (B, C).
    """
    values = max(x[0].numel(), 1)
    plan = list(_blocks(batches, points, max(1, BLOCK // values)))
    together = max(1, HELD // (values * plan[0][2]))
    maxima: list[Tensor] = []
    shares: list[Tensor] = []
    for rows in torch.arange(len(x), device=x.device).split(together):
        slab = max(1, together // len(rows))
        own, centre, part = draws.select(rows), x[rows], threat.select(rows)
        highest: Tensor | None = None
        zeros: Tensor | None = None
        for start in range(0, len(plan), slab):
            blocks = plan[start : start + slab]
            drawn = torch.cat([_draw(part, centre, own, f"batch/{b}/{first}", count) for b, first, count in blocks], 1)
            owners = rows.repeat_interleave(drawn.shape[1])
            found = measure(drawn.flatten(0, 1), owners).unflatten(0, drawn.shape[:2])  # (b, n, C)
            if highest is None or zeros is None:
                highest = found.new_full((len(rows), batches, found.shape[2]), -torch.inf)
                zeros = found.new_zeros(len(rows), found.shape[2])
            for (b, _, _), piece in zip(blocks, found.split([count for *_, count in blocks], 1), strict=True):
                highest[:, b] = torch.maximum(highest[:, b], piece.amax(1))
            zeros += (found == 0).sum(1)
        assert highest is not None
        assert zeros is not None
        maxima.append(highest.transpose(1, 2).double())
        shares.append(zeros.double() / (batches * points))
    return torch.cat(maxima), torch.cat(shares)


def _blocks(batches: int, points: int, most: int) -> Iterator[tuple[int, int, int]]:
    """Yield (batch, first point, number of points); they depend on the shape of one sample, never on the batch of samples."""
    for batch in range(batches):
        for first in range(0, points, most):
            yield batch, first, min(most, points - first)


def _draw(threat: ThreatModel, x: Tensor, draws: Draws, purpose: str, count: int) -> Tensor:
    """Return points uniform in the ball around each sample, clipped to the bounds: (B, count, *S).

    Clipping keeps a point in the ball, since the centre lies inside the bounds.
    """
    like = x.flatten(1)[:, None].expand(-1, count, -1)
    if threat.norm == "linf":
        unit = draws.uniform(purpose, like)
    else:
        single = like[:, :, :1]
        rest = draws.exponential(f"{purpose}/radius", single)
        if threat.norm == "l2":
            unit = draws.normal(purpose, like)
            unit /= (unit.square().sum(2, keepdim=True) + 2 * rest).sqrt()
        else:
            unit = draws.exponential(purpose, like)
            unit *= draws.uniform(f"{purpose}/sign", like).sign() / (unit.sum(2, keepdim=True) + rest)
    drawn = unit.mul_(threat.radius(x)[:, None, None]).add_(x.flatten(1)[:, None])
    return drawn.clamp_(*threat.bounds).view(len(x), count, *x.shape[1:])
