"""fawzi2015, fawzi2015_flexibility and bhagoji2019 in worlds where their findings are true and false."""

from types import SimpleNamespace

import pytest
import torch

from robustscope.claims import CLAIMS, Lab, Setting
from robustscope.claims import fawzi2015 as fawzi

SETTING = Setting("digits", "digits")


def verdict(name, lab, **changes):
    card = CLAIMS[name]
    return card.judge(card.function(lab, **card.resolve({**card.quick, **changes})).effects)[0]


@pytest.mark.parametrize(
    ("power", "factor", "expected"),
    [(0.5, 0.5, "supported"), (0.0, 5.0, "contradicted"), (0.95, 0.5, "contradicted"), (0.5, 0.1, "contradicted")],
)
def test_noise_that_grows_as_planted(power, factor, expected, tmp_path, monkeypatch):
    """The perturbation is 1 long, and noise a power of the number of values."""

    def noise(model, x, **asked):
        long = factor * x[0].numel() ** power
        return SimpleNamespace(
            radius=torch.full((len(x),), long, dtype=torch.float64), beyond=torch.zeros(len(x), dtype=torch.bool)
        )

    monkeypatch.setattr(fawzi, "noise_radius", noise)
    monkeypatch.setattr(Lab, "distance", lambda self, subject, batch: torch.ones(len(batch)))
    monkeypatch.setattr(Lab, "correct", lambda self, subject, batch: torch.ones(len(batch), dtype=torch.bool))
    monkeypatch.setattr(Lab, "network", lambda self, seed, **how: SimpleNamespace(model=None))
    assert verdict("fawzi2015", Lab(tmp_path, SETTING)) == expected


def test_a_bias_that_is_no_small_one_makes_the_linear_classifier_robust(tmp_path):
    lab = Lab(tmp_path, Setting("", ""))
    assert verdict("fawzi2015_flexibility", lab) == "supported"
    assert verdict("fawzi2015_flexibility", lab, biases=(0.4, 0.45)) == "contradicted"


@pytest.mark.parametrize(("robust", "expected"), [(False, "supported"), (True, "contradicted")])
def test_networks_that_reach_the_bound_contradict(robust, expected, tmp_path, monkeypatch):
    """On digits the bound is 100 % at the radius of the recipe, as far apart as these samples lie."""
    monkeypatch.setattr(Lab, "robust", lambda self, subject, batch: torch.full((len(batch),), robust))
    monkeypatch.setattr(Lab, "network", lambda self, seed, **how: None)
    assert verdict("bhagoji2019", Lab(tmp_path, SETTING), seeds=2) == expected
