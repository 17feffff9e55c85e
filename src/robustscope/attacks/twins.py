"""Searching on a twin and in batches: the verdict is the original's, alone; what does not hold is searched for once more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

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


@dataclass
class Searched:
    """What a search found, and how often it had to be repeated.

    Args:
        result: examples and rows of all searches.
        verdict: on the original, one example at a time.
        fooled_twin: bool (B,), samples attacked again because their example fooled the twin alone.
        alone: int64 (B, 2), rows forward and backward of the searches at batch size 1; 0 where there was none.
    """

    result: AttackResult
    verdict: Verdict
    fooled_twin: Tensor
    alone: Tensor


def search(
    method: Method, twin: Twin, model: Classifier, x: Tensor, y: Tensor, threat: Threat, targets: Tensor | None
) -> Searched:
    """Run an attack on the twin and judge it on the original; attack again where its examples do not hold there.

    An attack leaves a sample alone once it believes to have broken it. If that belief is wrong, the sample would pass
    for robust although it was never attacked to the end. So it is attacked again, from the beginning and with the same
    random numbers: on the original in batches where the twin alone was fooled, as it would have been without a twin;
    and at batch size 1 where the example was adversarial in company of other rows only, so that this time the attack
    sees what the judge sees. The rows of all searches count.

    Args:
        method: the attack.
        twin: what to search on.
        model: the original, which decides.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        targets: int64 (B,), classes to reach, or None.

    Raises:
        ConstraintViolated: if the attack left its threat set.
    """
    result = method(twin.classifier, torch.arange(len(x), device=x.device))
    verdict = verify(model, x, y, threat, result, targets)
    found = Searched(result, verdict, torch.zeros_like(verdict.success), y.new_zeros(len(x), 2))

    def repeat(on: Classifier, rows: Tensor) -> None:
        second = method(on, rows)
        goals = None if targets is None else targets[rows]
        judged = verify(on, x[rows], y[rows], threat.select(rows), second, goals)
        for field in fields(Verdict):
            getattr(found.verdict, field.name)[rows] = getattr(judged, field.name)
        found.result = _joined(found.result, second, rows)

    left = (~verdict.success).nonzero()[:, 0]
    if twin.kind != "off" and len(left):
        goals = None if targets is None else targets[left]
        believed = is_adversarial(twin.classifier.logits(result.x_adv[left]), y[left], goals)
        found.fooled_twin[left] = believed
        if believed.any():
            repeat(model, left[believed])
    rows = (found.verdict.reverted & ~found.verdict.success).nonzero()[:, 0]
    if len(rows):
        before = found.result
        repeat(replace(model, batch_size=1), rows)
        spent = found.result.forward - before.forward, found.result.backward - before.backward
        found.alone = torch.stack(spent, 1)
    return found


def _joined(first: AttackResult, second: AttackResult, rows: Tensor) -> AttackResult:
    """Return the first result with the examples of a second search of ``rows`` in place of its own, all rows counted."""
    whole = merge(first, second, rows, torch.ones_like(rows, dtype=torch.bool))
    parameters, elsewhere = first.parameters, first.elsewhere
    if parameters is not None and second.parameters is not None:
        parameters = parameters.index_copy(0, rows, second.parameters)
    if elsewhere is not None and second.elsewhere is not None:
        elsewhere = elsewhere.index_add(0, rows, second.elsewhere)
    return replace(whole, parameters=parameters, elsewhere=elsewhere)
