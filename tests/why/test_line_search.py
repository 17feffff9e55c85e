"""The smallest steps along three directions, against closed forms of linear models."""

import pytest
import torch
from torch import nn

from robustscope.core.errors import InvalidValue
from robustscope.core.types import Bounds
from robustscope.data import problems
from robustscope.models.classifier import Classifier
from robustscope.probes.why import line_search as module
from robustscope.probes.why.compose import investigate

WIDE = Bounds(-100.0, 100.0)


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear(weight):
    layer = nn.Linear(weight.shape[1], len(weight), bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return Classifier(layer.eval(), WIDE)


def look(model, x, y=None, **parameters):
    y = model.decisions(x) if y is None else y
    return investigate("line_search", model, x, y, "linf:0.1", **parameters).columns


def check_two_classes():
    w, x = numbers(5), numbers(20, 5, seed=1)
    found = look(linear(torch.stack([w, -w]) / 2), x, halvings=45)
    distance = (x @ w).abs()
    exact = {
        "sign_linf": distance / w.abs().sum(),
        "sign_l2": distance / w.abs().sum() * 5**0.5,
        "value_l2": distance / w.norm(),
        "value_linf": distance / w.norm() ** 2 * w.abs().max(),
        "hot_cold_l2": distance / w.norm(),
    }
    for name, lengths in exact.items():
        assert torch.allclose(found[name], lengths, rtol=1e-9), name


def test_two_classes_of_a_linear_model():
    check_two_classes()


@pytest.mark.parametrize("broken", ["the step before", "the raw gradient", "the square of it"])
def test_a_broken_search_is_caught(monkeypatch, broken):
    if broken == "the step before":
        monkeypatch.setattr(module, "halve", lambda model, y, at, low, high, halvings: low)
    elif broken == "the raw gradient":
        monkeypatch.setattr(module, "_longest_one", lambda gradient: gradient * 1e-3)
    else:
        monkeypatch.setattr(module, "_longest_one", lambda gradient: gradient * gradient.abs())
    with pytest.raises(AssertionError):
        check_two_classes()


def test_hot_and_cold_of_many_classes_by_brute_force():
    weight, x = numbers(4, 6), numbers(15, 6, seed=1)
    model = linear(weight)
    logits = model.logits(x)
    order = logits.argsort(dim=1, descending=True)
    way = weight[order[:, 1]] - weight[order[:, 0]]
    rises = way @ weight.T - (way * weight[order[:, 0]]).sum(1, keepdim=True)
    steps = (logits.amax(1, keepdim=True) - logits) / rises
    first = torch.where(rises > 1e-12, steps, torch.inf).amin(1)
    assert torch.allclose(look(model, x, halvings=45)["hot_cold_l2"], first * way.norm(dim=1), rtol=1e-9)


def test_steps_stay_in_the_box_and_are_never_shorter_than_the_distance():
    problem = problems.linear_boxed()
    found = look(Classifier(problem.module), problem.x, problem.y)
    for name, lengths in found.items():
        kept = ~lengths.isnan()
        assert bool((lengths[kept] >= problem.radius[name.rpartition("_")[2]][kept] - 1e-9).all())
        assert bool((lengths[kept] <= problem.x[0].numel() ** 0.5).all())


def test_a_network_that_is_sure_beyond_rounding_is_still_searched():
    x = torch.full((1, 3), 0.5)
    model = Classifier(nn.Linear(3, 2, bias=False).eval())
    with torch.no_grad():
        model.module.weight.copy_(torch.tensor([[1e4, 1e4, -1e4], [-1e4, -1e4, 1e4]]))
    assert abs(float(look(model, x, halvings=20)["sign_linf"]) - 0.5 / 3) < 1e-4


def test_errors_and_flat_networks():
    problem = problems.linear_multiclass()
    wrong = look(Classifier(problem.module), problem.x, (problem.y + 1) % 4)
    assert all(not lengths.any() for lengths in wrong.values())
    still = problems.constant()
    assert all(bool(lengths.isnan().all()) for lengths in look(Classifier(still.module), still.x, still.y).values())


def test_what_is_refused():
    problem = problems.linear_multiclass()
    with pytest.raises(InvalidValue, match="points=0"):
        look(Classifier(problem.module), problem.x, problem.y, points=0)
