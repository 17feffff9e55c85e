"""Architectures: sizes as published, and what comes out of them."""

import json

import pytest
import torch

from robustscope.core.errors import InvalidValue
from robustscope.models.cards import build_card, save_model
from robustscope.models.layers import build
from robustscope.models.zoo import ARCHITECTURES

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "shape", "settings", "weights"),
    [
        # Counts of the published networks: of the shared checkpoints, and of the papers' code.
        ("cnn_a", MNIST, {}, 166_406),
        ("cnn_a", CIFAR, {}, 214_918),
        ("resnet2b", CIFAR, {}, 112_006),
        ("preact_resnet18", CIFAR, {}, 11_171_146 + 2 * 512),  # and the batch norm at the end that FAST adds
        ("wide_resnet", CIFAR, {"depth": 34, "factor": 10}, 46_160_474),
        ("wide_resnet", CIFAR, {"depth": 28, "factor": 10}, 36_479_194),
        ("vit", CIFAR, {"patch": 16}, 75_706),
        ("madry_cnn", MNIST, {}, 3_274_634),
        ("trades_cnn", MNIST, {}, 312_202),
    ],
)
def test_networks_are_as_large_as_published(name, shape, settings, weights):
    with torch.device("meta"):
        module = build(ARCHITECTURES[name].function(shape, 10, **settings))
    assert sum(weight.numel() for weight in module.parameters()) == weights


@pytest.mark.parametrize("name", [card.name for card in ARCHITECTURES])
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 32, 32), (2, 24, 32)])
def test_networks_run_and_come_back_from_their_cards(name, shape, tmp_path):
    small = {"preact_resnet18": {"width": 4}, "wide_resnet": {"depth": 10, "factor": 1}}.get(name, {})
    layers = ARCHITECTURES[name].function(shape, 7, **small)
    torch.manual_seed(0)
    module = build(layers).eval()
    x = torch.rand(2, *shape)
    card = save_model(tmp_path / "net.json", layers, module.state_dict(), {"shape": list(shape)})
    again, _ = build_card(json.loads(card.read_text()), module.state_dict(), "net")
    with torch.no_grad():
        assert module(x).shape == (2, 7)
        assert torch.equal(module(x), again(x))


@pytest.mark.parametrize(
    ("name", "shape", "settings"),
    [
        ("cnn_a", (12,), {}),
        ("trades_cnn", (1, 8, 8), {}),
        ("wide_resnet", CIFAR, {"depth": 30}),
        ("vit", CIFAR, {"patch": 5}),
        ("vit", CIFAR, {"heads": 5}),
    ],
)
def test_settings_that_do_not_fit_are_refused(name, shape, settings):
    with pytest.raises(InvalidValue, match="allowed"):
        ARCHITECTURES[name].function(shape, 10, **settings)


def test_dropout_acts_in_training_alone():
    module = build(ARCHITECTURES["perceptron"].function((50,), 3, hidden=(400,), dropout=0.5))
    x = torch.rand(4, 50)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))
