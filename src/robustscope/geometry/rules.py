"""The one rule for success: what counts as adversarial."""

from __future__ import annotations

from torch import Tensor


def is_adversarial(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """Tell for each row whether it is adversarial: bool (B,).

    Untargeted: ``argmax(logits) != y``. Targeted: ``argmax(logits) == targets``. Ties go to the lowest index,
    as ``argmax`` has it, here and everywhere else.
    """
    return is_adversarial_label(logits.argmax(1), y, targets)


def is_adversarial_label(predicted: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """Apply the rule of :func:`is_adversarial` to predicted classes (B,), for attacks that see nothing else."""
    return predicted != y if targets is None else predicted == targets
