"""A run that is killed, cut or shared by workers gives the table of an undisturbed one, row for row."""

import random

import pandas as pd
import pytest

from robustscope.core.draws import permutation
from robustscope.core.errors import CorruptRun
from robustscope.runs.engines.local import claim
from robustscope.runs.measured import read_measures
from robustscope.runs.plan import load_subjects, make_plan
from robustscope.runs.session import carry_out, finish
from robustscope.runs.store import missing_shards, read_plan, read_record, read_table, shard_path
from runs.harness import assert_same_run, carry_out_quietly, config, finished, in_process, killed, planned


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("undisturbed") / "run")


def test_killed_at_twenty_random_moments(undisturbed, tmp_path):
    """Each worker is killed after it has stored none or one more shard, at a random moment of the next."""
    run = planned(tmp_path / "run")
    moments, left = random.Random(7), []
    for _ in range(20):
        left.append(killed(run, moments.choice((0, 1)), moments.uniform(0.0, 0.06)))
    assert len(set(left)) > 5, f"the kills must fall inside the run, not around it: {left}"
    carry_out(run)
    assert_same_run(undisturbed, run)
    assert not list(run.rglob("*.lock"))


@pytest.mark.parametrize("workers", [2, 5])
def test_shared_by_workers(undisturbed, tmp_path, workers):
    run = planned(tmp_path / "run")
    team = [in_process(carry_out_quietly, run) for _ in range(workers)]
    for worker, _ in team:
        worker.join()
        assert worker.exitcode == 0
    finish(run, read_plan(run))
    assert_same_run(undisturbed, run)


def test_a_process_pool_gives_the_same_table(undisturbed, tmp_path):
    run = planned(tmp_path / "run")
    assert carry_out(run, workers=2)
    assert_same_run(undisturbed, run)


def test_a_process_pool_carries_out_measures_too(tmp_path):
    beside = {"samples": "0:16", "shard_size": 8, "trust": "6", "bracket": "4", "estimate": "clever:batches=4,points=4"}
    one, two = finished(tmp_path / "one", **beside), planned(tmp_path / "two", **beside)
    assert carry_out(two, workers=2)
    assert_same_run(one, two)
    assert read_measures(one).equals(read_measures(two))
    assert set(read_measures(one)["measure"]) == {0, 1, 2}
    assert read_record(one)["trust"] == read_record(two)["trust"] != []


def test_shares_of_a_job_array_add_up(undisturbed, tmp_path):
    run = planned(tmp_path / "run")
    assert not carry_out(run, share="1/2")
    assert len(missing_shards(run, read_plan(run))) == 12
    assert carry_out(run, share="2/2")
    assert_same_run(undisturbed, run)


def test_a_claimed_shard_is_left_to_its_owner(tmp_path):
    run = planned(tmp_path / "run")
    with claim(run, 0) as mine, claim(run, 0) as theirs:
        assert mine
        assert not theirs
    with claim(run, 0) as again:
        assert again


def test_other_shard_sizes_give_the_same_rows(undisturbed, tmp_path):
    """The cut is part of the plan; draws are equal for every cut, floats to 1e-5 (other kernels for other batches)."""
    whole = read_table(finished(tmp_path / "whole", shard_size=96))
    parts = read_table(undisturbed)
    exact = ["cell", "sample", "y", "status", "clean_correct", "clean_prediction"]
    pd.testing.assert_frame_equal(whole[exact], parts[exact])
    assert (whole["success"].fillna(False) == parts["success"].fillna(False)).mean() > 0.99
    close = ["clean_margin", "clean_confidence"]
    pd.testing.assert_frame_equal(whole[close], parts[close], rtol=1e-4, atol=1e-5)
    noise = whole["cell"] == 0
    pd.testing.assert_series_equal(whole["distance"][noise], parts["distance"][noise], rtol=0, atol=0)


def test_shuffled_samples_get_the_same_draws(undisturbed, tmp_path):
    order = permutation(3, "test", 96)
    shuffled = config(samples="ids:" + ",".join(map(str, order)), shard_size=4)
    run = tmp_path / "run"
    from robustscope.runs.session import start

    start(make_plan(shuffled), run)
    carry_out(run)
    noise = {}
    for folder in (undisturbed, run):
        table = read_table(folder)
        rows = table[(table["cell"] == 0) & (table["status"] == "ok")].sort_values("sample")
        noise[folder] = rows[["sample", "distance", "success"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(noise[undisturbed], noise[run], check_exact=True)


def test_a_truncated_shard_is_named_and_only_it_is_recomputed(undisturbed, tmp_path):
    run = finished(tmp_path / "run")
    path = shard_path(run, 5)
    path.write_bytes(path.read_bytes()[:200])
    for work in (read_table, carry_out):
        with pytest.raises(CorruptRun, match=r"00005\.parquet.*Delete it"):
            work(run)
    path.unlink()
    before = {p: p.stat().st_mtime_ns for p in path.parent.glob("*.parquet")}
    carry_out(run)
    after = {p: p.stat().st_mtime_ns for p in path.parent.glob("*.parquet")}
    assert {p for p in after if after[p] != before.get(p)} == {path}
    assert_same_run(undisturbed, run)


def test_a_missing_or_doubled_row_is_an_error(undisturbed, tmp_path):
    import duckdb

    run = finished(tmp_path / "run")
    path = shard_path(run, 2)
    rows = duckdb.read_parquet(str(path)).df()
    for changed, what in (
        (rows.iloc[1:], "missing"),
        (pd.concat([rows, rows.iloc[:1]]), "doubled"),
        (rows.assign(sample=rows["sample"] + 1000), "missing"),
    ):
        duckdb.from_df(changed).write_parquet(str(path))
        with pytest.raises(CorruptRun, match=f"{what} row"):
            read_table(run)


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    run = planned(tmp_path / "run", shard_size=48)
    worker, _ = in_process(carry_out_quietly, run, 4096)
    worker.join()
    assert worker.exitcode == 3
    assert "could not be written" in (tmp_path / "error.txt").read_text()
    assert not list(run.rglob("*.part"))
    assert missing_shards(run, read_plan(run)) == [0, 1]
    carry_out(run)
    assert len(read_table(run)) == 96 * 6


def test_changed_weights_are_refused(tmp_path, monkeypatch):
    run = planned(tmp_path / "run")
    plan = read_plan(run)
    other = config()
    subjects = load_subjects(other.models, other.data, other.settings)
    next(subjects.models[0].classifier.module.parameters()).data.add_(1.0)
    from dataclasses import replace

    from robustscope.models.loading import from_module

    changed = from_module(subjects.models[0].classifier.module, name="standard")
    with pytest.raises(CorruptRun, match="has changed since the plan was made"):
        carry_out(run, subjects=replace(subjects, models=(changed,)))
    assert missing_shards(run, plan) == [shard["index"] for shard in plan["shards"]]


def test_the_plan_id_says_what_can_change_a_result():
    base = make_plan(config())["id"]
    assert make_plan(config())["id"] == base
    assert make_plan(config(device="cpu"))["id"] == base
    changes = ({"seed": 1}, {"batch_size": 64}, {"shard_size": 8}, {"samples": "0:95"}, {"threads": 2})
    ids = {make_plan(config(**change))["id"] for change in changes}
    assert base not in ids
    assert len(ids) == len(changes)
