"""IAAT and AWP: radii that follow the samples, weights that are perturbed."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from objective_drive import binary, curved, drive, same, weights
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import cross_entropy
from robustscope.training import OBJECTIVES, Step
from robustscope.training.network import Network

# IAAT.


def test_iaat_radii_climb_to_the_margin_and_vanish_where_the_sample_is_wrong():
    # One sample with margin distance 0.37, one misclassified: growth 0.05, no memory of old radii.
    module = nn.Sequential(nn.Linear(1, 2)).double()
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[-0.5], [0.5]]))
        module[0].bias.copy_(torch.tensor([0.25, -0.25]))
    x, y = torch.tensor([[0.87], [0.2]], dtype=torch.float64), torch.tensor([1, 1])
    step = Step(0, 30, torch.arange(2), 2, 4)
    settings = {"relative_growth": 0.5, "warm_up": 1, "steps": 4}
    drive("iaat", module, x, y, "linf:0.1", step=step, **settings)
    radius = step.memory["iaat/radius"]
    assert radius.tolist() == [0.1, 0.0, 0.0, 0.0]  # the warm-up: epsilon, or 0 where it is wrong
    radius[1] = 0.08
    history = []
    for epoch in range(1, 12):
        drive("iaat", module, x, y, "linf:0.1", step=dataclasses.replace(step, epoch=epoch), memory=0.0, **settings)
        history.append(radius[:2].tolist())
    assert [round(a, 3) for a, _ in history] == [0.15, 0.2, 0.25, 0.3, 0.35] + [0.35] * 6
    assert all(b == 0 for _, b in history)
    # With memory, the radius of a misclassified sample falls geometrically.
    radius[1] = 0.08
    for epoch in range(1, 5):
        drive("iaat", module, x, y, "linf:0.1", step=dataclasses.replace(step, epoch=epoch), memory=0.75, **settings)
        assert radius[1].item() == pytest.approx(0.08 * 0.75**epoch)
    # Above the margin it shrinks; and the sample is trained on inside its own radius.
    radius[0] = 0.5
    out = drive("iaat", module, x, y, "linf:0.1", step=dataclasses.replace(step, epoch=1), memory=0.0, **settings)
    assert radius[0].item() == pytest.approx(0.45)
    assert (x[0] - out.seen[-1][0]).item() == pytest.approx(0.45)


def test_iaat_steps_of_small_radii_have_a_least_length():
    module, _, x, y, _ = binary()
    step = Step(5, 9, torch.arange(40), 40, 40, {"iaat/radius": torch.full((40,), 0.01, dtype=torch.float64)})
    out = drive("iaat", module, x, y, "linf:0.1", step=step, memory=1.0, warm_up=0, steps=4)
    # A quarter of epsilon crosses the ball at once; 2 r / steps would not, from a random start.
    for point in out.seen[-4:]:
        assert balls.distance("linf", x, point).tolist() == pytest.approx([0.01] * 40)
        torch.testing.assert_close((point - x).abs(), torch.full_like(x, 0.01))
    assert bool(((out.seen[-5] - x).abs() < 0.009).any())


# AWP.


def test_awp_takes_the_gradient_at_perturbed_weights_and_puts_them_back():
    module, x, y = curved()
    before = weights(module)
    pgd = drive("pgd", copy.deepcopy(module), x, y, "linf:0.1", steps=3)
    out = drive("awp", module, x, y, "linf:0.1", steps=3, weight_radius=0.05)
    assert same(weights(module), before)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            if weight.dim() > 1:
                gradient = pgd.gradients[0][name]
                weight += 0.05 * weight.norm() * gradient / gradient.norm()
                assert (weight - before[name]).norm() == pytest.approx(0.05 * before[name].norm())
    value = cross_entropy(twin(pgd.seen[-1]), y)
    value.mean().backward()
    torch.testing.assert_close(out.losses[0], value.detach())
    assert value.mean() > pgd.losses[0].mean()
    assert len(out.gradients) == 1
    for name, weight in twin.named_parameters():
        torch.testing.assert_close(out.gradients[0][name], weight.grad)


def test_awp_puts_weights_and_running_statistics_back_whatever_happens():
    module, x, y = curved()
    module = nn.Sequential(module[0], nn.BatchNorm1d(7).double(), *module[1:])
    plain = copy.deepcopy(module)
    before = {name: weight.clone() for name, weight in module.named_parameters()}
    card = OBJECTIVES["awp"]
    terms = card.function(
        Network(module), x, y, ThreatModel("linf", 0.1), draws=Draws(0, tuple(range(12))),
        step=Step(0, 1, torch.arange(12), 12, 12), **card.resolve({"weight_radius": 0.5}))  # fmt: skip
    next(terms)
    assert not torch.equal(module[0].weight, before["0.weight"])
    terms.close()
    assert all(torch.equal(weight, before[name]) for name, weight in module.named_parameters())
    drive("pgd", plain, x, y, "linf:0.1")
    # One pass in training mode has moved them, as in PGD training: that of the loss, not the one that finds v.
    assert int(module[1].num_batches_tracked) == int(plain[1].num_batches_tracked) == 1
