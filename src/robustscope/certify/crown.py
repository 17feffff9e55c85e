"""CROWN: linear bounds carried backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustscope.certify.bounds import Bounds, Effort, Intermediate, backward, bound, capacity_of
from robustscope.certify.cards import register
from robustscope.certify.ibp import by_intervals
from robustscope.certify.layers import LAYERS
from robustscope.certify.margins import Work, batch_of, begin, check_limit, empty
from robustscope.core.types import Certificate, ThreatModel
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{zhang2018efficient,
  title = {Efficient Neural Network Robustness Certification with General Activation Functions},
  author = {Zhang, Huan and Weng, Tsui-Wei and Chen, Pin-Yu and Hsieh, Cho-Jui and Daniel, Luca},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2018}
}"""


@register(
    "crown",
    version=1,
    source="Zhang et al., 2018, arXiv:1811.00866, Sec. 3; Xu et al., 2020, arXiv:2002.12920, Sec. 3",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    layers=LAYERS,
)
def crown(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    intermediate: Intermediate = "crown",
    stop_early: bool = True,
    memory: int = 64,
    most_forms: int | None = None,
    timeout: float | None = None,
) -> Certificate:
    """Carry each margin back to the input through lines below and above every activation; take its least value there.

    Between the bounds l < 0 < u of its input a ReLU lies below the chord and above the line through the origin of slope
    1 (if u > -l) or 0. A coefficient >= 0 of the margin takes the line below, one < 0 the line above. The bounds l and
    u are found in the same way, layer by layer, for the values whose sign intervals leave open.

    Args:
        model: classifier whose module can be traced.
        x: (B, *S), inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        intermediate: where l and u come from: "crown", or "ibp" for intervals, which costs K - 1 forms a sample.
        stop_early: let a sample leave as soon as a cheaper bound verifies it (intervals, then intervals with a backward
            pass for the margin); misclassified samples leave after the first. False gives everyone the closest bound.
        memory: mebibytes that one batch of forms may take.
        most_forms: linear forms of hidden values that a sample may send backward; one that needs more, and is not
            verified with the closer bounds that it got until then, is "timeout". Unlike seconds, the same everywhere.
        timeout: seconds for the call; samples not verified by then are "timeout". None: no limit.

    Returns:
        Lower bounds of the margins, the best of those that were computed.

    Raises:
        InvalidValue: for a network that cannot be traced, naming the layer.

    Source: Zhang et al. 2018, arXiv:1811.00866, Sec. 3 (lines, adaptive slope); Xu et al. 2020, arXiv:2002.12920,
        Sec. 3 (general graphs). For ReLU networks the same bound as DeepPoly (Singh et al. 2019).

    Departures: hidden bounds are cut with the intervals, which for single values can be the closer ones; an upper bound
        is not computed for values whose lower bound has just been found to be >= 0.
    """
    work = begin(model, x, y, threat, timeout)
    if work is None:
        return empty(x)
    relax(work, intermediate, stop_early, memory, most_forms)
    return work.certificate()


def relax(
    work: Work,
    intermediate: Intermediate,
    stop_early: bool,
    memory: int,
    most_forms: int | None = None,
    then: Callable[[Tensor, Bounds], None] = lambda rows, bounds: None,
) -> None:
    """Bound the margins of all samples from the cheapest bound to the closest.

    Args:
        work: the batch.
        intermediate, stop_early, memory, most_forms: as in :func:`crown`.
        then: called for the samples that the last bound leaves undecided, with everything known about them.

    Raises:
        InvalidValue: for a number of forms below 1.
    """
    check_limit("most_forms", most_forms)
    everyone = torch.arange(len(work.margin), device=work.margin.device)
    size = batch_of(work.graph, work.region.x, memory)

    def follow(rows: Tensor, bounds: Bounds) -> None:
        still = work.undecided(rows)
        if bool(still.any()):
            then(rows[still], bounds.select(still))

    def cheap(rows: Tensor) -> None:
        bounds = by_intervals(work, rows)
        left = rows[work.undecided(rows)] if stop_early else rows
        if len(left):
            bounds = bounds.select(torch.isin(rows, left))
            margins_back(work, left, bounds, memory)
            if intermediate == "ibp":
                follow(left, bounds)

    def close(rows: Tensor) -> None:
        bounds = bound(work.graph, work.region.select(rows), "crown", memory, Effort(most_forms, work.deadline))
        margins_back(work, rows, bounds, memory)
        work.late[rows[bounds.spent]] = True
        follow(rows[~bounds.spent], bounds.select(~bounds.spent))

    work.in_parts(everyone, size, cheap)
    if intermediate == "crown":
        work.in_parts(work.open() if stop_early else everyone[~work.late], size, close)


def margins_back(work: Work, rows: Tensor, bounds: Bounds, memory: int) -> None:
    """Carry the margins of some samples back, given the bounds of everything before."""
    last, forms = len(work.graph.nodes) - 1, work.forms[rows]
    size = max(1, capacity_of(work.graph, last, work.margin, memory) // forms.shape[1])
    for part in torch.arange(len(rows), device=rows.device).split(size):
        found = backward(bounds.select(part), last, forms[part], close=True).amin(1)
        work.learn(rows[part], found, torch.full_like(part, forms.shape[1]))
    work.rows[rows] += bounds.rows
