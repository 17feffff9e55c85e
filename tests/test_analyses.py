"""Analyses against hand-computed tables, closed forms and enumeration."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from robustscope.analyses import ANALYSES
from robustscope.analyses.accuracy import accuracy
from robustscope.analyses.attacks import attacks
from robustscope.analyses.cost import cost
from robustscope.analyses.curve import curve
from robustscope.analyses.distances import distances
from robustscope.analyses.intervals import clopper_pearson, comparison, holm, mcnemar, paired_difference
from robustscope.analyses.per_class import per_class
from robustscope.analyses.worst import worst
from robustscope.core.errors import CorruptRun, InvalidValue
from run_factory import make_plan, make_table

# ten samples, of which two are misclassified; fgsm reaches 0.03 and 0.06, pgd 0.05 and 0.1
RADII = (0.0, 0.0, 0.02, 0.04, 0.05, 0.06, 0.08, 0.1, 0.2, 0.3)


def hand_run(**changes):
    plan = make_plan(n=10, classes=2, **changes)
    return make_table(plan, true_radius={model["name"]: RADII for model in plan["models"]}), plan


def test_accuracy_of_the_hand_computed_run():
    table, plan = hand_run()
    small, headline = accuracy(table, plan).to_dict("records")
    # at 0.05 the radii 0.02, 0.04, 0.05 are broken; at 0.1 also 0.06, 0.08, 0.1
    assert (small["n"], small["clean_k"], small["robust_k"]) == (10, 8, 5)
    assert (headline["clean_accuracy"], headline["robust_accuracy"]) == (0.8, 0.2)
    assert headline["robust_low"] == pytest.approx(0.0252107, abs=1e-6)  # published table: 2 of 10
    assert headline["robust_high"] == pytest.approx(0.5560955, abs=1e-6)
    assert (small["headline"], headline["headline"]) == (False, True)


def test_attacks_of_the_hand_computed_run():
    table, plan = hand_run()
    found = attacks(table, plan).set_index("cell")
    noise, fgsm, pgd = (found.loc[index] for index in (0, 1, 2))
    assert (noise["attempted"], noise["broken"]) == (8, 0)
    assert (fgsm["broken"], fgsm["success_rate"], fgsm["robust_alone"]) == (1, 1 / 8, 0.7)
    assert (pgd["broken"], pgd["robust_alone"], pgd["robust_cumulative"]) == (3, 0.5, 0.5)
    noise, fgsm, pgd = (found.loc[index] for index in (3, 4, 5))
    assert (fgsm["inherited"], fgsm["attempted"], fgsm["broken"]) == (3, 5, 1)
    assert (pgd["broken"], pgd["success_rate"], pgd["robust_cumulative"]) == (3, 3 / 5, 0.2)
    assert (pgd["forward"], pgd["backward"], pgd["median_distance"]) == (41, 40, 0.1)
    assert (pgd["survives_k"], pgd["survives_8bit"]) == (2, 2 / 3)  # sample 7 of 5, 6, 7 does not survive
    assert noise["robust_cumulative"] == 0.5
    assert pd.isna(found.loc[0, "median_distance"])


def test_curve_starts_clean_and_never_rises():
    table, plan = hand_run()
    assert curve(table, plan)["accuracy"].tolist() == [0.8, 0.5, 0.2]
    for seed in range(5):
        radii = [("l2", e, e == 0.5) for e in (0.05, 0.1, 0.3, 0.5)]
        plan = make_plan(radii=radii, n=30)
        values = curve(make_table(plan, seed=seed, scale={"standard": 0.3}), plan)["accuracy"].astype(float)
        assert (np.diff(values) <= 0).all()


def test_a_sample_broken_at_a_smaller_radius_stays_broken():
    table, plan = hand_run()
    small = (table["cell"] < 3) & (table["sample"] == 9)
    table.loc[small, "success"] = True  # a radius of 0.3, broken at 0.05 although no larger attack succeeds
    assert accuracy(table, plan)["robust_k"].tolist() == [4, 1]


def test_error_rows_withhold_the_radius_and_all_larger_ones():
    table, plan = hand_run()
    row = (table["cell"] == 5) & (table["sample"] == 9)
    table.loc[row, ["status", "note", "success"]] = ["error", "RuntimeError: boom", pd.NA]
    small, headline = accuracy(table, plan).to_dict("records")
    assert small["robust_k"] == 5
    assert headline["reason"].endswith("(first: RuntimeError: boom)")
    assert headline["clean_accuracy"] == 0.8
    assert all(pd.isna(headline[name]) for name in ("robust_k", "robust_accuracy", "robust_low", "robust_high"))
    found = attacks(table, plan).set_index("cell")
    assert pd.isna(found.loc[5, "robust_alone"])
    assert found.loc[4, "robust_cumulative"] == 0.4
    assert (found.loc[5, "failed"], found.loc[5, "attempted"]) == (1, 4)
    assert per_class(table, plan)["robust_k"].isna().all()
    table.loc[row, "cell"] = 5
    table.loc[(table["cell"] == 0) & (table["sample"] == 9), "status"] = "timeout"
    assert accuracy(table, plan)["robust_accuracy"].isna().all()


def test_unknown_clean_predictions_withhold_both_accuracies():
    table, plan = hand_run()
    table.loc[table["sample"] == 9, "clean_correct"] = pd.NA
    found = accuracy(table, plan)
    assert found[["clean_accuracy", "robust_accuracy"]].isna().all(axis=None)
    assert found["reason"].str.contains("1 samples").all()
    assert curve(table, plan)["accuracy"].isna().all()


def test_per_class_of_the_hand_computed_run():
    table, plan = hand_run(class_names=["even", "odd"])
    even, odd = per_class(table, plan).to_dict("records")
    assert (even["class_name"], even["n"], even["clean_k"], even["robust_k"]) == ("even", 5, 4, 1)  # samples 2 4 6 8
    assert (odd["class_name"], odd["n"], odd["clean_k"], odd["robust_k"]) == ("odd", 5, 4, 1)  # samples 3 5 7 9


def test_worst_lists_the_nearest_first_and_each_sample_once():
    table, plan = hand_run()
    found = worst(table, plan, count=4)
    assert found["sample"].tolist() == [2, 3, 4, 5]  # equal distances: the smaller clean margin first
    assert found["distance"].tolist() == [0.05, 0.05, 0.05, 0.1]
    assert found["rank"].tolist() == [1, 2, 3, 4]
    assert found.loc[0, "adv_class_name"] == "1"


def test_distances_count_every_broken_sample_once():
    table, plan = hand_run()
    found = distances(table, plan, bins=4)
    assert found["count"].tolist() == [0, 0, 3, 3]
    table.loc[table["distance"] == 0.1, "distance"] = 0.1 + 1e-8  # beyond epsilon by rounding
    assert distances(table, plan, bins=4)["count"].tolist() == [0, 0, 3, 3]


def test_cost_counts_what_leads_to_the_headline():
    table, plan = hand_run(radii=(("linf", 0.05, False), ("linf", 0.1, True), ("l2", 0.1, True)))
    found = cost(table, plan).set_index(["norm", "epsilon"])
    assert found.loc[("linf", 0.05), "forward"] == 8 * 53
    assert found.loc[("linf", 0.1), "forward"] == 13 * 53
    assert found.loc[("linf", 0.1), "backward_per_sample"] == 13 * 41 / 10
    assert found["forward"].max() == 21 * 53


def test_comparison_is_paired():
    plan = make_plan(names=("a", "b", "c"), n=10)
    worse = (0, 0, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.3)
    other = (0.3, 0, 0.02, 0.02, 0.02, 0.02, 0.3, 0.3, 0.3, 0.3)
    table = make_table(plan, true_radius={"a": RADII, "b": worse, "c": other})
    found = comparison(table, plan).set_index(["first", "second"])
    ab, ac = found.loc[("a", "b")], found.loc[("a", "c")]
    assert ab[["both", "only_first", "only_second", "neither"]].tolist() == [1, 1, 0, 8]
    assert ac[["both", "only_first", "only_second", "neither"]].tolist() == [2, 0, 3, 5]
    assert (ab["p"], ac["p"], ac["difference"]) == (1.0, 0.25, pytest.approx(-0.3))
    assert ac["p_holm"] == 0.5  # second smallest of three
    table.loc[(table["cell"] == 5) & (table["sample"] == 9), "status"] = "error"  # of model a
    found = comparison(table, plan).set_index(["first", "second"])
    assert found.loc[("a", "b"), "reason"].startswith("a: 1 rows")
    assert pd.isna(found.loc[("a", "b"), "p"])
    assert found.loc[("b", "c"), "reason"] is None


def test_mcnemar_is_the_binomial_test():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(9, 1) == mcnemar(1, 9)


def test_holm_is_monotone_and_capped():
    assert holm([]) == []
    assert holm([0.5, 0.01, 0.03]) == [0.5, 0.03, 0.06]
    assert holm([0.6, 0.6]) == [1.0, 1.0]


@pytest.mark.parametrize("n", [1, 7, 30])
def test_clopper_pearson_covers_every_true_value(n):
    limits = np.array([clopper_pearson(k, n) for k in range(n + 1)])
    for p in np.linspace(0.005, 0.995, 67):
        inside = (limits[:, 0] <= p) & (p <= limits[:, 1])
        assert stats.binom.pmf(np.arange(n + 1), n, p)[inside].sum() >= 0.95


def test_clopper_pearson_solves_its_defining_equations():
    low, high = clopper_pearson(7, 20)
    assert stats.binom.sf(6, 20, low) == pytest.approx(0.025)
    assert stats.binom.cdf(7, 20, high) == pytest.approx(0.025)


@pytest.mark.parametrize("bad", [(1, 0), (-1, 5), (6, 5), (1, 5, 1.0)])
def test_clopper_pearson_refuses_nonsense(bad):
    with pytest.raises(InvalidValue, match="allowed"):
        clopper_pearson(*bad)


def test_paired_difference_covers():
    n, size = 14, 0
    for truth in ((0.5, 0.2, 0.05, 0.25), (0.25, 0.25, 0.25, 0.25), (0.7, 0.15, 0.1, 0.05)):
        covered = 0.0
        for a, b, c in itertools.product(range(n + 1), repeat=3):
            if a + b + c <= n:
                low, high = _cached(a, b, c, n - a - b - c)
                if low <= truth[1] - truth[2] <= high:
                    covered += stats_multinomial((a, b, c, n - a - b - c), truth)
                size += 1
        assert 0.93 <= covered <= 0.995
    assert size == 3 * math.comb(n + 3, 3)


_CACHE: dict[tuple[int, ...], tuple[float, float]] = {}


def _cached(*counts):
    if counts not in _CACHE:
        _CACHE[counts] = paired_difference(*counts)
    return _CACHE[counts]


def stats_multinomial(counts, p):
    log = math.lgamma(sum(counts) + 1) - sum(math.lgamma(k + 1) for k in counts)
    return math.exp(log + sum(k * math.log(q) for k, q in zip(counts, p)))


def test_paired_difference_is_antisymmetric_and_bounded():
    low, high = paired_difference(3, 9, 2, 6)
    assert paired_difference(3, 2, 9, 6) == pytest.approx((-high, -low))
    assert paired_difference(0, 5, 0, 0)[1] <= 1.0
    assert paired_difference(0, 0, 5, 0)[0] >= -1.0


@pytest.mark.parametrize("card", list(ANALYSES), ids=lambda card: card.name)
class TestEveryAnalysis:
    def world(self):
        radii = (("linf", 0.05, False), ("linf", 0.1, True), ("l2", 0.2, True))
        plan = make_plan(names=("standard", "trained"), radii=radii)
        return make_table(plan, scale={"trained": 0.3}), plan

    def test_order_of_rows_and_shards_does_not_matter(self, card):
        table, plan = self.world()
        parts = [table[table["shard"] == index].sample(frac=1, random_state=index) for index in (3, 1, 0, 2)]
        pd.testing.assert_frame_equal(card.function(pd.concat(parts), plan), card.function(table, plan))

    def test_returns_its_columns_within_its_ranges(self, card):
        table, plan = self.world()
        found = card.function(table, plan)
        assert list(found.columns) == list(card.columns)
        assert len(found)
        assert {name: str(dtype) for name, dtype in found.dtypes.items()} == dict(card.columns)
        for name, (low, high) in card.ranges.items():
            assert found[name].dropna().between(low, high).all(), name
        assert set(card.direction) <= set(card.columns)

    def test_leaves_the_table_alone(self, card):
        table, plan = self.world()
        before = table.copy(deep=True)
        card.function(table, plan)
        pd.testing.assert_frame_equal(table, before)

    def test_refuses_an_empty_table(self, card):
        table, plan = self.world()
        with pytest.raises(InvalidValue, match="without rows"):
            card.function(table.iloc[:0], plan)

    def test_refuses_a_table_without_columns(self, card):
        table, plan = self.world()
        with pytest.raises(InvalidValue, match="success"):
            card.function(table.drop(columns="success"), plan)

    def test_refuses_missing_and_doubled_rows(self, card):
        table, plan = self.world()
        with pytest.raises(CorruptRun, match="are needed"):
            card.function(table.iloc[1:], plan)
        with pytest.raises(CorruptRun, match="doubled"):
            card.function(pd.concat([table, table.iloc[:1]]), plan)

    def test_refuses_rows_of_another_plan(self, card):
        table, plan = self.world()
        with pytest.raises(CorruptRun, match="cells"):
            card.function(table.assign(cell=table["cell"] + 100), plan)

    def test_refuses_contradictory_rows(self, card):
        table, plan = self.world()
        table.loc[0, "y"] += 1
        with pytest.raises(CorruptRun, match="disagree about y"):
            card.function(table, plan)


@pytest.mark.parametrize(
    ("function", "keys"),
    [
        (accuracy, ["clean_k", "robust_k", "n"]),
        (per_class, ["clean_k", "robust_k", "n"]),
        (distances, ["count"]),
        (cost, ["forward", "backward", "n"]),
        (attacks, ["attempted", "broken", "inherited", "survives_k"]),
    ],
)
def test_counts_of_the_parts_add_up_to_the_whole(function, keys):
    plan = make_plan()
    table = make_table(plan)
    by = [name for name in ("norm", "epsilon", "cell", "y", "left") if name in ANALYSES[function.__name__].columns]
    parts = pd.concat([function(table[table["shard"] == index], plan) for index in (0, 1)])
    merged = parts.groupby(by, dropna=False)[keys].sum().sort_index()
    whole = function(table, plan).set_index(by)[keys].sort_index()
    assert merged.fillna(0).to_numpy(float).tolist() == whole.fillna(0).to_numpy(float).tolist()


def test_importing_the_analyses_imports_no_torch():
    code = "import sys, robustscope.analyses; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
