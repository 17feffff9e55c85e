"""The public door of the room: one estimate on one batch, arguments checked."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Estimate, ThreatModel
from robustscope.estimates.cards import ESTIMATES, EstimateCard
from robustscope.models.classifier import Classifier
from robustscope.models.doors import check_draws, check_samples, check_subject


def estimate(
    name: str | EstimateCard,
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel | str,
    *,
    targets: Tensor | None = None,
    draws: Draws | None = None,
    seed: int = 0,
    **parameters: Any,
) -> Estimate:
    """Estimate the robust radius of each sample of a batch.

    Args:
        name: registered name, or a card.
        model: the classifier.
        x: (B, *S), inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, bounds and sampling radius, or a text such as "l2:2" in the bounds of the model.
        targets: int64 (B,), the class to reach; None takes the smallest estimate over the other classes.
        draws: random numbers; None numbers the samples 0 to B - 1 under ``seed``.
        seed: used when ``draws`` is None.
        **parameters: hyper-parameters, checked against the card.

    Returns:
        The estimates. They are no bounds; ``warnings`` says what makes each doubtful.

    Raises:
        InvalidValue, InvalidType, UnknownName: for arguments that the card does not allow.
        ModelError: if the model's outputs or derivatives cannot be used.

    Example:
        >>> import torch
        >>> model = Classifier(torch.nn.Linear(4, 3).eval())
        >>> found = estimate("clever", model, torch.rand(5, 4), torch.zeros(5, dtype=torch.int64), "l2:1", batches=5)
        >>> found.radius.shape
        torch.Size([5])
    """
    card = name if isinstance(name, EstimateCard) else ESTIMATES[name]
    parsed = check_subject(model, threat)
    card.check(parsed, targets)
    resolved = card.resolve(parameters)
    check_samples(model, x, y, parsed, targets)
    if targets is not None and bool((targets == y).any()):
        raise InvalidValue(
            "targets that equal the true class were given", "other classes are allowed", "Choose another target."
        )
    draws = check_draws(draws, seed, x, card.name)
    return card.function(model, x, y, parsed, draws=draws, targets=targets, **resolved)
