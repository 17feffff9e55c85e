"""Attack objectives against their formulas, and the traps that popular code has fallen into."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustscope.core.errors import InvalidValue, UnknownName
from robustscope.geometry.losses import LOSSES, cross_entropy, dlr, margin, margin_loss, objective, probability_margin
from robustscope.geometry.rules import is_adversarial


def logits(batch=50, classes=5, seed=0):
    return torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def labels(batch=50, classes=5, seed=1):
    return torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(seed))


def test_margin_by_hand():
    for row, true in zip(logits(), labels(), strict=True):
        others = [float(v) for i, v in enumerate(row) if i != true]
        assert float(margin(row[None], true[None])) == pytest.approx(float(row[true]) - max(others), abs=1e-12)


def test_margin_of_negative_logits_is_not_measured_from_zero():
    z, y = torch.tensor([[-7.0, -9.0, -8.0]]), torch.tensor([0])
    assert margin(z, y).tolist() == [1.0]
    assert margin_loss(z, y).tolist() == [-1.0]
    assert margin_loss(z, y, torch.tensor([1])).tolist() == [-2.0]


def test_cross_entropy_by_hand():
    z = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    assert float(cross_entropy(z, torch.tensor([0]))) == pytest.approx(math.log(4))
    assert float(cross_entropy(z, torch.tensor([0]), torch.tensor([1]))) == pytest.approx(-math.log(4 / 3))


def test_dlr_by_hand():
    z = torch.tensor([[5.0, 3.0, 1.0, 0.0]], dtype=torch.float64)
    assert float(dlr(z, torch.tensor([0]))) == pytest.approx(-(5 - 3) / (5 - 1))
    assert float(dlr(z, torch.tensor([2]))) == pytest.approx(-(1 - 5) / (5 - 1))
    assert float(dlr(z, torch.tensor([0]), torch.tensor([3]))) == pytest.approx(-(5 - 0) / (5 - 0.5))


def test_probability_margin_and_its_gradient_in_closed_form():
    """p_m - p_y, with d p_i / d z_j = p_i ([i = j] - p_j); the classes m, y are (other, true) or (target, other)."""
    z, y, t = logits().requires_grad_(True), labels(), (labels() + 2) % 5
    p, rows = z.detach().exp() / z.detach().exp().sum(1, keepdim=True), torch.arange(50)
    for targets in (None, t):
        up, down = (
            (p.scatter(1, y[:, None], 0).argmax(1), y)
            if targets is None
            else (t, p.scatter(1, t[:, None], 0).argmax(1))
        )
        value = probability_margin(z, y, targets)
        torch.testing.assert_close(value.detach(), p[rows, up] - p[rows, down], rtol=1e-12, atol=1e-12)
        due = -p * (p[rows, up] - p[rows, down])[:, None]
        due[rows, up] += p[rows, up]
        due[rows, down] -= p[rows, down]
        (gradient,) = torch.autograd.grad(value.sum(), z)
        torch.testing.assert_close(gradient, due, rtol=1e-10, atol=1e-12)
    assert torch.equal(probability_margin(z, y) > 0, is_adversarial(z, y))


def test_probability_margin_of_far_apart_logits_is_finite():
    z = torch.tensor([[500.0, -500.0, 0.0]], requires_grad=True)
    value = probability_margin(z, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert value.tolist() == [-1.0]
    assert gradient.tolist() == [[0.0, 0.0, 0.0]]


@settings(max_examples=40, deadline=None)
@given(scale=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_dlr_ignores_shift_and_scale(scale, shift):
    z, y, t = logits(), labels(), (labels() + 1) % 5
    torch.testing.assert_close(dlr(scale * z + shift, y), dlr(z, y), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(dlr(scale * z + shift, y, t), dlr(z, y, t), rtol=1e-6, atol=1e-6)


def test_dlr_of_equal_logits_is_finite():
    z = torch.zeros(2, 4, requires_grad=True)
    for targets in (None, torch.tensor([1, 1])):
        value = dlr(z, torch.tensor([0, 2]), targets)
        (gradient,) = torch.autograd.grad(value.sum(), z)
        assert torch.isfinite(value).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses_are_per_sample_and_shift_invariant(name):
    z, y, t = logits(), labels(), (labels() + 2) % 5
    for targets in (None, t):
        loss = objective(name, 5, targets is not None)
        whole = loss(z, y, targets)
        assert whole.shape == (50,)
        alone = torch.cat(
            [loss(z[i : i + 1], y[i : i + 1], None if targets is None else t[i : i + 1]) for i in range(50)]
        )
        assert torch.equal(whole, alone)
        torch.testing.assert_close(loss(z + 7.0, y, targets), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses_push_the_right_way(name):
    z, y, t = logits().requires_grad_(True), labels(), (labels() + 2) % 5
    z_y = torch.autograd.grad(objective(name, 5)(z, y, None).sum(), z)[0].gather(1, y[:, None])
    z_t = torch.autograd.grad(objective(name, 5, True)(z, y, t).sum(), z)[0].gather(1, t[:, None])
    assert (z_y <= 0).all()
    # Where the true class ranks third, numerator and denominator of the DLR are equal: it is the constant 1.
    third = z.argsort(dim=1, descending=True)[:, 2] == y
    assert torch.equal(z_y[:, 0] == 0, third if name == "dlr" else torch.zeros_like(third))
    if name != "dlr":  # its denominator may turn the sign where the target already leads
        assert (z_t >= 0).all()


def test_margin_loss_tells_success():
    z, y, t = logits(), labels(), (labels() + 1) % 5
    assert torch.equal(margin_loss(z, y) > 0, is_adversarial(z, y))
    assert torch.equal(margin_loss(z, y, t) > 0, is_adversarial(z, y, t))


def test_ties_go_to_the_lowest_index():
    z = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    assert is_adversarial(z, torch.tensor([0, 1])).tolist() == [False, True]
    assert is_adversarial(z, torch.tensor([0, 0]), torch.tensor([0, 1])).tolist() == [True, False]


def test_classes_are_counted_before_the_loss_is_used():
    objective("margin", 2)
    objective("dlr", 3)
    objective("dlr", 4, targeted=True)
    with pytest.raises(InvalidValue, match="3 classes or more"):
        objective("dlr", 2)
    with pytest.raises(InvalidValue, match="4 classes or more"):
        objective("dlr", 3, targeted=True)
    with pytest.raises(UnknownName, match="Did you mean 'margin'"):
        objective("margins", 5)
