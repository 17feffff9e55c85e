"""COLT: closed form, what is frozen, what a point between the layers may be, and what it costs."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softplus

from objective_bed import Linear, call, rectified
from robustscope.certify import certify
from robustscope.certify.operations import Matrix
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.models.classifier import Classifier
from robustscope.models.layers import build
from robustscope.training import OBJECTIVES
from robustscope.training.bounded import live_graph
from robustscope.training.cards import Step
from robustscope.training.latent import Latent, cuts, zonotope
from robustscope.training.network import Network

PLAIN = {"stability": 0.0, "l1": 0.0}


def batch(count=8):
    generator = torch.Generator().manual_seed(4)
    x = 0.2 + 0.6 * torch.rand(count, 6, generator=generator, dtype=torch.float64)
    return x, torch.arange(count) % 3


def at(epoch, epochs, count=8):
    return Step(epoch, epochs, torch.arange(count), count, count)


def test_on_a_linear_model_the_loss_is_the_closed_form():
    bed = Linear()
    (term,) = call("colt", bed.module, bed.x, bed.y, "linf:0.05", mix=0.0, l1=0.0)
    torch.testing.assert_close(term.losses, softplus(0.05 * bed.dual("linf") - bed.margin), atol=1e-9, rtol=0)
    (term,) = call("colt", bed.module, bed.x, bed.y, "linf:0.05", mix=0.0, l1=0.01)
    expected = softplus(0.05 * bed.dual("linf") - bed.margin) + 0.01 * bed.w.abs().sum()
    torch.testing.assert_close(term.losses, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("mix", [0.0, 0.9])
def test_layers_before_the_cut_get_no_gradient(mix):
    module, (x, y) = rectified(), batch()
    for epoch, trained in ((1, True), (3, False)):  # two stages: the input, and behind the first activation
        module.zero_grad(set_to_none=True)
        (term,) = call("colt", module, x, y, "linf:0.1", step=at(epoch, 4), mix=mix)
        term.losses.sum().backward()
        assert (module[0].weight.grad is not None) == trained
        assert module[2].weight.grad.any()
        assert module[4].weight.grad.any()


def test_a_stage_begins_with_the_loss_of_the_one_before():
    module, (x, y) = rectified(), batch()
    losses = {}
    for epoch in range(4):
        settings = {**PLAIN, "growth": 1.0, "mix": 1.0}
        (term,) = call("colt", module, x, y, "linf:0.1", step=at(epoch, 4), **settings)
        losses[epoch] = term.losses.detach()
    torch.testing.assert_close(losses[0], cross_entropy(module(x), y, reduction="none").detach())
    (first,) = call("colt", module, x, y, "linf:0.1", step=at(0, 4), **PLAIN, mix=0.0, growth=1.0)
    assert bool((losses[2] > losses[0]).all())  # the whole adversarial loss of the first stage, attacked anew
    torch.testing.assert_close(losses[2], first.losses.detach(), atol=0.05, rtol=0.05)


def test_the_loss_lies_between_an_attack_and_the_zonotope():
    module, (x, y) = rectified(), batch()
    (term,) = call("colt", module, x, y, "linf:0.1", step=at(1, 2), mix=0.0, steps=20, **PLAIN)
    draws, clean = Draws(0, tuple(range(8))), cross_entropy(module(x), y, reduction="none")
    assert bool((term.losses > clean).all())
    for trial in range(30):  # points of the ball are points of the zonotope
        point = (x + 0.1 * draws.uniform(str(trial), x).sign()).clamp(0, 1)
        assert bool((cross_entropy(module(point), y, reduction="none") <= term.losses + 0.02).all())
    worst = certify("deepz", Classifier(module.eval()), x, y, "linf:0.1", stop_early=False).lower_margin
    assert bool((term.losses <= (1 + 2 * torch.exp(-worst)).log() + 1e-9).all())


def test_points_are_points_of_the_zonotope():
    module, (x, y) = rectified(), batch()
    network = Network(module)
    graph = live_graph(network, x)
    cut = cuts(graph)[1]
    latent = Latent(network, graph, cut, zonotope(network, graph, x, ThreatModel("linf", 0.1), cut))
    lower, upper = latent.values.span()
    draws = Draws(0, tuple(range(8)))
    for steps in (0, 5):
        point = latent.ascend(lambda z: cross_entropy(z, y, reduction="none"), draws, steps, 0.25)
        assert bool(((point >= lower - 1e-12) & (point <= upper + 1e-12)).all())
    torch.testing.assert_close(graph.carry(x, 0, len(graph.nodes) - 1), module(x))
    torch.testing.assert_close(graph.carry(x, 0, cut), module[:2](x))
    torch.testing.assert_close(latent.logits(module[:2](x), cut), module(x))
    # The next activation's open signs, from the zonotope's own bounds.
    image = module[2].weight.detach() @ latent.values.terms.transpose(1, 2)
    middle, reach = module[2](latent.values.centre), image.abs().sum(2)
    expected = ((reach - middle).clamp(min=0) * (reach + middle).clamp(min=0)).sum(1)
    torch.testing.assert_close(latent.instability(), expected)


def test_cuts_lie_outside_residual_blocks():
    linear = {"type": "linear", "in": 4, "out": 4}
    block = {"type": "residual_add", "main": [linear, {"type": "relu"}, linear], "shortcut": []}
    layers = [linear, {"type": "relu"}, block, {"type": "relu"}, linear, {"type": "relu"}, {**linear, "out": 2}]
    graph = live_graph(Network(build(layers)), torch.rand(2, 4))
    names = [graph.nodes[i].name for i in cuts(graph)]
    assert names == ["input", "ReLU (1)", "ReLU (3)"]


@pytest.mark.parametrize("epoch", [0, 1])
def test_nothing_depends_on_the_batch(epoch):
    module, (x, y) = rectified(), batch()
    (whole,) = call("colt", module, x, y, "linf:0.1", step=at(epoch, 2), mix=0.0)
    parts = [
        call("colt", module, x[i : i + 1], y[i : i + 1], "linf:0.1", step=at(epoch, 2), mix=0.0, ids=(i,))[0].losses
        for i in range(8)
    ]
    torch.testing.assert_close(torch.cat(parts), whole.losses, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("epoch", "mix"), [(0, 0.0), (3, 0.0), (3, 1.0)])
def test_passes_are_counted(epoch, mix, monkeypatch):
    module, (x, y) = rectified(), batch()
    rows, forward = [0], Matrix.forward

    def counted(self, *values):
        rows[0] += len(values[0]) if self.weight is module[4].weight and len(values[0]) > 2 else 0
        return forward(self, *values)

    monkeypatch.setattr(Matrix, "forward", counted)
    module[4].register_forward_pre_hook(lambda layer, inputs: rows.__setitem__(0, rows[0] + len(inputs[0])))
    network = Network(module)
    (term,) = call("colt", None, x, y, "linf:0.1", network=network, step=at(epoch, 4), mix=mix, steps=3)
    term.losses.sum().backward()
    network.settle()
    card = OBJECTIVES["colt"]
    stated = card.passes(card.resolve({"steps": 3, "mix": mix}))
    assert rows[0] == network.passes.forward == 8 * stated.forward
    assert network.passes.backward == 8 * stated.backward
    assert (network.passes.partial > 0) == (epoch == 3)


def test_convolutions_are_cut_too():
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(18, 5), nn.ReLU(), nn.Linear(5, 2)
    )
    x, y = torch.rand(4, 1, 6, 6), torch.tensor([0, 1, 0, 1])
    (term,) = call("colt", module, x, y, "linf:0.05", step=at(1, 2, 4), mix=0.0)
    term.losses.sum().backward()
    assert module[0].weight.grad is None
    assert module[3].weight.grad.any()
