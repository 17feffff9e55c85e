"""Schmidt's and Tsipras's models: golden numbers, and simulations that agree with the closed forms."""

import pytest
import torch

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.limits.closed_forms import (
    BernoulliModel,
    GaussianModel,
    TradeOffModel,
    schmidt_bernoulli,
    schmidt_gaussian,
    tsipras_trade_off,
)

SCALE = 1000**0.25


def within_three_deviations(share, expected, n):
    return abs(share - expected) <= 3 * (expected * (1 - expected) / n) ** 0.5 + 1e-9


# Gaussian.


@pytest.mark.parametrize(
    ("samples", "standard", "robust"),
    [(1, 0.1624, 0.5546), (5, 0.0189, 0.1700), (20, 0.00023, 0.0092), (100, 4.8e-7, 0.00013)],
)
def test_errors_to_expect_of_the_gaussian_model(samples, standard, robust):
    """The printed digits are the tolerance."""
    found = schmidt_gaussian(sigma=SCALE, samples=samples, epsilon=0.25)
    assert found.standard == pytest.approx(standard, abs={1: 5e-5, 5: 5e-5, 20: 5e-6, 100: 5e-9}[samples])
    assert found.robust == pytest.approx(robust, abs={1: 5e-5, 5: 5e-5, 20: 5e-5, 100: 5e-6}[samples])


@pytest.mark.parametrize(
    ("sigma", "samples", "errors"),
    [  # means of 200 drawn training sets: standard, robust at 0.25 and at 0.5
        (SCALE, 1, (0.170, 0.560, 0.895)),
        (SCALE, 5, (0.0200, 0.174, 0.569)),
        (SCALE, 20, (0.00025, 0.0095, 0.1135)),
        (0.5 * SCALE, 1, (0.00015, 0.0728, 0.758)),
    ],
)
def test_drawn_training_sets_of_the_gaussian_model(sigma, samples, errors):
    model = GaussianModel(1000, sigma)
    found = []
    for trial in range(60):
        weight = model.fit(*model.sample(Draws(0, tuple(range(samples)), f"train/{trial}")))
        a, b = model.errors(weight, 0.25), model.errors(weight, 0.5)
        found.append((a.standard, a.robust, b.robust))
    means, spread = torch.tensor(found).mean(0), torch.tensor(found).std(0) / 60**0.5
    for mean, deviation, expected in zip(means.tolist(), spread.tolist(), errors):
        assert abs(mean - expected) <= 4 * deviation + 0.01 * expected


def test_a_simulation_of_the_gaussian_model():
    model, n = GaussianModel(50, 3.0), 20_000
    weight = model.fit(*model.sample(Draws(1, tuple(range(4)), "train")))
    x, y = model.sample(Draws(1, tuple(range(n)), "test"))
    sign = (2 * y - 1).double()
    closed = model.errors(weight, 0.2)
    assert within_three_deviations(float((sign * (x @ weight) <= 0).double().mean()), closed.standard, n)
    moved = x - 0.2 * sign[:, None] * weight.sign()
    assert within_three_deviations(float((sign * (moved @ weight) <= 0).double().mean()), closed.robust, n)


def test_robust_learning_needs_more_samples():
    model = GaussianModel(1000, SCALE)
    few, more = (model.sample_complexity(epsilon, 0.01) for epsilon in (0.0, 0.25))
    assert few == 7
    assert more == 20
    for epsilon, count in ((0.0, few), (0.25, more)):
        assert model.expected(count, epsilon).robust <= 0.01 < model.expected(count - 1, epsilon).robust
    assert model.sample_complexity(1.0, 0.01) is None
    assert GaussianModel(10, 9.0).sample_complexity(0.0, 1e-6) is None


# Bernoulli.


@pytest.mark.parametrize(
    ("tau", "epsilon", "standard", "robust"),
    [
        (0.1, 0.0, 0.0973, 0.0973),
        (0.178, 0.05, 2.5e-5, 0.0080),
        (0.178, 0.1, 2.5e-5, 0.2059),
        (0.178, 0.25, 2.5e-5, 0.99997),
        (0.3, 0.25, None, 1.3e-4),
    ],
)
def test_one_sample_of_the_bernoulli_model(tau, epsilon, standard, robust):
    found = schmidt_bernoulli(tau=tau, epsilon=epsilon)
    assert found.robust == pytest.approx(robust, rel=0.03 if robust < 1e-3 else 6e-3, abs=5e-6)
    if standard is not None:
        assert found.standard == pytest.approx(standard, rel=0.02)
    kept = schmidt_bernoulli(tau=tau, epsilon=epsilon, threshold=True)
    assert kept.robust == kept.standard == found.standard
    assert schmidt_bernoulli(tau=tau, epsilon=1.0, threshold=True).robust == 1.0


def test_a_simulation_of_the_bernoulli_model():
    """Many pairs of a training and a test sample; an odd number of values has no ties."""
    model, n = BernoulliModel(51, 0.2), 20_000
    (a, ya), (b, yb) = (model.sample(Draws(0, tuple(range(n)), name)) for name in ("train", "test"))
    assert set(a.unique().tolist()) == {-1.0, 1.0}
    agreement = ((2 * ya - 1) * (2 * yb - 1)).double() * (a * b).sum(1)
    closed = model.one_sample(0.1)
    assert within_three_deviations(float((agreement < 0).double().mean()), closed.standard, n)
    assert within_three_deviations(float((agreement <= 0.1 * 51).double().mean()), closed.robust, n)


# The trade-off.

ROWS = {  # strong weight -> standard and robust accuracy at 2 eta, p = 0.95, eta = 3 / sqrt(d)
    1000: {
        0: (0.99865, 0.00135),
        0.5: (0.99947, 0.00450),
        1: (0.99883, 0.01356),
        3: (0.975, 0.27038),
        10: (0.95, 0.95),
    },
    100: {0: (0.99865, 0.00135), 0.5: (0.99947, 0.00243), 3: (0.975, 0.03413), 10: (0.95, 0.79928), 30: (0.95, 0.95)},
}


@pytest.mark.parametrize(("values", "strong"), [(d, w) for d, row in ROWS.items() for w in row])
def test_the_table_of_the_trade_off(values, strong):
    eta = 3 / values**0.5
    found = tsipras_trade_off(values=values, eta=eta, strong=strong, epsilon=2 * eta)
    standard, robust = ROWS[values][strong]
    assert 1 - found.standard == pytest.approx(standard, abs=6e-6)
    assert 1 - found.robust == pytest.approx(robust, abs=6e-6)
    assert 1 - found.robust <= TradeOffModel(values, 0.95, eta).bound(found.standard) + 1e-12


def test_a_simulation_of_the_trade_off():
    model, n, epsilon = TradeOffModel(40, 0.9, 0.4), 20_000, 0.3
    x, y = model.sample(Draws(0, tuple(range(n)), "test"))
    sign, weight = (2 * y - 1).double(), torch.tensor([1.5] + [40**-0.5] * 40).double()
    closed = model.errors(1.5, epsilon)
    assert within_three_deviations(float((sign * (x @ weight) <= 0).double().mean()), closed.standard, n)
    moved = x - epsilon * sign[:, None] * weight.sign()
    assert within_three_deviations(float((sign * (moved @ weight) <= 0).double().mean()), closed.robust, n)


def test_the_strong_value_alone():
    found = TradeOffModel(40, 0.9, 0.4).errors(1.0, 0.5, weak=0.0)
    assert found.standard == pytest.approx(0.1)
    assert found.robust == pytest.approx(0.1)
    assert TradeOffModel(40, 0.9, 0.4).errors(1.0, 1.0, weak=0.0).robust == pytest.approx(1.0)


def test_samples_do_not_depend_on_the_others():
    for model in (GaussianModel(3, 1.0), BernoulliModel(3, 0.2), TradeOffModel(3, 0.9, 0.1)):
        x, y = model.sample(Draws(0, (1, 2, 3), "a"))
        one, label = model.sample(Draws(0, (2,), "a"))
        assert torch.equal(one[0], x[1])
        assert label[0] == y[1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: GaussianModel(0, 1.0),
        lambda: GaussianModel(3, 0.0),
        lambda: BernoulliModel(3, 0.6),
        lambda: TradeOffModel(3, 1.0, 0.1),
        lambda: TradeOffModel(3, 0.9, 0.1).errors(0.0, weak=0.0),
        lambda: TradeOffModel(3, 0.9, 0.1).bound(1.5),
        lambda: GaussianModel(3, 1.0).errors(torch.zeros(3)),
        lambda: GaussianModel(3, 1.0).expected(0),
    ],
)
def test_constants_out_of_range_are_refused(make):
    with pytest.raises(InvalidValue):
        make()
