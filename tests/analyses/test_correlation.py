"""Correlations across models: planted values, brute force, coverage of intervals and tests."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from robustscope.analyses import correlation
from robustscope.analyses.correlation import adjust, correlate, correlations, matrix
from robustscope.core.errors import InvalidValue, UnknownName

QUICK = {"resamples": 200, "trials": 200}


def orthonormal(n, count, seed=0):
    """Return ``count`` variables of mean 0 and length 1 that are orthogonal: (count, n)."""
    noise = np.random.default_rng(seed).normal(size=(n, count + 1))
    noise[:, 0] = 1
    return np.linalg.qr(noise)[0][:, 1:].T


@pytest.mark.parametrize("planted", [-1.0, -0.6, 0.0, 0.3, 0.9])
def test_a_planted_correlation_is_recovered(planted):
    a, e = orthonormal(12, 2)
    found = correlate(a, 5 - 3 * (planted * a + math.sqrt(1 - planted**2) * e), method="pearson", **QUICK)
    assert found.value == pytest.approx(-planted, abs=1e-12)
    assert found.low <= found.value + 1e-12
    assert found.high >= found.value - 1e-12


@pytest.mark.parametrize("controls", [1, 2, 3])
def test_a_planted_partial_correlation_is_recovered(controls):
    a, e, *z = orthonormal(14, 2 + controls)
    common = 3 * np.sum(z, axis=0)
    first, second = a + common, 0.6 * a + 0.8 * e - common
    assert correlate(first, second, method="pearson", **QUICK).value < -0.8  # what both owe to z
    given = np.array(z) + (np.roll(z, 1, axis=0) if controls > 1 else 0)  # z mixed with one another span the same
    found = correlate(first, second, given=given[:controls] if controls != 2 else z, method="pearson", **QUICK)
    assert found.value == pytest.approx(0.6, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_values_are_those_of_others(seed):
    rng = np.random.default_rng(seed)
    a, b, z = rng.integers(0, 6, (3, 9)).astype(float)  # with ties
    assert correlate(a, b, method="pearson", **QUICK).value == pytest.approx(stats.pearsonr(a, b).statistic)
    assert correlate(a, b, **QUICK).value == pytest.approx(stats.spearmanr(a, b).statistic)
    first, second, third = stats.rankdata([a, b, z], axis=1)
    rest = [part - np.polyval(np.polyfit(third, part, 1), third) for part in (first, second)]
    assert correlate(a, b, given=[z], **QUICK).value == pytest.approx(stats.pearsonr(*rest).statistic)


def test_leaving_out_is_leaving_out():
    a, b = np.random.default_rng(3).normal(size=(2, 8))
    found = correlate(a, b, method="pearson", **QUICK)
    for i in range(8):
        rest = stats.pearsonr(np.delete(a, i), np.delete(b, i)).statistic
        assert found.without[i] == pytest.approx(rest)
        assert found.influence[i] == pytest.approx(found.value - rest)


def test_one_model_can_make_a_correlation():
    rest = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], float).T  # uncorrelated
    a, b = np.hstack([rest, [[9.0], [9.0]]])
    found = correlate(a, b, method="pearson", **QUICK)
    assert found.value > 0.9
    assert found.most_influential == 4
    assert found.without[4] == pytest.approx(0)
    assert not found.sign_holds


def test_the_permutation_test_by_enumeration():
    a, b = np.array([1.0, 2, 4, 8, 9]), np.array([2.0, 1, 5, 6, 9])
    value = stats.pearsonr(a, b).statistic
    seen = [abs(stats.pearsonr(a, p).statistic) >= abs(value) - 1e-9 for p in itertools.permutations(b)]
    assert correlate(a, b, method="pearson", **QUICK).p == pytest.approx(np.mean(seen))


def exact_levels(p_of):
    """Return the largest excess of P(p <= level) over the level, when every pairing is equally likely."""
    a, b = np.array([1.0, 2, 3, 5, 8]), np.array([1.0, 3, 4, 4.5, 9])
    p = np.sort([p_of(a, b[list(order)]) for order in itertools.permutations(range(5))])
    return max(np.mean(p <= level + 1e-9) - level for level in p)


def test_the_permutation_test_is_exact():
    assert exact_levels(lambda a, b: correlate(a, b, method="pearson", **QUICK).p) <= 1e-9


def test_the_normal_approximation_would_not_be():
    """What the check above is for: a test by Fisher's z on five models rejects too often."""
    excess = exact_levels(
        lambda a, b: 2 * stats.norm.sf(abs(np.arctanh(stats.pearsonr(a, b).statistic)) * math.sqrt(2))
    )
    assert excess > 0.01


@pytest.mark.parametrize("controls", [0, 1])
def test_the_permutation_test_keeps_its_level(controls):
    """400 sets of 12 unrelated models: 5 % fall at or under 0.05, give or take 3 standard errors."""
    rng = np.random.default_rng(1)
    p = []
    for trial in range(400):
        z = rng.normal(size=(controls, 12))
        a, b = rng.exponential(size=(2, 12)) + 2 * z.sum(0)
        p.append(correlate(a, b, given=z, method="pearson", resamples=100, trials=199, seed=trial).p)
    assert abs(np.mean(np.array(p) <= 0.05) - 0.05) < 3 * math.sqrt(0.05 * 0.95 / 400)


def coverage(change=lambda low, high, value: (low, high)):
    rng, truth, hits = np.random.default_rng(2), 0.7, 0
    for trial in range(200):
        a, e = rng.normal(size=(2, 30))
        found = correlate(
            a, truth * a + math.sqrt(1 - truth**2) * e, method="pearson", resamples=400, trials=100, seed=trial
        )
        low, high = change(found.low, found.high, found.value)
        hits += low <= truth <= high
    return hits / 200


def test_the_interval_covers():
    assert 0.90 <= coverage() <= 0.99


def test_a_narrow_interval_would_be_caught():
    assert coverage(lambda low, high, value: ((low + value) / 2, (high + value) / 2)) < 0.85


def test_the_interval_is_that_of_scipy():
    a, b = np.random.default_rng(5).normal(size=(2, 20))
    b = b + a
    found = correlate(a, b, method="pearson", resamples=9999, trials=100)
    theirs = stats.bootstrap(
        (a, b), lambda x, y: stats.pearsonr(x, y).statistic, paired=True, vectorized=False, n_resamples=2000, rng=0
    ).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=0.03)
    assert found.high == pytest.approx(theirs.high, abs=0.03)


def test_false_discoveries_by_hand():
    # sorted: .01*4/1, .02*4/2, .03*4/3, .5
    assert adjust([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.04, 0.04])
    more = adjust([0.5, 0.01, 0.03, 0.02], any_dependence=True)
    assert more == pytest.approx([min(1, 0.5 * 25 / 12), *[0.04 * 25 / 12] * 3])
    assert adjust([]) == []


def test_false_discoveries_are_few():
    """50 pairs, 10 of them related: of those called related at 0.1, at most a tenth is false on average."""
    rng, shares, found = np.random.default_rng(0), [], 0
    for _ in range(300):
        z = rng.normal(size=50) + 3.5 * (np.arange(50) < 10)
        called = np.array(adjust(2 * stats.norm.sf(np.abs(z)))) <= 0.1
        shares.append(called[10:].sum() / max(called.sum(), 1))
        found += called[:10].sum()
    assert np.mean(shares) < 0.1
    assert found / 3000 > 0.8
    raw = [2 * stats.norm.sf(np.abs(rng.normal(size=50))) <= 0.1 for _ in range(50)]
    assert np.mean(raw) > 0.07  # without an adjustment, a tenth of the unrelated is called related


def study():
    a, e = orthonormal(10, 2)
    table = pd.DataFrame(
        {"clean": a, "robust": -a + 0.1 * e, "noise": e, "flat": 1.0}, index=[f"m{i}" for i in range(10)]
    )
    table.loc["m3", "noise"] = np.nan
    return table


def test_the_table_of_a_study():
    pairs = correlations(study(), method="pearson", **QUICK)
    assert pairs[["first", "second"]].agg(tuple, axis=1).tolist() == list(
        itertools.combinations(["clean", "robust", "noise", "flat"], 2)
    )
    by = pairs.set_index(["first", "second"])
    assert by.loc[("clean", "robust"), "value"] == pytest.approx(-1 / math.sqrt(1.01))
    assert by.loc[("clean", "robust"), "p_adjusted"] == pytest.approx(3 / 201)  # the smallest of three that are decided
    assert by.loc[("clean", "noise"), "n"] == 9
    assert "does not vary" in by.loc[("clean", "flat"), "reason"]
    assert by.loc[("clean", "flat"), ["value", "low", "p", "p_adjusted", "sign_holds"]].isna().all()
    square = matrix(pairs)
    assert (square.to_numpy().diagonal() == 1).all()
    assert square.loc["robust", "clean"] == by.loc[("clean", "robust"), "value"]
    assert math.isnan(square.loc["flat", "noise"])
    assert math.isnan(matrix(pairs, "p").loc["clean", "clean"])


def test_models_in_another_order_are_the_same_models():
    """Value, influence and the extreme p-value do not depend on the order of rows."""
    table = study().drop(columns=["noise", "flat"])
    first = correlations(table, method="pearson", **QUICK).iloc[0]
    second = correlations(table.iloc[::-1], method="pearson", **QUICK).iloc[0]
    for name in ("value", "value_without"):
        assert first[name] == pytest.approx(second[name])
    assert first["most_influential"] == second["most_influential"]


def test_holding_a_property_fixed():
    pairs = correlations(study(), ["robust", "noise"], given=["clean"], method="pearson", **QUICK)
    assert pairs.loc[0, "value"] == pytest.approx(1)
    assert pairs.loc[0, "n"] == 9


def test_the_same_seed_gives_the_same_and_no_global_numbers_are_drawn():
    a, b = np.random.default_rng(0).normal(size=(2, 9))
    before = np.random.get_state()[1].copy()
    first, second, third = (correlate(a, b, seed=seed) for seed in (0, 0, 1))
    assert (np.random.get_state()[1] == before).all()
    assert (first.low, first.p) == (second.low, second.p)
    assert first.low != third.low


def test_a_spoiled_statistic_is_caught(monkeypatch):
    """Ranks forgotten: the value that the tests above compare would be another."""
    a, b = np.array([1.0, 2, 3, 4, 100]), np.array([1.0, 3, 2, 5, 4])
    right = correlate(a, b, **QUICK).value
    monkeypatch.setattr(correlation, "_coefficients", lambda data, method: correlation._linear(data))
    assert correlate(a, b, **QUICK).value != pytest.approx(right, abs=0.05)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: correlate([1, 2, 3], [1, 2, 3]), "4 or more"),
        (lambda: correlate([1, 2, 3, 4], [1, 2, 3, 5], given=[[1, 0, 0, 1]]), "5 or more"),
        (lambda: correlate([1, 2, 3, 4], [1, 2, 3]), "shapes"),
        (lambda: correlate([1, 2, 3, 4], [1, 2, 3, math.nan]), "not finite"),
        (lambda: correlate([1, 2, 3, 4], [5, 5, 5, 5]), "does not vary"),
        (lambda: correlate([1, 2, 3, 4, 6], [1, 2, 3, 5, 5], given=[[2, 4, 6, 8, 12]], method="pearson"), "held fixed"),
        (lambda: correlate([1, 2, 3, 4], [1, 2, 3, 5], method="kendall"), "method='kendall'"),
        (lambda: correlate([1, 2, 3, 4], [1, 2, 3, 5], trials=0), "trials=0"),
        (lambda: correlations(study().assign(family="a")), "the column 'family'"),
        (lambda: correlations(pd.concat([study(), study()])), "two models named 'm0'"),
    ],
)
def test_what_is_refused(call, says):
    with pytest.raises(InvalidValue, match=says):
        call()


def test_gaps_of_nullable_columns_are_gaps():
    found = correlations(study().convert_dtypes(), ["clean", "noise"], **QUICK)
    assert found.loc[0, "n"] == 9


def test_an_unknown_column_is_named():
    with pytest.raises(UnknownName, match="Did you mean 'robust'"):
        correlations(study(), ["clean", "robst"])
