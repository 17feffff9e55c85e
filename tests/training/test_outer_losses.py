"""TRADES, MART, MMC and ATDA: the losses they put in place of the cross-entropy."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from objective_drive import binary, curved, drive
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.training import Step
from robustscope.training.adversary import ascend, divergence, near_point
from robustscope.training.network import Network
from robustscope.training.objectives import atda, mart, mmc

# TRADES and MART.


def kl(p, q):
    return (p * (p.log() - q.log())).sum(-1)


def two(z):
    return torch.stack([1 - torch.sigmoid(z), torch.sigmoid(z)], -1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_trades_on_a_linear_model_is_the_closed_form(norm):
    module, w, x, y, margin = binary()
    epsilon, z = 0.05, x @ w - 0.2
    dual = w.abs().sum() if norm == "linf" else w.norm()
    out = drive("trades", module, x, y, f"{norm}:{epsilon}", beta=3.0, steps=40, relative_step_size=1.0)
    near, far = (kl(two(z), two(z + s * epsilon * dual)) for s in (-1, 1))
    excess = (out.losses[0] - F.softplus(-margin)) / 3.0
    # From either side of the sample the path ends in one of two corners; the one towards the boundary is worse.
    assert bool(((excess - near).abs() < 1e-9).logical_or((excess - far).abs() < 1e-9).all())
    assert bool(((excess - torch.maximum(near, far)).abs() < 1e-9).any())
    towards = torch.where(z > 0, near, far)
    torch.testing.assert_close(towards, torch.maximum(near, far))


def test_divergence_is_that_of_the_predictions_and_flows_both_ways():
    p = torch.tensor([[0.8074, 0.1926]], dtype=torch.float64)
    a, b = p.log().requires_grad_(True), torch.tensor([[0.3, -0.2]], dtype=torch.float64, requires_grad=True)
    value = divergence(a, b)
    torch.testing.assert_close(value, kl(a.softmax(1), b.softmax(1)))
    value.sum().backward()
    assert a.grad.abs().min() > 1e-3
    assert b.grad.abs().min() > 1e-3
    assert torch.autograd.gradcheck(divergence, (a, b))


def test_trades_gradient_is_that_of_the_whole_loss():
    # With the adversarial samples held, the gradient must contain both ways through the divergence.
    module, x, y = curved()
    out = drive("trades", module, x, y, "linf:0.5", beta=2.0, steps=10)
    x_adv = out.seen[-1]
    p = module(x).detach().softmax(1)
    threat, settings = ThreatModel("linf", 0.5), {"steps": 10, "relative_step_size": 0.25}
    start = near_point(x, threat, Draws(0, tuple(range(12))), "start")
    found, other = (
        ascend(Network(module), x, threat, loss, start, **settings)
        for loss in (lambda z: kl(p, z.softmax(1)), lambda z: kl(z.softmax(1), p))
    )
    torch.testing.assert_close(x_adv, found)
    assert not torch.allclose(found, other)
    again = copy.deepcopy(module)
    z, z_adv = again(x), again(x_adv)
    p = z.softmax(1)
    value = cross_entropy(z, y) + 2.0 * (p * (z.log_softmax(1) - z_adv.log_softmax(1))).sum(1)
    value.mean().backward()
    for name, weight in again.named_parameters():
        torch.testing.assert_close(out.gradients[0][name], weight.grad)


def test_mart_on_a_linear_model_is_the_closed_form():
    module, w, x, y, margin = binary()
    epsilon, z = 0.05, x @ w - 0.2
    out = drive("mart", module, x, y, f"linf:{epsilon}", beta=2.5, steps=40, relative_step_size=1.0)
    worst = margin - epsilon * w.abs().sum()
    z_adv = (2.0 * y - 1) * worst
    # Of two classes the rival's 1 - p is p_y, so that BCE is twice the cross-entropy.
    expected = 2 * F.softplus(-worst) + 2.5 * kl(two(z), two(z_adv)) * torch.sigmoid(-margin)
    torch.testing.assert_close(out.losses[0], expected)


def test_boosted_cross_entropy_needs_no_small_constant():
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(20) % 4
    p = logits.softmax(1)
    rival = p.scatter(1, y[:, None], 0.0).amax(1)
    expected = -p.gather(1, y[:, None])[:, 0].log() - (1 - rival).log()
    torch.testing.assert_close(mart.boosted_cross_entropy(logits, y), expected)
    certain = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
    value = mart.boosted_cross_entropy(certain, torch.tensor([1]))
    value.backward()
    assert value.item() == pytest.approx(60 + 60 - math.log(2), rel=1e-6)
    assert certain.grad[0, 0] == pytest.approx(2.0)


# MMC.


def recursive_centres(classes, length):
    """The construction of the paper, by forward substitution."""
    mu = torch.zeros(classes, classes, dtype=torch.float64)
    mu[0, 0] = 1.0
    for k in range(1, classes):
        for j in range(k):
            mu[k, j] = -(1 / (classes - 1) + mu[k] @ mu[j]) / mu[j, j]
        mu[k, k] = (1 - mu[k].square().sum()).abs().sqrt()
    return length * mu


@pytest.mark.parametrize(("classes", "length", "off"), [(10, 10.0, -11.1111), (3, 1.0, -0.5), (100, 10.0, -1.0101)])
def test_centres_are_those_of_the_paper_turned(classes, length, off):
    mu = mmc.centres(classes, length, torch.empty(0, dtype=torch.float64))
    gram, theirs = mu @ mu.T, recursive_centres(classes, length)
    assert gram[0, 1].item() == pytest.approx(off, abs=1e-4)
    torch.testing.assert_close(gram.diagonal(), torch.full((classes,), length**2, dtype=torch.float64))
    # Equal scalar products: one is a rotation of the other.
    torch.testing.assert_close(gram, theirs @ theirs.T, rtol=0, atol=1e-9)
    apart = (mu[0] - mu[1]).square().sum().item()
    assert apart == pytest.approx(2 * length**2 * classes / (classes - 1))
    z = torch.randn(50, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal((z @ mu.T).argmax(1), z.argmax(1))
    assert torch.equal(torch.cdist(z, mu).argmin(1), z.argmax(1))


def test_mmc_pulls_each_class_to_its_centre_and_forgets_the_others():
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    mmc.mahalanobis(z, y).sum().backward()
    torch.testing.assert_close(z.grad, z.detach() - mmc.centres(4, 10.0, z)[y])
    assert torch.equal(mmc.mahalanobis(z, y, y), -mmc.mahalanobis(z, y))


def test_mmc_of_linear_features_is_solved_by_least_squares():
    _, x, y = curved()
    module = nn.Sequential(nn.Linear(5, 3)).double()
    goal = mmc.centres(3, 10.0, x)[y]
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones(12, 1, dtype=torch.float64)], 1), goal).solution
    with torch.no_grad():
        module[0].weight.copy_(solution[:5].T)
        module[0].bias.copy_(solution[5])
    out = drive("mmc", module, x, y, "linf:0.1", steps=0)
    assert all(gradient.abs().max() < 1e-9 for gradient in out.gradients[0].values())


def test_mmc_on_a_linear_model_is_the_closed_form():
    module, w, x, y, margin = binary()
    out = drive("mmc", module, x, y, "linf:0.05", steps=20, relative_step_size=2.0, length=1.0)
    # Logits -+ z / 2 and centres -+ 1 / sqrt 2: the loss is (margin / 2 - 1 / sqrt 2)^2, worst at one end of the interval.
    reach = 0.05 * w.abs().sum()
    ends = torch.stack([((margin + s * reach) / 2 - 0.5**0.5).square() for s in (-1, 1)])
    found = out.losses[0]
    assert bool(((found - ends).abs().amin(0) < 1e-9).all())
    low = (margin / 2 - 0.5**0.5).abs() > reach / 2  # far from its bottom the parabola has one way up
    torch.testing.assert_close(found[low], ends.amax(0)[low])


# ATDA.


def test_atda_shifts_are_zero_for_a_permutation_and_known_for_moves():
    z = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    c = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    permuted = z.flip(0)
    assert atda.mean_shift(z, permuted) < 1e-12
    assert atda.covariance_shift(z, permuted) < 1e-12
    assert atda.mean_shift(z, z + c).item() == pytest.approx(0.875)
    assert atda.covariance_shift(z, z + c) < 1e-12
    assert atda.covariance_shift(z, 3 * z).item() == pytest.approx(8 * z.T.cov().abs().mean().item())
    assert atda.covariance_shift(z[:1], z[:1] * 2) == 0


def test_atda_centres_follow_and_the_margin_is_log_two_between_two():
    z, y = torch.full((5, 3), 2.0, dtype=torch.float64), torch.full((5,), 1)
    start = torch.zeros(3, 3, dtype=torch.float64)
    moved = atda.moved_centres(start, z, y, 0.1)
    torch.testing.assert_close(moved[1], torch.full((3,), 0.1 * 5 * 2.0 / 6, dtype=torch.float64))
    assert bool((moved[[0, 2]] == 0).all())
    torch.testing.assert_close(atda.centre_margin(z, y, start), torch.full((5,), math.log(2), dtype=torch.float64))
    apart = torch.eye(3, dtype=torch.float64) * 4
    value = atda.centre_margin(torch.tensor([[0.0, 4.0, 0.0]], dtype=torch.float64), torch.tensor([1]), apart)
    assert value.item() == pytest.approx(math.log1p(math.exp(-8)))


def test_atda_leads_away_from_the_prediction_in_one_step_and_from_the_class_in_more():
    module, w, x, y, margin = binary()
    one, more = (drive("atda", module, x, y, "linf:0.05", steps=steps, relative_step_size=1.0) for steps in (1, 9))
    sign = (2.0 * y - 1)[:, None] * w.sign()
    torch.testing.assert_close(one.seen[-1], x - 0.05 * sign * margin.sign()[:, None])
    torch.testing.assert_close(more.seen[-1], x - 0.05 * sign)


def test_atda_without_a_threat_is_twice_the_cross_entropy_and_the_margin():
    module, x, y = curved()
    step = Step(0, 1, torch.arange(12), 12, 12)
    z = module(x).detach()
    centres = torch.zeros(3, 3, dtype=torch.float64)
    for _ in range(3):
        out = drive("atda", module, x, y, "linf:0", step=step, weight=0.7)
        expected = 2 * cross_entropy(z, y) + 0.7 * atda.centre_margin(z, y, centres)
        torch.testing.assert_close(out.losses[0], expected)
        centres = atda.moved_centres(centres, torch.cat([z, z]), torch.cat([y, y]), 0.1)
        torch.testing.assert_close(step.memory["atda/centres"], centres)
