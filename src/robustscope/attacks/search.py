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
"""Units in the last place of the largest logit by which an example must win to count."""

CLEARLY = 1e-6
"""Share of the distance by which an example must be nearer to replace another."""

ROUGHLY = 1e-3
"""More than the share by which a length summed in single precision is wrong."""


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
    """

    def __init__(
        self,
        model: Classifier,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        targets: Tensor | None = None,
        stop_at_epsilon: bool = False,
    ) -> None:
        self.model, self.x, self.y, self.threat, self.targets = model, x, y, threat, targets
        self.x_adv = x.clone()
        self.distance = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
        self.forward, self.backward = (torch.zeros(len(x), dtype=torch.int64, device=x.device) for _ in range(2))
        radius = threat.radius(x).double() + balls.slack(threat, x)
        self._enough = radius if stop_at_epsilon else torch.zeros_like(radius)

    def rows(self) -> Tensor:
        """Return the samples that are still searched for: int64, positions in the batch."""
        return self.unfinished(torch.arange(len(self.x), device=self.x.device)).nonzero()[:, 0]

    def unfinished(self, rows: Tensor) -> Tensor:
        """Tell which of ``rows`` are still searched for: not adversarial as they are, nor near enough already."""
        return self.distance[rows] > self._enough[rows]

    def logits(self, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Ask for the logits of ``points``, one for each of ``rows``; return them and which points are adversarial."""
        logits = self.model.logits(points)
        self.forward[rows] += 1
        return logits, self._judge(rows, points, logits)

    def gradient(self, rows: Tensor, points: Tensor, loss: Objective) -> tuple[Tensor, Tensor, Tensor]:
        """Ask for the loss of ``points`` and its gradients; return both and which points are adversarial."""
        y, targets = self.y[rows], None if self.targets is None else self.targets[rows]
        chosen = select_rows(loss, rows)

        def scores(logits: Tensor, part: Tensor) -> Tensor:
            return select_rows(chosen, part)(logits, y[part], None if targets is None else targets[part])

        return self.ascent(rows, points, scores)

    def ascent(self, rows: Tensor, points: Tensor, scores: Scores) -> tuple[Tensor, Tensor, Tensor]:
        """Ask for one score of each of ``points`` and its gradients; return both and which are adversarial."""
        values, gradients, logits = self.model.gradient(scores, points)
        self.forward[rows] += 1
        self.backward[rows] += 1
        return values, gradients, self._judge(rows, points, logits)

    def jacobian(self, rows: Tensor, points: Tensor, scores: Scores) -> tuple[Tensor, Tensor, Tensor]:
        """Ask for several scores of each of ``points`` and their gradients; return both and which are adversarial."""
        values, gradients, logits = self.model.jacobian(scores, points)
        self.forward[rows] += 1
        self.backward[rows] += values.shape[1]
        return values, gradients, self._judge(rows, points, logits)

    def _judge(self, rows: Tensor, points: Tensor, logits: Tensor) -> Tensor:
        y, targets = self.y[rows], None if self.targets is None else self.targets[rows]
        solved = is_adversarial(logits, y, targets)
        if not solved.any():
            return solved
        # An example that wins by rounding alone may lose in a batch of another size, so it must win by a little more;
        # a clean input that is misclassified needs no such care.
        size = logits.abs().amax(1) * (SAFE_UNITS * torch.finfo(logits.dtype).eps)
        centre = self.x if len(rows) == len(self.x) else self.x[rows]
        delta = points - centre
        rough = balls.length(self.threat.norm, delta)
        solved &= (margin_loss(logits, y, targets) > size) | (rough == 0)
        # Summed in float64 only where the rough length leaves it open whether the point is nearer than the best so far.
        near = (solved & (rough < self.distance[rows] * (1 + ROUGHLY))).nonzero()[:, 0]
        if len(near):
            length, rows = balls.length(self.threat.norm, delta[near].double()), rows[near]
            # Iterates on one sphere are equally far but for rounding; which of them is kept must not hang on that.
            nearer = (length < self.distance[rows] * (1 - CLEARLY)).nonzero()[:, 0]
            rows = rows[nearer]
            self.x_adv[rows], self.distance[rows] = points[near[nearer]], length[nearer]
        return solved

    def state(self) -> dict[str, Tensor]:
        """Return what was found and spent so far, for :meth:`restore`."""
        return {"x_adv": self.x_adv, "distance": self.distance, "forward": self.forward, "backward": self.backward}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take up what a search on the same samples had found."""
        self.x_adv, self.distance = saved["x_adv"], saved["distance"]
        self.forward, self.backward = saved["forward"], saved["backward"]

    def rivals(self, logits: Tensor, rows: Tensor, count: int) -> Tensor:
        """Return the ``count`` classes of largest logit besides the true one, largest first: int64 (b, <= count)."""
        others = logits.scatter(1, self.y[rows][:, None], -math.inf)
        return others.topk(min(count, logits.shape[1] - 1), dim=1).indices

    def result(self) -> AttackResult:
        """Return the nearest adversarial example of each sample, projected on the threat set where it lies outside.

        A sample for which none was found comes back as it is.
        """
        inside = balls.contains(self.threat, self.x, self.x_adv).reshape(-1, *([1] * (self.x.dim() - 1)))
        x_adv = torch.where(inside, self.x_adv, balls.project(self.threat, self.x, self.x_adv))
        return AttackResult(x_adv, self.forward, self.backward)


def columns(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) so that it broadcasts over (B, *S)."""
    return values.reshape(-1, *([1] * (like.dim() - 1)))


def annealed(start: float, end: float, step: int, steps: int) -> float:
    """Return the value of a cosine schedule that falls from ``start`` at step 0 towards ``end`` at step ``steps``.

    Example:
        >>> [annealed(1.0, 0.0, step, 2) for step in (0, 1)]
        [1.0, 0.5]
    """
    return end + (start - end) * (1 + math.cos(math.pi * step / steps)) / 2
