"""The card of an estimate, the registry of estimates, and what their warnings mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from robustscope.core.errors import InvalidValue
from robustscope.core.registry import Card, Registry
from robustscope.core.types import Norm, ThreatModel

Goal = Literal["untargeted", "targeted"]

WARNINGS: Mapping[str, str] = {
    "misclassified": "the sample is not classified as its true class, so its radius is 0 and nothing was sampled",
    "capped": "the estimate is the sampling radius itself; the true radius may be larger, or the gradients are masked",
    "zero_gradients": "at some points the gradient is exactly zero: a sign of masked gradients, which make any estimate"
    " of this kind far too large",
    "probabilities": "the outputs look like probabilities; saturation flattens their gradients and raises the estimate",
    "constant": "every batch has the same maximum: the margin is affine (or flat) where it was sampled, nothing was fitted",
    "ties": "more than half of the maxima are repeated, so their distribution is not continuous",
    "bad_fit": "the Kolmogorov-Smirnov test rejects the fitted distribution (p < 0.05)",
    "no_maximum": "the likelihood has no maximum; the largest sampled value stands in for the location",
    "far": "the fitted location is more than twice the largest sampled value: an extrapolation, not an observation",
}


@dataclass(frozen=True)
class EstimateCard(Card):
    """What an estimate says about itself.

    The function has the form ``(model, x, y, threat, *, draws, targets=None, ...) -> Estimate``. The radius of the threat
    model is the radius of sampling and the largest estimate that can come out.

    Args:
        norms: norms it is defined for.
        goals: "untargeted" (the smallest over the other classes), "targeted" or both.
        smooth: whether it needs a twice-differentiable network.
        quick: hyper-parameters for the checks.
        cost: (resolved hyper-parameters, number of classes) -> (forward, backward) rows of a correctly classified sample
            without targets.
    """

    norms: tuple[Norm, ...] = ("linf", "l2", "l1")
    goals: tuple[Goal, ...] = ("untargeted", "targeted")
    smooth: bool = False
    quick: Mapping[str, Any] = field(default_factory=dict)
    cost: Callable[[Mapping[str, Any], int], tuple[int, int]] = lambda parameters, classes: (0, 0)

    def check(self, threat: ThreatModel, targets: Tensor | None = None) -> None:
        """Refuse a threat model or a goal that the estimate is not defined for.

        Raises:
            InvalidValue: naming what it allows.
        """
        if threat.norm not in self.norms:
            raise InvalidValue(
                f"the estimate {self.name!r} was asked for norm={threat.norm!r}",
                f"it is defined for {self.norms}",
                "Choose another norm, or another estimate.",
            )
        radii = threat.epsilon if isinstance(threat.epsilon, tuple) else (threat.epsilon,)
        if float("inf") in radii:
            raise InvalidValue(
                f"the estimate {self.name!r} was asked to sample within an infinite radius",
                "a finite epsilon is allowed: it is the radius of sampling and the largest possible estimate",
                "Choose one somewhat larger than the radius that an attack finds, e.g. 'l2:2' or 'linf:0.1'.",
            )
        if targets is not None and "targeted" not in self.goals:
            raise InvalidValue(
                f"targets were given to the estimate {self.name!r}", "it is untargeted", "Leave targets out."
            )


ESTIMATES: Registry[EstimateCard] = Registry("estimate", EstimateCard)
register = ESTIMATES.register
