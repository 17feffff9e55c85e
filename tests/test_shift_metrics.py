"""Metrics of corruptions, sequences and shifts: hand-computed tables, published arithmetic, invariances."""

import numpy as np
import pytest

from robustscope.analyses import calibration
from robustscope.analyses.calibration import aurra, rms_calibration_error
from robustscope.analyses.corruption_errors import ALEXNET, corruption_errors, mce, mean_error, relative_mce
from robustscope.analyses.effective_robustness import beyond_the_others, relative_robustness, trend
from robustscope.analyses.outliers import aupr
from robustscope.analyses.perturbations import (
    flip_probability,
    mean_flip_rate,
    mean_top5_distance,
    top5_distance,
)
from robustscope.core.errors import InvalidValue

# Errors of a ResNet-50 and of AlexNet on the 5,000 images of RobustBench, in the order of ALEXNET.
RESNET = ".6854 .7090 .7401 .6110 .7323 .6187 .6368 .6785 .6268 .5450 .3216 .6090 .5504 .5514 .4616"
ALEXNET_5000 = ".8816 .8883 .9172 .8220 .8308 .7872 .7957 .8680 .8315 .8236 .5585 .8543 .6480 .7186 .6068"


def table(text):
    return dict(zip(ALEXNET, map(float, text.split()), strict=True))


def test_mce_of_a_published_model():
    assert mce(table(RESNET), table(ALEXNET_5000)) == pytest.approx(0.76377, abs=5e-5)  # errors of four digits
    assert mce(table(RESNET)) == pytest.approx(0.76367, abs=5e-5)
    found = relative_mce(table(RESNET), 1 - 0.7672, table(ALEXNET_5000), 1 - 0.5624)
    assert found == pytest.approx(1.0731, abs=1e-4)
    assert mean_error(table(RESNET)) == pytest.approx(0.6052, abs=1e-4)  # what some report as mCE


def test_mce_by_hand():
    model = {"fog": [0.2, 0.4], "snow": [0.5, 0.7]}
    baseline = {"fog": [0.5, 0.7], "snow": [0.6, 1.0]}
    assert corruption_errors(model, baseline) == {"fog": 0.5, "snow": 0.75}
    assert mce(model, baseline) == 0.625
    # (0.3 - 0.1) / (0.6 - 0.2) and (0.6 - 0.1) / (0.8 - 0.2)
    assert relative_mce(model, 0.1, baseline, 0.2) == pytest.approx((0.5 + 5 / 6) / 2)
    assert mean_error(model) == pytest.approx(0.45)


def test_mce_of_the_baseline_is_one():
    assert mce(ALEXNET) == 1
    assert relative_mce(ALEXNET, 0.43478) == 1
    shuffled = dict(sorted(table(RESNET).items()))
    assert mce(shuffled) == mce(table(RESNET))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mce({"fog": 0.5}), "only one of model and baseline has"),
        (lambda: mce({"fog": [0.5] * 5}, {"fog": [0.5] * 4}), "5 and 4 severities"),
        (lambda: mce({"fog": 50.0}, {"fog": 0.5}), "Divide percents by 100"),
        (lambda: mean_error({}), "no corruption"),
        (lambda: mean_error({"fog": []}), "one fraction"),
        (lambda: relative_mce({"fog": 0.5}, 0.2, {"fog": 0.4}, 0.4), "loses something"),
        (lambda: flip_probability(np.zeros((2, 1), int)), "stride=1 was given for 1 frames"),
        (lambda: flip_probability(np.zeros((2, 4))), "not probabilities"),
        (lambda: top5_distance(np.zeros((1, 2, 4), int)), "five or more"),
        (lambda: mean_flip_rate({"tilt": 0.1}, {"tilt": 0.0}), "normalises nothing"),
        (lambda: mean_flip_rate({"tilt": 0.1}, {"scale": 0.1}), "the same of both"),
        (lambda: aurra(np.array([]), np.array([], bool)), "one or more samples"),
        (lambda: aurra(np.array([2.0]), np.array([True])), "Apply the softmax"),
        (lambda: rms_calibration_error(np.ones(3), np.ones(3)), "one bool"),
        (lambda: rms_calibration_error(np.ones(3), np.ones(3, bool), bin_size=0), "bin_size=0"),
        (lambda: aupr(np.zeros(0), np.zeros(2)), "scores of 0 outliers and 2 inliers"),
        (lambda: aupr(np.zeros(2), np.array([np.nan])), "some of them NaN"),
        (lambda: trend(np.array([0.5, 0.5]), np.array([0.4, 0.5])), "two or more models"),
        (lambda: trend(np.array([0.5, 1.0]), np.array([0.4, 0.5])), "has no logit"),
    ],
)
def test_what_is_refused(call, says):
    with pytest.raises(InvalidValue) as caught:
        call()
    assert says in str(caught.value)


def test_flip_probability_by_hand():
    assert flip_probability(np.full((3, 31), 7)) == 0
    assert flip_probability(np.tile([0, 1], 8)[None]) == 1
    assert flip_probability(np.tile([0, 1], 8)[None], stride=2) == 0
    sequence = np.array([[0, 1, 1, 1]])
    assert flip_probability(sequence) == pytest.approx(1 / 3)
    assert flip_probability(sequence, noise=True) == 1
    both = np.array([[0, 1, 1, 1], [2, 2, 2, 3]])
    assert flip_probability(both) == pytest.approx(1 / 3)
    assert flip_probability(both, noise=True) == pytest.approx((1 + 1 / 3) / 2)
    # stride 2: frames 0-2 and 1-3 of each
    assert flip_probability(both, stride=2) == pytest.approx((1 / 2 + 1 / 2) / 2)


def order(*first):
    return [*first, *(c for c in range(12) if c not in first)]


def distance(one, two):
    return top5_distance(np.array([[one, two]]))


def test_top5_distance_by_hand():
    start = order(0, 1, 2, 3, 4, 5)
    assert distance(start, start) == 0
    assert distance(start, order(1, 0, 2, 3, 4, 5)) == 2
    assert distance(start, order(0, 1, 2, 3, 5, 4)) == 1
    assert distance(start, order(6, 7, 8, 9, 10)) == 15
    assert distance(start, order(5, 0, 1, 2, 3, 4)) == 5
    assert distance(order(5, 0, 1, 2, 3, 4), start) == 9  # the earlier frame's five classes count
    assert distance(start, order(0, 1, 2, 3, 4, 9)) == 0  # beyond rank 5 nothing counts


def test_top5_distance_is_the_sum_of_the_paper():
    """Sum over i <= 5 of the j from min(i, s) + 1 to max(i, s) with 1 <= j - 1 <= 5."""
    generator = np.random.default_rng(0)
    for _ in range(300):
        one, two = generator.permutation(12), generator.permutation(12)
        due = 0
        for i in range(1, 6):
            rank = int(np.flatnonzero(two == one[i - 1])[0]) + 1
            due += sum(1 <= j - 1 <= 5 for j in range(min(i, rank) + 1, max(i, rank) + 1))
        assert distance(one, two) == due


def test_mean_rates_by_hand():
    assert mean_flip_rate({"tilt": 0.1, "scale": 0.3}, {"tilt": 0.2, "scale": 0.3}) == pytest.approx(0.75)
    assert mean_top5_distance({"tilt": 3.0, "scale": 1.0}, {"tilt": 6.0, "scale": 4.0}) == pytest.approx(0.375)


def test_aurra_in_closed_form():
    n, k = 40, 13
    confidence = np.linspace(0.99, 0.1, n)
    assert aurra(confidence, np.ones(n, bool)) == 1
    assert aurra(confidence, np.zeros(n, bool)) == 0
    harmonic = np.cumsum(1 / np.arange(1, n + 1))
    perfect = np.arange(n) < k
    assert aurra(confidence, perfect) == pytest.approx(k / n * (1 + harmonic[n - 1] - harmonic[k - 1]))
    assert aurra(np.full(n, 0.5), perfect) == pytest.approx(k / n)  # no ranking: the accuracy


def test_the_order_of_ties_cannot_be_seen():
    confidence = np.repeat([0.9, 0.6, 0.3], 50)
    correct = np.arange(150) % 4 == 0
    again = np.random.default_rng(1).permutation(150)
    assert aurra(confidence, correct) == aurra(confidence[again], correct[again])
    for size in (20, 100):
        one = rms_calibration_error(confidence, correct, bin_size=size)
        assert one == pytest.approx(rms_calibration_error(confidence[again], correct[again], bin_size=size), abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pieces_and_precision_cannot_be_seen(monkeypatch, dtype):
    """Runs of equal confidences cross every seam of the pieces; float32 is sorted by its bits."""
    rng = np.random.default_rng(3)
    confidence = np.round(rng.beta(4, 1, 1000), 2).astype(np.float32)
    correct = rng.random(1000) < confidence
    due = aurra(confidence, correct), rms_calibration_error(confidence, correct, bin_size=30)
    monkeypatch.setattr(calibration, "PIECE", 7)
    given = confidence.astype(dtype)
    found = aurra(given, correct), rms_calibration_error(given, correct, bin_size=30)
    assert found == pytest.approx(due, abs=1e-12)
    ranks = np.argsort(-confidence, kind="stable")  # by the definition, with the mean of each run of equals
    shared = np.array([correct[confidence == value].mean() for value in confidence[ranks]])
    assert found[0] == pytest.approx(np.mean(np.cumsum(shared) / np.arange(1, 1001)))


def test_rms_calibration_error_in_closed_form():
    n = 500
    correct = np.arange(n) % 4 > 0  # 75 % in every bin, in whatever order
    confidence = 0.4 + np.arange(n) * 1e-9
    assert rms_calibration_error(confidence, correct) == pytest.approx(0.35, abs=1e-6)
    assert rms_calibration_error(confidence, correct, published=True) == pytest.approx(
        np.sqrt(1 - 100 / n) * 0.35, abs=1e-6
    )
    assert rms_calibration_error(np.full(n, 0.75), correct) == pytest.approx(0, abs=1e-12)


def test_rms_calibration_error_by_hand():
    confidence = np.array([0.1, 0.2, 0.6, 0.7, 0.9])
    correct = np.array([False, False, True, False, True])
    # bins of two, the last takes the fifth: gaps 0.15 and (2.2 - 2) / 3
    due = np.sqrt(2 / 5 * 0.15**2 + 3 / 5 * (0.2 / 3) ** 2)
    assert rms_calibration_error(confidence, correct, bin_size=2) == pytest.approx(due)
    assert rms_calibration_error(confidence, correct) == pytest.approx(abs(2.5 / 5 - 2 / 5))  # one bin


def test_effective_robustness_by_hand():
    """Models on the line logit(shifted) = logit(clean) - log 4: odds are quartered."""
    clean = np.array([0.5, 0.8, 0.9])
    shifted = np.array([1 / 5, 1 / 2, 9 / 13])
    line = trend(clean, shifted)
    assert (line.slope, line.intercept, line.n) == (pytest.approx(1), pytest.approx(-np.log(4)), 3)
    assert line.expected(0.75) == pytest.approx(3 / 7)
    assert line.effective_robustness(0.75, 0.5) == pytest.approx(0.5 - 3 / 7)
    assert [line.effective_robustness(a, b) for a, b in zip(clean, shifted, strict=True)] == pytest.approx([0, 0, 0])
    assert relative_robustness(0.5, 0.45) == pytest.approx(0.05)


def test_aupr_by_hand():
    """Outliers O and inliers I in order of their scores: O I O O I gives (1 + 2/3 + 3/4) / 3."""
    outliers, inliers = np.array([0.9, 0.5, 0.4]), np.array([0.7, 0.1])
    assert aupr(outliers, inliers) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert aupr(outliers[::-1] * 2 - 7, inliers[::-1] * 2 - 7) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert aupr(np.array([2.0, 3.0]), np.array([1.0, 0.0, -1.0])) == 1
    # all others first: the k-th of n outliers is found at precision k / (m + k)
    assert aupr(np.zeros(2), np.ones(3)) == pytest.approx(2 / 5)  # equals pass together
    assert aupr(np.array([-1.0, -2.0]), np.ones(3)) == pytest.approx((1 / 4 + 2 / 5) / 2)
    assert aupr(np.full(30, 0.5), np.full(70, 0.5)) == pytest.approx(0.3)  # no ranking: the share of outliers
    # ties between both kinds: {O, I} together at precision 1/2, then O at 2/3
    assert aupr(np.array([0.8, 0.2]), np.array([0.8])) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_beyond_the_others_is_what_their_trend_leaves():
    clean = {"a": 0.5, "b": 0.8, "c": 0.9, "d": 0.75}
    shifted = {"a": 1 / 5, "b": 1 / 2, "c": 9 / 13, "d": 0.5}  # a to c: odds are quartered
    found = beyond_the_others(clean, shifted)
    assert found["d"] == pytest.approx(0.5 - 3 / 7)
    assert all(value is not None for value in found.values())
    three = {name: clean[name] for name in "abc"}
    assert set(beyond_the_others(three, shifted).values()) == {None}
    assert set(beyond_the_others(dict.fromkeys("abcd", 0.5), shifted).values()) == {None}
    assert beyond_the_others({**clean, "a": 1.0}, shifted) == dict.fromkeys("abcd")  # two are left, or it has no logit
