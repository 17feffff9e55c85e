"""Shifts beside attacks: planned, made once for all models, resumed after a kill, read from the record, and reported."""

import json
import random
import shutil
from dataclasses import replace

import duckdb
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import robustscope
from doors import assert_three_parts
from robustscope.analyses.effective_robustness import beyond_the_others
from robustscope.analyses.outliers import aupr
from robustscope.analyses.perturbations import flip_probability
from robustscope.cli.evaluate_command import present
from robustscope.core.draws import Draws
from robustscope.core.errors import CorruptRun, InvalidValue, RobustscopeError, UnknownName
from robustscope.core.forms import to_dict
from robustscope.corruptions.sequences import SEQUENCES, perturb
from robustscope.data.datasets import load_data
from robustscope.models.classifier import Classifier
from robustscope.models.loading import from_module
from robustscope.reports import summarise, write_report
from robustscope.runs import shifting
from robustscope.runs.config import Settings, config_from_dict
from robustscope.runs.corrupted import Request, Writer, write_corrupted
from robustscope.runs.plan import load_subjects, make_plan
from robustscope.runs.session import carry_out, start
from robustscope.runs.shifted import read_shift
from robustscope.runs.shifts import Made, evaluate_shifts
from robustscope.runs.store import read_plan, read_record, sealed, shard_path
from runs.harness import assert_same_run, config, killed, planned

QUIET = {"suite": "fgsm", "curve": (), "trust": "off", "threads": 1}


def linear(seed=0, classes=10, inputs=64) -> nn.Module:
    layer = nn.Linear(inputs, classes)
    generator = torch.Generator().manual_seed(seed)
    layer.weight.data.copy_(torch.randn(classes, inputs, generator=generator))
    layer.bias.data.zero_()
    return nn.Sequential(nn.Flatten(), layer).eval()


@pytest.fixture(scope="module")
def models():
    return {"one": linear(), "two": linear(1)}


@pytest.fixture(scope="module")
def whole(models, tmp_path_factory):
    """Two networks under two corruptions and all sequences; the second network is the reference."""
    return robustscope.evaluate(
        models,
        "digits",
        "linf:0.05",
        samples=30,
        seed=2,
        shard_size=12,
        shifts="contrast,gaussian_noise,imagenet-p",
        reference="two",
        out=tmp_path_factory.mktemp("runs") / "whole",
        **QUIET,
    )


def same_shifts(first, second):
    assert read_plan(first)["id"] == read_plan(second)["id"]
    for index in range(len(read_plan(first)["shifts"])):
        one, two = read_shift(first, index), read_shift(second, index)
        assert list(one) == list(two)
        for name in one:
            pd.testing.assert_frame_equal(one[name], two[name], check_exact=True)


# What is stored -------------------------------------------------------------------------------------------------------


def test_rows_are_those_of_the_models_on_the_same_pictures(whole, models, tmp_path):
    rows = read_shift(whole.run, 0)
    request = Request("digits", ("contrast", "gaussian_noise"), samples="30", seed=2)
    for name, network in models.items():
        due = evaluate_shifts(Classifier(network), Made(request), tmp_path / name)
        due = due[due["corruption"] != "clean"].reset_index(drop=True)
        found = rows[name]
        for column in ("sample", "y", "severity", "prediction", "correct"):
            assert found[column].tolist() == due[column].tolist(), column
        assert found["corruption"].astype(str).tolist() == due["corruption"].tolist()
        assert np.allclose(found["confidence"], due["confidence"], atol=1e-6)
        assert not found["failed"].any()


def test_sequences_keep_the_order_of_classes_of_every_frame(whole, models):
    rows, data = read_shift(whole.run, 1), load_data("digits")
    entry = whole.plan["shifts"][1]
    assert [name for name, _ in entry["parts"]] == [card.name for card in SEQUENCES if not card.validation]
    for name in ("gaussian_noise", "translate"):
        mine = rows["one"][rows["one"]["corruption"] == name]
        ids = mine["sample"].tolist()
        frames = perturb(name, data.read(ids), draws=Draws(2, tuple(ids)))
        logits = Classifier(models["one"]).logits(frames.flatten(0, 1)).view(*frames.shape[:2], -1)
        orders = np.stack(mine["orders"].to_list()).reshape(*frames.shape[:2], 5)
        assert (orders[:, :, 0] == logits.argmax(2).numpy()).all()
        assert (orders == logits.sort(dim=2, descending=True, stable=True).indices[:, :, :5].numpy()).all()
        told = next(s for s in summarise(whole.run)["shifts"][1]["models"][0]["sequences"] if s["sequence"] == name)
        assert told["value"] == pytest.approx(flip_probability(logits.argmax(2).numpy(), noise=SEQUENCES[name].noise))


def test_what_is_kept_of_a_shard_comes_to_the_same_places(whole):
    full = read_shift(whole.run, 0)
    brief = read_shift(whole.run, 0, lambda rows: rows[["sample", "part", "correct", "note"]].iloc[::-1])
    for name, rows in full.items():
        assert rows[["part", "sample"]].to_numpy().tolist() == sorted(rows[["part", "sample"]].to_numpy().tolist())
        pd.testing.assert_frame_equal(brief[name], rows[["sample", "part", "correct", "note"]])


def test_each_picture_is_made_once_for_all_models(models, tmp_path, monkeypatch):
    made = []

    def counted(x, part, ids, *rest):
        made.extend((part, i) for i in ids)
        return shifting.__dict__["real"](x, part, ids, *rest)

    monkeypatch.setitem(shifting.__dict__, "real", shifting.corrupted)
    monkeypatch.setattr(shifting, "corrupted", counted)
    result = robustscope.evaluate(
        models, "digits", "linf:0.05", samples=20, shifts="fog,snow", shard_size=8, out=tmp_path / "run", **QUIET
    )
    assert len(made) == len(set(made)) == 20 * 10
    shards = [shard["index"] for shard in result.plan["shards"] if "shifts" in shard]
    assert len(shards) == 3
    counted_rows = sum(s["forward"] for s in read_record(result.run)["shards"] if s["index"] in shards)
    assert counted_rows == 2 * 20 * 10, "the forecast is exact"


def test_the_plan_says_what_it_costs_and_what_decides_it(models):
    base = config(samples="0:8", shifts="fog,imagenet-p")
    plan = make_plan(base)
    without = make_plan(config(samples="0:8"))
    frames = [sum(shift["frames"]) for shift in plan["shifts"]]
    assert frames == [5, 31 * 8 + 21 + 16]
    assert plan["cost"]["forward"] - without["cost"]["forward"] == 8 * sum(frames)
    ids = {plan["id"], without["id"], make_plan(config(samples="0:8", shifts="fog"))["id"]}
    assert len(ids) == 3
    told = replace(base, settings=replace(base.settings, reference="standard"))
    assert make_plan(told)["id"] == plan["id"], "a reference changes no row"
    raised = json.loads(json.dumps(plan))
    raised["shifts"][0]["versions"]["fog"] += 1
    assert sealed(raised)["id"] != plan["id"]


def test_validation_sequences_are_a_suite_of_their_own():
    (entry,) = make_plan(config(samples="0:8", shifts="imagenet-p-extra"))["shifts"]
    assert entry["parts"] == [[name, 0] for name in ("gaussian_blur", "shear", "spatter", "speckle_noise")]
    assert entry["frames"] == [31] * 4
    assert entry["noise"] == ["speckle_noise"]


def test_settings_take_a_list_or_a_text_and_come_back_from_a_plan():
    asked = config(shifts="fog, imagenet-p")
    assert asked.settings.shifts == ("fog", "imagenet-p")
    assert config_from_dict(to_dict(asked)) == asked
    assert config(shifts=["fog", "imagenet-p"]).settings.shifts == asked.settings.shifts
    assert Settings(suite="common", shifts="off").asked_shifts((1, 8, 8)) == ()


# Resumed --------------------------------------------------------------------------------------------------------------


def test_killed_at_random_moments(tmp_path):
    """Each worker is killed some shards later, among the attacks and among the shifts; no row is lost or doubled."""
    options = {"samples": "0:40", "shard_size": 4, "shifts": "gaussian_noise,zoom_blur"}
    undisturbed, run = planned(tmp_path / "one", **options), planned(tmp_path / "run", **options)
    carry_out(undisturbed)
    moments, left = random.Random(5), []
    while not left or left[-1] > 2:
        left.append(killed(run, moments.choice((2, 3)), moments.uniform(0.0, 0.03)))
    assert sum(0 < count < 10 for count in left) > 1, f"the kills must fall among the shifts: {left}"
    carry_out(run, workers=2)
    assert_same_run(undisturbed, run)
    same_shifts(undisturbed, run)


def test_a_row_too_many_or_too_few_is_named(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole.run, run)
    index = next(shard["index"] for shard in whole.plan["shards"] if "shifts" in shard)
    path = shard_path(run, index)
    sound = path.read_bytes()
    rows = duckdb.sql(f"SELECT * FROM read_parquet('{path}')").df()
    for _wrong, match in (  # DuckDB finds it by its name
        (pd.concat([rows, rows.iloc[[7]]]), "1 doubled row"),
        (rows.drop(index=3), "1 missing row.*shift 0, part 0, model 0, sample"),
        (rows.assign(model=rows["model"] * 2), "foreign|missing"),
    ):
        duckdb.sql(f"COPY _wrong TO '{path}' (FORMAT parquet)")
        with pytest.raises(CorruptRun, match=match) as caught:
            read_shift(run, 0)
        assert_three_parts(caught.value)
    path.write_bytes(sound)
    assert len(read_shift(run, 0)["one"]) == 300


class _Fails(nn.Module):
    """Refuses dark pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()

    def forward(self, x):
        if len(x) and float(x.amax()) < 0.7:
            raise RuntimeError("too dark")
        return self.inner(x)


def test_what_cannot_be_judged_is_withheld(models, tmp_path):
    result = robustscope.evaluate(
        {"fails": _Fails().eval(), "one": models["one"]},
        "digits",
        "linf:0.05",
        samples=20,
        shifts="contrast,zoom_blur",
        out=tmp_path / "run",
        **QUIET,
    )
    rows = read_shift(result.run, 0)["fails"]
    assert 0 < rows["failed"].sum() < len(rows)
    assert rows.loc[rows["failed"], "confidence"].isna().all()
    summary = result.summary()
    fails, sound = summary["shifts"][0]["models"]
    assert "too dark" in fails["reason"]
    assert "shifted" not in fails
    assert sound["reason"] is None
    assert sound["shifted"]["value"] > 0
    assert any(item["level"] == "error" and "withheld" in item["message"] for item in summary["warnings"])
    page = result.report().read_text()
    assert "too dark" in page
    assert present(result.run, json=True) == 1


# Reported -------------------------------------------------------------------------------------------------------------


def test_the_report_has_a_table_a_heat_map_and_ratios(whole):
    summary = whole.summary()
    shift = summary["shifts"][0]
    rows, table = read_shift(whole.run, 0), whole.table
    errors = {name: 1 - mine.groupby("corruption", observed=True)["correct"].mean() for name, mine in rows.items()}
    clean = {
        name: 1 - float(table[table["cell"] == cell].drop_duplicates("sample")["clean_correct"].mean())
        for name, cell in (("one", 0), ("two", 1))
    }
    one, two = shift["models"]
    assert one["mce"] == pytest.approx(float((errors["one"] / errors["two"]).mean()))
    ratio = (errors["one"] - clean["one"]) / (errors["two"] - clean["two"])
    if (errors["two"] > clean["two"]).all():
        assert one["relative_mce"] == pytest.approx(float(ratio.mean()))
    else:
        assert one["mce_reason"]
    assert two["mce"] == pytest.approx(1)
    assert one["clean"]["value"] == pytest.approx(1 - clean["one"])
    for row in one["corruptions"]:
        assert row["value"] == pytest.approx(1 - errors["one"][row["corruption"]])
        assert row["low"] <= row["value"] <= row["high"]
    assert {row["family"] for row in one["families"]} == {"noise", "digital"}
    flips = {s["sequence"]: s["value"] for s in summary["shifts"][1]["models"][0]["sequences"]}
    base = {s["sequence"]: s["value"] for s in summary["shifts"][1]["models"][1]["sequences"]}
    if all(base.values()):
        due = np.mean([flips[name] / base[name] for name in flips])
        assert summary["shifts"][1]["models"][0]["mfr"] == pytest.approx(due)
    paths = write_report(whole.run)
    page, text = paths["html"].read_text(), paths["md"].read_text()
    for part in ("Under shifts", "gaussian noise", "severity", "RMS calibration error", "mFR", "heat"):
        assert part in page
    assert page.count("accuracy in percent</figcaption>") == 2
    assert "| gaussian\\_noise |" in text
    assert "## Under shifts: imagenet-p" in text
    assert summary["analyses"][-1]["name"] == "shifts"


def test_one_card_shows_attack_shifts_and_bracket(tmp_path):
    result = robustscope.evaluate(
        robustscope.load_model("bundled:digits_standard"),
        "digits",
        "linf:0.1",
        samples=5,
        suite="common",
        curve=(),
        trust="off",
        bracket=2,
        estimate="off",
        shifts="fog",
        audit="off",
        threads=1,
        out=tmp_path / "run",
    )
    assert {cell["attack"] for cell in result.plan["cells"]} == {"noise_uniform", "ladder", "nearest"}
    (card,) = result.summary()["cards"]
    assert card["robust"]["value"] == result.summary()["robust_accuracy"]["value"]
    assert card["shifts"][0]["value"] == result.summary()["shifts"][0]["models"][0]["shifted"]["value"]
    assert 0 < card["bracket"]["certified"] <= card["bracket"]["nearest"]
    page = result.report().read_text()
    assert page.index("At a glance") < page.index('aria-label="Verdict"')
    assert "## At a glance" in (result.run / "report.md").read_text()


def test_the_suite_common_asks_for_what_it_says():
    plain, common = Settings(), Settings(suite="common")
    assert (plain.asked_number("bracket"), common.asked_number("bracket")) == (0, 16)
    assert Settings(suite="common", bracket="off").asked_number("bracket") == 0
    assert common.attacks == plain.suite
    assert common.asked_audit(False) == plain.asked_audit(False)
    assert common.asked_shifts((1, 28, 28)) == ("mnist-c",)
    assert common.asked_shifts((3, 32, 32)) == ("imagenet-c",)
    assert common.asked_shifts((20,)) == plain.asked_shifts((3, 32, 32)) == ()


def test_the_suite_common_brackets_balls_and_says_how_to_go_on_without_certificates():
    common = {"suite": "common", "shifts": "off", "trust": "off", "samples": "0:4", "curve": ()}
    turned = replace(config(), attacks=(), threats=("rotation-translation:10,1",), settings=Settings(**common))
    assert "measures" not in make_plan(turned)
    asked = replace(turned, threats=("linf:0.1",))

    class _Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def forward(self, x):
            return self.inner(x) if float(x.sum()) > -1 else self.inner(-x)

    subjects = load_subjects(asked.models, asked.data, asked.settings)
    model = from_module(_Branches().eval(), name="branches")
    with pytest.raises(InvalidValue, match="--certify off") as caught:
        make_plan(asked, replace(subjects, models=(model,)))
    assert_three_parts(caught.value)


# Benchmarks on disk ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Digits, sorted by class as folders are, and their copy in contrast on the disk."""
    folder = tmp_path_factory.mktemp("benchmark")
    data = load_data("digits")
    order = np.argsort(data.labels, kind="stable")[::9]
    np.savez(folder / "set.npz", x=(data.read(order) * 255).round().byte().numpy(), y=data.labels[order])
    write_corrupted(Writer(Request(f"npz:{folder / 'set.npz'}", ("contrast",), seed=4), folder / "digits-c"))
    return folder


def test_a_benchmark_on_disk_gives_the_rows_of_the_one_made_here(models, copy, tmp_path):
    source = f"npz:{copy / 'set.npz'}"
    shared = {"samples": "all", "seed": 4, **QUIET}
    stored = robustscope.evaluate(
        models, source, "linf:0.05", shifts=str(copy / "digits-c"), out=tmp_path / "stored", **shared
    )
    made = robustscope.evaluate(models, source, "linf:0.05", shifts="contrast", out=tmp_path / "made", **shared)
    assert stored.plan["shifts"][0]["paired"]
    for name in models:
        columns = ["sample", "y", "severity", "prediction", "correct"]
        first, second = (read_shift(run.run, 0)[name][columns] for run in (stored, made))
        pd.testing.assert_frame_equal(first, second, check_dtype=False)
    told = stored.summary()["shifts"][0]
    assert (told["name"], told["made"]) == ("digits-c", False)
    assert told["models"][0]["clean"]["value"] == made.summary()["shifts"][0]["models"][0]["clean"]["value"]


def test_pictures_that_changed_are_refused(copy, tmp_path):
    place = tmp_path / "c"
    shutil.copytree(copy / "digits-c", place)
    base = replace(config(samples="all", shifts=str(place)), data=f"npz:{copy / 'set.npz'}")
    start(make_plan(base), tmp_path / "run")
    file = next((place / "contrast" / "2").glob("*/*.png"))
    Image.new("L", (8, 8), 7).save(file)
    with pytest.raises(CorruptRun, match=r"the benchmark c \(contrast, severity 2\) has changed") as caught:
        carry_out(tmp_path / "run")
    assert_three_parts(caught.value)


def wnid(k):
    return f"n{k:08d}"


@pytest.fixture(scope="module")
def natural(tmp_path_factory):
    """A natural shift of three classes among six, and the clean set of all six, in folders named by WordNet ids."""
    folder = tmp_path_factory.mktemp("natural")
    generator = np.random.default_rng(0)
    for name, classes in (("clean", range(6)), ("imagenet-a", (1, 4, 5))):
        for k in classes:
            for i in range(5):
                place = folder / name / wnid(k)
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(place / f"{i}.png")
    order = [5, 0, 3, 1, 4, 2]  # of the outputs; no alphabetical one
    (folder / "classes.txt").write_text("".join(f"{wnid(k)} name {k}\n" for k in order))
    (folder / "short.txt").write_text("".join(f"{wnid(k)}\n" for k in order if k != 4))
    (folder / "more.txt").write_text("".join(f"{wnid(k)}\n" for k in (*order, 6)))
    weights = linear(3, 6, 192)
    (folder / "net.py").write_text(
        "import torch\nfrom torch import nn\n\ndef make_model():\n    layer = nn.Linear(192, 6)\n"
        "    layer.load_state_dict(torch.load(__file__.replace('net.py', 'net.pt')))\n"
        "    return nn.Sequential(nn.Flatten(), layer).eval()\n"
    )
    torch.save(weights[1].state_dict(), folder / "net.pt")
    return folder, weights, order


def asked(folder, data, shifts, classes="classes.txt"):
    model = {"source": f"{folder / 'net.py'}:make_model", "name": "net"}
    return config_from_dict(
        {
            "models": [{**model, **({"classes": str(folder / classes)} if classes else {})}],
            "data": data,
            "threats": ["linf:0.01"],
            "suite": "fgsm",
            "curve": [],
            "trust": "off",
            "samples": "all",
            "shifts": shifts,
        }
    )


def finished(wanted, run):
    start(make_plan(wanted), run)
    carry_out(run)
    return run


def test_a_natural_shift_is_judged_among_its_own_classes(natural, tmp_path):
    folder, network, order = natural
    source = f"wnids:{folder / 'clean'},{folder / 'classes.txt'}"
    run = finished(asked(folder, source, [str(folder / "imagenet-a")]), tmp_path / "run")
    rows = read_shift(run, 0)["net"]
    data = load_data(f"wnids:{folder / 'imagenet-a'},{folder / 'imagenet-a'}")
    with torch.no_grad():
        logits = network(data.read(range(15)))[:, [order.index(k) for k in (1, 4, 5)]]
    assert rows["prediction"].tolist() == logits.argmax(1).tolist()
    assert rows["y"].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert np.allclose(rows["confidence"], logits.softmax(1).amax(1), atol=1e-6)
    told = summarise(run)["shifts"][0]
    assert (told["name"], told["paired"], told["models"][0]["clean"]) == ("imagenet-a", False, None)


def test_attacks_on_a_natural_shift_see_its_own_classes_alone(natural, tmp_path):
    folder, network, order = natural
    source = f"wnids:{folder / 'imagenet-a'},{folder / 'imagenet-a'}"
    run = finished(asked(folder, source, []), tmp_path / "run")
    plan = read_plan(run)
    assert plan["models"][0]["num_classes"] == 3
    assert plan["models"][0]["class_names"] == [wnid(1), wnid(4), wnid(5)]
    table = robustscope.api.Evaluation(run).table.drop_duplicates("sample")
    with torch.no_grad():
        logits = network(load_data(source).read(range(15)))[:, [order.index(k) for k in (1, 4, 5)]]
    assert table["clean_prediction"].tolist() == logits.argmax(1).tolist()


def test_chosen_outputs_are_exact_and_can_be_certified(natural):
    folder, network, order = natural
    source = f"wnids:{folder / 'imagenet-a'},{folder / 'imagenet-a'}"
    wanted = asked(folder, source, [])
    wanted = replace(wanted, settings=replace(wanted.settings, certify="crown"))
    subjects = load_subjects(wanted.models, wanted.data, wanted.settings)
    chosen, x = subjects.models[0].classifier, subjects.data.read(range(15))
    with torch.no_grad():
        assert torch.equal(chosen.logits(x), network(x)[:, [order.index(k) for k in (1, 4, 5)]])
    assert chosen.gradient(lambda logits, rows: logits[:, 1], x)[1].shape == x.shape
    assert not chosen.module.training
    plan = make_plan(wanted, subjects)
    assert plan["measures"][0]["method"] == "crown"
    assert plan["models"][0]["fingerprint"] != make_plan(asked(folder, source, [], None))["models"][0]["fingerprint"]


def test_a_clean_set_of_the_same_classes_tells_what_a_shift_costs(natural, tmp_path):
    folder, network, order = natural
    for k in (1, 4, 5):
        shutil.copytree(folder / "clean" / wnid(k), tmp_path / "three" / wnid(k))
    source = f"wnids:{tmp_path / 'three'},{tmp_path / 'three'}"
    run = finished(asked(folder, source, [str(folder / "imagenet-a")]), tmp_path / "run")
    told = summarise(run)["shifts"][0]["models"][0]
    due = []
    for place in (tmp_path / "three", folder / "imagenet-a"):
        data = load_data(f"wnids:{place},{place}")
        with torch.no_grad():
            seen = network(data.read(range(15)))[:, [order.index(k) for k in (1, 4, 5)]].argmax(1).numpy()
        due.append(float((seen == data.labels).mean()))
    assert [told["clean"]["value"], told["shifted"]["value"]] == pytest.approx(due)


def test_pictures_of_no_class_are_told_by_low_confidence(natural, tmp_path):
    """ImageNet-O: the AUPR of minus the confidence, over its classes alone, against clean pictures of the same."""
    folder, network, order = natural
    shutil.copytree(folder / "imagenet-a", tmp_path / "imagenet-o")
    for k in (1, 4, 5):
        shutil.copytree(folder / "clean" / wnid(k), tmp_path / "three" / wnid(k))
    shift = [str(tmp_path / "imagenet-o")]
    run = finished(asked(folder, f"wnids:{tmp_path / 'three'},{tmp_path / 'three'}", shift), tmp_path / "run")
    (told,) = summarise(run)["shifts"][0]["models"]
    scores = []
    for place in (tmp_path / "imagenet-o", tmp_path / "three"):
        with torch.no_grad():
            logits = network(load_data(f"wnids:{place},{place}").read(range(15)))[
                :, [order.index(k) for k in (1, 4, 5)]
            ]
        scores.append(-logits.softmax(1).amax(1).numpy())
    assert told["outliers"]["aupr"] == pytest.approx(aupr(*scores))
    assert told["outliers"]["chance"] == 0.5
    paths = write_report(run)
    for kind in ("html", "md"):
        page = paths[kind].read_text()
        assert "15 images of imagenet-o from 15 ordinary ones with an AUPR of" in page.replace("\\", "")
        assert "RMS calibration error |" not in page
    run = finished(asked(folder, f"wnids:{folder / 'clean'},{folder / 'classes.txt'}", shift), tmp_path / "other")
    (told,) = summarise(run)["shifts"][0]["models"]
    assert told["outliers"]["aupr"] is None
    assert "is not known: the data of the run are not of the same classes" in told["sentence"]


def test_four_models_have_a_trend_to_be_beyond(tmp_path):
    models = {f"net{k}": linear(k) for k in range(4)}
    run = robustscope.evaluate(
        models, "digits", "linf:0.05", samples=40, shifts="contrast", out=tmp_path / "run", **QUIET
    ).run
    told = {model["model"]: model for model in summarise(run)["shifts"][0]["models"]}
    clean, shifted = ({name: one[kind]["value"] for name, one in told.items()} for kind in ("clean", "shifted"))
    due = beyond_the_others(clean, shifted)
    assert None not in due.values()
    assert {name: one["effective_robustness"]["value"] for name, one in told.items()} == due
    paths = write_report(run)
    for kind in ("html", "md"):
        assert "Effective robustness, points" in paths[kind].read_text()


def test_classes_that_are_missing_are_named(natural):
    folder, _, _ = natural
    clean, shifted = f"wnids:{folder / 'clean'},{folder / 'classes.txt'}", str(folder / "imagenet-a")
    for wanted, match in (
        (asked(folder, clean, [shifted], None), "3 classes and the model 'net' 6 outputs"),
        (asked(folder, clean, [shifted], "short.txt"), f"1 of 6 classes are not among the 5, e.g. {wnid(4)}"),
        (asked(folder, f"wnids:{shifted},{shifted}", [], "short.txt"), f"1 of 3 classes .* e.g. {wnid(4)}"),
        (asked(folder, "digits", [], "classes.txt"), "not named by WordNet ids"),
        (asked(folder, clean, [], "more.txt"), "more.txt names 7 classes, and 'net.* has 6 outputs"),
    ):
        with pytest.raises(RobustscopeError, match=match) as caught:
            make_plan(wanted)
        assert_three_parts(caught.value)


def test_stored_sequences_give_the_flips_of_those_made_here(natural, tmp_path):
    folder, network, _ = natural
    data = load_data(f"wnids:{folder / 'clean'},{folder / 'classes.txt'}")
    (tmp_path / "p").mkdir()
    for name in ("brightness", "gaussian_noise"):
        frames = perturb(name, data.read(range(len(data))), constants="cifar-10-p")
        np.save(tmp_path / "p" / f"{name}.npy", (frames * 255).round().byte().permute(0, 1, 3, 4, 2).numpy())
    wanted = asked(folder, f"wnids:{folder / 'clean'},{folder / 'classes.txt'}", [str(tmp_path / "p")])
    told = summarise(finished(wanted, tmp_path / "run"))["shifts"][0]["models"][0]
    for row in told["sequences"]:
        frames = perturb(row["sequence"], data.read(range(len(data))), constants="cifar-10-p")
        with torch.no_grad():
            seen = network(frames.flatten(0, 1)).argmax(1).view(frames.shape[:2]).numpy()
        assert row["value"] == pytest.approx(flip_probability(seen, noise="noise" in row["sequence"]))


@pytest.mark.parametrize(
    ("shifts", "more", "error", "match"),
    [
        ("imagenet-cc", {}, UnknownName, "imagenet-c"),
        ("fog,imagenet-c,imagenet-c", {}, InvalidValue, "given twice"),
        ("no/such/place", {}, RobustscopeError, "does not exist"),
        ("fog", {"reference": "three"}, UnknownName, "three"),
        ("fog", {"reference": "alexnet"}, InvalidValue, "other shifts than ImageNet-C"),
        ("", {"reference": "standard"}, InvalidValue, "without shifts"),
    ],
)
def test_what_cannot_be_planned_is_refused(shifts, more, error, match):
    with pytest.raises(error, match=match) as caught:
        make_plan(config(samples="0:8", shifts=shifts, **more))
    assert_three_parts(caught.value)


def test_a_folder_that_is_no_benchmark_is_refused(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(RobustscopeError, match="no benchmark that is known") as caught:
        make_plan(config(samples="0:8", shifts=str(tmp_path)))
    assert_three_parts(caught.value)
