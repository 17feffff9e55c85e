"""The network that every tool of ``strength.py`` attacks: it sees each query, and keeps the nearest adversarial one.

Needs torch and numpy, and from robustscope only the file that builds a network from layer descriptions.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from robustscope.models.layers import build

ORDERS = {"linf": torch.inf, "l2": 2, "l1": 1, "l0": 0}
FIRST_RADIUS = {"linf": 0.05, "l2": 1.0, "l1": 10.0}
OUTSIDE = 1e-6
"""By how much a query may leave [0, 1] and still count as adversarial: rounding."""


class BudgetSpent(BaseException):
    """Every sample has spent its budget, or the time is up; no ``except Exception`` of a tool may swallow it."""


class Watched(nn.Module):
    """A network with its normalisation, that judges and counts the rows passing through.

    Of each sample it keeps the distance of the nearest misclassified query inside [0, 1] that was made while no more
    than ``budget`` rows, forward and backward together, had been spent on the sample.

    A batch as long as the samples under attack (see :meth:`only`) is taken in order. Of a shorter one, whose samples
    some tool has dropped, the rows are matched to the samples by the assignment that keeps their order at the least
    sum of squared l2 distances. Longer ones are matched row by row to the nearest clean image. A row is *sure* where
    it lies nearer to its sample than half the distance from there to any other, so that no other match is possible;
    the rows that were matched and are not sure are counted in ``unsure``. A wrong match invents nothing, for the point
    is an adversarial example of the sample that it is measured from; it only credits the wrong one.

    Args:
        job: layers, weights, mean, std, x (n, *S), y (n,), norm, budget, seconds.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__()
        self.network = build(job["layers"]).eval()
        self.network.load_state_dict(job["weights"])
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        self.mean, self.std = (torch.tensor(job[key] or [value]) for key, value in (("mean", 0.0), ("std", 1.0)))
        self.x, self.y, self.norm, self.budget = job["x"], job["y"], job["norm"], job["budget"]
        n = len(self.x)
        gaps = torch.cdist(self.x.flatten(1), self.x.flatten(1)).fill_diagonal_(torch.inf)
        self.half_gap = gaps.amin(1) / 2
        self.active = torch.arange(n)
        self.best = torch.full((n,), torch.inf, dtype=torch.float64)
        self.forwards, self.backwards = (torch.zeros(n, dtype=torch.int64) for _ in range(2))
        self.outside = self.unsure = self.matched = 0
        self.end = time.monotonic() + job["seconds"]
        self.late = False
        self.eval()

    @contextmanager
    def only(self, samples: Tensor) -> Generator[None]:
        """Expect queries of these samples (indices, rising) alone."""
        before, self.active = self.active, samples
        try:
            yield
        finally:
            self.active = before

    def forward(self, x: Tensor) -> Tensor:
        points = x.detach()
        ids = self._match(points)
        self.late |= time.monotonic() > self.end
        if self.late or bool((self.forwards + self.backwards >= self.budget).all()):
            raise BudgetSpent
        self.forwards.index_add_(0, ids, torch.ones_like(ids))
        shape = (1, -1, *([1] * (x.dim() - 2)))
        logits = self.network((x - self.mean.view(shape)) / self.std.view(shape))
        self._judge(points, ids, logits.detach())
        if logits.requires_grad:
            logits.register_hook(partial(self._passed, ids))
        return logits

    def _passed(self, ids: Tensor, gradient: Tensor) -> None:
        self.backwards.index_add_(0, ids, torch.ones_like(ids))

    def _judge(self, points: Tensor, ids: Tensor, logits: Tensor) -> None:
        wrong = logits.argmax(1) != self.y[ids]
        if not wrong.any():
            return
        points, ids = points[wrong], ids[wrong]
        flat = points.flatten(1)
        inside = (flat.amin(1) >= -OUTSIDE) & (flat.amax(1) <= 1 + OUTSIDE)
        self.outside += int((~inside).sum())
        away = torch.linalg.vector_norm((points.double() - self.x[ids].double()).flatten(1), ORDERS[self.norm], dim=1)
        counts = inside & ((self.forwards + self.backwards)[ids] <= self.budget)
        self.best.scatter_reduce_(0, ids[counts], away[counts], "amin")

    def _match(self, points: Tensor) -> Tensor:
        if len(points) == len(self.active):
            return self.active
        cost = torch.cdist(points.flatten(1), self.x[self.active].flatten(1))
        nearest = cost.argmin(1)
        if len(points) < len(self.active) and bool((nearest.diff() <= 0).any()):
            nearest = torch.from_numpy(in_order(cost.square().double().numpy()))
        ids = self.active[nearest]
        away = cost.gather(1, nearest[:, None])[:, 0]
        self.matched += len(points)
        self.unsure += int((away >= self.half_gap[ids]).sum())
        return ids


def in_order(cost: np.ndarray) -> np.ndarray:
    """Return for each row of ``cost`` (b, n), b <= n, a column, strictly rising, with the smallest sum.

    Example:
        >>> in_order(np.array([[1.0, 0.0, 9.0], [9.0, 0.0, 1.0]])).tolist()
        [1, 2]
    """
    b, n = cost.shape
    total = np.zeros(n + 1)  # least cost of the rows so far within the first j columns
    choices = np.zeros((b, n), dtype=np.int64)
    for i, row in enumerate(cost):
        here = total[:-1] + row
        lowest = np.minimum.accumulate(here)
        choices[i] = np.maximum.accumulate(np.where(here <= lowest, np.arange(n), 0))
        total = np.concatenate([[np.inf], lowest])
    found, last = np.empty(b, dtype=np.int64), n
    for i in range(b - 1, -1, -1):
        found[i] = last = choices[i, last - 1]
    return found


def smallest_radius(watched: Watched, attack: Callable[[Tensor, Tensor], Tensor], rounds: int = 40) -> None:
    """Search the smallest radius at which a fixed-radius attack succeeds, for each sample; the same for every tool.

    The radius begins at ``FIRST_RADIUS`` and is tripled until a first success; from then on it is the middle between
    the largest radius that failed and the distance of the nearest example returned, until those differ by 0.1 % or the
    budget is spent.

    Args:
        watched: the network.
        attack: (samples (b,), radii (b,)) -> examples (b, *S).
        rounds: most radii tried for a sample.
    """
    x, norm = watched.x, watched.norm
    low, high = torch.zeros(len(x), dtype=torch.float64), torch.full((len(x),), torch.inf, dtype=torch.float64)
    for _ in range(rounds):
        left = watched.forwards + watched.backwards < watched.budget
        rows = (left & (low < high * 0.999)).nonzero()[:, 0]
        if not len(rows):
            return
        ahead = torch.where(low > 0, low * 3, FIRST_RADIUS[norm])
        radii = torch.where(high.isinf(), ahead, (low + high) / 2)[rows]
        with watched.only(rows):
            found = attack(rows, radii.to(x.dtype)).detach()
            won = watched(found).argmax(1) != watched.y[rows]
        away = torch.linalg.vector_norm((found - x[rows]).flatten(1).double(), ORDERS[norm], dim=1)
        high[rows] = torch.where(won, away.minimum(radii).minimum(high[rows]), high[rows])
        low[rows] = torch.where(won, low[rows], radii)


def by_radius(
    watched: Watched, attack: Callable[[Tensor, Tensor, float], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return an attack of one radius for each sample, made of one with a single radius: (x, y, radius) -> x_adv."""

    def run(rows: Tensor, radii: Tensor) -> Tensor:
        found = watched.x[rows].clone()
        for radius in radii.unique():
            part = radii == radius
            with watched.only(rows[part]):
                found[part] = attack(watched.x[rows[part]], watched.y[rows[part]], float(radius)).detach()
        return found

    return run


def measure(job: dict[str, Any], attack: Callable[[Watched], Any]) -> dict[str, Any]:
    """Run an attack on the network of a job; return what was seen of each sample."""
    watched, error = Watched(job), ""
    began = time.perf_counter()
    try:
        attack(watched)
    except BudgetSpent:
        error = "time" if watched.late else ""
    except Exception as problem:  # recorded and printed; what was seen before it counts
        error = f"{type(problem).__name__}: {problem}"
    return {
        "distance": watched.best.numpy(),
        "forward": watched.forwards.numpy(),
        "backward": watched.backwards.numpy(),
        "seconds": time.perf_counter() - began,
        "outside": watched.outside,
        "matched": watched.matched,
        "unsure": watched.unsure,
        "error": error,
    }
