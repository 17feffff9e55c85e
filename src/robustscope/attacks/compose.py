"""Several attacks on the same samples: one public door, and the worst case per sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_type_hints

import torch
from torch import Tensor

from robustscope.attacks.cards import ATTACKS, AttackCard
from robustscope.attacks.twins import search
from robustscope.attacks.verify import Verdict
from robustscope.core import resume
from robustscope.core.draws import Draws
from robustscope.core.errors import CorruptRun, RecalledError, explain
from robustscope.core.threats import Threat
from robustscope.core.types import AttackResult
from robustscope.geometry import balls
from robustscope.geometry.losses import LossName
from robustscope.models.classifier import Classifier
from robustscope.models.doors import SETS, check_draws, check_samples, check_subject, check_type
from robustscope.models.twin import Twin, make_twin


@dataclass(frozen=True)
class Outcome:
    """What an attack returned and what the judge says of it.

    Args:
        result: examples and rows.
        verdict: of the model itself, whatever the search ran on.
        twin: the kind of twin that was searched on, or "off".
        reverted: bool (B,), samples whose example fooled the twin alone, so that the model itself was attacked next;
            None without a twin.
        alone: int64 (B, 2), rows forward and backward, part of those of the result, that went into attacking a sample
            again at batch size 1, because its first example was adversarial in company of other rows only.
    """

    result: AttackResult
    verdict: Verdict
    twin: str = "off"
    reverted: Tensor | None = None
    alone: Tensor | None = None


@dataclass(frozen=True)
class Attempt:
    """One attack with its hyper-parameters against one threat model."""

    attack: str
    threat: Threat
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One attempt of a cascade: which rows it attacked, and the outcome or the error."""

    rows: Tensor
    outcome: Outcome | None
    error: Exception | None = None


def attack(
    name: str | AttackCard,
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat | str,
    *,
    targets: Tensor | None = None,
    draws: Draws | None = None,
    seed: int = 0,
    twin: Twin | str = "off",
    **parameters: Any,
) -> Outcome:
    """Run one attack on one batch and judge what it returns.

    Args:
        name: registered name, or a card.
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: threat model, or a text such as "linf:8/255" in the bounds of the model. An infinite radius asks a
            minimum-norm attack for the smallest perturbation; a fixed-epsilon attack gets a ball that holds the whole box.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        draws: random numbers; None numbers the samples 0 to B - 1 under ``seed``.
        seed: used when ``draws`` is None.
        twin: search on a faster twin of the model, "folded" or another kind of ``models.twin.KINDS``, or one made before;
            the verdict is the model's own in any case.
        **parameters: hyper-parameters of the attack, checked against its card. ``loss`` may also be a function
            ``(logits (b, K), y (b,), targets) -> (b,)`` where the attack has a loss; see ``geometry.objectives``.

    Returns:
        The attack's result and the verdict on it.

    Raises:
        InvalidValue, InvalidType, UnknownName: for arguments that the card does not allow.
        ConstraintViolated: if the attack left its threat set.
        ModelError: if the model's outputs or gradients cannot be used.

    Example:
        >>> import torch
        >>> model = Classifier(torch.nn.Linear(4, 3).eval())
        >>> outcome = attack("fgsm", model, torch.rand(5, 4), torch.zeros(5, dtype=torch.int64), "linf:0.3")
        >>> outcome.verdict.success.shape
        torch.Size([5])
    """
    card = name if isinstance(name, AttackCard) else ATTACKS[name]
    threat = check_subject(model, threat, SETS)
    check_type("twin", twin, (Twin, str), "Write e.g. twin='folded', or pass what make_twin returns.")
    card.check(threat, targets)
    card.check_access(model, threat)
    resolved = _resolved(card, parameters)
    check_samples(model, x, y, threat, targets)
    draws = check_draws(draws, seed, x, card.name)
    twin = make_twin(model, x, twin) if isinstance(twin, str) else twin
    faced = balls.whole_box(threat, x) if card.aim == "fixed-epsilon" else threat

    def method(one: Classifier, rows: Tensor) -> AttackResult:
        part, own = faced.select(rows), draws.select(rows)
        goals = None if targets is None else targets[rows]
        return card.function(one, x[rows], y[rows], part, draws=own, targets=goals, **resolved)

    found = search(method, twin, model, x, y, threat, targets)
    fooled = None if twin.kind == "off" else found.fooled_twin
    return Outcome(found.result, found.verdict, twin.kind, fooled, found.alone)


def _resolved(card: AttackCard, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return all hyper-parameters; a function may stand for the name of a loss here, for nothing needs to be stored."""
    loss = parameters.get("loss")
    if not callable(loss) or get_type_hints(card.function).get("loss") != LossName:
        return card.resolve(parameters)
    return {**card.resolve({name: value for name, value in parameters.items() if name != "loss"}), "loss": loss}


def cascade(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    attempts: Sequence[Attempt],
    draws: Draws,
    attempted: Tensor,
    *,
    twin: Twin | None = None,
    name: str = "cascade",
) -> Iterator[Step]:
    """Run attempts in order, each on the rows that none before it has broken.

    An attempt that raises yields a step with the error; its rows stay unbroken and go on to the next attempt, so that
    an error is never counted as robustness nor hides what another attack can do.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        attempts: attacks in order, usually from cheap to expensive.
        draws: random numbers of these samples; every attempt draws in a scope named by its attack alone, so that
            results do not depend on the other attempts.
        attempted: bool (B,), rows to attack; usually those classified correctly.
        twin: what to search on; the model itself when None.
        name: tells it from other cascades on the same samples, where progress is kept (see ``core.resume``).

    Yields:
        One step for each attempt.
    """
    remaining = attempted.nonzero()[:, 0]
    for number, attempt in enumerate(attempts):
        rows = remaining
        if not len(rows):
            yield Step(rows, None)
            continue
        place, done = resume.recall(f"{name}/{number}-{attempt.attack}")
        step = (
            _step(model, x, y, attempt, draws, rows, place, twin)
            if done is None
            else _recalled(done, rows, "off" if twin is None else twin.kind)
        )
        if done is None:
            resume.remember(place, partial(_told, step))
            resume.checkpoint()
        if step.outcome is not None:
            remaining = rows[~step.outcome.verdict.success]
        yield step


def _step(
    model: Classifier, x: Tensor, y: Tensor, attempt: Attempt, draws: Draws, rows: Tensor, place: str, twin: Twin | None
) -> Step:
    """Run one attempt on some rows; an exception becomes a step with the error."""
    try:
        with resume.stage(place):
            outcome = attack(
                attempt.attack,
                model,
                x[rows],
                y[rows],
                attempt.threat.select(rows),
                draws=draws.select(rows),
                twin=twin or "off",
                **attempt.parameters,
            )
    except Exception as error:  # every failure becomes an error row; see `cascade`
        return Step(rows, None, error)
    return Step(rows, outcome)


def _told(step: Step) -> dict[str, Tensor]:
    """Return a step as tensors, from which :func:`_recalled` makes it again."""
    told = {"rows": step.rows}
    if step.error is not None:
        told["error"] = torch.frombuffer(bytearray(explain(step.error).encode()), dtype=torch.uint8)
    if step.outcome is not None:
        told |= resume.named("result", resume.tensors(step.outcome.result))
        told |= resume.named("verdict", resume.tensors(step.outcome.verdict))
        told |= {name: value for name, value in resume.tensors(step.outcome).items() if name in ("reverted", "alone")}
    return told


def _recalled(told: Mapping[str, Tensor], rows: Tensor, twin: str) -> Step:
    if not torch.equal(told["rows"], rows):
        raise CorruptRun(
            "the saved progress of an attack is about other samples than are left for it now",
            "progress of the same run is allowed",
            "Delete the folder 'partial' of the run and resume it: only unfinished shards are computed again.",
        )
    if "error" in told:
        return Step(rows, None, RecalledError(bytes(told["error"].tolist()).decode()))
    result, verdict = resume.under("result", told), resume.under("verdict", told)
    again = told.get("reverted"), told.get("alone")
    return Step(rows, Outcome(AttackResult(**result), Verdict(**verdict), twin, *again))


def worst_case(model: Classifier, x: Tensor, y: Tensor, attempts: Sequence[Attempt], draws: Draws) -> Tensor:
    """Tell for each sample whether it is classified correctly and no attempt breaks it: bool (B,).

    Raises:
        Exception: whatever an attempt raises; a failed attack is not robustness.
    """
    robust = model.logits(x).argmax(1) == y
    for step in cascade(model, x, y, attempts, draws, robust):
        if step.error is not None:
            raise step.error
        if step.outcome is not None:
            robust = robust.clone()
            robust[step.rows[step.outcome.verdict.success]] = False
    return robust
