"""The Boundary attack: a random walk along the decision boundary, towards the clean input."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from robustscope.attacks.cards import register
from robustscope.attacks.decision_search import DecisionSearch, bisect, check_starts, find_starts
from robustscope.attacks.finite_differences import VALUES
from robustscope.attacks.pgd import check_positive
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{brendel2018decision,
  title = {Decision-Based Adversarial Attacks: Reliable Attacks Against Black-Box Machine Learning Models},
  author = {Brendel, Wieland and Rauber, Jonas and Bethge, Matthias},
  booktitle = {International Conference on Learning Representations},
  year = {2018}
}"""

EVERY = 5
"""Steps from one question about the sideways point alone to the next."""

SIDEWAYS, TOWARDS = 0.35, 0.2
"""Shares of adversarial points that the two step sizes are steered to; the authors' code keeps them between 0.2 and 0.5,
and between 0.1 and 0.25."""

RATE = 0.1
"""How fast the step sizes are steered, for each answer, in units of their logarithm."""


@dataclass
class _Walk:
    """The samples that still walk: their rows, their points (b, d), step sizes (b,) as shares of the distance."""

    rows: Tensor
    current: Tensor
    sideways: Tensor
    towards: Tensor
    noise: Tensor

    def keep(self, index: Tensor) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[index])


@register(
    "boundary",
    version=2,
    source="Brendel, Rauber, Bethge, 2018, arXiv:1712.04248, Algorithm 1",
    bibtex=BIBTEX,
    aim="minimum-norm",
    access="decisions",
    norms=("l2",),
    goals=("untargeted", "targeted"),
    stochastic=True,
    quick={"queries": 1000},
    cost=lambda p: (p["queries"], 0),
)
def boundary(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    queries: int = 5000,
    sideways_step: float = 0.1,
    towards_step: float = 0.05,
    tries: int = 50,
    starts: Tensor | None = None,
    stop_at_epsilon: bool = False,
) -> AttackResult:
    """Walk at random along the boundary: a step sideways at constant distance, then one towards the clean input.

    Sideways: a Gaussian direction, made orthogonal to z - x and of length s |z - x|, then back on the sphere around x.
    Towards: shorten the distance by the share e. The point is taken if it is adversarial. s and e follow the share of
    points that are, so that the walk suits the curvature of the boundary.

    Args:
        model: classifier under attack; only its predicted classes are used.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: l2, bounds, and the radius that a returned example may have; ``inf`` for the smallest found.
        draws: random numbers of these samples.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        queries: most rows that a sample sends through the model, >= 1; every one counts, also those of the start.
        sideways_step: first s, > 0, as a share of the distance.
        towards_step: first e, > 0, as a share of the distance.
        tries: random pictures tried as a start, >= 1.
        starts: (B, *S), points to start from where they are adversarial, such as inputs of other classes; None starts
            from random pictures, which seldom reach a given target on natural images. For ``attack()`` only.
        stop_at_epsilon: end the search of a sample with its first example within the radius.

    Returns:
        The nearest adversarial point met for each sample, projected on the threat set where it lies outside; ``x``
        itself where no start was found.

    Raises:
        InvalidValue: for hyper-parameters out of range, or starts of another shape or outside the bounds.
        InvalidType: for starts of another type.

    Source: Brendel, Rauber, Bethge 2018, arXiv:1712.04248, Algorithm 1 and Sec. 2.

    Departures: the walk begins where a bisection from the start meets the boundary; step sizes are steered a little by
        every answer, where the authors' code waits for the mean of 30 or 100 of them; the sideways point is asked about
        on its own in one step of five; the first query asks about ``x`` itself.
    """
    check_positive(queries=queries, sideways_step=sideways_step, towards_step=towards_step, tries=tries)
    check_starts(x, starts, threat)
    search = DecisionSearch(model, x, y, threat, targets, queries, stop_at_epsilon)
    rows, far = find_starts(search, starts, draws, tries)
    if not len(rows):
        return search.result()
    size = x[0].numel()
    current = bisect(search, rows, far, max(size, 2) ** -1.5).flatten(1)
    first = current.new_ones(len(rows))
    block = max(min(VALUES // (4 * max(size, 1)), 64), 1)
    walk = _Walk(rows, current, first * sideways_step, first * towards_step, current[:, None])
    for step in range(queries):
        keep = search.unfinished(walk.rows)
        if not keep.all():
            walk.keep(keep.nonzero()[:, 0])
        if not len(walk.rows):
            break
        if step % block == 0:
            like = current.new_empty(len(walk.rows), block, size)
            walk.noise = draws.select(walk.rows).normal(f"direction/{step // block}", like)
        _walk(search, walk, walk.noise[:, step % block], step)
    return search.result()


def _walk(search: DecisionSearch, walk: _Walk, noise: Tensor, step: int) -> None:
    """Take one step of every sample, and steer the step sizes."""
    shape, bounds = search.x.shape[1:], search.threat.bounds
    centre, tiny = search.x[walk.rows].flatten(1), torch.finfo(noise.dtype).tiny
    offset = walk.current - centre
    length = torch.linalg.vector_norm(offset, dim=1, keepdim=True)
    unit = offset / length.clamp(min=tiny)
    side = noise - (noise * unit).sum(1, keepdim=True) * unit
    side = side / torch.linalg.vector_norm(side, dim=1, keepdim=True).clamp(min=tiny)
    turned = unit + walk.sideways[:, None] * side
    turned = turned / torch.linalg.vector_norm(turned, dim=1, keepdim=True).clamp(min=tiny)
    beside = (centre + length * turned).clamp_(*bounds)
    if step % EVERY == 0:
        solved = search.ask(walk.rows, beside.view(-1, *shape))
        walk.sideways = _steer(walk.sideways, solved, SIDEWAYS)
        going = search.unfinished(walk.rows).nonzero()[:, 0]
    else:
        going = torch.arange(len(walk.rows), device=noise.device)
    if not len(going):
        return
    # The bounds may have changed the distance of the sideways point; the next one is measured from the old distance.
    back = beside[going] - centre[going]
    reach = torch.linalg.vector_norm(back, dim=1, keepdim=True).clamp(min=tiny)
    wanted = (length[going] * (1 - walk.towards[going, None])).minimum(reach)
    nearer = (centre[going] + back * (wanted / reach)).clamp_(*bounds)
    solved = search.ask(walk.rows[going], nearer.view(-1, *shape))
    walk.current[going[solved]] = nearer[solved]
    walk.towards[going] = _steer(walk.towards[going], solved, TOWARDS)


def _steer(size: Tensor, solved: Tensor, target: float) -> Tensor:
    """Return step sizes made larger by an adversarial point and smaller by any other, at rest where ``target`` are."""
    return (size * torch.exp(RATE * (solved.to(size.dtype) - target))).clamp_(1e-6, 0.5)
