"""An exact verifier for small piecewise linear networks, by mixed-integer linear programming."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import Bounds as VariableBounds
from scipy.optimize import LinearConstraint
from scipy.optimize import milp as solve
from torch import Tensor

from robustscope.certify.bounds import Bounds, backward
from robustscope.certify.cards import register
from robustscope.certify.crown import relax
from robustscope.certify.layers import LAYERS
from robustscope.certify.margins import Work, begin, empty
from robustscope.certify.program import Expression, Program, check_layers, encode, weights
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Certificate, ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{tjeng2019evaluating,
  title = {Evaluating Robustness of Neural Networks with Mixed Integer Programming},
  author = {Tjeng, Vincent and Xiao, Kai Y. and Tedrake, Russ},
  booktitle = {International Conference on Learning Representations},
  year = {2019}
}"""

CURVES = ("Sigmoid", "Softplus", "Tanh")

OPTIMAL, OUT_OF_TIME, INFEASIBLE = 0, 1, 2
"""What SciPy calls the outcomes of HiGHS; all others decide nothing."""

DUAL = 1e-7
"""The solver's dual feasibility tolerance: its bounds may be off by this times the width of every variable."""


@register(
    "milp",
    version=1,
    source="Tjeng, Xiao, Tedrake, 2019, arXiv:1711.07356, Sec. 4",
    bibtex=BIBTEX,
    norms=("linf", "l1"),
    layers=tuple(layer for layer in LAYERS if layer not in CURVES),
)
def milp(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    margins: Literal["decide", "exact"] = "decide",
    sample_timeout: float = 60.0,
    binaries: int = 2000,
    memory: int = 64,
    timeout: float | None = None,
) -> Certificate:
    """Decide whether a sample can be broken: minimise each margin over the network written as linear constraints.

    A ReLU between the bounds l < 0 < u of its input z is y >= 0, y >= z, y <= u a, y <= z - l (1 - a), a in {0, 1}; all
    others are affine. The bounds are CROWN's, the solver is SciPy's HiGHS. Samples that CROWN verifies never reach it, nor
    do other classes that CROWN rules out; the rest are asked from the nearest class on, until one is reached.

    A point that the solver finds is moved into the threat set and shown to the network. Where the network itself calls it
    another class, ``x_adv`` holds it; the sample is "unknown", for a certificate knows no "broken".

    Args:
        model: classifier whose module can be traced and is piecewise linear.
        x: (B, *S), inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        margins: "decide" stops at the first point below the limit; "exact" gives the least margin of each sample that
            CROWN leaves open.
        sample_timeout: seconds of the solver for one sample, > 0; where they are up first, it is "timeout".
        binaries: most open signs of a sample, >= 1; one that has more is "timeout" at once.
        memory: mebibytes that one batch of CROWN's forms may take.
        timeout: seconds for the call; samples not reached by then are "timeout". None: no limit.

    Returns:
        Lower bounds of the margins, and ``x_adv``.

    Raises:
        InvalidValue: for numbers out of range, and for a network that cannot be traced or is not piecewise linear, naming
            the layer.

    Source: Tjeng, Xiao, Tedrake 2019, arXiv:1711.07356, Sec. 4.1 (ReLU), App. A.2 (max pooling); one program for each
        other class, where the paper has one with the largest other logit.

    Departures: HiGHS computes in floating point, so this is no proof in exact arithmetic. Every constraint is loosened by
        twice the solver's feasibility tolerance of 1e-6, so that no point of the network is cut off by it, and a margin
        must exceed, beside what all certificates must, its dual tolerance times the widths of all variables, and 1e-6.
        Smaller margins are "unknown". A solver that says neither "optimal", "infeasible" nor "out of time" decides nothing.
    """
    if not sample_timeout > 0 or binaries < 1:
        raise InvalidValue(
            f"sample_timeout={sample_timeout} and binaries={binaries} were given",
            "seconds > 0 and a number >= 1 are allowed",
            "Begin with 60 and 2000.",
        )
    work = begin(model, x, y, threat, timeout, torch.float64)
    if work is None:
        return empty(x)
    check_layers(work.graph)
    search = _Search(model, x, y, threat, work, margins == "exact", sample_timeout, binaries)
    relax(work, "crown", True, memory, then=search.settle)
    proof = work.certificate()
    margin = proof.lower_margin.to(x.dtype)
    return replace(proof, lower_margin=margin, forward=proof.forward + search.tries, x_adv=search.found)


class _Search:
    """The samples that CROWN leaves open, one after the other."""

    def __init__(
        self,
        model: Classifier,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        work: Work,
        exact: bool,
        seconds: float,
        binaries: int,
    ) -> None:
        self.model, self.x, self.y, self.threat, self.work = model, x, y, threat, work
        self.exact, self.seconds, self.binaries = exact, seconds, binaries
        self.matrices = weights(work.graph, x.device)
        self.found, self.tries = x.clone(), torch.zeros_like(y)

    def settle(self, rows: Tensor, bounds: Bounds) -> None:
        """Ask the solver about some samples, given CROWN's bounds of everything."""
        for i in range(len(rows)):
            part = torch.tensor([i], device=rows.device)
            self._settle(rows[part], bounds.select(part))

    def _settle(self, row: Tensor, bounds: Bounds) -> None:
        work, deadline = self.work, min(time.perf_counter() + self.seconds, self.work.deadline)
        program, logits = encode(bounds, self.matrices)
        if sum(program.whole) > self.binaries:
            work.late[row] = True
            return
        last, forms = len(work.graph.nodes) - 1, work.forms[row]
        known = backward(bounds, last, forms, close=True)[0].cpu().numpy()
        limit = lowest = float(work.allowance[row])
        tolerance = 1e-6 + DUAL * float(np.sum(np.subtract(program.high, program.low)))
        for j in np.argsort(known, kind="stable"):
            if known[j] > (known.min() if self.exact else limit):
                continue
            objective = logits.weighted(forms[0, j].cpu().numpy())
            cutoff = None if self.exact else limit + 2 * tolerance
            answer = minimise(program, objective, deadline - time.perf_counter(), cutoff)
            if answer.bound is not None:
                known[j] = max(known[j], answer.bound - tolerance)
            if answer.late:
                work.late[row] = True
            fell = answer.point is not None and answer.value < lowest and self._breaks(row, answer.point)
            lowest = answer.value if fell else lowest
            if answer.late or (not self.exact and (fell or known[j] <= limit)):
                break
        margin = work.margin.new_tensor([known.min()])
        work.learn(row, margin, torch.full_like(row, forms.shape[1]))

    def _breaks(self, row: Tensor, point: np.ndarray) -> bool:
        """Tell whether the network itself calls a point of the threat set another class; keep it if it does."""
        near = self.x.new_tensor(point[: self.x[0].numel()]).view_as(self.x[row])
        moved = balls.project(self.threat.select(row), self.x[row], near)
        self.tries[row] += 1
        if not bool(is_adversarial(self.model.logits(moved), self.y[row])):
            return False
        self.found[row] = moved
        return True


class Answer(NamedTuple):
    """What the solver says of a form.

    Args:
        bound: no point is below it, up to the solver's tolerance; None where it gives none.
        point: values of all variables, where it has found some.
        value: of the form there.
        late: whether its time was up.
    """

    bound: float | None
    point: np.ndarray | None
    value: float
    late: bool


def minimise(program: Program, form: Expression, seconds: float, cutoff: float | None = None) -> Answer:
    """Minimise an expression over a program.

    Args:
        program: of :func:`encode`.
        form: a single value.
        seconds: that the solver may take.
        cutoff: stop at the first point at or below it; if there is none, it is the bound.
    """
    if seconds <= 0:
        return Answer(None, None, np.inf, True)
    row, constant = program.widened(form.matrix), float(form.constant[0])
    matrix, low, high = program.constraints()
    options: dict[str, float] = {"time_limit": seconds, "mip_rel_gap": 0.0}
    if cutoff is not None:
        matrix = sparse.csr_array(sparse.vstack([matrix, row]))
        low, high = np.append(low, -np.inf), np.append(high, cutoff - constant)
        options["mip_rel_gap"] = np.inf
    limits = () if not matrix.shape[0] else (LinearConstraint(matrix, low, high),)
    between = VariableBounds(np.array(program.low), np.array(program.high))
    whole = np.array(program.whole)
    result = solve(row.toarray()[0], integrality=whole, bounds=between, constraints=limits, options=options)
    if result.status == INFEASIBLE and cutoff is not None:
        return Answer(cutoff, None, np.inf, False)
    if result.status not in (OPTIMAL, OUT_OF_TIME):
        return Answer(None, None, np.inf, False)
    late, point = result.status == OUT_OF_TIME, result.x
    bound = result.mip_dual_bound if whole.any() else None if late else result.fun
    value = np.inf if point is None else float(row.toarray()[0] @ point) + constant
    return Answer(None if bound is None else float(bound) + constant, point, value, late)
