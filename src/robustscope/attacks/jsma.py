"""The Jacobian-based saliency map attack (JSMA)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from robustscope.attacks.cards import register
from robustscope.attacks.pgd import check_positive
from robustscope.attacks.search import Search
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.models.classifier import Classifier, Scores

BIBTEX = """@inproceedings{papernot2016limitations,
  title = {The Limitations of Deep Learning in Adversarial Settings},
  author = {Papernot, Nicolas and McDaniel, Patrick and Jha, Somesh and Fredrikson, Matt and Celik, Z. Berkay and
    Swami, Ananthram},
  booktitle = {IEEE European Symposium on Security and Privacy},
  year = {2016}
}"""
PARTNERS = 128
"""Values among which a pair is searched, the most salient by themselves; all pairs of larger inputs are too many."""


@register(
    "jsma",
    version=2,
    source="Papernot et al., 2016, arXiv:1511.07528, Algorithms 2 and 3",
    bibtex=BIBTEX,
    aim="minimum-norm",
    norms=("l0",),
    goals=("untargeted", "targeted"),
    quick={"steps": 24},
    cost=lambda p: (p["steps"] + 1, 2 * p["steps"]),
    known_failures={
        "solves_the_linear_problem": "greedy pairs: the saliency is a product of two derivatives that ignores how far a "
        "value can move, so a sample often needs a value or two more than the fewest",
    },
)
def jsma(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    steps: int = 200,
    relative_step_size: float = 1.0,
    direction: Literal["both", "up", "down"] = "both",
    together: int = 2,
    largest_share: float = 1.0,
) -> AttackResult:
    """Move the pair of values that most raises the target class and lowers the others, again and again.

    With a_i = dZ_t / dx_i and b_i = sum over j != t of dZ_j / dx_i, the saliency of a set of values is -(sum a)(sum b)
    where sum a > 0 > sum b, else none. Each step moves the most salient pair (or single value) by ``relative_step_size``
    of the width of the bounds; a value on its bound leaves the game. A sample ends with its first success, or when
    nothing salient is left.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: l0 (input values that differ), radius, bounds; examples beyond the radius are projected at the end.
        draws: unused; the attack is deterministic.
        targets: int64 (B,), classes to reach; None aims at the strongest other class of each iterate.
        steps: most steps of a sample, >= 1.
        relative_step_size: change of a value in one step, as a share of the width, > 0.
        direction: "up" and "down" move values as in the paper's two variants; "both" lets each value move the way in
            which it raises the target against the others.
        together: values moved at once: 2 as in the paper, or 1.
        largest_share: share of the input values that may be changed, in (0, 1]; the paper's Upsilon.

    Returns:
        The first adversarial example of each sample if it changes at most epsilon values, else its projection, else x.

    Raises:
        InvalidValue: for hyper-parameters out of range.

    Source: Papernot et al. 2016, arXiv:1511.07528, Algorithm 2 and Eq. 8, pairs by Algorithm 3; "both" is the direction
        of Wiyatno & Xu 2018, arXiv:1808.07945.

    Departures: the derivatives are those of the logits; of probabilities, which sum to one, b is always -a. The paper is
        targeted only. It allows 14.5 % of the values to change; the radius of the threat model decides here. For inputs
        of more than 128 values pairs are searched among the 128 that are most salient by themselves.
    """
    check_positive(steps=steps, relative_step_size=relative_step_size)
    if together not in (1, 2):
        raise InvalidValue(f"together={together} was given", "1 or 2 is allowed", "Correct together.")
    if not 0 < largest_share <= 1:
        raise InvalidValue(
            f"largest_share={largest_share} was given", "a number in (0, 1] is allowed", "Correct largest_share."
        )
    best = Search(model, x, y, threat, targets)
    rows = torch.arange(len(x), device=x.device)
    width = threat.bounds.upper - threat.bounds.lower
    size = {"both": 0.0, "up": 1.0, "down": -1.0}[direction]
    points, allowed = x, largest_share * (x[0].numel() if len(x) else 0)
    aims = y if targets is None else targets
    for step in range(steps + 1):
        if not len(rows):
            break
        if step == steps:
            best.logits(rows, points)
            break
        y_now, aim_now = y[rows], None if targets is None else aims[rows]
        _, gradients, solved = best.jacobian(rows, points, _rise(y_now, aim_now))
        keep = (~solved).nonzero()[:, 0]
        rows, points, gradients = rows[keep], points[keep], gradients[keep].flatten(2)
        if not len(rows):
            break
        own, others = gradients[:, 0], gradients[:, 1]
        way = torch.full_like(own, size) if size else (own - others).sign()
        flat = points.flatten(1)
        room = torch.where(way > 0, threat.bounds.upper - flat, flat - threat.bounds.lower)
        touched = flat != x[rows].flatten(1)
        full = touched.sum(1, keepdim=True) + together > allowed
        movable = (room > 0) & (way != 0) & (touched | ~full)
        chosen, salient = _most_salient(own * way, others * way, movable, together)
        moved = (flat + chosen * way * (relative_step_size * width)).clamp_(*threat.bounds)
        rows, points = rows[salient], moved[salient].view(-1, *x.shape[1:])
    return best.result()


def _rise(y: Tensor, targets: Tensor | None) -> Scores:
    """Return the two scores whose gradients make the map: the logit aimed at, and the sum of the others: (b, 2)."""

    def scores(logits: Tensor, part: Tensor) -> Tensor:
        if targets is None:
            aim = logits.detach().scatter(1, y[part][:, None], -torch.inf).argmax(1)
        else:
            aim = targets[part]
        own = logits.gather(1, aim[:, None])[:, 0]
        return torch.stack([own, logits.sum(1) - own], 1)

    return scores


def _most_salient(own: Tensor, others: Tensor, movable: Tensor, together: int) -> tuple[Tensor, Tensor]:
    """Return which values of each sample to move, (b, d) of 0 and 1, and which samples have any, bool (b,)."""
    # Only products and signs matter; scaling keeps those of faint gradients from underflowing.
    largest = torch.maximum(own.abs(), others.abs()).amax(1, keepdim=True).clamp_(min=torch.finfo(own.dtype).tiny)
    own, others = own / largest, others / largest
    alone = torch.where(movable, own - others, -torch.inf)
    near = alone.topk(min(PARTNERS, own.shape[1]), dim=1)
    a, b = own.gather(1, near.indices), others.gather(1, near.indices)
    usable = near.values > -torch.inf
    if together == 2:
        a, b = a[:, :, None] + a[:, None, :], b[:, :, None] + b[:, None, :]
        usable = (usable[:, :, None] & usable[:, None, :]).triu(1)
    saliency = torch.where(usable & (a > 0) & (b < 0), -a * b, 0.0).flatten(1)
    if not saliency.shape[1]:
        return torch.zeros_like(own), torch.zeros_like(movable[:, :0].any(1))
    value, index = saliency.max(1)
    count = near.indices.shape[1]
    pair = (index // count, index % count) if together == 2 else (index,)
    chosen = torch.zeros_like(own)
    for position in pair:
        chosen.scatter_(1, near.indices.gather(1, position[:, None]), 1.0)
    return chosen, value > 0
