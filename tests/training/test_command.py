"""`robustscope train` as a user meets it: recipes, options, output, report, errors."""

import json
import re

import pytest

from robustscope.cli import main
from robustscope.core.errors import MissingExtra
from robustscope.training import load_recipe, recipes
from robustscope.training.schedules import SCHEDULES, ramp
from robustscope.training.trackers import TRACKERS, figures, open_tracker

FEW = ("--set", "samples=200", "--set", "validation=30", "--set", "epochs=2", "--set", "validation_steps=2")


def command(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    caught = capsys.readouterr()
    return end.value.code, caught.out, caught.err


@pytest.mark.parametrize("name", recipes())
def test_recipes_of_the_package_are_sound(name):
    recipe = load_recipe(name, data="digits#train")
    SCHEDULES[recipe.schedule](**recipe.schedule_parameters)
    text = recipes()[name].read_text()
    assert text.startswith("# ")


def test_a_training_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "run"
    code, text, progress = command(
        capsys, "train", "digits", *FEW, "--objective", "pgd", "--epsilon", "0.1", "--out", out
    )
    assert code == 0
    assert "held-out accuracy" in text
    assert "epoch   2" in progress
    card = json.loads((out / "model.json").read_text())
    assert card["training"]["objective"] == "pgd"
    assert card["training"]["threat"] == "linf:0.1"
    page = (out / "report.html").read_text()
    assert "<script" not in page
    assert "2 for each epoch" not in page
    assert "11.00 for each epoch" in page  # PGD-10 takes eleven passes
    code, text, _ = command(
        capsys, "train", "digits", *FEW, "--objective", "pgd", "--epsilon", "0.1", "--out", out, "--json"
    )
    assert code == 0
    found = json.loads(text)
    assert found["passes"]["backward"] == 2 * 11 * 170
    code, text, _ = command(
        capsys,
        "evaluate",
        found["model"],
        "--data",
        "digits",
        "--samples",
        "20",
        "--suite",
        "pgd",
        "--threat",
        "linf:0.1",
        "--trust",
        "off",
        "--out",
        tmp_path / "judged",
        "--quiet",
    )
    assert code == 0
    assert re.search(r"robust", text)


def test_texts_of_the_user_are_escaped(tmp_path, capsys):
    out = tmp_path / "run"
    from robustscope.reports.training import write_training_report

    command(capsys, "train", "digits", *FEW, "--set", "epochs=1", "--out", out, "--quiet")
    record = json.loads((out / "training.json").read_text())
    record["recipe"]["data"] = "<script>alert(1)</script>"
    record["stopped"] = "<b>bold</b>"
    (out / "training.json").write_text(json.dumps(record))
    page = write_training_report(out).read_text()
    assert "<script>" not in page
    assert "<b>bold" not in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "digit", "--out", "x"), "Did you mean 'digits'"),
        (("train", "digits", "--set", "epoch=2", "--out", "x"), "Did you mean 'epochs'"),
        (("train", "digits", "--set", "epochs", "--out", "x"), "KEY=VALUE"),
        (("train", "digits", "--objective", "tradse", "--out", "x"), "tradse"),
        (("train", "digits", "--tracker", "wandbb", "--out", "x"), "Did you mean 'wandb'"),
        (("train", "--objective", "fast", "--out", "x"), "'data' is missing"),
        (("train", "mnist-fast", "--out", "x"), "'data' is missing"),
    ],
)
def test_bad_requests_say_what_to_do(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(capsys, *words)
    assert code == 2
    assert said in err


def test_a_stopped_training_exits_with_one(tmp_path, capsys, monkeypatch):
    from robustscope.training import loop

    monkeypatch.setattr(loop, "overfits_catastrophically", lambda now, before: "scripted" if now is not before else "")
    code, text, _ = command(capsys, "train", "digits", *FEW, "--set", "alarm=stop", "--out", tmp_path, "--quiet")
    assert code == 1
    assert "stopped: catastrophic overfitting" in text


def test_trackers_need_their_packages_and_get_numbers(tmp_path):
    assert figures({"epoch": 1, "attempt": 0, "loss": 0.5, "remark": "", "alignment": None}) == {"loss": 0.5}
    for name in TRACKERS:
        try:
            __import__(name)
        except ImportError:
            with pytest.raises(MissingExtra, match=name):
                open_tracker(name, tmp_path, {})


def test_schedules_at_their_knots():
    cyclic = SCHEDULES["cyclic"](peak=0.4)
    assert [cyclic(t) for t in (0.0, 0.2, 0.4, 1.0)] == pytest.approx([0, 0.5, 1, 0])
    piecewise = SCHEDULES["piecewise"](drops=[0.5, 0.75], factor=0.1)
    assert [piecewise(t) for t in (0.0, 0.4999, 0.5, 0.75)] == pytest.approx([1, 1, 0.1, 0.01])
    cosine = SCHEDULES["cosine"](warm_up=0.2)
    assert [cosine(t) for t in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-12)
    assert [ramp(0.5)(t) for t in (0.0, 0.25, 0.5, 1.0)] == [0, 0.5, 1, 1]
    assert ramp(0.0)(0.0) == 1


def test_another_schedule_or_model_comes_without_the_settings_of_the_old_one():
    other = load_recipe("digits", schedule="flat", model="small_cnn", model_parameters={"width": 4})
    assert other.schedule_parameters == {}
    assert other.model_parameters == {"width": 4}
    same = load_recipe("digits", schedule="cyclic", schedule_parameters={"last": 0.1})
    assert same.schedule_parameters == {"peak": 0.4, "last": 0.1}
    assert load_recipe("cifar10-pgd", data="digits#train", objective="standard").parameters == {}
