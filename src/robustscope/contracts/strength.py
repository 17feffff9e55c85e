"""Checks of an attack's strength and honesty, against problems whose answer is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustscope.attacks.cards import ATTACKS, AttackCard
from robustscope.contracts.trial import (
    GENEROUS,
    MODERATE,
    aim,
    broken,
    call,
    judged,
    require_form,
    require_inside,
    subject,
    threat_of,
)
from robustscope.core.types import Norm
from robustscope.data import problems
from robustscope.data.problems import Problem
from robustscope.geometry import balls
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier


def survives_flat_gradients(card: AttackCard, norm: str) -> None:
    """Zero gradients, gradients whose squares underflow and constant outputs give finite examples inside the set."""
    for build in (problems.flat_gradients, problems.faint_gradients, problems.constant):
        problem = build(n=5)
        threat = threat_of(norm, MODERATE[norm])
        result = call(card, subject(problem), problem.x, problem.y, threat, targets=aim(card, problem))
        require_form(card, problem.x, result)
        require_inside(card, threat, problem.x, result)


def _broken_share(card: AttackCard, problem: Problem, norm: str, seed: int = 0) -> float:
    model, threat, targets = subject(problem), threat_of(norm, MODERATE[norm]), aim(card, problem)
    result = call(card, model, problem.x, problem.y, threat, targets=targets, seed=seed)
    verdict = judged(card, model, problem.x, problem.y, threat, result, targets)
    return float((verdict.prediction != problem.y).double().mean())


def beats_noise(card: AttackCard, norm: str) -> None:
    """On a smooth network the attack breaks at least a quarter more of the samples than uniform noise does."""
    problem = problems.smooth_cnn(n=16)
    ours = _broken_share(card, problem, norm)
    noise = _broken_share(ATTACKS["noise_uniform"], problem, norm)
    if ours < noise + 0.25:
        raise broken(
            card,
            f"broke {ours:.0%} of {len(problem.x)} samples at {norm} epsilon {MODERATE[norm]:g}, uniform noise {noise:.0%}",
            "25 points more than noise",
            "Look at the sign of the gradient, the step size and the number of steps.",
        )


def _certain_problem(norm: Norm) -> tuple[Problem, tuple[float, ...], tuple[float, ...]]:
    """Return a linear problem with radii just beyond and just below the exact one."""
    if norm == "l0":
        problem = problems.linear_boxed(n=6, classes=2)
        counts = problem.radius["l0"].tolist()
        return problem, tuple(counts), tuple(count - 1 for count in counts)
    problem = problems.linear_binary(norm, n=6)
    exact = problem.radius[norm].tolist()
    return problem, tuple(1.10 * radius for radius in exact), tuple(0.98 * radius for radius in exact)


def solves_the_linear_problem(card: AttackCard, norm: Norm) -> None:
    """Two linear classes: all samples fall at 1.10 times the exact radius, none at 0.98 times (l0: at it, and below)."""
    problem, beyond, below = _certain_problem(norm)
    targets = aim(card, problem)
    for radii, due in ((beyond, len(beyond)), (below, 0)):
        # The radii are equal up to rounding, so one number serves attacks that know no radius for each sample.
        epsilon = radii if norm == "l0" else sum(radii) / len(radii)
        model, threat = subject(problem), threat_of(norm, epsilon)
        result = call(card, model, problem.x, problem.y, threat, targets=targets)
        fallen = int(judged(card, model, problem.x, problem.y, threat, result, targets).success.sum())
        if fallen != due:
            raise broken(
                card,
                f"broke {fallen} of {len(radii)} samples of the linear problem at {'1.10' if due else '0.98'} times "
                f"their exact {norm} radius",
                f"{due}",
                "On a linear model every sound attack of enough steps is optimal; look at step size and projection.",
            )


def agrees_with_certificates(card: AttackCard, norm: Norm) -> None:
    """No sample falls inside its exact radius: several linear classes, inputs on the bounds, 0.98 times each radius."""
    for problem in (problems.linear_boxed(n=12), *([] if norm == "l0" else [problems.linear_multiclass(n=6)])):
        exact = problem.radius[norm]
        radii = (exact - 1).clamp(min=0) if norm == "l0" else 0.98 * exact
        model, threat, targets = subject(problem), threat_of(norm, tuple(radii.tolist())), aim(card, problem)
        result = call(card, model, problem.x, problem.y, threat, targets=targets)
        # Judged by the forward pass alone, so that leaving the set does not hide a broken certificate.
        fallen = model.logits(result.x_adv).argmax(1) != problem.y
        if bool(fallen.any()):
            row = int(fallen.nonzero()[0])
            length = float(balls.distance(norm, problem.x, result.x_adv)[row])
            raise broken(
                card,
                f"broke {int(fallen.sum())} of {len(radii)} certified samples; row {row} is certified up to {norm} "
                f"distance {float(exact[row]):.6g}, was attacked at {float(radii[row]):.6g} and moved by {length:.6g}",
                "none",
                "The certificate is exact, so the example left its threat set: project on ball and box together.",
            )
        judged(card, model, problem.x, problem.y, threat, result, targets)


def reaches_targets(card: AttackCard, norm: str) -> None:
    """The least likely class is reached for at least half of the samples, at a radius where sound attacks reach most."""
    problem = problems.smooth_cnn(n=16)
    model, threat = subject(problem), threat_of(norm, GENEROUS[norm])
    targets = model.logits(problem.x).argmin(1)
    result = call(card, model, problem.x, problem.y, threat, targets=targets)
    reached = judged(card, model, problem.x, problem.y, threat, result, targets).success.double().mean()
    if float(reached) < 0.5:
        raise broken(
            card,
            f"reached its target for {float(reached):.0%} of {len(targets)} samples at {norm} epsilon {GENEROUS[norm]:g}",
            "50% or more",
            "Descend the loss of `targets` when they are given; `y` stays the true class.",
        )


class _Counting(nn.Module):
    """A module that counts the rows it sees."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.rows = inner, [0]

    def forward(self, x: Tensor) -> Tensor:
        self.rows[0] += len(x)
        return self.inner(x)


def counts_its_queries(card: AttackCard, norm: str) -> None:
    """The rows reported are those that passed the model, nothing bypasses the classifier, and the cost is not exceeded."""
    for problem, batch_size in ((problems.smooth_cnn(n=9), 4), (problems.constant(n=5), 256)):
        counting = _Counting(problem.module).eval()
        model = Classifier(counting, problem.bounds, batch_size=batch_size)
        targets = aim(card, problem)
        result = call(card, model, problem.x, problem.y, threat_of(norm, MODERATE[norm]), targets=targets)
        for name in ("forward", "backward"):
            said, seen = int(getattr(result, name).sum()), getattr(model.ledger, name)
            if said != seen:
                raise broken(
                    card,
                    f"reported {said} {name} rows, the classifier counted {seen}",
                    "what was counted",
                    "Add 1 to the count of each sample for each row that it sends.",
                )
        # One row may be uncounted: Classifier.classes asks for the number of classes once.
        if not model.ledger.forward <= counting.rows[0] <= model.ledger.forward + 1:
            raise broken(
                card,
                f"sent {counting.rows[0]} rows through the module, of which the classifier saw {model.ledger.forward}",
                "only calls of Classifier.logits and Classifier.gradient",
                "Never call model.module.",
            )
        _check_cost(card, result.forward, result.backward)


def _check_cost(card: AttackCard, forward: Tensor, backward: Tensor) -> None:
    if card.access in ("scores", "decisions", "none") and int(backward.sum()):
        raise broken(
            card,
            f"asked for gradients though it declares access={card.access!r}",
            "no backward row",
            "Declare 'gradients'.",
        )
    if card.access == "none" and int(forward.sum()):
        raise broken(card, "asked the model though it declares access='none'", "no row", "Declare what it needs.")
    most = card.cost(card.resolve(card.quick))
    spent = (int(forward.max()), int(backward.max()))
    if most != (0, 0) and (spent[0] > most[0] or spent[1] > most[1]):
        raise broken(
            card,
            f"spent {spent} rows on one sample, its cost forecasts at most {most}",
            "no more",
            "Correct the card's cost.",
        )


def more_restarts_never_hurt(card: AttackCard, norm: str) -> None:
    """Every sample that falls with one restart falls with two and with four, under the same seed."""
    problem = problems.smooth_cnn(n=16)
    model, threat, targets = subject(problem), threat_of(norm, MODERATE[norm] * 0.5), aim(card, problem)
    before = torch.zeros(len(problem.x), dtype=torch.bool)
    fewer = 0
    for restarts in (1, 2, 4):
        result = call(card, model, problem.x, problem.y, threat, targets=targets, restarts=restarts)
        judged(card, model, problem.x, problem.y, threat, result, targets)
        fallen = is_adversarial(model.logits(result.x_adv), problem.y, targets)
        lost = int((before & ~fallen).sum())
        if lost:
            raise broken(
                card,
                f"lost {lost} of the samples broken with restarts={fewer} at restarts={restarts}",
                "keeping every one",
                "Keep the best example of each sample, and put the restart's number into the purpose of the draws.",
            )
        before, fewer = fallen, restarts
