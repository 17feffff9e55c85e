"""Networks that may refuse to answer: a detector in front of the decision, as one more class."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from robustscope.core.errors import InvalidValue, ModelError
from robustscope.core.types import Ledger
from robustscope.models.classifier import Classifier
from robustscope.models.defended import replaced

Score = Callable[[Tensor, Tensor], Tensor]


class Rejecting(nn.Module):
    """A network with a detector: K + 1 outputs, of which the last wins exactly where the score exceeds the threshold.

    See :func:`rejecting`.
    """

    def __init__(self, door: Classifier, score: Score, threshold: float, scale: float) -> None:
        super().__init__()
        self._door, self.network = door, door.module
        self.mean, self.std, self.bounds = door.mean, door.std, tuple(door.bounds)
        self.score, self.threshold, self.scale = score, threshold, scale
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, K + 1): the logits, and the largest of them plus ``scale * (score - threshold)``."""
        logits = self._door._outputs(x)
        score = self.score(x, logits)
        if not isinstance(score, Tensor) or score.shape != x.shape[:1]:
            given = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ModelError(
                f"the detector returned {given} for inputs of shape {tuple(x.shape)}",
                f"one score for each input, shape ({len(x)},), is allowed",
                "Reduce over everything but the batch.",
            )
        top = logits.amax(1)
        excess = top + self.scale * (score.to(logits.dtype) - self.threshold)
        # Rounding must not let a rejected input pass, nor an accepted one be rejected; ties go to the lower index.
        above = torch.maximum(excess, torch.nextafter(top, torch.full_like(top, math.inf)))
        value = torch.where(score > self.threshold, above, torch.minimum(excess, top))
        return torch.cat([logits, replaced(value, excess)[:, None]], 1)


def rejecting(model: Classifier, score: Score, threshold: float, *, scale: float = 1.0) -> Classifier:
    """Return the classifier that answers "rejected", as class K, exactly where a detector's score exceeds a threshold.

    An example defeats it only if it is misclassified *and* accepted. That is the usual rule with a target: the
    prediction is a class that is neither the true one nor "rejected". Attack it with
    :func:`robustscope.attacks.adaptive.multi_targeted` and ``rejected=K``, which attacks towards those classes. A plain
    untargeted attack counts a rejection as a success: right where refusing to answer is an error too, wrong otherwise.

    Args:
        model: the network, K classes.
        score: ``(x (B, *S), logits (B, K)) -> (B,)``, large where the input looks adversarial; differentiable if a
            gradient attack is to see it. A module is allowed.
        threshold: inputs with a larger score are rejected; see :func:`threshold_at`.
        scale: logits for each unit of score, > 0; decides nothing but what a gradient attack sees.

    Raises:
        InvalidValue: for a threshold that is NaN, or a scale that is not above zero.

    Source: joint criterion of Carlini & Wagner 2017, arXiv:1705.07263, and Tramer et al. 2020, arXiv:2002.08347.
    """
    if math.isnan(threshold) or not 0 < scale < math.inf:
        raise InvalidValue(
            f"threshold={threshold} and scale={scale} were given",
            "a number, and a finite scale > 0, are allowed",
            "Take the threshold from the scores of clean data: threshold_at(scores, 0.05).",
        )
    names = None if model.class_names is None else (*model.class_names, "rejected")
    module = Rejecting(model, score, float(threshold), float(scale))
    return replace(model, module=module, mean=None, std=None, class_names=names, ledger=Ledger())


def scores_of(model: Classifier, score: Any, x: Tensor) -> Tensor:
    """Return the detector's scores of ``x`` (B, *S), without a graph: (B,)."""
    parts = x.split(model.batch_size)
    with torch.no_grad():
        return torch.cat([score(part, model.logits(part)) for part in parts]) if parts else x.new_empty(0)


def threshold_at(scores: Tensor, false_positive_rate: float) -> float:
    """Return the smallest threshold that at most this share of clean inputs exceeds.

    Args:
        scores: (N,), of clean inputs that are not those the attack is measured on.
        false_positive_rate: in [0, 1).

    Raises:
        InvalidValue: for no scores, or a rate outside [0, 1).

    Example:
        >>> threshold_at(torch.arange(100.0), 0.05)
        94.0
    """
    if not len(scores) or not 0 <= false_positive_rate < 1:
        raise InvalidValue(
            f"{len(scores)} scores and false_positive_rate={false_positive_rate} were given",
            "one score or more, and a rate in [0, 1), are allowed",
            "Write e.g. false_positive_rate=0.05.",
        )
    allowed = int(false_positive_rate * len(scores) + 1e-9)
    return float(scores.sort().values[len(scores) - 1 - allowed])
