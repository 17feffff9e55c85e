"""The judge: success is decided here, from the returned examples alone, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustscope.core.errors import ConstraintViolated
from robustscope.core.threats import RotationTranslation, Threat
from robustscope.core.types import AttackResult, Bounds
from robustscope.geometry import balls
from robustscope.geometry.losses import margin
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier
from robustscope.models.outputs import all_finite
from robustscope.models.randomness import random_state, same_random_state

TIE = 1e-5
"""Share of the largest logit by which the first two must differ, or the row is looked at alone though it is not fooled."""


@dataclass(frozen=True)
class Verdict:
    """What fresh forward passes say of each example; all tensors have shape (B,).

    Args:
        success: bool, adversarial by the rule of ``geometry.rules`` when the example goes through the model alone.
        distance: float64, from the clean input, in the norm of the threat model.
        prediction: int64, predicted class of the example.
        confidence: softmax probability of the prediction.
        margin: true logit minus the largest other; negative when misclassified.
        survives_8bit: bool, whether the example is still adversarial after rounding to 256 levels of the bounds;
            False where it is not adversarial to begin with.
        reverted: bool, adversarial in the batch in which the judge first saw it, and not so alone. No success, unless the
            model draws random numbers: then the second pass was another draw, which is told but does not decide.
    """

    success: Tensor
    distance: Tensor
    prediction: Tensor
    confidence: Tensor
    margin: Tensor
    survives_8bit: Tensor
    reverted: Tensor

    @property
    def survives_alone(self) -> Tensor:
        """Whether an example holds at batch size 1: bool (B,), False where it is not adversarial to begin with."""
        return self.success & ~self.reverted


def verify(
    model: Classifier, x: Tensor, y: Tensor, threat: Threat, result: AttackResult, targets: Tensor | None = None
) -> Verdict:
    """Recompute prediction, distance and membership of every returned example.

    Floats depend on the batch: libraries choose other kernels for other sizes. What fools the model in one batch and not
    alone would be of no use to whoever is handed this one example. So every example that is adversarial in the batch,
    or whose first two logits tie to within :data:`TIE`, is judged once more at batch size 1, and that verdict counts:
    it is the same however the samples are cut into batches.

    The rows spent here, at most three forward for each example, are not the attack's: they are not in ``result`` but
    pass the model's ledger.

    Args:
        model: the classifier.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: the threat set; of transformations, the examples are made anew from the parameters in ``result``.
        result: what the attack returned.
        targets: int64 (B,), classes that were to be reached, or None.

    Raises:
        ConstraintViolated: if an example has another form than ``x``, is not finite, or lies outside the threat set.
    """
    x_adv = result.x_adv
    check_form(x, x_adv)
    _check_parameters(x, threat, result.parameters)
    inside = balls.contains(threat, x, x_adv, result.parameters)
    distance = balls.distance(threat, x, x_adv, result.parameters)
    if not inside.all():
        outside = (~inside).nonzero()[:, 0]
        first = int(outside[0])
        raise ConstraintViolated(
            f"{len(outside)} of {len(x)} examples left the threat set; row {first} is at {threat.norm} distance "
            f"{distance[first].item():.9g}, values in [{x_adv[first].min().item():.9g}, {x_adv[first].max().item():.9g}]",
            f"distance <= {threat.radius(x)[first].item():.9g} inside bounds {tuple(threat.bounds)} is allowed",
            "This is a bug of the attack: project its result on the threat set.",
        )
    logits, reverted = _looked_at_twice(model, x_adv, y, targets)
    success = is_adversarial(logits, y, targets)
    probabilities = logits.softmax(1)
    prediction = logits.argmax(1)
    survives = torch.zeros_like(success)
    if success.any():
        rounded = round_to_8_bits(x_adv[success], threat.bounds)
        goals = None if targets is None else targets[success]
        survives[success] = is_adversarial(model.logits(rounded), y[success], goals)
    confidence = probabilities.gather(1, prediction[:, None])[:, 0]
    return Verdict(success, distance, prediction, confidence, margin(logits, y), survives, reverted)


def _looked_at_twice(model: Classifier, x_adv: Tensor, y: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the logits that decide, (B, K), and which examples fool the model in their batch and not alone, (B,)."""
    before = random_state()
    logits = model.logits(x_adv)
    random = not same_random_state(before, random_state())
    fooled = is_adversarial(logits, y, targets)
    if not random and min(len(x_adv), model.batch_size) == 1:
        return logits, torch.zeros_like(fooled)
    first, second = logits.topk(2, dim=1).values.unbind(1)
    rows = (fooled | (first - second <= TIE * logits.abs().amax(1))).nonzero()[:, 0]
    alone = logits.clone()
    for row in rows.tolist():
        alone[row] = model.logits(x_adv[row : row + 1])[0]
    reverted = fooled & ~is_adversarial(alone, y, targets)
    return logits if random else alone, reverted


def check_form(x: Tensor, x_adv: Tensor) -> None:
    """Refuse examples whose shape, dtype or device differs from the inputs', or that carry a graph or NaN.

    Raises:
        ConstraintViolated: saying what differs.
    """
    given = None
    if x_adv.shape != x.shape:
        given = f"examples of shape {tuple(x_adv.shape)} for inputs of shape {tuple(x.shape)}"
    elif x_adv.dtype != x.dtype or x_adv.device != x.device:
        given = f"examples of {x_adv.dtype} on {x_adv.device} for inputs of {x.dtype} on {x.device}"
    elif x_adv.requires_grad:
        given = "examples that carry a graph"
    elif not all_finite(x_adv):
        given = "examples with NaN or infinite values"
    if given:
        raise ConstraintViolated(
            f"the attack returned {given}", "the form of the inputs is allowed", "This is a bug of the attack."
        )


def _check_parameters(x: Tensor, threat: Threat, parameters: Tensor | None) -> None:
    """Refuse transformed examples that do not say how they were made."""
    if isinstance(threat, RotationTranslation) and (parameters is None or parameters.shape != (len(x), 3)):
        given = "no parameters" if parameters is None else f"parameters of shape {tuple(parameters.shape)}"
        raise ConstraintViolated(
            f"the attack returned {given} for {len(x)} transformed examples",
            f"parameters of shape ({len(x)}, 3) are allowed",
            "This is a bug of the attack: an example of this threat set is proved by its angle and its shift.",
        )


def round_to_8_bits(x: Tensor, bounds: Bounds) -> Tensor:
    """Return ``x`` rounded to the nearest of 256 equal levels of the bounds.

    Example:
        >>> round_to_8_bits(torch.tensor([0.0021]), Bounds(0.0, 1.0)) * 255
        tensor([1.])
    """
    width = bounds.upper - bounds.lower
    return ((x - bounds.lower) / width * 255).round() / 255 * width + bounds.lower
