"""A run killed in the middle of a long attack goes on from its last checkpoint, to the very rows of an undisturbed one."""

import json
import random
import warnings

import pytest
import torch
from safetensors.torch import save

from robustscope.core.errors import StoreError
from robustscope.core.resume import Saved
from robustscope.core.types import Ledger
from robustscope.runs import partial
from robustscope.runs.config import AttackSpec, Config, ModelSpec, Settings
from robustscope.runs.execute import describe_device, versions
from robustscope.runs.partial import Partial, PartialWarning, packed, partial_folder, read_partial, unpacked
from robustscope.runs.plan import make_plan
from robustscope.runs.session import carry_out, start
from robustscope.runs.store import missing_shards, read_plan, read_record
from runs.harness import assert_same_run, carry_out_keenly, in_process

LONG = {
    "square": (AttackSpec("pgd", {"steps": 3}), AttackSpec("square", {"queries": 250})),
    "apgd_targeted": (AttackSpec("fgsm"), AttackSpec("apgd_targeted", {"steps": 30, "n_targets": 5})),
}


def planned(folder, attacks):
    models = (ModelSpec("bundled:digits_standard", name="standard"),)
    settings = Settings(samples="0:16", shard_size=16, curve=(), batch_size=16, trust="off")
    start(make_plan(Config(models, "digits", ("linf:0.08",), attacks, settings)), folder)
    return folder


@pytest.fixture(scope="module", params=sorted(LONG))
def undisturbed(request, tmp_path_factory):
    run = planned(tmp_path_factory.mktemp("undisturbed") / "run", LONG[request.param])
    carry_out(run)
    assert not (run / "partial").exists()
    return run, LONG[request.param]


def counts(run):
    return {name: read_record(run)[name] for name in ("forward", "backward")}


def test_killed_at_random_moments_of_a_long_attack(undisturbed, tmp_path):
    """One shard, killed again and again in the middle: were nothing kept, it would never end."""
    whole, attacks = undisturbed
    run, moments, spent = planned(tmp_path / "run", attacks), random.Random(3), []
    folder = partial_folder(run, 0)
    state = folder / "state.safetensors"
    for _ in range(5):
        saved = {state.stat().st_mtime_ns if state.exists() else 0}
        worker, ready = in_process(carry_out_keenly, run)
        ready.wait(60)
        while worker.is_alive() and len(saved) < 4:  # it has come further than where it was taken up
            worker.join(0.001)
            saved.add(state.stat().st_mtime_ns if state.exists() else 0)
        worker.join(moments.uniform(0.0, 0.03))
        worker.kill()
        worker.join()
        if not missing_shards(run, read_plan(run)):
            break
        heads = [read_partial(file)[0] for file in folder.glob("*.safetensors")]
        spent.append(max(forward for head in heads for forward, *_ in head["rows"].values()))
    assert len(spent) >= 3, "the kills must fall inside the attack"
    assert spent == sorted(set(spent)), f"each process must come further than the one before: {spent}"
    carry_out(run)
    assert_same_run(whole, run)
    assert counts(run) == counts(whole)
    assert not read_record(run)["warnings"]
    assert not (run / "partial").exists()


def cut_short(run):
    """Leave a run with saved progress in the middle of its shard."""
    worker, ready = in_process(carry_out_keenly, run)
    ready.wait(60)
    folder = partial_folder(run, 0)
    while worker.is_alive() and not list(folder.glob("done-*.safetensors")):
        worker.join(0.001)
    worker.join(0.03)
    worker.kill()
    worker.join()
    assert missing_shards(run, read_plan(run)) == [0]
    return sorted(folder.glob("*.safetensors"))


def flip(file):
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)


def foreign(file):
    """The same content, but said to be of another plan, with a sound hash."""
    head, tensors = read_partial(file)
    text = json.dumps({**head, "plan": "0123456789abcdef"}, sort_keys=True)
    file.write_bytes(save(tensors, {"head": text, "sha256": partial.digest(text, tensors)}))


DAMAGES = {
    "flipped": (flip, "damaged"),
    "truncated": (lambda file: file.write_bytes(file.read_bytes()[:-100]), "damaged"),
    "emptied": (lambda file: file.write_bytes(b""), "damaged"),
    "no safetensors": (lambda file: file.write_bytes(b"\0" * 4096), "damaged"),
    "of another plan": (foreign, "another plan"),
}


def test_damaged_or_foreign_progress_is_not_used_and_the_record_says_so(undisturbed, tmp_path):
    whole, attacks = undisturbed
    run = planned(tmp_path / "run", attacks)
    files = {file.name: file.read_bytes() for file in cut_short(run)}
    assert set(files) >= {"state.safetensors", "done-00000.safetensors"}
    plan, folder = read_plan(run), partial_folder(run, 0)
    for damage, why in DAMAGES.values():
        for name, raw in files.items():
            (folder / name).write_bytes(raw)
        circumstances = {**versions(), "device": describe_device("cpu")}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert Partial(run, plan, 0, Ledger(), circumstances).earlier > 0
        for name in files:
            damage(folder / name)
        with pytest.warns(PartialWarning, match=why):
            assert not Partial(run, plan, 0, Ledger(), circumstances)._found
    carry_out(run)
    assert_same_run(whole, run)
    assert counts(run) == counts(whole)
    assert sum("of another plan" in line or "another plan" in line for line in read_record(run)["warnings"]) == len(
        files
    )


def test_only_the_damaged_file_is_left_out(undisturbed, tmp_path):
    whole, attacks = undisturbed
    run = planned(tmp_path / "run", attacks)
    cut_short(run)
    flip(partial_folder(run, 0) / "done-00000.safetensors")
    carry_out(run)
    assert_same_run(whole, run)
    assert counts(run) == counts(whole)


def test_progress_of_other_software_is_not_used(tmp_path):
    plan = {"id": "1" * 16}
    keeper = Partial(tmp_path, plan, 0, Ledger(), {"torch": "2.0"})
    keeper.save({"/loop#0": Saved({"step": torch.tensor(3)}, 5, 4)})
    assert Partial(tmp_path, plan, 0, Ledger(), {"torch": "2.0"})._found["/loop#0"].forward == 5
    for other, why in (({"torch": "2.1"}, "torch"), ({"torch": "2.0", "device": "cuda"}, "damaged")):
        with pytest.warns(PartialWarning, match=why):
            assert not Partial(tmp_path, plan, 0, Ledger(), other)._found
    partial_folder(tmp_path, 0).rename(partial_folder(tmp_path, 1))
    with pytest.warns(PartialWarning, match="another shard"):
        assert not Partial(tmp_path, plan, 1, Ledger(), {"torch": "2.0"})._found


def test_a_single_flipped_bit_is_noticed(tmp_path):
    keeper = Partial(tmp_path, {"id": "a"}, 0, Ledger(), {})
    keeper.save({"/loop#0": Saved({"values": torch.zeros(100)}, 5, 4)})
    flip(partial_folder(tmp_path, 0) / "state.safetensors")
    with pytest.warns(PartialWarning, match="its sha-256 is another"):
        assert not Partial(tmp_path, {"id": "a"}, 0, Ledger(), {})._found


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(24.0).view(2, 3, 4),
        torch.arange(24.0).view(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        torch.arange(6.0).view(2, 3).T,
        torch.tensor(3),
        torch.tensor([True, False]),
        torch.zeros(0, 3),
        torch.arange(3.0).expand(2, 3),
        torch.tensor([float("nan"), -0.0, float("inf")], dtype=torch.bfloat16),
    ],
    ids=["plain", "channels last", "transposed", "integer", "flags", "empty", "expanded", "bfloat16"],
)
def test_a_tensor_comes_back_as_it_lay_in_memory(value, tmp_path):
    again = unpacked(*packed(value))
    assert torch.equal(again.nan_to_num(-9.0), value.nan_to_num(-9.0))
    if 0 not in value.stride():
        assert again.stride() == value.stride()
    keeper = Partial(tmp_path, {"id": "a"}, 0, Ledger(), {})
    keeper.save({"/loop#0": Saved({"value": value}, 1, 2, {"inner": 1})})
    saved = Partial(tmp_path, {"id": "a"}, 0, Ledger(), {})._found["/loop#0"]
    assert torch.equal(saved.state["value"].nan_to_num(-9.0), value.nan_to_num(-9.0))
    assert saved.state["value"].dtype == value.dtype
    assert (saved.forward, saved.backward, saved.names) == (1, 2, {"inner": 1})


def test_a_disk_that_is_full_stops_the_saving_not_the_run(tmp_path, monkeypatch):
    def full(path, write):
        raise StoreError("no space left")

    keeper = Partial(tmp_path, {"id": "a"}, 0, Ledger(), {})
    monkeypatch.setattr(partial, "write_atomically", full)
    with pytest.warns(PartialWarning, match="progress is not saved any more"):
        keeper.save({})
    assert not keeper.due()
