"""The card of a certifier, the registry of certifiers, and the door through which one is called."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from robustscope.core.errors import InvalidValue
from robustscope.core.registry import Card, Registry
from robustscope.core.types import Certificate, Norm, ThreatModel
from robustscope.models.classifier import Classifier


class Certifier(Protocol):
    """A function that proves robustness; its hyper-parameters are keyword-only arguments."""

    def __call__(self, model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel) -> Certificate:
        """Return a lower bound of the margin for each sample."""
        ...


@dataclass(frozen=True)
class CertifierCard(Card):
    """What a certifier says about itself.

    Args:
        norms: norms of the balls that it is defined for.
        layers: layers that it can pass.
        sound: what a verified sample is sure of: "deterministic" (a proof, up to rounding) or "probabilistic".
        quick: hyper-parameters for the contract checks.
    """

    norms: tuple[Norm, ...] = ("linf",)
    layers: tuple[str, ...] = ()
    sound: str = "deterministic"
    quick: Mapping[str, Any] = field(default_factory=dict)

    def check(self, threat: ThreatModel) -> None:
        """Refuse a threat model that the certifier is not defined for.

        Raises:
            InvalidValue: naming what it allows.
        """
        if not isinstance(threat, ThreatModel) or threat.norm not in self.norms:
            others = ", ".join(card.name for card in CERTIFIERS if threat.norm in card.norms)
            raise InvalidValue(
                f"the certifier {self.name!r} was asked for norm={threat.norm!r}",
                f"it is defined for {self.norms}",
                f"Choose among: {others}." if others else "No certifier knows this threat set; use attacks.",
            )
        radii = threat.epsilon if isinstance(threat.epsilon, tuple) else (threat.epsilon,)
        if math.inf in radii:
            raise InvalidValue(
                "epsilon=inf was given to a certifier",
                "a finite radius is allowed",
                "certify.certified_radius searches the largest radius that can be verified.",
            )


CERTIFIERS: Registry[CertifierCard] = Registry("certifier", CertifierCard)
register = CERTIFIERS.register


def certify(name: str, model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel, **parameters: Any) -> Certificate:
    """Certify samples by a registered method.

    Args:
        name: of the certifier, such as "crown".
        model: classifier whose module can be traced.
        x: (B, *S), inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds; as many radii as samples, or one.
        parameters: hyper-parameters of the certifier.

    Raises:
        UnknownName: for a certifier or a hyper-parameter that does not exist.
        InvalidValue: for a threat model, inputs or a network that the certifier cannot treat.

    Example:
        >>> import torch
        >>> model = Classifier(torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False)).eval())
        >>> _ = torch.nn.init.eye_(model.module[0].weight)
        >>> certify("ibp", model, torch.tensor([[0.9, 0.2]]), torch.tensor([0]), ThreatModel("linf", 0.25)).status
        ('verified',)
    """
    card = CERTIFIERS[name]
    card.check(threat)
    model.check_inputs(x, y)
    threat.radius(x)
    return card.function(model, x, y, threat, **card.resolve(parameters))
