"""Objectives that add a penalty or noise to the clean loss: exact values, and what they must not depend on."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from objective_bed import Linear, call, rectified
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.geometry.losses import cross_entropy
from robustscope.training import OBJECTIVES, Recipe, train
from robustscope.training.loop import Training
from robustscope.training.network import Network

RECIPE = Recipe(
    data="digits#train",
    threat="linf:0.15",
    model_parameters={"width": 4},
    samples=150,
    validation=30,
    epochs=1,
    batch_size=32,
    optimizer="adam",
    learning_rate=3e-3,
    validation_steps=2,
)
NAMES = ("input_gradient", "local_linearity", "manifold", "gaussian_noise")


def close(found, expected, atol=1e-9):
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_first_order_penalty_of_a_linear_model_is_the_dual_norm(norm):
    bed = Linear()
    (term,) = call("input_gradient", bed.module, bed.x, bed.y, f"{norm}:0.05", weight=3.0)
    slope = torch.sigmoid(-bed.margin)
    close(term.losses, softplus(-bed.margin) + 3.0 * 0.05 * slope * bed.dual(norm))


def test_the_squared_penalty_is_that_of_double_backpropagation():
    bed = Linear()
    (term,) = call("input_gradient", bed.module, bed.x, bed.y, "linf:0.3", weight=2.0, form="squared")
    close(term.losses, softplus(-bed.margin) + 2.0 * torch.sigmoid(-bed.margin).square() * bed.w.square().sum())


def test_a_long_vector_has_the_scaled_norm_that_all_orders_share():
    # Simon-Gabriel et al.: with epsilon_p = epsilon_inf d^(1/p) the penalty of an even gradient is the same for all norms.
    module, x, y = nn.Linear(16, 2).double(), torch.full((1, 16), 0.5, dtype=torch.float64), torch.tensor([1])
    with torch.no_grad():
        module.weight.copy_(torch.stack([-torch.ones(16), torch.ones(16)]))
    penalties = [
        call("input_gradient", module, x, y, f"{norm}:{0.01 * 16**power}")[0].notes["penalty"]
        for norm, power in (("linf", 0), ("l2", 0.5), ("l1", 1))
    ]
    close(penalties[1], penalties[0])
    close(penalties[2], penalties[0])


def test_local_linearity_finds_the_corner_of_a_linear_model():
    # On it the gap is convex in t = y (w . d), so its largest value lies at t = -+ epsilon |w|_1; either is known.
    bed, epsilon = Linear(), 0.1
    (term,) = call("local_linearity", bed.module, bed.x, bed.y, f"linf:{epsilon}", steps=20, relative_step_size=0.5)
    t = epsilon * bed.dual("linf") * torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    slope = torch.sigmoid(-bed.margin)
    gaps = softplus(-bed.margin - t) - softplus(-bed.margin) + t * slope
    found = term.notes["gap"]
    assert bool(((found - gaps).abs().amin(0) < 1e-9).all())
    close(term.losses, softplus(-bed.margin) + 4.0 * found + 3.0 * epsilon * bed.dual("linf") * slope)
    # Two corners, and both are found: the start decides.
    assert bool(((found - gaps[0]).abs() < 1e-9).any())
    assert bool(((found - gaps[1]).abs() < 1e-9).any())


@pytest.mark.parametrize("name", ["input_gradient", "local_linearity", "manifold"])
def test_penalties_are_trained_through(name):
    # The weights' gradient against finite differences of the loss: nothing on the way to it may be detached.
    module, generator = rectified(), torch.Generator().manual_seed(1)
    x, y = torch.rand(5, 6, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    settings = {"steps": 0} if name == "local_linearity" else {}

    def loss():
        return call(name, module, x, y, "linf:0.1", **settings)[0].losses.sum()

    weight = module[2].weight
    (gradient,) = torch.autograd.grad(loss(), weight)
    direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    size = 1e-6
    with torch.no_grad():
        weight += size * direction
        above = loss()
        weight -= 2 * size * direction
        below = loss()
    close((above - below) / (2 * size), (gradient * direction).sum(), atol=1e-5)


def test_manifold_has_the_expectation_of_a_linear_map_and_none_for_a_constant():
    # E over corners r of ||f(x + e r) - f(x - e r)||^2 is 4 e^2 ||W||_F^2.
    module = nn.Linear(6, 3).double()
    x, y = torch.full((20000, 6), 0.5, dtype=torch.float64), torch.zeros(20000, dtype=torch.int64)
    (term,) = call("manifold", module, x, y, "linf:0.1", pattern_weight=0.0)
    expected = 4 * 0.01 * module.weight.square().sum()
    assert term.notes["outputs"].mean().item() == pytest.approx(expected.item(), rel=0.03)
    with torch.no_grad():
        module.weight.zero_()
    (term,) = call("manifold", module, x[:5], y[:5], "linf:0.1", pattern_weight=0.0)
    close(term.losses, cross_entropy(module(x[:5]), y[:5]), atol=0)
    assert not term.notes["outputs"].any()


def test_manifold_counts_rectifiers_that_switch():
    module, x = rectified(), torch.rand(30, 6, dtype=torch.float64)
    y = torch.zeros(30, dtype=torch.int64)
    (soft,) = call("manifold", module, x, y, "linf:0.1", output_weight=0.0, sharpness=1e6)
    corner = torch.where(Draws(0, tuple(range(30))).uniform("corner", x) < 0, -1.0, 1.0).double()

    def patterns(points):
        first = module[0](points)
        return torch.cat([first, module[2](first.relu())], 1) > 0

    expected = (patterns((x + 0.1 * corner).clamp(0, 1)) != patterns((x - 0.1 * corner).clamp(0, 1))).double().mean(1)
    assert expected.max() > 0
    close(soft.notes["patterns"], expected, atol=0)
    close(soft.losses, cross_entropy(module(x), y) + expected)


def test_manifold_says_that_it_needs_rectifiers():
    bed = Linear()
    with pytest.raises(InvalidValue, match="rectifiers"):
        call("manifold", bed.module, bed.x, bed.y, "linf:0.1")


def test_gaussian_noise_has_its_standard_deviation_and_is_the_samples_own():
    bed = Linear(2000)
    network = Network(nn.Sequential(nn.Identity()))
    seen = []
    network.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    call("gaussian_noise", None, bed.x, bed.y.clamp(max=0), "linf:0", network=network, sigma=0.4, copies=2)
    noise = torch.stack(seen) - bed.x
    assert noise.std().item() == pytest.approx(0.4, rel=0.02)
    assert abs(noise.mean().item()) < 0.01
    assert noise.amax() > 1
    assert not torch.equal(noise[0], noise[1])
    # With a linear model the noise of the margin is sigma ||w||_2.
    assert (noise @ bed.w).std().item() == pytest.approx(0.4 * bed.w.norm().item(), rel=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_depends_on_the_batch(name):
    module, x = rectified(), torch.rand(9, 6, dtype=torch.float64)
    y = torch.tensor([0, 1, 2] * 3)
    (whole,) = call(name, module, x, y, "linf:0.1")
    parts = [call(name, module, x[i : i + 1], y[i : i + 1], "linf:0.1", ids=(i,))[0].losses for i in range(9)]
    close(torch.cat(parts), whole.losses, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_ledgers_count_what_the_cards_say(name):
    card, rows = OBJECTIVES[name], [0, 0]
    recipe = dataclasses.replace(RECIPE, objective=name, parameters=card.quick)
    training = Training(recipe, None, None, None, (), None)
    first = training.network.module[0]
    first.register_forward_pre_hook(lambda module, inputs: rows.__setitem__(0, rows[0] + len(inputs[0])))
    training._epoch()
    stated = card.passes(card.resolve(card.quick))
    assert rows[0] == 120 * stated.forward
    assert training.network.passes == dataclasses.replace(
        stated, forward=120 * stated.forward, backward=120 * stated.backward
    )


@pytest.mark.parametrize("name", NAMES)
def test_without_a_threat_it_is_standard_training_bit_for_bit(name):
    recipe = dataclasses.replace(RECIPE, objective="standard", threat="linf:0", samples=80)
    settings = OBJECTIVES[name].neutral
    plain, other = (train(r) for r in (recipe, dataclasses.replace(recipe, objective=name, parameters=settings)))
    for a, b in zip(plain.module.parameters(), other.module.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["local_linearity", "manifold"])
def test_dropout_drops_the_same_in_what_is_compared(name):
    # At radius 0 the two points are one: whatever differs would be the dropout's.
    module = nn.Sequential(nn.Linear(6, 50), nn.ReLU(), nn.Dropout(0.5), nn.Linear(50, 3)).double()
    x, y = torch.rand(8, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    (one,) = call(name, module, x, y, "linf:0")
    (two,) = call(name, module, x, y, "linf:0")
    assert not one.notes["gap" if name == "local_linearity" else "outputs"].any()
    assert not torch.equal(one.losses, two.losses)  # but another time it drops others
