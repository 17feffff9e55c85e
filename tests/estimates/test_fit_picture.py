"""The picture of a fit: curves against SciPy's, bars of area 1, gaps said in words, and everything plain numbers."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import weibull_max

from robustscope.analyses.clever_fit import FEWEST, MOST, density, distribution, fit_picture
from robustscope.core.errors import InvalidValue
from robustscope.data import goodfellow, problems
from robustscope.estimates.compose import estimate
from robustscope.estimates.records import records
from robustscope.models.classifier import Classifier


@pytest.mark.parametrize(("shape", "location", "scale"), [(1.0, 0.0, 1.0), (3.7, 6.9, 0.4), (40.0, -2.0, 30.0)])
def test_curves_are_those_of_scipy(shape, location, scale):
    at = np.linspace(location - 3 * scale, location + scale, 101)
    due = weibull_max(shape, location, scale)
    np.testing.assert_allclose(distribution(at, location, scale, shape), due.cdf(at), rtol=1e-12)
    inside = at < location  # at the location itself SciPy gives the limit from below
    np.testing.assert_allclose(density(at, location, scale, shape)[inside], due.pdf(at)[inside], rtol=1e-9, atol=1e-300)
    assert not density(at, location, scale, shape)[~inside].any()
    area, _ = quad(lambda t: float(density(t, location, scale, shape)), location - 60 * scale, location, limit=500)
    assert area == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("scale", "shape"), [(0.0, 1.0), (1.0, -1.0), (float("nan"), 1.0)])
def test_what_is_no_distribution_is_refused(scale, shape):
    with pytest.raises(InvalidValue, match="positive"):
        density([0.0], 1.0, scale, shape)


def rows(threat="l2:0.3", batches=60):
    p = problems.smooth_cnn(n=3)
    y = p.y.clone()
    y[1] = (y[1] + 1) % 4
    return records(estimate("clever", Classifier(p.module), p.x, y, threat, batches=batches, points=10))


def test_the_picture_of_an_estimate():
    row = rows()[0]
    picture = fit_picture(row, points=300)
    assert json.loads(json.dumps(dataclasses.asdict(picture)))["gap"] == ""
    widths = np.diff(picture.edges)
    assert float(np.dot(widths, picture.heights)) == pytest.approx(1.0)
    assert FEWEST <= len(picture.heights) <= MOST
    assert picture.edges[0] == min(row["maxima"])
    assert picture.edges[-1] == picture.largest == max(row["maxima"])
    assert picture.location == picture.grid[-1] == row["location"]
    assert len(picture.grid) == len(picture.density) == len(picture.distribution) == 300
    assert list(picture.values) == sorted(row["maxima"])
    # The largest step between shares and the fitted distribution is the statistic of the record.
    fitted = distribution(picture.values, row["location"], row["scale"], row["shape"])
    above, below = np.subtract(picture.shares, fitted), np.subtract(fitted, np.subtract(picture.shares, 1 / 60))
    assert max(above.max(), below.max()) == pytest.approx(row["statistic"], rel=1e-9)
    assert row["starts"] > 1


def test_gaps_are_said():
    missed = rows()[1]
    assert missed["starts"] == 0
    assert "misclassified" in fit_picture(missed).gap
    assert fit_picture(missed).values == ()
    flat = goodfellow.staircase(n=1)
    (row,) = records(estimate("clever", Classifier(flat.module), flat.x, flat.y, "l2:1", batches=4, points=3))
    picture = fit_picture(row)
    assert row["starts"] == 0
    assert "equal" in picture.gap
    assert picture.location == picture.largest == 0
    assert picture.grid == picture.heights == ()
    unbounded = {"maxima": [1.0, 2.0, 2.5], "location": 2.5, "scale": None, "shape": None, "warnings": ["no_maximum"]}
    picture = fit_picture(unbounded)
    assert "no maximum" in picture.gap
    assert len(picture.heights) >= FEWEST
    with pytest.raises(InvalidValue, match="points=1"):
        fit_picture(unbounded, points=1)
