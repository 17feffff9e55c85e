"""Checks of an attack's manners: the form of what it returns, and what it must leave as it found it."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import TypeVar

import torch
from torch import Tensor, nn

from robustscope.attacks.cards import AttackCard
from robustscope.contracts.trial import (
    GENEROUS,
    MODERATE,
    ModelWatch,
    aim,
    broken,
    call,
    call_bare,
    difference,
    global_state,
    other_global_numbers,
    require_form,
    require_inside,
    state_changes,
    subject,
    threat_of,
)
from robustscope.core.types import Bounds
from robustscope.data import problems
from robustscope.models.classifier import Classifier

T = TypeVar("T")


def keeps_form(card: AttackCard, norm: str) -> None:
    """Examples have shape, dtype and device of the inputs and no graph; counts are int64, one for each sample."""
    for dtype in (torch.float32, torch.float64):
        for problem in (problems.smooth_cnn(dtype, 5), problems.linear_boxed(dtype, 5)):
            threat = threat_of(norm, MODERATE[norm])
            result = call(card, subject(problem), problem.x, problem.y, threat, targets=aim(card, problem))
            require_form(card, problem.x, result)


def takes_one_sample_and_none(card: AttackCard, norm: str) -> None:
    """A batch of one sample and an empty batch come back in their own form."""
    for count in (1, 0):
        problem = problems.smooth_cnn(n=2)
        x, y, goals = problem.x[:count], problem.y[:count], aim(card, problem)
        targets = None if goals is None else goals[:count]
        result = call(card, subject(problem), x, y, threat_of(norm, MODERATE[norm]), targets=targets)
        require_form(card, x, result)


def leaves_inputs_alone(card: AttackCard, norm: str) -> None:
    """x, y and targets are not changed, and the examples do not share memory with x."""
    problem = problems.smooth_cnn(n=5)
    for epsilon in (MODERATE[norm], 0.0):
        x, y = problem.x.clone(), problem.y.clone()
        targets = (y + 1) % 4 if "targeted" in card.goals else None
        given = {"x": x, "y": y, **({} if targets is None else {"targets": targets})}
        before = {name: tensor.clone() for name, tensor in given.items()}
        result = call(card, subject(problem), x, y, threat_of(norm, epsilon), targets=targets)
        for name, tensor in given.items():
            if tensor.shape != before[name].shape or not torch.equal(tensor, before[name]):
                raise broken(card, f"changed {name} in place", "reading it", f"Work on {name}.clone().")
            if tensor.requires_grad or tensor.grad is not None:
                raise broken(
                    card, f"left a gradient on {name}", "reading it", "Use Classifier.gradient, or detach first."
                )
        if result.x_adv.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
            raise broken(
                card,
                f"returned examples that share memory with x at epsilon {epsilon:g}",
                "new memory",
                "Return x.clone() where nothing is to be changed.",
            )


def stays_in_threat_set(card: AttackCard, norm: str) -> None:
    """No example leaves the ball or the bounds: both float types, inputs on the bounds, other bounds, radii per sample."""
    small = MODERATE[norm]
    per_sample = tuple(small * factor for factor in (0.0, 0.1, 1.0, 3.0, 0.5))
    for dtype in (torch.float32, torch.float64):
        edge = problems.linear_boxed(dtype, 5)
        inner = problems.smooth_cnn(dtype, 5)
        for problem, epsilon, bounds in (
            (edge, small, Bounds(0.0, 1.0)),
            (edge, 20 * small, Bounds(0.0, 1.0)),
            (inner, per_sample, Bounds(0.0, 1.0)),
            (inner, small, Bounds(-3.0, 5.0)),
        ):
            lower, upper = bounds
            x = (problem.x * (upper - lower) + lower).clamp(lower, upper)
            model, threat = Classifier(problem.module, bounds), threat_of(norm, epsilon, bounds)
            result = call(card, model, x, problem.y, threat, targets=aim(card, problem))
            require_form(card, x, result)
            require_inside(card, threat, x, result)


def zero_epsilon_returns_x(card: AttackCard, norm: str) -> None:
    """With a radius of zero the examples are the inputs, bit for bit."""
    for dtype in (torch.float32, torch.float64):
        for problem in (problems.smooth_cnn(dtype, 5), problems.linear_boxed(dtype, 5)):
            threat = threat_of(norm, 0.0)
            result = call(card, subject(problem), problem.x, problem.y, threat, targets=aim(card, problem))
            require_form(card, problem.x, result)
            if not torch.equal(result.x_adv, problem.x):
                gap = float((result.x_adv - problem.x).abs().max())
                raise broken(
                    card,
                    f"moved values by up to {gap:.3g} with epsilon 0 in {dtype}",
                    "x itself",
                    "Scale every step and every draw by the radius, and project with balls.project.",
                )


def leaves_model_alone(card: AttackCard, norm: str) -> None:
    """Mode, weights, buffers, requires_grad, gradients, hooks and attributes of the model stay as they were."""
    problem = problems.normalised_cnn(n=5)
    parameters = list(problem.module.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.full_like(parameters[1], 0.25)
    watch = ModelWatch(problem.module)
    model, threat = subject(problem), threat_of(norm, MODERATE[norm])
    try:
        call(card, model, problem.x, problem.y, threat, targets=aim(card, problem))
    finally:
        changes = watch.changes()
    if changes:
        raise broken(
            card,
            f"changed the model: {', '.join(changes[:4])}",
            "reading the model through Classifier",
            "Use Classifier.logits and Classifier.gradient, which leave nothing behind.",
        )


class _Failing(nn.Module):
    """A module that raises at its ``fail_at``-th forward pass, counted from 1, while armed."""

    def __init__(self, inner: nn.Module, fail_at: int) -> None:
        super().__init__()
        self.inner, self.fail_at, self.armed = inner, fail_at, False
        self.seen = [0]
        self.raised = [False]

    def forward(self, x: Tensor) -> Tensor:
        self.seen[0] += 1
        if self.armed and self.seen[0] == self.fail_at:
            self.raised[0] = True
            raise RuntimeError("the model failed on purpose")
        return self.inner(x)


def recovers_after_a_failing_model(card: AttackCard, norm: str) -> None:
    """An exception of the model reaches the caller, and the next call is as if it had never happened."""
    threat = threat_of(norm, MODERATE[norm])
    problem = problems.smooth_cnn(n=5)
    targets, x = aim(card, problem), problem.x.clone()
    expected = call(card, subject(problem), x, problem.y, threat, targets=targets)
    for fail_at in (1, 2):
        failing = _Failing(problem.module, fail_at).eval()
        model = Classifier(failing, problem.bounds)
        watch, before = ModelWatch(failing), global_state()
        failing.armed = True
        try:
            call_bare(card, model, x, problem.y, threat, targets=targets)
            swallowed = failing.raised[0]
        except Exception:  # the attack must let it pass; which type arrives is not our concern
            swallowed = False
        failing.armed = False
        if swallowed:
            raise broken(card, "hid an exception of the model", "letting it pass", "Remove the try around the model.")
        left = [*watch.changes(), *state_changes(before, global_state())]
        if not torch.equal(x, problem.x):
            left.append("x")
        if left:
            raise broken(
                card,
                f"left {', '.join(left[:4])} changed after an exception",
                "leaving no trace",
                "Use try ... finally.",
            )
        again = difference(expected, call(card, model, x, problem.y, threat, targets=targets))
        if again:
            raise broken(
                card,
                f"gave another result in the call after an exception: {again}",
                "the same result",
                "Keep no state between calls: no module-level variables, no attributes on the function.",
            )


def leaves_global_randomness_alone(card: AttackCard, norm: str) -> None:
    """The generators of torch, NumPy and Python, and torch's switches, are as before."""
    problem = problems.smooth_cnn(n=5)
    threat = threat_of(norm, MODERATE[norm])
    with other_global_numbers(918273645):
        before = global_state()
        call(card, subject(problem), problem.x, problem.y, threat, targets=aim(card, problem))
        changed = state_changes(before, global_state())
    if changed:
        raise broken(
            card, f"changed {', '.join(changed)}", "leaving global state alone", "Draw from the `draws` argument only."
        )


@contextmanager
def _descriptors(into: list[str]) -> Generator[None]:
    """Collect what is written to file descriptors 1 and 2, past Python's own streams."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with tempfile.TemporaryFile() as file:
        saved = [(number, os.dup(number)) for number in (1, 2)]
        try:
            for number, _ in saved:
                os.dup2(file.fileno(), number)
            yield
        finally:
            for number, copy in saved:
                os.dup2(copy, number)
                os.close(copy)
        file.seek(0)
        into.append(file.read().decode(errors="replace"))


def traces(run: Callable[[], T]) -> tuple[T, list[str]]:
    """Run something among unusual global numbers; return its result and the global things that it changed.

    Those are the global generators, torch's switches, and the terminal if anything was printed or warned.
    """
    text, raw = StringIO(), list[str]()
    with (
        warnings.catch_warnings(record=True) as caught,
        _descriptors(raw),
        redirect_stdout(text),
        redirect_stderr(text),
        other_global_numbers(918273645),
    ):
        warnings.simplefilter("always")
        before = global_state()
        found = run()
        changed = state_changes(before, global_state())
    return found, [*changed, *(["the terminal"] if text.getvalue() or any(raw) or caught else [])]


def is_silent(card: AttackCard, norm: str) -> None:
    """Nothing is printed and nothing is warned about."""
    problem = problems.smooth_cnn(n=5)
    threat = threat_of(norm, GENEROUS[norm])
    text, raw = StringIO(), list[str]()
    with (
        warnings.catch_warnings(record=True) as caught,
        _descriptors(raw),
        redirect_stdout(text),
        redirect_stderr(text),
    ):
        warnings.simplefilter("always")
        call(card, subject(problem), problem.x, problem.y, threat, targets=aim(card, problem))
    written = text.getvalue() + "".join(raw)
    if written:
        raise broken(
            card, f"printed {written[:80]!r}", "silence", "Remove the print; put what matters into the result."
        )
    if caught:
        raise broken(card, f"warned: {caught[0].message}", "silence", "Remove the cause of the warning.")
