"""Optimal transport between classes: the MNIST table to the unit, brute force on small sets, closed forms on Gaussians."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import norm as normal

from robustscope.core.errors import ConstraintViolated, InvalidValue
from robustscope.data.datasets import load_data
from robustscope.limits import transport as module
from robustscope.limits.transport import midpoints, transport, transport_classes
from robustscope.limits.transport_gaussian import transport_gaussian

MNIST = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist"
ORDER = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}

# MNIST training images, 3 against 7, the first n of each: matched pairs at each radius.
TABLE = {
    ("l2", 200): {3.0: 1, 3.5: 14, 4.0: 44, 4.5: 120, 5.0: 183},
    ("l2", 1000): {2.0: 1, 2.5: 4, 3.0: 27, 3.5: 119, 4.0: 325, 4.5: 658, 5.0: 916},
    ("l2", 2000): {3.0: 58, 3.5: 251, 4.0: 701, 4.5: 1390, 5.0: 1878},
    ("l2", 5000): {2.0: 1, 2.5: 29, 2.75: 79, 3.0: 183, 3.25: 401, 3.5: 737, 3.75: 1231, 4.0: 1908}
    | {4.25: 2754, 4.5: 3678, 4.75: 4394, 5.0: 4805},
    # Up to 0.495, where few values decide; 0.5, where every pair touches, is asked of fewer images.
    ("linf", 5000): {0.45: 0, 0.48: 1, 0.49: 2, 0.495: 70},
    ("linf", 500): {0.5: 500},
}
NEAREST = {("l2", 5000): 3.669394, ("linf", 5000): 0.929412}


@pytest.fixture(scope="module")
def digits_3_and_7():
    if not MNIST.is_dir():
        pytest.skip("MNIST is not beside the project")
    data = load_data(f"mnist:{MNIST}#train")
    labels = torch.as_tensor(data.labels)
    of = {label: (labels == label).nonzero()[:5000, 0] for label in (3, 7)}
    x = {label: data.read(ids) for label, ids in of.items()}
    return lambda n: (torch.cat([x[3][:n], x[7][:n]]), torch.tensor([3] * n + [7] * n))


@pytest.mark.shared
@pytest.mark.parametrize(("norm", "n"), TABLE)
def test_the_mnist_table_to_the_unit(norm, n, digits_3_and_7):
    x, y = digits_3_and_7(n)
    table = TABLE[norm, n]
    bound = transport(x, y, norm=norm, epsilons=tuple(table))
    assert dict(zip(table, bound.matched.tolist())) == table
    assert bound.loss.tolist() == [k / (2 * n) for k in table.values()]
    assert bound.n == (n, n)
    if (norm, n) in NEAREST:
        assert bound.nearest == pytest.approx(NEAREST[norm, n], abs=5e-7)
    most = bound.matchings[-1]
    first, second = most.pairs.unbind(1)
    assert len(first.unique()) == len(second.unique()) == len(most.pairs)
    assert (y[first] == 3).all()
    assert (y[second] == 7).all()
    halfway = midpoints(x, most)
    reach = torch.linalg.vector_norm((halfway - x[first]).flatten(1).double(), ORDER[norm], dim=1)
    assert (reach <= most.epsilon + bound.tolerance).all()


def small(seed, n=7, m=6, d=2, grid=None, classes=2):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n + m, d, generator=generator, dtype=torch.float64)
    if grid:
        x = (x * grid).round() / grid
    y = torch.arange(n + m) % classes if classes > 2 else torch.tensor([0] * n + [1] * m)
    return x, y


def conflicts(x, y, norm, epsilon):
    """The pairs of samples of different classes whose closed balls touch."""
    return [
        (i, j)
        for i, j in combinations(range(len(x)), 2)
        if y[i] != y[j] and float(torch.linalg.vector_norm(x[i] - x[j], ORDER[norm])) <= 2 * epsilon + 1e-12
    ]


def fewest_errors(n, pairs):
    """Try all sets of samples to give up, the smallest first."""
    for size in range(n + 1):
        for gone in combinations(range(n), size):
            if all(i in gone or j in gone for i, j in pairs):
                return size
    raise AssertionError


@pytest.mark.parametrize("norm", list(ORDER))
@pytest.mark.parametrize("seed", range(4))
def test_no_classifier_has_fewer_errors(norm, seed):
    x, y = small(seed, grid=4 if seed % 2 else None)
    epsilons = (0.5, 0.0, 0.05, 0.125, 0.25)
    bound = transport(x, y, norm=norm, epsilons=epsilons)
    assert bound.epsilons == epsilons
    for matching in bound.matchings:
        pairs = conflicts(x, y, norm, matching.epsilon)
        assert len(matching.pairs) == fewest_errors(len(x), pairs) == int(matching.given_up.sum())
        assert all(matching.given_up[i] or matching.given_up[j] for i, j in pairs), "what is left does not touch"
        assert {*map(tuple, matching.pairs.tolist())} <= {*pairs}


def test_labels_may_be_any_two_and_in_any_order():
    x, y = small(0)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    one, two = transport(x, y, epsilons=(0.1, 0.2)), transport(x[order], 9 - 4 * y[order], epsilons=(0.1, 0.2))
    assert torch.equal(one.matched, two.matched)
    assert two.classes == (5, 9)


def test_a_matching_that_is_not_the_largest_is_refused(monkeypatch):
    def lazy(graph, **_):
        match = module_matching(graph, perm_type="column")
        match[match >= 0] = np.where(np.arange((match >= 0).sum()) == 0, -1, match[match >= 0])
        return match

    module_matching = module.maximum_bipartite_matching
    monkeypatch.setattr(module, "maximum_bipartite_matching", lazy)
    x, y = small(0)
    with pytest.raises(ConstraintViolated):
        transport(x, y, epsilons=(0.5,))


@pytest.mark.parametrize("norm", list(ORDER))
def test_several_classes(norm):
    x, y = small(3, 7, 6, classes=3)
    epsilons = (0.0, 0.05, 0.1, 0.2, 0.4)
    bound = transport_classes(x, y, norm=norm, epsilons=epsilons)
    for e, epsilon in enumerate(epsilons):
        for a, b in combinations(range(3), 2):
            two = (y == a) | (y == b)
            alone = transport(x[two], y[two], norm=norm, epsilons=(epsilon,))
            assert bound.matched[e, a, b] == bound.matched[e, b, a] == alone.matched[0]
            assert bound.pair_loss[e, a, b] == alone.loss[0]
        fewest = fewest_errors(len(x), conflicts(x, y, norm, epsilon))
        by_pairs = max(int(bound.matched[e].max()), float(bound.matched[e].sum()) / 2 / 2)
        assert by_pairs <= bound.joint[e] <= fewest <= 2 * bound.joint[e]


def test_two_classes_together_are_the_two_classes():
    x, y = small(1)
    epsilons = (0.05, 0.1, 0.2)
    assert torch.equal(transport_classes(x, y, epsilons=epsilons).loss, transport(x, y, epsilons=epsilons).loss)


def test_what_is_not_allowed_is_refused():
    x, y = small(0)
    for change in ({"norm": "l0"}, {"epsilons": ()}, {"epsilons": (float("inf"),)}):
        with pytest.raises(InvalidValue):
            transport(x, y, **change)
    with pytest.raises(InvalidValue, match="classes"):
        transport(x, y % 1)
    with pytest.raises(InvalidValue, match="classes"):
        transport(x, torch.arange(len(x)) % 3)
    with pytest.raises(InvalidValue):
        midpoints(x[:3], transport(x, y).matchings[0])


# The population.

MEAN = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)
# At linf 0.3 what is left of the mean is (0.7, 0.2, 0), of length sqrt(0.53), beyond which the normal tail is 0.23330.
GAUSSIAN = {"l2": (0.12802, 0.15015, 0.20164, 0.29605), "linf": (0.12802, 0.16110, 0.23330, 0.34458)}


@pytest.mark.parametrize("norm", GAUSSIAN)
@pytest.mark.parametrize("scale", [1.0, torch.ones(3), torch.eye(3)], ids=["number", "deviations", "covariance"])
def test_gaussians_with_equal_deviations(norm, scale):
    bound = transport_gaussian(MEAN, scale, norm=norm, epsilons=(0.0, 0.1, 0.3, 0.6))
    assert bound.loss.tolist() == pytest.approx(GAUSSIAN[norm], abs=5e-6)
    assert bound.subject == "population"


@pytest.mark.parametrize("norm", GAUSSIAN)
def test_any_covariance_against_a_solver(norm):
    generator = np.random.default_rng(0)
    root = generator.normal(size=(3, 3))
    for covariance in (root @ root.T, np.diag([0.3, 1.0, 4.0])):
        inverse = np.linalg.inv(covariance)
        for epsilon in (0.0, 0.2, 0.6):
            ball = {"type": "ineq", "fun": lambda z, e=epsilon: e**2 - z @ z}
            box = {"bounds": [(-epsilon, epsilon)] * 3} if norm == "linf" else {"constraints": [ball]}
            solved = minimize(
                lambda z, v=inverse: (MEAN.numpy() - z) @ v @ (MEAN.numpy() - z), np.zeros(3), tol=1e-14, **box
            )
            bound = transport_gaussian(MEAN, torch.as_tensor(covariance), norm=norm, epsilons=(epsilon,))
            assert float(bound.distance[0]) == pytest.approx(solved.fun**0.5, rel=2e-5)


def test_samples_have_less_than_their_population():
    """One value: 4,000 samples come near the population; ten values: they are far below it."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(4000) % 2
    line = torch.randn(4000, 1, generator=generator, dtype=torch.float64) + (1 - 2 * y[:, None])
    theory = float(transport_gaussian(torch.ones(1), 1.0, epsilons=(0.3,)).loss[0])
    assert theory == pytest.approx(normal.sf(0.7), abs=1e-12) == pytest.approx(0.24196, abs=5e-6)
    found = float(transport(line, y, epsilons=(0.3,)).loss[0])
    assert found == pytest.approx(0.23775, abs=0.02)
    mean = torch.zeros(10).double()
    mean[0] = 1.0
    many = torch.randn(4000, 10, generator=generator, dtype=torch.float64) + (1 - 2 * y[:, None]) * mean
    theory = float(transport_gaussian(mean, 1.0, epsilons=(0.6,)).loss[0])
    assert theory == pytest.approx(0.34458, abs=5e-6)
    assert float(transport(many, y, epsilons=(0.6,)).loss[0]) < 0.05


def test_gaussians_that_are_none_are_refused():
    for mean, scale in ((MEAN, 0.0), (MEAN, torch.ones(2)), (MEAN, -torch.eye(3)), (MEAN[None], 1.0)):
        with pytest.raises(InvalidValue):
            transport_gaussian(mean, scale)
    with pytest.raises(InvalidValue, match="l1"):
        transport_gaussian(MEAN, 1.0, norm="l1")
