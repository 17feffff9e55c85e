"""Adversarial patches: a rectangle for each sample, its place by gradients and at random, its content by ascent."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.attacks.ascent import Goal, merge
from robustscope.attacks.cards import register
from robustscope.attacks.pgd import check_positive
from robustscope.core.draws import Draws
from robustscope.core.threats import Patch
from robustscope.core.types import AttackResult
from robustscope.geometry import patches
from robustscope.geometry.losses import LossName, objective
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{karmon2018lavan,
  title = {{LaVAN}: Localized and Visible Adversarial Noise},
  author = {Karmon, Danny and Zoran, Daniel and Goldberg, Yoav},
  booktitle = {International Conference on Machine Learning},
  year = {2018}
}"""


@register(
    "patch",
    version=1,
    source="Karmon et al., 2018, arXiv:1801.02608, Sec. 3; Brown et al., 2017, arXiv:1712.09665",
    bibtex=BIBTEX,
    norms=(),
    threats=("patch",),
    goals=("untargeted", "targeted"),
    stochastic=True,
    quick={"steps": 15, "restarts": 2},
    cost=lambda p: (1 + p["restarts"] * (p["steps"] + 1), 1 + p["restarts"] * p["steps"]),
)
def patch(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: Patch,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    steps: int = 40,
    relative_step_size: float = 0.1,
    restarts: int = 6,
    loss: LossName = "margin",
) -> AttackResult:
    """Put a rectangle of free content where the gradient promises most, and ascend the loss inside it.

    A rectangle can win, to first order, the sum of max(g (upper - x), g (lower - x)) over its values, with g the gradient
    at ``x``. The first, third, fifth … restart takes the best place by this sum that lies apart from the earlier ones; the
    others take random places. Inside, sign steps start from uniform values. A sample stops at its first adversarial
    iterate.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds; the last two dimensions are height and width, and vectors count as
            pictures of height 1.
        y: int64 (B,), true classes.
        threat: sides of the rectangle, bounds.
        draws: random numbers of these samples.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        steps: sign steps for each place, >= 1.
        relative_step_size: step size as a fraction of the width of the bounds, > 0.
        restarts: places tried, >= 1; the random numbers of a place depend on its number, so that more contain fewer.
        loss: "cross_entropy", "margin" or "dlr".

    Returns:
        The first adversarial iterate of each sample, or the last iterate of the place with the highest loss.

    Raises:
        InvalidValue: for hyper-parameters out of range, or a loss that needs more classes.

    Source: Karmon et al. 2018, arXiv:1801.02608, Sec. 3 (one patch for one image, content by gradient ascent under a
        mask); Brown et al. 2017, arXiv:1712.09665, Eq. 1.

    Departures: places are chosen by the first-order gain instead of at random or by hand; steps take the sign, since the
        content fills a box; the first success is returned. One patch for all images (Brown) is not what this is.
    """
    check_positive(steps=steps, relative_step_size=relative_step_size, restarts=restarts)
    goal = Goal(objective(loss, model.classes(x), targets is not None), y, targets)
    if not len(x):
        return AttackResult(x.clone(), torch.zeros_like(y), torch.zeros_like(y))
    width = threat.bounds.upper - threat.bounds.lower
    _, gradients, logits = model.gradient(goal.scores, x)
    best = AttackResult(x.clone(), torch.ones_like(y), torch.ones_like(y))
    best_value = x.new_full((len(x),), -torch.inf)
    high, wide = patches.sides(threat, x)
    rows = (~goal.reached(logits) & (high > 0) & (wide > 0)).nonzero()[:, 0]
    promise = _promise(threat, x, gradients)
    for restart in range(restarts):
        if not len(rows):
            break
        part, mine = threat.select(rows), draws.select(rows)
        corner = patches.random_corner(part, x[rows], mine, f"corner/{restart}")
        if restart % 2 == 0:
            top = promise[rows].flatten(1).max(1)
            corner = torch.where(torch.isfinite(top.values), top.indices, corner)
        promise[rows] = _apart(promise[rows], corner, high[rows], wide[rows])
        content = mine.uniform(f"start/{restart}", x[rows], *threat.bounds).clamp_(*threat.bounds)
        mask = patches.window(corner, high[rows], wide[rows], x[rows])
        chosen = goal.select(rows)
        result, solved, value = _ascend(
            model, chosen, torch.where(mask, content, x[rows]), mask, threat, steps, relative_step_size * width
        )
        better = solved | (value > best_value[rows])
        best_value[rows] = torch.where(better, value, best_value[rows])
        best = merge(best, result, rows, better)
        rows = rows[~solved]
    return best


def _promise(threat: Patch, x: Tensor, gradients: Tensor) -> Tensor:
    """Return the first-order gain of a rectangle at each corner: float64 (B, H, W), -inf where it does not fit."""
    lower, upper = threat.bounds
    gain = torch.maximum(gradients * (upper - x), gradients * (lower - x))
    # Gradients may be tiny: only their order within a sample counts, and sums must not underflow.
    gain = patches.pictures(gain).sum(1).double()
    largest = gain.flatten(1).amax(1)
    return patches.window_sums(gain / torch.where(largest > 0, largest, 1.0)[:, None, None], *patches.sides(threat, x))


def _apart(promise: Tensor, corner: Tensor, high: Tensor, wide: Tensor) -> Tensor:
    """Return the promise without the places that overlap the one at ``corner`` by more than half of each side."""
    rows, columns = promise.shape[1:]
    down = (torch.arange(rows, device=corner.device) - (corner // columns)[:, None]).abs()
    right = (torch.arange(columns, device=corner.device) - (corner % columns)[:, None]).abs()
    near = (down < (high[:, None] + 1) // 2)[:, :, None] & (right < (wide[:, None] + 1) // 2)[:, None]
    return promise.masked_fill(near, -torch.inf)


def _ascend(
    model: Classifier, goal: Goal, start: Tensor, mask: Tensor, threat: Patch, steps: int, step_size: float
) -> tuple[AttackResult, Tensor, Tensor]:
    """Take sign steps inside the mask; return the result, who is solved, and the loss of the last iterate of the others."""
    x_adv = start.clone()
    forward, backward = (torch.zeros_like(goal.y) for _ in range(2))
    solved = torch.zeros_like(goal.y, dtype=torch.bool)
    value = start.new_full((len(start),), -torch.inf)
    active = torch.arange(len(start), device=start.device)
    current, inside, part = start, mask, goal
    for step in range(steps + 1):
        if step < steps:
            values, gradients, logits = model.gradient(part.scores, current)
            backward[active] += 1
        else:
            logits = model.logits(current)
            values = part.scores(logits, torch.arange(len(active), device=start.device))
            gradients = torch.zeros_like(current)
        forward[active] += 1
        reached = part.reached(logits)
        x_adv[active], value[active] = current, values.to(value.dtype)
        solved[active[reached]] = True
        moved = (current + step_size * gradients.sign() * inside).clamp_(*threat.bounds)
        keep = (~reached).nonzero()[:, 0]
        active, current, inside, part = active[keep], moved[keep], inside[keep], part.select(keep)
        if not len(active):
            break
    return AttackResult(x_adv, forward, backward), solved, value
