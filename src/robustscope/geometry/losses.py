"""Attack objectives: per-sample functions of the logits that an attack ascends.

Every objective has the signature ``(logits (B, K), y (B,), targets (B,) | None) -> (B,)`` and grows as the
example gets more adversarial: away from ``y`` when ``targets`` is None, else towards ``targets``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscope.core.errors import InvalidValue, UnknownName, did_you_mean

LossName = Literal["cross_entropy", "margin", "probability_margin", "dlr"]
Objective = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _pick(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the true logit minus the largest other one, shape (B,).

    The true class is masked with -inf rather than with zero: masking with zero makes zero the "best other class"
    whenever all logits are negative, which is a known defect of popular implementations.

    Args:
        logits: (B, K), K >= 2.
        y: int64 (B,), true classes.

    Example:
        >>> margin(torch.tensor([[-3.0, -5.0]]), torch.tensor([0]))
        tensor([2.])
    """
    others = logits.scatter(1, y[:, None], float("-inf"))
    return _pick(logits, y) - others.amax(1)


def cross_entropy(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of the true class, or minus that of the target class; shape (B,).

    Source: Goodfellow, Shlens, Szegedy 2015, arXiv:1412.6572, Sec. 4.
    """
    if targets is None:
        return F.cross_entropy(logits, y, reduction="none")
    return -F.cross_entropy(logits, targets, reduction="none")


def margin_loss(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the largest other logit (or the target's) minus the true one; shape (B,).

    Positive exactly when the example is adversarial (has reached beyond the true class, for targeted attacks).

    Source: Carlini & Wagner 2017, arXiv:1608.04644, Sec. V, objective f6 without the clamp.
    """
    if targets is None:
        return -margin(logits, y)
    return _pick(logits, targets) - logits.scatter(1, targets[:, None], float("-inf")).amax(1)


def probability_margin(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the largest other softmax probability (or the target's) minus the true one; shape (B,), in [-1, 1].

    max_{i != y} p_i - p_y, or p_t - max_{i != t} p_i for targets. It has the sign of the margin of the logits and ignores
    shifts of them. Its gradient is largest where the two classes are close; where the model is sure to within rounding
    it vanishes, as that of the cross-entropy does.

    Source: Xie et al. 2024, arXiv:2411.15210, probability margin loss.
    """
    return margin_loss(logits.softmax(1), y, targets)


def dlr(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the difference-of-logits ratio; shape (B,). Invariant to shifting and scaling of the logits.

    Untargeted: -(Z_y - max_{i != y} Z_i) / (Z_(1) - Z_(3)); needs 3 classes.
    Targeted: -(Z_y - Z_t) / (Z_(1) - (Z_(3) + Z_(4)) / 2); needs 4 classes.

    Source: Croce & Hein 2020, arXiv:2003.01690, Eqs. 6 and 7.
    Departures: where the denominator is zero (all leading logits equal) the loss is the plain numerator, not infinity;
        the paper and the official code add 1e-12.
    """
    ordered = logits.sort(dim=1, descending=True).values
    if targets is None:
        scale = ordered[:, 0] - ordered[:, 2]
        numerator = -margin(logits, y)
    else:
        scale = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2
        numerator = _pick(logits, targets) - _pick(logits, y)
    return numerator / torch.where(scale > 0, scale, torch.ones_like(scale))


@dataclass(frozen=True)
class LossCard:
    """An objective with the number of classes it needs, untargeted and targeted."""

    function: Objective
    classes: int
    classes_targeted: int


LOSSES: dict[str, LossCard] = {
    "cross_entropy": LossCard(cross_entropy, 2, 2),
    "margin": LossCard(margin_loss, 2, 2),
    "probability_margin": LossCard(probability_margin, 2, 2),
    "dlr": LossCard(dlr, 3, 4),
}
assert set(LOSSES) == set(get_args(LossName))


def select_rows(loss: Objective, rows: Tensor) -> Objective:
    """Return the objective of the samples ``rows``: one that holds a value for each sample has a method ``select``."""
    select = getattr(loss, "select", None)
    return loss if select is None else select(rows)


def objective(name: str | Objective, classes: int, targeted: bool = False) -> Objective:
    """Return the objective ``name`` after checking that it is defined for so many classes.

    A function is returned as it is: from Python, any objective can be handed to an attack.

    Raises:
        UnknownName: for a name that is not in ``LOSSES``.
        InvalidValue: if the loss needs more classes than the model has.
    """
    if not isinstance(name, str):
        return name
    if name not in LOSSES:
        raise UnknownName(f"loss={name!r} was given", "", did_you_mean(name, LOSSES))
    card = LOSSES[name]
    needed = card.classes_targeted if targeted else card.classes
    if classes < needed:
        raise InvalidValue(
            f"the {'targeted ' if targeted else ''}loss {name!r} was asked for a model of {classes} classes",
            f"it is defined for {needed} classes or more",
            "Use loss='margin' or 'cross_entropy', which work for any number of classes from 2 up.",
        )
    return card.function
