"""Masked networks decide as they say, hide what they say, and do not fool the ladder."""

import pytest
import torch
from torch import nn

import robustscope
from robustscope.attacks.compose import attack
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue, UnknownName
from robustscope.core.types import ThreatModel
from robustscope.data.masked import MASKED, masked, unmasked
from robustscope.data.masked_more import HELD_OUT
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


@pytest.mark.parametrize("name", list(HELD_OUT))
def test_the_second_set_decides_as_it_says_and_shows_a_way_around(name):
    """Equal decisions where they are promised; else most of them, and a network beside it that has gradients."""
    module, x, mask = network(), samples(), HELD_OUT[name]
    weights = [tensor.clone() for tensor in module.state_dict().values()]
    hidden, beside = mask.wrap(module).eval(), mask.beside(module).eval()
    same = float((hidden(x).argmax(1) == module(x).argmax(1)).float().mean())
    coarse = {"keyed_view": 0.25, "winners_tenth": 0.5}  # a pixel of 8, and a tenth of few activations, are much
    assert same == 1 if mask.exact else same > coarse.get(name, 0.9)
    if name != "keyed_view":  # one view of nine stands beside the mean of all
        assert torch.equal(hidden(x).argmax(1), beside(x).argmax(1))
    assert torch.equal(hidden(x[:3]).argmax(1), hidden(x)[:3].argmax(1)), "a function of its input alone"
    assert gradient(beside, x).flatten(1).abs().sum(1).gt(0).float().mean() > 0.95
    assert all(torch.equal(a, b) for a, b in zip(weights, module.state_dict().values(), strict=True))
    Classifier(hidden, allow_probabilities=True).gradient(lambda z, rows: z[:, 0], x[:4])
    assert mask.says
    assert name not in MASKED


def test_gradients_of_the_second_set_are_not_those_of_the_network():
    module, x = network(), samples()
    for name in ("eight_bits", "rounded_features", "votes", "distilled"):
        assert gradient(HELD_OUT[name].wrap(module), x).flatten(1).abs().amax(1).median() == 0
    for name, most in (
        ("scrambled_gradient", 0.5),
        ("detached_views", 0.9),
        ("keyed_view", 0.9),
        ("winners_tenth", 0.9),
    ):
        hidden, beside = (gradient(make(module), x).flatten(1) for make in (HELD_OUT[name].wrap, HELD_OUT[name].beside))
        assert torch.cosine_similarity(hidden, beside).median() < most, name
    faint = gradient(HELD_OUT["fainter_gradient"].wrap(module), x)
    torch.testing.assert_close(1e6 * faint, gradient(module, x))


def test_features_cannot_be_rounded_where_no_layer_has_any():
    with pytest.raises(InvalidValue, match="Linear"):
        HELD_OUT["rounded_features"].wrap(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()))


# The ladder against them. The first of the samples that the best attack known breaks and PGD does not.


LINF = ThreatModel("linf", 0.1)
FEW = 3
HIDING = ("tanh", "reversed_gradient", "input_stairs", "temperature_1e-30")
"""One mask of each kind that costs seconds; benchmarks/masked.py measures all of them."""


def door(module):
    return Classifier(module, allow_probabilities=True, batch_size=1000)


def known_and_missed(name):
    """Return the masked model, a few samples that PGD leaves and the attack on the network beside breaks, and labels."""
    module, data = network(), robustscope.load_data("digits")
    x, y = data.read(range(40)), torch.as_tensor(data.labels[:40])
    model = door(masked(name, module))
    known = attack("apgd_targeted", door(unmasked(name, module)), x, y, LINF, loss="margin").result.x_adv
    naive = attack("pgd", model, x, y, LINF).verdict.success
    rows = ((model.logits(x).argmax(1) == y) & (model.logits(known).argmax(1) != y) & ~naive).nonzero()[:FEW, 0]
    assert len(rows) == FEW, "a mask that PGD sees through tests nothing"
    return model, x[rows], y[rows], Draws(0, tuple(rows.tolist()))


@pytest.mark.parametrize("name", HIDING)
def test_the_ladder_breaks_what_is_known_to_break(name):
    model, x, y, draws = known_and_missed(name)
    outcome = attack("ladder", model, x, y, LINF, draws=draws)
    assert outcome.verdict.success.all(), f"{int((~outcome.verdict.success).sum())} of {FEW} are left"


def test_without_its_search_the_ladder_is_fooled():
    model, x, y, draws = known_and_missed("reversed_gradient")
    success = attack("ladder", model, x, y, LINF, draws=draws, search=False).verdict.success
    assert not success.all(), "ten steps uphill from random points may break one, no more"
    assert success.sum() <= 1
