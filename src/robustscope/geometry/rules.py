"""The one rule for success: what counts as adversarial."""

from __future__ import annotations

from torch import Tensor


def is_adversarial(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """Tell for each row whether it is adversarial: bool (B,).

    Untargeted: ``argmax(logits) != y``. Targeted: ``argmax(logits) == targets``. Ties go to the lowest index,
    as ``argmax`` has it, here and everywhere else.
    """
    predicted = logits.argmax(1)
    return predicted != y if targets is None else predicted == targets
