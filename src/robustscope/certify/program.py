"""A piecewise linear network over a region as a mixed-integer linear program, one sample at a time, in float64.

Values are affine expressions of the program's variables: the inputs, and the result of each activation whose sign is open
between its bounds, with a binary variable that says on which side it is. All other activations are affine already.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from robustscope.certify.bounds import Bounds, Span
from robustscope.certify.graph import Graph
from robustscope.certify.operations import Affine
from robustscope.certify.region import Region
from robustscope.certify.relaxations import Clipped, Kinked, MaxPool
from robustscope.core.errors import InvalidValue

ROOM = 2e-6
"""By how much every constraint is loosened: twice the solver's feasibility tolerance, so that it cannot cut off a point of
the network by rounding."""

PIECE = 2**22
"""Numbers of a matrix that are computed at once."""

Array = np.ndarray


@dataclass
class Expression:
    """The values matrix @ variables + constant.

    Args:
        matrix: sparse (n, variables there were when it was made).
        constant: float64 (n,).
    """

    matrix: sparse.csr_array
    constant: Array

    def weighted(self, row: Array) -> Expression:
        """Return the sum of the values, each multiplied by its number in ``row`` (n,), as a single value."""
        return Expression(sparse.csr_array(sparse.csr_array(row[None]) @ self.matrix), np.array([row @ self.constant]))

    def rows(self, keep: Array) -> Expression:
        """Return some of the values."""
        return Expression(sparse.csr_array(self.matrix[keep]), self.constant[keep])


def weights(graph: Graph, device: torch.device) -> dict[int, tuple[list[sparse.csr_array], Array]]:
    """Return each affine node as one sparse matrix for each of its inputs, and a constant.

    Args:
        graph: in float64.
        device: where it is.
    """
    return {
        i: _matrices(node.operation, node.shape, device)
        for i, node in enumerate(graph.nodes)
        if isinstance(node.operation, Affine)
    }


def _matrices(operation: Affine, shape: tuple[int, ...], device: torch.device) -> tuple[list[sparse.csr_array], Array]:
    size, pieces, constants = math.prod(shape), [], []
    step = max(1, PIECE // max(size, 1))
    for start in range(0, size, step):
        count = min(step, size - start)
        unit = torch.zeros(count, size, dtype=torch.float64, device=device)
        unit[torch.arange(count), torch.arange(start, start + count)] = 1
        given, constant = operation.backward(unit.view(count, *shape))
        pieces.append([sparse.csr_array(each.flatten(1).cpu().numpy()) for each in given])
        constants.append(constant.cpu().numpy())
    return [sparse.csr_array(sparse.vstack(column)) for column in zip(*pieces, strict=True)], np.concatenate(constants)


def check_layers(graph: Graph) -> None:
    """Refuse a network that is not piecewise linear.

    Raises:
        InvalidValue: naming the layer.
    """
    for node in graph.nodes:
        if node.operation is not None and not isinstance(node.operation, (Affine, Kinked, Clipped, MaxPool)):
            raise InvalidValue(
                f"the network holds {node.name}, which is not piecewise linear",
                "affine layers, ReLU, leaky ReLU, clipping and max pooling are allowed",
                "Bound it by 'crown' or 'deepz'.",
            )


@dataclass
class Program:
    """Variables and constraints so far.

    Args:
        low, high: bounds of the variables.
        whole: for each variable 1 if it is binary.
        blocks: constraints: matrices (m, variables) with lower and upper limits (m,).
    """

    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    blocks: list[tuple[sparse.csr_array, Array, Array]] = field(default_factory=list)

    def variables(self, low: Array, high: Array, whole: bool = False) -> Expression:
        """Add variables between bounds and return them."""
        start, count = len(self.low), len(low)
        self.low += low.tolist()
        self.high += high.tolist()
        self.whole += [int(whole)] * count
        matrix = sparse.csr_array(
            (np.ones(count), (np.arange(count), start + np.arange(count))), (count, start + count)
        )
        return Expression(matrix, np.zeros(count))

    def combine(self, terms: Sequence[tuple[float | Array, Expression]]) -> Expression:
        """Return the sum of expressions, each multiplied by a number for all values or one for each."""
        count = len(terms[0][1].constant)
        total, constant = sparse.csr_array((count, len(self.low))), np.zeros(count)
        for factor, each in terms:
            scale = np.broadcast_to(np.asarray(factor, dtype=np.float64), (count,))
            total = total + sparse.diags_array(scale) @ self.widened(each.matrix)
            constant = constant + scale * each.constant
        return Expression(sparse.csr_array(total), constant)

    def limit(
        self, terms: Sequence[tuple[float | Array, Expression]], lower: float | Array, upper: float | Array
    ) -> None:
        """Demand lower - ROOM <= sum of terms <= upper + ROOM."""
        made = self.combine(terms)
        low, high = (np.broadcast_to(np.asarray(each, float), made.constant.shape) for each in (lower, upper))
        self.blocks.append((made.matrix, low - made.constant - ROOM, high - made.constant + ROOM))

    def widened(self, matrix: sparse.csr_array) -> sparse.csr_array:
        """Return a matrix with a column for every variable there is by now."""
        if matrix.shape[1] == len(self.low):
            return matrix
        return sparse.csr_array((matrix.data, matrix.indices, matrix.indptr), (matrix.shape[0], len(self.low)))

    def constraints(self) -> tuple[sparse.csr_array, Array, Array]:
        """Return all constraints as one matrix with its limits."""
        if not self.blocks:
            return sparse.csr_array((0, len(self.low))), np.zeros(0), np.zeros(0)
        matrices, low, high = zip(*self.blocks, strict=True)
        whole = sparse.csr_array(sparse.vstack([self.widened(each) for each in matrices]))
        return whole, np.concatenate(low), np.concatenate(high)

    def affine(self, parts: list[sparse.csr_array], constant: Array, given: list[Expression]) -> Expression:
        """Return the image of some values under an affine map."""
        total = constant + sum(part @ each.constant for part, each in zip(parts, given, strict=True))
        matrix = sum(part @ self.widened(each.matrix) for part, each in zip(parts, given, strict=True))
        return Expression(sparse.csr_array(matrix), np.asarray(total))

    def kink(self, z: Expression, low: Array, high: Array, slope: float = 0.0) -> Expression:
        """Return max(z, slope z) for values between bounds.

        Where the sign is open: y >= z, y >= slope z, y <= slope z + (1 - slope) high a, y <= z - (1 - slope) low (1 - a),
        a in {0, 1}.
        """
        is_open = (low < 0) & (high > 0)
        side = np.where(is_open, 0.0, np.where(low >= 0, 1.0, slope))
        rows = is_open.nonzero()[0]
        straight = self.combine([(side, z)])
        if not len(rows):
            return straight
        own, l, u = z.rows(rows), low[rows], high[rows]  # noqa: E741
        y = self.variables(np.minimum(slope * l, 0) - ROOM, u + ROOM)
        a = self.variables(np.zeros(len(rows)), np.ones(len(rows)), whole=True)
        self.limit([(1, y), (-1, own)], 0, np.inf)
        self.limit([(1, y), (-slope, own)], 0, np.inf)
        self.limit([(1, y), (-slope, own), (-(1 - slope) * u, a)], -np.inf, 0)
        self.limit([(1, y), (-1, own), (-(1 - slope) * l, a)], -np.inf, -(1 - slope) * l)
        place = sparse.csr_array((np.ones(len(rows)), (rows, np.arange(len(rows)))), (len(low), len(rows)))
        return self.combine([(1, straight), (1, Expression(place @ self.widened(y.matrix), np.zeros(len(low))))])

    def pool(self, z: Expression, low: Array, high: Array, windows: Array) -> Expression:
        """Return the largest value of each window.

        With a binary variable for each value that can win, one of which is 1: y >= z_i, y <= z_i + (top - low_i)(1 - a_i).

        Args:
            z: (n,).
            low, high: (n,), bounds.
            windows: int (m, k), positions; -1 where there is padding.
        """
        made = []
        for window in windows:
            inside = window[window >= 0]
            rows = inside[high[inside] >= low[inside].max()]
            if len(rows) == 1:
                made.append(z.rows(rows))
                continue
            top, l = np.full(1, high[rows].max()), low[rows]  # noqa: E741
            y = self.variables(np.full(1, l.max()) - ROOM, top + ROOM)
            a = self.variables(np.zeros(len(rows)), np.ones(len(rows)), whole=True)
            each = Expression(sparse.csr_array(self.widened(y.matrix)[np.zeros(len(rows), int)]), np.zeros(len(rows)))
            self.limit([(1, each), (-1, z.rows(rows))], 0, np.inf)
            self.limit([(1, each), (-1, z.rows(rows)), (top - l, a)], -np.inf, top - l)
            one = Expression(sparse.csr_array(self.widened(a.matrix).sum(0)[None]), np.zeros(1))
            self.limit([(1, one)], 1, 1)
            made.append(y)
        matrix = sparse.csr_array(sparse.vstack([self.widened(each.matrix) for each in made]))
        return Expression(matrix, np.concatenate([each.constant for each in made]))


def encode(bounds: Bounds, matrices: dict[int, tuple[list[sparse.csr_array], Array]]) -> tuple[Program, Expression]:
    """Return the program of one sample, and its logits.

    Args:
        bounds: of a single sample, in float64, for a graph that :func:`check_layers` lets pass.
        matrices: of :func:`weights`.
    """
    program, graph = Program(), bounds.graph
    values = [_inputs(program, bounds.region)]
    for number, node in enumerate(graph.nodes[1:], 1):
        given, operation = [values[i] for i in node.inputs], node.operation
        if isinstance(operation, Affine):
            values.append(program.affine(*matrices[number], given))
            continue
        low, high = _padded(bounds.spans[node.inputs[0]])
        if isinstance(operation, Kinked):
            values.append(program.kink(given[0], low, high, operation.slope))
        elif isinstance(operation, Clipped):
            kinks = [
                (sign, program.kink(_shifted(given[0], -end), low - end, high - end))
                for sign, end in ((1.0, operation.low), (-1.0, operation.high))
            ]
            values.append(_shifted(program.combine(kinks), operation.low))
        else:
            assert isinstance(operation, MaxPool)  # nothing else has passed check_layers
            values.append(program.pool(given[0], low, high, _windows(operation)))
    return program, values[-1]


def _inputs(program: Program, region: Region) -> Expression:
    x, lower, upper = (each[0].flatten().cpu().numpy() for each in (region.x, region.lower, region.upper))
    made = program.variables(lower, upper)
    if region.norm == "l1":
        distance = program.variables(np.zeros(len(x)), np.maximum(upper - x, x - lower) + ROOM)
        program.limit([(1, distance), (-1, made)], -x, np.inf)
        program.limit([(1, distance), (1, made)], x, np.inf)
        total = Expression(sparse.csr_array(distance.matrix.sum(0)[None]), np.zeros(1))
        program.limit([(1, total)], -np.inf, float(region.radius[0]))
    return made


def _padded(span: Span) -> tuple[Array, Array]:
    """Return the bounds of one sample's values with room for the rounding of the sums that gave them."""
    low, high = (each[0].flatten().cpu().numpy() for each in span)
    room = 1e-9 * (1 + np.maximum(np.abs(low), np.abs(high)))
    return low - room, high + room


def _shifted(value: Expression, by: float) -> Expression:
    return Expression(value.matrix, value.constant + by)


def _windows(operation: MaxPool) -> Array:
    """Return the flat positions of the values of each window, -1 for padding: (C H' W', kernel)."""
    places = torch.arange(math.prod(operation.shape), dtype=torch.float64).view(1, *operation.shape)
    cut: Tensor = operation.windows(places, -1.0)[0]
    return cut.transpose(1, 2).flatten(0, 1).long().numpy()
