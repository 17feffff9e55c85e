"""The Python door: what it takes, what it gives, and what it leaves alone."""

import json
import random
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import robustscope
from doors import STANDARD, Net, X, Y, command, evaluated
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Bounds, ThreatModel
from robustscope.models.classifier import Classifier
from robustscope.runs.session import Nobody
from robustscope.runs.store import COLUMNS, read_plan


@pytest.fixture(scope="module")
def standard():
    """The bundled standard network, as a user would hold it: a bare module."""
    return robustscope.load_model(STANDARD).classifier.module


def same_rows(first, second) -> None:
    pd.testing.assert_frame_equal(first.table, second.table, check_exact=True)


# What comes back ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(standard, tmp_path_factory):
    return evaluated(tmp_path_factory.mktemp("api"), standard, threat="linf:0.15", samples="0:40")


def test_the_table_has_a_row_for_each_cell_and_sample(result):
    table = result.table
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == 40
    assert table[["cell", "sample"]].drop_duplicates().shape == (40, 2)
    broken = table[table["success"].fillna(False)]
    assert len(broken) > 5
    assert (broken["distance"] <= 0.15 + 1e-6).all()
    assert (broken["y_adv"] != broken["y"]).all()
    assert (table[~table["clean_correct"]]["status"] == "skipped").all()


def test_the_summary_is_what_the_report_holds(result, tmp_path):
    page = result.report(tmp_path / "report")
    assert page == tmp_path / "report" / "report.html"
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == json.loads(json.dumps(result.summary()))
    assert result.report() == result.run / "report.html"
    assert page.read_bytes() == (result.run / "report.html").read_bytes()


def test_the_summary_counts_the_rows_of_the_table(result):
    table, summary = result.table, result.summary()
    correct = int(table["clean_correct"].sum())
    robust = int((table["clean_correct"] & ~table["success"].fillna(False)).sum())
    assert (summary["clean_accuracy"]["k"], summary["clean_accuracy"]["n"]) == (correct, 40)
    assert (summary["robust_accuracy"]["k"], summary["robust_accuracy"]["n"]) == (robust, 40)
    assert robust < correct


def test_as_text_it_is_the_headline(result):
    lines = str(result).splitlines()
    k = result.summary()["robust_accuracy"]["k"]
    assert lines[0].startswith("model: clean accuracy ")
    assert lines[1].startswith(f"model: robust accuracy {100 * k / 40:.1f} % ({k} of 40, 95 % interval ")
    assert lines[1].endswith("at linf 0.15")


# What goes in ---------------------------------------------------------------------------------------------------------


def test_a_module_a_classifier_and_a_loaded_model_give_the_same_rows(standard, tmp_path):
    models = {"module": standard, "classifier": Classifier(standard), "loaded": robustscope.load_model(STANDARD)}
    results = {name: evaluated(tmp_path / name, model, suite="fast") for name, model in models.items()}
    same_rows(results["module"], results["classifier"])
    same_rows(results["module"], results["loaded"])
    ids = {name: result.plan["id"] for name, result in results.items()}
    assert ids["module"] == ids["classifier"]
    assert all(result.plan["batch_size"] == 128 for result in results.values())


def test_the_python_door_gives_the_rows_of_the_command_line(tmp_path):
    options = ("--data", "digits", "--threat", "linf:0.15", "--samples", "30", "--seed", "5", "--shard-size", "7")
    code, _, err = command(
        "evaluate",
        STANDARD,
        *options,
        "--suite",
        "fast",
        "--trust",
        "off",
        "--json",
        "--workers",
        "1",
        "--out",
        tmp_path / "cli",
    )
    assert code == 0, err
    there = robustscope.Evaluation(tmp_path / "cli")
    here = evaluated(
        tmp_path,
        robustscope.load_model(STANDARD),
        threat="linf:0.15",
        samples=30,
        seed=5,
        shard_size=7,
        suite="fast",
        curve=(0.25, 0.5, 2.0),
    )
    same_rows(here, there)
    assert here.plan["id"] == there.plan["id"]


def test_several_models_are_named_and_see_the_same_samples(standard, tmp_path):
    both = {"standard": standard, "trained": robustscope.load_model("bundled:digits_adversarial")}
    summary = evaluated(tmp_path, both, threat="linf:0.15", samples="60").summary()
    figures = {m["name"]: m["threats"][0]["robust_accuracy"]["value"] for m in summary["models"]}
    assert list(figures) == ["standard", "trained"]
    assert figures["trained"] > figures["standard"] + 0.2
    assert summary["comparisons"]


def test_data_in_every_form_give_the_same_rows(tmp_path):
    sets = {
        "pair": (X, Y),
        "arrays": (X.numpy(), Y.numpy()),
        "data set": robustscope.from_tensors(X, Y),
        "torch data set": torch.utils.data.TensorDataset(X, Y),
        "list of pairs": list(zip(X, Y.tolist(), strict=True)),
    }
    results = [evaluated(tmp_path / name, data=data, samples="all") for name, data in sets.items()]
    for other in results[1:]:
        same_rows(results[0], other)
        assert other.plan["id"] == results[0].plan["id"]


def test_8_bit_images_are_divided_by_255(tmp_path):
    bytes_ = (X * 255).round().to(torch.uint8)
    first = evaluated(tmp_path / "bytes", data=(bytes_, Y), samples="all")
    second = evaluated(tmp_path / "floats", data=(bytes_.float() / 255, Y), samples="all")
    same_rows(first, second)


def test_a_source_may_be_a_path(tmp_path):
    np.savez(tmp_path / "own.npz", x=X.numpy(), y=Y.numpy())
    result = evaluated(tmp_path, data=f"npz:{tmp_path / 'own.npz'}", samples="all")
    assert result.table["y"].tolist() == Y.tolist()


def test_threat_models_as_text_and_as_objects(tmp_path):
    text = evaluated(tmp_path / "text", threat=["linf:0.1", "l2:0.5"])
    threats = [ThreatModel("linf", 0.1), ThreatModel("l2", 0.5)]
    same_rows(text, evaluated(tmp_path / "objects", threat=threats))
    assert [threat["name"] for threat in text.summary()["threats"]] == ["linf 0.1", "l2 0.5"]


def test_bounds_and_normalisation_reach_the_classifier(tmp_path):
    """The same network on other units: x in [-1, 1] against a radius twice as large."""

    class Halved(Net):
        def forward(self, x):
            return super().forward((x + 1) / 2)

    plain = evaluated(tmp_path / "plain", data=(X, Y), samples="all", threat="linf:0.1")
    wide = evaluated(tmp_path / "wide", Halved(), (X * 2 - 1, Y), samples="all", threat="linf:0.2", bounds=(-1, 1))
    normed = evaluated(
        tmp_path / "normed", data=(X * 2 - 1, Y), samples="all", threat="linf:0.2", bounds=(-1, 1), mean=(-1,), std=(2,)
    )
    for other in (wide, normed):
        assert other.plan["models"][0]["bounds"] == [-1.0, 1.0]
        assert other.table["success"].fillna(False).tolist() == plain.table["success"].fillna(False).tolist()
        np.testing.assert_allclose(other.table["adv_margin"], plain.table["adv_margin"], atol=1e-5)
    threat = ThreatModel("linf", 0.2, Bounds(-1, 1))
    same_rows(wide, evaluated(tmp_path / "object", Halved(), (X * 2 - 1, Y), threat, samples="all", bounds=(-1, 1)))


def test_attacks_replace_the_suite_and_one_may_stand_alone(tmp_path):
    result = evaluated(tmp_path / "one", attacks="pgd:steps=3,loss=margin")
    assert [cell["attack"] for cell in result.plan["cells"]] == ["pgd"]
    assert result.plan["cells"][0]["parameters"]["steps"] == 3
    two = evaluated(tmp_path / "two", attacks=["noise_uniform", "fgsm"])
    assert [cell["attack"] for cell in two.plan["cells"]] == ["noise_uniform", "fgsm"]


def test_settings_as_an_object_or_one_by_one(tmp_path):
    from robustscope.runs.config import Settings

    settings = Settings(samples="8", suite="fgsm", curve=(), seed=3, trust="off")
    first = robustscope.evaluate(Net(), "digits", "linf:0.1", settings=settings, out=tmp_path / "first")
    same_rows(first, evaluated(tmp_path, seed=3))
    other = robustscope.evaluate(Net(), "digits", "linf:0.1", settings=settings, seed=4, out=tmp_path / "other")
    assert other.plan["seed"] == 4


# Folders --------------------------------------------------------------------------------------------------------------


class Watch(Nobody):
    """Counts the samples that are told as done before and while a run is carried out."""

    def __init__(self):
        self.told = []

    def begin(self, plan, done, total):
        self.told.append((done, total))

    def advance(self, samples):
        self.told.append(samples)


def test_the_same_call_resumes_and_another_one_is_refused(tmp_path):
    watch = Watch()
    first = evaluated(tmp_path, shard_size=3, watcher=watch)
    assert watch.told == [(0, 8), 3, 3, 2]
    (tmp_path / "run" / "shards" / "00001.parquet").unlink()
    (tmp_path / "run" / "record.json").unlink()
    watch = Watch()
    again = evaluated(tmp_path, shard_size=3, watcher=watch)
    assert watch.told == [(5, 8), 3], "only the missing shard is computed"
    same_rows(first, again)
    changed = Net()
    changed.layer.bias.data.add_(1.0)
    for wrong in ({"seed": 1}, {"model": changed}, {"threat": "linf:0.2"}):
        with pytest.raises(InvalidValue, match="was asked for"):
            evaluated(tmp_path, shard_size=3, **wrong)
    same_rows(first, robustscope.Evaluation(tmp_path / "run"))


def test_a_model_in_memory_cannot_be_resumed_from_the_command_line(tmp_path):
    evaluated(tmp_path, shard_size=3)
    (tmp_path / "run" / "shards" / "00001.parquet").unlink()
    code, _, err = command("run", tmp_path / "run")
    assert code == 2
    assert "Call robustscope.evaluate again" in err


def test_without_a_folder_a_temporary_one_is_made(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = evaluated(tmp_path, out=None)
    assert result.run.parent == tmp_path
    assert result.run.name.startswith("robustscope-")
    assert read_plan(result.run) == result.plan
    with pytest.raises(InvalidValue):
        evaluated(tmp_path, out=None, threat="linf:-1")
    assert len(list(tmp_path.iterdir())) == 1, "a refused request leaves no folder"


# What is left alone ---------------------------------------------------------------------------------------------------


def generators() -> tuple:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_model_generators_and_settings_are_left_as_they_were(tmp_path, capfd):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 10)).eval()
    net[1].weight.requires_grad_(False)
    net[4].weight.grad = torch.full((10, 16), 7.0)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    flags = [parameter.requires_grad for parameter in net.parameters()]
    before, threads, grad = generators(), torch.get_num_threads(), torch.is_grad_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluated(tmp_path, net, suite="baseline", curve=(0.5,))
    assert generators() == before
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)
    assert not any(module.training for module in net.modules())
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert [parameter.requires_grad for parameter in net.parameters()] == flags
    assert (net[4].weight.grad == 7.0).all()
    assert [p.grad is None for p in net.parameters()].count(False) == 1
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in net.modules())
    assert capfd.readouterr() == ("", "")


def test_a_classifier_keeps_its_own_ledger_and_batch_size(tmp_path):
    own = Classifier(Net(), batch_size=3)
    result = evaluated(tmp_path, own, batch_size=5)
    assert (own.ledger.forward, own.ledger.backward, own.batch_size) == (0, 0, 3)
    assert result.plan["batch_size"] == 5


def test_an_evaluation_without_gradients_around_it(tmp_path):
    with torch.no_grad():
        inside = evaluated(tmp_path / "inside", suite="fast")
    same_rows(inside, evaluated(tmp_path / "outside", suite="fast"))


# Models that misbehave in the middle ----------------------------------------------------------------------------------


def failing_on(calls, what):
    """Return an answer that fails in the given forward passes, counted from 1."""
    seen = [0]

    def answer(z, x):
        seen[0] += 1
        return what(z) if seen[0] in calls else z

    return answer


@pytest.mark.parametrize(
    "what", [lambda z: z * float("nan"), lambda z: z[:, :3], lambda z: 1 / 0], ids=["nan", "few", "raise"]
)
def test_an_error_in_the_middle_becomes_rows_in_error_not_robustness(what, tmp_path):
    """The second shard has five samples; planning looks at eight, at one and at none, so it finds nothing."""

    def answer(z, x):
        return what(z) if len(x) == 5 else z

    result = evaluated(tmp_path, Net(answer), samples="0:13", shard_size=8, suite="fast")
    table, summary = result.table, result.summary()
    assert set(table[table["shard"] == 1]["status"]) == {"error"}
    assert "error" not in set(table[table["shard"] == 0]["status"])
    assert summary["clean_accuracy"]["value"] is None
    assert summary["robust_accuracy"]["value"] is None
    assert "withheld" in str(result)
    assert summary["warnings"]
    assert result.report().exists()


def test_a_gradient_that_fails_withholds_the_robust_figure_only(tmp_path):
    net = Net(lambda z, x: z + (x - x).abs().sum(1, keepdim=True).sqrt())
    summary = evaluated(tmp_path, net, suite="fast", samples="40").summary()
    assert summary["clean_accuracy"]["value"] is not None
    assert summary["robust_accuracy"]["value"] is None
    failed = {row["attack"]: row["failed"] for row in summary["attacks"]}
    assert failed["pgd"] > 0
    assert failed["noise_uniform"] == 0


def test_a_model_that_warns_is_recorded_not_stopped(tmp_path):
    def answer(z, x):
        warnings.warn("careful now", stacklevel=1)
        return z

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = evaluated(tmp_path, Net(answer))
    record = json.loads((result.run / "record.json").read_text())
    assert record["warnings"] == ["UserWarning: careful now"]
    assert set(result.table["status"]) <= {"ok", "skipped"}


def test_a_model_that_prints_prints_and_the_attack_does_not(tmp_path, capsys):
    seen = []

    def answer(z, x):
        seen.append(len(x))
        print("hello")
        return z

    evaluated(tmp_path, Net(answer))
    assert capsys.readouterr().out == "hello\n" * len(seen)
