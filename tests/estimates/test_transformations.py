"""BPDA-CLEVER: the estimate behind a transformation without a gradient, on digits."""

from functools import cache

import numpy as np
import pytest
import torch

from robustscope.attacks.compose import attack
from robustscope.data.datasets import load_data
from robustscope.defenses.apply import transformation
from robustscope.estimates.compose import estimate
from robustscope.models.defended import defend
from robustscope.models.loading import load_model

OPTIONS = {"batches": 15, "points": 15, "rivals": 2}


@cache
def digits():
    """Return the bundled network and eight digits that it gets right, with and without three bits for each value."""
    model = load_model("bundled:digits_standard", device="cpu").classifier
    source = load_data("digits")
    rows = list(range(0, 400, 40))
    x, y = source.read(rows), torch.as_tensor(np.asarray(source.labels)[rows])
    guarded = defend(model, transformation("bit_depth", depth=3))
    keep = (model.logits(x).argmax(1) == y) & (guarded.logits(x).argmax(1) == y)
    return model, guarded, x[keep][:8], y[keep][:8]


@pytest.mark.parametrize(("norm", "radius"), [("l2", 1.0), ("linf", 0.2)])
def test_it_stays_close_to_the_undefended_estimate(norm, radius):
    """Three bits move no value by more than 0.07: margins and gradients change little, and so does the score."""
    model, guarded, x, y = digits()
    plain = estimate("clever", model, x, y, f"{norm}:{radius}", **OPTIONS)
    behind = estimate("clever", guarded, x, y, f"{norm}:{radius}", **OPTIONS)
    assert len(x) == 8
    change = (behind.radius - plain.radius).abs() / plain.radius
    assert change.median() < 0.1
    assert change.max() < 0.3
    assert not behind.zero_share.any()


def test_it_is_below_what_an_attack_finds():
    """The distance of an example found with the same approximate gradients (Carlini and Wagner)."""
    _, guarded, x, y = digits()
    behind = estimate("clever", guarded, x, y, "l2:3", **OPTIONS)
    verdict = attack("cw_l2", guarded, x, y, "l2:inf", search_steps=4, steps=60).verdict
    found = verdict.success
    assert found.sum() >= 6
    assert (behind.radius <= verdict.distance)[found].all()
    assert (behind.radius > 0.05 * verdict.distance)[found].all()


def test_without_the_approximation_the_same_defence_masks():
    """Rounding has a zero gradient of its own: the estimate goes to its cap, and says why."""
    model, _, x, y = digits()
    masked = defend(model, transformation("bit_depth", depth=3), approximate=False)
    found = estimate("clever", masked, x, y, "l2:3", batches=3, points=3)
    assert found.radius.tolist() == [3.0] * len(x)
    assert all({"capped", "zero_gradients"} <= set(codes) for codes in found.warnings)
