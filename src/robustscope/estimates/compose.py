"""The public door of the room: one estimate on one batch, arguments checked."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.core.threats import parse_threat
from robustscope.core.types import Estimate, ThreatModel
from robustscope.estimates.cards import ESTIMATES, EstimateCard
from robustscope.models.classifier import Classifier


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
    if not isinstance(model, Classifier):
        raise InvalidType(
            f"model of type {type(model).__name__} was given",
            "a Classifier is allowed",
            "Wrap the network: Classifier(module.eval()).",
        )
    parsed = parse_threat(threat, model.bounds) if isinstance(threat, str) else threat
    if not isinstance(parsed, ThreatModel):
        raise InvalidType(
            f"threat of type {type(parsed).__name__} was given",
            "the ball of a norm is allowed",
            "Write e.g. 'l2:2' or ThreatModel('l2', 2.0).",
        )
    if parsed.bounds != model.bounds:
        raise InvalidValue(
            f"the threat model has bounds {tuple(parsed.bounds)} and the classifier {tuple(model.bounds)}",
            "equal bounds are allowed",
            "Build both with the valid range of the inputs.",
        )
    card.check(parsed, targets)
    resolved = card.resolve(parameters)
    model.check_inputs(x, y)
    parsed.radius(x)
    _check_classes(model, x, y, targets)
    draws = (draws or Draws(seed, tuple(range(len(x))))).within(card.name)
    if len(draws.ids) != len(x):
        raise InvalidValue(
            f"draws of {len(draws.ids)} samples were given for {len(x)} inputs",
            "one sample id for each input is allowed",
            "Select the draws of these samples: draws.select(rows).",
        )
    return card.function(model, x, y, parsed, draws=draws, targets=targets, **resolved)


def _check_classes(model: Classifier, x: Tensor, y: Tensor, targets: Tensor | None) -> None:
    """Refuse labels and targets that are no classes of the model, and targets that are the true class."""
    if targets is not None:
        model.check_inputs(x, targets)
        if (targets == y).any():
            raise InvalidValue(
                "targets that equal the true class were given", "other classes are allowed", "Choose another target."
            )
    if not len(x):
        return
    known = model.classes(x)
    for name, classes in (("labels", y), *((("targets", targets),) if targets is not None else ())):
        low, high = int(classes.min()), int(classes.max())
        if low < 0 or high >= known:
            raise InvalidValue(
                f"{name} from {low} to {high} were given",
                f"0 to {known - 1} are allowed for a model of {known} classes",
                "Number the classes from 0 in the model's order.",
            )
