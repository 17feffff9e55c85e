"""The twin computes the same function faster, the original stays as it is, and no verdict is the twin's."""

import dataclasses
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustscope.api import evaluate
from robustscope.attacks.compose import Attempt, attack, cascade
from robustscope.contracts.trial import ModelWatch
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue, UnknownName
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.models import twin as twins
from robustscope.models.classifier import Classifier
from robustscope.models.layers import build
from robustscope.models.randomness import random_state, same_random_state
from robustscope.models.twin import Twin, check_kind, fold, make_twin


def settled(module, seed=0):
    """Give every batch norm statistics, scales and shifts that are far from doing nothing."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            for tensor in (part.running_mean, part.weight, part.bias):
                if tensor is not None:
                    tensor.data.normal_()
            if part.running_var is not None:
                part.running_var.uniform_(0.2, 3)
    return module.eval()


class Block(nn.Module):
    """A residual block as people write it: named modules, functional ReLU, no nn.Sequential."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6, affine=False)
        self.short = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.short(x)
        return self.head(F.relu(out).mean((2, 3)))


class Untraceable(nn.Module):
    """Branches on values, which a tracer cannot follow; its batch norms stand in an nn.Sequential and beside one."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.conv, self.bn, self.head = nn.Conv2d(6, 6, 2), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.bn(self.conv(self.body(x)))
        if x.sum() > 1e9:
            x = -x
        return self.head(x.mean((2, 3)))


class Twice(nn.Module):
    """A convolution called twice, one whose output is used twice, and a batch norm shared by two."""

    def __init__(self):
        super().__init__()
        self.shared, self.seen = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.one, self.two, self.both = (nn.BatchNorm2d(3) for _ in range(3))
        self.a, self.b, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 4)

    def forward(self, x):
        x = self.one(self.shared(x)) + self.shared(x)
        seen = self.seen(x)
        x = self.two(seen) * seen
        return self.head((self.both(self.a(x)) + self.both(self.b(x))).mean((2, 3)))


class Unfixed(nn.Sequential):
    """A batch norm without statistics of its own normalises by the batch."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )


def card_block():
    conv = {"type": "conv2d", "in": 3, "out": 3, "kernel": 3, "padding": 1}
    norm = {"type": "batchnorm2d", "channels": 3}
    residual = {"type": "residual_add", "main": [conv, norm, {"type": "relu"}, conv, norm], "shortcut": [conv, norm]}
    return build([conv, norm, residual, {"type": "global_avgpool2d"}])


def batch_norms(module):
    return sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


@pytest.mark.parametrize(("make", "left"), [(Block, 0), (card_block, 0), (Untraceable, 1), (Twice, 3), (Unfixed, 1)])
def test_folding_changes_the_arithmetic_and_not_the_function(make, left):
    module = settled(make()).double()
    x = torch.rand(5, 3, 6, 6, dtype=torch.float64)
    before = module(x)
    with torch.no_grad():
        notes = list(fold(module))
    assert batch_norms(module) == left
    torch.testing.assert_close(module(x), before, rtol=0, atol=1e-13)
    assert any("tracing failed" in note for note in notes) == (make is Untraceable)


@pytest.mark.parametrize(
    ("conv", "norm", "shape"), [(nn.Conv1d, nn.BatchNorm1d, (7,)), (nn.Conv3d, nn.BatchNorm3d, (5, 5, 5))]
)
def test_other_dimensions_fold_too(conv, norm, shape):
    module = settled(nn.Sequential(conv(2, 3, 3, stride=2, padding=1, padding_mode="circular"), norm(3))).double()
    x = torch.rand(4, 2, *shape, dtype=torch.float64)
    before = module(x)
    assert list(fold(module)) == ["1 batch norm was folded into a convolution"]
    torch.testing.assert_close(module(x), before, rtol=0, atol=1e-13)


def test_the_original_stays_bit_for_bit_as_it_is():
    module, x = settled(Block()), torch.rand(20, 3, 8, 8)
    watch, state, model = ModelWatch(module), random_state(), Classifier(module)
    twin = make_twin(model, x)
    assert twin.kind == "folded"
    assert twin.notes == ("3 batch norms were folded into convolutions", "channels last")
    assert watch.changes() == []
    assert same_random_state(state, random_state())
    assert batch_norms(module) == 3
    assert twin.classifier.ledger is model.ledger
    assert (model.ledger.forward, model.ledger.backward) == (16, 16), "the comparison is counted"
    score = lambda logits, rows: logits[:, 0]  # noqa: E731
    mine, its = model.gradient(score, x), twin.classifier.gradient(score, x)
    for one, two in zip(mine, its, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
    assert its[1].is_contiguous(), "gradients come in the layout of the inputs"


class Changed(nn.Linear):
    """A module whose copy computes something else."""

    def __deepcopy__(self, memo):
        other = Changed(self.in_features, self.out_features)
        other.weight.data = self.weight.data * 1.1
        return other.eval()


class Stubborn(nn.Linear):
    def __deepcopy__(self, memo):
        raise TypeError("no copies are made of me")


def hooked():
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    module[1].register_forward_hook(lambda module, inputs, output: output)
    return module


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Changed(4, 3), r"logits differ by .* where 0.0001 is allowed"),
        (lambda: Stubborn(4, 3), "no copies are made of me"),
        (hooked, "the model has hooks"),
    ],
)
def test_a_twin_that_cannot_be_trusted_is_refused(make, match):
    model = Classifier(make().eval())
    twin = make_twin(model, torch.rand(6, 4))
    assert twin.kind == "off"
    assert twin.classifier is model
    (note,) = twin.notes
    assert "the folded twin was refused" in note
    assert re.search(match, note)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = settled(Block())

    def forward(self, x):
        return self.inner(x + 0.1 * torch.randn_like(x))


def test_gradients_are_compared_too(monkeypatch):
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return 1.5 * gradient

    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval())
    build_as_is = twins._build

    def build_steep(module, kind):
        made, notes = build_as_is(module, kind)
        made.register_forward_hook(lambda module, inputs, output: Steep.apply(output))
        return made, notes

    monkeypatch.setattr(twins, "_build", build_steep)
    twin = make_twin(model, torch.rand(6, 4))
    assert twin.kind == "off"
    assert "gradients differ by 5.0e-01" in twin.notes[0]


def test_a_model_that_draws_random_numbers_is_searched_itself():
    """Each pass of such a model differs from the last; that its twin is the same model cannot be told from eight samples."""
    model, x = Classifier(Noisy().eval()), torch.rand(8, 3, 8, 8)
    state = random_state()
    assert make_twin(model, x).kind == "off"
    assert same_random_state(state, random_state())


def test_what_is_not_allowed_says_so():
    model, x = Classifier(nn.Linear(4, 3).eval()), torch.rand(2, 4)
    with pytest.raises(UnknownName, match="folded"):
        make_twin(model, x, "fold")
    for kind in ("bfloat16", "float16"):
        with pytest.raises(InvalidValue, match="order of magnitude slower on a CPU"):
            make_twin(model, x, kind)
        check_kind(kind, "cuda")
    with pytest.raises(InvalidType, match="twin of type int"):
        attack("fgsm", model, x, torch.tensor([0, 1]), "linf:0.1", twin=3)
    with pytest.raises(InvalidValue, match="on a CPU"):
        evaluate(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), "digits", twin="float16", samples="5")


def test_compiling_is_asked_for_with_sizes_that_may_change(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda module, **options: asked.append(options) or module)
    twin = make_twin(Classifier(settled(Block())), torch.rand(8, 3, 8, 8), "compiled")
    assert twin.kind == "compiled"
    assert twin.notes[-1] == "compiled"
    assert asked == [{"dynamic": True}]
    assert not any(weight.requires_grad for weight in twin.classifier.module.parameters()), (
        "or the compiler would trace them"
    )


def test_16_bit_arithmetic_gives_back_the_dtype_of_the_inputs():
    module, x = settled(Block()), torch.rand(6, 3, 8, 8)
    stand = twins._Stand(module, True, torch.bfloat16).eval()
    got = stand(x)
    assert got.dtype == torch.float32
    assert not torch.equal(got, module(x))
    torch.testing.assert_close(got, module(x), rtol=0.05, atol=0.05)
    assert not twins._disagreement(Classifier(module), Classifier(stand), x, "bfloat16")
    assert twins._disagreement(Classifier(module), Classifier(stand), x, "folded")


class Biased(nn.Module):
    """The model with one logit raised: it believes in successes that the model does not confirm."""

    def __init__(self, inner, amount):
        super().__init__()
        self.inner, self.amount = inner, amount

    def forward(self, x):
        logits = self.inner(x)
        return torch.cat([logits[:, :1] + self.amount, logits[:, 1:]], 1)


def lying_twin(model, amount):
    return Twin(dataclasses.replace(model, module=Biased(model.module, amount).eval()), "folded", ("a lie",))


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    ("name", "options"), [("pgd", {"steps": 8, "restarts": 2, "trace": True}), ("fmn", {"steps": 20})]
)
def test_what_fools_the_twin_alone_is_attacked_as_if_there_were_no_twin(name, options, targeted):
    p = problems.smooth_cnn(n=40)
    targets = (p.y + 1) % 3 if targeted else None
    threat = ThreatModel("linf", 0.06)
    plain, model = Classifier(p.module), Classifier(p.module)
    alone = attack(name, plain, p.x, p.y, threat, targets=targets, **options)
    outcome = attack(name, model, p.x, p.y, threat, targets=targets, twin=lying_twin(model, 1.0), **options)
    again = outcome.reverted
    assert outcome.twin == "folded"
    assert again.any()
    assert not again.all()
    torch.testing.assert_close(outcome.result.x_adv[again], alone.result.x_adv[again])
    for field in dataclasses.fields(outcome.verdict):
        mine, its = (getattr(one.verdict, field.name)[again] for one in (alone, outcome))
        torch.testing.assert_close(its, mine, msg=field.name)
    assert torch.equal(outcome.verdict.success[again], alone.verdict.success[again])
    believed = plain.logits(outcome.result.x_adv)
    fooled = believed.argmax(1) != p.y if targets is None else believed.argmax(1) == targets
    assert torch.equal(outcome.verdict.success, fooled), "the verdict is the model's own"
    assert (outcome.result.backward[again] > alone.result.backward[again]).all(), "both searches count"
    assert model.ledger.backward == int(outcome.result.backward.sum())
    if "trace" in options:
        assert outcome.result.trace.shape == (40, 2 * alone.result.trace.shape[1])


def test_a_twin_in_a_cascade_hides_nobody():
    """A twin that takes every clean input for adversarial would leave all of them unattacked."""
    p = problems.smooth_cnn(n=30)
    model, attempted = Classifier(p.module), p.y != 0
    threat = ThreatModel("linf", 0.03)
    attempts = [Attempt("fgsm", threat), Attempt("pgd", threat, {"steps": 10})]
    broken = []
    for twin in (None, lying_twin(model, 1e3), make_twin(model, p.x)):
        steps = list(cascade(model, p.x, p.y, attempts, Draws(0, range(30)), attempted, twin=twin))
        assert all(step.error is None for step in steps)
        outcomes = [(step.rows, step.outcome.verdict.success) for step in steps if step.outcome is not None]
        broken.append({row for rows, success in outcomes for row in rows[success].tolist()})
    assert broken[0] == broken[2]
    assert broken[0] <= broken[1]
    assert 0 < len(broken[0]) < int(attempted.sum())


def test_a_run_says_what_it_searched_on(tmp_path):
    torch.manual_seed(0)
    body = settled(nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)))
    net = nn.Sequential(body, nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
    options = {"samples": "30", "suite": "fgsm", "curve": (), "shard_size": 20, "trust": "off"}
    runs = {
        kind: evaluate(net, "digits", "linf:0.1", twin=kind, out=tmp_path / kind, **options)
        for kind in ("off", "folded")
    }
    assert runs["off"].plan["id"] != runs["folded"].plan["id"]
    assert runs["folded"].plan["cost"]["backward"] >= 2 * runs["off"].plan["cost"]["backward"] - 32  # flags, once
    said = {kind: " ".join(item["message"] for item in run.summary()["warnings"]) for kind, run in runs.items()}
    assert "searched on its folded twin (1 batch norm was folded into a convolution, channels last)" in said["folded"]
    assert "twin" not in said["off"]
    columns = ["sample", "clean_correct", "success", "forward", "backward"]
    assert runs["off"].table[columns].equals(runs["folded"].table[columns])


def test_runs_from_before_twins_keep_their_id():
    from robustscope.runs.store import essence

    plan = {"format": 1, "seed": 0, "batch_size": 1, "threads": 1, "models": [], "cells": [], "shards": []}
    plan["data"] = {"fingerprint": ""}
    assert essence(plan) == essence({**plan, "twin": "off"}) != essence({**plan, "twin": "folded"})
