"""Interval bound propagation."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.certify.bounds import Bounds, backward, bound
from robustscope.certify.cards import register
from robustscope.certify.layers import LAYERS
from robustscope.certify.margins import Work, batch_of, begin, empty
from robustscope.core.types import Certificate, ThreatModel
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{gowal2019scalable,
  title = {Scalable Verified Training for Provably Robust Image Classification},
  author = {Gowal, Sven and Dvijotham, Krishnamurthy and Stanforth, Robert and Bunel, Rudy and Qin, Chongli and
            Uesato, Jonathan and Arandjelovic, Relja and Mann, Timothy and Kohli, Pushmeet},
  booktitle = {International Conference on Computer Vision},
  year = {2019}
}"""


@register(
    "ibp",
    version=1,
    source="Gowal et al., 2019, arXiv:1810.12715, Sec. 3",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    layers=LAYERS,
)
def ibp(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    memory: int = 256,
    timeout: float | None = None,
) -> Certificate:
    """Propagate boxes through the network; bound each margin over the box of the last hidden values.

    A box around W z + b has the centre W c + b and the half-width |W| r; an increasing function takes the ends to the
    ends. The last affine maps are joined with the difference z_y - z_j of the logits first, which loses less than the
    boxes of the logits. It costs about two forward passes, and is close only on networks trained for it.

    Args:
        model: classifier whose module can be traced.
        x: (B, *S), inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        memory: mebibytes that one part of the batch may take.
        timeout: seconds for the call; samples not reached by then are "timeout". None: no limit.

    Returns:
        Lower bounds of the margins.

    Raises:
        InvalidValue: for a network that cannot be traced, naming the layer.

    Source: Gowal et al. 2019, arXiv:1810.12715, Sec. 3 and (for the joined last layer) Sec. 3, "specification".

    Departures: for l2 and l1 the first affine map takes the ball to its exact range by the dual norm of its rows.
    """
    work = begin(model, x, y, threat, timeout)
    if work is None:
        return empty(x)
    everyone = torch.arange(len(x), device=x.device)
    work.in_parts(everyone, batch_of(work.graph, x, memory), lambda rows: by_intervals(work, rows))
    return work.certificate()


def by_intervals(work: Work, rows: Tensor) -> Bounds:
    """Bound the margins of some samples by intervals, and return all the intervals."""
    bounds = bound(work.graph, work.region.select(rows))
    forms = work.forms[rows]
    found = backward(bounds, len(work.graph.nodes) - 1, forms, stop=True, close=True).amin(1)
    work.learn(rows, found, torch.full_like(rows, forms.shape[1]))
    return bounds
