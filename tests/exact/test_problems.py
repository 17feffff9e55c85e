"""The synthetic problems, against linear programming, brute force and closed forms."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from robustscope.core.errors import InvalidValue
from robustscope.data import problems

NORMS = ("linf", "l2", "l1")


def programmed(norm, x, v, margin):
    """Length of the shortest d with v.d >= margin inside the box [0, 1], by a general solver."""
    d = len(x)
    if norm == "l0":
        gains = np.abs(v) * np.where(v > 0, 1 - x, x)
        for count in range(d + 1):
            if any(sum(gains[list(rows)]) >= margin for rows in itertools.combinations(range(d), count)):
                return count
        return np.inf
    if norm == "linf":
        # variables d and the radius: |d_i| <= radius
        eye = np.eye(d)
        a = np.block([[eye, -np.ones((d, 1))], [-eye, -np.ones((d, 1))], [-v[None], np.zeros((1, 1))]])
        b = np.concatenate([np.zeros(2 * d), [-margin]])
        box = [*zip(-x, 1 - x, strict=True), (0, None)]
        solved = linprog(np.r_[np.zeros(d), 1.0], A_ub=a, b_ub=b, bounds=box)
        return solved.fun if solved.success else np.inf
    if norm == "l1":
        solved = linprog(
            np.ones(2 * d),
            A_ub=-np.r_[v, -v][None],
            b_ub=[-margin],
            bounds=[*zip(np.zeros(2 * d), np.r_[1 - x, x], strict=True)],
        )
        return solved.fun if solved.success else np.inf
    if (np.abs(v) * np.where(v > 0, 1 - x, x)).sum() < margin:
        return np.inf
    far = np.where(v > 0, 1 - x, -x)
    solved = minimize(
        lambda z: z @ z,
        far,
        jac=lambda z: 2 * z,
        bounds=[*zip(-x, 1 - x, strict=True)],
        constraints=[{"type": "ineq", "fun": lambda z: v @ z - margin, "jac": lambda z: v}],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return float(np.sqrt(solved.fun))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_boxed_distances_are_exact(norm):
    rng = np.random.default_rng(0)
    x, v = rng.random((40, 6)), rng.normal(size=(40, 6))
    x[::4] = x[::4].round()
    v[1] = [0, 0, 1.0, -1.0, 0, 0]
    most = (np.abs(v) * np.where(v > 0, 1 - x, x)).sum(1)
    margin = most * rng.uniform(0.05, 0.95, 40)
    margin[::10] = most[::10] * 1.01
    margin[5] = -0.3
    got = problems.boxed_distance(norm, torch.tensor(x), torch.tensor(v), torch.tensor(margin)).numpy()
    due = np.array([max(programmed(norm, *row), 0.0) if row[2] > 0 else 0.0 for row in zip(x, v, margin, strict=True)])
    assert np.isinf(due[::10]).all()
    assert due[5] == 0
    np.testing.assert_allclose(got, due, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", float("inf"))])
def test_the_binary_problem_has_one_radius_that_the_box_leaves_alone(norm, dual, dtype):
    p = problems.linear_binary(norm, dtype, n=6)
    assert p.x.dtype == dtype
    weight, bias = (q.detach().double() for q in p.module.parameters())
    w, f = weight[1] - weight[0], (p.x.double().flatten(1) @ (weight[1] - weight[0])) + bias[1] - bias[0]
    closed = f.abs() / torch.linalg.vector_norm(w, dual)
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6}[dtype]  # of x and w themselves, stored in float32
    torch.testing.assert_close(p.radius[norm], closed, rtol=tolerance, atol=0)
    torch.testing.assert_close(closed, torch.full_like(closed, problems.RADII[norm]), rtol=tolerance, atol=0)
    assert p.y.tolist() == [int(value > 0) for value in f]
    assert len(set(p.y.tolist())) == 2
    room = torch.minimum(p.x, 1 - p.x).min()
    assert room > 1.2 * p.radius[norm].max(), "1.10 times the radius must fit into the box"


def test_the_multiclass_problem_is_unboxed_and_its_nearest_class_differs_between_norms():
    p = problems.linear_multiclass(n=40)
    weight, bias = (q.detach() for q in p.module.parameters())
    logits = p.x.flatten(1) @ weight.T + bias
    nearest = {}
    for norm, dual in (("linf", 1), ("l2", 2), ("l1", float("inf"))):
        length = torch.stack([(logits.gather(1, p.y[:, None])[:, 0] - logits[:, t]) /
                              torch.linalg.vector_norm(weight[p.y] - weight[t], dual, dim=1) for t in range(5)], 1)  # fmt: skip
        length[torch.arange(40), p.y] = torch.inf
        nearest[norm] = length.argmin(1)
        torch.testing.assert_close(p.radius[norm], length.amin(1), rtol=1e-10, atol=0)
    assert not torch.equal(nearest["linf"], nearest["l1"])


def test_the_boxed_problem_feels_its_box():
    p = problems.linear_boxed(n=12)
    weight, _ = (q.detach() for q in p.module.parameters())
    assert ((p.x == 0) | (p.x == 1)).double().mean() > 0.1
    logits = p.module(p.x).detach()
    gap = logits.gather(1, p.y[:, None]) - logits
    for norm, dual in (("linf", 1), ("l2", 2), ("l1", float("inf"))):
        free = gap / torch.linalg.vector_norm(weight[p.y][:, None] - weight, dual, dim=2).clamp(min=1e-9)
        free[torch.arange(12), p.y] = torch.inf
        assert (p.radius[norm] >= free.amin(1) * (1 - 1e-9)).all()
        assert (p.radius[norm] > free.amin(1) * 1.01).any(), "the box must bind somewhere"
    assert (p.radius["l0"] >= 2).any()


def test_labels_are_predictions_and_modules_are_in_eval_mode():
    built = [problems.linear_binary("l2"), problems.linear_multiclass(), problems.linear_boxed(), problems.smooth_cnn(),
             problems.normalised_cnn(), problems.flat_gradients(), problems.faint_gradients(), problems.constant()]  # fmt: skip
    for p in built:
        assert not any(module.training for module in p.module.modules())
        assert torch.equal(p.module(p.x).argmax(1), p.y)
        assert p.x.min() >= 0
        assert p.x.max() <= 1
    assert len(problems.smooth_cnn(n=16).y.unique()) == 4


def test_problems_are_fixed_and_grow_by_appending():
    before = torch.get_rng_state()
    few, many = problems.smooth_cnn(n=3), problems.smooth_cnn(n=9)
    assert torch.equal(few.x, many.x[:3])
    assert all(torch.equal(a, b) for a, b in zip(few.module.parameters(), many.module.parameters(), strict=True))
    assert not torch.equal(few.x, problems.smooth_cnn(n=3, seed=1).x)
    problems.normalised_cnn()
    assert torch.equal(torch.get_rng_state(), before)


def test_training_mode_would_show():
    p = problems.normalised_cnn()
    with torch.no_grad():
        quiet = p.module(p.x)
        assert torch.equal(quiet, p.module(p.x))
        p.module[3].train()
        state = torch.get_rng_state()
        assert not torch.equal(quiet, p.module(p.x))
        torch.set_rng_state(state)
        p.module[3].eval()
        p.module[1].train()
        assert not torch.equal(quiet, p.module(p.x))


def test_flat_problems_are_flat():
    for build, largest in ((problems.flat_gradients, 0.0), (problems.faint_gradients, 1e-20)):
        p = build()
        x = p.x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(p.module(x)[:, 0].sum(), x)
        assert gradient.abs().max() <= largest
    assert (gradient**2).sum() == 0, "squares must underflow, or normalising is never tested"
    assert (gradient != 0).any()
    p = problems.constant()
    assert torch.equal(p.module(p.x), p.module(1 - p.x))
    assert torch.isinf(p.radius["linf"]).all()


def test_l0_has_no_binary_problem():
    with pytest.raises(InvalidValue, match="linear_boxed"):
        problems.linear_binary("l0")
