"""What every claim must keep: a complete card, evidence that its rules can judge, one result for a seed, and its cause.

A check is a function of a claim under trial that raises :class:`ContractBroken`. :func:`check_claim` runs them all.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from robustscope.claims.cards import ClaimCard, Effect, Evidence
from robustscope.claims.lab import Lab, Setting, Subject
from robustscope.contracts.broken import ContractBroken
from robustscope.contracts.explained import gaps_of
from robustscope.contracts.manners import traces
from robustscope.contracts.runner import CheckResult, outcome
from robustscope.contracts.trial import other_global_numbers
from robustscope.core.errors import RobustscopeError
from robustscope.data.base import Dataset

FAR = 1e6
"""A size that must be beyond every threshold."""
_UNKNOWN = ("the docstring has no section 'Raises'", "the docstring has no section 'Source'")
"""What a claim need not have: its source stands on the card, and errors are those of the lab."""


class Blind(Lab):
    """A lab whose networks do not differ in what a claim holds to be the cause.

    Args:
        folder, setting: as of a lab.
        cause: keys of the recipe, "data" or "radius", that are as in the recipe for all networks.
    """

    def __init__(self, folder: Path, setting: Setting, cause: tuple[str, ...]) -> None:
        super().__init__(folder, setting)
        self.cause = cause

    def network(
        self, seed: int = 0, *, name: str = "", data: Dataset | None = None, radius: float = 1.0, **changes: Any
    ) -> Subject:
        """Return the network of the recipe with those changes alone that are not the cause."""
        kept = {key: value for key, value in changes.items() if key not in self.cause}
        data = None if "data" in self.cause else data
        radius = 1.0 if "radius" in self.cause else radius
        return super().network(seed, name=name, data=data, radius=radius, **kept)


class Trial:
    """A claim with its quick parameters, and what it found with them.

    Args:
        card: of the claim, registered or not.
        folder: for networks.
    """

    def __init__(self, card: ClaimCard, folder: Path) -> None:
        self.card, self.folder, self.setting = card, folder, Setting(card.data, card.recipe)

    def run(self, lab: Lab) -> Evidence:
        """Run the protocol in a lab."""
        evidence = self.card.function(lab, **self.card.resolve(self.card.quick))
        if not isinstance(evidence, Evidence):
            raise self.broken(f"returned a {type(evidence).__name__}", "Evidence")
        return evidence

    @cached_property
    def evidence(self) -> Evidence:
        """What it found."""
        with other_global_numbers(1):
            return self.run(Lab(self.folder / "first", self.setting))

    def broken(self, seen: str, allowed: str, remedy: str = "") -> ContractBroken:
        """Return the error to raise."""
        return ContractBroken(f"the claim {self.card.name!r} {seen}", f"{allowed} is allowed", remedy)


def explains_itself(trial: Trial) -> None:
    """The card is complete, every parameter is documented, and the parameters of all protocols fit."""
    card = trial.card
    named = ("source", "bibtex", "topic", "finding", "hypothesis", "rules", "caveats")
    gaps = [gap for gap in gaps_of(card.function, {name: getattr(card, name) for name in named}) if gap not in _UNKNOWN]
    if card.cause and not card.recipe:
        gaps.append("a cause is named, but no recipe of networks that differ in it")
    for parameters in ({}, card.quick, card.full):
        card.resolve(parameters)
    if gaps:
        raise trial.broken(f"does not explain itself: {'; '.join(gaps)}", "a complete card and docstring")


def has_rules_that_can_fall_either_way(trial: Trial) -> None:
    """Far beyond its threshold an effect supports, far on the other side it contradicts, and between it is open."""
    for rule in trial.card.rules:
        sign = 1.0 if rule.side == "above" else -1.0
        refuted = rule.threshold if rule.refuted is None else rule.refuted
        wanted = {sign * FAR: "supported", -sign * FAR: "contradicted"}
        got = {size: rule.verdict(Effect(size, size, size, 1, "exact")) for size in wanted}
        wide = rule.verdict(Effect(0.0, -FAR, FAR, 2, "networks"))
        if got != wanted or wide != "inconclusive" or sign * (rule.threshold - refuted) < 0:
            raise trial.broken(f"has the rule {rule.words()!r}", "a rule that can support and contradict")


def returns_what_its_rules_judge(trial: Trial) -> None:
    """One finite effect for each rule with its interval around it; tables of plain values; plots of their columns."""
    found = trial.evidence
    trial.card.judge(found.effects)
    for name, effect in found.effects.items():
        if not effect.low <= effect.value <= effect.high or effect.n < 1:
            raise trial.broken(f"returned {name}={effect}", "an interval around the value, of one or more")
    for name, rows in found.tables.items():
        if not rows or any(row.keys() != rows[0].keys() for row in rows):
            raise trial.broken(f"returned the table {name!r} without rows or with other columns", "rows of one form")
        try:
            json.dumps([dict(row) for row in rows], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise trial.broken(
                f"returned the table {name!r} ({error})", "plain finite values", "None is a gap."
            ) from error
    for plot in found.plots:
        columns = {"x": plot.x, "y": plot.y, **({"by": plot.by} if plot.by else {})}
        first = (found.tables.get(plot.table) or [{}])[0]
        if not set(columns.values()) <= set(first):
            raise trial.broken(f"returned a plot of {plot.table}: {columns}", "columns of one of its tables")


def same_seed_same_evidence(trial: Trial) -> None:
    """The same seed gives the same evidence in an empty folder, whatever the global generators hold; these stay as they are."""
    first = trial.evidence
    with other_global_numbers(2):
        second, changed = traces(lambda: trial.run(Lab(trial.folder / "second", trial.setting)))
    if changed:
        raise trial.broken(f"changed {', '.join(changed[:4])}", "leaving everything as it was", "Draw from lab.draws.")
    for name, effect in first.effects.items():
        if not math.isclose(effect.value, second.effects[name].value, rel_tol=1e-9, abs_tol=1e-12):
            raise trial.broken(
                f"found {name}={effect.value} and then {second.effects[name].value}",
                "one result",
                "Draw from lab.draws.",
            )
    again = trial.run(Lab(trial.folder / "first", trial.setting))
    if again.effects != first.effects:
        raise trial.broken(
            "found something else with what was kept", "the same evidence", "Ask the lab for what is kept."
        )


def needs_its_cause(trial: Trial) -> None:
    """Where its networks do not differ in what it holds to be the cause, nothing supports it."""
    if not trial.card.cause:
        return
    try:
        found = trial.run(Blind(trial.folder / "first", trial.setting, trial.card.cause))
    except RobustscopeError:  # a correlation of networks that are all the same has no value: nothing is supported
        return
    effects = {name: e for name, e in found.effects.items() if math.isfinite(e.value)}
    if len(effects) == len(found.effects) and trial.card.judge(effects)[0] == "supported":
        raise trial.broken(
            f"is supported by networks that do not differ in {', '.join(trial.card.cause)}",
            "support where the cause is there",
            "Compare networks by what the lab returns, and let a rule ask for a difference.",
        )


CLAIM_CHECKS: dict[str, Callable[[Trial], None]] = {
    check.__name__: check
    for check in (
        explains_itself,
        has_rules_that_can_fall_either_way,
        returns_what_its_rules_judge,
        same_seed_same_evidence,
        needs_its_cause,
    )
}


def check_claim(card: ClaimCard) -> list[CheckResult]:
    """Run all checks on a claim; an exception of any kind is a failure with its reason.

    Args:
        card: of the claim, registered or not.
    """
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(card, Path(folder))
        return [
            replace(outcome(lambda _, __, check=check: check(trial), name, card, ""), norm="")
            for name, check in CLAIM_CHECKS.items()
        ]
