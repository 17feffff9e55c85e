"""The card of an attack and the registry of attacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.registry import Card, Registry
from robustscope.core.types import AttackResult, Norm, ThreatModel
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
        threat: ThreatModel,
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
        norms: norms it is defined for.
        goals: "untargeted", "targeted" or both.
        stochastic: whether it draws random numbers.
        quick: hyper-parameters for the contract checks.
        cost: resolved hyper-parameters -> most (forward, backward) rows that one sample can cost.
        floor: True for noise: what anything called an attack must beat.
    """

    aim: Aim = "fixed-epsilon"
    access: Access = "gradients"
    norms: tuple[Norm, ...] = ("linf",)
    goals: tuple[Goal, ...] = ("untargeted",)
    stochastic: bool = False
    quick: Mapping[str, Any] = field(default_factory=dict)
    cost: Callable[[Mapping[str, Any]], tuple[int, int]] = lambda parameters: (0, 0)
    floor: bool = False

    def check(self, threat: ThreatModel, targets: Tensor | None = None) -> None:
        """Refuse a threat model or a goal that the attack is not defined for.

        Raises:
            InvalidValue: naming what the attack allows.
        """
        if threat.norm not in self.norms:
            raise InvalidValue(
                f"the attack {self.name!r} was asked for norm={threat.norm!r}",
                f"it is defined for {self.norms}",
                "Choose another attack or threat model; `robustscope list` shows which norms each attack has.",
            )
        if targets is not None and "targeted" not in self.goals:
            raise InvalidValue(
                f"targets were given to the attack {self.name!r}",
                "it is untargeted",
                "Leave targets out, or choose an attack whose goals include 'targeted'.",
            )
        radii = threat.epsilon if isinstance(threat.epsilon, tuple) else (threat.epsilon,)
        if self.aim == "fixed-epsilon" and float("inf") in radii:
            raise InvalidValue(
                f"the fixed-epsilon attack {self.name!r} was asked for an infinite radius",
                "a finite epsilon is allowed",
                "Give a radius, or choose an attack whose aim is 'minimum-norm'.",
            )

    def check_access(self, model: Classifier, norm: Norm) -> None:
        """Refuse a model that gives less than the attack needs.

        Raises:
            InvalidValue: naming the attacks on ``norm`` for which it gives enough.
        """
        offered = model.access
        if _RANK[self.access] > _RANK[offered]:
            fit = [c.name for c in ATTACKS if _RANK[c.access] <= _RANK[offered] and norm in c.norms and not c.floor]
            raise InvalidValue(
                f"the attack {self.name!r}, which needs {self.access}, was given a black box that gives {offered}",
                f"attacks of access {' or '.join(repr(a) for a in _RANK if 0 < _RANK[a] <= _RANK[offered])} are allowed",
                f"Use one of {', '.join(fit) or 'the noise attacks'}, or the suite {offered!r}.",
            )


ATTACKS: Registry[AttackCard] = Registry("attack", AttackCard)
register = ATTACKS.register
