"""An example counts if it fools the model alone: whoever is handed one picture sees what was claimed."""

import dataclasses

import pandas as pd
import pytest
import torch
from torch import nn

from robustscope.api import evaluate
from robustscope.attacks.cards import ATTACKS
from robustscope.attacks.compose import Attempt, attack, cascade
from robustscope.attacks.verify import verify
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.data import problems
from robustscope.data.datasets import load_data
from robustscope.models.classifier import Classifier
from robustscope.models.defended import randomised
from robustscope.models.loading import from_module, load_model
from robustscope.runs.evidence import verify_run
from robustscope.runs.plan import Subjects
from robustscope.runs.store import COLUMNS, read_table


class Together(nn.Module):
    """A network whose largest logit falls by ``shift`` where a row is not alone, as if floats were rounded otherwise."""

    def __init__(self, inner: nn.Module, shift: float) -> None:
        super().__init__()
        self.inner, self.shift = inner, shift

    def forward(self, x):
        logits = self.inner(x)
        if len(x) == 1:
            return logits
        return logits - self.shift * (logits == logits.amax(1, keepdim=True))


def together(shift, n=16):
    p = problems.smooth_cnn(n=n)
    return p, Together(p.module, shift).eval()


THREAT = ThreatModel("linf", 0.06)


def single(module, x, y):
    with torch.no_grad():
        return torch.cat([module(one) for one in x.split(1)]).argmax(1) != y


@pytest.mark.parametrize(
    ("name", "shift"), [("pgd", 0.5), ("pgd", -0.5), ("fmn", 1e-3), ("deepfool", 0.5), ("square", 0.5)]
)
def test_no_success_reverts_at_batch_size_one(name, shift):
    p, module = together(shift)
    options = {"queries": 40} if name == "square" else {"steps": 20}
    model = Classifier(module)
    outcome = attack(name, model, p.x, p.y, THREAT, **options)
    assert outcome.verdict.success.any()
    assert not (outcome.verdict.success & ~single(module, outcome.result.x_adv, p.y)).any()
    assert torch.equal(outcome.verdict.survives_alone, outcome.verdict.success)
    # Where the batch had misled the attack it is as strong as one that never saw a batch.
    alone = attack(name, Classifier(p.module, batch_size=1), p.x, p.y, THREAT, **options)
    again = outcome.alone.any(1)
    assert torch.equal(outcome.verdict.success[again], alone.verdict.success[again])
    torch.testing.assert_close(outcome.result.x_adv[again], alone.result.x_adv[again])
    if (name, shift) == ("pgd", 0.5):
        assert again.any(), "a shift this large must mislead some attacks"
    assert (outcome.result.forward >= outcome.alone[:, 0]).all(), "rows of both searches count"
    assert model.ledger.backward == int(outcome.result.backward.sum())


def test_without_the_second_look_examples_would_have_been_claimed_that_do_not_hold(monkeypatch):
    """The check has teeth: judged in the batch alone, the same attack returns examples that revert."""
    p, module = together(0.5)
    monkeypatch.setattr(
        "robustscope.attacks.verify._looked_at_twice",
        lambda model, x_adv, y, targets: (model.logits(x_adv), torch.zeros_like(y, dtype=torch.bool)),
    )
    outcome = attack("pgd", Classifier(module), p.x, p.y, THREAT)
    assert (outcome.verdict.success & ~single(module, outcome.result.x_adv, p.y)).any()


def lazy(model, x, y, threat, *, draws, targets=None):
    """An attack that returns what it is told to, whatever the model says."""
    return AttackResult(x.clone(), torch.ones_like(y), torch.zeros_like(y))


def test_what_reverts_for_good_is_no_success_and_is_told():
    p, module = together(50.0)
    x, y = p.x, p.module(p.x).argmax(1)  # in a batch nobody is right, alone everybody is
    card = dataclasses.replace(ATTACKS["fgsm"], name="lazy", function=lazy, goals=("untargeted",))
    outcome = attack(card, Classifier(module), x, y, THREAT)
    verdict = outcome.verdict
    assert not verdict.success.any()
    assert not verdict.reverted.any(), "the second search, at batch size 1, returned nothing that fools anybody"
    assert (outcome.alone[:, 0] == 1).all()
    assert (outcome.result.forward == 2).all()
    verdict = verify(Classifier(module), x, y, THREAT, lazy(None, x, y, THREAT, draws=None))
    assert verdict.reverted.all()
    assert not verdict.success.any()
    assert not verdict.survives_alone.any()
    assert torch.equal(verdict.prediction, y)


@pytest.mark.parametrize("shift", [0.0, 1e-7, -1e-7])
def test_the_verdict_is_the_same_however_the_batch_is_cut(shift):
    """Two logits that tie exactly: rounding in the batch decides, and the judge does not listen to it."""

    class Ties(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0], x[:, 1] + (shift if len(x) > 1 else 0.0)], 1)

    x = torch.rand(9, 2, generator=torch.Generator().manual_seed(0))
    x[:, 1] = x[:, 0] + torch.tensor([0.0, 1e-8, -1e-8]).repeat(3)
    for label in (0, 1):
        y = torch.full((9,), label)
        result = AttackResult(x, y.clone(), y.clone())
        wanted = torch.tensor([x[i, 1] > x[i, 0] for i in range(9)]) == (label == 0)
        for size in (1, 2, 5, 9):
            verdict = verify(Classifier(Ties().eval(), batch_size=size), x, y, THREAT, result)
            assert torch.equal(verdict.success, wanted)


class Noisy(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + 0.3 * torch.randn(len(x), 1) * torch.tensor([1.0, -1.0, 0.0, 0.0])


def test_a_second_draw_of_a_model_that_draws_is_told_and_does_not_decide():
    p = problems.smooth_cnn(n=40)
    model = Classifier(Noisy(p.module).eval())
    torch.manual_seed(0)
    outcome = attack("pgd", model, p.x, p.y, ThreatModel("linf", 0.03), steps=5)
    lucky = outcome.verdict.success & outcome.verdict.reverted
    assert lucky.any()
    assert not outcome.alone.any(), "one pass decides nothing, so nobody is attacked again"
    assert torch.equal(outcome.verdict.survives_alone, outcome.verdict.success & ~lucky)
    # As the mean over numbered draws it is a function of its input, and is judged as any other.
    fixed = randomised(Classifier(Noisy(p.module).eval()), verdict_draws=3)
    outcome = attack("fgsm", fixed, p.x[:6], p.y[:6], "linf:0.03")
    assert not outcome.verdict.reverted.any()
    with torch.no_grad():
        assert torch.equal(outcome.verdict.success, single(fixed.module, outcome.result.x_adv, p.y[:6]))


def test_a_cascade_goes_on_with_what_reverted():
    p, module = together(0.5)
    attempts = [Attempt("fgsm", THREAT), Attempt("pgd", THREAT, {"steps": 10})]
    everyone = ~single(module, p.x, p.y)
    steps = list(cascade(Classifier(module), p.x, p.y, attempts, Draws(0, range(len(p.x))), everyone))
    first, second = steps
    assert torch.equal(second.rows, first.rows[~first.outcome.verdict.success])


def digits(shift):
    """The same on digits, for a whole run."""
    return Together(load_model("bundled:digits_standard").classifier.module, shift).eval()


OPTIONS = {"samples": "30", "suite": "fgsm", "curve": (), "threads": 1, "trust": "off"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        shift: evaluate(digits(shift), "digits", "linf:0.1", out=folder / str(shift), **OPTIONS) for shift in (0.0, 2.0)
    }


def test_a_run_tells_both_columns(runs):
    for shift, run in runs.items():
        rows = run.table
        attempted = rows[rows["status"] == "ok"]
        assert attempted["success"].any()
        assert rows.loc[rows["success"].fillna(False), "survives_alone"].all()
        assert rows.loc[~rows["success"].fillna(False), "survives_alone"].isna().all() or shift
        summary = run.summary()
        (cell,) = summary["attacks"]
        assert cell["alone_k"] == cell["broken"] == int(rows["success"].sum())
        assert (cell["alone_n"] == cell["alone_k"]) == (cell["survives_alone"] == 1.0)
        text = " ".join(item["message"] for item in summary["warnings"])
        assert ("attacked again one by one" in text) == (shift != 0), text
        assert "more than the forecast" not in text
        run.report()
        page, twin = (run.run / name for name in ("report.html", "report.md"))
        for said in (page.read_text(encoding="utf-8"), twin.read_text(encoding="utf-8")):
            assert "Hold alone" in said
            assert "Survive 8 bits" in said


def test_runs_without_the_column_can_still_be_read(runs, tmp_path, monkeypatch):
    older = {name: kind for name, kind in COLUMNS.items() if name != "survives_alone"}
    with monkeypatch.context() as patch:
        patch.setattr("robustscope.runs.store.COLUMNS", older)
        run = evaluate(digits(0.0), "digits", "linf:0.1", out=tmp_path / "old", **OPTIONS)
    table = read_table(run.run)
    assert table["survives_alone"].isna().all()
    assert table["survives_alone"].dtype == "boolean"
    pd.testing.assert_frame_equal(
        table.drop(columns="survives_alone"), runs[0.0].table.drop(columns="survives_alone"), check_exact=True
    )
    (cell,) = run.summary()["attacks"]
    assert cell["survives_alone"] is None
    assert cell["survives_8bit"] is not None


def test_verify_counts_what_holds_alone_and_what_survives_rounding(runs):
    for shift, run in runs.items():
        claims = run.table[run.table["success"].fillna(False)]
        check = verify_run(run.run, Subjects((from_module(digits(shift)),), load_data("digits")))
        assert check.claims == check.confirmed == check.hold_alone == len(claims)
        assert check.survive_8bit == int(claims["survives_8bit"].sum())
