"""The command line: what each command prints, writes and returns."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import robustscope
from doors import STANDARD, command
from robustscope.cli import COMMANDS
from robustscope.runs import execute
from robustscope.runs.engines import local
from robustscope.runs.store import read_plan, read_record, read_table

ROBUST = "bundled:digits_adversarial"
QUICK = ("--data", "digits", "--samples", "0:12", "--curve", "none", "--trust", "off")
FGSM = (*QUICK, "--suite", "fgsm", "--threat", "linf:0.15")


def evaluate(folder: Path, *tokens, expected: int = 0) -> tuple[str, str]:
    """Run ``evaluate`` here, in one process; return what it printed."""
    code, out, err = command("evaluate", *tokens, "--out", folder, "--workers", "1")
    assert code == expected, err
    return out, err


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    evaluate(folder, STANDARD, *FGSM, "--shard-size", "4", "--quiet")
    return folder


# evaluate -------------------------------------------------------------------------------------------------------------


def test_evaluate_writes_record_and_report_and_prints_the_headline(tmp_path):
    out, err = evaluate(tmp_path / "run", STANDARD, *FGSM)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"plan.json", "record.json", "shards", "evidence", "report.html", "report.md", "report.json"}
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    for figure, lines in (("clean_accuracy", out), ("robust_accuracy", out)):
        value = report[figure]
        assert set(value) >= {"value", "low", "high", "n", "k"}
        assert f"{100 * value['value']:.1f} % ({value['k']} of {value['n']}" in lines
    assert report["robust_accuracy"]["k"] < report["clean_accuracy"]["k"], "FGSM breaks some of a standard network"
    assert report["cost"]["forward"] > 0
    assert f"report: {tmp_path / 'run' / 'report.html'}" in out
    assert "at most" in err, "the forecast is said before the run"
    assert str(tmp_path / "run") in err, "and the folder that a resumed run needs"
    assert "12/12" in err


def test_evaluate_says_whether_the_number_can_be_trusted_and_how_far_it_reaches(tmp_path):
    beside = (
        "--trust",
        "8",
        "--certify",
        "ibp",
        "--bracket",
        "4",
        "--estimate",
        "clever:batches=4,points=4",
        "--quiet",
    )
    few = ("--data", "digits", "--samples", "0:12", "--curve", "none", "--suite", "fgsm", "--threat", "linf:0.002")
    out, _ = evaluate(tmp_path / "run", STANDARD, *few, *beside)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    threat = report["models"][0]["threats"][0]
    assert threat["trust"]["verdict"] in ("trust", "doubt", "do not trust this number")
    assert threat["trust"]["sentence"] in out
    assert f"certified accuracy {100 * threat['certified'][0]['value']:.1f} %" in out
    assert report["brackets"][0]["sentence"] in out
    assert report["brackets"][0]["n"] <= 4
    assert threat["certified"][0]["k"] > 0
    code, out, _ = command("verify", tmp_path / "run")
    assert code == 0
    assert f"{threat['certified'][0]['k']} samples that it certifies were certified anew" in out


def test_shifts_are_planned_with_their_cost_evaluated_and_cited(tmp_path):
    asked = (STANDARD, *FGSM, "--shifts", "fog,contrast,imagenet-p")
    code, out, _ = command("plan", *asked)
    assert code == 0
    assert "shifts corruptions, 10 parts" in out
    assert "on 12 samples: 120 rows forward" in out
    assert "shifts imagenet-p, 10 parts" in out
    out, err = evaluate(tmp_path / "run", *asked)
    assert "and 20 shifts in" in err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [shift["name"] for shift in report["shifts"]] == ["corruptions", "imagenet-p"]
    assert report["shifts"][0]["models"][0]["sentence"] in out
    assert "Hendrycks" in command("cite", tmp_path / "run")[1]
    assert command("verify", tmp_path / "run")[0] == 0


def test_quiet_prints_results_only(tmp_path):
    out, err = evaluate(tmp_path / "run", STANDARD, *FGSM, "--quiet")
    assert err == ""
    assert out.startswith("digits_standard: clean accuracy")
    assert len(out.splitlines()) == 3


def test_json_prints_the_report_and_nothing_else(tmp_path):
    out, err = evaluate(tmp_path / "run", STANDARD, *FGSM, "--json")
    assert json.loads(out) == json.loads((tmp_path / "run" / "report.json").read_text())
    assert err == ""


def test_evaluate_twice_into_one_folder_changes_nothing_that_was_stored(tmp_path):
    folder = tmp_path / "run"
    first, _ = evaluate(folder, STANDARD, *FGSM, "--quiet")
    stored = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("0*") if p.is_file()}
    second, _ = evaluate(folder, STANDARD, *FGSM, "--quiet")
    assert first == second
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("0*") if p.is_file()} == stored
    assert stored


def test_without_out_the_folder_is_named_after_the_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command("evaluate", STANDARD, *FGSM, "--quiet", "--workers", "1")
    assert code == 0, err
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == read_plan(folder)["id"]


def test_several_models_threats_and_attacks_in_one_run(tmp_path):
    models = (f"plain={STANDARD}", f"trained={ROBUST}")
    threats = ("--threat", "linf:0.15", "--threat", "l2:0.5")
    attacks = ("--attack", "fgsm", "--attack", "pgd:steps=5,loss=margin")
    out, _ = evaluate(tmp_path / "run", *models, *QUICK, *threats, *attacks, "--quiet")
    plan = read_plan(tmp_path / "run")
    assert [model["name"] for model in plan["models"]] == ["plain", "trained"]
    cells = [(cell["model"], cell["norm"], cell["attack"]) for cell in plan["cells"]]
    expected = [(m, n, a) for m in ("plain", "trained") for n in ("linf", "l2") for a in ("fgsm", "pgd")]
    assert cells == expected
    pgd = plan["cells"][1]["parameters"]
    assert (pgd["steps"], pgd["loss"], pgd["restarts"]) == (5, "margin", 1)
    figures = {}
    for line in out.splitlines()[:-1]:
        name, figure = line.split(": ", 1)
        figures.setdefault(name, []).append(figure)
    assert {name: len(lines) for name, lines in figures.items()} == {"plain": 3, "trained": 3}
    table = read_table(tmp_path / "run")
    assert len(table) == 12 * 8


def test_a_name_is_a_label_and_leaves_the_rows_alone(run, tmp_path):
    odd = "[red]ä|<b> & $x$ "
    evaluate(tmp_path / "run", f"{odd}={STANDARD}", *FGSM, "--shard-size", "4", "--quiet")
    assert read_plan(tmp_path / "run")["models"][0]["name"] == odd
    assert read_plan(tmp_path / "run")["id"] == read_plan(run)["id"]
    pd.testing.assert_frame_equal(read_table(tmp_path / "run"), read_table(run))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "[red]ä|&lt;b&gt; &amp;" in page
    assert "ä|<b>" not in page
    code, out, _ = command("plan", f"{odd}={STANDARD}", *FGSM)
    assert code == 0
    assert "[red]" in out


def test_a_toml_file_asks_for_the_same_plan(run, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(
        f"""
models = [{{source = "{STANDARD}", name = "other name"}}]
data = "digits"
threats = ["linf:0.15"]
samples = "0:12"
suite = "fgsm"
curve = []
[settings]
shard_size = 4
trust = "off"
"""
    )
    evaluate(tmp_path / "run", "--config", config, "--quiet")
    assert read_plan(tmp_path / "run")["id"] == read_plan(run)["id"]
    pd.testing.assert_frame_equal(read_table(tmp_path / "run"), read_table(run))


def test_rows_in_error_withhold_the_figure_and_end_with_1(tmp_path):
    """A network that returns NaN for dark pictures, though not for those that are looked at while planning."""
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.layer = nn.Linear(64, 10)\n"
        "        nn.init.eye_(self.layer.weight)\n\n"
        "    def forward(self, x):\n        if len(x) > 8:\n            x = x / 0\n        return self.layer(x.flatten(1))\n"
    )
    net = f"{tmp_path / 'net.py'}:Net"
    out, _ = evaluate(tmp_path / "run", net, *FGSM, "--quiet", expected=1)
    assert out.count("withheld") == 2
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["robust_accuracy"]["value"] is None
    assert report["warnings"]
    table = read_table(tmp_path / "run")
    assert set(table["status"]) == {"error"}
    assert table["note"].str.contains("NaN or infinite logits").all()
    assert (tmp_path / "run" / "report.html").exists()


# interrupted ----------------------------------------------------------------------------------------------------------


def test_an_interrupt_keeps_what_is_stored_and_run_takes_it_up(run, tmp_path, monkeypatch):
    def interrupted(plan, index, subjects, folder):
        if index == 1:
            raise KeyboardInterrupt
        return execute.run_shard(plan, index, subjects, folder)

    monkeypatch.setattr(local, "run_shard", interrupted)
    _, err = evaluate(tmp_path / "run", STANDARD, *FGSM, "--shard-size", "4", "--quiet", expected=130)
    assert "robustscope run FOLDER" in err
    assert "Traceback" not in err
    stored = sorted(path.name for path in (tmp_path / "run" / "shards").iterdir())
    assert stored == ["00000.parquet"]
    assert not (tmp_path / "run" / "record.json").exists()
    monkeypatch.undo()
    code, out, err = command("run", tmp_path / "run", "--quiet", "--workers", "1")
    assert code == 0, err
    assert "robust accuracy" in out
    pd.testing.assert_frame_equal(read_table(tmp_path / "run"), read_table(run))


def test_a_defect_is_told_apart_from_bad_news(tmp_path, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(local, "run_shard", broken)
    _, err = evaluate(tmp_path / "run", STANDARD, *FGSM, "--quiet", expected=3)
    assert "ZeroDivisionError: a bug" in err
    assert "report it" in err
    assert not (tmp_path / "run" / "record.json").exists()


# plan, run, report, verify --------------------------------------------------------------------------------------------


def test_plan_runs_nothing_and_run_carries_it_out_in_shares(run, tmp_path):
    folder = tmp_path / "run"
    code, out, _ = command("plan", STANDARD, *FGSM, "--shard-size", "4", "--out", folder, "--json")
    assert code == 0
    plan = json.loads(out)
    assert plan == read_plan(folder)
    assert plan["id"] == read_plan(run)["id"]
    assert [path.name for path in folder.iterdir()] == ["plan.json"]
    code, out, _ = command("run", folder, "--shard", "1/2", "--json", "--workers", "1")
    assert (code, json.loads(out)) == (0, {"plan_id": plan["id"], "complete": False, "missing_shards": 1})
    code, out, _ = command("run", folder, "--shard", "2/2", "--workers", "1", "--json")
    assert code == 0
    assert json.loads(out)["plan_id"] == plan["id"]
    pd.testing.assert_frame_equal(read_table(folder), read_table(run))


def test_plan_prints_every_cell_and_the_most_it_can_cost(run):
    code, out, err = command("plan", STANDARD, *FGSM, "--shard-size", "4")
    assert (code, err) == (0, "")
    plan = read_plan(run)
    assert plan["id"] in out
    assert f"at most {plan['cost']['forward']:,} rows forward and {plan['cost']['backward']:,} backward" in out
    assert plan["cost"]["forward"] >= read_record(run)["forward"]


def test_report_renders_the_same_bytes_elsewhere(run, tmp_path):
    code, out, _ = command("report", run, "--out", tmp_path / "there" / "deep", "--json")
    assert code == 0
    for kind, path in json.loads(out).items():
        assert Path(path).read_bytes() == (run / f"report.{kind}").read_bytes()


def test_verify_confirms_a_sound_run_and_not_another(run):
    code, out, _ = command("verify", run, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["claims"] == found["confirmed"] > 0
    assert found["failures"] == []
    code, out, _ = command("verify", run)
    assert code == 0
    assert f"{found['claims']} of {found['claims']} claims confirmed" in out


def test_verify_lists_no_more_failures_than_asked_for(run, tmp_path, monkeypatch):
    from robustscope.runs import evidence

    rows = pd.DataFrame([(0, 0, n, "the model classifies the example correctly") for n in range(5)])
    rows.columns = list(evidence.Failure._fields)
    monkeypatch.setattr(evidence, "verify_run", lambda run, **more: evidence.Check("id", 9, 4, rows, 0))
    code, out, _ = command("verify", run, "--show", "2")
    assert code == 1
    assert out.count("classifies the example correctly") == 2
    assert "and 3 more" in out


# list, cite, check, doctor, demo --------------------------------------------------------------------------------------


def test_list_names_what_is_registered():
    from robustscope.attacks import ATTACKS

    code, out, _ = command("list", "--json")
    listing = json.loads(out)
    assert code == 0
    kinds = {"attacks", "suites", "certifiers", "estimates", "probes", "limits", "corruptions", "data", "models"}
    kinds |= {"objectives", "recipes", "architectures", "why"}
    assert set(listing) == kinds
    assert all(entry["summary"] for kind in kinds - {"suites"} for entry in listing[kind])
    assert [entry["name"] for entry in listing["attacks"]] == [card.name for card in ATTACKS]
    assert all(entry["source"] and entry["summary"] for entry in listing["attacks"])
    code, out, _ = command("list", "suites")
    assert code == 0
    assert "baseline" in out
    assert "digits" not in out


def test_cite_prints_the_methods_of_a_run_once(run):
    code, out, _ = command("cite", run, "fgsm", "pgd")
    assert code == 0
    assert out.count("@software{robustscope") == 1
    assert out.count("@") == 3, "the package, FGSM and PGD, each once"


def test_check_runs_the_contract_on_an_attack_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\n\nfrom robustscope.core.types import AttackResult\n\n\n"
        "def lazy(model, x, y, threat, *, draws, targets=None):\n"
        '    """Return the clean inputs."""\n'
        "    none = torch.zeros(len(x), dtype=torch.int64)\n"
        "    return AttackResult(x.clone(), none, none)\n"
    )
    monkeypatch.chdir(tmp_path)
    code, out, err = command("check", f"{tmp_path / 'mine.py'}:lazy")
    assert code == 1, err
    assert "FAILED" in out
    assert "beats_noise" in out
    code, out, _ = command("check", "fgsm", "--json")
    assert code == 0
    assert all(result["passed"] for result in json.loads(out))


def test_doctor_finds_a_sound_pair_and_a_wrong_one():
    code, out, _ = command("doctor", STANDARD, "digits", "--samples", "64", "--json")
    assert code == 0
    assert {finding["level"] for finding in json.loads(out)} <= {"ok", "warning", "skipped"}
    code, out, _ = command("doctor", STANDARD, "digits", "--samples", "64", "--mean", "5", "--std", "0.01")
    assert code == 1
    assert "error" in out
    assert "->" in out, "each finding says what to do"


def test_demo_compares_its_two_networks(tmp_path, monkeypatch):
    from dataclasses import replace

    from robustscope.cli import demo_command

    small = replace(demo_command.DEMO.settings, samples="60", curve=(), suite="fast", trust="8")
    monkeypatch.setattr(demo_command, "DEMO", replace(demo_command.DEMO, settings=small))
    code, out, err = command("demo", "--out", tmp_path / "demo", "--quiet", "--workers", "1", "--json")
    assert code == 0, err
    models = json.loads(out)["models"]
    assert [model["name"] for model in models] == ["standard", "adversarially trained"]
    standard, trained = (model["threats"][0]["robust_accuracy"]["value"] for model in models)
    assert trained - standard > 0.3
    again = command("demo", "--out", tmp_path / "demo", "--quiet", "--workers", "1", "--json")
    assert again[:2] == (0, out)


def test_masks_are_compared_from_the_command_line(tmp_path):
    from robustscope.data.datasets import load_data
    from robustscope.runs.masks import evaluate_masks

    digits, ids = load_data("digits#test"), list(range(12))
    ink = digits.read(range(len(digits)))[:, 0].numpy() > 0.3
    np.save(tmp_path / "ink.npy", ink)
    code, out, _ = command(
        *("masks", "bundled:digits_adversarial", f"npy:{tmp_path / 'ink.npy'}", "--data", "digits#test"),
        *("--threat", "linf:0.15", "--attack", "pgd:steps=3", "--kinds", "none, foreground,foreground attacked,random"),
        *("--samples", "0:12", "--out", str(tmp_path / "out"), "--json"),
    )
    assert code == 0
    model = robustscope.load_model("bundled:digits_adversarial").classifier
    kinds = ("none", "foreground", "foreground attacked", "random")
    given = (model, digits.read(ids), torch.as_tensor(digits.labels[ids]), torch.as_tensor(ink[ids]), "linf:0.15")
    due = evaluate_masks(*given, kinds=kinds, method=("pgd", {"steps": 3}))
    rows = pd.read_csv(tmp_path / "out" / "masks.csv")
    pd.testing.assert_frame_equal(rows, due, check_dtype=False)
    told = {row["kind"]: row for row in json.loads(out)["kinds"]}
    assert list(told) == list(kinds)
    assert told["foreground attacked"]["clean"]["value"] == told["none"]["clean"]["value"]
    assert "| no mask, foreground attacked |" in (tmp_path / "out" / "masks.md").read_text()
    code, _, complaint = command(
        "masks", "bundled:digits_standard", "npy:none.npy", "--data", "digits", "--dilation", "-1"
    )
    assert code == 2
    assert "--dilation=-1" in complaint


# help -----------------------------------------------------------------------------------------------------------------

OPTIONS = {
    "evaluate": (
        "--data --threat --attack --out --config --samples --suite --curve --seed --shard-size --batch-size --threads "
        "--device --weights --mean --std --bounds --allow-probabilities --workers --quiet --json --trust --certify "
        "--bracket --estimate --shifts --reference --classes"
    ),
    "plan": "--data --threat --attack --out --config --samples --json",
    "run": "--shard --workers --quiet --json",
    "report": "--out --json",
    "verify": "--show --shifts --json",
    "universal": "--data --threat --samples --passes --step-batch --relative-step-size --seed --batch-size --threads "
    "--device --weights --mean --std --bounds --out --quiet --json",
    "train": "--out --data --objective --model --threat --epsilon --epochs --seed --device --set --tracker --quiet --json",
    "corrupt": "--suite --constants --format --rounding --samples --seed --workers --quiet --json DATA OUT",
    "video": "--k --labels --out --groups --unreviewed --seed --batch-size --threads --device --weights --mean --std "
    "--bounds --quiet --json MODEL FRAMES",
    "masks": "--data --threat --attack --kinds --dilation --share --samples --out --seed --batch-size --threads --device "
    "--weights --mean --std --bounds --quiet --json MODEL MASKS",
    "list": "--json attacks suites",
    "check": "--json my_module:my_attack",
    "limits": "--against --norm --epsilons --classes --samples --seed --json",
    "study": "--data --out --threat --samples --seed --probes --full --pictures --evaluated --properties --given --workers "
    "--quiet --json MODEL",
    "claims": "list run atlas",
    "cite": "BibTeX",
    "doctor": "--samples --seed --mean --std --bounds --json",
    "demo": "--out --workers --quiet --json",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_option(name):
    code, out, _ = command(name, "--help")
    assert code == 0
    for word in OPTIONS[name].split():
        assert word in out
    assert "[default: ()]" not in out


def test_help_and_version_import_no_torch():
    """The parser is instant because torch, pandas and friends are imported inside commands only."""
    code = (
        "import contextlib, io, sys\n"
        "from robustscope.cli import COMMANDS, main\n"
        "for tokens in (['--help'], ['--version'], *([name, '--help'] for name in COMMANDS), ['evaluate']):\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "        with contextlib.suppress(SystemExit):\n"
        "            main(tokens)\n"
        "print([name for name in ('torch', 'pandas', 'matplotlib', 'sklearn', 'duckdb') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_names_the_commands(shell):
    from robustscope.cli import build

    script = build().generate_completion(shell=shell)
    for name in COMMANDS:
        assert name in script
    assert "shard-size" in script
    code, out, _ = command("--help")
    assert code == 0
    assert "--install-completion" in out
