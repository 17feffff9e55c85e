"""What minimum-norm attacks share: every query is counted, and the nearest adversarial example met is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import Objective, margin_loss, select_rows
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier, Scores

SAFE_UNITS = 16
"""Units in the last place of the largest logit that the sample has shown by which an example must win to count."""

CLEARLY = 1e-6
"""Share of the distance by which an example must be nearer to replace another."""

CLEARLY_ROUGH = 1e-5
"""The same where lengths are summed in single precision."""

ROUGHLY = 1e-3
"""More than the share by which a length summed in single precision is wrong."""


Way = tuple[Tensor, Tensor]
"""From the clean inputs to the points asked about, (b, *S), and its length (b,), where the attack knows both already."""


class Search:
    """The state of a search for the nearest adversarial example of each sample.

    All questions to the model pass here, so the counts are true and no adversarial example is lost: each point that
    the attack asks about is judged and measured, and replaces the sample's best if it is nearer.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, bounds, and the radius within which an example must lie in the end.
        targets: int64 (B,), classes to reach, or None.
        stop_at_epsilon: whether a sample is done with its first example inside the threat set.
        precise: measure distances in float64 whatever the dtype of ``x``; an attack that comes nearer in small steps all
            the time can do without. A sample that is done at epsilon is measured in any case.
    """

    def __init__(
        self,
        model: Classifier,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        targets: Tensor | None = None,
        stop_at_epsilon: bool = False,
        precise: bool = True,
    ) -> None:
        self.model, self.x, self.y, self.threat, self.targets = model, x, y, threat, targets
        self.x_adv = x.clone()
        self.distance = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
        self.forward, self.backward = (torch.zeros(len(x), dtype=torch.int64, device=x.device) for _ in range(2))
        radius = threat.radius(x).double() + balls.slack(threat, x)
        self._enough = radius if stop_at_epsilon else torch.zeros_like(radius)
        self._precise = precise or stop_at_epsilon
        self._largest = x.new_zeros(len(x))

    def rows(self) -> Tensor:
        """Return the samples that are still searched for: int64, positions in the batch."""
        return self.unfinished(torch.arange(len(self.x), device=self.x.device)).nonzero()[:, 0]

    def unfinished(self, rows: Tensor) -> Tensor:
        """Tell which of ``rows`` are still searched for: not adversarial as they are, nor near enough already."""
        return self._of(self.distance, rows) > self._of(self._enough, rows)

    def logits(self, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Ask for the logits of ``points``, one for each of ``rows``; return them and which points are adversarial."""
        logits = self.model.logits(points)
        self._count(rows, logits, 0)
        return logits, self._judge(rows, points, logits)

    def gradient(
        self, rows: Tensor, points: Tensor, loss: Objective, way: Way | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Ask for the loss of ``points`` and its gradients; return both and which points are adversarial."""
        y, targets = self._of(self.y, rows), None if self.targets is None else self._of(self.targets, rows)
        chosen = select_rows(loss, rows)

        def scores(logits: Tensor, part: Tensor) -> Tensor:
            return select_rows(chosen, part)(logits, y[part], None if targets is None else targets[part])

        return self.ascent(rows, points, scores, way)

    def ascent(
        self, rows: Tensor, points: Tensor, scores: Scores, way: Way | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Ask for one score of each of ``points`` and its gradients; return both and which are adversarial."""
        values, gradients, logits = self.model.gradient(scores, points)
        self._count(rows, logits, 1)
        return values, gradients, self._judge(rows, points, logits, way)

    def jacobian(self, rows: Tensor, points: Tensor, scores: Scores) -> tuple[Tensor, Tensor, Tensor]:
        """Ask for several scores of each of ``points`` and their gradients; return both and which are adversarial."""
        values, gradients, logits = self.model.jacobian(scores, points)
        self._count(rows, logits, values.shape[1])
        return values, gradients, self._judge(rows, points, logits)

    def _count(self, rows: Tensor, logits: Tensor, backward: int) -> None:
        """Count one question about each of ``rows``, and keep how large logits get."""
        largest = logits.abs().amax(1).to(self._largest.dtype)
        if len(rows) == len(self.x):  # rows are different samples in order: these are all
            self.forward += 1
            self.backward += backward
            self._largest = self._largest.maximum(largest)
            return
        self.forward[rows] += 1
        if backward:
            self.backward[rows] += backward
        self._largest[rows] = self._largest[rows].maximum(largest)

    def _of(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return ``values`` (B, ...) of the samples ``rows``, without a copy where these are all."""
        return values if len(rows) == len(self.x) else values[rows]

    def _judge(self, rows: Tensor, points: Tensor, logits: Tensor, way: Way | None = None) -> Tensor:
        y, targets = self._of(self.y, rows), None if self.targets is None else self._of(self.targets, rows)
        solved = is_adversarial(logits, y, targets)
        if not solved.any():
            return solved
        # An example that wins by rounding alone may lose in a batch of another size, so it must win by a little more. How
        # much rounding there is tell the sample's largest logits: those on the boundary may have cancelled to nothing.
        # A clean input that is misclassified needs no such care.
        size = self._of(self._largest, rows) * (SAFE_UNITS * torch.finfo(logits.dtype).eps)
        if way is None:
            delta = points - self._of(self.x, rows)
            rough = balls.length(self.threat.norm, delta)
        else:
            delta, rough = way
        solved &= (margin_loss(logits, y, targets) > size) | (rough == 0)
        if not self._precise:
            share = CLEARLY_ROUGH if rough.dtype == torch.float32 else CLEARLY
            nearer = (solved & (rough < self._of(self.distance, rows) * (1 - share))).nonzero()[:, 0]
            rows = rows[nearer]
            self.x_adv.index_copy_(0, rows, points.index_select(0, nearer))
            self.distance[rows] = rough[nearer].double()
            return solved
        # Summed in float64 only where the rough length leaves it open whether the point is nearer than the best so far.
        near = (solved & (rough < self._of(self.distance, rows) * (1 + ROUGHLY))).nonzero()[:, 0]
        if len(near):
            length, rows = balls.length(self.threat.norm, delta[near].double()), rows[near]
            # Iterates on one sphere are equally far but for rounding; which of them is kept must not hang on that.
            nearer = (length < self.distance[rows] * (1 - CLEARLY)).nonzero()[:, 0]
            rows = rows[nearer]
            self.x_adv.index_copy_(0, rows, points.index_select(0, near[nearer]))
            self.distance[rows] = length[nearer]
        return solved

    def state(self) -> dict[str, Tensor]:
        """Return what was found and spent so far, for :meth:`restore`."""
        found = {"x_adv": self.x_adv, "distance": self.distance, "largest": self._largest}
        return {**found, "forward": self.forward, "backward": self.backward}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take up what a search on the same samples had found."""
        self.x_adv, self.distance, self._largest = saved["x_adv"], saved["distance"], saved["largest"]
        self.forward, self.backward = saved["forward"], saved["backward"]

    def rivals(self, logits: Tensor, rows: Tensor, count: int) -> Tensor:
        """Return the ``count`` classes of largest logit besides the true one, largest first: int64 (b, <= count)."""
        others = logits.scatter(1, self.y[rows][:, None], -math.inf)
        return others.topk(min(count, logits.shape[1] - 1), dim=1).indices

    def result(self) -> AttackResult:
        """Return the nearest adversarial example of each sample, projected on the threat set where it lies outside.

        A sample for which none was found comes back as it is.
        """
        return AttackResult(brought_inside(self.threat, self.x, self.x_adv), self.forward, self.backward)


def brought_inside(threat: ThreatModel, x: Tensor, x_adv: Tensor) -> Tensor:
    """Return ``x_adv`` (B, *S) with the samples that lie outside the threat set projected on it."""
    outside = (~balls.contains(threat, x, x_adv)).nonzero()[:, 0]
    if not len(outside):
        return x_adv
    return x_adv.index_copy(0, outside, balls.project(threat.select(outside), x[outside], x_adv[outside]))


def columns(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) so that it broadcasts over (B, *S)."""
    return values.reshape(-1, *([1] * (like.dim() - 1)))


def along(way: Tensor, gradients: Tensor, size: float, out: Tensor | None = None) -> Tensor:
    """Return ``way`` moved by ``size`` along each gradient: (b, *S); not at all where the gradient is zero.

    Like a step along ``balls.steepest`` in l2, in one pass where the squares of a gradient neither under- nor overflow.
    With ``out=way`` the step is made in place, in a third of the time.
    """
    slope = torch.linalg.vector_norm(gradients.flatten(1), dim=1)
    finfo = torch.finfo(slope.dtype)
    low, high = finfo.tiny**0.25, finfo.max**0.25
    if not len(slope) or (slope.amin().item() > low and slope.amax().item() < high):
        return torch.addcmul(way, gradients, columns(size / slope, way), out=out)
    plain = (slope > low) & (slope < high)
    share = columns(torch.where(plain, size / slope, torch.zeros_like(slope)), way)
    moved = torch.addcmul(way, gradients, share, out=out)
    rows = (~plain).nonzero()[:, 0]
    moved[rows] += size * balls.steepest("l2", gradients[rows])
    return moved


def annealed(start: float, end: float, step: int, steps: int) -> float:
    """Return the value of a cosine schedule that falls from ``start`` at step 0 towards ``end`` at step ``steps``.

    Example:
        >>> [annealed(1.0, 0.0, step, 2) for step in (0, 1)]
        [1.0, 0.5]
    """
    return end + (start - end) * (1 + math.cos(math.pi * step / steps)) / 2
