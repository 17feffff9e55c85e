"""What makes an estimate doubtful is said of it: margins of one value, made to give each doubt and no other."""

import pytest
import torch
from torch import nn

from robustscope.core.types import Bounds
from robustscope.estimates.compose import estimate
from robustscope.models.classifier import Classifier

WIDE = Bounds(-1.0, 1.0)
MARGIN = 10.0


class Rising(nn.Module):
    """Two classes with a margin that is a given function of the only input value."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x):
        g = MARGIN - self.function(x[:, 0])
        return torch.stack([g / 2, -g / 2], 1)


def found(function, points=1, **options):
    """Estimate with one point behind each maximum, so that the maxima are the slopes themselves."""
    x, y = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    model = Classifier(Rising(function), WIDE)
    return estimate("clever", model, x, y, "l2:1", **{"batches": 100, "points": points, **options})


def ending(t, top, spread):
    """The function whose slope is top - spread u^(1/3), u uniform on [0, 1]: a reverse Weibull distribution of shape 3."""
    u = (1 - t).clamp(min=1e-12) / 2
    return top * t + 1.5 * spread * u ** (4 / 3)


def two_heaps(t):
    """Next to no slope on a seventh of the ball, and slopes from 3 to 5 on the rest."""
    return torch.where(t < -0.7, 0.05 * t, ending(t, 5.0, 2.0))


def mostly_one(t):
    """Slope 5 on three quarters of the ball, less on the rest."""
    return torch.where(t < -0.5, 5 * t + (t + 0.5) ** 2, 5 * t)


def tailed(t):
    """Slopes that are spread as an exponential: few are large, and nothing says where they end."""
    u = (t + 1) / 2 + 1e-9
    return 2 * (u - u * u.log())


def smooth(t):
    """Slopes from 1 to 3 that thin out to the end."""
    return ending(t, 3.0, 2.0)


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (smooth, {"points": 20}, set()),
        (two_heaps, {}, {"bad_fit"}),
        (mostly_one, {}, {"ties", "no_maximum"}),
        (tailed, {"shape_penalty": 0.0}, {"no_maximum"}),
        (tailed, {}, {"far"}),
        (lambda t: 3 * t, {}, {"constant", "capped"}),
        (lambda t: 0 * t, {}, {"constant", "capped", "zero_gradients"}),
    ],
    ids=["smooth", "two heaps", "mostly one", "tail without penalty", "tail", "affine", "flat"],
)
def test_each_doubt_is_said_of_what_was_made_for_it(function, options, said):
    one = found(function, **options)
    assert set(one.warnings[0]) - {"capped"} == said - {"capped"}
    assert ("capped" in one.warnings[0]) is bool(one.capped) is (float(one.radius) == 1.0)
    assert bool(one.p_value < 0.05) is ("bad_fit" in said)
    assert bool(one.shape.isnan()) is bool(said & {"constant", "no_maximum"})


def test_where_the_likelihood_has_no_maximum_the_largest_slope_stands_in():
    one = found(mostly_one)
    assert float(one.location) == float(one.maxima.max()) == 5.0


def test_a_constant_slope_is_exact_and_capped_only_beyond_the_ball():
    """Slope 20: the margin of 10 is gone after half of the ball. Slope 3: it outlasts the ball."""
    assert float(found(lambda t: 20 * t).radius) == pytest.approx(0.5, rel=1e-12)
    assert not found(lambda t: 20 * t).capped
    assert float(found(lambda t: 3 * t).radius) == 1.0
    assert found(lambda t: 3 * t).capped
