"""A search whose examples must win by a margin: the one that the user asks for, and always more than rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.attacks.search import Search, Way
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import margin_loss
from robustscope.models.classifier import Classifier

SURE_UNITS = 64
"""Units in the last place of the largest logit by which an example must win.

Attacks that settle on the decision boundary keep hundreds of points that win by rounding. On a float32 network whose
logits are small against the sums behind them, 4 of 64 such examples reverted at batch size 1 with 16 units, none with 64.
"""


class ConfidentSearch(Search):
    """A search that counts an example only if its margin loss reaches ``confidence``.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, bounds, radius.
        targets: int64 (B,), classes to reach, or None.
        confidence: margin in logits that an example must reach, >= 0. Clean inputs need it too; with 0 they count as soon
            as they are misclassified.

    Raises:
        InvalidValue: for a confidence that is negative or not finite.

    Source: Carlini & Wagner 2017, arXiv:1608.04644, Sec. V-A, the parameter kappa.
    """

    def __init__(
        self,
        model: Classifier,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        targets: Tensor | None = None,
        confidence: float = 0.0,
    ) -> None:
        if not 0 <= confidence < float("inf"):
            raise InvalidValue(
                f"confidence={confidence} was given", "a finite number >= 0 is allowed", "Correct confidence."
            )
        super().__init__(model, x, y, threat, targets)
        self.confidence = confidence

    def start(self) -> Tensor:
        """Look at the clean inputs, at one forward row each; return the rows that do not count as adversarial yet."""
        if len(self.x):
            rows = torch.arange(len(self.x), device=self.x.device)
            logits, _ = self.logits(rows, self.x)
            if not self.confidence:
                super()._judge(rows, self.x, logits)
        return self.rows()

    def _judge(self, rows: Tensor, points: Tensor, logits: Tensor, way: Way | None = None) -> Tensor:
        targets = None if self.targets is None else self.targets[rows]
        rounding = SURE_UNITS * torch.finfo(logits.dtype).eps * logits.abs().amax(1)
        won = margin_loss(logits, self.y[rows], targets) >= rounding.clamp(min=self.confidence)
        if won.any():
            won[won.clone()] = super()._judge(rows[won], points[won], logits[won])
        return won
