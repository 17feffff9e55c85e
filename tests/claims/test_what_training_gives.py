"""Claims without a cause that a contract can take away: planted worlds in which the finding is false."""

import numpy as np
import pytest
import torch

from robustscope.claims import CLAIMS, tu2019
from robustscope.claims._trained import ahead, cost, judged, objectives
from robustscope.claims.lab import Lab, Setting
from robustscope.limits.closed_forms import BernoulliModel, GaussianModel


@pytest.fixture
def nowhere(tmp_path):
    return Lab(tmp_path, Setting("", ""))


def verdict(name, lab, **parameters):
    card = CLAIMS[name]
    return card.judge(card.function(lab, **{**card.resolve(card.quick), **parameters}).effects)


def test_schmidt_holds_where_dimensions_are_large(nowhere):
    assert verdict("schmidt2018", nowhere, **CLAIMS["schmidt2018"].full)[0] == "supported"


def test_schmidt_without_an_adversary_has_nothing_to_show(nowhere):
    overall, each = verdict("schmidt2018", nowhere, epsilon=0.0)
    assert overall == "contradicted"
    assert each["robust_error_after_one"] == "contradicted"


def test_schmidt_fails_where_samples_do_not_grow_with_the_dimension(nowhere, monkeypatch):
    monkeypatch.setattr(GaussianModel, "sample_complexity", lambda self, epsilon, error: 7)
    assert verdict("schmidt2018", nowhere)[1]["exponent_off"] == "contradicted"


def test_schmidt_fails_where_a_threshold_does_not_help(nowhere, monkeypatch):
    linear = BernoulliModel.one_sample
    monkeypatch.setattr(BernoulliModel, "one_sample", lambda self, epsilon, threshold=False: linear(self, epsilon))
    assert verdict("schmidt2018", nowhere)[1]["binary_with_threshold"] == "contradicted"


def test_tu_holds(nowhere):
    assert verdict("tu2019", nowhere)[0] == "supported"


def test_tu_fails_where_the_ball_is_smaller_than_the_reach_of_the_adversary(nowhere, monkeypatch):
    whole = tu2019._worst_risk
    monkeypatch.setattr(tu2019, "_worst_risk", lambda loss, moved, epsilon: whole(loss, moved, epsilon / 4))
    assert verdict("tu2019", nowhere)[1]["excess"] == "contradicted"


def test_tu_fails_where_the_adversary_goes_too_far(nowhere, monkeypatch):
    near = tu2019._distance
    monkeypatch.setattr(tu2019, "_distance", lambda clean, moved, y: 2 * near(clean, moved, y))
    assert verdict("tu2019", nowhere)[1]["transport"] == "contradicted"


def test_the_worst_risk_is_known_for_a_linear_loss():
    """Slope 2 everywhere: moving all mass by epsilon on average gains 2 epsilon, while the grid has room."""
    grid = np.linspace(0, 1, 11)
    at = np.array([2, 5])
    loss = np.tile(2 * grid, (2, 1))
    found = tu2019._worst_risk(loss, np.abs(grid[at][:, None] - grid), 0.3)
    assert found == pytest.approx(loss[0][at].mean() + 2 * 0.3)


def test_no_mass_goes_between_classes():
    clean, moved, y = np.array([0.0, 1.0]), np.array([1.0, 0.0]), np.array([1, -1])
    assert tu2019._distance(clean, moved, y) == 1.0
    assert tu2019._distance(clean, moved, np.array([1, 1])) == 0.0


def test_networks_of_one_seed_are_compared_and_cost_is_counted(tmp_path, monkeypatch):
    lab = Lab(tmp_path, Setting("digits", "digits"))
    monkeypatch.setattr(lab, "robust", lab.correct)
    rows = judged(lab, objectives("standard", "fgsm"), 2, 20, epochs=1)
    assert [(row["network"], row["seed"]) for row in rows] == [
        ("standard", 0),
        ("standard", 1),
        ("fgsm", 0),
        ("fgsm", 1),
    ]
    assert cost(rows, "fgsm", "standard").value == pytest.approx(200.0)
    gaps = [rows[i + 2]["accuracy"] - rows[i]["accuracy"] for i in range(2)]
    assert ahead(rows, "accuracy", "fgsm", "standard").value == pytest.approx(sum(gaps) / 2)


def test_one_attack_breaks_no_more_than_the_whole_search(tmp_path):
    lab = Lab(tmp_path, Setting("digits", "digits"))
    batch, subject = lab.samples(30), lab.network(0, objective="fgsm", epochs=6)
    left = lab.withstands("fgsm", subject, batch)
    assert not (lab.robust(subject, batch) & ~left).any()
    assert 0 < left.sum() < lab.correct(subject, batch).sum()
    tiny = lab.threat.scaled(1e-6)
    assert torch.equal(lab.withstands("fgsm", subject, batch, tiny), lab.correct(subject, batch))


def test_parameters_of_the_recipe_do_not_go_over_to_another_objective_or_model(tmp_path):
    lab = Lab(tmp_path, Setting("digits", "cifar10-pgd"))
    assert lab.recipe().parameters == {"steps": 10, "relative_step_size": 0.25}
    assert lab.recipe(objective="standard").parameters == {}
    assert lab.recipe(objective="trades", parameters={"beta": 1.0}).parameters == {"beta": 1.0}
    narrow = Lab(tmp_path, Setting("digits", "digits")).recipe(model="small_cnn", model_parameters={"width": 4})
    assert narrow.model_parameters == {"width": 4}
