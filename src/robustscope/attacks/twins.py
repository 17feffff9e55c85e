"""Searching on a twin: the verdict is the original's, and what fools the twin alone is searched for once more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor

from robustscope.attacks.ascent import merge
from robustscope.attacks.verify import Verdict, verify
from robustscope.core.threats import Threat
from robustscope.core.types import AttackResult
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier
from robustscope.models.twin import Twin

Method = Callable[[Classifier, Tensor], AttackResult]
"""(model, rows (b,)) -> what an attack on these rows of the batch returns; the same numbers for the same rows."""


def search(
    method: Method, twin: Twin, model: Classifier, x: Tensor, y: Tensor, threat: Threat, targets: Tensor | None
) -> tuple[AttackResult, Verdict, Tensor]:
    """Run an attack on the twin and judge it on the original; attack the original where only the twin was fooled.

    An attack leaves a sample alone once it believes to have broken it. If that belief is wrong, the sample would pass
    for robust although it was never attacked to the end; so it is attacked again, from the beginning and with the same
    random numbers, as it would have been without a twin. Its rows of both searches count.

    Args:
        method: the attack.
        twin: what to search on.
        model: the original, which decides.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        targets: int64 (B,), classes to reach, or None.

    Returns:
        The result, the verdict, and which samples were attacked again: bool (B,).

    Raises:
        ConstraintViolated: if the attack left its threat set.
    """
    result = method(twin.classifier, torch.arange(len(x), device=x.device))
    verdict = verify(model, x, y, threat, result, targets)
    again = ~verdict.success
    if twin.kind == "off" or not again.any():
        return result, verdict, torch.zeros_like(again)
    left = again.nonzero()[:, 0]
    goals = None if targets is None else targets[left]
    again[left] = is_adversarial(twin.classifier.logits(result.x_adv[left]), y[left], goals)
    rows = again.nonzero()[:, 0]
    if not len(rows):
        return result, verdict, again
    second = method(model, rows)
    goals = None if targets is None else targets[rows]
    judged = verify(model, x[rows], y[rows], threat.select(rows), second, goals)
    for field in fields(Verdict):
        getattr(verdict, field.name)[rows] = getattr(judged, field.name)
    whole = merge(result, second, rows, torch.ones_like(rows, dtype=torch.bool))
    parameters, elsewhere = result.parameters, result.elsewhere
    if parameters is not None and second.parameters is not None:
        parameters = parameters.index_copy(0, rows, second.parameters)
    if elsewhere is not None and second.elsewhere is not None:
        elsewhere = elsewhere.index_add(0, rows, second.elsewhere)
    return replace(whole, parameters=parameters, elsewhere=elsewhere), verdict, again
