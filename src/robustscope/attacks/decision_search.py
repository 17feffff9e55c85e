"""What decision-based attacks share: counted questions, starts far away, and the walk back to the boundary."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscope.attacks.search import brought_inside, columns
from robustscope.attacks.square_windows import plane
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.core.types import AttackResult, Norm, ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.rules import is_adversarial_label
from robustscope.models.classifier import Classifier

CLEARLY = 1e-6
"""Share of the distance by which an example must be nearer to replace another."""


OUTWARD = 1e-4
"""Share of its distance by which an example is moved off the boundary in the end."""


class DecisionSearch:
    """The state of a search for the nearest adversarial example of each sample, by predicted classes alone.

    All questions to the model pass here, so the counts are true. No sample is asked about more than ``queries`` times:
    whoever asks looks at :meth:`left` first.

    Args:
        model: classifier under attack; only ``model.decisions`` is used.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, bounds, and the radius within which an example must lie in the end.
        targets: int64 (B,), classes to reach, or None.
        queries: rows that each sample may send.
        stop_at_epsilon: whether a sample is done with its first example inside the threat set.
    """

    def __init__(
        self,
        model: Classifier,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        targets: Tensor | None,
        queries: int,
        stop_at_epsilon: bool,
    ) -> None:
        self.model, self.x, self.y, self.threat, self.targets = model, x, y, threat, targets
        self.x_adv, self.queries = x.clone(), queries
        self.distance = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
        self.forward = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        radius = threat.radius(x).double() + balls.slack(threat, x)
        self._enough = radius if stop_at_epsilon else torch.zeros_like(radius)

    def left(self, rows: Tensor) -> Tensor:
        """Return how many queries each of ``rows`` has left: int64 (b,)."""
        return self.queries - self.forward[rows]

    def unfinished(self, rows: Tensor) -> Tensor:
        """Tell which of ``rows`` are still searched for: queries left, and no example that is near enough."""
        return (self.left(rows) > 0) & (self.distance[rows] > self._enough[rows])

    def decide(self, rows: Tensor, points: Tensor) -> Tensor:
        """Ask about ``points`` (n, *S), one for each of ``rows``, which may repeat; tell which are adversarial."""
        predicted = self.model.decisions(points)
        self.forward += torch.bincount(rows, minlength=len(self.x))
        return is_adversarial_label(predicted, self.y[rows], None if self.targets is None else self.targets[rows])

    def ask(self, rows: Tensor, points: Tensor) -> Tensor:
        """Ask as :meth:`decide` about different ``rows``, and keep what is adversarial and nearer than before."""
        solved = self.decide(rows, points)
        if solved.any():
            length = balls.distance(self.threat.norm, self.x[rows], points)
            nearer = solved & (length < self.distance[rows] * (1 - CLEARLY))
            self.x_adv[rows[nearer]] = points[nearer]
            self.distance[rows[nearer]] = length[nearer]
        return solved

    def move_off(self) -> None:
        """Ask about each example a little further out, with a query that is left, and return that one instead.

        A bisection ends so near the boundary that rounding decides, which differs between batches of other sizes; and
        decisions do not tell by how much an example wins. What lies within the radius stays within it.
        """
        rows = ((self.left(torch.arange(len(self.x), device=self.x.device)) > 0) & (self.distance > 0)).nonzero()[:, 0]
        rows = rows[self.distance[rows].isfinite()]
        if not len(rows):
            return
        clean, near = self.x[rows], self.x_adv[rows]
        points = torch.add(near, near - clean, alpha=OUTWARD).clamp_(*self.threat.bounds)
        inside = balls.contains(self.threat, self.x, self.x_adv)[rows]
        still = balls.contains(self.threat.select(rows), clean, points)
        kept = (self.decide(rows, points) & (still | ~inside)).nonzero()[:, 0]
        self.x_adv[rows[kept]] = points[kept]
        self.distance[rows[kept]] = balls.distance(self.threat.norm, clean[kept], points[kept])

    def result(self) -> AttackResult:
        """Return the nearest adversarial example of each sample, projected on the threat set where it lies outside.

        A sample for which none was found comes back as it is.
        """
        found = brought_inside(self.threat, self.x, self.x_adv)
        return AttackResult(found, self.forward, torch.zeros_like(self.forward))


def check_starts(x: Tensor, starts: Tensor | None, threat: ThreatModel) -> None:
    """Refuse starting points that are no inputs like ``x``.

    Raises:
        InvalidType: if they are no tensor of the dtype of the inputs.
        InvalidValue: for another shape, or values outside the bounds.
    """
    if starts is None:
        return
    if not isinstance(starts, Tensor) or starts.dtype != x.dtype:
        given = starts.dtype if isinstance(starts, Tensor) else type(starts).__name__
        raise InvalidType(f"starts of type {given} were given", f"a tensor of {x.dtype} is allowed", "Convert them.")
    lower, upper = threat.bounds
    if starts.shape != x.shape or not bool(((starts >= lower) & (starts <= upper)).all()):
        raise InvalidValue(
            f"starts of shape {tuple(starts.shape)} were given for inputs of shape {tuple(x.shape)}",
            f"one point for each input, inside the bounds ({lower:g}, {upper:g}), is allowed",
            "Give e.g. other inputs that the model takes for other classes.",
        )


def find_starts(search: DecisionSearch, starts: Tensor | None, draws: Draws, tries: int) -> tuple[Tensor, Tensor]:
    """Look for an adversarial point of each sample, however far away.

    The first question is about the clean input, so that an input which is misclassified as it is costs one row. Then
    the given starting point is tried, then up to ``tries`` random pictures: grains of one value, of two by two, four by
    four and so on, by turns.

    Returns:
        The samples that go on (those with a start, not finished), int64 (b,), and their starts (b, *S).
    """
    x = search.x
    found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    far = x.clone()
    rows = torch.arange(len(x), device=x.device)
    if len(rows):
        search.ask(rows, x)
    for k in range(-1 if starts is not None else 0, tries):
        rows = (~found & search.unfinished(torch.arange(len(x), device=x.device))).nonzero()[:, 0]
        if not len(rows):
            break
        points = (
            starts[rows]
            if k < 0 and starts is not None
            else picture(x[rows], search.threat.bounds, draws.select(rows), k)
        )
        solved = search.ask(rows, points)
        far[rows[solved]] = points[solved]
        found[rows[solved]] = True
    rows = (found & search.unfinished(torch.arange(len(x), device=x.device))).nonzero()[:, 0]
    return rows, far[rows]


def picture(x: Tensor, bounds: tuple[float, float], draws: Draws, k: int) -> Tensor:
    """Return the k-th random picture of the shape of each of ``x`` (b, *S), uniform in the bounds, constant on grains."""
    channels, height, width = plane(x)
    sizes = range(max(max(height, width).bit_length() - 1, 1))
    grain = 2 ** sizes[k % len(sizes)]
    coarse = x.new_empty(len(x), channels, -(-height // grain), -(-width // grain))
    numbers = draws.uniform(f"start/{k}", coarse, *bounds)
    fine = F.interpolate(numbers, scale_factor=grain, mode="nearest") if grain > 1 else numbers
    return fine[..., :height, :width].reshape(x.shape).clamp(*bounds)


def between(norm: Norm, x: Tensor, far: Tensor, share: Tensor) -> Tensor:
    """Return the point at ``share`` (b,) of the way from ``x`` to ``far``: (b, *S).

    l2: on the straight line. linf: ``far`` clipped to the box of that share of its distance.
    """
    if norm == "linf":
        reach = share * (far - x).flatten(1).abs().amax(1)
        return torch.minimum(torch.maximum(far, x - columns(reach, x)), x + columns(reach, x))
    return x + columns(share, x) * (far - x)


def bisect(search: DecisionSearch, rows: Tensor, far: Tensor, tolerance: float) -> Tensor:
    """Return the last adversarial point on the way from each adversarial ``far`` (b, *S) towards the clean input.

    Halves the part of the way that holds the boundary until it is ``tolerance`` of the whole, or the queries are spent.
    """
    x = search.x[rows]
    low, high = x.new_zeros(len(rows)), x.new_ones(len(rows))
    point = far
    for _ in range(math.ceil(-math.log2(tolerance))):
        active = search.unfinished(rows).nonzero()[:, 0]
        if not len(active):
            break
        middle = (low[active] + high[active]) / 2
        asked = between(search.threat.norm, x[active], far[active], middle).clamp_(*search.threat.bounds)
        solved = search.ask(rows[active], asked)
        high[active] = torch.where(solved, middle, high[active])
        low[active] = torch.where(solved, low[active], middle)
        kept = active[solved]
        if len(kept):
            point = point.index_copy(0, kept, asked[solved])
    return point
