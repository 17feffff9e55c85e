"""What probes of causes are built of: measures of sparsity, intervals and distances of noise, and walks."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, spearmanr
from scipy.stats import norm as normal
from torch import nn

from robustscope.core.draws import Draws
from robustscope.core.types import Bounds, ThreatModel
from robustscope.data import problems
from robustscope.data.datasets import load_data
from robustscope.geometry import balls
from robustscope.models.classifier import Classifier
from robustscope.models.loading import load_model
from robustscope.probes.why.compose import investigate, merge
from robustscope.probes.why.noise_error import half_space_distance, wilson
from robustscope.probes.why.sparsity import gini, hoyer, top_share
from robustscope.probes.why.walks import ascend, nearest_error

WIDE = Bounds(-100.0, 100.0)


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=1e-9):
    one, two = (torch.as_tensor(value, dtype=torch.float64) for value in (a, b))
    assert torch.allclose(one, two, rtol=tolerance, atol=tolerance), f"{one.flatten()[:9]} is not {two.flatten()[:9]}"


def test_gini_is_half_the_relative_mean_difference():
    values = numbers(3, 7).abs()
    brute = (values[:, :, None] - values[:, None, :]).abs().sum((1, 2)) / (2 * 7 * values.sum(1))
    close(gini(values), brute)
    close(gini(values * torch.tensor([[1.0], [-3.0], [1e-200]], dtype=torch.float64)), brute)
    assert bool(gini(torch.zeros(1, 4)).isnan())
    close(hoyer(torch.tensor([[1.0, 1, 1, 1], [0, 0, 5, 0]])), [0.0, 1.0])
    close(top_share(torch.tensor([[3.0, 4.0, 0.0, 0.0]]).double(), 0.25), [16 / 25])


def test_predicted_distances_are_the_closed_values():
    rates = torch.tensor([0.1, 0.01, 0.001], dtype=torch.float64)
    close(half_space_distance(rates, 0.1), [0.128155, 0.232635, 0.309023], 1e-5)
    low, high = wilson(torch.tensor([0.0, 3.0, 10.0], dtype=torch.float64), 10)
    for i, k in enumerate((0, 3, 10)):
        interval = binomtest(k, 10).proportion_ci(method="wilson")
        close([float(low[i]), float(high[i])], [interval.low, interval.high], 1e-9)


def test_errors_on_both_sides_are_further_than_their_noise_tells():
    """The half-space is the furthest set of its measure: of two half-spaces, each as far, the noise foretells less."""

    class Slab(nn.Module):
        def forward(self, x):
            return torch.stack([0.4 - x[:, 0].abs(), x[:, 0].abs() - 0.4], 1)

    x = torch.zeros(4, 3, dtype=torch.float64)
    found = investigate(
        "noise_error",
        Classifier(Slab().eval(), WIDE),
        x + 1e-3,
        torch.zeros(4, dtype=torch.int64),
        ThreatModel("l2", 1.0, WIDE),
        sigma=0.3,
        copies=2000,
    ).columns
    assert bool((found["predicted_distance"] < found["measured_distance"] - 0.05).all())
    rate = 2 * normal.cdf(-0.4 / 0.3)
    assert np.allclose(found["error_rate"], rate, atol=4 * math.sqrt(rate / 2000))


def test_the_search_for_errors_is_exact_on_linear_models_in_their_box():
    problem = problems.linear_boxed()
    model = Classifier(problem.module)
    found = nearest_error(model, problem.x, problem.y, steps=10, rivals=9, halvings=16)
    close(found, problem.radius["l2"], 1e-3)
    assert bool((found >= problem.radius["l2"] - 1e-9).all())
    assert nearest_error(model, problem.x, (problem.y + 1) % 4, steps=2, rivals=9).tolist() == [0.0] * 8
    still = problems.constant()
    assert bool(nearest_error(Classifier(still.module), still.x, still.y, steps=3, rivals=9).isnan().all())


def test_more_restarts_and_steps_find_no_less():
    problem = problems.smooth_cnn(torch.float64)
    model, threat = Classifier(problem.module), ThreatModel("linf", 0.1)

    def climb(restarts):
        return ascend(
            model,
            problem.x,
            threat,
            lambda z, rows: z[:, 0],
            draws=Draws(0, tuple(range(8))),
            steps=3,
            relative_step_size=0.3,
            restarts=restarts,
        )

    (few, _), (many, where) = climb(1), climb(3)
    assert bool((many >= few).all())
    assert bool(balls.contains(threat, problem.x, where).all())
    close(model.logits(where)[:, 0], many)


@pytest.fixture(scope="module")
def digits():
    """Every tenth of the test digits, and what two bundled networks of one shape are found to have."""
    data = load_data("digits")
    ids = list(range(0, 500, 10))
    x, y = data.read(ids), torch.as_tensor(data.labels[ids], dtype=torch.int64)
    models = (load_model(f"bundled:digits_{name}").classifier for name in ("standard", "adversarial"))
    return x, y, tuple(models)


def test_divergences_tell_an_adversarially_trained_network_from_another(digits):
    """The geometric mean of psi is many times as large; its mean is decided by the few samples that nothing moves."""
    x, y, models = digits
    standard, robust = (investigate("kl_robustness", model, x, y, "linf:0.15").columns for model in models)
    assert float(robust["log_psi"].mean() - standard["log_psi"].mean()) > math.log(2)
    assert float((robust["kl"] < standard["kl"]).double().mean()) > 0.9


def test_maps_of_an_adversarially_trained_network_are_sparser_and_more_aligned(digits):
    x, y, models = digits
    standard, robust = (investigate("saliency", model, x, y, "linf:0.15").columns for model in models)
    for name in ("gradient_gini", "smoothgrad_gini"):
        assert float(robust[name].mean()) > float(standard[name].mean()) + 0.01
    standard, robust = (investigate("alignment", model, x, y, "linf:0.15").columns for model in models)
    for name in ("alignment", "linearised_robustness"):
        assert float(robust[name].median()) > 1.2 * float(standard[name].median())


def test_noise_foretells_the_order_of_the_distances(digits):
    x, y, models = digits
    found = investigate("noise_error", models[0], x, y, "l2:1", sigma=0.3, copies=300).columns
    known = ~(found["predicted_distance"].isnan() | found["measured_distance"].isnan())
    assert int(known.sum()) > 25
    order = spearmanr(found["predicted_distance"][known], found["measured_distance"][known]).statistic
    assert order > 0.7


def test_parts_are_put_together(digits):
    x, y, models = digits
    whole = investigate("saliency", models[0], x[:6], y[:6], "linf:0.1", noises=2, steps=2)
    draws = Draws(0, tuple(range(6)))
    parts = [
        investigate(
            "saliency",
            models[0],
            x[rows],
            y[rows],
            "linf:0.1",
            noises=2,
            steps=2,
            draws=draws.select(rows),
        )
        for rows in torch.arange(6).split(4)
    ]
    again = merge(parts)
    assert again.columns.keys() == whole.columns.keys()
    assert torch.allclose(again.pictures["smoothgrad"], whole.pictures["smoothgrad"], atol=1e-5)
