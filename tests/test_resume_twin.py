"""A search on a twin, stopped anywhere and taken up again: the rows that it cost are counted once."""

import dataclasses

import pytest
import torch

from robustscope.attacks.compose import Attempt, cascade
from robustscope.core.draws import Draws
from robustscope.core.resume import Keeper, keeping
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.models.classifier import Classifier
from test_alone import Together
from test_twin import lying_twin

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
        steps = list(cascade(model, P.x, P.y, attempts, Draws(0, range(12)), torch.ones(12, dtype=torch.bool), twin=twin))
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
