"""Automatic flags: each is raised by a model or a table made for it, and none by a plain network."""

import pandas as pd
import pytest
import torch
from torch import nn

import robustscope
from robustscope.analyses.flags import LIMITS, flags
from robustscope.core.types import Ledger
from robustscope.models.classifier import Classifier
from robustscope.models.loading import load_model
from robustscope.probes.flags import COST, SAMPLES, measure_flags
from robustscope.runs.store import read_record
from run_factory import make_plan, make_table


@pytest.fixture(scope="module")
def digits():
    data = robustscope.load_data("digits")
    return data.read(range(60)), torch.as_tensor(data.labels[:60])


@pytest.fixture(scope="module")
def plain():
    return load_model("bundled:digits_adversarial").classifier.module


class Changed(nn.Module):
    """A network with something done to its inputs or outputs."""

    def __init__(self, inner, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.inner, self.before, self.after = inner, before, after
        self.eval()

    def forward(self, x):
        return self.after(self.inner(self.before(x)))


class Purified(Changed):
    """Takes a gradient step of its own before it predicts."""

    def forward(self, x):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.inner(leaf).logsumexp(1).sum(), leaf)
        return self.inner(x + 0.01 * gradient.sign())


class Seldom(Changed):
    """Random in one pass of three."""

    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return self.inner(x) * (2.0 if self.calls % 3 == 0 else 1.0)


class Reversed(torch.autograd.Function):
    """Passes inputs on as they are and turns gradients round."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def names(module, digits, **options):
    return {f.name: f for f in measure_flags(Classifier(module, **options), *digits)}


def test_plain_networks_raise_nothing(plain, digits):
    assert not names(plain, digits)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    assert not names(mlp, digits)
    assert not names(mlp, (digits[0][:1], digits[1][:1]))


@pytest.mark.parametrize(
    ("flag", "made"),
    [
        ("determinism", lambda net: Changed(net, after=lambda z: z + 0.05 * torch.randn_like(z))),
        ("determinism", Seldom),
        ("determinism", lambda net: Changed(net, after=lambda z: z - z.mean(0))),
        ("probabilities", lambda net: Changed(net, after=lambda z: z.softmax(1))),
        ("gradients", lambda net: Changed(net, before=torch.round)),
        ("gradients", lambda net: Changed(net, after=lambda z: 1e4 * z)),
        ("gradients", lambda net: Changed(net, before=torch.Tensor.detach)),
        ("autograd", Purified),
    ],
    ids=["noise", "seldom noise", "coupled", "softmax", "rounded", "saturated", "detached", "purified"],
)
def test_a_model_made_for_it_raises_the_flag(plain, digits, flag, made):
    found = names(made(plain), digits, allow_probabilities=True)
    assert flag in found
    assert found[flag].remedy


def test_half_precision_raises_the_flag_of_the_layers(digits):
    half = nn.Sequential(nn.Flatten(), nn.Linear(64, 10).bfloat16()).eval()
    mixed = Changed(half, before=lambda x: x.bfloat16(), after=lambda z: z.float())
    assert "layers" in names(mixed, digits)


def test_flags_are_counted_and_leave_no_trace(plain, digits):
    ledger, before = Ledger(), torch.get_rng_state()
    measure_flags(Classifier(Changed(plain, after=lambda z: z + torch.randn_like(z)), ledger=ledger), *digits)
    assert torch.equal(before, torch.get_rng_state())
    assert SAMPLES < ledger.forward <= COST[0] * SAMPLES
    seen = []
    handle = plain.register_forward_hook(lambda module, inputs, logits: seen.append(len(logits)))
    ledger = Ledger()
    measure_flags(Classifier(plain, ledger=ledger), *digits)
    handle.remove()
    assert (ledger.forward, ledger.backward) == (sum(seen), COST[1] * SAMPLES)
    assert all(parameter.grad is None for parameter in plain.parameters())


# What the table shows.

WHITE = {"floor": False, "access": "gradients", "aim": "fixed-epsilon", "forward": 10, "backward": 10}
BLACK = {**WHITE, "access": "scores", "backward": 0}


def world(attacks, n=200, **changes):
    """A run of such attacks, whose plan says of each what a true plan says."""
    radii = (("linf", 0.1, True),)
    plan = make_plan(n=n, radii=radii, attacks=attacks)
    for cell, attack in zip(plan["cells"], attacks, strict=True):
        cell.update(access=attack["access"], aim=attack["aim"])
    table = make_table(plan, attacks=attacks, **changes)
    broken = set()
    for cell in plan["cells"]:  # each attack meets only what was left
        mine = table["cell"] == cell["index"]
        gone = mine & table["sample"].isin(broken)
        table.loc[gone, ["status", "success"]] = ["skipped", pd.NA]
        broken |= set(table.loc[mine & table["success"].fillna(False), "sample"])
    return table, plan


def raised(table, plan):
    return set(flags(table, plan).query("raised")["flag"])


def named(attack, reach, kind=WHITE):
    return {**kind, "attack": attack, "label": attack, "reach": reach}


def test_a_sound_run_raises_nothing():
    table, plan = world([named("pgd", 0.98), named("apgd_targeted", 1.0), named("square", 0.9, BLACK)])
    assert raised(table, plan) == set()
    assert set(flags(table, plan)["flag"]) == set(LIMITS)


def test_what_black_boxes_break_after_white_boxes_raises_a_flag():
    table, plan = world([named("pgd", 0.9), named("square", 1.0, BLACK)])
    found = flags(table, plan).set_index("flag").loc["black box beyond white box"]
    second = table[(table["cell"] == 1) & table["success"].fillna(False)]
    assert found["raised"]
    assert (found["count"], found["of"]) == (len(second), 200)
    assert raised(*world([named("square", 1.0, BLACK), named("pgd", 0.9)])) == set(), "nothing to compare with"


def test_one_sample_of_a_thousand_is_no_flag():
    table, plan = world([named("pgd", 1.0), named("square", 1.0, BLACK)], n=1000)
    left = table[(table["cell"] == 1) & (table["status"] == "ok")].index
    table.loc[left[:2], "success"] = True
    assert raised(table, plan) == set(), "0.2 points are AutoAttack's limit"
    table.loc[left[:3], "success"] = True
    assert raised(table, plan) == {"black box beyond white box"}


def test_what_targeted_attacks_break_after_untargeted_ones_raises_a_flag():
    table, plan = world([named("apgd", 0.5), named("apgd_targeted", 1.0)])
    assert raised(table, plan) == {"targeted beyond untargeted"}


def test_margins_that_nothing_moves_raise_a_flag():
    table, plan = world([named("pgd", 0.9)])
    table["adv_margin"] = table["clean_margin"]
    assert raised(table, plan) == {"nothing moved"}
    plan["cells"][0]["aim"] = "minimum-norm"
    assert raised(table, plan) == set(), "such an attack returns the input itself where it finds nothing"


def test_misclassification_at_distance_zero_raises_a_flag():
    table, plan = world([named("pgd", 1.0)])
    table.loc[table.index[table["success"].fillna(False)][0], "distance"] = 0.0
    assert raised(table, plan) == {"distance zero"}


# From a run to its report.


def cautions(module, digits, threat="linf:0.08", **options):
    x, y = digits
    result = robustscope.evaluate(module, (x, y), threat, curve=(), threads=1, **options)
    return [line["message"] for line in result.summary()["warnings"] if "Flag of" in line["message"]], result


def test_the_report_of_a_plain_network_shows_no_flag(plain, digits):
    found, result = cautions(plain, digits, attacks=["pgd", "apgd_targeted:steps=20", "square:queries=50"])
    assert found == []
    assert read_record(result.run)["flags"] == []


def test_reversed_gradients_are_flagged_from_end_to_end(plain, digits):
    """Gradient attacks walk uphill; Square, which sees scores alone, breaks what they leave."""
    module = Changed(plain, before=Reversed.apply)
    found, result = cautions(module, digits, "linf:0.2", attacks=["pgd:steps=5", "square:queries=100"])
    assert any("black box beyond white box" in text for text in found)
    assert "Flag of" in result.report().read_text(encoding="utf-8")


def test_rounded_inputs_are_flagged_from_end_to_end(plain, digits):
    module = Changed(plain, before=torch.round)
    found, result = cautions(module, digits, "linf:0.01", attacks=["pgd:steps=3"])
    assert any("gradients:" in text for text in found)
    assert any("nothing moved" in text for text in found)
    assert [flag["model"] for flag in read_record(result.run)["flags"]] == ["model"]


def test_few_classes_are_noted(plain, digits):
    x, y = digits
    three = Changed(plain, after=lambda z: z[:, :3])
    picked = y < 3
    result = robustscope.evaluate(
        three, (x[picked], y[picked]), "linf:0.02", curve=(), attacks=["apgd_targeted:steps=3"], threads=1
    )
    (note,) = [line for line in result.summary()["warnings"] if "3 classes" in line["message"]]
    assert note["level"] == "note"
    assert "at most the 2 other classes" in note["message"]
    assert "targeted difference-of-logits" in note["message"]
