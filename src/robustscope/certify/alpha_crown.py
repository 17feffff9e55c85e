"""alpha-CROWN: CROWN with optimised slopes."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from robustscope.certify.bounds import Bounds, Effort, Intermediate, backward, bound, capacity_of
from robustscope.certify.cards import register
from robustscope.certify.crown import relax
from robustscope.certify.layers import LAYERS
from robustscope.certify.margins import Work, begin, empty
from robustscope.certify.slopes import Slopes
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Certificate, ThreatModel
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{xu2021fast,
  title = {Fast and Complete: Enabling Complete Verification with Rapid and Massively Parallel Incomplete Verifiers},
  author = {Xu, Kaidi and Zhang, Huan and Wang, Shiqi and Wang, Yihan and Jana, Suman and Lin, Xue and Hsieh, Cho-Jui},
  booktitle = {International Conference on Learning Representations},
  year = {2021}
}"""


@register(
    "alpha_crown",
    version=2,
    source="Xu et al., 2021, arXiv:2011.13824, Sec. 3.1",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    layers=LAYERS,
    quick={"steps": 5, "hidden_steps": 2},
)
def alpha_crown(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 20,
    hidden_steps: int = 5,
    step_size: float = 0.25,
    intermediate: Intermediate = "crown",
    memory: int = 64,
    most_forms: int | None = None,
    timeout: float | None = None,
) -> Certificate:
    """Maximise CROWN's bound over the slopes of the lines below open ReLUs.

    Any slope from 0 to 1 is sound there, so each margin of each sample has slopes of its own, which ascend its bound by
    Adam, projected on [0, 1]; they start at CROWN's, and the best bound on the way counts. A sample leaves as soon as
    all its margins are verified; margins that CROWN verifies are not optimised. Where that is not enough, the bounds of
    hidden values are found anew in the same way, layer by layer, each bound with slopes of its own, and the margins again.

    Args:
        model: classifier whose module can be traced.
        x: (B, *S), inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        steps: steps of ascent for the margins, >= 1.
        hidden_steps: steps for each bound of a hidden value whose sign is open, for the samples that the first ascent leaves
            open; >= 0. Each costs about as much as CROWN three times over.
        step_size: of Adam, > 0; it shrinks by 2 % with each step.
        intermediate: where the bounds of hidden values come from: "crown", or "ibp".
        memory: mebibytes that one batch of forms may take.
        most_forms: as in :func:`crown`; a sample that needs more for the bounds of hidden values is not optimised.
        timeout: seconds for the call; samples that are not verified by then are "timeout". None: no limit.

    Returns:
        Lower bounds of the margins, at least those of CROWN.

    Raises:
        InvalidValue: for hyper-parameters out of range, and for a network that cannot be traced, naming the layer.

    Source: Xu et al. 2021, arXiv:2011.13824, Sec. 3.1.

    Departures: hidden bounds ascend one after the other, each for itself, where the paper ascends all together for the
        margin: with slopes of their own for every bound no bound is bought at another's cost, and memory is that of one
        layer. Only ReLU and leaky ReLU have free slopes.
    """
    if steps < 1 or hidden_steps < 0 or not 0 < step_size < float("inf"):
        raise InvalidValue(
            f"steps={steps}, hidden_steps={hidden_steps} and step_size={step_size} were given",
            "steps >= 1, hidden_steps >= 0 and step_size > 0 are allowed",
            "Try 20, 5, 0.25.",
        )
    work = begin(model, x, y, threat, timeout)
    if work is None:
        return empty(x)

    def margins(rows: Tensor, bounds: Bounds) -> None:
        size = max(1, capacity_of(work.graph, len(work.graph.nodes) - 1, x, memory) // (4 * work.forms.shape[1]))
        for part in torch.arange(len(rows), device=x.device).split(size):
            _Ascent(work, rows[part], bounds.select(part)).run(steps, step_size)

    def optimise(rows: Tensor, bounds: Bounds) -> None:
        margins(rows, bounds)
        still = work.undecided(rows) & ~work.late[rows]
        if not hidden_steps or not bool(still.any()):
            return
        rows, bounds = rows[still], bounds.select(still)
        effort = Effort(most_forms, work.deadline, hidden_steps, step_size)
        closer = bound(work.graph, bounds.region, "crown", memory, effort, known=bounds)
        work.rows[rows] += closer.rows
        margins(rows, closer)
        work.late[rows[closer.spent]] = True

    relax(work, intermediate, True, memory, most_forms, optimise)
    return work.certificate()


class _Ascent:
    """The slopes of some samples, one set for each open margin."""

    def __init__(self, work: Work, rows: Tensor, bounds: Bounds) -> None:
        self.work, self.rows, self.bounds = work, rows, bounds
        self.last = len(work.graph.nodes) - 1
        forms = work.forms[rows]
        found = backward(bounds, self.last, forms, close=True)
        # The margins that are open come first; the others of a sample fill up the row and stay as they are.
        is_open = found <= work.allowance[rows, None]
        order = is_open.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(is_open.sum(1).max())]
        self.settled = found.masked_fill(is_open, torch.inf).amin(1)
        self.costs = is_open.sum(1)
        self.forms = forms.gather(1, order[:, :, None].expand(-1, -1, forms.shape[2]))
        self.best = found.gather(1, order)
        self.slopes = Slopes(bounds.lines, order.shape[1])

    def run(self, steps: int, step_size: float) -> None:
        """Ascend; at the end, or when the time is up, hand what was found to the work."""
        for _ in range(steps if self.slopes.values else 0):
            if time.perf_counter() > self.work.deadline:
                self.work.late[self.rows] = True
                break
            self._step(step_size)
            if not len(self.rows):
                return
        self.work.learn(self.rows, self._margins(), torch.zeros_like(self.rows))

    def _margins(self) -> Tensor:
        return torch.minimum(self.settled, self.best.amin(1))

    def _step(self, step_size: float) -> None:
        """Take a step, and let go of the samples whose margins are all verified."""
        found = self.slopes.ascend(
            lambda values: backward(self.bounds, self.last, self.forms, values, close=True), step_size
        )
        self.best = torch.maximum(self.best, found)
        self.work.rows[self.rows] += self.costs
        margins = self._margins()
        done = margins > self.work.allowance[self.rows]
        if not bool(done.any()):
            return
        self.work.learn(self.rows[done], margins[done], torch.zeros_like(self.rows[done]))
        keep = ~done
        self.rows, self.bounds, self.forms = self.rows[keep], self.bounds.select(keep), self.forms[keep]
        self.best, self.settled, self.costs = self.best[keep], self.settled[keep], self.costs[keep]
        self.slopes.keep(keep)
