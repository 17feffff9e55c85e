"""The card of a claim, the rule of its verdict, and the evidence that a protocol returns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from robustscope.core.errors import InvalidValue
from robustscope.core.registry import Card, Registry

Verdict = Literal["supported", "contradicted", "inconclusive"]
Topic = Literal[
    "adversarial training",
    "benchmarks and bounds",
    "feature representation",
    "model sparsity",
    "model bias",
    "local smoothness",
    "corruption robustness",
    "robustness and accuracy",
    "robustness and resources",
]


@dataclass(frozen=True)
class Effect:
    """A measured size, with what it may be by chance.

    Args:
        value: the size, in the unit that its rule states.
        low, high: ends of its 95 % interval; equal to the value where nothing is left to chance.
        n: how many units stand behind it.
        unit: what was repeated, such as "networks" or "samples"; "exact" where nothing was.
    """

    value: float
    low: float
    high: float
    n: int
    unit: str


@dataclass(frozen=True)
class Rule:
    """What an effect must be for the hypothesis to hold. It is fixed before the run.

    The effect supports the hypothesis when its whole interval lies beyond ``threshold`` on the side that is expected,
    and contradicts it when its whole interval lies on the other side of ``refuted``.

    Args:
        effect: name of the effect.
        meaning: what the number is, with its unit.
        side: where the hypothesis puts it.
        threshold: beyond it the hypothesis holds.
        refuted: on its other side the hypothesis fails; ``threshold`` if None.
    """

    effect: str
    meaning: str
    side: Literal["above", "below"]
    threshold: float
    refuted: float | None = None

    def verdict(self, effect: Effect) -> Verdict:
        """Return what the effect says about the hypothesis.

        Example:
            >>> Rule("gain", "percentage points", "above", 5.0, 0.0).verdict(Effect(9.0, 6.0, 12.0, 5, "networks"))
            'supported'
        """
        sign = 1.0 if self.side == "above" else -1.0
        least, most = sorted((sign * effect.low, sign * effect.high))
        refuted = self.threshold if self.refuted is None else self.refuted
        if least > sign * self.threshold:
            return "supported"
        return "contradicted" if most < sign * refuted else "inconclusive"

    def words(self) -> str:
        """Return the rule as a sentence without its subject.

        Example:
            >>> Rule("gain", "percentage points", "above", 5.0, 0.0).words()
            'supported above 5, contradicted below 0'
        """
        other = "below" if self.side == "above" else "above"
        refuted = self.threshold if self.refuted is None else self.refuted
        return f"supported {self.side} {self.threshold:g}, contradicted {other} {refuted:g}"


@dataclass(frozen=True)
class Plot:
    """A picture of one table of the evidence.

    Args:
        table: name of the table.
        kind: "lines", "points" or "bars".
        x, y: columns; of "bars" x names the bars.
        by: column that tells series apart, or "".
        title: says what is seen.
        logarithmic: axes with a logarithmic scale.
    """

    table: str
    kind: Literal["lines", "points", "bars"]
    x: str
    y: str
    by: str = ""
    title: str = ""
    logarithmic: tuple[Literal["x", "y"], ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What a protocol found.

    Args:
        effects: one for each rule of the card, by name.
        tables: name -> rows of plain values, from which the effects can be seen.
        plots: pictures of the tables.
    """

    effects: Mapping[str, Effect]
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    plots: tuple[Plot, ...] = ()


@dataclass(frozen=True)
class ClaimCard(Card):
    """What a claim says about itself.

    Its function has the form ``(lab: Lab, *, <parameters>) -> Evidence``; the defaults are the protocol for two cores.

    Args:
        topic: where the survey of Bai, Luo and Zhao has it.
        finding: what was published, in a sentence of our own.
        hypothesis: what is tested here, with its direction.
        rules: of the verdict, fixed before the run; all must support the hypothesis, any can contradict it.
        caveats: what the protocol for two cores leaves out, and what may make its verdict differ from the paper's.
        data: source of the protocol for two cores, without a split; "" where none is read.
        recipe: of its networks; "" where none is trained.
        takes_models: whether it can be asked about networks of the user's own in place of those it trains.
        cause: keys of the recipe, or "data", in which its networks differ. Where they do not, nothing may support the
            hypothesis: a contract check sees to that.
        full: parameters of the protocol for data and machines of the user's.
        full_recipe: of its networks.
        quick: parameters for the contract checks.
    """

    topic: Topic = "adversarial training"
    finding: str = ""
    hypothesis: str = ""
    rules: tuple[Rule, ...] = ()
    caveats: str = ""
    data: str = "digits"
    recipe: str = "digits"
    takes_models: bool = False
    cause: tuple[str, ...] = ()
    full: Mapping[str, Any] = field(default_factory=dict)
    full_recipe: str = "cifar10-pgd"
    quick: Mapping[str, Any] = field(default_factory=dict)

    def judge(self, effects: Mapping[str, Effect]) -> tuple[Verdict, dict[str, Verdict]]:
        """Return the verdict, and what each effect says.

        Raises:
            InvalidValue: if an effect is missing, has no rule, or is not finite.
        """
        named = {rule.effect for rule in self.rules}
        if named != set(effects):
            raise InvalidValue(
                f"the claim {self.name!r} returned the effects {sorted(effects)}",
                f"those of its rules are allowed: {sorted(named)}",
                "Return one effect for each rule.",
            )
        for name, effect in effects.items():
            if not all(math.isfinite(number) for number in (effect.value, effect.low, effect.high)):
                raise InvalidValue(
                    f"the effect {name!r} of the claim {self.name!r} is {effect}",
                    "finite numbers are allowed",
                    "Use more samples or seeds: with these there is nothing to measure.",
                )
        each = {rule.effect: rule.verdict(effects[rule.effect]) for rule in self.rules}
        if "contradicted" in each.values():
            return "contradicted", each
        return ("supported" if set(each.values()) == {"supported"} else "inconclusive"), each


CLAIMS: Registry[ClaimCard] = Registry("claim", ClaimCard)
register = CLAIMS.register
