"""What every certifier must keep: sound, exact where that is easy, one sample at a time, and without a trace.

A check is a function of a card and a norm that raises :class:`ContractBroken`. :func:`check_certifier` runs them all.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor

from robustscope.attacks.compose import attack
from robustscope.certify import CertifierCard
from robustscope.contracts.broken import ContractBroken
from robustscope.contracts.explained import gaps_of
from robustscope.contracts.manners import traces
from robustscope.contracts.runner import CheckResult, outcome
from robustscope.contracts.trial import MODERATE, ModelWatch, subject
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Certificate, Norm, ThreatModel
from robustscope.data import problems
from robustscope.data.problems import Problem
from robustscope.geometry import balls
from robustscope.geometry.losses import margin
from robustscope.models.blackbox import BlackBox
from robustscope.models.classifier import Classifier

TOLERANCE = 1e-9

SAMPLING = 0.2
"""How far a share among a hundred votes may be from the true one: four standard deviations."""


def _call(
    card: CertifierCard, problem: Problem, threat: ThreatModel, rows: Tensor | slice = slice(None)
) -> Certificate:
    """Call a certifier as :func:`robustscope.certify.certify` does, with its quick parameters."""
    model, x, y = subject(problem), problem.x[rows], problem.y[rows]
    found = _asked(card, model, x, y, threat, torch.arange(len(problem.x))[rows])
    if not isinstance(found, Certificate):
        raise _broken(card, f"returned a {type(found).__name__}", "a Certificate", "See robustscope.core.types.")
    return found


def _asked(
    card: CertifierCard, model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor
) -> Certificate:
    card.check(threat)
    draws = {"draws": Draws(0, tuple(ids.tolist()), card.name)} if card.stochastic else {}
    return card.function(model, x, y, threat, **draws, **card.resolve(card.quick))


def _certified(card: CertifierCard, problem: Problem) -> tuple[Classifier, float]:
    """Return the classifier that certificates are about, and how far off its margins may be measured."""
    if card.subject is None:
        return subject(problem), TOLERANCE
    return card.subject(subject(problem), card.resolve(card.quick)), SAMPLING


def _margins(card: CertifierCard, model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """Return margins as the certifier bounds them: of logits, or of shares where it certifies a vote."""
    logits = model.logits(x)
    return margin(logits if card.sound == "deterministic" else logits.softmax(1), y)


def _networks(card: CertifierCard, dtype: torch.dtype, count: int) -> tuple[Problem, ...]:
    """Return networks that a certifier can pass: with curves and with kinks, or a small one where curves are too much."""
    if card.layers and "Tanh" not in card.layers:
        return (problems.small_relu(dtype, count),)
    return problems.smooth_cnn(dtype, count), problems.normalised_cnn(dtype, count)


def _broken(card: CertifierCard, seen: str, allowed: str, remedy: str) -> ContractBroken:
    return ContractBroken(f"the certifier {card.name!r} {seen}", f"{allowed} is allowed", remedy)


def keeps_form(card: CertifierCard, norm: Norm) -> None:
    """One finite bound, one status and counts for each sample, in the dtype of the inputs; also for one sample and none."""
    for dtype in (torch.float32, torch.float64):
        for count, factor in ((5, 0.1), (5, 3.0), (1, 1.0), (0, 1.0)):
            problem = _networks(card, dtype, 5)[0]
            found = _call(card, problem, ThreatModel(norm, factor * MODERATE[norm]), slice(0, count))
            bound = found.lower_margin
            wrong = [
                *(["a graph"] if bound.requires_grad else []),
                *([f"{bound.dtype}"] if bound.dtype != dtype else []),
                *([f"bounds of shape {tuple(bound.shape)}"] if bound.shape != (count,) else []),
                *(["bounds that are not finite"] if not bool(torch.isfinite(bound).all()) else []),
                *([f"{len(found.status)} statuses"] if len(found.status) != count else []),
            ]
            for name in ("forward", "rows"):
                counts = getattr(found, name)
                if counts.dtype != torch.int64 or counts.shape != (count,) or bool((counts < 0).any()):
                    wrong.append(f"{name} of {counts.dtype} and shape {tuple(counts.shape)}")
            if not set(found.status) <= {"verified", "unknown", "timeout"}:
                wrong.append(f"status {found.status}")
            if wrong:
                raise _broken(card, f"returned {', '.join(wrong)} for {count} samples of {dtype}", "one of each", "")
            if bool((found.verified & ~(bound > 0)).any()):
                raise _broken(card, "verified a sample whose bound is not above 0", "margin > 0", "Compare with > 0.")


def _lowest(card: CertifierCard, model: Classifier, problem: Problem, threat: ThreatModel) -> Tensor:
    """Return the least margin that noise and PGD find for each sample: (B,)."""
    draws, steps = Draws(0, tuple(range(len(problem.x))), "certifier"), 20 if card.sound == "deterministic" else 4
    points = [balls.sample(threat, problem.x, draws, f"noise/{i}") for i in range(8)]
    gradient = model.gradient(lambda z, rows: z.gather(1, problem.y[rows][:, None])[:, 0], problem.x)[1]
    points += [balls.furthest(threat, problem.x, sign * gradient) for sign in (1.0, -1.0)]
    points.append(attack("pgd", model, problem.x, problem.y, threat, loss="margin", steps=steps).result.x_adv)
    return torch.stack([_margins(card, model, point, problem.y) for point in points]).amin(0)


def is_never_broken(card: CertifierCard, norm: Norm) -> None:
    """No point of the threat set that noise or PGD finds has a margin below the bound, whether verified or not."""
    sure = card.sound == "deterministic"
    networks = (*(_networks(card, torch.float64, 6) if sure else ()), problems.linear_boxed(torch.float64, 6))
    for problem in networks:  # a vote costs a hundred passes, so of it the linear problem is enough
        for factor in (0.1, 0.5, 2.0):
            threat = ThreatModel(norm, factor * MODERATE[norm])
            model, tolerance = _certified(card, problem)
            found, lowest = _call(card, problem, threat), _lowest(card, model, problem, threat)
            below = lowest < found.lower_margin - tolerance
            if bool(below.any()):
                row = int(below.nonzero()[0])
                raise _broken(
                    card,
                    f"bounded the margin of sample {row} by {float(found.lower_margin[row]):.6g} at {norm} epsilon "
                    f"{threat.common_epsilon:.4g}, where an attack found {float(lowest[row]):.6g}",
                    "a bound below every point of the threat set",
                    "A certificate that can be broken is worth nothing; test each layer's bounds by sampling.",
                )


def solves_the_linear_problem(card: CertifierCard, norm: Norm) -> None:
    """Two linear classes: all samples are verified at 0.98 times the exact radius, none at 1.02 times.

    What is only probable must be verified at half the radius in l2, where a linear vote is as robust as its model.
    """
    problem, sure = problems.linear_binary(norm), card.sound == "deterministic"
    for factor, due in ((0.98 if sure else 0.5, True), (1.02, False)):
        if due and not sure and norm != "l2":
            continue
        threat = ThreatModel(norm, tuple((factor * problem.radius[norm]).tolist()))
        verified = _call(card, problem, threat).verified
        if bool((verified != due).any()):
            raise _broken(
                card,
                f"verified {int(verified.sum())} of {len(verified)} samples at {factor} times their exact radius",
                f"{len(verified) if due else 0}",
                "On a linear model the least margin over a ball is the margin less epsilon times the dual norm.",
            )


def zero_epsilon_gives_the_clean_margin(card: CertifierCard, norm: Norm) -> None:
    """With a radius of zero the bound is the clean margin (1e-6), or, of what is only probable, not above it."""
    for problem in _networks(card, torch.float64, 5):
        model, tolerance = _certified(card, problem)
        clean, found = _margins(card, model, problem.x, problem.y), _call(card, problem, ThreatModel(norm, 0.0))
        # Of more than two classes a vote's runner-up is taken to hold all other votes, and one that is lost says nothing.
        apart = (
            clean - found.lower_margin if card.sound == "deterministic" else (found.lower_margin - clean).clamp(min=0)
        )
        gap = apart.abs().max()
        if not float(gap) <= max(tolerance, 1e-6):
            raise _broken(
                card,
                f"was {float(gap):.3g} off the clean margin at epsilon 0",
                f"{tolerance:.1g}",
                "Look for loose lines.",
            )


def verifies_more_in_smaller_balls(card: CertifierCard, norm: Norm) -> None:
    """What is verified at a radius is verified at half of it."""
    for problem in _networks(card, torch.float64, 8):
        small, large = (_call(card, problem, ThreatModel(norm, f * MODERATE[norm])) for f in (0.05, 0.1))
        lost = large.verified & ~small.verified
        if bool(lost.any()):
            raise _broken(card, f"lost {int(lost.sum())} samples at half the radius", "none", "Look for a wrong sign.")


def couples_no_samples(card: CertifierCard, norm: Norm) -> None:
    """Each sample alone, and all in another order with radii of their own, give the same bounds (1e-9)."""
    problem = _networks(card, torch.float64, 5)[0]
    radii = tuple(MODERATE[norm] * factor for factor in (0.02, 0.1, 0.3, 0.05, 1.0))
    whole = _call(card, problem, ThreatModel(norm, radii))
    for rows in (*torch.arange(5).split(1), torch.tensor([3, 1, 4, 0, 2])):
        threat = ThreatModel(norm, tuple(radii[i] for i in rows.tolist()))
        part = _call(card, problem, threat, rows)
        gap = (part.lower_margin - whole.lower_margin[rows]).abs().max()
        if not float(gap) <= TOLERANCE or part.status != tuple(whole.status[i] for i in rows.tolist()):
            raise _broken(
                card,
                f"gave another result, by {float(gap):.3g}, for samples {rows.tolist()}",
                "a result for each sample alone",
                "Couple no samples: no mean or maximum over the batch.",
            )


def leaves_no_trace(card: CertifierCard, norm: Norm) -> None:
    """Model, inputs, global generators and the terminal are as before; the rows sent forward are those reported."""
    problem = _networks(card, torch.float32, 4)[-1]
    parameters = list(problem.module.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.full_like(parameters[1], 0.25)
    x, y, watch = problem.x.clone(), problem.y.clone(), ModelWatch(problem.module)
    threat, model = ThreatModel(norm, MODERATE[norm] / 5), subject(problem)
    found, changed = traces(lambda: _asked(card, model, problem.x, problem.y, threat, torch.arange(4)))
    changed = [*watch.changes(), *changed]
    changed += [name for name, one, two in (("x", x, problem.x), ("y", y, problem.y)) if not torch.equal(one, two)]
    if changed:
        raise _broken(card, f"changed {', '.join(changed[:4])}", "leaving everything as it was", "Work on copies.")
    sent = int(found.forward.sum())
    if sent != model.ledger.forward or model.ledger.backward:
        seen = f"reported {sent} rows forward and sent {model.ledger.forward}, {model.ledger.backward} backward"
        raise _broken(card, seen, "the number that was sent", "Count what passes through the classifier.")


def refuses_what_it_cannot_bound(card: CertifierCard, norm: Norm) -> None:
    """A network with a rounding step is refused by an error that names the step; decisions are enough where it says so."""
    if card.access != "gradients":
        _answers_a_black_box(card, norm)
        return
    try:
        found = _call(card, problems.flat_gradients(torch.float64, 2), ThreatModel(norm, MODERATE[norm]))
    except InvalidValue as error:
        if "round" not in str(error):
            raise _broken(card, f"refused it without naming it: {error}", "naming the layer", "Say which.") from error
        return
    raise _broken(
        card, f"returned {found.status} for a network that rounds", "an error", "Trace by certify.graph.trace."
    )


def _answers_a_black_box(card: CertifierCard, norm: Norm) -> None:
    problem, threat = problems.normalised_cnn(torch.float64, 3), ThreatModel(norm, MODERATE[norm] / 5)
    model = subject(problem)
    answers = {"labels": model.decisions} if card.access == "decisions" else {"scores": model.logits}
    for kind, function in answers.items():
        box = BlackBox(function, num_classes=model.classes(problem.x), answers=cast(Any, kind))
        found = _asked(card, Classifier(box, problem.bounds), problem.x, problem.y, threat, torch.arange(3))
        if found.status != _call(card, problem, threat).status:
            raise _broken(card, f"found {found.status} through a black box of {kind}", "the same", "Ask for no more.")


def explains_itself(card: CertifierCard, norm: Norm) -> None:
    """The card is complete, every parameter and every error is documented."""
    facts: dict[str, Any] = {"source": card.source, "bibtex": card.bibtex, "norms": card.norms}
    facts |= {"layers": card.layers} if card.access == "gradients" else {}
    gaps = gaps_of(card.function, facts)
    if card.sound not in ("deterministic", "probabilistic"):
        gaps.append(f"sound={card.sound!r}")
    if card.stochastic != ("draws" in inspect.signature(card.function).parameters):
        gaps.append(f"stochastic={card.stochastic}, against its arguments")
    card.resolve(card.quick)
    if gaps:
        raise _broken(card, f"does not explain itself: {'; '.join(sorted(gaps))}", "a complete card and docstring", "")


CERTIFIER_CHECKS: dict[str, Callable[[CertifierCard, Norm], None]] = {
    check.__name__: check
    for check in (
        keeps_form,
        is_never_broken,
        solves_the_linear_problem,
        zero_epsilon_gives_the_clean_margin,
        verifies_more_in_smaller_balls,
        couples_no_samples,
        leaves_no_trace,
        refuses_what_it_cannot_bound,
        explains_itself,
    )
}


def check_certifier(card: CertifierCard, norms: Iterable[Norm] | None = None) -> list[CheckResult]:
    """Run all checks on a certifier; an exception of any kind is a failure with its reason.

    Args:
        card: of the certifier, registered or not.
        norms: to check, among those of the card; None checks all.
    """
    return [
        run_certifier_check(name, card, norm)
        for norm in (card.norms if norms is None else norms)
        for name in CERTIFIER_CHECKS
    ]


def run_certifier_check(name: str, card: CertifierCard, norm: Norm) -> CheckResult:
    """Run one check, with what ``known_failures`` foretells taken into account."""
    return outcome(CERTIFIER_CHECKS[name], name, card, norm)
