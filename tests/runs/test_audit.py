"""The audit: its statistics by simulation of the whole procedure, and real runs that it must correct."""

import copy
import json
import random

import numpy as np
import pandas as pd
import pytest
import torch

import robustscope
from robustscope.core.errors import CorruptRun, InvalidValue
from robustscope.core.files import read_json
from robustscope.core.sampling import draws_needed
from robustscope.runs.audit import next_stages, risk_of, verdicts
from robustscope.runs.config import AttackSpec, Audit, Config, ModelSpec, Settings
from robustscope.runs.plan import make_plan
from robustscope.runs.session import carry_out, start
from robustscope.runs.stages import _add
from robustscope.runs.store import plan_id, read_plan, read_record, read_table, stage_path
from run_factory import make_plan as synthetic_plan
from runs.harness import carry_out_quietly, in_process

# The procedure on synthetic records: whom the full attacks would break is known.


def record(n, survivors, audit, seed=0):
    """A plan and the rows of its search: the first ``survivors`` samples stand."""
    plan = synthetic_plan(
        n=n, shards=1, radii=(("linf", 0.1, True),), attacks=[{**ATTACK, "attack": "fgsm", "label": "fgsm"}]
    )
    plan |= {"seed": seed, "audit": {"bound": None, "samples": None, "confidence": 0.95, **audit}, "stages": []}
    plan["request"] = {"settings": {"shard_size": 10_000}}
    stands = np.arange(n) < survivors
    return plan, rows_of(0, np.arange(n), ~stands)


ATTACK = {"floor": False, "forward": 2, "backward": 1}


def rows_of(cell, ids, success, status="ok"):
    facts = {"clean_correct": True, "status": status, "forward": 2, "backward": 1}
    return pd.DataFrame({"cell": cell, "sample": ids, "success": pd.array(success, dtype="boolean"), **facts})


def carry_on(plan, rows, hidden):
    """Run the procedure to its end; ``hidden`` maps a sample to the place of the auditor's attack that breaks it."""
    known = set(rows.loc[rows["success"], "sample"])
    while entries := next_stages(plan, rows):
        assert len(plan["stages"]) < 40, "the procedure must end"
        stage = {"cells": [], "shards": [], "stages": []}
        for entry in entries:
            assert not known & set(entry["ids"]), "a broken sample is not attacked again"
            _add(plan, stage, entry, len(plan["stages"]) + 1)
        for name in stage:
            plan[name] = [*plan[name], *stage[name]]
        for shard in stage["shards"]:
            for cell in shard["cells"]:
                attack = plan["cells"][cell]["attack"], plan["cells"][cell]["parameters"].get("loss")
                ids = np.array([i for i in shard["ids"] if i not in known])
                hit = np.array([hidden.get(i) == attack for i in ids], dtype=bool)
                rows = pd.concat([rows, rows_of(cell, ids, hit)], ignore_index=True)
                known |= set(ids[hit].tolist())
    (verdict,) = verdicts(plan, rows)
    return verdict, known


CASES = 60
AUDITOR = [
    ("apgd", "cross_entropy"),
    ("apgd_targeted", "dlr"),
    ("fab_targeted", None),
    ("square", "margin"),
    ("apgd", "margin"),
]


@pytest.mark.parametrize(
    ("misses", "culprits", "bound"), [(3, 5, 0.05), (12, 1, 0.05), (12, 5, 0.1), (30, 3, 0.05), (4, 2, 0.02)]
)
def test_the_bound_covers_the_truth_in_simulated_runs(misses, culprits, bound):
    """The share of runs in which the bound falls short stays within what 5 % allow; tests/test_sampling.py has thousands."""
    short, n, survivors = 0, 90, 60
    for seed in range(CASES):
        generator = random.Random(seed)
        hidden = {i: AUDITOR[generator.randrange(culprits)] for i in generator.sample(range(survivors), misses)}
        verdict, known = carry_on(*record(n, survivors, {"bound": bound}, seed), hidden)
        truth = len(set(hidden) - known)
        assert verdict["kept"] or not verdict["unaudited"]
        short += verdict["missed"] < truth
    assert short <= 0.05 * CASES + 3 * (CASES * 0.05 * 0.95) ** 0.5


def test_the_simulation_catches_an_audit_of_the_easiest_samples(monkeypatch):
    """Teeth: audits that draw by sample number instead of at random miss what hides at the end."""
    monkeypatch.setattr("robustscope.runs.audit._Case.unaudited", property(lambda c: sorted(c.standing - c.audited)))
    short = 0
    for seed in range(20):
        hidden = dict.fromkeys(range(50, 60), AUDITOR[0])
        verdict, known = carry_on(*record(90, 60, {"bound": 0.1}, seed), hidden)
        short += verdict["missed"] < len(set(hidden) - known)
    assert short > 10


def test_nothing_to_find_needs_one_audit_of_the_size_that_the_bound_asks_for():
    verdict, _ = carry_on(*record(1000, 530, {"bound": 0.02}), {})
    assert (verdict["found"], verdict["escalated"], verdict["kept"]) == (0, (), True)
    assert verdict["missed"] == 20
    assert verdict["audited"] == draws_needed(530, 20, 0.04) == 74


def test_what_one_audit_finds_is_run_on_all_the_others():
    hidden = dict.fromkeys(range(0, 60, 2), AUDITOR[3])
    verdict, known = carry_on(*record(90, 60, {"bound": 0.02}), hidden)
    assert set(hidden) <= known
    assert verdict["escalated"] == ("square",)
    assert verdict["found"] + verdict["broken_by_escalation"] == 30
    assert verdict["kept"]


def test_a_budget_is_never_exceeded_and_what_it_leaves_open_is_said():
    hidden = dict.fromkeys(range(0, 60, 5), AUDITOR[0])
    verdict, _ = carry_on(*record(90, 60, {"bound": 0.01, "samples": 20}), hidden)
    assert verdict["audited"] == 20
    assert not verdict["kept"]
    assert verdict["bound"] > 0.01
    assert verdict["reason"] == "the budget was spent before the bound held"
    alone, _ = carry_on(*record(90, 60, {"samples": 20}), hidden)
    assert (alone["audited"], alone["escalated"], alone["kept"]) == (20, (), True)


def test_a_bound_of_zero_attacks_every_survivor():
    verdict, known = carry_on(*record(40, 25, {"bound": 0.0}), {3: AUDITOR[2]})
    assert verdict["audited"] + verdict["broken_by_escalation"] >= 24
    assert verdict["bound"] == 0
    assert 3 in known


def test_errors_leave_no_bound():
    plan, rows = record(40, 25, {"bound": 0.1})
    rows.loc[5, "status"] = "error"
    assert next_stages(plan, rows) == []
    (verdict,) = verdicts(plan, rows)
    assert verdict["bound"] is None
    assert "failed" in verdict["reason"]


def test_risks_add_up_to_no_more_than_asked():
    assert sum(risk_of(i, 0.05) for i in range(1, 60)) <= 0.05


@pytest.mark.parametrize("text", ["2", "pp", "", "-1pp", "101pp", "2pp3samples,", "all", "1e3samples"])
def test_other_texts_are_refused(text):
    with pytest.raises(InvalidValue, match=r"Write e\.g\. 2pp"):
        Audit.parse(text)


def test_texts_are_read():
    assert Audit.parse("off") is None
    assert Audit.parse("1.5pp") == Audit(0.015)
    assert Audit.parse("2pp, 100samples") == Audit(0.02, 100)
    assert Settings().asked_audit(False) == Audit(0.02)
    assert Settings().asked_audit(True) is None
    assert Settings(suite="fast").asked_audit(False) is None
    assert Settings(suite="fast", audit="3pp").asked_audit(False) == Audit(0.03)


# Real runs.

WEAK = {"attacks": "noise_uniform", "audit": "5pp", "curve": (), "threads": 1, "shard_size": 20, "trust": "off"}


class Ring(torch.nn.Module):
    """Class 1 inside a ring of radius 0.3, class 2 to the far right, else 0: what noise rarely finds."""

    def forward(self, x):
        centred = x.flatten(1) - 0.5
        ring = torch.sin(14 * centred.norm(dim=1) + centred[:, 0])
        return torch.stack([ring * 0, ring, 4 * centred[:, 0] - 1.2], 1)


@pytest.fixture(scope="module")
def problem():
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        y = Ring()(x).argmax(1)
    return Ring().eval(), x, y


@pytest.fixture(scope="module")
def audited(problem, tmp_path_factory):
    net, x, y = problem
    run = tmp_path_factory.mktemp("audited") / "run"
    return robustscope.evaluate(net, (x, y), "linf:0.03", out=run, **WEAK)


def test_a_weak_search_is_corrected(problem, audited):
    net, x, y = problem
    weak = robustscope.evaluate(net, (x, y), "linf:0.03", **{**WEAK, "audit": "off"}).summary()
    full = robustscope.evaluate(net, (x, y), "linf:0.03", suite="standard", curve=(), threads=1, trust="off").summary()
    found = audited.summary()
    k = {name: s["robust_accuracy"]["k"] for name, s in (("weak", weak), ("full", full), ("audited", found))}
    audit = found["models"][0]["threats"][0]["audit"]
    assert k["weak"] > k["full"] + 1, "the toy must be one that noise does not solve"
    assert audit["found"] > 0
    assert audit["escalated"]
    assert k["audited"] - k["full"] <= audit["missed"] <= 3
    assert "Full AutoAttack on" in str(audited)
    assert "Full AutoAttack on" in audited.report().read_text()


def test_the_record_of_an_audited_run_is_whole(problem, audited):
    plan, table = read_plan(audited.run), read_table(audited.run)
    assert (table.groupby("cell")["sample"].nunique() == 40).all(), "every cell speaks of every sample"
    assert plan["stages"]
    assert read_record(audited.run)["audit"] == json.loads(json.dumps(verdicts(plan, table)))
    spent = table.loc[table["cell"].isin([c["index"] for c in plan["cells"] if "stage" in c]), "forward"].sum()
    assert spent == audited.summary()["models"][0]["threats"][0]["audit"]["forward"]


def test_killed_in_the_middle_of_its_stages(tmp_path):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for run in (whole, torn):
        start_from_files(run)
    carry_out(whole)
    moments = random.Random(5)
    for _ in range(4):
        worker, ready = in_process(carry_out_quietly, torn)
        ready.wait(60)
        worker.join(moments.uniform(0.1, 1.0))
        worker.kill()
        worker.join()
    carry_out(torn)
    assert read_plan(whole) == read_plan(torn)
    pd.testing.assert_frame_equal(read_table(whole), read_table(torn))
    shared = tmp_path / "shared"
    start_from_files(shared)
    carry_out(shared, workers=2)
    pd.testing.assert_frame_equal(read_table(whole), read_table(shared))


NET = """
import torch

class Ring(torch.nn.Module):
    def forward(self, x):
        centred = x.flatten(1) - 0.5
        ring = torch.sin(14 * centred.norm(dim=1) + centred[:, 0])
        return torch.stack([ring * 0, ring, 4 * centred[:, 0] - 1.2], 1)

def make():
    return Ring()
"""


def start_from_files(run):
    """Plan a run from files, so that any process can take it up."""
    folder = run.parent / "files"
    folder.mkdir(exist_ok=True)
    (folder / "net.py").write_text(NET)
    x = torch.rand(20, 6, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        np.savez(folder / "data.npz", x=x.numpy(), y=Ring()(x).argmax(1).numpy())
    settings = Settings(samples="all", curve=(), shard_size=8, audit="10pp", trust="off")
    models, attacks = (ModelSpec(f"{folder}/net.py:make"),), (AttackSpec("noise_uniform"),)
    start(make_plan(Config(models, f"npz:{folder}/data.npz", ("linf:0.03",), attacks, settings)), run)


def test_an_edited_stage_is_refused(audited, tmp_path):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(audited.run, run)
    stage = read_json(stage_path(run, 1))
    edited = copy.deepcopy(stage)
    edited["stages"][0]["population"] += 1
    stage_path(run, 1).write_text(json.dumps(edited))
    with pytest.raises(CorruptRun, match=r"001\.json was edited"):
        read_plan(run)
    foreign = {k: v for k, v in stage.items() if k != "seal"} | {"plan": "0" * 16}
    stage_path(run, 1).write_text(json.dumps({**foreign, "seal": plan_id(foreign)}))
    with pytest.raises(CorruptRun, match="of another plan"):
        read_plan(run)


def test_the_report_says_what_the_audit_means_for_the_search(audited):
    messages = [item["message"] for item in audited.summary()["warnings"]]
    assert any("The search was too weak" in text for text in messages)
    assert not any("more than the forecast" in text for text in messages)
