"""Trust: each probe has something that it passes and something that it catches; hidden gradients are never trusted."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import robustscope
from digits_bed import digits as exact_digits
from robustscope.attacks.ascent import Goal
from robustscope.attacks.cards import ATTACKS, AttackCard
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue, UnknownName
from robustscope.core.types import AttackResult, Ledger, ThreatModel
from robustscope.data import problems
from robustscope.data.masked import MASKED, masked
from robustscope.geometry import balls
from robustscope.geometry.losses import objective
from robustscope.models.blackbox import BlackBox
from robustscope.models.classifier import Classifier
from robustscope.probes import PROBES
from robustscope.probes.bench import Bench, Check
from robustscope.probes.binarization import INNER, corner, discriminator, plant
from robustscope.probes.features import Cut
from robustscope.probes.gradients import agreement
from robustscope.probes.indicators import still_rising
from robustscope.probes.trust import judge
from robustscope.runs.trust import _bench, expected_rows, trust

N = 24
FEW = {
    "scores": ("square", {"queries": 60}),
    "decisions": ("hopskipjump", {"queries": 200, "stop_at_epsilon": True}),
    "noise": 20,
}


def network(name="digits_standard"):
    return robustscope.load_model(f"bundled:{name}").classifier.module


def samples(n=N):
    data = robustscope.load_data("digits")
    return data.read(range(n)), torch.as_tensor(data.labels[:n])


def grey(n=N):
    """Pictures of one grey, all of class 0 of the small modules below."""
    return torch.full((n, 1, 4, 4), 0.5), torch.zeros(n, dtype=torch.int64)


def door(module, **options):
    return Classifier(module.eval(), allow_probabilities=True, batch_size=500, **options)


class Changed(nn.Module):
    """A network with something done to its inputs or outputs."""

    def __init__(self, inner, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.inner, self.before, self.after = inner, before, after

    def forward(self, x):
        return self.after(self.inner(self.before(x)))


class Purified(Changed):
    """Takes a gradient step of its own before it predicts."""

    def forward(self, x):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.inner(leaf).logsumexp(1).sum(), leaf)
        return self.inner(x + 0.01 * gradient.sign())


class Scores(nn.Module):
    """Logits that are functions of the mean of the picture, less one half."""

    def __init__(self, *functions):
        super().__init__()
        self.functions = functions

    def forward(self, x):
        shift = x.flatten(1).mean(1) - 0.5
        return torch.stack([function(shift) for function in self.functions], 1)


class First(nn.Module):
    """Class 1 where the first pixel is above 0.55, with no gradient that says so."""

    def forward(self, x):
        high = (x.flatten(1)[:, 0] > 0.55).to(x)
        return torch.stack([1 - high, high], 1) + 0 * x.flatten(1)[:, :2]


class Noisier(nn.Module):
    """Wrong where the picture is as noisy as 0.02, and right where it is noisier."""

    def forward(self, x):
        spread = (x.flatten(1) - 0.5).square().mean(1).sqrt()
        margin = (spread - 0.02).abs() - 0.01
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def last_iterate(model, x, y, threat, *, draws, targets=None, loss="margin", steps: int = 9, trace: bool = False):
    """Leap from corner to corner of the ball and return the last point, adversarial or not."""
    goal = Goal(objective(loss, model.classes(x), targets is not None), y, targets)
    x_adv, values = x, []
    for step in range(steps):
        value, gradients, _ = model.gradient(goal.scores, x_adv)
        values.append(value)
        leap = threat.radius(x).reshape(-1, 1, 1, 1) * gradients.sign()
        x_adv = balls.project(threat, x, x_adv + leap) if step < steps - 1 else x
    rows = y.new_full((len(x),), steps)
    return AttackResult(x_adv, rows, rows.clone(), torch.stack(values, 1) if trace else None)


LAST = AttackCard("last_iterate", last_iterate, 1, "this test", goals=("untargeted", "targeted"))


def pgd(**parameters):
    return ("pgd", {"loss": "margin", **parameters})


def mask(name):
    return lambda: masked(name, network())


def half():
    return Changed(copy.deepcopy(network()).bfloat16(), lambda x: x.bfloat16(), lambda z: z.float())


def rough():
    return Changed(network(), after=lambda z: z, before=lambda x: x + 0.3 * (300 * x).sin())


def pass_away(x):
    return x + 0 * (x - x.detach()).square().sum(1, True).sqrt()


# name -> (module, options of trust, data). Grey pictures are for modules made by hand.
CAUGHT = {
    "above_guessing": (network, {}, lambda: (samples()[0], (samples()[1] + (torch.arange(N) > 2)) % 10)),
    "autograd_free_forward": (lambda: Purified(network()), {}, samples),
    "available_gradients": (mask("zero_gradient"), {}, samples),
    "complete_optimisation": (network, {"white": pgd(relative_step_size=0.005, random_start=False)}, samples),
    "curve_keeps_falling": (mask("zero_gradient"), {}, samples),
    "decisions_find_no_more": (mask("plateau"), {"decisions": ("hopskipjump", {"queries": 1000})}, samples),
    "deterministic": (lambda: Changed(network(), lambda x: x + 0.1 * torch.randn_like(x)), {}, samples),
    "doubling_steps_changes_nothing": (network, {"white": pgd(steps=5, random_start=False)}, samples),
    "examples_transfer": (network, {"search": door(network("digits_adversarial"))}, samples),
    "finite_gradients": (lambda: Changed(network(), pass_away), {}, samples),
    "float_layers": (half, {}, samples),
    "gradient_is_the_derivative": (mask("detached_branch"), {}, samples),
    "gradient_leads": (mask("shattered_relu6"), {}, samples),
    "healthy_logits": (mask("temperature_1e3"), {}, samples),
    "larger_ball_breaks_more": (
        lambda: Scores(lambda s: 0 * s, lambda s: 0.02 - (s - 0.1).abs()),
        {"white": pgd(steps=1, relative_step_size=1.0, random_start=False)},
        grey,
    ),
    "logits_not_probabilities": (mask("probabilities"), {}, samples),
    "many_steps_beat_one": (network, {"white": pgd(steps=2, relative_step_size=0.01)}, samples),
    "more_noise_is_worse": (Noisier, {}, grey),
    "no_silent_success": (network, {"white": (LAST, {})}, samples),
    "noise_finds_no_more": (First, {"white": pgd(random_start=False)}, grey),
    "one_attack_is_the_worst_case": (mask("zero_gradient"), {"scores": ("square", {"queries": 500})}, samples),
    "other_losses_find_no_more": (
        lambda: Changed(network(), after=lambda z: 30 * z),
        {"white": pgd(loss="cross_entropy")},
        samples,
    ),
    "other_samples_tell_nothing": (First, {"white": pgd(steps=2)}, grey),
    "planted_examples_are_found": (network, {"white": pgd(steps=2, relative_step_size=0.1)}, samples),
    "reference_finds_no_more": (network, {"white": pgd(steps=2, relative_step_size=0.01)}, samples),
    "restarts_change_nothing": (First, {"white": pgd(steps=2)}, grey),
    "scores_find_no_more": (mask("reversed_gradient"), {"scores": ("square", {"queries": 500})}, samples),
    "small_changes_show": (mask("labels"), {}, samples),
    "stable_predictions": (rough, {}, samples),
    "step_size_changes_nothing": (
        network,
        {"white": pgd(steps=8, relative_step_size=0.05, random_start=False)},
        samples,
    ),
    "surrogates_find_no_more": (mask("zero_gradient"), {"surrogates": [door(network())]}, samples),
    "survivors_were_moved": (mask("plateau"), {}, samples),
    "targets_find_no_more": (
        lambda: Scores(lambda s: 0 * s, lambda s: 0 * s - 0.05, lambda s: 10 * s - 0.5),
        {"white": pgd(random_start=False)},
        grey,
    ),
    "unbounded_breaks_all": (mask("zero_gradient"), {}, samples),
}


@pytest.mark.parametrize("name", [card.name for card in PROBES])
def test_each_probe_catches_what_was_made_for_it(name):
    make, options, data = CAUGHT[name]
    x, y = data()
    first = ["scores_find_no_more"] if name == "one_attack_is_the_worst_case" else []
    options = {"also": (), "noise": 20, **options}
    found = trust(door(make()), x, y, "linf:0.1", probes=[*first, name], **options)
    check, card = found[name], PROBES[name]
    assert check.verdict == "fail", check.evidence
    assert check.weight >= card.weight or name == "float_layers"
    assert found.verdict != "trust"
    assert check.means == card.means
    assert check.remedy
    assert check.figure is not None
    assert check.limit is not None


@pytest.fixture(scope="module")
def honest():
    model, (x, y) = door(network("digits_adversarial")), samples(12)
    model.ledger.reset()
    return trust(model, x, y, "linf:0.1", surrogates=[door(network())], **FEW), model


def test_an_honest_network_passes_every_probe(honest):
    found, _ = honest
    told = {check.name: (check.verdict, check.evidence) for check in found.checks}
    assert {check.name for check in found.checks} == {card.name for card in PROBES} == set(CAUGHT)
    assert [name for name, (verdict, _) in told.items() if verdict == "not applicable"] == ["examples_transfer"]
    assert not found.failed, told
    assert found.verdict == "trust"
    assert "nothing found" in str(found)
    assert (found.n, found.correct) == (12, 11)
    assert 0 < found.left < 11
    with pytest.raises(KeyError):
        found["nothing"]


def test_no_probe_costs_more_than_its_card_says(honest):
    found, model = honest
    most = expected_rows(scores=FEW["scores"], decisions=FEW["decisions"], surrogates=1, noise=FEW["noise"])
    for check in found.checks:
        assert check.forward <= 12 * most[check.name][0], check.name
        assert check.backward <= 12 * most[check.name][1], check.name
    own = sum(check.backward for check in found.checks if check.name != "surrogates_find_no_more")
    assert model.ledger.backward - own <= 12 * most["evaluation"][1]


QUICK = [
    "available_gradients",
    "gradient_is_the_derivative",
    "gradient_leads",
    "healthy_logits",
    "unbounded_breaks_all",
]


@pytest.mark.parametrize("name", list(MASKED))
def test_networks_that_hide_their_gradients_are_never_trusted(name):
    x, y = samples(12)
    found = trust(door(masked(name, network())), x, y, "linf:0.1", probes=QUICK, also=())
    assert found.verdict != "trust"


def test_without_a_mask_the_same_network_is_trusted():
    assert trust(door(network()), *samples(12), "linf:0.1", probes=QUICK, also=()).verdict == "trust"


def there_and_back(model, x, y, threat, *, draws, targets=None, loss="margin", steps: int = 2, trace: bool = False):
    """Look at the brightest corner of the ball and return the darkest."""
    goal, rows = Goal(objective(loss, model.classes(x), targets is not None), y, targets), y.new_full((len(x),), steps)
    reach = threat.radius(x).reshape(-1, 1, 1, 1)
    values = [model.gradient(goal.scores, point)[0] for point in (x, balls.project(threat, x, x + reach))]
    dark = balls.project(threat, x, x - reach)
    return AttackResult(dark, rows, rows.clone(), torch.stack(values, 1) if trace else None)


@pytest.mark.parametrize(("threat", "weight", "verdict"), [("linf:0.05", 2, "doubt"), ("linf:0.2", 3, "do not trust")])
def test_an_attack_that_hands_back_its_last_point_is_seen_at_another_radius(threat, weight, verdict):
    """Class 1 where the picture is brighter by 0.15: nothing is lost at 0.05, and everything at four times of it."""
    module = Scores(lambda s: 0 * s, lambda s: s - 0.15)
    white = (AttackCard("there_and_back", there_and_back, 1, "this test"), {})
    found = trust(door(module), *grey(8), threat, white=white, also=(), probes=["no_silent_success"])
    (check,) = found.checks
    assert (check.verdict, check.weight) == ("fail", weight)
    assert found.verdict.startswith(verdict)
    assert check.affected == tuple(range(8))
    assert ("8 at 4 epsilon" in check.evidence) is (weight == 2)
    honest = trust(door(module), *grey(8), threat, white=pgd(), also=(), probes=["no_silent_success"])
    assert honest.verdict == "trust"


# The verdict is a function of the results alone.


def results(*weights, **changes):
    passed = Check("fine", "pass", "well")
    return [
        passed,
        *(Check(f"f{i}", "fail", "bad", "means ill", "do", weight=w, **changes) for i, w in enumerate(weights)),
    ]


@pytest.mark.parametrize(
    ("weights", "verdict"),
    [
        ((), "trust"),
        ((1,), "doubt"),
        ((2,), "doubt"),
        ((1, 2), "doubt"),
        ((2, 2), "do not trust this number"),
        ((1, 1, 1, 1), "do not trust this number"),
        ((3,), "do not trust this number"),
    ],
)
def test_the_verdict_of_weights(weights, verdict):
    found = judge(results(*weights))
    assert found.verdict == verdict
    assert [check.weight for check in found.failed] == sorted(weights, reverse=True)
    assert len(found.why) == max(1, len(weights))


def test_what_was_not_asked_leaves_a_doubt():
    silent = Check("asked", "not applicable", "no attack was given")
    assert judge([*results(), silent]).verdict == "trust"
    assert judge([*results(), replace(silent, vital=True)]).verdict == "doubt"
    with pytest.raises(InvalidValue, match="no results"):
        judge([])


def test_a_black_box_is_doubted():
    module, (x, y) = network(), samples(8)
    box = BlackBox(lambda x: module(torch.as_tensor(x)).detach(), num_classes=10, answers="scores")
    found = trust(Classifier(box), x, y, "linf:0.1", noise=3, **{k: FEW[k] for k in ("scores", "decisions")})
    assert found["available_gradients"].verdict == "not applicable"
    assert found["deterministic"].verdict == "pass"
    assert found.verdict == "doubt"
    assert any("available_gradients is not known" in reason for reason in found.why)


def test_a_failed_probe_names_the_samples_that_were_given():
    x, y = samples()
    wrong = y.clone()
    wrong[:5] = (y[:5] + 1) % 10  # left out: not classified "correctly"
    right = (network()(x).argmax(1) == wrong).nonzero()[:, 0].tolist()
    found = trust(
        door(masked("zero_gradient", network())), x, wrong, "linf:0.1", probes=["available_gradients"], also=()
    )
    assert found["available_gradients"].affected == tuple(right)
    assert found.correct == len(right) < N - 4


def test_the_rest_of_an_evaluation_counts():
    x, y = samples()
    white, probes = pgd(steps=1, relative_step_size=0.01), ["many_steps_beat_one"]
    model = door(network())
    alone = trust(model, x, y, "linf:0.1", white=white, also=(), probes=probes)
    whole = trust(model, x, y, "linf:0.1", white=white, also=[pgd()], probes=probes)
    told = trust(model, x, y, "linf:0.1", white=white, also=(), broken=torch.ones(N, dtype=torch.bool), probes=probes)
    assert [found.verdict for found in (alone, whole, told)] == ["do not trust this number", "trust", "trust"]
    assert alone.left > whole.left > told.left == 0


def test_results_can_be_repeated_and_leave_no_trace():
    net, (x, y) = network(), samples(8)
    module = Changed(net, lambda x: x + 1e-6 * torch.randn_like(x))
    state, weights = torch.get_rng_state(), [p.clone() for p in net.parameters()]
    names = ["planted_examples_are_found", "noise_finds_no_more", "gradient_leads", "stable_predictions"]
    trust(door(module), x, y, "linf:0.1", probes=names, also=(), noise=3)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))
    assert all(p.grad is None and not p._backward_hooks for p in net.parameters())
    once, again = (
        trust(Classifier(net, batch_size=size), x, y, "linf:0.1", probes=names, also=(), noise=3) for size in (500, 7)
    )
    for a, b in zip(once.checks, again.checks, strict=True):
        assert (a.name, a.verdict, a.affected) == (b.name, b.verdict, b.affected)
        assert a.figure == pytest.approx(b.figure, rel=1e-3)


@pytest.mark.parametrize("threat", ["l2:0.4", "l1:2"])
def test_other_norms_and_double_precision(threat):
    x, y = samples(8)
    module = network("digits_adversarial").double()
    slow = {"restarts_change_nothing", "targets_find_no_more", "step_size_changes_nothing", "other_losses_find_no_more"}
    probes = [card.name for card in PROBES if card.name not in slow]
    found = trust(door(module), x.double(), y, threat, probes=probes, **{**FEW, "decisions": None})
    assert found["planted_examples_are_found"].verdict != "fail"
    assert not [check for check in found.failed if check.weight > 1], found.why
    assert found["decisions_find_no_more"].verdict == "not applicable"


def test_what_cannot_be_examined_is_refused():
    model, (x, y) = door(network()), samples(6)
    with pytest.raises(InvalidType, match="linf, l2 or l1"):
        trust(model, x, y, "l0:3")
    for threat in ("linf:0", "linf:inf"):
        with pytest.raises(InvalidValue, match="above 0 and finite"):
            trust(model, x, y, threat)
    with pytest.raises(InvalidValue, match="none of 6"):
        trust(model, x, (y + 1) % 10, "linf:0.1")
    with pytest.raises(UnknownName, match="gradient_leads"):
        trust(model, x, y, "linf:0.1", probes=["gradient_lead"])
    with pytest.raises(UnknownName):
        trust(model, x, y, "linf:0.1", scores=("squares", {}))
    with pytest.raises(InvalidValue, match="tolerance"):
        trust(model, x, y, "linf:0.1", tolerance=1.0)


# Figures against closed forms.


def bench_of(model, x, y, threat, **options):
    _, bench = _bench(model, x, y, threat, pgd(), Draws(0, tuple(range(len(x)))), None)
    return replace(bench, **options)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_gradients_of_a_linear_model_agree_with_its_scores(norm):
    p = problems.linear_multiclass(n=6)
    bench = bench_of(Classifier(p.module), p.x, p.y, ThreatModel(norm, 0.05))
    for size in (0.01, 0.1):
        torch.testing.assert_close(agreement(bench, p.x, size), torch.ones(6, dtype=torch.float64))
    turned = Changed(p.module, lambda x: 2 * x.detach() - x)  # the value at x, the derivative of -x
    reversed_ = bench_of(Classifier(turned.eval()), p.x, p.y, ThreatModel(norm, 0.05))
    torch.testing.assert_close(agreement(reversed_, p.x, 0.1), -torch.ones(6, dtype=torch.float64))


def test_the_curve_of_a_linear_model_is_the_exact_one():
    model, x, y, radius = exact_digits("linf", 120)
    found = trust(model, x, y, "linf:0.1", probes=["larger_ball_breaks_more"], also=())
    left = [int((radius > factor * 0.1).sum()) for factor in (0.25, 0.5, 1, 2, 4)]
    told = found["larger_ball_breaks_more"].evidence
    counts = [int(part.split()[0]) for part in told.partition(": ")[2].split(", ")]
    assert all(exact <= count <= exact + 3 for exact, count in zip(left, counts, strict=True)), (left, told)


def test_the_variation_of_a_linear_margin_is_a_quarter_of_the_side():
    """One pixel, margin 0.2 + s: mean |d| over a side of 8/255 is a quarter of it."""
    x, y = torch.full((200, 1), 0.5), torch.zeros(200, dtype=torch.int64)
    model = Classifier(Scores(lambda s: 0.2 + s, lambda s: 0 * s).eval())
    found = trust(model, x, y, "linf:0.1", probes=["stable_predictions"], also=())["stable_predictions"]
    assert found.figure == pytest.approx(8 / 255 / 4 / 0.2, rel=0.03)


def test_what_still_rises():
    straight = torch.linspace(0, 1, 41)
    rises = still_rising(torch.stack([straight, straight.clamp(max=0.5), straight.flip(0), torch.zeros(41)]))
    torch.testing.assert_close(rises, torch.tensor([9 / 40, 0.0, 0.0, 0.0]))
    early = straight.clone()
    early[20:] = torch.nan
    assert still_rising(early[None]).item() == 0


def test_dead_units_are_told_from_hidden_gradients():
    dead = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    nn.init.constant_(dead[1].bias, -50.0)
    x, _ = samples()
    y = dead(x).argmax(1)
    probes = ["available_gradients", "small_changes_show"]
    found = trust(door(dead), x, y, "linf:0.1", probes=probes, also=())
    assert found.verdict == "trust"
    assert all(f"{N} more lie where all units are dead" in check.evidence for check in found.checks)
    assert trust(door(masked("labels", network())), *samples(), "linf:0.1", probes=probes, also=()).verdict != "trust"


# The binarization test.


def test_a_cut_network_shows_its_last_features():
    net, (x, _) = network(), samples(5)
    cut = Cut(net, x[:1])
    assert cut.inner
    assert cut.features == 128
    with torch.no_grad():
        torch.testing.assert_close(cut.seen(x), net[:-1](x))
    assert cut(x).shape == (5, 2)
    assert net(x).shape == (5, 10)
    headless = Cut(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()).eval(), x[:1])
    assert not headless.inner
    assert headless.features == 3
    twice = Changed(nn.Sequential(nn.Flatten(), nn.Linear(64, 64)), after=lambda z: z)
    assert Cut(twice.eval(), x[:1]).inner


def test_what_stands_behind_the_last_layer_may_want_more_than_two_logits():
    net, (x, y) = network(), samples(6)
    picky = Changed(net, after=lambda z: z[:, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])
    picky.eval()
    with torch.no_grad():
        torch.testing.assert_close(Cut(picky, x[:1], runs=False).seen(x), net[:-1](x))
        torch.testing.assert_close(Cut(picky, x[:1]).seen(x), net(x))
    found = trust(door(picky), x, y, "linf:0.1", probes=["planted_examples_are_found"], also=())
    assert "in the logits" in found["planted_examples_are_found"].evidence


def test_a_discriminator_separates_or_says_that_it_cannot():
    inner = Draws(0, tuple(range(300))).normal("points", torch.empty(300, 20, dtype=torch.float64))
    far = torch.zeros(20, dtype=torch.float64)
    far[3] = 9.0
    weight, inside, outside = discriminator(inner, far)
    assert inside < outside
    assert float((inner @ weight).max()) == float(inside)
    assert int(weight.abs().argmax()) == 3
    assert discriminator(inner, inner.mean(0)) is None
    assert discriminator(torch.ones(5, 3, dtype=torch.float64), far[:3]) is None


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_what_is_planted_is_there(norm):
    model, (x, y) = door(network()), samples(4)
    threat = ThreatModel(norm, {"linf": 0.1, "l2": 0.5, "l1": 2.0}[norm])
    bench = bench_of(model, x, y, threat)
    cut = Cut(model.module, x[:1])
    binary = replace(model, module=cut, ledger=Ledger())
    done = 0
    for row in range(4):
        one = bench.part(torch.tensor([row]))
        if not plant(binary, cut, one, size=7.0):
            continue
        done += 1
        assert binary.logits(one.x).diff().item() == pytest.approx(-7.0, rel=1e-4), "as sure as it was asked to be"
        draws = one.draws.within("binarization")
        inner = torch.cat([balls.sample(threat.scaled(0.95), one.x, draws, f"inner/{i}") for i in range(INNER)])
        assert (binary.logits(inner).argmax(1) == 0).all()
        edges = torch.cat([corner(threat, one.x, draws, f"boundary/{i}") for i in range(10)])
        assert balls.contains(threat, one.x.expand_as(edges), edges).all()
        assert (binary.logits(edges).argmax(1) == 1).any(), "an adversarial example exists"
    assert done >= 2


def test_every_card_is_complete():
    for card in PROBES:
        for text in (card.source, card.measures, card.means, card.remedy, card.summary()):
            assert len(text) > 15, card.name
        assert card.weight in (1, 2, 3)
        assert card.access in ("gradients", "scores", "decisions")
    assert sum(card.vital for card in PROBES) == 4
    assert "pgd" in ATTACKS
    assert "last_iterate" not in ATTACKS
    assert isinstance(Bench.__doc__, str)


def test_the_page_lists_every_probe_with_its_weight():
    page = (Path(__file__).resolve().parents[1] / "docs" / "trust.md").read_text(encoding="utf-8")
    for card in PROBES:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{card.name}` |"))
        assert card.measures in row
        assert row.split("|")[3].strip() == f"{card.weight}{' *' if card.vital else ''}", card.name


def test_a_handful_of_samples_is_never_trusted():
    model = Classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval())
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = model.logits(x).argmax(1)
    few, enough = (trust(model, x[:n], y[:n], "linf:0.1", probes=["available_gradients"]) for n in (7, 8))
    assert (few.verdict, enough.verdict) == ("doubt", "trust")
    assert "only 7 samples" in few.why[0]


def test_samples_around_which_all_units_are_dead_are_no_sign_of_masking():
    """Four of twelve lie where no unit is on within the ball: their gradient of zero is the truth, and no attack can move them."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(4))
        net[1].bias.fill_(-0.5)
        net[3].weight.copy_(torch.tensor([[-1.0] * 4, [1.0] * 4]))
        net[3].bias.copy_(torch.tensor([0.2, -0.2]))
    x = torch.full((12, 1, 2, 2), 0.1)
    x[4:] = 0.9
    model = Classifier(net)
    names = ["available_gradients", "small_changes_show", "survivors_were_moved"]
    found = trust(model, x, model.logits(x).argmax(1), "linf:0.1", probes=names, also=())
    assert found.verdict == "trust", found
    assert all("4 more lie where all units are dead" in found[name].evidence for name in names)
    hidden = Classifier(nn.Sequential(net, Round()).eval())  # behind the features, something hides what moves
    masked_ = trust(hidden, x, hidden.logits(x).argmax(1), "linf:0.1", probes=names, also=())
    assert masked_.verdict == "do not trust this number"


class Round(nn.Module):
    def forward(self, z):
        return z.sign()
