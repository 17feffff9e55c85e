"""Nearest: examples of every class are met first, and the nearest of them are then drawn in, within one budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from robustscope.attacks import fab, fmn
from robustscope.attacks.cards import ATTACKS, register
from robustscope.attacks.fab_targeted import boundary
from robustscope.attacks.pgd import check_positive
from robustscope.attacks.search import Search
from robustscope.core import resume
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, Norm, ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import margin_loss
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{pintor2021fast,
  title = {Fast Minimum-Norm Adversarial Attacks through Adaptive Norm Constraints},
  author = {Pintor, Maura and Roli, Fabio and Brendel, Wieland and Biggio, Battista},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021}
}"""


@dataclass(frozen=True)
class Plan:
    """Shares of the steps.

    Args:
        fab: for the first examples, by FAB towards each class.
        alma: for one more, by ALMA; 0 for none.
        rounds: (most examples that are drawn in, share), one after the other.
    """

    fab: float
    alma: float
    rounds: tuple[tuple[int, float], ...]


PLANS: dict[Norm, Plan] = {
    "linf": Plan(0.25, 0, ((9, 0.35), (3, 0.22), (1, 0.18))),
    "l2": Plan(0.2, 0.1, ((10, 0.35), (3, 0.2), (1, 0.15))),
    "l1": Plan(0.25, 0, ((9, 0.4), (3, 0.2), (1, 0.15))),
}
FEWEST = (("sigma_zero", 0.35, 0), ("sigma_zero", 0.25, 0), ("fmn", 0.15, 0), ("fmn", 0.25, 5))
"""l0: (attack, share of the steps, most classes that it is sent towards; 0 for an untargeted run).

Sigma-zero's path hangs on its schedule, so that a second run of another length ends elsewhere.
"""

SEARCH_STEPS = 3
OUTWARD_STEPS, OUTWARD_SIZE = 10, 0.1
"""Steps straight towards a class that FAB did not reach, and their length as a share of the width of the bounds."""


@register(
    "nearest",
    version=3,
    source="this project; its parts: arXiv:2003.01690, arXiv:2011.11857, arXiv:2102.12827, arXiv:2402.01879",
    bibtex=BIBTEX,
    aim="minimum-norm",
    norms=("linf", "l2", "l1", "l0"),
    quick={"steps": 150},
    cost=lambda p: (1.25 * p["steps"] + 60, p["steps"] + 40),
)
def nearest(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    steps: int = 1000,
    num_targets: int = 9,
    stop_at_epsilon: bool = False,
) -> AttackResult:
    """Meet an adversarial example of every class, then draw the nearest of them in.

    An attack that starts at ``x`` follows the gradients there, and ends where they lead: on networks whose gradients
    vanish or turn, other examples are much nearer. linf, l2, l1: FAB takes a quarter of the steps or less to reach each
    of 9 classes, roughly; where it fails, plain large steps towards the class do. For l2 ALMA adds one example,
    met from far outside. Each of them is then the start of a short walk of FMN, inwards. The three nearest are walked
    on from, and at last the nearest. l0: sigma-zero has 35 % of the steps and again 25 %, FMN 15 %, FMN towards 5
    classes the rest. The classes are those of the largest logits at ``x``.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, bounds, and the radius that a returned example may have; ``inf`` for the smallest found.
        draws: passed on; the attacks used here draw nothing.
        targets: unused; the attack chooses its own, and is untargeted as a whole.
        steps: steps in all, each one row forward and one backward, >= 1; every part makes one step at least.
        num_targets: most other classes that any part is sent towards, >= 1; all of them where there are fewer.
        stop_at_epsilon: end the search of a sample with its first example within the radius.

    Returns:
        The nearest adversarial point met for each sample, projected on the threat set where it lies outside; ``x``
        itself where none was found.

    Raises:
        InvalidValue: for hyper-parameters out of range.

    Source: this project, of parts from Croce & Hein 2020, arXiv:2003.01690, Sec. 5 (FAB-T); Pintor et al. 2021,
        arXiv:2102.12827, Sec. 2.2 (FMN, and its start from an adversarial example); Rony et al. 2021, arXiv:2011.11857
        (ALMA); Cinà et al. 2025, arXiv:2402.01879 (sigma-zero). What it reaches stands in benchmarks/strength.md.
    """
    check_positive(steps=steps)
    if num_targets < 1:
        raise InvalidValue(f"num_targets={num_targets} was given", "1 or more is allowed", "The default is 9.")
    search = Search(model, x, y, threat, stop_at_epsilon=stop_at_epsilon)
    if not len(x):
        return search.result()
    everyone = torch.arange(len(x), device=x.device)
    logits, _ = search.logits(everyone, x)
    others = search.rivals(logits, everyone, num_targets)
    parts = _Parts(search, draws, stop_at_epsilon)
    if not len(parts.rows):
        return search.result()
    if threat.norm == "l0":
        _by_several(parts, others, steps)
    else:
        _by_drawing_in(parts, others, margin_loss(logits, y), PLANS[threat.norm], steps)
    return search.result()


def _by_several(parts: _Parts, others: Tensor, steps: int) -> None:
    """Run the attacks of ``FEWEST``, towards the classes ``others`` (B, C) where they are sent there."""
    for name, share, classes in FEWEST:
        goals = others[:, :classes].unbind(1) if classes else (None,)
        for goal in goals:
            parts.registered(name, goal, steps=max(1, int(share * steps / len(goals))))


def _by_drawing_in(parts: _Parts, others: Tensor, clean: Tensor, plan: Plan, steps: int) -> None:
    """Meet examples of the classes ``others`` (B, C), and draw the nearest in; ``clean`` (B,): margin loss at x."""
    each = 2 * plan.fab * steps / others.shape[1]  # rows: a step of FAB is two forward and one backward
    settings = fab.Settings(max(1, int((each - SEARCH_STEPS) / 3)), 0.1, 1.05, 0.9, SEARCH_STEPS)
    found = [parts.reach(goal, clean, settings) for goal in others.unbind(1)]
    if plan.alma:
        found.append(parts.registered("alma", steps=max(1, int(plan.alma * steps))))
    for count, share in plan.rounds:
        points, away = (
            torch.stack(each) for each in zip(*((part.x_adv, part.distance) for part in found), strict=True)
        )
        order = away.argsort(dim=0, stable=True)[:count]
        schedule = fmn.Schedule(max(1, int(share * steps / len(order))))
        here = torch.arange(points.shape[1], device=order.device)
        found = [parts.draw_in(points[rank, here], away[rank, here], schedule) for rank in order]


class _Parts:
    """Runs the parts of an attack on the samples of one search, and gives it their nearest examples and counts.

    Args:
        search: of the whole attack; its samples that are not finished yet are attacked.
        draws: random numbers of all its samples.
        stop_at_epsilon: whether a sample is finished with its first example within the radius.
    """

    def __init__(self, search: Search, draws: Draws, stop_at_epsilon: bool) -> None:
        self.search, self.rows, self.draws, self.stop_at_epsilon = search, search.rows(), draws, stop_at_epsilon

    def reach(self, goals: Tensor, clean: Tensor, settings: fab.Settings) -> Search:
        """Find an example of the classes ``goals`` (B,) by FAB, or else by plain steps towards them."""
        goals, clean = goals[self.rows], clean[self.rows]

        def work(part: Search) -> None:
            def plane(rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
                return boundary(part, rows, points, goals)

            rows = part.rows()
            fab.walk(part, plane, (rows, part.x[rows]), clean, settings)
            _outward(part, plane)

        return self._run("reach", work)

    def draw_in(self, points: Tensor, away: Tensor, schedule: fmn.Schedule) -> Search:
        """Walk on from ``points`` (b, *S), examples at distances ``away`` (b,); or from x where that is inf."""

        def work(part: Search) -> None:
            rows = part.rows()
            part.x_adv[rows], part.distance[rows] = points[rows], away[rows]
            fmn.walk(part, points, torch.where(away.isinf(), 0, away).to(points.dtype), schedule)

        return self._run("draw_in", work)

    def registered(self, name: str, goals: Tensor | None = None, **parameters: Any) -> Search:
        """Run a registered attack, towards ``goals`` (B,) if given."""
        card, towards = ATTACKS[name], None if goals is None else goals[self.rows]
        settings, draws = card.resolve(parameters), self.draws.select(self.rows).within(name)
        threat = replace(self.search.threat, epsilon=math.inf)

        def work(part: Search) -> None:
            rows = part.rows()
            x, own, goal = part.x[rows], draws.select(rows), None if towards is None else towards[rows]
            found = card.function(part.model, x, part.y[rows], threat, draws=own, targets=goal, **settings)
            # Minimum-norm attacks return an adversarial example, which is judged already, or the input itself.
            away = balls.distance(threat.norm, x, found.x_adv)
            part.x_adv[rows], part.distance[rows] = found.x_adv, torch.where(away > 0, away, math.inf)
            part.forward[rows], part.backward[rows] = found.forward, found.backward

        return self._run(name, work)

    def _run(self, name: str, work: Callable[[Search], None]) -> Search:
        """Let ``work`` search on its own, and keep what is nearer than before."""
        whole, rows = self.search, self.rows
        threat = whole.threat.select(rows)
        part = Search(whole.model, whole.x[rows], whole.y[rows], threat, stop_at_epsilon=self.stop_at_epsilon)
        over = (~whole.unfinished(rows)).nonzero()[:, 0]
        part.x_adv[over], part.distance[over] = whole.x_adv[rows[over]], whole.distance[rows[over]]
        place, done = resume.recall(name)
        if done is not None:
            part.restore(done)
        else:
            with resume.stage(place, part.state) as saved:
                if saved is not None:
                    part.restore(saved)
                work(part)
            resume.remember(place, part.state)
        whole.forward[rows] += part.forward
        whole.backward[rows] += part.backward
        nearer = part.distance < whole.distance[rows]
        hit = rows[nearer]
        whole.x_adv[hit], whole.distance[hit] = part.x_adv[nearer], part.distance[nearer]
        return part


def _outward(search: Search, plane: fab.Plane) -> None:
    """Go straight up ``plane`` from the inputs that have no example yet, until they have one."""
    rows, size = search.rows(), OUTWARD_SIZE * (search.threat.bounds.upper - search.threat.bounds.lower)
    rows = rows[search.distance[rows].isinf()]
    points = search.x[rows]
    for _ in range(OUTWARD_STEPS):
        if not len(rows):
            return
        _, normals = plane(rows, points)
        left = search.distance[rows].isinf()
        rows, points = rows[left], torch.add(points[left], normals[left].sign(), alpha=size)
        points = points.clamp_(*search.threat.bounds)
    if len(rows):
        search.logits(rows, points)
