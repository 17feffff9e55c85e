"""Bounds of every value of a network over a region: forward as intervals, backward as linear forms.

*Forward* an affine map takes a box to the box around its image, and the first one takes a ball to its exact range.
*Backward* (CROWN) a linear form of some value is carried towards the input: through affine maps by their transposes,
through nonlinear maps by the line below or above according to the sign of each coefficient. At the input its least
value over the region is known.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from robustscope.certify.graph import Graph
from robustscope.certify.operations import Affine, Convolution, Matrix
from robustscope.certify.region import DUAL, Region
from robustscope.certify.relaxations import Lines, MaxPool, Nonlinear
from robustscope.certify.slopes import Slopes

Intermediate = Literal["crown", "ibp"]


class Span(NamedTuple):
    """A lower and an upper bound of a value: (B, *S) each."""

    lower: Tensor
    upper: Tensor

    def select(self, rows: Tensor) -> Span:
        """Return the bounds of some samples."""
        return Span(self.lower[rows], self.upper[rows])


class Effort(NamedTuple):
    """What closer bounds of hidden values may cost.

    Args:
        forms: most linear forms that a sample may send backward; None for any number.
        deadline: of ``time.perf_counter``.
        steps: of ascent over the slopes, for every bound by itself; 0 keeps CROWN's slopes.
        step_size: of the ascent.
    """

    forms: int | None = None
    deadline: float = math.inf
    steps: int = 0
    step_size: float = 0.25


ONCE = Effort()


@dataclass(eq=False)
class Bounds:
    """What is known of a network over a region.

    Args:
        graph: the network.
        region: the inputs.
        spans: bounds of the nodes.
        lines: lines of the nonlinear nodes that act on single values.
        rows: int64 (B,), linear forms that each sample has sent backward.
        exact: nodes whose bounds no method can improve.
        spent: bool (B,), samples that a limit has kept from closer bounds; what they have is sound.
    """

    graph: Graph
    region: Region
    spans: dict[int, Span] = field(default_factory=dict)
    lines: dict[int, Lines] = field(default_factory=dict)
    rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    exact: set[int] = field(default_factory=set)
    spent: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))

    def select(self, rows: Tensor) -> Bounds:
        """Return what is known of some samples."""
        return Bounds(
            self.graph,
            self.region.select(rows),
            {number: span.select(rows) for number, span in self.spans.items()},
            {number: lines.select(rows) for number, lines in self.lines.items()},
            self.rows[rows],
            self.exact,
            self.spent[rows],
        )


def bound(
    graph: Graph,
    region: Region,
    intermediate: Intermediate = "ibp",
    memory: int = 256,
    effort: Effort = ONCE,
    known: Bounds | None = None,
) -> Bounds:
    """Return bounds of every nonlinear map's input, and its lines.

    Args:
        graph: the network.
        region: the inputs.
        intermediate: "ibp" stops at intervals; "crown" carries the forms of every value back whose interval still
            leaves room, which for ReLU are those whose sign is open.
        memory: mebibytes that one batch of forms may take at its widest.
        effort: what "crown" may cost; a sample that reaches a limit keeps the intervals that it has.
        known: bounds found before, from which to go on.
    """
    count = torch.zeros(len(region.x), dtype=torch.int64, device=region.x.device)
    bounds = Bounds(graph, region, rows=count, spent=count > 0)
    images: dict[int, Tensor] = {}  # for maps of single values from the input on: the factor of each
    for number, node in enumerate(graph.nodes):
        operation = node.operation
        if operation is None:
            bounds.spans[number] = Span(region.lower, region.upper)
            images[number] = torch.ones_like(region.x[:1])
            bounds.exact.add(number)
        elif isinstance(operation, Affine):
            bounds.spans[number] = _through(operation, [bounds.spans[i] for i in node.inputs])
            first = images.get(node.inputs[0]) if len(node.inputs) == 1 else None
            if first is not None:
                _use_ball(bounds, images, number, operation, first)
        else:
            before = node.inputs[0]
            if known is not None:
                bounds.spans[before] = _both(bounds.spans[before], known.spans[before])
            if intermediate == "crown" and before not in bounds.exact:
                tighten(bounds, before, operation, memory, effort)
                bounds.exact.add(before)  # not twice for two maps of one value
            span = bounds.spans[before]
            bounds.spans[number] = Span(operation.value(span.lower), operation.value(span.upper))
            if isinstance(operation, Nonlinear):
                bounds.lines[number] = operation.lines(*span)
    return bounds


def _both(one: Span, two: Span) -> Span:
    """Return what two sound spans say together; they can cross by rounding alone."""
    lower, upper = torch.maximum(one.lower, two.lower), torch.minimum(one.upper, two.upper)
    return Span(torch.minimum(lower, upper), torch.maximum(lower, upper))


def _through(operation: Affine, spans: list[Span]) -> Span:
    middle = operation.forward(*((span.lower + span.upper) / 2 for span in spans))
    reach = operation.spread(*((span.upper - span.lower) / 2 for span in spans))
    return Span(middle - reach, middle + reach)


def _use_ball(bounds: Bounds, images: dict[int, Tensor], number: int, operation: Affine, scale: Tensor) -> None:
    """Bound a value that is an affine map of the input by the ball, not by the box around it."""
    region = bounds.region
    if operation.plain:
        images[number] = operation.linear(scale)
        return
    if not isinstance(operation, (Matrix, Convolution)):
        return
    bounds.exact.add(number)
    if region.norm == "linf":
        return
    # The centre's image: follow the chain of maps of single values from the input.
    chain, at = [], number
    while at:
        chain.append(bounds.graph.nodes[at].affine)
        at = bounds.graph.nodes[at].inputs[0]
    middle = region.x
    for each in reversed(chain):
        assert each is not None  # the chain holds affine maps only
        middle = each.forward(middle)
    reach = operation.lengths(scale, DUAL[region.norm]) * region.radius.view(-1, *([1] * (middle.dim() - 1)))
    span = bounds.spans[number]
    bounds.spans[number] = Span(torch.maximum(span.lower, middle - reach), torch.minimum(span.upper, middle + reach))


def tighten(bounds: Bounds, number: int, operation: Nonlinear | MaxPool, memory: int, effort: Effort = ONCE) -> None:
    """Replace the interval of a node by backward bounds where those are closer and it matters for ``operation``."""
    span = bounds.spans[number]
    for sign in (1.0, -1.0):
        # Under a ReLU, a value whose lower bound has just been found to be >= 0 needs no upper bound any more.
        loose = operation.loose(*span) if isinstance(operation, Nonlinear) else span.lower < span.upper
        found = _values(bounds, number, loose.flatten(1), sign, memory, effort)
        found = found.view_as(span.lower)
        endless = torch.full_like(found, torch.inf)
        span = _both(span, Span(found, endless) if sign > 0 else Span(-endless, -found))
    bounds.spans[number] = span


def _values(bounds: Bounds, number: int, wanted: Tensor, sign: float, memory: int, effort: Effort) -> Tensor:
    """Return lower bounds of ``sign`` times the wanted values (B, d) of a node; -inf for the others."""
    graph, found = bounds.graph, torch.full_like(bounds.spans[number].lower.flatten(1), -torch.inf)
    counts = wanted.sum(1)
    if effort.forms is not None:
        bounds.spent |= bounds.rows + counts * (1 + effort.steps) > effort.forms
    counts = counts.masked_fill(bounds.spent, 0)
    capacity = max(1, capacity_of(graph, number, found, memory) // (4 if effort.steps else 1))
    order = counts.argsort(descending=True, stable=True)  # samples with as many open values together
    order = order[counts[order] > 0]
    while len(order):
        if time.perf_counter() > effort.deadline:
            bounds.spent[order] = True
            break
        most = int(counts[order[0]])
        group, order = order[: max(1, capacity // most)], order[max(1, capacity // most) :]
        part = bounds.select(group)
        bounds.rows[group] += counts[group] * (1 + effort.steps)
        # Positions of the wanted values, each sample's own first; the rest of a row repeats positions not wanted.
        places = wanted[group].to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        for piece in places.split(capacity, 1):
            forms = torch.zeros(*piece.shape, wanted.shape[1], dtype=found.dtype, device=found.device)
            forms.scatter_(2, piece[:, :, None], sign)
            least = _best(part, number, forms.unflatten(2, graph.nodes[number].shape), effort)
            found[group] = found[group].scatter(1, piece, least)
    return torch.where(wanted, found, torch.full_like(found, -torch.inf))


def _best(bounds: Bounds, number: int, forms: Tensor, effort: Effort) -> Tensor:
    """Return lower bounds of forms (B, R, *S): those of CROWN, or the best on the way of an ascent from there."""
    above, found = bounds.graph.above(number) if effort.steps else set(), []
    slopes = Slopes({i: lines for i, lines in bounds.lines.items() if i in above}, forms.shape[1])
    for _ in range(effort.steps if slopes.values else 0):
        found.append(slopes.ascend(lambda values: backward(bounds, number, forms, values), effort.step_size))
    return torch.stack([*found, backward(bounds, number, forms, slopes.values)]).amax(0)


def capacity_of(graph: Graph, number: int, like: Tensor, memory: int) -> int:
    """Return how many forms of a node fit into the memory at their widest, at least 1."""
    widest = max(_size(graph.nodes[i].shape) for i in graph.above(number))
    return max(1, memory * 2**20 // (4 * widest * like.element_size()))


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for each in shape:
        size *= each
    return size


def backward(
    bounds: Bounds,
    start: int,
    forms: Tensor,
    slopes: Mapping[int, Tensor] | None = None,
    stop: bool = False,
    close: bool = False,
) -> Tensor:
    """Return lower bounds of linear forms of a node over the region: (B, R).

    Args:
        bounds: of all nonlinear maps that the node is made of.
        start: the node.
        forms: (B, R, *S of the node).
        slopes: for some nonlinear nodes the slopes of their lower lines, (B, R, *S) or (B, 1, *S), where they are free.
        stop: do not go back through nonlinear maps, but end at the intervals of their values.
        close: see :meth:`Region.least`.
    """
    graph, region = bounds.graph, bounds.region
    pending: dict[int, Tensor] = {start: forms}
    total = forms.new_zeros(forms.shape[:2])
    for number in range(start, 0, -1):
        if number not in pending:
            continue
        carried, node = pending.pop(number), graph.nodes[number]
        if isinstance(node.operation, Affine):
            given, constant = node.operation.backward(carried.flatten(0, 1))
            total = total + constant.view(total.shape)
            parts = tuple(each.unflatten(0, total.shape) for each in given)
        elif stop:
            total = total + _least(carried, bounds.spans[number])
            continue
        else:
            part, constant = _bend(bounds, number, carried, None if slopes is None else slopes.get(number))
            total, parts = total + constant, (part,)
        for i, part in zip(node.inputs, parts, strict=True):
            pending[i] = pending[i] + part if i in pending else part
    return total + region.least(pending[0], close) if 0 in pending else total


def _least(forms: Tensor, span: Span) -> Tensor:
    """Return the least value of forms (B, R, *S) over a box (B, *S)."""
    flat = forms.flatten(2)
    middle, half = (span.lower + span.upper).flatten(1) / 2, (span.upper - span.lower).flatten(1) / 2
    return (flat @ middle[:, :, None] - flat.abs() @ half[:, :, None])[:, :, 0]


def _bend(bounds: Bounds, number: int, forms: Tensor, slopes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Carry forms back through a nonlinear map: the forms of its input, and a constant (B, R)."""
    operation = bounds.graph.nodes[number].operation
    if isinstance(operation, MaxPool):
        return _pool(bounds, number, operation, forms)
    lines = bounds.lines[number]
    positive, upper_slope, lower_slope = forms.clamp(min=0), lines.upper_slope[:, None], lines.lower_slope[:, None]
    if slopes is not None and lines.free is not None:
        lower_slope = torch.where(lines.free[:, None], slopes, lower_slope)
    # What is above the line above for all, and for coefficients >= 0 the difference of the lines on top.
    given = torch.addcmul(forms * upper_slope, positive, lower_slope - upper_slope)
    offset, gap = lines.upper_offset.flatten(1), (lines.lower_offset - lines.upper_offset).flatten(1)
    constant = forms.flatten(2) @ offset[:, :, None] + positive.flatten(2) @ gap[:, :, None]
    return given, constant[:, :, 0]


def _pool(bounds: Bounds, number: int, operation: MaxPool, forms: Tensor) -> tuple[Tensor, Tensor]:
    """Below: the value with the largest lower bound. Above: the same if none can exceed it, else the upper bound."""
    before = bounds.graph.nodes[number].inputs[0]
    winner, sure = operation.winners(*bounds.spans[before])
    flat = forms.flatten(3)
    above = flat.clamp(max=0)
    kept = torch.where(sure[:, None], flat, flat.clamp(min=0))
    top = torch.where(sure, torch.zeros_like(above[:, 0]), bounds.spans[number].upper.flatten(2))
    constant = (above * top[:, None]).sum((2, 3))
    given = forms.new_zeros(*forms.shape[:3], operation.shape[1] * operation.shape[2])
    given = given.scatter_add(3, winner[:, None].expand_as(kept), kept)
    return given.unflatten(3, operation.shape[1:]), constant
