"""goodfellow2018 and weng2018_bpda in worlds where their findings are true and false."""

from types import SimpleNamespace

import pytest
import torch

from robustscope.claims import CLAIMS, Lab, Setting
from robustscope.claims import goodfellow2018 as goodfellow
from robustscope.claims import weng2018_bpda as bpda

SETTING = Setting("digits", "digits")


def verdict(name, lab):
    card = CLAIMS[name]
    return card.judge(card.function(lab, **card.resolve(card.quick)).effects)[0]


def test_an_estimate_that_no_mask_deceives_contradicts(tmp_path, monkeypatch):
    """Radii of sampling are one and a half times the true ones."""
    lab = Lab(tmp_path, Setting("", ""))
    assert verdict("goodfellow2018", lab) == "supported"

    def cautious(name, model, x, y, threat, **asked):
        return SimpleNamespace(radius=torch.tensor(threat.epsilon, dtype=torch.float64) / 1.6)

    monkeypatch.setattr(goodfellow, "estimate", cautious)
    assert verdict("goodfellow2018", lab) == "contradicted"


@pytest.mark.parametrize(
    ("bare", "hidden", "through", "expected"),
    [
        (0.2, 2.0, 0.21, "supported"),
        (0.2, 0.19, 0.21, "contradicted"),  # nothing is masked
        (0.2, 2.0, 0.3, "contradicted"),  # nothing is repaired
        (0.9, 2.0, 0.9, "contradicted"),  # the scores lie above the attack
    ],
)
def test_scores_that_are_planted(bare, hidden, through, expected, tmp_path, monkeypatch):
    scores = iter([bare, hidden, through] * 2)

    def estimate(name, model, x, y, threat, **asked):
        return SimpleNamespace(radius=torch.full((len(x),), next(scores), dtype=torch.float64))

    monkeypatch.setattr(bpda, "estimate", estimate)
    monkeypatch.setattr(Lab, "distance", lambda self, subject, batch: torch.full((len(batch),), 0.5))
    assert verdict("weng2018_bpda", Lab(tmp_path, SETTING)) == expected
