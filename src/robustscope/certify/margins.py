"""From bounds to a certificate: what is to be bounded, when a bound counts, and the loop over parts of a batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustscope.certify.graph import Graph, trace
from robustscope.certify.region import Region
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Certificate, Status, ThreatModel
from robustscope.models.classifier import Classifier

ROUNDING = {torch.float32: 3e-5, torch.float64: 1e-11}
"""A margin counts as verified if it exceeds this times (1 + the largest absolute logit of the sample).

What is guaranteed: the bounds hold for the network that the stored weights define in exact arithmetic, up to the rounding
of our own sums, which is not tracked; and the network's own forward pass rounds too. The allowance is to cover both. On
five shared networks CROWN's and DeepZ's float32 bounds exceeded the float64 ones by at most 0.2 of it wherever they were of
the size of logits; bounds far below zero differ by more, about 1e-6 of their size, and never count. Whoever needs more
gives module and inputs in float64, where both roundings are a billion times smaller.
"""


def margin_forms(graph: Graph, y: Tensor, like: Tensor) -> Tensor:
    """Return the differences z_y - z_j for every other class j, by increasing j: (B, K - 1, K).

    Raises:
        InvalidValue: for a label that is no class, or fewer than two classes.
    """
    classes = graph.classes
    if classes < 2 or (len(y) and (int(y.min()) < 0 or int(y.max()) >= classes)):
        raise InvalidValue(
            f"labels from {int(y.min())} to {int(y.max())} were given for {classes} logits",
            "two logits or more, and labels from 0 on, are allowed",
            "Number the classes from 0 in the model's order.",
        )
    index = torch.arange(classes - 1, device=y.device)[None]
    others = index + (index >= y[:, None])
    unit = torch.eye(classes, dtype=like.dtype, device=like.device)
    return unit[y][:, None] - unit[others]


@dataclass(eq=False)
class Work:
    """A batch under certification, and what has been found so far.

    Args:
        graph: of the model.
        region: (B samples).
        forms: (B, K - 1, K).
        logits: (B, K), clean.
        margin: (B,), the best lower bound so far; -inf before the first.
        rows: int64 (B,).
        allowance: (B,), what a margin must exceed to count.
        hopeless: bool (B,), misclassified samples: no bound can be above 0.
        late: bool (B,), samples whose time was up.
        deadline: of ``time.perf_counter``.
    """

    graph: Graph
    region: Region
    forms: Tensor
    logits: Tensor
    margin: Tensor
    rows: Tensor
    allowance: Tensor
    hopeless: Tensor
    late: Tensor
    deadline: float
    began: float = field(default_factory=time.perf_counter)

    def open(self) -> Tensor:
        """Return the positions of the samples that can still be verified: int64 (b,)."""
        return (~self.late & self.undecided()).nonzero()[:, 0]

    def undecided(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Tell which of some samples are neither verified nor hopeless: bool (b,)."""
        return ~self.hopeless[rows] & (self.margin[rows] <= self.allowance[rows])

    def learn(self, rows: Tensor, margin: Tensor, cost: Tensor) -> None:
        """Keep the better of the known and the new lower bounds of some samples."""
        self.margin[rows] = torch.maximum(self.margin[rows], margin.detach())
        self.rows[rows] += cost

    def in_parts(self, rows: Tensor, size: int, step: Callable[[Tensor], object]) -> None:
        """Call ``step`` on parts of some samples until the time is up; those that are left are late."""
        for part in rows.split(max(1, size)) if len(rows) else ():
            if time.perf_counter() > self.deadline:
                self.late[part] = True
            else:
                step(part)

    def certificate(self) -> Certificate:
        """Return what was found."""
        status = statuses(self.margin > self.allowance, self.late)
        seconds = time.perf_counter() - self.began
        return Certificate(self.margin, status, torch.ones_like(self.rows), self.rows, seconds)


def statuses(verified: Tensor, late: Tensor) -> tuple[Status, ...]:
    """Return the status of each sample: "verified", else "timeout" where it is late, else "unknown"."""
    pairs = zip(verified.tolist(), late.tolist(), strict=True)
    return tuple("verified" if good else "timeout" if slow else "unknown" for good, slow in pairs)


def clock(timeout: float | None) -> tuple[float, float]:
    """Return when a call begins and when its time is up, of ``time.perf_counter``.

    Raises:
        InvalidValue: for a timeout that is not above 0.
    """
    if timeout is not None and not timeout > 0:
        raise InvalidValue(f"timeout={timeout} was given", "seconds > 0, or None, are allowed", "Write e.g. 60.")
    began = time.perf_counter()
    return began, math.inf if timeout is None else began + timeout


def begin(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    timeout: float | None = None,
    dtype: torch.dtype | None = None,
) -> Work | None:
    """Trace the model and lay out the batch; None for an empty batch.

    Args:
        model: classifier whose module can be traced.
        x: (B, *S), inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        timeout: seconds for the call, or None.
        dtype: in which to compute, if not that of ``x``; what the model's own rounding is allowed stays that of ``x``.

    Raises:
        InvalidValue: for a network that cannot be traced, labels that are no classes, or a timeout that is not above 0.
        ModelError: if the traced network is not the model.
    """
    began, deadline = clock(timeout)
    if not len(x):
        return None
    graph, logits = trace(model, x, dtype)
    region = Region.of(threat, x, dtype)
    allowance = ROUNDING.get(x.dtype, 1e-5) * (1 + logits.abs().amax(1))
    none = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    return Work(
        graph=graph,
        region=region,
        forms=margin_forms(graph, y, region.x),
        logits=logits,
        margin=region.x.new_full((len(x),), -torch.inf),
        rows=torch.zeros(len(x), dtype=torch.int64, device=x.device),
        allowance=allowance.to(region.x),
        hopeless=logits.argmax(1) != y,
        late=none,
        deadline=deadline,
        began=began,
    )


def check_limit(name: str, value: int | None) -> None:
    """Refuse a budget that is neither None nor 1 or more.

    Raises:
        InvalidValue: naming it.
    """
    if value is not None and value < 1:
        raise InvalidValue(f"{name}={value} was given", "an integer >= 1, or None, is allowed", "Leave it out.")


def empty(x: Tensor) -> Certificate:
    """Return the certificate of no samples."""
    none = torch.zeros(0, dtype=torch.int64, device=x.device)
    return Certificate(x.new_zeros(0), (), none, none.clone(), 0.0)


def batch_of(graph: Graph, x: Tensor, memory: int) -> int:
    """Return how many samples may be bounded at once when all their values are kept, at least 1."""
    values = sum(torch.Size(node.shape).numel() for node in graph.nodes)
    return max(1, memory * 2**20 // (6 * values * x.element_size()))
