"""The examples do what they say."""

import importlib.util
from pathlib import Path

import pytest
import torch

import robustscope

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_example_is_met():
    here = Path(__file__).read_text(encoding="utf-8")
    assert [path.stem for path in EXAMPLES.glob("*.py") if f'"{path.stem}"' not in here.replace(".py:", '"')] == []


def test_your_model_is_the_network_it_says():
    network = robustscope.load_model(f"{EXAMPLES / 'evaluate_your_model.py'}:make_model").classifier
    twin = robustscope.load_model("bundled:digits_adversarial").classifier
    x = robustscope.load_data("digits").read(range(50))
    assert torch.equal(network.logits(x), twin.logits(x))
    assert load("evaluate_your_model").make_model().training is False


def test_from_python_prints_and_reports(tmp_path, capsys):
    result = load("evaluate_from_python").main(out=str(tmp_path / "run"), samples="40")
    printed = capsys.readouterr().out
    assert "plain: clean accuracy" in printed
    assert (tmp_path / "run" / "report.html").is_file()
    first, second = result.summary()["models"]
    for a, b in zip(first["threats"], second["threats"], strict=True):
        # The same function of the same inputs; only rounding may tell them apart.
        assert abs(a["robust_accuracy"]["k"] - b["robust_accuracy"]["k"]) <= 1
        assert a["robust_accuracy"]["k"] < first["clean_accuracy"]["k"]


def test_training_writes_two_networks_that_load(tmp_path, monkeypatch, capsys, threads):
    module = load("train_digits")
    monkeypatch.setattr(module, "EPOCHS", 2)
    module.main(str(tmp_path))
    for name in ("digits_standard", "digits_adversarial"):
        loaded = robustscope.load_model(str(tmp_path / f"{name}.json"))
        accuracy = loaded.card["measured"]["clean_accuracy_test_500"]
        assert accuracy > 0.3, "two epochs learn more than chance"
        assert f"{name}: clean accuracy {accuracy:.3f}" in capsys.readouterr().out or name == "digits_adversarial"


def test_defences_fall_to_attacks_that_know_them(capsys, threads):
    lines = load("attack_your_defence").main(samples=30)
    printed = capsys.readouterr().out
    assert "| defence | clean | oblivious |" in printed
    assert printed.count("holds  ") + printed.count("FAILS  ") == 6
    left = {(line.defence, line.view): line.robust_accuracy for line in lines}
    for defence in {line.defence for line in lines} - {"none"}:
        known = min(value for (title, view), value in left.items() if title == defence and view != "oblivious")
        assert known < left[defence, "oblivious"]


def test_the_limits_of_data_rise_with_the_radius(capsys):
    bound = load("limits_of_your_data").main(samples=200)
    printed = capsys.readouterr().out
    assert "200 samples of digits: another class is at least" in printed
    assert printed.count("every classifier loses at least") == 4
    loss = bound.loss.tolist()
    assert loss == sorted(loss)
    assert 0 < loss[0] < loss[-1] <= 0.5


def test_masks_help_at_one_radius_and_random_ones_do_not(capsys, threads):
    rows = load("masked_training").main(epochs=4, samples=100)
    printed = capsys.readouterr().out
    assert "| foreground | 25.0" in printed
    robust, clean = (rows.groupby("kind")[name].mean() for name in ("robust", "clean_correct"))
    assert robust["foreground"] > robust["none"] + 0.05
    assert robust["foreground"] > robust["random"] + 0.05
    assert clean["foreground"] > clean["random"]
