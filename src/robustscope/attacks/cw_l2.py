"""Carlini and Wagner's l2 attack."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from robustscope.attacks.adam import Adam
from robustscope.attacks.cards import register
from robustscope.attacks.confident import ConfidentSearch
from robustscope.attacks.constants import ConstantSearch
from robustscope.attacks.pgd import check_positive
from robustscope.attacks.search import columns
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult, Bounds, ThreatModel
from robustscope.geometry.losses import margin_loss
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{carlini2017towards,
  title = {Towards Evaluating the Robustness of Neural Networks},
  author = {Carlini, Nicholas and Wagner, David},
  booktitle = {IEEE Symposium on Security and Privacy},
  year = {2017}
}"""
SHRINK = 0.999999
"""Keeps the inverse tanh of values on the bounds finite, as the authors' code does."""
PROGRESS = 0.9999
"""A sample that has not lowered its objective to this share since the last look has come to rest."""
SLOPING = 3.0
"""Size of w below which tanh(w) still answers to steps: its slope is 0.01 there."""


@register(
    "cw_l2",
    version=2,
    source="Carlini, Wagner, 2017, arXiv:1608.04644, Sec. V and VI-A",
    bibtex=BIBTEX,
    aim="minimum-norm",
    norms=("l2",),
    goals=("untargeted", "targeted"),
    quick={"steps": 40, "search_steps": 4, "step_size": 0.05, "initial_constant": 0.3},
    cost=lambda p: (1 + p["search_steps"] * p["steps"], p["search_steps"] * p["steps"]),
)
def cw_l2(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    steps: int = 1000,
    search_steps: int = 9,
    step_size: float = 0.01,
    initial_constant: float = 1e-3,
    confidence: float = 0.0,
    early_stop: bool = True,
) -> AttackResult:
    """Descend ||x' - x||^2 + c * max(confidence - margin loss, 0) by Adam over w, where x' = (tanh(w) + 1) / 2.

    The change of variables keeps x' inside the bounds. The constant c is searched for each sample: halved towards the
    largest failure after a success, multiplied by ten until the first success. Every iterate that is adversarial is
    compared by its true distance to x, and the nearest of all is returned. A sample whose search step has come to rest
    goes on to its next constant at once, whatever the others do, so the model always sees full batches.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: l2, radius, bounds; examples beyond the radius are projected back at the end.
        draws: unused; the attack is deterministic.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        steps: most Adam steps for each constant, >= 1.
        search_steps: constants tried for each sample, >= 1.
        step_size: Adam's step size on w, > 0.
        initial_constant: first c, > 0; distances are measured in units of the width of the bounds.
        confidence: margin (in logits) by which an example must win to count, >= 0.
        early_stop: end a search step when a tenth of ``steps`` has lowered the objective by less than 0.01 %; one that
            has found nothing waits until Adam could have carried values off the bounds.

    Returns:
        The nearest example found for each sample if it lies within epsilon, else its projection, else x.

    Raises:
        InvalidValue: for hyper-parameters out of range.

    Source: Carlini & Wagner 2017, arXiv:1608.04644, Sec. V-D (objective f6), V-B (box by tanh) and VI-A.

    Departures: the authors' code runs 10,000 steps for each constant; on the digits linear model 1,000 give a median
        of 1.0004 times the exact distance. It compares distances to tanh(arctanh(0.999999 x)) and stops early by the
        sum over the batch; here distances are to x and every sample stops alone. Inputs that are adversarial from the
        start are returned as they are. The authors' early stop gives up on images whose values all lie on the bounds,
        where tanh is flat; here it waits. Any bounds are allowed: w is defined on their unit scale.
    """
    check_positive(steps=steps, search_steps=search_steps, step_size=step_size, initial_constant=initial_constant)
    best = ConfidentSearch(model, x, y, threat, targets, confidence)
    rows = best.start()
    run = _Run.begin(
        rows, x[rows], threat.bounds, step_size, ConstantSearch.begin(x[rows], initial_constant, search_steps)
    )
    period = max(1, steps // 10)
    while len(run.rows):
        tanh = run.w.tanh()
        points = _leave(tanh, threat.bounds)
        scores, gradients, found = best.gradient(run.rows, points, margin_loss)
        run.found |= found
        objective, slope = _objective(points - run.x, threat.bounds, scores, gradients, run.search, confidence)
        run.w -= run.adam.step(slope.mul_((1 - tanh.square()).mul_(0.5)), step_size)
        run = run.advance(objective, steps, period if early_stop else steps + 1)
    return best.result()


def _enter(x: Tensor, bounds: Bounds) -> Tensor:
    """Return the w whose image is (almost) ``x``: (B, *S)."""
    width = bounds.upper - bounds.lower
    return ((x - bounds.lower).mul_(2 / width).sub_(1).mul_(SHRINK)).atanh_()


def _leave(tanh: Tensor, bounds: Bounds) -> Tensor:
    """Return the inputs that belong to tanh(w): (B, *S), inside the bounds."""
    half = (bounds.upper - bounds.lower) / 2
    return (tanh * half).add_(half + bounds.lower).clamp_(*bounds)


def _objective(
    delta: Tensor, bounds: Bounds, scores: Tensor, gradients: Tensor, search: ConstantSearch, confidence: float
) -> tuple[Tensor, Tensor]:
    """Return ||delta||^2 + c * hinge in units of the width, (b,), and its gradient by the scaled inputs, (b, *S)."""
    width = bounds.upper - bounds.lower
    delta = delta.div_(width) if width != 1 else delta
    objective = delta.flatten(1).square().sum(1) + search.constant * (confidence - scores).clamp_(min=0)
    pull = -width * search.constant * (scores < confidence)
    # Adding the distance last keeps a huge constant from swallowing it where the hinge is not active.
    return objective, torch.addcmul(delta.mul_(2), gradients, columns(pull, delta))


@dataclass
class _Run:
    """The samples under attack; each has its own constant, clock, moments and success."""

    rows: Tensor
    x: Tensor
    origin: Tensor
    w: Tensor
    adam: Adam
    search: ConstantSearch
    found: Tensor
    previous: Tensor
    patience: Tensor

    @classmethod
    def begin(cls, rows: Tensor, x: Tensor, bounds: Bounds, step_size: float, search: ConstantSearch) -> _Run:
        origin = _enter(x, bounds)
        # Values on the bounds lie on tanh's flat part: until Adam has carried them off, the objective looks at rest.
        patience = (origin.abs().flatten(1).amax(1) - SLOPING).clamp_(min=0) / step_size
        never = torch.zeros(len(rows), dtype=torch.bool, device=x.device)
        unknown = x.new_full((len(rows),), torch.inf)
        return cls(rows, x, origin, origin.clone(), Adam.begin(x), search, never, unknown, patience)

    def advance(self, objective: Tensor, steps: int, period: int) -> _Run:
        """Begin the next constant where a run has ended, and drop the samples whose search is through."""
        # The clock already counts the step just taken; the authors look at iterations 0, period, 2 * period, ...
        look = (self.adam.clock - 1) % period == 0
        rests = look & (objective > PROGRESS * self.previous) & (self.found | (self.adam.clock > self.patience))
        self.previous = torch.where(look, objective, self.previous)
        ended = rests | (self.adam.clock >= steps)
        if not ended.any():
            return self
        through = self.search.advance(ended, self.found)
        self.adam.reset(ended)
        self.w[ended] = self.origin[ended]
        self.previous = self.previous.masked_fill(ended, torch.inf)
        self.found = self.found & ~ended
        if not through.any():
            return self
        keep = (~through).nonzero()[:, 0]
        parts = (getattr(self, field.name) for field in fields(self))
        return _Run(*(part[keep] if isinstance(part, Tensor) else part.select(keep) for part in parts))
