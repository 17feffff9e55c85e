"""Progress that outlives its process: an attack that is cut off anywhere and taken up again ends as if undisturbed."""

import random
from dataclasses import replace

import pytest
import torch

from robustscope.attacks.apgd_walk import Walk
from robustscope.attacks.cards import ATTACKS
from robustscope.attacks.compose import Attempt, cascade
from robustscope.core import resume
from robustscope.core.draws import Draws
from robustscope.core.errors import explain
from robustscope.core.resume import Keeper
from robustscope.core.types import Ledger, ThreatModel
from robustscope.data.datasets import load_data
from robustscope.models.classifier import Classifier
from robustscope.models.loading import load_model

RADII = {"linf": 0.08, "l2": 0.5, "l1": 1.6}
LONG = {
    "nearest": {"steps": 120},
    "apgd": {"steps": 12, "restarts": 2, "trace": True},
    "apgd_targeted": {"steps": 6, "n_targets": 3, "restarts": 2},
    "fab": {"steps": 5, "restarts": 2},
    "fab_targeted": {"steps": 4, "num_targets": 3, "restarts": 2, "stop_at_epsilon": True},
    "square": {"queries": 150},
    "pgd": {"steps": 8, "restarts": 3, "trace": True, "loss": "margin"},
}


class Killed(BaseException):
    """Stands for the end of a process."""


class Memory(Keeper):
    """Keeps everything at every checkpoint, and ends the process at the last one it is allowed."""

    def __init__(self, ledger, found=(), limit=10**9):
        super().__init__(ledger, dict(found))
        self.kept, self.running, self.count, self.limit = dict(found), {}, 0, limit

    def due(self):
        return True

    def keep(self, path, done):
        self.kept[path] = done

    def save(self, running):
        self.running = {
            path: replace(saved, state={key: value.clone() for key, value in saved.state.items()})
            for path, saved in running.items()
        }
        self.count += 1
        if self.count >= self.limit:
            raise Killed

    def left(self):
        return {**{path: saved for path, saved in self.kept.items() if path.endswith("done")}, **self.running}


@pytest.fixture(scope="module")
def subjects():
    module = load_model("bundled:digits_standard").classifier.module
    data = load_data("digits")
    x, y = data.read(range(40, 52)), torch.as_tensor(data.labels[40:52])
    return module, x, y, Classifier(module).logits(x).argmax(1) == y


def run(subjects, attempts, keeper_of=None):
    """Run a cascade; return steps and ledger. With a keeper, in its force."""
    module, x, y, correct = subjects
    model = Classifier(module, batch_size=5)
    go = lambda: list(cascade(model, x, y, attempts, Draws(0, tuple(range(40, 52))), correct))  # noqa: E731
    if keeper_of is None:
        return go(), model.ledger
    with resume.keeping(keeper_of(model.ledger)):
        return go(), model.ledger


def cut(subjects, attempts, moments):
    """Run a cascade that is cut off after each of the ``moments`` checkpoints in turn, then to its end."""
    keeper = None
    for moment in moments:
        found = {} if keeper is None else keeper.left()

        def begin(ledger, found=found, moment=moment):
            nonlocal keeper
            keeper = Memory(ledger, found, moment)
            return keeper

        try:
            return run(subjects, attempts, begin)
        except Killed:
            continue
    return run(subjects, attempts, lambda ledger: Memory(ledger, keeper.left()))


def assert_same(first, second):
    (steps, ledger), (others, other_ledger) = first, second
    assert ledger == other_ledger
    assert len(steps) == len(others)
    for step, other in zip(steps, others, strict=True):
        assert torch.equal(step.rows, other.rows)
        assert (step.outcome is None) == (other.outcome is None)
        if step.outcome is None:
            continue
        for part in ("result", "verdict"):
            mine, theirs = (resume.tensors(getattr(one.outcome, part)) for one in (step, other))
            assert mine.keys() == theirs.keys()
            for name, value in mine.items():
                assert torch.equal(value.nan_to_num(-9.0), theirs[name].nan_to_num(-9.0)), (part, name)


def checkpoints_of(subjects, attempts):
    """Count the checkpoints of an undisturbed run."""
    keepers = []
    run(subjects, attempts, lambda ledger: keepers.append(Memory(ledger)) or keepers[0])
    return keepers[0].count


CASES = [(name, norm) for name in LONG for norm in RADII if norm in ATTACKS[name].norms]


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_an_attack_cut_off_anywhere_ends_as_if_undisturbed(subjects, name, norm):
    attempts = [Attempt(name, ThreatModel(norm, RADII[norm]), LONG[name])]
    whole = run(subjects, attempts)
    assert not whole[0][0].outcome.verdict.success.all(), "some samples must last to the end"
    total = checkpoints_of(subjects, attempts)
    assert total > 8
    moments = random.Random(f"{name} {norm}")
    for _ in range(3):
        assert_same(whole, cut(subjects, attempts, [moments.randrange(1, total)]))
    often = [moments.randrange(2, max(3, total // 4)) for _ in range(4)]
    assert_same(whole, cut(subjects, attempts, often))


def test_a_cascade_cut_off_anywhere_keeps_what_was_finished(subjects):
    threat = ThreatModel("linf", 0.08)
    names = ("fgsm", "square", "apgd", "apgd_targeted", "pgd")
    attempts = [Attempt(name, threat, LONG.get(name, {})) for name in names]
    attempts[2] = Attempt("apgd", threat, {"loss": "no such loss"})
    whole = run(subjects, attempts)
    assert whole[0][2].error is not None
    total = checkpoints_of(subjects, attempts)
    for moment in random.Random(1).sample(range(1, total), 4):
        again = cut(subjects, attempts, [moment])
        assert_same(whole, again)
        assert explain(again[0][2].error) == explain(whole[0][2].error)


def test_what_is_taken_up_is_not_done_again(subjects):
    """The process that goes on sends only the rows that were missing."""
    attempts = [Attempt("square", ThreatModel("linf", 0.08), {"queries": 100})]
    total = checkpoints_of(subjects, attempts)
    module = subjects[0]
    seen = []
    handle = module.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    try:
        whole = run(subjects, attempts)
        all_rows, keeper = sum(seen), None

        def begin(ledger):
            nonlocal keeper
            keeper = Memory(ledger, limit=total - 3)
            return keeper

        with pytest.raises(Killed):
            run(subjects, attempts, begin)
        seen.clear()
        assert_same(whole, run(subjects, attempts, lambda ledger: Memory(ledger, keeper.left())))
        assert sum(seen) < 0.2 * all_rows
    finally:
        handle.remove()


def test_the_comparison_notices_a_state_that_lacks_something(subjects, monkeypatch):
    """A walk that forgets its step sizes when it is taken up is caught."""
    attempts = [Attempt("apgd", ThreatModel("linf", 0.05), {"steps": 30})]
    whole, total = run(subjects, attempts), checkpoints_of(subjects, attempts)
    complete = Walk.state
    monkeypatch.setattr(Walk, "state", lambda self: {k: v for k, v in complete(self).items() if k != "step_size"})
    with pytest.raises((AssertionError, IndexError, RuntimeError)):
        assert_same(whole, cut(subjects, attempts, [total - 4]))


def test_without_a_keeper_nothing_is_asked():
    def state():
        raise AssertionError("nobody wants to know")

    with resume.stage("loop", state) as saved:
        assert saved is None
        resume.checkpoint()
    assert resume.recall("loop") == ("loop", None)
    resume.remember("loop", state)


def test_stages_of_one_name_are_told_apart_by_their_order():
    """A piece that keeps no state of its own runs again from its beginning; its second loop takes up the second state."""

    def count(loop, log):
        step = 0
        with resume.stage("loop", lambda: {"step": step}) as saved:
            for step in range(0 if saved is None else int(saved["step"]), 3):
                resume.checkpoint()
                log.append((loop, step))

    def work(keeper, log):
        with resume.keeping(keeper), resume.stage("piece"):
            for loop in range(2):
                count(loop, log)

    first, log = Memory(Ledger(), limit=5), []
    with pytest.raises(Killed):
        work(first, log)
    assert log == [(0, 0), (0, 1), (0, 2), (1, 0)]
    second = []
    work(Memory(Ledger(), first.left()), second)
    assert second == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)]


def test_a_stage_is_closed_when_something_raises():
    keeper = Memory(Ledger())
    with resume.keeping(keeper):
        with pytest.raises(ValueError, match="inside"), resume.stage("loop", dict):
            raise ValueError("inside")
        assert keeper.path("next") == "/next#0"
