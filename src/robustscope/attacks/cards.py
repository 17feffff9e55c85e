"""The card of an attack and the registry of attacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.registry import Card, Registry
from robustscope.core.threats import Threat, kind_of
from robustscope.core.types import AttackResult, Norm
from robustscope.models.classifier import Classifier

Aim = Literal["fixed-epsilon", "minimum-norm"]
Access = Literal["gradients", "scores", "decisions", "none"]
Goal = Literal["untargeted", "targeted"]
_RANK = {"none": 0, "decisions": 1, "scores": 2, "gradients": 3}


class Attack(Protocol):
    """A function that looks for adversarial examples; its hyper-parameters are keyword-only arguments."""

    def __call__(
        self,
        model: Classifier,
        x: Tensor,
        y: Tensor,
        threat: Any,
        *,
        draws: Draws,
        targets: Tensor | None = None,
    ) -> AttackResult:
        """Return one example for each sample, inside the threat set."""
        ...


@dataclass(frozen=True)
class AttackCard(Card):
    """What an attack says about itself.

    Args:
        aim: "fixed-epsilon" (succeed inside the ball) or "minimum-norm" (find the nearest example).
        access: what it needs of the model: "gradients", "scores", "decisions" or "none" (noise).
        norms: norms of the lp balls it is defined for.
        threats: kinds of other threat sets it is defined for, such as "patch"; see ``core.threats``.
        goals: "untargeted", "targeted" or both.
        stochastic: whether it draws random numbers.
        quick: hyper-parameters for the contract checks.
        cost: resolved hyper-parameters -> most (forward, backward) rows that one sample can cost.
        floor: True for noise: what anything called an attack must beat.
        pin: resolved hyper-parameters -> the same with the hashes of the files that they name, for the plan.
        equip: for attacks that need files: ``(folder, model, x, threat) -> hyper-parameters`` writes small ones for the
            contract checks. What such an attack achieves depends on its files, so its strength is not checked.
    """

    aim: Aim = "fixed-epsilon"
    access: Access = "gradients"
    norms: tuple[Norm, ...] = ("linf",)
    threats: tuple[str, ...] = ()
    goals: tuple[Goal, ...] = ("untargeted",)
    stochastic: bool = False
    quick: Mapping[str, Any] = field(default_factory=dict)
    cost: Callable[[Mapping[str, Any]], tuple[int, int]] = lambda parameters: (0, 0)
    floor: bool = False
    pin: Callable[[dict[str, Any]], dict[str, Any]] = lambda parameters: parameters
    equip: Callable[[Path, Classifier, Tensor, Threat], dict[str, Any]] | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """Everything it is defined for: norms, then kinds of other threat sets."""
        return (*self.norms, *self.threats)

    def check(self, threat: Threat, targets: Tensor | None = None) -> None:
        """Refuse a threat model or a goal that the attack is not defined for.

        Raises:
            InvalidValue: naming what the attack allows.
        """
        kind = kind_of(threat)
        if kind not in self.kinds:
            others = ", ".join(card.name for card in ATTACKS if kind in card.threats)
            raise InvalidValue(
                f"the attack {self.name!r} was asked for norm={threat.norm!r}",
                f"it is defined for {self.kinds}",
                f"For this threat set choose among: {others}."
                if others
                else "Choose another attack or threat model; `robustscope list` shows which norms each attack has.",
            )
        if targets is not None and "targeted" not in self.goals:
            raise InvalidValue(
                f"targets were given to the attack {self.name!r}",
                "it is untargeted",
                "Leave targets out, or choose an attack whose goals include 'targeted'.",
            )

    def check_access(self, model: Classifier, threat: Threat) -> None:
        """Refuse a model that gives less than the attack needs.

        Raises:
            InvalidValue: naming the attacks on this threat set for which it gives enough.
        """
        offered = model.access
        if _RANK[self.access] > _RANK[offered]:
            fit = [
                c.name
                for c in ATTACKS
                if _RANK[c.access] <= _RANK[offered] and kind_of(threat) in c.kinds and not c.floor
            ]
            raise InvalidValue(
                f"the attack {self.name!r}, which needs {self.access}, was given a black box that gives {offered}",
                f"attacks of access {' or '.join(repr(a) for a in _RANK if 0 < _RANK[a] <= _RANK[offered])} are allowed",
                f"Use one of {', '.join(fit) or 'the noise attacks'}, or the suite {offered!r}.",
            )


ATTACKS: Registry[AttackCard] = Registry("attack", AttackCard)
register = ATTACKS.register
