"""Studies: parts whole or absent, the same whatever the processes, planted relations found, figures that are right."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from doors import command
from robustscope.analyses.study import add_robust_accuracy, chosen_properties, expectations, study_table
from robustscope.core.draws import Draws
from robustscope.core.errors import CorruptRun, InvalidValue, StoreError, UnknownName
from robustscope.data.datasets import load_data
from robustscope.models.loading import load_model
from robustscope.probes.why.compose import investigate
from robustscope.reports import study as reports
from robustscope.reports.study import write_study
from robustscope.runs import studied
from robustscope.runs import study as module
from robustscope.runs.studied import read_pictures, read_study
from robustscope.runs.study import Study, StudyRequest, run_study
from run_factory import make_plan, make_table

NETWORKS = '''
import torch
from torch import nn

from robustscope.models.loading import load_model


def between(share):
    """Return a network on the way from one bundled network to the other, which has the same layers."""
    ends = [load_model(f"bundled:digits_{name}").classifier.module for name in ("standard", "adversarial")]
    with torch.no_grad():
        for one, other in zip(*(end.parameters() for end in ends)):
            one.lerp_(other, share)
    return ends[0].eval()


def standard():
    return between(0.0)


def third():
    return between(0.3)


def most():
    return between(0.8)


def adversarial():
    return between(1.0)


def affine():
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.copy_(torch.sin(torch.arange(tensor.numel()) * 1.7).view_as(tensor) / 4)
    return network.eval()
'''
PROBES = ("margins", "activation_sparsity", "weight_sparsity", "landscape", "saliency")


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    path = tmp_path_factory.mktemp("networks") / "networks.py"
    path.write_text(NETWORKS)
    return tuple((name, f"{path}:{name}") for name in ("standard", "third", "most", "adversarial", "affine"))


def request(networks, **facts):
    given = {"data": "digits", "threat": "linf:0.1", "samples": "30", "probes": PROBES, "pictures": 2, **facts}
    return StudyRequest(networks, **given)


@pytest.fixture(scope="module")
def finished(networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "out"
    with pytest.MonkeyPatch.context() as patch:
        for place in (module, studied):
            patch.setattr(place, "SHARE", 12)
        study = Study(request(networks), folder)
        run_study(study)
        record = read_study(folder)
    return study, folder, record


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.safetensors"))}


def test_columns_are_what_the_probes_return(finished, networks):
    study, _, record = finished
    data = load_data("digits")
    y = torch.as_tensor(data.labels[study.ids], dtype=torch.int64)
    draws = Draws(0, tuple(study.ids))
    for name, source in networks[:2]:
        model = load_model(source).classifier
        alone = investigate("margins", model, data.read(study.ids), y, "linf:0.1", draws=draws)
        rows = record.rows[(record.rows["model"] == name) & (record.rows["property"] == "margins.input_margin")]
        assert rows["sample"].tolist() == study.ids
        assert np.allclose(rows["value"], alone.columns["input_margin"], atol=1e-6)
    assert record.facts["margins.input_margin"]["robust"] == "higher"
    known = set(record.rows["property"])
    assert list(dict.fromkeys(record.rows["property"])) == [name for name in record.facts if name in known]


def test_a_probe_that_fails_on_a_model_is_a_gap_with_a_reason(finished, networks):
    _, _, record = finished
    assert list(record.errors) == [("affine", "activation_sparsity")]
    assert "no activation function" in record.errors["affine", "activation_sparsity"]
    table = study_table(record.rows, record.figures, [name for name, _ in networks])
    assert np.isnan(table.loc["affine", "activation_sparsity.zeros"])
    assert table["activation_sparsity.zeros"].notna().sum() == 4
    assert table["weight_sparsity.weights"].tolist() == [22416, 22416, 22416, 22416, 640]


def test_a_disk_that_is_full_is_no_gap(networks, tmp_path, monkeypatch):
    study = Study(request(networks[:2], samples="10", probes=("landscape",)), tmp_path / "out")
    monkeypatch.setattr(study, "_draw", lambda *_: (_ for _ in ()).throw(StoreError("no space", "space", "Free some.")))
    with pytest.raises(StoreError, match="no space"):
        run_study(study)
    assert not list((tmp_path / "out").rglob("landscape-*.safetensors"))


def test_pictures_are_kept_for_a_few_samples(finished):
    study, folder, _ = finished
    found = read_pictures(folder, "standard", "landscape")
    assert found["picture/margin"].shape == (2, 15, 15)
    assert found["axis/margin/0"].tolist() == np.linspace(-2, 2, 15).tolist()
    assert found["sample"].tolist() == study.shown
    assert read_pictures(folder, "standard", "margins") is None


def test_a_study_goes_on_where_it_was_killed(finished, networks, tmp_path, monkeypatch):
    for place in (module, studied):
        monkeypatch.setattr(place, "SHARE", 12)
    study = Study(request(networks), tmp_path / "out")

    def killed(more):
        if len(files(tmp_path)) > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study, report=killed)
    kept = files(tmp_path / "out")
    with pytest.raises(CorruptRun):
        read_study(tmp_path / "out")
    seen = []
    run_study(study, begin=lambda done, total: seen.append((done, total)))
    assert seen[0][0] > 100
    assert seen[0][1] == 30 * 5 * 6
    assert files(tmp_path / "out") == files(finished[1])
    assert kept.items() <= files(tmp_path / "out").items()


def test_two_processes_write_the_same_parts(networks, tmp_path):
    small = request(networks[:2], samples="10", probes=("margins",), pictures=0)
    for workers in (1, 2):
        run_study(Study(small, tmp_path / str(workers)), workers=workers)
    assert files(tmp_path / "1") == files(tmp_path / "2")
    found = write_study(tmp_path / "1")  # of two models there are tables and a page, and no correlations
    assert found["table"].shape[0] == 2
    assert not found["pairs"]["value"].notna().any()
    assert found["page"].is_file()


def test_a_folder_belongs_to_one_request(networks, tmp_path):
    small = request(networks[:2], samples="10", probes=("margins",))
    run_study(Study(small, tmp_path / "out"))
    for facts in ({"threat": "linf:0.2"}, {"samples": "11"}, {"seed": 1}, {"full": True}, {"probes": ("alignment",)}):
        other = request(networks[:2], **{"samples": "10", "probes": ("margins",), **facts})
        with pytest.raises(InvalidValue, match="was begun with"):
            run_study(Study(other, tmp_path / "out"))


def test_what_does_not_fit_is_refused(networks, tmp_path):
    for facts, says in (
        ({"threat": "linf:inf", "probes": ()}, "infinite"),
        ({"threat": "patch:2,2"}, "lp ball"),
        ({"threat": "l0:3", "probes": ("margins",)}, "margins"),
    ):
        with pytest.raises(InvalidValue, match=says):
            run_study(Study(request(networks[:2], **facts), tmp_path / "x"))
    with pytest.raises(InvalidValue, match="two or more"):
        Study(request(networks[:1]), tmp_path / "x")
    with pytest.raises(InvalidValue, match="two or more"):
        Study(request((networks[0], networks[0])), tmp_path / "x")
    with pytest.raises(InvalidValue, match="without slashes"):
        Study(request((networks[0], ("../out", networks[1][1]))), tmp_path / "x")
    with pytest.raises(UnknownName, match="margins"):
        Study(request(networks[:2], probes=("margin",)), tmp_path / "x")


# The table and what is read from it, on planted numbers.


def planted(models=12, samples=40, seed=0):
    """Return rows in which "p.up" grows with robustness, "p.down" falls, "p.noise" does neither, "p.rare" is a gap."""
    numbers = np.random.default_rng(seed)
    rows = []
    for model in range(models):
        right = numbers.random(samples) < 0.95 - 0.07 * model
        columns = {
            "confidence.correct": np.ones(samples),
            "confidence.confidence": np.full(samples, 0.75),
            "confidence.attacked_correct": right.astype(float),
            "confidence.attacked_confidence": np.full(samples, 0.5),
            "p.up": 3.0 - model / models + 0.05 * numbers.normal(size=samples),
            "p.down": model**2 + numbers.normal(size=samples),
            "p.noise": numbers.normal(size=samples),
            "p.rare": np.where(np.arange(samples) < samples // 3, 1.0, np.nan),
        }
        for name, values in columns.items():
            part = {"model": f"m{model}", "property": name, "sample": np.arange(samples), "value": values}
            rows.append(pd.DataFrame(part))
    facts = {
        "p.up": {"robust": "higher"},
        "p.down": {"robust": "higher"},  # which the numbers contradict
        "p.noise": {"robust": "lower"},
        "p.rare": {"robust": "lower"},
    }
    figures = pd.DataFrame({"model": ["m0", "m3"], "property": "q.size", "value": [1.0, 2.0]})
    return pd.concat(rows, ignore_index=True), figures, [f"m{i}" for i in range(models)], facts


def test_a_row_holds_the_means_of_a_model():
    rows, figures, names, _ = planted()
    table = study_table(rows.sample(frac=1.0, random_state=1), figures, names)
    assert table.index.tolist() == names
    mine = rows[(rows["model"] == "m2") & (rows["property"] == "p.up")]
    assert table.loc["m2", "p.up"] == pytest.approx(mine["value"].mean())
    assert table["clean_accuracy"].tolist() == [1.0] * 12
    assert table["calibration_error"].tolist() == pytest.approx([0.25] * 12)
    assert table.loc["m1", "attacked_calibration_error"] == pytest.approx(
        abs(0.5 - table.loc["m1", "accuracy_after_ascent"])
    )
    assert table["p.rare"].isna().all()  # a third of the samples is too few
    assert table["q.size"].notna().sum() == 2
    with pytest.raises(InvalidValue, match="without rows"):
        study_table(rows[:0], figures, names)


def test_planted_relations_agree_contradict_or_stay_open():
    rows, figures, names, facts = planted()
    table = study_table(rows, figures, names)
    found = expectations(table, facts).set_index("property")
    assert found["agrees"].to_dict() == {"p.up": "yes", "p.down": "no", "p.noise": "open", "p.rare": "open"}
    assert found.loc["p.up", "value"] > 0.8
    assert found.loc["p.up", "p"] <= found.loc["p.up", "p_adjusted"] < 0.01
    assert pd.isna(found.loc["p.rare", "value"])
    assert set(found["against"]) == {"accuracy_after_ascent"}
    assert chosen_properties(table, facts) == ["accuracy_after_ascent", "attacked_calibration_error", *list(facts)[:3]]
    assert chosen_properties(table, facts, ["p.up", "p.up"]) == ["p.up"]
    with pytest.raises(UnknownName, match=r"p\.up"):
        chosen_properties(table, facts, ["p.upp"])


def test_robust_accuracy_comes_from_evaluations_of_the_same_weights():
    rows, figures, names, facts = planted()
    table = study_table(rows, figures, names)
    plan = make_plan(names=("a", "b"))
    plan["models"] = [{**model, "fingerprint": mark} for model, mark in zip(plan["models"], ("f0", "f1"), strict=True)]
    run = (make_table(plan), plan)
    marks = {"m0": "f0", "m5": "f1", "m6": "other"}
    more = add_robust_accuracy(table, [run], marks, "linf:1/10")
    assert more["robust_accuracy"].notna().sum() == 2
    assert more.loc["m0", "robust_accuracy"] < 1
    assert set(expectations(more, facts)["against"]) == {"robust_accuracy"}
    with pytest.raises(InvalidValue, match="two evaluations"):
        add_robust_accuracy(table, [run, run], marks, "linf:0.1")
    with pytest.raises(InvalidValue, match="none of these models"):
        add_robust_accuracy(table, [run], {"m0": "x"}, "linf:0.1")
    for other in ("linf:0.2", "l2:0.1", "linf:inf"):  # robust at another radius is another question
        with pytest.raises(InvalidValue, match=rf"models at {other}"):
            add_robust_accuracy(table, [run], marks, other)
    twins = add_robust_accuracy(table, [run], {"m0": "f0", "m1": "f0"}, "linf:0.1")
    assert twins.loc["m0", "robust_accuracy"] == twins.loc["m1", "robust_accuracy"]


def test_a_page_is_written_without_torch():
    code = "import sys, robustscope.reports.study; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_says_what_the_tables_say(finished):
    _, folder, _ = finished
    with pytest.MonkeyPatch.context() as patch:
        for place in (module, studied):
            patch.setattr(place, "SHARE", 12)
        patch.setattr(reports, "RESAMPLES", 100)
        few = ("clean_accuracy", "margins.input_margin", "saliency.gradient_gini", "weight_sparsity.gini")
        found = write_study(folder, properties=few)
    page = found["page"].read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    table = pd.read_csv(folder / "models.csv", index_col="model")
    assert np.allclose(table.astype(float), found["table"], rtol=1e-5, equal_nan=True)
    assert "affine" in page
    assert "no activation function" in page
    figures = {path.name for path in (folder / "figures").iterdir()}
    drawn = ("matrix", "expectations", "scatter", "saliency", "margin", "loss", "decisions")
    assert figures == {f"{name}.{ending}" for name in drawn for ending in ("png", "svg")}


def test_the_command_studies_and_resumes(networks, tmp_path):
    models = [f"{name}={source}" for name, source in networks[:4]]
    line = [
        "study",
        *models,
        "--data",
        "digits",
        "--threat",
        "linf:0.1",
        "--samples",
        "12",
        "--out",
        str(tmp_path / "s"),
    ]
    line += ["--probes", "margins", "--workers", "1", "--json"]
    code, out, err = command(*line[:-1])
    assert code == 0, err
    assert "page:" in out
    code, out, err = command(*line)
    assert code == 0, err
    found = json.loads(out, parse_constant=pytest.fail)
    assert (found["models"], found["gaps"]) == (4, [])
    assert {row["property"] for row in found["expectations"]} >= {"margins.input_margin"}
    code, _, err = command(*line, "--given", "clean_acuracy")
    assert code == 2
    assert "clean_accuracy" in err
