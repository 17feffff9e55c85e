"""Latent-space metrics: probabilistic PCA, exact radii behind linear generators, and searches that reach them."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue, ModelError
from robustscope.data.datasets import load_data
from robustscope.limits.generators import PPCA
from robustscope.limits.latent import latent_metrics
from robustscope.limits.latent_linear import (
    decay,
    density_radius,
    linear_latent_radius,
    linear_noise_accuracy,
    log_density,
)
from robustscope.limits.latent_search import SearchPlan, search
from robustscope.models.classifier import Classifier


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_model(weight, bias):
    layer = nn.Linear(weight.shape[1], len(weight)).to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return Classifier(nn.Sequential(nn.Flatten(), layer).eval())


def digits(n=None):
    data = load_data("digits#train")
    ids = range(len(data) if n is None else n)
    return data.read(ids).double(), torch.as_tensor(data.labels[ids.start : ids.stop])


def fitted(classes=10, latent=8):
    """PPCA and a least-squares classifier of the digits below ``classes``."""
    x, y = digits()
    keep = y < classes
    x, y = x[keep], y[keep]
    flat = torch.cat([x.flatten(1), torch.ones(len(x), 1).double()], 1)
    solved = torch.linalg.solve(flat.T @ flat + torch.eye(65), flat.T @ torch.eye(classes, dtype=torch.float64)[y])
    return PPCA.fit(x, y, latent=latent), solved[:-1].T.contiguous(), solved[-1], x, y


# Probabilistic PCA.


def test_the_fit_is_the_most_likely_one():
    x = random(0, 400, 6) @ torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5, 0.5, 0.5]).double()) @ random(1, 6, 6)
    y = torch.zeros(400).long()
    y[200:] = 1
    model = PPCA.fit(x, y, latent=2)
    for k in range(2):
        w, noise, mean = model.loadings[k], float(model.noise[k]), model.mean[k]
        covariance = w @ w.T + noise * torch.eye(6)
        expected = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x[y == k])
        torch.testing.assert_close(model.log_likelihood(x, y)[y == k], expected)
        for trial in range(20):
            other = w + 0.02 * random(trial, 6, 2)
            for more in (noise, 1.05 * noise, noise / 1.05):
                shaken = torch.distributions.MultivariateNormal(mean, other @ other.T + more * torch.eye(6))
                assert shaken.log_prob(x[y == k]).mean() < expected.mean()


def test_codes_are_posterior_means():
    model, *_, x, y = fitted()
    rows = slice(0, 40)
    codes = model.encode(x[rows], y[rows])
    w = model.loadings[y[rows]]
    middle = w.transpose(1, 2) @ w + model.noise[y[rows], None, None] * torch.eye(8)
    apart = (x[rows] - model.mean[y[rows]]).flatten(1)
    expected = torch.linalg.solve(middle, (w.transpose(1, 2) @ apart[:, :, None])[:, :, 0])
    torch.testing.assert_close(codes, expected)
    back = model.encode(model.decode(codes, y[rows]), y[rows])
    assert (back.norm(dim=1) < codes.norm(dim=1)).all(), "posterior means shrink"
    assert model.decode(codes, y[rows]).shape == x[rows].shape


def test_codes_of_the_digits_have_the_size_of_standard_normal_ones():
    model, *_, x, y = fitted()
    codes = model.encode(x, y)
    shrunk = 1 - model.noise[y, None] / model.spread[y]
    # Over the training set the second moments are exactly 1 - noise / spread.
    torch.testing.assert_close((codes.square() / shrunk).mean(), torch.tensor(1.0).double())


def test_fits_that_do_not_exist_are_refused():
    x, y = digits(100)
    for latent, labels in ((64, y), (50, y), (2, y * 2)):
        with pytest.raises(InvalidValue):
            PPCA.fit(x, labels, latent=latent)
    with pytest.raises(InvalidValue, match="directions"):
        PPCA.fit(torch.cat([x[:20], x[:20]]) * torch.eye(8), torch.arange(40) % 2, latent=9)


# Linear: known exactly.


def hand():
    """x = (1, 0) + diag(1, 2) code in both classes; logits (0, 3 x1 + 4 x2 - 1)."""
    loadings = torch.diag(torch.tensor([1.0, 2.0])).double().expand(2, 2, 2).contiguous()
    generator = PPCA(torch.tensor([[1.0, 0.0]] * 2).double(), loadings, torch.zeros(2).double(), torch.ones(2, 2))
    weight = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).double()
    return generator, weight, torch.tensor([0.0, -1.0]).double()


def test_the_radius_of_a_linear_generator_by_hand():
    generator, weight, bias = hand()
    codes = torch.tensor([[0.0, 0.0], [2.0, 1.0], [-4.0, 0.0]]).double()
    y = torch.tensor([1, 1, 0])
    # Margins 2, 16 and 10, over the length (3, 8) of the latent gradient, over sqrt(2) values.
    expected = [margin / math.sqrt(9 + 64) / math.sqrt(2) for margin in (2, 16, 10)]
    found = linear_latent_radius(weight, bias, generator, codes, y)
    assert found.tolist() == pytest.approx(expected)
    assert linear_latent_radius(weight, bias, generator, codes, 1 - y).tolist() == [0, 0, 0]
    # Noise of level 1: margins of the decayed codes over a deviation of sqrt(73 / 2).
    right = linear_noise_accuracy(weight, bias, generator, codes, y, 1.0)
    decayed = [2 + (margin - 2) / 2**0.5 for margin in (2, 16)] + [-(2 - 12 / 2**0.5)]
    assert right.tolist() == pytest.approx([stats.norm.cdf(m / (73 / 2) ** 0.5) for m in decayed])


@pytest.mark.parametrize("classes", [2, 10])
def test_the_search_reaches_the_exact_radius_and_never_less(classes):
    generator, weight, bias, x, y = fitted(classes)
    x, y = x[:60], y[:60]
    centre = 0.7 * generator.encode(x, y)
    exact = linear_latent_radius(weight, bias, generator, centre, y)
    model = linear_model(weight, bias)
    found = search(model, generator, centre, y, draws=Draws(0, tuple(range(60))), plan=SearchPlan(reach=6.0))
    assert torch.equal(found.radius == 0, exact == 0)
    attempted = exact > 0
    ratio = found.radius[attempted] / exact[attempted]
    assert ratio.min() >= 1 - 1e-9
    assert ratio.max() <= 1.01
    logits = model.logits(generator.decode(found.codes, y))
    assert (logits.argmax(1) != y).all()
    lengths = (found.codes - centre).norm(dim=1) / 8**0.5
    torch.testing.assert_close(lengths, found.radius)
    change = (generator.decode(found.codes, y) - generator.decode(centre, y)).flatten(1).norm(dim=1) / 8
    torch.testing.assert_close(change, found.change)
    assert model.ledger.forward == int(found.forward.sum()) + 60
    assert model.ledger.backward == int(found.backward.sum())


def test_the_search_treats_samples_one_by_one():
    generator, weight, bias, x, y = fitted(3)
    plan, model, some = SearchPlan(repeats=3, steps=10), linear_model(weight, bias), torch.tensor([7, 2, 11])
    centre, draws = generator.encode(x[:12], y[:12]), Draws(3, tuple(range(12)))
    whole = search(model, generator, centre, y[:12], draws=draws, plan=plan)
    part = search(model, generator, centre[some], y[some], draws=draws.select(some), plan=plan)
    torch.testing.assert_close(part.radius, whole.radius[some], rtol=1e-9, atol=0)
    assert torch.equal(part.forward, whole.forward[some])
    near = search(model, generator, centre, y[:12], draws=draws, plan=SearchPlan(reach=1e-6, repeats=1, steps=3))
    assert torch.isinf(near.radius[whole.radius > 0]).all()
    assert torch.equal(near.codes, centre)


def test_noise_accuracy_agrees_with_its_closed_form():
    generator, weight, bias, x, y = fitted(2, latent=4)
    weight, bias = weight + 0.3 * random(5, *weight.shape), bias + torch.tensor([0.2, 0.0])
    x, y = x[:200].repeat(20, 1, 1, 1), y[:200].repeat(20)
    draws, plan = Draws(0, tuple(range(len(y)))), SearchPlan(repeats=1, steps=1)
    found = latent_metrics(linear_model(weight, bias), x, y, generator, draws=draws, noise=(0.5, 1.0), plan=plan)
    for level, share in found.noise_accuracy.items():
        right = linear_noise_accuracy(weight, bias, generator, generator.encode(x, y), y, level)
        deviation = float((right * (1 - right)).sum()) ** 0.5
        assert 0.05 < deviation / len(y) * len(y) ** 0.5 < 0.5, "some samples are in doubt"
        assert abs(share.k - float(right.sum())) < 4 * deviation


def test_noisy_codes_stay_standard_normal():
    draws = Draws(0, tuple(range(500)))
    codes, noise = (draws.normal(name, torch.empty(500, 8)).double() for name in ("code", "noise"))
    for level in (0.25, 1.0, 3.0):
        noisy = (codes + level * noise) / math.sqrt(1 + level**2)
        assert stats.kstest(noisy.flatten().numpy(), "norm").pvalue > 0.01
    assert stats.kstest((codes + noise).flatten().numpy(), "norm").pvalue < 1e-9


def test_decay_and_density():
    assert decay(0.5) == pytest.approx(0.105573, abs=5e-7)
    assert decay(1.0) == pytest.approx(0.292893, abs=5e-7)
    law = torch.distributions.Normal(0.0, 0.5 / math.sqrt(1.25))
    step = torch.full((7,), 0.4)
    assert log_density(0.4, latent=7, level=0.5) == pytest.approx(float(law.log_prob(step).sum()), rel=1e-6)
    assert density_radius(log_density(0.4, latent=7, level=0.5), latent=7, level=0.5) == pytest.approx(0.4)
    with pytest.raises(InvalidValue):
        density_radius(1e9, latent=7, level=0.5)


# All seven, and a generator of one's own.


def test_all_seven_metrics():
    generator, weight, bias, x, y = fitted()
    x, y = x[:80], y[:80]
    plan, model = SearchPlan(repeats=12, steps=30), linear_model(weight, bias)
    before = torch.get_rng_state()
    found = latent_metrics(model, x, y, generator, draws=Draws(0, tuple(range(80))), plan=plan, rho=0.5)
    assert torch.equal(before, torch.get_rng_state())
    assert found.n == 80
    assert found.latent == 8
    assert found.decay == pytest.approx(0.292893, abs=5e-7)
    assert found.clean_accuracy.k == int((model.logits(x).argmax(1) == y).sum())
    assert found.reconstruction_accuracy.value > 0.9
    assert found.generation_accuracy.value > 0.9
    assert list(found.noise_accuracy) == [0.25, 0.5, 0.75, 1.0]
    assert all(share.n == 80 for share in found.noise_accuracy.values())
    centre = generator.encode(x, y) / 2**0.5
    exact = linear_latent_radius(weight, bias, generator, centre, y)
    assert found.reconstruction_severity.mean == pytest.approx(float(exact[exact > 0].mean()), rel=0.02)
    assert abs(found.reconstruction_adversarial_accuracy.k - int((exact > 0.5).sum())) <= 1
    assert found.reconstruction_severity.found == found.reconstruction_severity.centre
    assert found.generation_adversarial_accuracy.k == int((found.generation_severity.search.radius > 0.5).sum())
    assert 0 < found.generation_severity.mean_change < 1
    assert 0 < found.outside < 0.5
    again = latent_metrics(model, x, y, generator, draws=Draws(0, tuple(range(80))), plan=plan, rho=0.5)
    assert torch.equal(again.generation_severity.search.radius, found.generation_severity.search.radius)


class Curved(nn.Module):
    """A generator of one's own: a small network for each class, whose inputs are circles."""

    latent = 1

    def __init__(self):
        super().__init__()
        self.radius = nn.Parameter(torch.tensor([1.0, 2.0]).double())

    def decode(self, codes, y):
        return self.radius[y, None] * torch.cat([codes.cos(), codes.sin()], 1)

    def encode(self, x, y):
        return torch.atan2(x[:, 1:], x[:, :1]).detach()


def test_a_generator_of_ones_own():
    """Class 1 lies on a circle of radius 2, class 0 on one of radius 1; the classifier asks whether x1 > 1.5."""
    model = linear_model(torch.tensor([[0.0, 0.0], [1.0, 0.0]]).double(), torch.tensor([0.0, -1.5]).double())
    circles, plan = Curved(), SearchPlan(reach=1.5, repeats=4, steps=60)
    centre, y = torch.tensor([[0.1], [0.1]]).double(), torch.tensor([1, 0])
    found = search(model, circles, centre, y, draws=Draws(0, (0, 1)), plan=plan)
    assert float(found.radius[0]) == pytest.approx(math.acos(0.75) - 0.1, rel=1e-3)
    assert torch.isinf(found.radius[1]), "the small circle never gets there"
    assert circles.radius.grad is None


def test_generators_that_cannot_be_used_are_refused():
    class Rounded(Curved):
        def decode(self, codes, y):
            with torch.no_grad():
                return super().decode(codes, y)

    model = linear_model(torch.tensor([[0.0, 0.0], [1.0, 0.0]]).double(), torch.tensor([0.0, -0.5]).double())
    x, y, draws = torch.full((2, 2), 0.7).double(), torch.tensor([1, 0]), Draws(0, (0, 1))
    with pytest.raises(ModelError, match="codes"):
        latent_metrics(model, x, y, Rounded(), draws=draws)
    with pytest.raises(InvalidValue, match="generator"):
        latent_metrics(
            linear_model(torch.ones(2, 3).double(), torch.zeros(2).double()),
            x.repeat(1, 2)[:, :3],
            y,
            Curved(),
            draws=draws,
        )
    for change in ({"noise": (0.0,)}, {"rho": -1.0}, {"decay_level": 0.0}):
        with pytest.raises(InvalidValue):
            latent_metrics(model, x, y, Curved(), draws=draws, **change)
    with pytest.raises(InvalidValue):
        SearchPlan(steps=0)
