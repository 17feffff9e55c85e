"""Objectives of one's own, guides, detectors and every wrong class: against closed forms and quadratic programmes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from digits_bed import digits
from robustscope.attacks.adaptive import match_features, match_logits, multi_targeted
from robustscope.attacks.apgd_targeted import difference
from robustscope.attacks.cards import ATTACKS
from robustscope.attacks.compose import attack
from robustscope.attacks.suites import SUITES
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue, ModelError, UnknownName
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.geometry.losses import margin_loss
from robustscope.geometry.objectives import Joint, MatchFeatures, MatchLogits, activations
from robustscope.models.classifier import Classifier
from robustscope.models.detectors import rejecting, scores_of, threshold_at
from robustscope.models.features import tap

WITH_LOSS = ("pgd", "apgd", "mim", "bim")


# A loss of one's own.


@pytest.mark.parametrize("name", [*WITH_LOSS, "fgsm", "ddn", "square"])
def test_a_function_stands_for_the_loss_it_computes(name):
    p = problems.smooth_cnn(torch.float64, n=8)
    norm = ATTACKS[name].norms[-1 if name == "ddn" else 0]
    threat = ThreatModel(norm, 0.3 if norm == "l2" else 0.03)
    facts = {} if name == "fgsm" else {"queries": 60} if name == "square" else {"steps": 8}
    own = attack(name, Classifier(p.module), p.x, p.y, threat, loss=margin_loss, **facts)
    named = attack(name, Classifier(p.module), p.x, p.y, threat, loss="margin", **facts)
    assert torch.equal(own.result.x_adv, named.result.x_adv)
    assert torch.equal(own.result.forward, named.result.forward)


def test_a_loss_that_couples_the_batch_is_refused():
    p = problems.smooth_cnn(n=4)
    with pytest.raises(InvalidValue, match="one value for each"):
        attack("pgd", Classifier(p.module), p.x, p.y, "linf:0.1", loss=lambda z, y, t: z.sum())


def test_functions_stay_out_of_plans_and_of_attacks_without_a_free_loss():
    for name in ("pgd", "apgd", "mim"):
        with pytest.raises(InvalidValue, match="loss"):
            ATTACKS[name].resolve({"loss": margin_loss})
    p = problems.smooth_cnn(n=2)
    with pytest.raises(InvalidValue, match="loss"):
        attack("apgd_targeted", Classifier(p.module), p.x, p.y, "linf:0.1", loss=margin_loss)
    with pytest.raises(UnknownName, match="loss"):
        attack("cw_l2", Classifier(p.module), p.x, p.y, "l2:0.1", loss=margin_loss)
    assert all("loss" not in facts or isinstance(facts["loss"], str) for suite in SUITES.values() for _, facts in suite)


# Guides.


def square_problem(n=6):
    """A linear network with as many classes as values: its logits say where the input is."""
    torch.manual_seed(3)
    layer = nn.Linear(5, 5).double()
    x = torch.rand(n, 5, dtype=torch.float64)
    guides = torch.rand(n, 5, dtype=torch.float64)
    return Classifier(nn.Sequential(layer, nn.Identity(), nn.Softplus(), nn.Linear(5, 5).double()).eval()), x, guides


def nearest_in_the_box(matrix, x, guide, epsilon):
    """Minimise ||A z - A guide|| over the linf ball and the box by SciPy."""
    a = matrix.numpy()
    low, high = np.clip(x.numpy() - epsilon, 0, 1), np.clip(x.numpy() + epsilon, 0, 1)

    def value(z):
        gap = a @ (z - guide.numpy())
        return gap @ gap / 2, a.T @ gap

    return minimize(value, x.numpy(), jac=True, bounds=list(zip(low, high, strict=True)), method="L-BFGS-B").fun


@pytest.mark.parametrize("name", ["pgd", "apgd", "mim"])
@pytest.mark.parametrize("what", ["logits", "features"])
def test_matching_ends_where_the_quadratic_programme_does(name, what):
    model, x, guides = square_problem()
    if what == "logits":
        model = replace(model, module=model.module[0])
    y = model.logits(x).argmax(1)
    attacked = model if what == "logits" else tap(model, "0")
    loss = match_logits(model, guides) if what == "logits" else match_features(attacked, guides)
    # Nothing is ever reached, so that the search goes on to the optimum: the target is what no input gets.
    unreachable = torch.full_like(y, int(attacked.logits(x).amin(0).argmin()))
    facts = {"pgd": {"steps": 600, "relative_step_size": 0.01}, "mim": {"steps": 600, "relative_step_size": 0.01}}
    facts = facts.get(name, {"steps": 200})
    threat = ThreatModel("linf", 0.2)
    found = attack(name, attacked, x, y, threat, targets=unreachable, loss=loss, **facts)
    stays = ~found.verdict.success
    assert stays.sum() >= 3
    value = -loss(attacked.logits(found.result.x_adv), y)
    layer = model.module if what == "logits" else model.module[0]
    for row in stays.nonzero()[:, 0].tolist():
        due = nearest_in_the_box(layer.weight.detach(), x[row], guides[row], 0.2)
        assert abs(float(value[row]) - due) < 2e-3 + 0.02 * due
    start = -loss(attacked.logits(x), y)
    assert (value < start).all()


def test_objectives_follow_their_samples_out_of_the_batch():
    p = problems.smooth_cnn(torch.float64, n=8)
    model = Classifier(p.module, batch_size=3)
    guides = p.x.flip(0)
    loss = match_logits(model, guides)
    threat = ThreatModel("linf", (0.02, 0.3, 0.02, 0.3, 0.3, 0.02, 0.3, 0.02))
    for name in ("pgd", "apgd", "mim"):
        whole = attack(name, model, p.x, p.y, threat, loss=loss, steps=15)
        for row in (0, 3, 5):
            only = torch.tensor([row])
            draws = Draws(0, tuple(range(8))).select(only)
            alone = attack(
                name, model, p.x[only], p.y[only], threat.select(only), loss=loss.select(only), draws=draws, steps=15
            )
            torch.testing.assert_close(alone.result.x_adv[0], whole.result.x_adv[row], rtol=0, atol=1e-9)
    with pytest.raises(InvalidValue, match="one row for each sample"):
        attack("ddn", model, p.x, p.y, "l2:1", loss=lambda z, y, t: MatchLogits(torch.zeros(1, 4))(z, y, t))


def test_a_tapped_model_decides_as_it_did_and_carries_the_layer():
    p = problems.smooth_cnn(torch.float64, n=8)
    model = Classifier(p.module, mean=(0.1, 0.2), std=(0.5, 2.0))
    tapped = tap(model, "2")
    outputs = tapped.logits(p.x)
    mean, std = torch.tensor([[0.1, 0.2], [0.5, 2.0]], dtype=torch.float64).view(2, 1, 2, 1, 1)
    inner = p.module[:3]((p.x - mean) / std).flatten(1)
    torch.testing.assert_close(activations(outputs, 4), inner.detach())
    assert torch.equal(outputs[:, :4], model.logits(p.x))
    assert (outputs[:, 4:].amax(1) < outputs[:, :4].amin(1)).all()
    assert not any(part._forward_hooks for part in p.module.modules())
    with pytest.raises(UnknownName, match="Available"):
        tap(model, "9")
    with pytest.raises(InvalidValue, match="tap"):
        match_features(model, p.x)
    shared = nn.ReLU()
    twice = tap(Classifier(nn.Sequential(nn.Linear(3, 3), shared, nn.Linear(3, 3), shared).eval()), "1")
    with pytest.raises(ModelError, match="2 times"):
        twice.logits(torch.rand(2, 3))


def test_a_guide_leads_to_its_class():
    model, x, y, _ = digits("linf", 40)
    other = torch.tensor([int((y != label).nonzero()[0]) for label in y])
    goals, guides = y[other], x[other]
    found = attack("pgd", model, x, y, "linf:0.4", targets=goals, loss=match_logits(model, guides), steps=100)
    assert found.verdict.success.double().mean() >= 0.9
    wrong = MatchFeatures(torch.zeros(2, 3), 2)
    with pytest.raises(InvalidValue, match="activations"):
        wrong(torch.zeros(2, 9), y[:2])


# Every wrong class.


def test_every_wrong_class_is_exact_where_one_sign_step_is():
    model, x, y, radius = digits("linf", 60)
    for factor, due in ((1.01, True), (0.99, False)):
        threat = ThreatModel("linf", tuple((factor * radius).tolist()))
        found = multi_targeted("fgsm", model, x, y, threat, loss=difference)
        assert (found.verdict.success == due).all()
    few = multi_targeted("fgsm", model, x, y, threat, count=2, loss=difference)
    once = attack("fgsm", model, x, y, threat, targets=(y + 1) % 10).result
    assert torch.equal(few.result.forward, 1 + 2 * once.forward)
    assert torch.equal(few.result.backward, 2 * once.backward)


def test_two_classes_and_no_samples():
    p = problems.linear_binary("linf", n=4)
    model = Classifier(p.module)
    assert multi_targeted("pgd", model, p.x, p.y, "linf:0.06").verdict.success.all()
    assert len(multi_targeted("pgd", model, p.x[:0], p.y[:0], "linf:0.06").result.x_adv) == 0
    with pytest.raises(InvalidValue, match="rejected=2"):
        multi_targeted("pgd", model, p.x, p.y, "linf:0.06", rejected=2)
    with pytest.raises(InvalidValue, match="count"):
        multi_targeted("pgd", model, p.x, p.y, "linf:0.06", count=0)
    with pytest.raises(InvalidValue, match="count"):
        multi_targeted("pgd", model, p.x, p.y, "linf:0.06", rejected=1)


# Detectors.


def test_rejected_exactly_above_the_threshold():
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        model = Classifier(nn.Linear(4, 3).to(dtype).eval())
        x = torch.rand(200, 4, dtype=dtype)
        wanted = torch.linspace(-1, 1, 200, dtype=dtype)
        wanted[100:103] = torch.tensor([0.0, torch.finfo(dtype).tiny, -torch.finfo(dtype).tiny], dtype=dtype)
        for scale in (1e-6, 1.0, 1e6):
            guarded = rejecting(
                replace(model, batch_size=500), lambda z, logits, wanted=wanted: wanted, 0.0, scale=scale
            )
            logits = guarded.logits(x)
            assert torch.equal(logits.argmax(1) == 3, wanted > 0)
            assert torch.equal(logits[:, :3], model.logits(x))
            assert torch.equal(logits[:, :3].argmax(1)[wanted <= 0], logits.argmax(1)[wanted <= 0])
    with pytest.raises(ModelError, match="one score"):
        rejecting(model, lambda z, logits: logits, 0.0).logits(x)
    for threshold, scale in ((float("nan"), 1.0), (0.0, 0.0)):
        with pytest.raises(InvalidValue, match="scale"):
            rejecting(model, lambda z, logits: logits[:, 0], threshold, scale=scale)


def test_the_threshold_keeps_its_rate():
    scores = torch.cat([torch.zeros(30), torch.arange(70.0)])
    for rate in (0.0, 0.01, 0.05, 0.5, 0.99):
        tau = threshold_at(scores, rate)
        assert (scores > tau).double().mean() <= rate
        smaller = scores[scores < tau]
        assert not len(smaller) or (scores > smaller.max()).double().mean() > rate
    with pytest.raises(InvalidValue, match="false_positive_rate"):
        threshold_at(scores, 1.0)


def test_joint_objectives_are_positive_where_both_are_met():
    outputs = torch.tensor([[2.0, 1.0, 0.0, 1.5], [0.0, 3.0, 1.0, 2.5], [0.0, 3.0, 1.0, 4.0], [2.0, 1.0, 0.0, 5.0]])
    y, targets = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
    # Short by 1, -2, -2, 1; excess -0.5, -0.5, 1, 3.
    assert Joint("max")(outputs, y, targets).tolist() == [-1.0, 0.5, -1.0, -3.0]
    assert Joint("sum")(outputs, y, targets).tolist() == [-1.0, 0.0, -1.0, -4.0]
    assert Joint("max", 2.0)(outputs, y, targets).tolist() == [-1.0, 1.0, -2.0, -6.0]
    assert Joint("max")(outputs, y).tolist() == [-1.0, 0.5, -1.0, -3.0]
    with pytest.raises(InvalidValue, match="combine"):
        Joint("product")


@pytest.fixture(scope="module")
def guarded_plane():
    """Three linear classes in six dimensions, and a detector: distance to the mean of the predicted class."""
    draws = Draws(1, (0,), "test")
    means = 0.5 + 0.22 * draws.normal("means", torch.empty(1, 3, 6, dtype=torch.float64))[0].clamp(-1.5, 1.5)
    layer = nn.Linear(6, 3).double().eval()
    layer.weight.data, layer.bias.data = 20 * means, -10 * means.square().sum(1)

    def score(x, logits):
        return (x - means[logits.argmax(1)]).square().sum(1)

    x = (means.repeat(20, 1) + 0.12 * Draws(2, tuple(range(60))).normal("x", torch.empty(60, 6).double())).clamp(0, 1)
    model = Classifier(layer)
    y = torch.arange(3).repeat(20)
    kept = model.logits(x).argmax(1) == y
    return model, score, means, x[kept], y[kept]


def _ahead(slope, offset):
    return {"type": "ineq", "fun": lambda z: slope @ z + offset, "jac": lambda z: slope}


def closest(model, means, x, y, epsilon):
    """Return the least score over wrong, reachable regions: a quadratic programme for each class, by SciPy."""
    weight, bias = model.module.weight.detach().numpy(), model.module.bias.detach().numpy()
    best = np.inf
    for t in range(3):
        if t == y:
            continue
        low, high = np.clip(x.numpy() - epsilon, 0, 1), np.clip(x.numpy() + epsilon, 0, 1)
        rules = [_ahead(weight[t] - weight[j], bias[t] - bias[j]) for j in range(3) if j != t]
        mean = means[t].numpy()
        solved = minimize(
            lambda z, m=mean: ((z - m) ** 2).sum(),
            np.clip(mean, low, high),
            jac=lambda z, m=mean: 2 * (z - m),
            bounds=list(zip(low, high, strict=True)),
            constraints=rules,
            method="SLSQP",
            options={"maxiter": 200},
        )
        if solved.success and all(rule["fun"](solved.x) > -1e-9 for rule in rules):
            best = min(best, solved.fun)
    return best


@pytest.mark.parametrize("combine", ["max", "sum", "composed"])
def test_a_distance_detector_falls_exactly_where_the_quadratic_programme_is_feasible(guarded_plane, combine):
    model, score, means, x, y = guarded_plane
    tau = threshold_at(scores_of(model, score, x), 0.05)
    guarded = rejecting(model, score, tau, scale=10.0)
    epsilon = 0.2
    least = np.array([closest(model, means, x[i], int(y[i]), epsilon) for i in range(len(x))])
    clear = torch.tensor(np.abs(least - tau) > 0.02 * tau)
    feasible = torch.tensor(least < tau)
    assert clear.sum() > 0.9 * len(x)
    assert feasible[clear].any()
    assert (~feasible[clear]).any()
    loss = "margin" if combine == "composed" else Joint(combine)
    pace = {"steps": 150, "relative_step_size": 0.05, "restarts": 2}
    found = multi_targeted("pgd", guarded, x, y, f"linf:{epsilon}", rejected=3, loss=loss, **pace)
    hit = found.verdict.success[clear]
    if combine == "max":
        # The worse of two terms can pull to and fro at a boundary: never more than is feasible, and most of it.
        assert not (hit & ~feasible[clear]).any()
        assert hit.sum() >= 0.85 * feasible[clear].sum()
    else:
        assert torch.equal(hit, feasible[clear])
    won = found.verdict.success
    prediction = model.logits(found.result.x_adv).argmax(1)
    assert (prediction != y)[won].all()
    assert (scores_of(model, score, found.result.x_adv) <= tau)[won].all()
    # The network alone is fooled far more often: ignoring the detector overstates the attack.
    alone = multi_targeted("pgd", model, x, y, f"linf:{epsilon}", loss="margin")
    assert alone.verdict.success.sum() > won.sum() + 5
    assert (scores_of(model, score, alone.result.x_adv) > tau).any()


def test_a_rejection_is_no_success():
    model = Classifier(nn.Linear(4, 3).eval())
    x = torch.rand(6, 4)
    y = model.logits(x).argmax(1)
    guarded = rejecting(model, lambda z, logits: (z - x[0]).abs().amax(1) * 0 + 1.0, 0.0)
    assert (guarded.logits(x).argmax(1) == 3).all()
    found = multi_targeted("pgd", guarded, x, y, "linf:1", rejected=3, steps=5)
    assert not found.verdict.success.any()
    plain = attack("pgd", guarded, x, y, "linf:1", steps=5)
    assert plain.verdict.success.all(), "the plain rule counts a refusal as an error"
