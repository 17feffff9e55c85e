"""Every limit says what it is: card, docstring, and a result that names its subject."""

import dataclasses
import inspect
import typing

import pytest
import torch

from robustscope.contracts.explained import sections
from robustscope.core.draws import Draws
from robustscope.core.types import NORMS
from robustscope.limits import LIMITS, cards
from robustscope.limits.generators import PPCA
from robustscope.models.classifier import Classifier

CARDS = list(LIMITS)


def result_of(card):
    return typing.get_type_hints(card.function)["return"]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_card_and_the_docstring_are_complete(card):
    assert card.version >= 1
    assert card.source
    assert card.quantity
    assert card.bibtex.startswith("@")
    assert card.norms
    assert set(card.norms) <= set(NORMS)
    assert card.subject in typing.get_args(cards.Subject)
    card.resolve(card.quick)
    parts = sections(card.function.__doc__)
    assert parts[""].strip().split("\n")[0].endswith(".")
    for name in inspect.signature(card.function).parameters:
        assert f"\n    {name}:" in f"\n{parts['Args']}", name
    for name in ("Returns", "Raises", "Source"):
        assert parts[name].strip(), name


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_result_is_frozen_and_names_its_subject(card):
    result = result_of(card)
    assert dataclasses.is_dataclass(result)
    assert result.__dataclass_params__.frozen
    subject = {field.name: field.default for field in dataclasses.fields(result)}["subject"]
    assert subject == card.subject


def call(card, model):
    """Call a limit on a small problem."""
    x, y = torch.rand(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    draws = Draws(0, tuple(range(40)))
    positional = {
        "transport_gaussian": (torch.ones(3), 1.0),
        "fawzi_linear": (x, y, torch.ones(4), -2.0),
        "fawzi_quadratic": (x, y, torch.diag(torch.tensor([1.0, 1.0, -1.0, -1.0]))),
        "fawzi_general": (x.sum(1) - 2, y),
        "noise_radius": (model, x[:3]),
        "latent": (model, x, y, PPCA.fit(x, y, latent=2)),
    }
    named = {
        "fawzi_general": {"tau": 1.0},
        "noise_ratio": {"values": 4},
        "noise_radius": {"draws": draws.select(torch.arange(3)), "risk": 0.1},
        "latent": {"draws": draws},
    }
    without = ("noise_ratio", "schmidt_gaussian", "schmidt_bernoulli", "tsipras_trade_off")
    given = positional.get(card.name, () if card.name in without else (x, y))
    return card.function(*given, **{**card.quick, **named.get(card.name, {})})


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_limit_is_silent_and_leaves_everything_as_it_was(card, capsys):
    network = torch.nn.Linear(4, 2).eval()
    before, random = [p.detach().clone() for p in network.parameters()], torch.get_rng_state()
    first, second = (call(card, Classifier(network)) for _ in range(2))
    assert isinstance(first, result_of(card))
    assert capsys.readouterr() == ("", "")
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, network.parameters()))
    assert str(first) == str(second)
