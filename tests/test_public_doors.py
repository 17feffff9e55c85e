"""Attacks, estimates and certificates refuse the same arguments in the same words."""

import pytest
import torch
from torch import nn

from robustscope.attacks.compose import attack
from robustscope.certify import certify
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.core.types import Bounds, ThreatModel
from robustscope.estimates.compose import estimate
from robustscope.models.classifier import Classifier

X, Y = torch.linspace(0, 1, 12).view(3, 4), torch.tensor([0, 1, 2])

DOORS = {
    "attack": lambda *given, **more: attack("fgsm", *given, **more),
    "estimate": lambda *given, **more: estimate("clever", *given, batches=5, points=3, **more),
    "certify": lambda *given, **more: certify("crown", *given, **more),
    "certify by votes": lambda *given, **more: certify("smoothing", *given, votes=20, **more),
}


def model():
    module = nn.Linear(4, 3)
    with torch.no_grad():
        module.weight.copy_(torch.eye(3, 4))
        module.bias.zero_()
    return Classifier(module.eval())


REFUSED = {
    "no classifier": (lambda m: (m.module, X, Y, "linf:0.1"), InvalidType, "Classifier is allowed"),
    "no threat": (lambda m: (m, X, Y, 0.1), InvalidType, "threat of type float"),
    "an unknown norm": (lambda m: (m, X, Y, "l7:0.1"), InvalidValue, "l7"),
    "other bounds": (lambda m: (m, X, Y, ThreatModel("linf", 0.1, Bounds(-1, 1))), InvalidValue, "equal bounds"),
    "integer inputs": (lambda m: (m, X.long(), Y, "linf:0.1"), InvalidType, "floating-point"),
    "inputs out of bounds": (lambda m: (m, X + 1, Y, "linf:0.1"), InvalidValue, "bounds="),
    "one input without a batch": (lambda m: (m, X[0], Y[:1], "linf:0.1"), InvalidValue, r"\(B, \*S\)"),
    "labels of another length": (lambda m: (m, X, Y[:2], "linf:0.1"), InvalidValue, r"shape \(3,\)"),
    "labels of another type": (lambda m: (m, X, Y.int(), "linf:0.1"), InvalidType, "int64"),
    "labels that are no class": (lambda m: (m, X, Y + 1, "linf:0.1"), InvalidValue, "0 to 2 are allowed"),
    "negative labels": (lambda m: (m, X, Y - 1, "linf:0.1"), InvalidValue, "0 to 2 are allowed"),
    "two radii for three inputs": (lambda m: (m, X, Y, ThreatModel("linf", (0.1, 0.2))), InvalidValue, "2 radii"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("what", REFUSED)
def test_each_door_refuses(door, what):
    given, error, text = REFUSED[what]
    with pytest.raises(error, match=text):
        DOORS[door](*given(model()))


@pytest.mark.parametrize("door", DOORS)
def test_each_door_counts_the_draws(door):
    with pytest.raises(InvalidValue, match="one sample id for each input"):
        DOORS[door](model(), X, Y, "linf:0.1", draws=Draws(0, (1, 2)))
    with pytest.raises(InvalidType, match="draws of type int"):
        DOORS[door](model(), X, Y, "linf:0.1", draws=7)


@pytest.mark.parametrize("door", DOORS)
def test_each_door_takes_what_is_allowed_and_none(door):
    DOORS[door](model(), X, Y, "linf:0.1", draws=Draws(0, (5, 6, 7)))
    DOORS[door](model(), X[:0], Y[:0], "linf:0.1")
