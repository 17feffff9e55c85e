"""`verify` says which rows fail when a run was tampered with, and nothing when it was not."""

import shutil

import duckdb
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from robustscope.runs.evidence import verify_run
from robustscope.runs.store import evidence_path, read_table, shard_path
from runs.harness import finished


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("sound") / "run", samples="0:64", shard_size=32)


@pytest.fixture
def run(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "run")


def edit_evidence(run, key, change):
    """Change one array of the first shard's evidence in place."""
    path = evidence_path(run, 0)
    arrays = {name: array.copy() for name, array in load_file(path).items()}
    change(arrays[key])
    save_file(arrays, path)
    return arrays


def edit_rows(run, change):
    """Rewrite the first shard's rows, keeping the record that its metadata hold."""
    path = shard_path(run, 0)
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT value FROM parquet_kv_metadata($f) WHERE decode(key) = 'record'", {"f": str(path)}
        ).fetchall()
        record = bytes(found[0][0]).decode().replace("'", "''")
        rows = connection.execute("SELECT * FROM read_parquet($f)", {"f": str(path)}).df()
        rows = change(rows)
        connection.register("rows", rows)
        connection.execute(f"COPY rows TO '{path}' (FORMAT parquet, KV_METADATA {{record: '{record}'}})")


def claims(run):
    table = read_table(run)
    return table[table["success"].fillna(False)]


def biggest(run):
    """The cell of the first shard with the most claims."""
    rows = claims(run)
    return int(rows[rows["shard"] == 0]["cell"].mode()[0])


def test_a_sound_run_is_confirmed(sound):
    check = verify_run(sound)
    assert check.claims == check.confirmed == len(claims(sound)) > 20
    assert check.failures.empty


def test_one_pixel_beyond_epsilon(run):
    cell = biggest(run)

    def push(x_adv):
        row = x_adv[0].reshape(-1)
        i = int(np.argmin(np.abs(row - 0.5)))
        row[i] += 0.25 if row[i] < 0.5 else -0.25

    arrays = edit_evidence(run, f"cell/{cell}/x_adv", push)
    sample = int(arrays[f"cell/{cell}/samples"][0])
    check = verify_run(run)
    rows = check.failures[(check.failures["cell"] == cell)]
    assert set(rows["sample"]) == {sample}
    assert rows["problem"].str.contains("outside epsilon").any()
    assert check.confirmed == check.claims - 1
    assert check.failures["problem"].str.contains("sha-256").any()


def test_one_pixel_outside_the_bounds(run):
    cell = biggest(run)
    edit_evidence(run, f"cell/{cell}/x_adv", lambda x: x[0].reshape(-1).__setitem__(0, -0.01))
    assert verify_run(run).failures["problem"].str.contains("outside").any()


def test_a_swapped_label(run):
    sample = int(claims(run).query("shard == 0")["sample"].iloc[0])

    def swap(rows):
        rows.loc[rows["sample"] == sample, "y"] = (rows.loc[rows["sample"] == sample, "y"] + 1) % 10
        return rows

    edit_rows(run, swap)
    failures = verify_run(run).failures
    assert set(failures["sample"]) == {sample}
    assert failures["problem"].str.contains("the data say").any()


def test_a_clean_image_posing_as_an_example(run):
    cell = biggest(run)
    from robustscope.data.datasets import load_data

    arrays = load_file(evidence_path(run, 0))
    sample = int(arrays[f"cell/{cell}/samples"][0])
    clean = load_data("digits").read([sample]).numpy()[0]
    edit_evidence(run, f"cell/{cell}/x_adv", lambda x: x.__setitem__(0, clean))
    problems = verify_run(run).failures
    assert "the model classifies the example correctly" in set(problems[problems["sample"] == sample]["problem"])


def test_a_false_claim_of_surviving_8_bits(run):
    def claim(rows):
        won = rows["success"].fillna(False).astype(bool)
        rows.loc[won, "survives_8bit"] = ~rows.loc[won, "survives_8bit"].astype(bool)
        return rows

    assert verify_run(run).survive_8bit == int(claims(run)["survives_8bit"].sum())
    edit_rows(run, claim)
    assert verify_run(run).failures["problem"].str.contains("survives_8bit").any()


def test_a_claim_without_an_example(run):
    def claim_one(rows):
        row = rows.index[(rows["status"] == "ok") & ~rows["success"].fillna(False).astype(bool)][0]
        rows.loc[row, "success"] = True
        return rows

    edit_rows(run, claim_one)
    assert verify_run(run).failures["problem"].str.contains("no example is stored").any()


def test_a_claim_withdrawn(run):
    def withdraw(rows):
        row = rows.index[rows["success"].fillna(False).astype(bool)][0]
        rows.loc[row, "success"] = False
        return rows

    edit_rows(run, withdraw)
    assert verify_run(run).failures["problem"].str.contains("no row claims it").any()


def test_a_false_clean_accuracy(run):
    def polish(rows):
        wrong = ~rows["clean_correct"].astype(bool)
        assert wrong.any()
        rows.loc[wrong, "clean_correct"] = True
        return rows

    edit_rows(run, polish)
    assert verify_run(run).failures["problem"].str.contains("contradicts").any()
