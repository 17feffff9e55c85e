"""Checks of randomness: a result is a function of seed and sample id, and of nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.attacks.cards import AttackCard
from robustscope.contracts.trial import (
    MODERATE,
    aim,
    broken,
    call,
    difference,
    other_global_numbers,
    subject,
    take,
    threat_of,
)
from robustscope.core.types import AttackResult
from robustscope.data import problems
from robustscope.data.problems import Problem

TOLERANCE = 1e-9
"""Allowed gap in float64: another batch size may choose another kernel, whose sums round differently (about 1e-16)."""


def _radii(norm: str, count: int) -> tuple[float, ...]:
    """Return another radius for each sample, so that solved samples leave the batch at different times."""
    return tuple(MODERATE[norm] * (0.25 + 0.25 * (i % 5)) for i in range(count))


def _run(
    card: AttackCard, problem: Problem, norm: str, rows: Tensor, *, seed: int = 0, batch_size: int = 256
) -> AttackResult:
    """Attack some rows of a problem, each under its own id and radius."""
    threat = threat_of(norm, _radii(norm, len(problem.x))).select(rows)
    targets = aim(card, problem)
    return call(
        card,
        subject(problem, batch_size),
        problem.x[rows],
        problem.y[rows],
        threat,
        targets=None if targets is None else targets[rows],
        ids=(rows + 100).tolist(),
        seed=seed,
    )


def same_seed_same_result(card: AttackCard, norm: str) -> None:
    """The same seed gives the same bits whatever the global generators hold; another seed only matters if declared."""
    problem = problems.smooth_cnn(n=7)
    rows = torch.arange(7)
    with other_global_numbers(1):
        first = _run(card, problem, norm, rows)
    with other_global_numbers(2):
        second = _run(card, problem, norm, rows)
    seen = difference(first, second)
    if seen:
        raise broken(
            card,
            f"gave two results for one seed: {seen}",
            "the same bits",
            "Draw every random number from `draws`, and keep no state between calls.",
        )
    other = difference(first, _run(card, problem, norm, rows, seed=1))
    if card.stochastic and not other:
        raise broken(
            card,
            "gave the same result for two seeds though it declares stochastic=True",
            "a result that depends on the seed",
            "Draw from `draws`, or declare stochastic=False.",
        )
    if other and not card.stochastic:
        raise broken(
            card,
            f"gave another result for another seed though it declares stochastic=False: {other}",
            "one result for all seeds",
            "Declare stochastic=True.",
        )


def batch_size_does_not_matter(card: AttackCard, norm: str) -> None:
    """Cutting the samples into batches of 1, 3 or all, here or inside the classifier, changes no result (1e-9)."""
    problem = problems.smooth_cnn(torch.float64, 7)
    whole = _run(card, problem, norm, torch.arange(7))
    for size in (1, 3):
        for part in torch.arange(7).split(size):
            seen = difference(take(whole, part), _run(card, problem, norm, part), TOLERANCE)
            if seen:
                raise broken(
                    card,
                    f"gave another result for samples {part.tolist()} in a batch of their own: {seen}",
                    "a result for each sample alone",
                    "Couple no samples: no mean or maximum over the batch, no draws by batch row.",
                )
    seen = difference(whole, _run(card, problem, norm, torch.arange(7), batch_size=2), TOLERANCE)
    if seen:
        raise broken(
            card,
            f"gave another result when the classifier cuts its inputs into pairs: {seen}",
            "a result that does not depend on Classifier.batch_size",
            "Sum losses, never average them, and couple no samples.",
        )


def order_does_not_matter(card: AttackCard, norm: str) -> None:
    """Permuted samples, with their ids and radii, give permuted results (1e-9)."""
    problem = problems.smooth_cnn(torch.float64, 7)
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3])
    whole = _run(card, problem, norm, torch.arange(7))
    seen = difference(take(whole, order), _run(card, problem, norm, order), TOLERANCE)
    if seen:
        raise broken(
            card,
            f"gave another result for the samples in another order: {seen}",
            "a result that moves with its sample",
            "Key draws by sample id through `draws`, and select them with draws.select.",
        )
