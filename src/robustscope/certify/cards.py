"""The card of a certifier, the registry of certifiers, and the door through which one is called."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.registry import Card, Registry
from robustscope.core.types import Certificate, Norm, ThreatModel
from robustscope.models.blackbox import Access
from robustscope.models.classifier import Classifier
from robustscope.models.doors import SETS, check_draws, check_samples, check_subject


class Certifier(Protocol):
    """A function that proves robustness; its hyper-parameters are keyword-only arguments.

    One that is stochastic has ``draws`` among them, without a default.
    """

    def __call__(self, model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel) -> Certificate:
        """Return a lower bound of the margin for each sample."""
        ...


@dataclass(frozen=True)
class CertifierCard(Card):
    """What a certifier says about itself.

    Args:
        norms: norms of the balls that it is defined for.
        layers: layers that it can pass; empty for a method that only asks the model.
        sound: what a verified sample is sure of: "deterministic" (a proof, up to rounding) or "probabilistic".
        access: what it needs of the model: "gradients" (its layers), "scores" or "decisions".
        stochastic: whether it draws random numbers.
        subject: (model, resolved hyper-parameters) -> the classifier that a certificate is about, where that is not the
            model itself; None where it is.
        quick: hyper-parameters for the contract checks.
        cost: hyper-parameters -> most rows that one certificate of a sample sends forward through the model.
    """

    norms: tuple[Norm, ...] = ("linf",)
    layers: tuple[str, ...] = ()
    sound: str = "deterministic"
    access: Access = "gradients"
    stochastic: bool = False
    subject: Callable[[Classifier, Mapping[str, Any]], Classifier] | None = None
    quick: Mapping[str, Any] = field(default_factory=dict)
    cost: Callable[[Mapping[str, Any]], int] = lambda parameters: 2

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


def certify(
    name: str | CertifierCard,
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel | str,
    *,
    draws: Draws | None = None,
    seed: int = 0,
    **parameters: Any,
) -> Certificate:
    """Certify samples by a registered method.

    Args:
        name: of the certifier, such as "crown", or a card.
        model: the classifier. Most methods read its layers; smoothing only asks it, and certifies another classifier:
            see :func:`certified_model`.
        x: (B, *S), inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds, as many radii as samples, or one; or a text such as "linf:8/255" in the bounds of
            the model.
        draws: random numbers of a stochastic method; None numbers the samples 0 to B - 1 under ``seed``.
        seed: used when ``draws`` is None.
        parameters: hyper-parameters of the certifier.

    Raises:
        UnknownName: for a certifier or a hyper-parameter that does not exist.
        InvalidType, InvalidValue: for a threat model, inputs, labels or a network that the certifier cannot treat.

    Example:
        >>> import torch
        >>> model = Classifier(torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False)).eval())
        >>> _ = torch.nn.init.eye_(model.module[0].weight)
        >>> certify("ibp", model, torch.tensor([[0.9, 0.2]]), torch.tensor([0]), "linf:0.25").status
        ('verified',)
    """
    card = name if isinstance(name, CertifierCard) else CERTIFIERS[name]
    threat = check_subject(model, threat, SETS)
    card.check(threat)
    resolved = card.resolve(parameters)
    check_samples(model, x, y, threat)
    draws = check_draws(draws, seed, x, card.name)
    return card.function(model, x, y, threat, **({"draws": draws} if card.stochastic else {}), **resolved)


def certified_model(name: str | CertifierCard, model: Classifier, **parameters: Any) -> Classifier:
    """Return the classifier that a method's certificates are about: whoever checks them must attack this one.

    Args:
        name: of the certifier, or a card.
        model: the classifier given to :func:`certify`.
        parameters: hyper-parameters of the certifier, the same as there.

    Returns:
        ``model`` itself, except for methods that certify a classifier made of it, such as "smoothing".

    Example:
        >>> import torch
        >>> model = Classifier(torch.nn.Linear(2, 2).eval())
        >>> certified_model("crown", model) is model, certified_model("smoothing", model) is model
        (True, False)
    """
    card = name if isinstance(name, CertifierCard) else CERTIFIERS[name]
    resolved = card.resolve(parameters)
    return model if card.subject is None else card.subject(model, resolved)
