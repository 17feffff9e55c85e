"""What every probe looks at: a model, samples that it gets right, the attack behind the claim, and what it broke.

A probe imports no attack; whoever builds the bench hands it one function that runs attacks. Each run is made once and
shared by all probes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import RobustscopeError
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import margin
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier
from robustscope.probes.cards import PROBES, ProbeCard, Verdict

AttackText = tuple[str, Mapping[str, Any]]
GRAVE = 0.05
"""Share of samples above which what contradicts a robust accuracy is enough by itself."""


@dataclass(frozen=True)
class Run:
    """What one attack returned; all tensors have one row for each sample.

    Args:
        x_adv: (B, *S), examples.
        success: bool (B,), adversarial for the model of the bench.
        found: bool (B,), adversarial for the model that was searched on, which may be a surrogate.
        margin: (B,), true logit minus the largest other, of the model of the bench.
        trace: (B, T) losses along the way, or None.
    """

    x_adv: Tensor
    success: Tensor
    found: Tensor
    margin: Tensor
    trace: Tensor | None = None


class Attacker(Protocol):
    """Runs an attack by name and returns (x_adv, trace or None)."""

    def __call__(
        self,
        name: str,
        model: Classifier,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        draws: Draws,
        targets: Tensor | None = None,
        **parameters: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the examples (B, *S) inside the threat set, and the losses along the way."""
        ...


@dataclass(frozen=True)
class Reading:
    """What a probe measured.

    Args:
        passed: whether the line holds; None where it does not apply.
        evidence: what was measured, with the figure.
        figure: the figure.
        limit: where it begins to fail.
        affected: bool (B,), samples of the bench that contradict the line, or None.
        weight: how much a failure counts, where it is not what the card says.
        remedy: what to do, where it is not what the card says.
    """

    passed: bool | None
    evidence: str
    figure: float | None = None
    limit: float | None = None
    affected: Tensor | None = None
    weight: int | None = None
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """The result of one probe, as plain data.

    Args:
        name: of the probe.
        verdict: "pass", "fail" or "not applicable".
        evidence: what was measured, with the figure.
        means: what it means; empty where it passed.
        remedy: what to do next; empty where nothing is to be done.
        figure: the figure behind the verdict.
        limit: where it begins to fail.
        affected: positions among the samples given of those that contradict the line.
        weight: how much a failure counts, 1 to 3; 0 where it did not fail.
        vital: whether a robust accuracy cannot be trusted without this probe.
        forward, backward: rows that were sent for it; of runs that several probes share, the first pays.
    """

    name: str
    verdict: Verdict
    evidence: str
    means: str = ""
    remedy: str = ""
    figure: float | None = None
    limit: float | None = None
    affected: tuple[int, ...] = ()
    weight: int = 0
    vital: bool = False
    forward: int = 0
    backward: int = 0


@dataclass
class Bench:
    """One examination: what is shared by all probes.

    Args:
        model: the classifier whose robust accuracy is in question.
        x: (B, *S), samples that it classifies correctly, B >= 1.
        y: int64 (B,), their classes.
        threat: lp threat model with radii above 0 and finite.
        draws: random numbers of these samples.
        attacker: runs attacks.
        defaults: name of an attack -> its hyper-parameters with their defaults.
        white: the gradient attack behind the claim.
        reference: a gradient attack that is known to be good, or None.
        scores: an attack that needs scores only, or None.
        decisions: an attack that needs decisions only, or None.
        surrogates: other networks for the same task, whose adversarial examples are tried on the model.
        search: the network that the gradient attack searches on, if it is not the model.
        also: further attacks of the evaluation, run on what ``white`` left.
        broken: bool (B,), what the whole evaluation broke; None to run ``white`` and ``also`` for it.
        noise: random points tried for each sample.
        tolerance: share of samples that may contradict a line.
        correct, n: how many of how many samples the model classifies correctly.
    """

    model: Classifier
    x: Tensor
    y: Tensor
    threat: ThreatModel
    draws: Draws
    attacker: Attacker
    defaults: Callable[[str], Mapping[str, Any]]
    white: AttackText
    also: Sequence[AttackText] = ()
    reference: AttackText | None = None
    scores: AttackText | None = None
    decisions: AttackText | None = None
    surrogates: Sequence[Classifier] = ()
    search: Classifier | None = None
    broken: Tensor | None = None
    noise: int = 100
    tolerance: float = 0.02
    correct: int = 0
    n: int = 0
    _runs: dict[Any, Run | RobustscopeError] = field(default_factory=dict, init=False, repr=False)
    _inside: list[tuple[Tensor, Run]] = field(default_factory=list, init=False, repr=False)

    @property
    def allowed(self) -> int:
        """How many samples may contradict a line: the tolerance, but at least one."""
        return max(1, math.floor(self.tolerance * len(self.x) + 1e-9))

    @property
    def beaten(self) -> Tensor:
        """Samples that the evaluation broke: bool (B,)."""
        if self.broken is None:
            total = self.run(self.white).success.clone()
            for which in self.also:
                rows = (~total).nonzero()[:, 0]
                if len(rows):
                    total[rows] = self.run(which, rows=rows).success
            self.broken = total
        return self.broken

    @property
    def union(self) -> Tensor:
        """Samples that any run inside the threat set broke so far, the evaluation among them: bool (B,)."""
        total = self.beaten.clone()
        for rows, run in self._inside:
            total[rows] |= run.success
        return total

    @property
    def left(self) -> Tensor:
        """Positions of the samples that the evaluation left: int64 (L,)."""
        return (~self.beaten).nonzero()[:, 0]

    @property
    def settings(self) -> dict[str, Any]:
        """All hyper-parameters of the gradient attack."""
        return {**self.defaults(self.white[0]), **self.white[1]}

    @property
    def trace(self) -> Tensor | None:
        """Losses (B, T) along the gradient attack, or None if it keeps none."""
        return self.run(self.white).trace

    def part(self, rows: Tensor) -> Bench:
        """Return the bench of some samples, which shares no runs with this one."""
        return replace(
            self,
            x=self.x[rows],
            y=self.y[rows],
            threat=self.threat.select(rows),
            draws=self.draws.select(rows),
            broken=None,
        )

    def run(
        self,
        which: AttackText,
        threat: ThreatModel | None = None,
        rows: Tensor | None = None,
        targets: Tensor | None = None,
        on: Classifier | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> Run:
        """Run an attack once, or return what it did before.

        Args:
            which: attack and its parameters.
            threat: another threat model than that of the claim, for all samples.
            rows: positions of the samples to attack; None attacks all.
            targets: int64, classes to reach, one for each of ``rows``.
            on: the network to search on; None: ``search``, or the model.
            changes: parameters that differ.

        Raises:
            RobustscopeError: if the attack cannot run.
        """
        name, parameters = which[0], {**which[1], **(changes or {})}
        if which == self.white and "trace" in self.defaults(name):
            parameters["trace"] = True
        marks = [None if t is None else tuple(t.tolist()) for t in (rows, targets)]
        mark = (name, tuple(sorted(parameters.items(), key=str)), threat, id(on), *marks)
        if mark not in self._runs:
            try:
                self._runs[mark] = self._run(name, parameters, threat or self.threat, rows, targets, on)
            except RobustscopeError as error:
                self._runs[mark] = error
        found = self._runs[mark]
        if isinstance(found, RobustscopeError):
            raise found
        return found

    def _run(
        self,
        name: str,
        parameters: Mapping[str, Any],
        threat: ThreatModel,
        rows: Tensor | None,
        targets: Tensor | None,
        on: Classifier | None,
    ) -> Run:
        rows = torch.arange(len(self.x), device=self.x.device) if rows is None else rows
        x, y, searched = self.x[rows], self.y[rows], on or self.search or self.model
        part, draws = threat.select(rows), self.draws.select(rows)
        x_adv, trace = self.attacker(name, searched, x, y, part, draws=draws, targets=targets, **parameters)
        logits = self.model.logits(x_adv)
        success = is_adversarial(logits, y)
        found = success if searched is self.model else is_adversarial(searched.logits(x_adv), y)
        run = Run(x_adv, success, found, margin(logits, y), trace)
        if threat is self.threat:
            self._inside.append((rows, run))
        return run

    def beyond(
        self, which: AttackText, changes: Mapping[str, Any] | None = None, on: Classifier | None = None
    ) -> Tensor:
        """Tell which samples an attack breaks that the evaluation left: bool (B,); it runs on those alone."""
        rows, found = self.left, torch.zeros_like(self.beaten)
        if len(rows):
            found[rows] = self.run(which, rows=rows, on=on, changes=changes).success
        return found

    def excess(self, found: Tensor, evidence: str) -> Reading:
        """Return the reading of samples ``found`` (bool (B,)) that should have been broken before."""
        count, share = int(found.sum()), float(found.double().mean())
        return Reading(
            count <= self.allowed,
            evidence,
            share,
            self.allowed / len(self.x),
            found,
            weight=3 if share > GRAVE and count > self.allowed + 1 else None,
        )


def look(probe: str | ProbeCard, bench: Bench) -> Check:
    """Run one probe and return its result as plain data.

    Args:
        probe: registered name, or a card.
        bench: what it looks at.
    """
    card = probe if isinstance(probe, ProbeCard) else PROBES[probe]
    before = _rows(bench)
    try:
        if _RANK[card.access] > _RANK[bench.model.access]:
            reading = Reading(None, f"needs {card.access}, which this black box does not give")
        else:
            reading = card.function(bench)
    except RobustscopeError as error:
        reading = Reading(None, f"could not be run: {str(error).splitlines()[0]}")
    forward, backward = (after - then for after, then in zip(_rows(bench), before, strict=True))
    verdict: Verdict = "not applicable" if reading.passed is None else "pass" if reading.passed else "fail"
    failed = verdict == "fail"
    return Check(
        card.name,
        verdict,
        reading.evidence,
        card.means if failed else "",
        (reading.remedy or card.remedy) if failed else "",
        reading.figure,
        reading.limit,
        () if reading.affected is None or not failed else tuple(reading.affected.nonzero()[:, 0].tolist()),
        (reading.weight or card.weight) if failed else 0,
        card.vital,
        forward,
        backward,
    )


def _rows(bench: Bench) -> tuple[int, int]:
    ledgers = {id(one.ledger): one.ledger for one in (bench.model, bench.search or bench.model, *bench.surrogates)}
    return sum(one.forward for one in ledgers.values()), sum(one.backward for one in ledgers.values())


_RANK = {"decisions": 0, "scores": 1, "gradients": 2}


def share(count: int, of: int) -> str:
    """Write a count with its denominator.

    Example:
        >>> share(3, 50)
        '3 of 50 (6.0 %)'
    """
    return f"{count} of {of} ({100 * count / of:.1f} %)" if of else f"{count} of 0"
