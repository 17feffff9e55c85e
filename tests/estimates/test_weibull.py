"""The fit of the reverse Weibull distribution against SciPy's, and on values that have no good fit."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest, weibull_max

from robustscope.core.draws import Draws
from robustscope.estimates.weibull import Fit, fit, kolmogorov_smirnov

CASES = [(3.7, 7.0, 0.5), (2.0, 1.0, 0.3), (8.0, 5.0, 1.0), (1.3, 2.0, 0.1), (4.0, -1.0, 1e-6), (3.0, 1e6, 10.0)]


def uniform(rows, count, seed=0):
    return Draws(seed, tuple(range(rows)), "test").uniform(
        "u", torch.empty(rows, count, dtype=torch.float64), 1e-9, 1.0
    )


def reverse_weibull(shape, location, scale, rows, count):
    return location - scale * (-uniform(rows, count).log()) ** (1 / shape)


def best_of_scipy(values):
    """Highest likelihood that SciPy's simplex reaches from several shapes."""
    found = []
    for start in (1.0, 3.0, 10.0):
        fitted = weibull_max.fit(values, start)
        found.append((weibull_max.logpdf(values, *fitted).sum(), fitted))
    return max(found)


@pytest.mark.parametrize(("shape", "location", "scale"), CASES[:4])
@pytest.mark.parametrize("count", [50, 300])
def test_it_agrees_with_scipy(shape, location, scale, count):
    """The same likelihood, and the same parameters as far as a simplex search settles them."""
    values = reverse_weibull(shape, location, scale, 3, count)
    found = fit(values)
    for i, row in enumerate(values.numpy()):
        height, fitted = best_of_scipy(row)
        own = [float(part[i]) for part in (found.shape, found.location, found.scale)]
        if np.isnan(own[0]):
            assert not 1 <= fitted[0] <= 100, "only below shape 1, or on the way to infinity, is there nothing to find"
            continue
        assert weibull_max.logpdf(row, *own).sum() >= height - 1e-5
        np.testing.assert_allclose(own, fitted, rtol=2e-3)
        assert float(found.p_value[i]) == pytest.approx(kstest(row, weibull_max(*own).cdf).pvalue, abs=1e-9)


@pytest.mark.parametrize(("shape", "location", "scale"), [case for case in CASES if case[0] < 5])
def test_parameters_are_recovered(shape, location, scale):
    """From 5,000 values: the location within 1 % and within 15 % of the scale, the shape within 15 %."""
    found = fit(reverse_weibull(shape, location, scale, 2, 5000))
    assert ((found.location - location).abs() <= 0.01 * abs(location)).all()
    assert ((found.location - location).abs() <= 0.15 * scale).all()
    torch.testing.assert_close(found.shape, torch.full((2,), shape, dtype=torch.float64), rtol=0.15, atol=0)
    assert (found.p_value > 0.05).all()


def test_shift_and_scale_carry_over():
    values = reverse_weibull(3.0, 2.0, 0.4, 2, 80)
    one, other = fit(values), fit(5 * values - 3)
    torch.testing.assert_close(other.location, 5 * one.location - 3, rtol=1e-8, atol=0)
    torch.testing.assert_close(other.scale, 5 * one.scale, rtol=1e-6, atol=0)
    torch.testing.assert_close(other.shape, one.shape, rtol=1e-6, atol=0)


def test_rows_are_fitted_one_by_one():
    values = reverse_weibull(3.0, 2.0, 0.4, 5, 40)
    whole = fit(values)
    for i in range(5):
        torch.testing.assert_close(fit(values[i : i + 1]).location, whole.location[i : i + 1], rtol=1e-12, atol=0)


def test_values_whose_likelihood_never_turns_are_left_alone_or_held_by_the_penalty():
    """A tail above, as of an exponential: plain likelihood moves the location out to infinity."""
    tail = -uniform(20, 60).log() + 1
    plain, held = fit(tail), fit(tail, 0.01)
    assert plain.location.isnan().all()
    assert plain.p_value.isnan().all()
    assert held.location.isfinite().any()
    ordinary = reverse_weibull(3.7, 7.0, 0.5, 20, 100)
    shift = fit(ordinary, 0.01).location - fit(ordinary).location
    assert (shift <= 1e-9).all()
    assert shift.median() > -0.001 * 7, "an ordinary fit hardly notices"
    assert shift.min() > -0.01 * 7


def test_an_atom_at_the_top_is_no_maximum():
    """Most values equal to the largest: the likelihood is unbounded there, and no fit is the honest answer."""
    values = torch.cat([torch.ones(1, 40), torch.linspace(0, 0.9, 10)[None]], 1).double()
    assert fit(values).location.isnan().all()


def test_a_bad_fit_has_a_small_p_value():
    """Two heaps are no Weibull distribution."""
    values = torch.cat([uniform(1, 20) * 0.1, reverse_weibull(3.0, 5.0, 1.0, 1, 60)], 1)
    found = fit(values, 0.01)
    assert float(found.p_value[0]) < 0.05


def test_the_statistic_is_that_of_scipy():
    values = reverse_weibull(2.0, 1.0, 1.0, 3, 25)
    shape, location, scale = (torch.full((3,), v, dtype=torch.float64) for v in (2.5, 1.05, 0.9))
    statistic, p_value = kolmogorov_smirnov(values, shape, location, scale)
    for i, row in enumerate(values.numpy()):
        due = kstest(row, weibull_max(2.5, loc=1.05, scale=0.9).cdf)
        assert float(statistic[i]) == pytest.approx(due.statistic, abs=1e-12)
        assert float(p_value[i]) == pytest.approx(due.pvalue, abs=1e-12)


def test_no_rows_are_no_fits():
    found = fit(torch.empty(0, 10, dtype=torch.float64))
    assert isinstance(found, Fit)
    assert found.location.shape == found.p_value.shape == (0,)
