"""What an evaluation measures beside attacks, against closed forms, and what it does when one of them is wrong."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import robustscope
from digits_bed import fitted
from robustscope.analyses.bracket import ABOVE, bracket
from robustscope.analyses.certified import certified
from robustscope.certify.cards import certify
from robustscope.core.errors import Contradiction, InvalidValue, UnknownName
from robustscope.core.types import Certificate
from robustscope.data import goodfellow, problems
from robustscope.data.datasets import from_tensors
from robustscope.data.masked import masked
from robustscope.models.loading import from_module
from robustscope.reports import summarise
from robustscope.runs.audit import verdicts
from robustscope.runs.config import Settings
from robustscope.runs.evidence import verify_run
from robustscope.runs.measured import read_measures
from robustscope.runs.plan import Subjects
from robustscope.runs.store import read_record, read_table, shard_path

QUIET = {"trust": "off", "curve": (), "threads": 1}


@pytest.fixture(scope="module")
def linear():
    """A linear network on digits, and the exact robust radius of each of 60 samples in linf."""
    weight, bias, x, y = fitted()
    layer = nn.Linear(64, 10)
    layer.weight.data, layer.bias.data = weight.float(), bias.float()  # x is a multiple of 1/16, exact in float32
    radius = problems.linear_distance("linf", weight, bias, x[:60], y[:60])
    return layer.eval(), (x[:60].float(), y[:60]), radius


@pytest.fixture(scope="module")
def whole(linear, tmp_path_factory):
    """An evaluation with everything on."""
    network, data, _ = linear
    settings = {**QUIET, "trust": 12, "certify": "crown", "bracket": 10, "estimate": "clever:batches=5,points=6"}
    return robustscope.evaluate(
        network, data, "linf:0.08", out=tmp_path_factory.mktemp("runs") / "whole", shard_size=40, **settings
    )


def rows_of(result, kind):
    measured = read_measures(result.run)
    index = next(m["index"] for m in result.plan["measures"] if m["kind"] == kind)
    return measured[measured["measure"] == index].set_index("sample")


def test_a_certificate_of_a_linear_network_is_exact(whole, linear):
    radius = linear[2].numpy()
    found = rows_of(whole, "certificate")
    right = found["clean_correct"].to_numpy(bool)
    assert len(found) == 60
    assert (found.loc[right, "holds"].astype(bool) == (radius[right] > 0.08)).all()
    assert (found.loc[~right, "status"] == "skipped").all()
    assert found.loc[~right, "holds"].isna().all()
    row = certified(whole.table, read_measures(whole.run), whole.plan).iloc[0]
    assert row["k"] == int((right & (radius > 0.08)).sum()) == row["accuracy"] * 60
    assert row["undecided"] == 0  # attacks break what is not certified


def unboxed(linear, samples):
    """Margin over the dual length of its gradient, the least over the classes: what an estimate knows, for it sees no box."""
    weight, bias, x, y = fitted()
    found = []
    for i in samples.astype(int):
        others = [j for j in range(10) if j != y[i]]
        gaps = (weight[y[i]] - weight[others]) @ x[i] + bias[y[i]] - bias[others]
        found.append(float((gaps / (weight[y[i]] - weight[others]).abs().sum(1)).min()))
    return np.asarray(found)


def test_the_bracket_of_a_linear_network_closes_on_the_true_radius(whole, linear):
    radius = linear[2].numpy()
    rows = bracket(whole.table, read_measures(whole.run), whole.plan)
    assert 8 <= len(rows) <= 10
    exact = radius[rows["sample"].astype(int)]
    inside = exact < 0.32  # the search ends at four radii
    assert inside.sum() >= 6
    certified_, estimate, nearest = (rows[name].to_numpy(float) for name in ("certified", "estimate", "nearest"))
    assert (certified_ <= np.minimum(exact, 0.32) * (1 + 1e-5)).all()
    assert (certified_ >= np.minimum(exact, 0.32) - 0.32 / 128).all()
    assert estimate == pytest.approx(
        np.minimum(unboxed(linear, rows["sample"]), 0.32), rel=1e-5, abs=1e-7
    )  # of float32 logits
    assert (nearest[inside] >= exact[inside] * (1 - 1e-5)).all()
    assert (nearest[inside] <= 1.02 * exact[inside]).all()
    assert rows["nearest"].dropna().is_monotonic_increasing
    assert not rows["contradicts"].any()


def test_certified_samples_are_not_audited(whole, linear):
    radius = linear[2].numpy()
    audit = read_record(whole.run)["audit"][0]
    proved = set(np.flatnonzero(radius > 0.08).tolist())
    assert audit["certified"] == audit["survivors"] == len(proved & set(range(60)))
    assert (audit["audited"], audit["missed"], audit["kept"]) == (0, 0, True)
    without = verdicts({**whole.plan, "stages": []}, whole.table)[0]
    assert without["certified"] == 0
    assert without["unaudited"] == audit["survivors"]


def test_the_verdict_looks_at_correct_samples_and_knows_what_was_broken(whole):
    verdict = read_record(whole.run)["trust"][0]
    rows = rows_of(whole, "trust")
    assert (verdict["model"], verdict["norm"], verdict["epsilon"]) == ("model", "linf", 0.08)
    assert (len(rows), verdict["n"]) == (12, 12)
    table = whole.table
    broken = set(table.loc[table["success"].fillna(False) & (table["distance"] <= 0.08), "sample"])
    assert verdict["left"] == sum(i not in broken for i in rows.index)
    assert rows["clean_correct"].all()
    against = [len(json.loads(detail)["against"]) for detail in rows["detail"]]
    assert against == rows["value"].astype(int).tolist()
    assert verdict["checks"]


def test_a_verdict_does_not_trust_a_masked_network(tmp_path):
    network = robustscope.load_model("bundled:digits_standard").classifier.module
    result = robustscope.evaluate(
        masked("zero_gradient", network),
        "digits",
        "linf:0.1",
        samples="30",
        suite="fast",
        trust=16,
        curve=(),
        threads=1,
    )
    threat = result.summary()["models"][0]["threats"][0]
    assert threat["trust"]["verdict"] == "do not trust this number"
    assert "available gradients" in threat["trust"]["sentence"]
    assert any("checks failed" in entry["message"] for entry in result.summary()["warnings"])
    assert "Do not trust this number" in str(result)


def test_rows_do_not_depend_on_what_was_lost_and_run_again(whole, linear, tmp_path):
    network, data, _ = linear
    copy = tmp_path / "copy"
    shutil.copytree(whole.run, copy)
    lost = [shard["index"] for shard in whole.plan["shards"] if "measures" in shard]
    assert len(lost) >= 3
    for index in lost[1:]:
        shard_path(copy, index).unlink()
    (copy / "stages" / "001.json").unlink()
    request = whole.plan["request"]["settings"]
    again = robustscope.evaluate(network, data, "linf:0.08", out=copy, settings=Settings(**request))
    pd.testing.assert_frame_equal(read_measures(again.run), read_measures(whole.run))
    assert read_record(again.run)["trust"] == read_record(whole.run)["trust"]


def test_a_certificate_above_an_example_refuses_the_report(linear, tmp_path, monkeypatch):
    """A certifier that proves too much: both the certificate and the certified radius must be refused."""

    def believer(name, model, x, y, threat, **_):
        ones = torch.ones(len(x), dtype=torch.int64)
        return Certificate(torch.ones(len(x), dtype=x.dtype), ("verified",) * len(x), ones, ones, 0.0)

    monkeypatch.setattr("robustscope.runs.measuring.certify", believer)
    monkeypatch.setattr("robustscope.certify.radius.certify", believer)
    network, data, _ = linear
    for how in ({"certify": "crown"}, {"bracket": 4}):
        settings = {**QUIET, "suite": "fast", "estimate": "off", **how}
        result = robustscope.evaluate(network, data, "linf:0.08", samples="20", **settings)
        with pytest.raises(Contradiction, match="certified by crown and broken"):
            result.summary()


FOOLING = [
    make(size, n=6, classes=3, dtype=torch.float32)
    for make, size in ((goodfellow.staircase, 16), (goodfellow.saturated, 1e-4))
]


@pytest.mark.parametrize("problem", FOOLING)
def test_the_bracket_flags_an_estimate_that_is_fooled(problem):
    """Goodfellow 2018: gradients of zero make the estimate infinite, so that it ends at the sampling radius."""
    settings = {**QUIET, "bracket": 6, "certify": "off", "estimate": "clever:batches=5,points=6", "audit": "off"}
    result = robustscope.evaluate(
        robustscope.Classifier(problem.module, allow_probabilities=True), (problem.x, problem.y), "linf:0.4", **settings
    )
    rows = bracket(result.table, read_measures(result.run), result.plan)
    fooled = rows[rows["nearest"].notna()]
    assert len(fooled)
    assert fooled["contradicts"].all()
    assert all(ABOVE in flags for flags in fooled["flags"])
    messages = [entry["message"] for entry in result.summary()["warnings"]]
    assert any("Do not quote clever" in message for message in messages)


class Strange(nn.Module):
    def forward(self, x):
        flat = x.flatten(1)
        return torch.stack([flat.cumsum(1)[:, -1].sin(), flat.prod(1)], 1)


def test_what_cannot_be_measured_is_refused_before_anything_runs(linear, tmp_path):
    network, data, _ = linear
    for settings, words in (
        ({"certify": "crown"}, "cumsum|sin|prod"),
        ({"certify": "crwn"}, "crown"),
        ({"bracket": 4, "certify": "off", "estimate": "clevr"}, "clever"),
    ):
        out = tmp_path / "never"
        with pytest.raises((InvalidValue, UnknownName), match=words):
            robustscope.evaluate(Strange().eval(), (data[0], data[1] * 0), "linf:0.1", out=out, **QUIET, **settings)
        assert not out.exists()
    with pytest.raises(InvalidValue, match="finite radius"):
        robustscope.evaluate(network, data, "linf:inf", attacks="fgsm", bracket=4, **QUIET)
    with pytest.raises(InvalidValue, match="a number of samples or 'off'"):
        robustscope.evaluate(network, data, "linf:0.1", trust="some")


def test_a_measure_that_fails_is_a_row_in_error_and_a_gap(linear, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("no memory")

    monkeypatch.setattr("robustscope.runs.measuring.estimate", failing)
    monkeypatch.setattr("robustscope.runs.measuring.trust", failing)
    network, data, _ = linear
    result = robustscope.evaluate(
        network, data, "linf:0.08", samples="20", suite="fast", curve=(), bracket=5, certify="off", trust=8
    )
    rows = rows_of(result, "estimate")
    assert set(rows["status"]) <= {"error", "skipped"}
    assert "no memory" in rows.loc[rows["status"] == "error", "note"].iloc[0]
    assert rows["value"].isna().all()
    summary = result.summary()
    assert summary["brackets"][0]["rows"][0]["estimate"] is None
    assert summary["brackets"][0]["failed"] == summary["brackets"][0]["n"]
    trust = summary["models"][0]["threats"][0]["trust"]
    assert trust["verdict"] is None
    assert "no memory" in trust["sentence"]


def test_reports_say_why_there_is_no_verdict(linear):
    network, data, _ = linear
    off = robustscope.evaluate(network, data, "linf:0.08", samples="10", suite="noise", **QUIET)
    assert "switched off" in off.summary()["models"][0]["threats"][0]["trust"]["sentence"]
    settings = {**QUIET, "trust": 8}
    none = robustscope.evaluate(network, data, "l0:3", samples="10", attacks="noise_uniform", **settings)
    assert "linf, l2 and l1" in summarise(none.run)["models"][0]["threats"][0]["trust"]["sentence"]


def test_a_bracket_changes_no_accuracy_but_where_it_finds_an_example_inside(linear):
    network, data, radius = linear
    settings = {**QUIET, "suite": "noise", "samples": "0:20", "certify": "off"}
    plain = robustscope.evaluate(network, data, "linf:0.08", **settings)
    more = robustscope.evaluate(network, data, "linf:0.08", bracket=20, **settings, estimate="off")
    before, after = (run.summary()["models"][0]["threats"][0]["robust_accuracy"]["k"] for run in (plain, more))
    right = read_table(plain.run).drop_duplicates("sample").set_index("sample")["clean_correct"].astype(bool)
    inside = int((right & (radius.numpy()[:20] <= 0.08)).sum())
    assert before > right.sum() - inside + 2  # noise finds nearly nobody
    assert after == right.sum() - inside
    assert [row["epsilon"] for row in more.summary()["curve"]] == [0.0, 0.08]
    assert {row["attack"] for row in more.summary()["attacks"]} == {"noise_uniform", "noise_gaussian"}


def test_an_evaluation_without_measures_is_the_plan_it_was(linear):
    network, data, _ = linear
    result = robustscope.evaluate(network, data, "linf:0.08", samples="10", suite="noise", **QUIET)
    assert "measures" not in result.plan
    assert read_measures(result.run).empty
    assert result.summary()["brackets"] == []


def test_certificates_are_verified_anew(whole, linear, monkeypatch):
    network, data, _ = linear
    subjects = Subjects((from_module(network, name="model"),), from_tensors(*data))
    check = verify_run(whole.run, subjects)
    assert check.failures.empty
    known = rows_of(whole, "certificate").query("holds == True")
    assert check.certificates == len(known) > 0

    def unsure(name, model, x, *_, **__):
        proof = certify(name, model, x, *_, **__)
        return replace(proof, status=("unknown",) * len(x))

    monkeypatch.setattr("robustscope.runs.evidence.certify", unsure)
    check = verify_run(whole.run, subjects)
    assert (len(check.failures), check.certificates) == (len(known), 0)
    assert check.failures["problem"].str.contains("says unknown now").all()


def test_a_certificate_of_the_vote_is_none_of_the_model(linear):
    """Smoothing certifies another classifier: it counts for no contradiction, spares no audit, and bounds no bracket."""
    network, data, _ = linear
    few = {**QUIET, "samples": "0:10", "suite": "fast", "audit": "50pp"}
    asked = "smoothing:votes=200,first_votes=50,noise=0.5"
    result = robustscope.evaluate(network, data, "l2:0.4", certify=asked, **few)
    rows = rows_of(result, "certificate")
    broken = set(result.table.loc[result.table["success"].fillna(False), "sample"])
    proved = set(rows.index[rows["holds"].fillna(False).astype(bool)])
    assert broken
    both = read_measures(result.run)
    both.loc[both["sample"].isin(broken), "holds"] = True
    assert certified(result.table, both, result.plan)["k"].item() == len(proved | broken)
    threat = result.summary()["models"][0]["threats"][0]
    assert threat["certified"][0]["k"] == len(proved)
    assert "(the vote under noise)" in str(result)
    assert threat["audit"]["certified"] == 0
    subjects = Subjects((from_module(network, name="model"),), from_tensors(*data))
    assert verify_run(result.run, subjects).certificates == len(proved)
    with pytest.raises(InvalidValue, match="about the model itself"):
        robustscope.evaluate(network, data, "l2:0.4", bracket=4, certify=asked, **few)
