"""What every probe of causes must keep: form, one sample at a time, no trace, one result for a seed, and what it claims.

A check is a function of a card and a norm that raises :class:`ContractBroken`. :func:`check_why` runs them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from robustscope.contracts.broken import ContractBroken
from robustscope.contracts.explained import gaps_of
from robustscope.contracts.manners import traces
from robustscope.contracts.runner import CheckResult, outcome
from robustscope.contracts.trial import MODERATE, ModelWatch, other_global_numbers, subject
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue, ModelError
from robustscope.core.types import NORMS, Norm, ThreatModel
from robustscope.data import problems
from robustscope.data.problems import Problem
from robustscope.models.classifier import Classifier
from robustscope.probes.why.cards import Change, Findings, WhyCard
from robustscope.probes.why.compose import investigate, merge

TOLERANCE = 1e-7
"""Allowed relative gap in float64: other batches add up in another order, and steps of an ascent carry that on."""

COUNT = 6


def _networks(dtype: torch.dtype = torch.float64) -> tuple[Problem, ...]:
    """Return a network without kinks and one with batch norm, ReLU and dropout; both take images (2, 6, 6)."""
    return problems.smooth_cnn(dtype, COUNT), problems.normalised_cnn(dtype, COUNT)


def _radii(norm: Norm) -> tuple[float, ...]:
    return tuple(MODERATE[norm] * (0.5 + 0.25 * i) for i in range(COUNT))


def _call(
    card: WhyCard,
    problem: Problem,
    norm: Norm,
    rows: Tensor | None = None,
    *,
    model: Classifier | None = None,
    **facts: Any,
) -> Findings:
    """Call a probe through its door with its quick parameters; each sample has its own id, label and radius.

    Every other sample is given a label that the network does not predict.
    """
    rows = torch.arange(len(problem.x)) if rows is None else rows
    y = (problem.y + torch.arange(len(problem.y)) % 2) % 4
    threat = ThreatModel(norm, _radii(norm)[: len(problem.x)]).select(rows)
    draws = Draws(facts.get("seed", 0), tuple((rows + 100).tolist()))
    model = subject(problem, facts.get("batch_size", 256)) if model is None else model
    given = problem.x[rows], y[rows]
    targets = (y[rows] + 1 + rows % 3) % 4 if card.inputs == "cue conflict" else None
    found = investigate(card, model, *given, threat, targets=targets, draws=draws, **card.quick)
    for name, one, two in zip("xy", given, (problem.x[rows], y[rows]), strict=True):
        if not torch.equal(one, two):
            raise _broken(card, f"changed {name} in place", "leaving it as it was", "Work on a copy.")
    if not isinstance(found, Findings):
        raise _broken(card, f"returned a {type(found).__name__}", "Findings", "See robustscope.probes.why.cards.")
    return found


def _broken(card: WhyCard, seen: str, allowed: str, remedy: str = "") -> ContractBroken:
    return ContractBroken(f"the probe {card.name!r} {seen}", f"{allowed} is allowed", remedy)


def difference(a: Findings, b: Findings, tolerance: float = 0.0) -> str:
    """Say how two findings differ by more than a relative ``tolerance``, or return the empty text."""
    for kind in ("columns", "figures", "pictures"):
        one, two = getattr(a, kind), getattr(b, kind)
        if one.keys() != two.keys():
            return f"{kind} {sorted(one)} are not {sorted(two)}"
        for name in one:
            first, second = (np.asarray(value, dtype=np.float64) for value in (one[name], two[name]))
            if first.shape != second.shape:
                return f"{name} has shape {first.shape} in one and {second.shape} in the other"
            if not np.allclose(first, second, rtol=tolerance, atol=tolerance, equal_nan=True):
                return f"{name} differs by up to {float(np.nanmax(np.abs(first - second))):.3g}"
    return ""


def keeps_form(card: WhyCard, norm: Norm) -> None:
    """Columns (B,) in the dtype of the inputs, finite but for gaps declared; pictures (B, ...); also one sample and none."""
    for dtype in (torch.float32, torch.float64):
        for problem in _networks(dtype):
            for count in (COUNT, 1, 0):
                found = _call(card, problem, norm, torch.arange(count))
                wrong = [
                    *(fault for name, column in found.columns.items() for fault in _faults(card, name, column, count)),
                    *(
                        f"{name} of {value!r}"
                        for name, value in found.figures.items()
                        if not isinstance(value, float) or not np.isfinite(value)
                    ),
                    *(f"{name} of shape {tuple(p.shape)}" for name, p in found.pictures.items() if len(p) != count),
                    *(f"{name} with a graph" for name, p in found.pictures.items() if p.requires_grad),
                    *_stray_axes(found),
                ]
                wrong += [f"{c} of {found.columns[c].dtype}" for c in found.columns if found.columns[c].dtype != dtype]
                if wrong:
                    seen = f"returned {', '.join(wrong[:4])} for {count} samples of {dtype}"
                    raise _broken(card, seen, "one finite number for each sample, in its dtype,")


def _faults(card: WhyCard, name: str, column: Tensor, count: int) -> Iterable[str]:
    if column.shape != (count,):
        yield f"{name} of shape {tuple(column.shape)}"
    if column.requires_grad:
        yield f"{name} with a graph"
    if not bool((torch.isfinite(column) | (torch.isnan(column) if name in card.gaps else False)).all()):
        yield f"{name} that is not finite"


def _stray_axes(found: Findings) -> Iterable[str]:
    for name, axes in found.axes.items():
        if name not in found.pictures:
            yield f"axes of {name!r}, which is no picture"
        elif [len(axis) for axis in axes] != list(found.pictures[name].shape[-len(axes) :]):
            yield f"axes of {name!r} of other lengths than its last dimensions"


def couples_no_samples(card: WhyCard, norm: Norm) -> None:
    """Cut here or inside the classifier, merged again, or in another order: the same findings (1e-7); figures too."""
    for problem in _networks():
        whole = _call(card, problem, norm)
        for size in (1, 4):
            parts = [_call(card, problem, norm, rows) for rows in torch.arange(COUNT).split(size)]
            seen = difference(whole, merge(parts), TOLERANCE)
            seen = seen or next((f"figures: {s}" for p in parts if (s := _figures_apart(whole, p))), "")
            if seen:
                raise _broken(card, f"gave other findings for {size} samples at a time: {seen}", "the same for each")
        seen = difference(whole, _call(card, problem, norm, batch_size=2), TOLERANCE)
        if seen:
            raise _broken(card, f"gave other findings where the classifier cuts into pairs: {seen}", "the same")
        order = torch.tensor([4, 0, 2, 5, 1, 3])
        moved, back = _call(card, problem, norm, order), order.argsort()
        again = Findings(
            {name: column[back] for name, column in moved.columns.items()},
            moved.figures,
            {name: picture[back] for name, picture in moved.pictures.items()},
        )
        seen = difference(whole, again, TOLERANCE)
        if seen:
            raise _broken(card, f"gave other findings in another order: {seen}", "what moves with its sample")


def _figures_apart(a: Findings, b: Findings) -> str:
    return difference(Findings(figures=a.figures), Findings(figures=b.figures), TOLERANCE)


def leaves_no_trace(card: WhyCard, norm: Norm) -> None:
    """Model, global generators, switches and the terminal are as before; the inputs too, as in every check."""
    for problem in _networks(torch.float32):
        parameters = list(problem.module.parameters())
        parameters[0].requires_grad_(False)
        parameters[1].grad = torch.full_like(parameters[1], 0.25)
        watch = ModelWatch(problem.module)
        _, changed = traces(lambda problem=problem: _call(card, problem, norm))
        changed = [*watch.changes(), *changed]
        if changed:
            raise _broken(card, f"changed {', '.join(changed[:4])}", "leaving everything as it was", "Work on copies.")


def same_seed_same_result(card: WhyCard, norm: Norm) -> None:
    """The same seed gives the same bits whatever the global generators hold."""
    problem = _networks()[0]
    with other_global_numbers(1):
        first = _call(card, problem, norm)
    with other_global_numbers(2):
        second = _call(card, problem, norm)
    seen = difference(first, second)
    if seen:
        raise _broken(card, f"gave two results for one seed: {seen}", "the same bits", "Draw from `draws` alone.")


class _Moved(nn.Module):
    """A network whose logits are multiplied by a factor and shifted by a number."""

    def __init__(self, inner: nn.Module, factor: float, shift: float) -> None:
        super().__init__()
        self.inner, self.factor, self.shift = inner, factor, shift
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K)."""
        return self.inner(x) * self.factor + self.shift


MOVES: dict[Change, tuple[float, float]] = {"scale": (2.5, 0.0), "shift": (1.0, 3.25)}


def is_as_invariant_as_it_claims(card: WhyCard, norm: Norm) -> None:
    """What the card says that a scale or a shift of the logits leaves alone, they do (1e-7)."""
    for problem in _networks():
        plain = _call(card, problem, norm)
        for change, (factor, shift) in MOVES.items():
            claimed = [name for name, changes in card.invariant.items() if change in changes]
            if not claimed:
                continue
            moved = Classifier(_Moved(problem.module, factor, shift), problem.bounds)
            after = _call(card, problem, norm, model=moved)
            for name in claimed:
                pair = (_named(found, name) for found in (plain, after))
                seen = difference(*(Findings({name: value}) for value in pair), TOLERANCE)
                if seen:
                    allowed = f"what is invariant to a {change} of the logits, as its card says,"
                    raise _broken(card, f"changed with them: {seen}", allowed, "Correct the measure or the card.")


def _named(found: Findings, name: str) -> Tensor:
    return found.columns[name] if name in found.columns else torch.tensor([found.figures[name]])


def survives_flat_gradients(card: WhyCard, norm: Norm) -> None:
    """Networks whose gradient is zero, so small that its square underflows, or missing, give numbers, gaps or an error."""
    for make in (problems.flat_gradients, problems.faint_gradients, problems.constant):
        problem = make(torch.float32, COUNT)
        try:
            found = _call(card, problem, norm)
        except (InvalidValue, ModelError):
            continue
        for name, column in found.columns.items():
            if any(_faults(card, name, column, COUNT)):
                seen = f"returned {name} = {column.tolist()} for {make.__name__}"
                raise _broken(card, seen, "a number, or NaN where the card has a gap,", "Declare the gap.")


def says_what_it_returns(card: WhyCard, norm: Norm) -> None:
    """Columns and figures are those that the card declares, each with its meaning; and it returns one at least."""
    found = _call(card, _networks()[0], norm)
    gaps = []
    for kind, declared, returned in (
        ("column", card.columns, found.columns),
        ("figure", card.figures, found.figures),
    ):
        gaps += [f"the {kind} {name!r} is not declared" for name in set(returned) - set(declared)]
        gaps += [f"the {kind} {name!r} is not returned" for name in set(declared) - set(returned)]
        gaps += [f"the {kind} {name!r} has no meaning" for name, words in declared.items() if not words.strip()]
    known = {**card.columns, **card.figures}
    for kind, names in (("robust", card.robust), ("gaps", card.gaps), ("invariant", card.invariant)):
        gaps += [f"{kind} names {name!r}, which it does not return" for name in names if name not in known]
    gaps += [f"robust[{name!r}]={way!r}" for name, way in card.robust.items() if way not in ("higher", "lower")]
    gaps += [f"a gap of {name!r} without a reason" for name, words in card.gaps.items() if not words.strip()]
    gaps += [
        f"invariant[{name!r}]={ways!r}"
        for name, ways in card.invariant.items()
        if not set(ways) <= set(get_args(Change))
    ]
    if not known:
        gaps.append("there is neither a column nor a figure")
    if gaps:
        raise _broken(card, f"does not say what it returns: {'; '.join(sorted(gaps))}", "a complete card")


def explains_itself(card: WhyCard, norm: Norm) -> None:
    """The card is complete, every parameter and every error is documented."""
    gaps = gaps_of(card.function, {"source": card.source, "bibtex": card.bibtex, "norms": card.norms})
    if not set(card.norms) <= set(NORMS):
        gaps.append(f"norms={card.norms}")
    card.resolve({name: parameter.default for name, parameter in card.parameters.items()})
    card.resolve(card.quick)
    card.resolve(card.brief)
    if gaps:
        raise _broken(card, f"does not explain itself: {'; '.join(sorted(gaps))}", "a complete card and docstring")


WHY_CHECKS: dict[str, Callable[[WhyCard, Norm], None]] = {
    check.__name__: check
    for check in (
        keeps_form,
        couples_no_samples,
        leaves_no_trace,
        same_seed_same_result,
        is_as_invariant_as_it_claims,
        survives_flat_gradients,
        says_what_it_returns,
        explains_itself,
    )
}


def check_why(card: WhyCard, norms: Iterable[Norm] | None = None) -> list[CheckResult]:
    """Run all checks on a probe of causes; an exception of any kind is a failure with its reason.

    Args:
        card: of the probe, registered or not.
        norms: to check, among those of the card; None checks all.
    """
    return [run_why_check(name, card, norm) for norm in (card.norms if norms is None else norms) for name in WHY_CHECKS]


def run_why_check(name: str, card: WhyCard, norm: Norm) -> CheckResult:
    """Run one check, with what ``known_failures`` foretells taken into account."""
    return outcome(WHY_CHECKS[name], name, card, norm)
