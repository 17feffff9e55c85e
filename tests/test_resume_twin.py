"""A search on a twin, stopped anywhere and taken up again: the rows that it cost are counted once."""

import dataclasses

import pytest
import torch
from torch import nn

from robustscope.api import evaluate
from robustscope.attacks.compose import Attempt, cascade
from robustscope.core.draws import Draws
from robustscope.core.resume import Keeper, keeping
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.data.datasets import load_data
from robustscope.models.classifier import Classifier
from robustscope.models.loading import from_module
from robustscope.runs.engines.local import torch_threads
from robustscope.runs.execute import run_shard
from robustscope.runs.plan import Subjects
from robustscope.runs.session import finish, start
from robustscope.runs.store import read_plan, read_record
from test_alone import Together
from test_twin import lying_twin, settled

P = problems.smooth_cnn(n=12)


class Stop(BaseException):
    """What a kill looks like from inside."""


class Memory(Keeper):
    """Saves at every checkpoint, and is killed after a number of them."""

    def __init__(self, ledger, found, left):
        self.left, self.kept, self.running = left, {}, {}
        super().__init__(ledger, found)

    def due(self):
        return True

    def save(self, running):
        self.running = dict(running)
        self.left -= 1
        if self.left == 0:
            raise Stop

    def keep(self, path, done):
        self.kept[path] = done


def run(kind, model, keeper=None):
    threat = ThreatModel("linf", 0.06)
    attempts = [Attempt("pgd", threat, {"steps": 4, "restarts": 2}), Attempt("square", threat, {"queries": 12})]
    twin = lying_twin(model, 1.0) if kind == "twin" else None
    with keeping(keeper) if keeper else torch.no_grad():
        steps = list(
            cascade(model, P.x, P.y, attempts, Draws(0, range(12)), torch.ones(12, dtype=torch.bool), twin=twin)
        )
    assert all(step.error is None for step in steps)
    return steps


def classifier(kind):
    return Classifier(Together(P.module, 0.4).eval() if kind == "together" else P.module)


@pytest.mark.parametrize("kind", ["twin", "together"])
def test_rows_count_once_wherever_the_search_was_stopped(kind):
    model = classifier(kind)
    whole = run(kind, model)
    steps = [step.outcome for step in whole if step.outcome is not None]
    assert any((s.reverted if kind == "twin" else s.alone.any(1)).any() for s in steps), "something is attacked again"
    total = Memory(classifier(kind).ledger, {}, -1)
    run(kind, dataclasses.replace(classifier(kind), ledger=total._ledger), total)
    checkpoints = -1 - total.left
    assert checkpoints > 10
    for stop in range(1, checkpoints + 1, 3):
        found, ledger = {}, None
        for left in (stop, max(stop // 2, 1), -1):  # killed twice, then left alone
            again = classifier(kind)
            keeper = Memory(again.ledger, found, left)
            try:
                got = run(kind, again, keeper)
            except Stop:
                found = {**{k: v for k, v in found.items() if k.endswith("done")}, **keeper.kept, **keeper.running}
                continue
            ledger = again.ledger
            break
        assert (ledger.forward, ledger.backward) == (model.ledger.forward, model.ledger.backward), f"stopped at {stop}"
        for one, two in zip(whole, got, strict=True):
            assert (one.outcome is None) == (two.outcome is None)
            if one.outcome is not None:
                assert torch.equal(one.outcome.result.forward, two.outcome.result.forward)
                assert torch.equal(one.outcome.result.x_adv, two.outcome.result.x_adv)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_twin_is_counted_once_however_many_processes_made_one(order, tmp_path):
    """A process that was killed, or a second worker, makes the twin anew: that is not a cost of the evaluation."""
    torch.manual_seed(0)
    body = settled(nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)))
    net = nn.Sequential(body, nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
    options = {"samples": "30", "suite": "fgsm", "curve": (), "shard_size": 10, "threads": 1, "trust": "off"}
    whole = evaluate(net, "digits", "linf:0.1", twin="folded", out=tmp_path / "whole", **options)
    plan, run = read_plan(whole.run), tmp_path / "parts"
    start(plan, run)
    for index in order:
        with torch_threads(1):
            run_shard(plan, index, Subjects((from_module(net),), load_data("digits")), run)
    finish(run, plan)
    assert read_record(run)["twins"][0]["kind"] == "folded"
    for name in ("forward", "backward"):
        parts, once = ([shard[name] for shard in read_record(one)["shards"]] for one in (run, whole.run))
        assert parts == once
        assert read_record(run)[name] == read_record(whole.run)[name]
