"""FREE, FAST, FGSM and GradAlign: adversarial training in few passes."""

import copy
import dataclasses

import pytest
import torch
from torch.nn import functional as F

from objective_drive import binary, curved, drive
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.training import Step
from robustscope.training.adversary import random_point
from robustscope.training.objectives import grad_align

# FREE and FAST.


@pytest.mark.parametrize("bounds_far", [True, False])
def test_free_moves_to_the_corner_and_remembers_it(bounds_far):
    module, w, x, y, _ = binary(bounds_far=bounds_far)
    step = Step(0, 1, torch.arange(40), 64, 40)
    drive("free", module, x, y, "linf:0.05", step=step, replays=1)
    corner = (x - 0.05 * (2.0 * y - 1)[:, None] * w.sign()).clamp(0, 1) - x
    delta = step.memory["free/delta"]
    torch.testing.assert_close(delta[:40], corner)
    assert bool((delta[40:] == 0).all())
    if not bounds_far:
        assert bool((corner.abs() < 0.049).any())
    place = delta.data_ptr()
    seen = drive("free", module, x[:24], y[:24], "linf:0.05", step=dataclasses.replace(step, rows=torch.arange(24)))
    # The next, smaller batch starts where these rows ended, in the same storage; the others keep theirs.
    torch.testing.assert_close(seen.seen[0], (x[:24] + corner[:24]).clamp(0, 1))
    assert step.memory["free/delta"].data_ptr() == place
    torch.testing.assert_close(step.memory["free/delta"][24:40], corner[24:])


def test_free_updates_the_weights_at_each_replay_and_then_the_perturbation():
    module, x, y = curved()
    twin, delta = copy.deepcopy(module), torch.zeros_like(x)
    out = drive("free", module, x, y, "linf:0.03", rate=0.5, replays=4)
    for replay in range(4):
        torch.testing.assert_close(out.seen[replay], x + delta)
        leaf = (x + delta).requires_grad_(True)
        value = cross_entropy(twin(leaf), y).mean()
        gradient, *rest = torch.autograd.grad(value, [leaf, *twin.parameters()])
        with torch.no_grad():
            for weight, own in zip(twin.parameters(), rest, strict=True):
                weight -= 0.5 * own
        delta = (delta + 0.03 * gradient.sign()).clamp(-0.03, 0.03)
    assert all(torch.allclose(a, b) for a, b in zip(module.parameters(), twin.parameters(), strict=True))


def test_fast_goes_on_from_where_the_row_was():
    module, _, x, y, _ = binary()
    step = Step(0, 1, torch.arange(40), 40, 40)
    first = drive("fast", module, x, y, "linf:0.05", step=step, start="previous", relative_step_size=0.5)
    second = drive("fast", module, x, y, "linf:0.05", step=step, start="previous", relative_step_size=0.5)
    plain = drive("fast", module, x, y, "linf:0.05", start="sample", relative_step_size=0.5)
    torch.testing.assert_close(first.seen[-1], plain.seen[-1])
    torch.testing.assert_close(second.seen[0], first.seen[-1])
    # On a linear model half a step and another half reach the corner.
    torch.testing.assert_close(second.seen[-1] - x, 2 * (first.seen[-1] - x))


def test_fgsm_against_the_prediction_leaks_no_label():
    module, _, x, y, margin = binary()
    true, own = (drive("fgsm", copy.deepcopy(module), x, y, "linf:0.05", labels=how) for how in ("true", "predicted"))
    right = margin > 0
    assert 0 < int(right.sum()) < 40
    torch.testing.assert_close(own.seen[-1][right], true.seen[-1][right])
    torch.testing.assert_close(own.seen[-1][~right] - x[~right], x[~right] - true.seen[-1][~right])


# GradAlign.


def test_misalignment_of_a_quadratic_loss():
    h, x, u = torch.tensor([1.0, 10.0]), torch.tensor([[1.0, 0.2]]), torch.tensor([[0.05, -0.05]])
    apart = grad_align.misalignment((h * x).double(), (h * (x + u)).double())
    assert 1 - apart.item() == pytest.approx(0.98920, abs=5e-6)


def test_gradients_of_a_logistic_model_are_aligned():
    module, _, x, y, _ = binary()
    plain = drive("fgsm", copy.deepcopy(module), x, y, "linf:0.05")
    aligned = drive("grad_align", copy.deepcopy(module), x, y, "linf:0.05", weight=5.0)
    torch.testing.assert_close(aligned.losses[0], plain.losses[0], rtol=0, atol=1e-12)
    for name, gradient in plain.gradients[0].items():
        torch.testing.assert_close(aligned.gradients[0][name], gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [0.0, 1e-42, 1e-30])
def test_vanishing_gradients_give_no_nan(factor):
    # A confident sample's gradient underflows; the plain cosine then made all weights NaN.
    here = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    there = (here * 0.5 + 0.1).requires_grad_(True)
    factors = torch.tensor([1.0, factor, 1.0])[:, None]
    apart = grad_align.misalignment(here * factors, there * factors)
    apart.sum().backward()
    assert apart[1] == 0
    assert bool((apart[[0, 2]] > 0).all())
    assert bool(torch.isfinite(there.grad).all())
    naive = 1 - F.normalize(here, dim=1).mul(there / there.norm(dim=1, keepdim=True)).sum(1)
    torch.testing.assert_close(apart[[0, 2]], naive[[0, 2]])


def test_training_survives_samples_without_a_gradient():
    module, x, y = curved()
    module, x = module.float(), x.float()
    with torch.no_grad():
        module[4].weight *= 1e4  # logits so far apart that the loss and its gradient are exactly 0
        y = module(x).argmax(1)
    y[0] = (y[0] + 1) % 3
    out = drive("grad_align", module, x, y, "linf:0.001", weight=2.0)
    _, gradient, _ = out.network.input_gradient(lambda logits: cross_entropy(logits, y), x)
    assert bool((gradient.flatten(1) == 0).all(1).any())
    assert all(bool(torch.isfinite(g).all()) for g in out.gradients[0].values())


def test_grad_align_differentiates_the_second_gradient_only():
    module, x, y = curved()
    draws = Draws(0, tuple(range(12)))
    out = drive("grad_align", module, x, y, "linf:0.1", weight=3.0)
    threat = ThreatModel("linf", 0.1)
    u = random_point(x, threat, draws, "alignment")
    x_adv = out.seen[-1]

    def value(weights, fixed):
        def loss(point):
            return cross_entropy(torch.func.functional_call(module, weights, (point,)), y).sum()

        here = torch.func.grad(loss)(x) if fixed is None else fixed
        there = torch.func.grad(loss)(u)
        adversarial = cross_entropy(torch.func.functional_call(module, weights, (x_adv,)), y)
        return (adversarial + 3.0 * (1 - F.cosine_similarity(here, there, dim=1))).mean()

    start = {name: weight.detach() for name, weight in module.named_parameters()}
    here = torch.func.grad(lambda point: cross_entropy(module(point), y).sum())(x)
    exact = torch.func.grad(value)(start, here)
    whole = torch.func.grad(value)(start, None)
    for name, gradient in out.gradients[0].items():
        torch.testing.assert_close(gradient, exact[name])
    assert not torch.allclose(exact["0.weight"], whole["0.weight"])


def test_the_weights_of_the_authors():
    assert grad_align.cifar10_weight(8 / 255) == pytest.approx(0.2)
    assert grad_align.cifar10_weight(16 / 255) == pytest.approx(2.0)
    assert grad_align.svhn_weight(8 / 255) == pytest.approx(2.5)
    assert grad_align.svhn_weight(12 / 255) == pytest.approx(3.1623, abs=1e-4)
