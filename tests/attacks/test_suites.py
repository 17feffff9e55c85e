"""AutoAttack's versions in every norm and for every number of classes: what they hold, what a survivor costs."""

import pytest
import torch
from torch import nn

from digits_bed import digits
from robustscope.attacks.cards import ATTACKS
from robustscope.attacks.compose import Attempt, cascade, worst_case
from robustscope.attacks.suites import RECIPES, SUITES, suite
from robustscope.core.draws import Draws
from robustscope.core.errors import UnknownName
from robustscope.core.types import ThreatModel
from robustscope.models.classifier import Classifier

NORMS = ("linf", "l2", "l1")
REFERENCE = (7888, 1910)
"""Rows forward and backward of the official standard version for a survivor, linf, ten classes, counted by hooks."""


def test_the_official_parameters_for_ten_classes_and_more():
    for classes in (10, 11, 1000):
        assert suite("standard", "linf", classes) == suite("standard", "l2", classes) == SUITES["standard"]
        assert suite("autoattack", "linf", classes) == SUITES["standard"]
    names = [name for name, _ in SUITES["standard"]]
    assert names == ["apgd", "apgd_targeted", "fab_targeted", "square"]
    resolved = {name: ATTACKS[name].resolve(more) for name, more in suite("standard", "l1", 10)}
    assert resolved["apgd"]["restarts"] == 5
    assert resolved["apgd_targeted"]["n_targets"] == 5
    assert resolved["fab_targeted"]["num_targets"] == 9
    for norm in NORMS:
        plus = [(name, more.get("loss")) for name, more in suite("plus", norm, 10)]
        assert plus[:3] == [("apgd", "cross_entropy"), ("apgd", "dlr"), ("fab", None)]
        assert [name for name, _ in plus[3:]] == ["square", "apgd_targeted", "fab_targeted"]
        assert all(more["restarts"] == 5 for _, more in suite("plus", norm, 10)[:3])
        assert [more for _, more in suite("rand", norm, 10)] == [
            {"loss": "cross_entropy", "gradient_samples": 20},
            {"loss": "dlr", "gradient_samples": 20},
        ]


@pytest.mark.parametrize(
    ("classes", "untargeted", "targeted"), [(2, "margin", "margin"), (3, "dlr", "margin"), (4, "dlr", "dlr")]
)
def test_few_classes_take_the_losses_that_are_defined_and_the_classes_there_are(classes, untargeted, targeted):
    for norm in NORMS:
        plus = [(name, ATTACKS[name].resolve(more)) for name, more in suite("plus", norm, classes)]
        assert plus[1][1]["loss"] == untargeted
        assert plus[2][1]["num_classes"] == classes
        assert (plus[4][1]["loss"], plus[4][1]["n_targets"]) == (targeted, classes - 1)
        assert plus[5][1]["num_targets"] == classes - 1
        assert suite("rand", norm, classes)[1][1]["loss"] == untargeted


def test_an_unknown_suite_names_what_there_is():
    with pytest.raises(UnknownName, match="standard"):
        suite("standart")


@pytest.mark.parametrize(
    ("norm", "epsilon"), [("linf", 0.05), ("linf", 0.1), ("linf", 0.15), ("l2", 0.5), ("l2", 0.8), ("l1", 1.4)]
)
def test_exactly_the_breakable_digits_are_broken(norm, epsilon):
    """The linear model's exact radii are known: a cascade that leaves more is weak, one that leaves fewer is wrong."""
    model, x, y, radius = digits(norm, 743, torch.float32)
    every = slice(0, None, 12)
    x, y, radius = x[every], y[every], radius[every]
    attempts = [
        Attempt(name, ThreatModel(norm, epsilon), {**more, **({"queries": 20} if name == "square" else {})})
        for name, more in suite("standard", norm, 10)
    ]
    assert torch.equal(worst_case(model, x, y, attempts, Draws(0, tuple(range(len(x))))), radius > epsilon)


class Offset(nn.Module):
    """Logits that hang on the input by at most ``slope`` over the whole box, and by no more than ``gap`` tell class 0."""

    def __init__(self, classes, gap, slope):
        super().__init__()
        weight = torch.linspace(-1, 1, classes * 64).view(classes, 64).sin()
        self.weight, self.gap = nn.Parameter(slope * weight / weight.abs().sum(1, keepdim=True)), gap

    def forward(self, x):
        logits = x.flatten(1) @ self.weight.T
        return torch.cat([logits[:, :1] + self.gap, logits[:, 1:]], 1)


class Rows:
    """Counts the rows through a module, by hooks on module and outputs."""

    def __init__(self, module):
        self.forward = self.backward = 0
        module.register_forward_hook(self.seen)

    def seen(self, module, inputs, logits):
        self.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: setattr(self, "backward", self.backward + len(gradient)))


def spent(version, norm, classes, slope=1.0, gap=10.0, n=2, **fewer):
    """Run a version on a model that nobody can break; return rows for each sample as hooks and as the attacks count."""
    module = Offset(classes, gap, slope).eval()
    model, rows = Classifier(module), Rows(module)
    x, y = torch.linspace(0.05, 0.95, n * 64).view(n, 1, 8, 8), torch.zeros(n, dtype=torch.int64)
    threat = ThreatModel(norm, {"linf": 0.3, "l2": 1.0, "l1": 4.0}[norm])
    named = suite(version, norm, classes)
    attempts = [Attempt(name, threat, {**more, **(fewer if name == "square" else {})}) for name, more in named]
    forward = backward = 0
    for step in cascade(model, x, y, attempts, Draws(0, tuple(range(n))), torch.ones(n, dtype=torch.bool)):
        assert step.error is None, step.error
        assert not step.outcome.verdict.success.any()
        forward, backward = forward + step.outcome.result.forward, backward + step.outcome.result.backward
    assert len(set(forward.tolist())) == len(set(backward.tolist())) == 1
    judge = len(attempts)  # one pass of the judge after each attack, which is not the attacks'
    unasked = 1  # the number of classes is asked for once, uncounted
    assert rows.forward == n * (int(forward[0]) + judge) + unasked
    assert rows.backward == n * int(backward[0])
    assert model.ledger.forward == rows.forward - unasked
    return int(forward[0]), int(backward[0])


@pytest.mark.parametrize("slope", [1.0, 0.0], ids=["sloping", "constant"])
def test_a_survivor_costs_no_more_rows_than_in_the_reference(slope):
    forward, backward = spent("standard", "linf", 10, slope, n=1)
    assert forward <= REFERENCE[0]
    assert backward <= REFERENCE[1]
    assert forward > 7000, "the whole of every attack must have run"


def test_the_most_that_a_survivor_can_cost_is_no_more_than_in_the_reference():
    """By the cards: with FAB's final search, which a survivor needs only where an example lies outside the radius."""
    costs = [ATTACKS[name].cost(ATTACKS[name].resolve(more)) for name, more in suite("standard", "linf", 10)]
    assert sum(forward for forward, _ in costs) <= REFERENCE[0]
    assert sum(backward for _, backward in costs) <= REFERENCE[1]


@pytest.mark.parametrize(("norm", "classes"), [("linf", 2), ("l2", 3), ("l1", 4), ("linf", 4)])
def test_the_standard_version_runs_whole_for_few_classes(norm, classes):
    """Cheaper with fewer classes: AutoAttack's own code raises below ten."""
    forward, backward = spent("standard", norm, classes, n=1, queries=20)
    targets = min(classes - 1, 5 if norm == "l1" else 9)
    restarts = 5 if norm == "l1" else 1
    assert backward == 100 * (restarts + targets) + 100 * (classes - 1)
    assert 20 + 2 * backward > forward > 20 + backward


@pytest.mark.parametrize("version", sorted(RECIPES))
def test_every_version_runs_for_two_classes(version):
    if version != "standard":
        spent(version, "linf", 2, n=1, queries=20)
