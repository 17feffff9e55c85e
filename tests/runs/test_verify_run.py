"""`verify` says which rows fail when a run was tampered with, and nothing when it was not."""

import shutil
from dataclasses import replace

import duckdb
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

import robustscope
from robustscope.corruptions import CORRUPTIONS
from robustscope.data.datasets import load_data
from robustscope.models.loading import from_module
from robustscope.runs import shift_evidence
from robustscope.runs.evidence import verify_run
from robustscope.runs.plan import Subjects
from robustscope.runs.store import evidence_path, read_plan, read_table, shard_path
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


def edit_rows(run, change, shard=0):
    """Rewrite the rows of a shard, keeping the record that its metadata hold."""
    path = shard_path(run, shard)
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


# Shifts ---------------------------------------------------------------------------------------------------------------

PARTS = 10 + 10
"""Two corruptions in five severities, and ten sequences."""


@pytest.fixture(scope="module")
def sound_shifts(tmp_path_factory):
    asked = {"samples": "0:20", "shard_size": 8, "shifts": "contrast,gaussian_noise,imagenet-p"}
    return finished(tmp_path_factory.mktemp("sound") / "shifts", **asked)


@pytest.fixture
def shifted(sound_shifts, tmp_path):
    return shutil.copytree(sound_shifts, tmp_path / "run")


def shards_of(run, shift):
    return [shard for shard in read_plan(run)["shards"] if shift in shard.get("shifts", ())]


def test_shifted_pictures_are_made_and_judged_again(sound_shifts):
    check = verify_run(sound_shifts)
    assert check.shifted == 16 * PARTS
    assert check.failures.empty
    assert check.left_out == ()
    assert verify_run(sound_shifts, shift_samples=50).shifted == 20 * PARTS
    assert verify_run(sound_shifts, shift_samples=0).shifted == 0


@pytest.mark.parametrize(
    ("column", "change", "problem"),
    [
        ("prediction", lambda row: (row["prediction"] + 1) % 10, "is stored, the model says"),
        ("prediction", lambda row: 99, "class 99 is stored"),
        ("y", lambda row: (row["y"] + 1) % 10, "the data say"),
        ("confidence", lambda row: row["confidence"] * 0.99, "probability"),
    ],
)
def test_a_false_row_of_a_corruption(shifted, column, change, problem):
    shard = shards_of(shifted, 0)[0]

    def falsify(rows):
        rows[column] = [change(row) if i == 11 else row[column] for i, row in rows.iterrows()]
        return rows

    edit_rows(shifted, falsify, shard["index"])
    (found,) = verify_run(shifted, shift_samples=20).failures.to_dict("records")
    assert (found["shard"], found["sample"]) == (shard["index"], shard["ids"][3])
    assert found["problem"].startswith("corruptions, contrast of severity 2, standard: ")
    assert problem in found["problem"]


@pytest.mark.parametrize("change", [lambda order: np.r_[order[:-2], order[-1], order[-2]], lambda order: order[:-5]])
def test_a_false_order_of_a_sequence(shifted, change):
    shard = shards_of(shifted, 1)[-1]

    def falsify(rows):
        rows["orders"] = [change(order) if i == 0 else order for i, order in enumerate(rows["orders"])]
        return rows

    edit_rows(shifted, falsify, shard["index"])
    (found,) = verify_run(shifted, shift_samples=20).failures.to_dict("records")
    assert found["sample"] == shard["ids"][0]
    assert "imagenet-p, brightness, standard: the model now orders" in found["problem"]


def test_what_cannot_be_made_again_is_told(sound_shifts, monkeypatch):
    newer = [replace(card, version=card.version + (card.name == "contrast")) for card in CORRUPTIONS]
    monkeypatch.setattr(shift_evidence, "CORRUPTIONS", newer)
    check = verify_run(sound_shifts)
    assert check.shifted == 16 * 10
    assert check.failures.empty
    (reason,) = check.left_out
    assert "contrast was of version 1 in the run and is version 2 here" in reason


class _Moody(nn.Module):
    """Adds another random number to each logit whenever it is asked."""

    def forward(self, x):
        return x.flatten(1)[:, :10] + torch.rand(len(x), 10)


def test_a_model_that_draws_is_left_out(tmp_path):
    module = _Moody().eval()
    options = {"suite": "fgsm", "curve": (), "trust": "off", "threads": 1, "audit": "off"}
    result = robustscope.evaluate(
        module, "digits", "linf:0.05", samples=6, shifts="contrast", out=tmp_path / "run", **options
    )
    check = verify_run(result.run, Subjects((from_module(module, name="model"),), load_data("digits")))
    assert check.shifted == 0
    assert "draws random numbers" in check.left_out[0]
