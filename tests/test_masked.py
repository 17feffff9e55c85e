"""Masked networks: they decide as they say, hide what they say, and leave the given network alone."""

import pytest
import torch
from torch import nn

import robustscope
from robustscope.core.errors import InvalidValue, UnknownName
from robustscope.data.masked import MASKED, masked, unmasked
from robustscope.models.classifier import Classifier


def network():
    return robustscope.load_model("bundled:digits_standard").classifier.module


def samples():
    return robustscope.load_data("digits").read(range(100))


def gradient(module, x):
    classes = module(x).argmax(1)
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(module(leaf).gather(1, classes[:, None]).sum(), leaf)
    return found


@pytest.mark.parametrize("name", list(MASKED))
def test_masked_and_unmasked_decide_alike(name):
    module, x = network(), samples()
    weights = [tensor.clone() for tensor in module.state_dict().values()]
    hidden, beside = masked(name, module), unmasked(name, module)
    assert torch.equal(hidden(x).argmax(1), beside(x).argmax(1))
    same = float((hidden(x).argmax(1) == module(x).argmax(1)).float().mean())
    assert same == 1 if MASKED[name].exact else same > 0.85
    assert torch.equal(hidden(x[:3]).argmax(1), hidden(x)[:3].argmax(1)), "a function of its input alone"
    assert gradient(beside, x).flatten(1).abs().sum(1).gt(0).all()
    assert all(torch.equal(a, b) for a, b in zip(weights, module.state_dict().values(), strict=True))
    assert MASKED[name].says
    Classifier(hidden, allow_probabilities=True).gradient(lambda z, rows: z[:, 0], x[:4])


@pytest.mark.parametrize(
    "name", ["zero_gradient", "labels", "input_stairs", "input_compression", "activation_steps", "rounded_logits"]
)
def test_some_have_no_gradient_at_all(name):
    x = samples()
    assert gradient(masked(name, network()), x).abs().max() == 0


def test_some_gradients_lie():
    module, x = network(), samples()
    torch.testing.assert_close(gradient(masked("reversed_gradient", module), x), -gradient(module, x))
    for name in ("detached_branch", "decoy_gradient", "shattered_relu6", "winners"):
        cosine = torch.cosine_similarity(gradient(masked(name, module), x).flatten(1), gradient(module, x).flatten(1))
        assert cosine.median() < 0.9, name
    flat = masked("plateau", module)(x).sort(1, descending=True).values
    assert (flat[:, 1] == -0.5).float().mean() > 0.9, "the scores of nearly all samples are cut"


def test_what_cannot_be_masked_is_refused():
    with pytest.raises(UnknownName, match="plateau"):
        masked("platau", network())
    with pytest.raises(InvalidValue, match="ReLU"):
        masked("activation_steps", nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
