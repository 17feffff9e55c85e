"""The ladder: the exact counts of a linear model, what it costs there, and that it goes on where gradients mislead."""

import pytest
import torch

import robustscope
from digits_bed import digits
from robustscope.attacks.approach import approach, scout
from robustscope.attacks.climb import BEHIND, HOPELESS, Climb
from robustscope.attacks.compose import attack
from robustscope.attacks.estimates import Estimate, agreement
from robustscope.attacks.ladder import _vary
from robustscope.attacks.prospects import GLANCES, look
from robustscope.attacks.race import race
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.data.masked import masked
from robustscope.geometry import balls
from robustscope.geometry.losses import margin
from robustscope.models.classifier import Classifier

COUNTS = {("linf", 0.05): 657, ("linf", 0.1): 456, ("linf", 0.15): 207, ("l2", 0.5): 440, ("l2", 0.8): 149}


@pytest.mark.parametrize(("norm", "epsilon"), list(COUNTS))
def test_the_exact_count_of_the_digits_is_reached_at_a_fraction_of_the_cost(norm, epsilon):
    model, x, y, radius = digits(norm, 743)
    outcome = attack("ladder", model, x, y, ThreatModel(norm, epsilon))
    exact = radius > epsilon
    assert int(exact.sum()) == COUNTS[norm, epsilon]
    assert not (outcome.verdict.success & exact).any(), "an exactly robust sample was broken"
    assert int((~outcome.verdict.success).sum()) == COUNTS[norm, epsilon]
    survivors = int(exact.sum())
    # Dear for the ladder: in 64 dimensions search by scores comes nearly as far as gradients, and most get that far.
    assert outcome.result.backward.sum() / survivors < 1910 / 4
    assert outcome.result.forward.sum() / survivors < 7888 / 10


def test_a_look_expects_what_a_linear_model_does():
    for norm, epsilon in (("linf", 0.1), ("l2", 0.5)):
        model, x, y, radius = digits(norm, 60)
        known, first = look(model, x, y, ThreatModel(norm, epsilon), Draws(0, tuple(range(60))))
        left = known.clean - known.expected
        assert known.broken.any(), "one step breaks some"
        assert torch.equal((left > 0) & ~known.broken, radius > epsilon), "linear: what is expected is what happens"
        rest = ~known.broken
        y, left, logits = y[rest], left[rest], model.logits(first[rest])
        known.order = known.order[rest]
        reached = logits.gather(1, y[:, None])[:, 0] - logits.gather(1, known.order[:, :1])[:, 0]
        assert torch.allclose(reached, left, atol=1e-9)


class Staircase(torch.nn.Module):
    """A network behind an input in steps of 1/40: its gradient is zero almost everywhere."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        steps = torch.floor(40 * x) / 40
        return self.inner(steps) + 0 * self.inner(x)


def test_it_goes_on_without_gradients_where_they_vanish():
    p = problems.smooth_cnn(n=12)
    masked = Classifier(Staircase(p.module).eval(), p.bounds)
    y = masked.logits(p.x).argmax(1)
    threat = ThreatModel("linf", 0.15, p.bounds)
    draws = Draws(0, tuple(range(12)))
    whole = attack("ladder", masked, p.x, y, threat, draws=draws)
    blind = attack("ladder", masked, p.x, y, threat, draws=draws, search=False)
    square = attack("square", masked, p.x, y, threat, draws=draws)
    broken = {
        name: int(o.verdict.success.sum()) for name, o in (("whole", whole), ("blind", blind), ("square", square))
    }
    assert broken["blind"] < broken["square"] / 2, f"without its search the ladder must fail here: {broken}"
    assert broken["whole"] >= broken["square"] - 1, broken  # one of 12 is given up before its scores tell
    assert whole.result.forward.sum() > blind.result.forward.sum(), "it paid for it"


def test_samples_far_from_any_boundary_cost_little():
    model, x, y, _ = digits("linf", 200)
    outcome = attack("ladder", model, x, y, ThreatModel("linf", 0.01))
    assert float(outcome.result.backward.double().median()) <= 20
    assert float(outcome.result.forward.double().median()) <= 20


def test_thorough_spends_on_every_sample():
    model, x, y, _ = digits("linf", 5)
    outcome = attack("ladder", model, x, y, ThreatModel("linf", 0.01), thorough=True, search=False)
    assert (outcome.result.backward > 1000).all()


class Pull(torch.nn.Module):
    """Two scores: a constant one, and a sum over the input that each value may only add so much to."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, x):
        pull = (4 * (x.flatten(1) - 0.5)).clamp(max=self.most).sum(1)
        return torch.stack([torch.full_like(pull, 40.0), pull], 1)


# The parts.


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.4)])
def test_a_margin_is_deaf_where_twice_the_radius_gains_nothing(norm, epsilon):
    x, y, draws = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64), Draws(0, (0, 1))
    asked = torch.tensor([True, False])
    for most, deaf in ((0.4, True), (0.5, True), (0.6, False), (9.0, False)):  # 0.4 is what the radius allows
        climb = Climb(Classifier(Pull(most).eval()), x, y, ThreatModel(norm, epsilon), draws)
        assert torch.allclose(climb.known.fall, torch.tensor(6.4)), "the first step goes all the way"
        assert climb.deaf(asked).tolist() == [deaf, False], most  # 0.5 / 0.8 is below 0.7, 0.6 / 0.8 is above
        assert climb.known.forward.tolist() == [4, 3], "one row for the one asked"


def test_a_flat_margin_is_raced_against_and_soon_given_up():
    x, y = torch.full((1, 1, 4, 4), 0.5), torch.zeros(1, dtype=torch.int64)
    spent = {}
    for share in (14, 16):  # what the radius lacks is just below and just above what counts as flat
        module = Pull(9.0).eval()
        module.register_forward_hook(lambda _, __, z, share=share: z * z.new_tensor([6.4 * (1 + share) / 40, 1.0]))
        outcome = attack("ladder", Classifier(module), x, y, ThreatModel("linf", 0.1), search=False)
        spent[share] = int(outcome.result.backward[0])
    assert spent[16] - spent[14] == 2 + 5, (
        "the start of a race and one step, which gets no lower than the descents did, and five steps of Auto-PGD"
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_first_descent_that_falls_as_expected_and_too_little_is_given_up(norm):
    """A linear model falls exactly as expected, so that what the radius lacks after the first step decides alone."""
    model, x, y, _ = digits(norm, 200)
    threat, draws = ThreatModel(norm, 0.1 if norm == "linf" else 0.5), Draws(0, tuple(range(200)))
    for thorough in (False, True):
        climb = Climb(model, x, y, threat, draws, thorough)
        known, before = climb.known, climb.known.forward.clone()
        left, lack = ~known.broken, known.clean / known.expected - 1
        climb.descend(left, (0,), 7)
        due = torch.full_like(before, 8) if thorough else torch.where(lack >= HOPELESS, 2, 8)
        due[lack < 0] = 1  # broken by the first iterate, towards a class that the one step did not go to
        assert torch.equal((known.forward - before)[left], due[left])
        assert (lack[left] >= HOPELESS).any()
        assert (lack[left] < HOPELESS).any()


def test_a_descent_towards_another_class_is_given_up_where_it_stays_behind():
    model, x, y, _ = digits("linf", 300)
    threat = ThreatModel("linf", 0.1)
    climb = Climb(model, x, y, threat, Draws(0, tuple(range(300))))
    known, rows = climb.known, (~climb.known.broken).nonzero()[:, 0]
    goal = known.order[rows, 1]
    _, gradient, _ = model.gradient(
        lambda z, part: (z.gather(1, goal[part, None]) - z.gather(1, y[rows][part, None]))[:, 0], x[rows]
    )
    best = margin(model.logits(balls.furthest(threat.select(rows), x[rows], gradient)), y[rows])
    behind = (best - known.lowest[rows]) / known.fall[rows]  # a linear model is at its best after one step
    before = known.forward.clone()
    climb.descend(~known.broken, (1,), 12)
    due = torch.where(behind > BEHIND[1], 5, torch.where(behind > BEHIND[2], 9, 13))
    assert torch.equal((known.forward - before)[rows], due)
    assert set(due.tolist()) == {5, 9, 13}


def test_other_attacks_are_for_samples_whose_margin_later_descents_lowered():
    model, x, y, _ = digits("linf", 200)
    climb = Climb(model, x, y, ThreatModel("linf", 0.1), Draws(0, tuple(range(200))))
    known, none = climb.known, torch.zeros(200, dtype=torch.bool)
    near = known.near(0.1)
    assert near.any()
    before = known.backward.clone()
    _vary(climb, none, known.lack.clone())
    assert torch.equal(known.backward, before), "no descent lowered what the first one left"
    _vary(climb, none, 2 * known.lack)
    assert torch.equal(known.backward > before, near)


class Summit(torch.nn.Module):
    """Nine constant scores, and a tenth, the lowest at first, that rises by the mean of the input: fast beyond a ledge."""

    def __init__(self, ledge):
        super().__init__()
        self.ledge = ledge

    def forward(self, x):
        far = x.flatten(1).mean(1, keepdim=True) - 0.5  # at most the radius, in linf
        still = torch.tensor([1.0, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15]).to(x).expand(len(x), 9)
        return torch.cat([still, 0.1 * far + 100 * (far - self.ledge).relu()], 1)


def test_a_race_finds_the_class_that_rises_beyond_a_ledge():
    x, y = torch.full((4, 1, 8, 8), 0.5, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    threat, draws = ThreatModel("linf", 0.1), Draws(0, (0, 1, 2, 3))
    for ledge, broken in ((0.03, True), (0.2, False)):  # inside the ball, and outside
        model = Classifier(Summit(ledge).eval())
        climb = Climb(model, x, y, threat, draws)
        assert climb.known.order[:, 8].eq(9).all(), "the linear eye sees that class last"
        climb.descend(~climb.known.broken, (0, 1, 2), 30)
        assert not climb.known.broken.any(), "descents towards the nearest classes do not get there"
        before, ledger = climb.known.forward.clone(), (model.ledger.forward, model.ledger.backward)
        rows = climb.known.backward.clone()
        climb.race(~climb.known.broken)
        spent, back = climb.known.forward - before, climb.known.backward - rows
        assert (climb.known.broken == broken).all()
        assert (climb.known.broken == (model.logits(climb.known.x_adv).argmax(1) != 0)).all()
        assert model.ledger.forward - ledger[0] - 4 == int(spent.sum())
        assert model.ledger.backward - ledger[1] == int(back.sum())
        assert spent.tolist() == [2] * 4, "one descent moves; it arrives with its first step, or is given up after it"
        assert back.tolist() == [9 + 1] * 4


def test_a_race_goes_on_only_below_what_other_descents_left():
    x, y, order = torch.full((1, 1, 4, 4), 0.5), torch.zeros(1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.int64)
    model = Classifier(Pull(9.0).eval())  # 40 at x, of which the radius takes 6.4: more than 0.8 of it stays
    clean, left = torch.tensor([40.0]), 40 - 6.4
    for known, steps in ((left, 2), (left / 0.98, 4), (40.0, 4)):
        found = race(model, x, y, order, ThreatModel("linf", 0.1), x, clean, torch.tensor([known]))
        assert torch.allclose(found.lowest, torch.tensor(left))
        assert found.forward.tolist() == [1 + steps], "after two steps, or at 0.8 of the clean margin after four"


def test_a_race_without_a_gradient_costs_its_start():
    x, y = torch.full((3, 1, 8, 8), 0.2), torch.zeros(3, dtype=torch.int64)
    model, threat = Classifier(Constant().eval()), ThreatModel("linf", 0.1)
    order = torch.tensor([[1, 2, 3]]).expand(3, 3)
    found = race(model, x, y, order, threat, x, torch.ones(3), torch.ones(3))
    assert found.forward.tolist() == [1, 1, 1]
    assert found.backward.tolist() == [3, 3, 3]
    assert not found.solved.any()
    assert torch.equal(found.x_adv, x)


class Constant(torch.nn.Module):
    """Four scores that depend on nothing."""

    def forward(self, x):
        return 0 * x.flatten(1)[:, :4] + x.new_tensor([1.0, 0.3, 0.2, 0.1])


def test_gradients_that_tell_the_truth_and_others():
    module = robustscope.load_model("bundled:digits_standard").classifier.module
    x, threat = robustscope.load_data("digits").read(range(30)), ThreatModel("linf", 0.1)
    draws = Draws(0, tuple(range(30)))
    right = module(x).argmax(1)
    targets = torch.stack([(right + k) % 10 for k in (1, 2, 3)], 1)

    def agreements(name):
        model = Classifier(masked(name, module), allow_probabilities=True)
        return agreement(model, threat, x, right, targets, draws)

    for name in ("temperature_1e3", "temperature_1e30", "temperature_1e-30"):
        assert agreements(name).min() > 0.95, name
    assert agreements("reversed_gradient").max() < -0.95
    assert agreements("zero_gradient").abs().max() == 0
    assert (agreements("detached_branch") < 0.9).float().mean() > 0.8
    part = agreement(Classifier(module), threat, x[20:], right[20:], targets[20:], draws.select(torch.arange(20, 30)))
    torch.testing.assert_close(part, agreements("temperature_1e3")[20:], atol=1e-3, rtol=0)


def test_a_glance_tells_gradients_that_hide_something():
    module, data = robustscope.load_model("bundled:digits_standard").classifier.module, robustscope.load_data("digits")
    x, threat, draws = data.read(range(30)), ThreatModel("linf", 0.1), Draws(0, tuple(range(30)))
    y = module(x).argmax(1)

    def seen(name):
        model = Classifier(masked(name, module), allow_probabilities=True)
        known, _ = look(model, x, y, threat, draws)
        rows = (~known.broken).nonzero()[:, 0]
        before = known.forward.clone()
        found = known.glance(model, rows, x[rows], y[rows], threat.select(rows), draws.select(rows))
        assert torch.equal((known.forward - before)[rows], torch.full_like(rows, GLANCES)), "one row for each point"
        return found

    for name in ("temperature_1e3", "temperature_1e30", "temperature_1e-30"):
        assert seen(name).min() > 0.95, name
    assert seen("reversed_gradient").max() < -0.95
    assert seen("zero_gradient").abs().max() == 0
    assert (seen("detached_branch") < 0.95).float().mean() > 0.8


class Shades(torch.nn.Module):
    """Four classes of brightness, without a gradient."""

    def forward(self, x):
        return -(x.flatten(1).mean(1, keepdim=True) - x.new_tensor([0.2, 0.4, 0.6, 0.8])).abs()


def test_a_scout_passes_by_the_classes_it_has_seen():
    x, y, draws = torch.full((3, 1, 8, 8), 0.2), torch.zeros(3, dtype=torch.int64), Draws(0, (0, 1, 2))
    model, threat, seen = Classifier(Shades().eval()), ThreatModel("linf", 0.1), torch.zeros(3, 4, dtype=torch.bool)
    found = []
    for k in range(3):
        before = model.ledger.forward
        far, spent = scout(model, x, y, threat, draws.within(f"{k}"), seen)
        assert model.ledger.forward - before == int(spent.sum())
        found.append(model.logits(far).argmax(1))
        assert (found[-1] > 0).all(), "another class, a new one or not"
    assert (torch.stack(found).sort(0).values[0] != torch.stack(found).sort(0).values[-1]).all(), "not twice the same"
    assert not seen[:, 0].any(), "the true class is none to come from"
    alone, _ = scout(model, x[1:2], y[1:2], threat, draws.select(torch.tensor([1])).within("0"), torch.zeros(1, 4) > 0)
    assert torch.equal(model.logits(alone).argmax(1), found[0][1:2]), "each sample for itself"


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_estimated_gradients_of_a_linear_model_are_its_gradients(norm):
    p = problems.linear_multiclass(n=6)
    model, threat = Classifier(p.module), ThreatModel(norm, 0.1)
    targets, rows = (p.y + 1) % 5, torch.arange(6)
    how = Estimate(p.x, Draws(0, tuple(range(6))), 400, 0.5)
    logits, slope = how.at(model, threat, rows, p.x, p.y, targets, "0")
    weight = next(p.module.parameters()).detach()
    due = weight[targets] - weight[p.y]
    torch.testing.assert_close(logits, model.logits(p.x))
    cosine = torch.cosine_similarity(slope.flatten(1), due, dim=1)
    assert cosine.min() > 0.97
    assert model.ledger.backward == 0


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_an_approach_ends_at_the_boundary_of_a_linear_model(norm):
    p = problems.linear_binary(norm, n=8)
    model = Classifier(p.module)
    far = p.x.flip(0)  # classes alternate, so each is of the other one
    for share, solved in ((1.05, True), (0.95, False)):
        threat = ThreatModel(norm, problems.RADII[norm] * share)
        found = approach(model, p.x, p.y, threat, far, 200)
        assert (found.distance >= p.radius[norm] * (1 - 1e-6)).all(), "nearer than is possible"
        assert (found.solved == solved).all()
        assert found.alive.all()
        assert torch.equal(found.forward, found.backward + 1)


def test_one_step_may_break_every_sample_of_a_batch():
    model, x, y, _ = digits("linf", 20)
    outcome = attack("ladder", model, x, y, ThreatModel("linf", 0.9))
    assert outcome.verdict.success.all()
    assert (outcome.result.backward == 1).all()
