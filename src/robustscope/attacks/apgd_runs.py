"""Runs of Auto-PGD: the loop over a walk, the phases of a run, and what several runs add up to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robustscope.attacks.apgd_walk import Walk, begin, checkpoints, phases
from robustscope.attacks.ascent import Goal
from robustscope.core import resume
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import balls
from robustscope.models.classifier import Classifier


@dataclass(frozen=True)
class Run:
    """What one run found; every field holds one row for each sample.

    Args:
        x_adv: (B, *S), the first adversarial iterate, or the one of the highest loss.
        value: (B,), loss at ``x_adv`` where it is not adversarial.
        solved: bool (B,), whether ``x_adv`` is adversarial.
        forward: int64 (B,), rows sent forward.
        backward: int64 (B,), rows sent backward.
        trace: (B, T), loss of every iterate, NaN after a sample has left.
    """

    x_adv: Tensor
    value: Tensor
    solved: Tensor
    forward: Tensor
    backward: Tensor
    trace: Tensor

    @classmethod
    def of(cls, walk: Walk, steps: int) -> Run:
        """Return the run of a walk at its start: nothing found, nothing spent."""
        batch, device = len(walk.x), walk.x.device
        solved = torch.zeros(batch, dtype=torch.bool, device=device)
        forward, backward = (torch.zeros(batch, dtype=torch.int64, device=device) for _ in range(2))
        trace = walk.x.new_full((batch, steps + 1), float("nan"))
        return cls(walk.point.clone(), walk.best_value.clone(), solved, forward, backward, trace)


def _look(model: Classifier, walk: Walk, samples: int, last: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return loss, gradient and logits of the iterates, averaged over ``samples`` passes; no gradient at the last."""
    rows = torch.arange(len(walk.rows), device=walk.x.device)
    values, gradients, logits = None, None, None
    for _ in range(samples):
        if last:
            seen = model.logits(walk.point)
            value, gradient = walk.goal.scores(seen, rows), None
        else:
            value, gradient, seen = model.gradient(walk.goal.scores, walk.point)
        values = value if values is None else values + value
        logits = seen if logits is None else logits + seen
        gradients = gradient if gradients is None or gradient is None else gradients + gradient
    assert values is not None
    assert logits is not None
    if samples == 1:
        return values, gradients, logits
    return values / samples, None if gradients is None else gradients / samples, logits / samples


def follow(
    model: Classifier, walk: Walk, steps: int, reviews: Collection[int], *, samples: int = 1, leave: bool = True
) -> Run:
    """Take ``steps`` steps; a sample leaves the batch at its first adversarial iterate, the others are packed together.

    The last step is followed by one more forward pass, so the last iterate is judged too.

    Args:
        model: classifier under attack.
        walk: at its start; it is used up.
        steps: number of steps.
        reviews: steps at which the step sizes are reconsidered.
        samples: passes averaged for each iterate.
        leave: whether an adversarial iterate ends the walk of its sample.
    """
    run, step, reviewed = Run.of(walk, steps), 0, 0

    def state() -> resume.State:
        so_far = {**resume.named("run", resume.tensors(run)), **resume.named("walk", walk.state())}
        return {"step": step, "reviewed": reviewed, **so_far}

    with resume.stage("steps", state) as saved:
        if saved is not None:
            run, reviewed = Run(**resume.under("run", saved)), int(saved["reviewed"])
            walk.restore(resume.under("walk", saved))
        for step in range(0 if saved is None else int(saved["step"]), steps + 1):
            if not len(walk.rows):
                break
            resume.checkpoint()
            last = step == steps
            values, gradients, logits = _look(model, walk, samples, last)
            run.forward[walk.rows] += samples
            run.backward[walk.rows] += 0 if last else samples
            run.trace[walk.rows, step] = values
            walk.arrive(values, gradients)
            reached = walk.goal.reached(logits)
            if leave and reached.any():
                done = walk.rows[reached]
                run.x_adv[done], run.solved[done] = walk.point[reached], True
                walk.keep((~reached).nonzero()[:, 0])
            if last or not len(walk.rows):
                break
            if step in reviews:
                walk.review(step - reviewed)
                reviewed = step
            walk.move()
    run.x_adv[walk.rows], run.value[walk.rows] = walk.best, walk.best_value
    return run


def run(
    model: Classifier,
    x: Tensor,
    threat: ThreatModel,
    goal: Goal,
    draws: Draws,
    purpose: str,
    *,
    steps: int,
    samples: int = 1,
) -> Run:
    """Run Auto-PGD once from a random start.

    linf and l2: from a point uniform in the ball. l1: from Gaussian noise projected on three times the radius, in
    three phases of shrinking radius, each from the projected best point of the one before.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs.
        threat: linf, l2 or l1; radius and bounds.
        goal: loss and labels.
        draws: random numbers of these samples.
        purpose: of the start, with the number of the restart.
        steps: number of steps, over all phases.
        samples: passes averaged for each iterate.
    """
    if threat.norm != "l1":
        start = balls.sample(threat, x, draws, purpose)
        return follow(model, begin(threat, x, goal, start), steps, checkpoints(steps), samples=samples)
    width = threat.bounds.upper - threat.bounds.lower
    point = x + draws.normal(purpose, x) * width
    plan = phases(steps)
    done: Run | None = None
    phase = 0

    def state() -> resume.State:
        return {"phase": phase, **({} if done is None else resume.named("done", resume.tensors(done)))}

    with resume.stage("phases", state) as saved:
        if saved is not None and saved["phase"]:
            done = Run(**resume.under("done", saved))
            point = done.x_adv
        for phase in range(0 if saved is None else int(saved["phase"]), len(plan)):
            factor, count = plan[phase]
            wide = threat.scaled(factor)
            walk = begin(wide, x, goal, balls.project(wide, x, point))
            period = max(4 * count // 100, 1)
            part = follow(model, walk, count, range(period, count, period), samples=samples, leave=factor == 1)
            done = part if done is None else _continued(done, part)
            point = done.x_adv
    assert done is not None
    return done


def _continued(first: Run, second: Run) -> Run:
    """Return a run that went on with ``second``: its findings, the rows of both."""
    return Run(
        second.x_adv,
        second.value,
        second.solved,
        first.forward + second.forward,
        first.backward + second.backward,
        torch.cat([first.trace, second.trace], 1),
    )


class Tally:
    """Adds runs up: each sample keeps its first adversarial example, or the point of the highest loss.

    Args:
        x: (B, *S), what is returned of a sample that no run attacks.
    """

    def __init__(self, x: Tensor) -> None:
        self.x_adv = x.clone()
        self.rows = torch.arange(len(x), device=x.device)
        self.forward, self.backward = (torch.zeros_like(self.rows) for _ in range(2))
        self._value = x.new_full((len(x),), -torch.inf)
        self._traces = [x.new_empty(len(x), 0)]

    def add(self, run: Run, rows: Tensor) -> None:
        """Count a run of the samples ``rows`` (indices); those that it solved are not in ``self.rows`` any more."""
        better = run.solved | (run.value > self._value[rows])
        self.x_adv[rows[better]] = run.x_adv[better]
        self._value[rows] = torch.where(better, run.value, self._value[rows])
        self.forward[rows] += run.forward
        self.backward[rows] += run.backward
        trace = run.trace.new_full((len(self.x_adv), run.trace.shape[1]), float("nan"))
        trace[rows] = run.trace
        self._traces.append(trace)
        self.leave(rows[run.solved])

    def state(self) -> dict[str, Tensor]:
        """Return what was added up so far, for :meth:`restore`."""
        found = {"x_adv": self.x_adv, "rows": self.rows, "forward": self.forward, "backward": self.backward}
        return {**found, "value": self._value, "traces": torch.cat(self._traces, 1)}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take up what a tally of the same samples had added up."""
        self.x_adv, self.rows, self._value = saved["x_adv"], saved["rows"], saved["value"]
        self.forward, self.backward, self._traces = saved["forward"], saved["backward"], [saved["traces"]]

    def leave(self, rows: Tensor) -> None:
        """Attack the samples ``rows`` (indices) no further."""
        stay = torch.ones(len(self.x_adv), dtype=torch.bool, device=rows.device)
        stay[rows] = False
        self.rows = self.rows[stay[self.rows]]

    def result(self, trace: bool = False) -> AttackResult:
        """Return what was found and what it cost."""
        return AttackResult(self.x_adv, self.forward, self.backward, torch.cat(self._traces, 1) if trace else None)
