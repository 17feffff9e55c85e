"""Randomised smoothing against closed forms: linear votes, the bound of Clopper and Pearson, and its coverage."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta, binomtest, norm
from torch import nn

from robustscope.attacks.compose import attack
from robustscope.certify import certified_model, certified_radius, certify
from robustscope.certify.smoothing import ABSTAINED, BLOCK, lower_share, predict, smooth, tally
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.core.types import Bounds, ThreatModel
from robustscope.data import problems
from robustscope.models.blackbox import BlackBox
from robustscope.models.classifier import Classifier

WEIGHT = torch.tensor([3.0, -4.0, 0.0], dtype=torch.float64)  # of length 5


def linear(dtype=torch.float64):
    """Class 1 where 3 a - 4 b + 0.5 > 0: the signed distance is that divided by 5."""
    module = nn.Linear(3, 2).to(dtype).eval()
    with torch.no_grad():
        module.weight.copy_(torch.stack([-WEIGHT / 2, WEIGHT / 2]))
        module.bias.copy_(torch.tensor([-0.25, 0.25]))
    return Classifier(module)


def points(count, dtype=torch.float64):
    x = problems._samples(3, count, 3).to(dtype)
    distance = (x.double() @ WEIGHT + 0.5) / 5
    return x, (distance > 0).long(), distance.abs()


def constant(classes=3):
    return Classifier(BlackBox(lambda x: torch.zeros(len(x), dtype=torch.int64), num_classes=classes, answers="labels"))


def of(count, name="test"):
    return Draws(7, tuple(range(count)), name)


def test_the_lower_bound_is_that_of_clopper_and_pearson():
    count = torch.tensor([0, 1, 17, 50, 99, 100])
    found = lower_share(count, 100, 0.01)
    assert found[0] == 0
    assert np.allclose(found[1:], beta.ppf(0.01, count[1:], 101 - count[1:]), rtol=1e-12)
    assert found[-1] == pytest.approx(0.01 ** (1 / 100), rel=1e-12)
    two_sided = [binomtest(k, 100).proportion_ci(0.98, "exact").low for k in (1, 17, 50)]
    assert np.allclose(found[1:4], two_sided, rtol=1e-9)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.93])
def test_it_covers_as_often_as_it_says(share):
    votes, error = 60, 0.05
    k = np.arange(votes + 1)
    bound = lower_share(torch.as_tensor(k), votes, error)
    chance = np.exp([math.lgamma(votes + 1) - math.lgamma(i + 1) - math.lgamma(votes - i + 1) for i in k])
    chance = chance * share**k * (1 - share) ** (votes - k)
    too_high = chance[bound > share].sum()
    assert too_high <= error
    assert too_high > error / 10  # not idle


def test_a_constant_classifier_has_the_largest_radius():
    x, votes, error = torch.full((2, 4), 0.5, dtype=torch.float64), 1000, 0.001
    exact = 0.5 * norm.ppf(error ** (1 / votes))
    found = certify("smoothing", constant(), x, torch.tensor([0, 0]), "l2:0.3", noise=0.5, votes=votes)
    assert found.radius.numpy() == pytest.approx([exact] * 2, rel=1e-12)
    assert found.confidence == 0.999
    assert found.forward.tolist() == [1100, 1100]
    edge = tuple(f * exact for f in (1 - 1e-9, 1 + 1e-9))
    threat = ThreatModel("l2", edge)
    assert certify("smoothing", constant(), x, torch.tensor([0, 0]), threat, noise=0.5, votes=votes).status == (
        "verified",
        "unknown",
    )
    margin = 2 * norm.cdf(norm.ppf(error ** (1 / votes)) - 0.3 / 0.5) - 1
    assert found.lower_margin.numpy() == pytest.approx([margin] * 2, rel=1e-9)


def test_one_that_is_never_right_ends_after_the_first_count():
    x = torch.full((2, 4), 0.5)
    found = certify("smoothing", constant(), x, torch.tensor([1, 0]), "l2:0.1", first_votes=70, votes=200)
    assert found.status == ("unknown", "verified")
    assert found.forward.tolist() == [70, 270]
    assert found.radius.tolist()[0] == 0
    assert found.lower_margin.tolist()[0] == -1


def test_the_radius_of_a_linear_vote_is_its_distance():
    model, (x, y, distance) = linear(), points(60)
    found = certify("smoothing", model, x, y, "l2:0.0", noise=0.3, votes=4000, draws=of(60))
    assert bool((found.radius <= distance + 1e-12).all())  # wrong with a probability of 0.06 in all
    share = norm.cdf(distance / 0.3)
    lowest = beta.ppf(0.001, *(lambda k: (k, 4001 - k))(np.maximum(share * 4000 - 4 * np.sqrt(share * 4000), 1)))
    assert bool((found.radius.numpy() >= np.maximum(0.3 * norm.ppf(lowest), 0) - 1e-9)[share < 0.99].all())
    assert float(found.radius.max()) > 0.25


def test_at_its_confidence_the_radius_exceeds_the_distance_as_rarely_as_it_says():
    model, (x, y, distance) = linear(), points(20)
    x, y, distance = (each.repeat(100, *[1] * (each.dim() - 1)) for each in (x, y, distance))
    found = certify(
        "smoothing", model, x, y, "l2:0", noise=0.3, first_votes=20, votes=100, confidence=0.9, draws=of(2000)
    )
    share = float((found.radius > distance).double().mean())
    assert binomtest(round(share * 2000), 2000).proportion_ci(0.999).low <= 0.1
    assert share > 0.01
    # The broken thing: the share of the votes itself in the place of its bound.
    counts, _ = tally(model, x, of(2000).within("smoothing"), "second", 0.3, 100)
    naive = 0.3 * norm.ppf(counts.gather(1, y[:, None])[:, 0].numpy() / 100)
    assert (naive > distance.numpy()).mean() > 0.3


@pytest.mark.parametrize("of_norm", ["linf", "l1"])
def test_other_norms_are_certified_by_the_ball_around_them(of_norm):
    model, (x, y, _) = linear(), points(10)
    whole = certify("smoothing", model, x, y, "l2:0.05", votes=500)
    other = certify("smoothing", model, x, y, ThreatModel(of_norm, 0.05), votes=500)
    factor = {"linf": 3**0.5, "l1": 1.0}[of_norm]
    assert torch.allclose(other.radius * factor, whole.radius, atol=1e-9)
    within = certify("smoothing", model, x, y, ThreatModel("l2", 0.05 * factor), votes=500)
    assert other.status == within.status


def test_no_cut_changes_a_count():
    model, (x, y, _) = linear(), points(9)
    whole, _ = tally(model, x, of(9), "cut", 0.5, 3 * BLOCK + 5)
    assert whole.sum(1).tolist() == [3 * BLOCK + 5] * 9
    small, _ = tally(Classifier(model.module, batch_size=7), x, of(9), "cut", 0.5, 3 * BLOCK + 5, memory=0)
    assert torch.equal(whole, small)
    rows = torch.tensor([4, 0, 7])
    part, _ = tally(model, x[rows], of(9).select(rows), "cut", 0.5, 3 * BLOCK + 5)
    assert torch.equal(whole[rows], part)
    less, _ = tally(model, x, of(9), "cut", 0.5, BLOCK + 5)
    assert bool((less <= whole).all())
    single, _ = tally(linear(torch.float32), x.float(), of(9), "cut", 0.5, 3 * BLOCK + 5)
    assert int((single - whole).abs().max()) <= 1
    assert torch.equal(y, whole.argmax(1))


def test_prediction_is_cohen_s():
    box = BlackBox(lambda x: (x[:, 0] > 0.5).long(), num_classes=3, answers="labels")
    x = torch.tensor([[0.9], [0.52], [0.1]])
    draws = Draws(1, (0, 1, 2), "predict")
    found = predict(Classifier(box), x, draws=draws, votes=200, noise=0.25)
    assert found.tolist() == [1, ABSTAINED, 0]
    counts, _ = tally(Classifier(box), x, draws, "prediction", 0.25, 200)
    for row, count in enumerate(counts):
        one, two = count.topk(2).values.tolist()
        sure = binomtest(one, one + two).pvalue <= 0.001
        assert (found[row] != ABSTAINED) == sure


def test_the_deployed_vote_is_another_classifier_and_attacks_see_it():
    model, (x, y, distance) = Classifier(linear().module, Bounds(-3.0, 4.0)), points(6)
    assert certified_model("crown", model) is model
    vote = certified_model("smoothing", model, noise=0.3)
    assert vote.module.noise == 0.3
    logits = vote.logits(x)
    shares = norm.cdf(distance / 0.3)
    found = logits.exp().gather(1, y[:, None])[:, 0]
    assert np.allclose(found, shares, atol=4 * np.sqrt(0.25 / 100))
    certificate = certify("smoothing", model, x, y, "l2:0.2", noise=0.3, votes=2000)
    outcome = attack("pgd", vote, x, y, "l2:0.2", steps=3)
    contrary = predict(model, outcome.result.x_adv, draws=of(6, "check"), noise=0.3, votes=2000)
    broken = (contrary != y) & (contrary != ABSTAINED)
    assert not (broken & certificate.verified).any()
    beyond = attack("pgd", vote, x, y, "l2:0.9", steps=15, relative_step_size=0.3).result.x_adv
    contrary = predict(model, beyond, draws=of(6, "check"), noise=0.3, votes=2000)
    near = distance < 0.6  # what lies within the ball must be found, or the check above is idle
    assert bool(near.any())
    assert bool((contrary != y)[near].all())


def test_its_own_radius_is_taken_and_capped():
    model, (x, y, _) = linear(), points(8)
    told = certify("smoothing", model, x, y, "l2:0", votes=500, draws=Draws(0, tuple(range(8)), "radius"))
    found = certified_radius("smoothing", model, x, y, "l2", largest=0.1, votes=500)
    assert torch.equal(found.radius, told.radius.clamp(max=0.1))
    assert bool((found.refused[told.radius >= 0.1] == torch.inf).all())
    assert found.tried.tolist() == [1] * 8


def test_time_that_is_up_is_said():
    model, (x, y, _) = linear(), points(4)
    found = certify("smoothing", model, x, y, "l2:0.1", timeout=1e-9)
    assert set(found.status) == {"timeout"}
    assert not found.forward.any()


def test_what_is_not_allowed_is_refused():
    model, (x, y, _) = linear(), points(4)
    for wrong in ({"noise": 0.0}, {"votes": 0}, {"first_votes": 0}, {"confidence": 1.0}, {"confidence": 0.2}):
        with pytest.raises(InvalidValue, match=next(iter(wrong))):
            certify("smoothing", model, x, y, "l2:0.1", **wrong)
    with pytest.raises(InvalidValue, match="draws"):
        certify("smoothing", model, x, y, "l2:0.1", draws=of(3))
    with pytest.raises(InvalidType, match="draws"):
        certify("smoothing", model, x, y, "l2:0.1", draws=3)
    with pytest.raises(InvalidValue, match="noise"):
        smooth(model, noise=-1.0)
