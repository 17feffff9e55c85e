"""Bad requests at the command line, in TOML files and to damaged run folders: one readable message, exit code 2."""

import errno
import json
import shutil
from pathlib import Path

import duckdb
import pytest

from doors import STANDARD, assert_nothing_whole, assert_three_parts, command
from robustscope.core.errors import CorruptRun, InvalidValue, MissingFile, RobustscopeError
from robustscope.core.files import write_json
from robustscope.reports import write_report
from robustscope.runs.config import AttackSpec, Config, ModelSpec, Settings
from robustscope.runs.evidence import verify_run
from robustscope.runs.plan import make_plan
from robustscope.runs.session import carry_out, start
from robustscope.runs.store import read_record, read_table, shard_path

BASE = ("evaluate", STANDARD, "--data", "digits", "--samples", "8", "--quiet")
FGSM = (*BASE, "--suite", "fgsm", "--curve", "none", "--threat", "linf:0.1", "--trust", "off")

COMMANDS = [
    ("no command known", ("evaluat",), "evaluat", 'Did you mean "evaluate"'),
    ("no model", ("evaluate", "--data", "digits"), "no model was given", "Write e.g."),
    ("no data", ("evaluate", STANDARD), "no --data was given", "Write e.g."),
    ("option unknown", (*FGSM, "--frobnicate", "3"), "--frobnicate", "robustscope evaluate --help"),
    ("option without value", (*FGSM, "--out"), "--out requires an argument", "--help"),
    ("option twice", (*FGSM, "--seed", "1", "--seed", "2"), "--seed specified multiple times", "--help"),
    ("seed text", (*FGSM, "--seed", "x"), "'x' is no whole number", "--help"),
    ("seed a fraction", (*FGSM, "--seed", "1.5"), "'1.5' is no whole number", "--help"),
    ("workers a fraction", (*FGSM, "--workers", "1.5"), "'1.5' is no whole number", "--help"),
    ("no workers", (*FGSM, "--workers", "0"), "--workers=0", "--workers 2"),
    ("shard size 0", (*FGSM, "--shard-size", "0"), "shard_size=0", "default is 256"),
    ("batch size negative", (*FGSM, "--batch-size", "-4"), "batch_size=-4", "default is 128"),
    ("threads 0", (*FGSM, "--threads", "0"), "threads=0", "default is 1"),
    ("device unknown", (*FGSM, "--device", "foo"), "device='foo'", "device='cpu'"),
    ("threat without radius", (*BASE, "--threat", "linf"), "threat='linf'", "linf:8/255"),
    ("threat in capitals", (*BASE, "--threat", "Linf:0.1"), "norm='Linf'", "lower case"),
    ("threat by zero", (*BASE, "--threat", "linf:8/0"), "epsilon='8/0'", "8/255"),
    ("threat negative", (*BASE, "--threat", "linf:-1"), "epsilon='-1'", "8/255"),
    ("threat twice", (*FGSM, "--threat", "linf:1/10"), "'linf:0.1' was given twice", "Remove"),
    ("curve negative", (*BASE, "--curve", "-1"), "curve=(-1.0,)", "factors of epsilon"),
    ("curve zero", (*BASE, "--curve", "0"), "curve=(0.0,)", "factors of epsilon"),
    ("curve NaN", (*BASE, "--curve", "nan"), "curve=(nan,)", "factors of epsilon"),
    ("curve text", (*BASE, "--curve", "a,b"), "--curve='a,b'", "0.5,1,2"),
    ("suite misspelt", (*BASE, "--suite", "basline"), "'basline'", "Did you mean 'baseline'"),
    ("attack misspelt", (*BASE, "--attack", "pgdd"), "'pgdd'", "Did you mean 'pgd'"),
    ("attack empty", (*BASE, "--attack", ""), "''", "Available"),
    ("parameter misspelt", (*BASE, "--attack", "pgd:stps=3"), "'stps'", "Did you mean 'steps'"),
    ("parameter without value", (*BASE, "--attack", "pgd:steps"), "'steps'", "pgd:steps=100"),
    ("parameter twice", (*BASE, "--attack", "pgd:steps=2,steps=3"), "'steps' was given twice", "Remove one"),
    ("parameter of no steps", (*BASE, "--attack", "pgd:steps=0"), "steps=0", "Correct"),
    ("parameter NaN", (*BASE, "--attack", "pgd:relative_step_size=nan"), "nan", "Correct"),
    ("parameter infinite", (*BASE, "--attack", "pgd:relative_step_size=inf"), "inf", "Correct"),
    ("parameter text", (*BASE, "--attack", "pgd:steps=ten"), "pgd.steps='ten'", "Correct"),
    ("attack for no such norm", (*BASE, "--attack", "pgd", "--threat", "l0:3"), "norm='l0'", "robustscope list"),
    ("attack and suite", (*FGSM, "--attack", "pgd"), "both attacks and suite='fgsm'", "Leave the suite out"),
    ("model of no form", ("evaluate", "bundle:x", "--data", "digits"), "bundle:x", "net.json"),
    ("model not there", ("evaluate", "none.json", "--data", "digits"), "none.json", "Check"),
    ("weights as a model", ("evaluate", "net.pt", "--data", "digits"), "net.pt", "file.py:make_model"),
    ("models of one name", ("evaluate", STANDARD, STANDARD, "--data", "digits"), "digits_standard", "NAME=SOURCE"),
    ("data misspelt", ("evaluate", STANDARD, "--data", "digit"), "'digit'", "Did you mean 'digits'"),
    ("mean alone", (*FGSM, "--mean", "0.5"), "std=None", "Give both"),
    ("mean none", (*FGSM, "--mean", "none", "--std", "none"), "mean=()", "each channel"),
    ("mean text", (*FGSM, "--mean", "x", "--std", "1"), "--mean='x'", "0.5,1,2"),
    ("bounds of one", (*FGSM, "--bounds", "1"), "--bounds='1'", "--bounds 0,1"),
    ("bounds too small", (*FGSM, "--bounds", "0,0.5"), "inputs in [0, 1]", "declare other bounds"),
    ("config not there", ("evaluate", "--config", "none.toml"), "none.toml does not exist", "Check the path"),
    ("config and options", ("evaluate", "--config", "none.toml", "--seed", "1"), "both --config", "leave --config out"),
    ("out below a file", (*FGSM, "--out", "FILE/run"), "could not be made", "another --out"),
    ("out in a full folder", (*FGSM, "--out", "FOLDER"), "other files (notes.txt)", "another --out"),
    ("run of no run", ("run", "FOLDER"), "plan.json does not exist", "Check the path"),
    ("run of a file", ("run", "FILE"), "plan.json does not exist", "Check the path"),
    ("report of no run", ("report", "FOLDER"), "plan.json does not exist", "Check the path"),
    ("verify of no run", ("verify", "nowhere"), "plan.json does not exist", "Check the path"),
    ("verify showing -1", ("verify", "nowhere", "--show", "-1"), "--show=-1", "--show 100"),
    ("list of unknown kind", ("list", "attack"), "attack", 'Did you mean "attacks"'),
    ("cite the unknown", ("cite", "pgdd"), "'pgdd'", "Did you mean 'pgd'"),
    ("check the unknown", ("check", "fgms"), "'fgms'", "Did you mean 'fgsm'"),
    ("check no attack", ("check", "json:dumps"), "'dumps'", "fgsm.py"),
    ("doctor without data", ("doctor", STANDARD), "DATA requires an argument", "robustscope doctor --help"),
    ("doctor on no samples", ("doctor", STANDARD, "digits", "--samples", "0"), "samples=0", "samples=256"),
    ("doctor with bounds of one", ("doctor", STANDARD, "digits", "--bounds", "0"), "--bounds='0'", "--bounds 0,1"),
    ("demo with an argument", ("demo", "now"), "'now'", "robustscope demo --help"),
    ("plan of nothing", ("plan",), "no model was given", "Write e.g."),
]
SAMPLES = ["0:0", "5:3", "-1", "1e3", "99999999", "0", "ids:", "ids:3,3", "ids:500", "0:501", "²", "half"]
COMMANDS += [
    (f"samples {text}", ("evaluate", STANDARD, "--data", "digits", "--samples", text), text.strip("ids:")[:1], ".")
    for text in SAMPLES
]


@pytest.mark.parametrize(("tokens", "given", "remedy"), [pytest.param(*row[1:], id=row[0]) for row in COMMANDS])
def test_the_command_line_refuses(tokens, given, remedy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FOLDER" / "notes.txt").write_text("not a run")
    (tmp_path / "FILE").write_text("not a run")
    code, out, err = command(*tokens)
    assert code == 2, err
    assert out == ""
    message = err.removeprefix("loading models and data, planning ...\n")
    assert message.startswith("error: ")
    assert given in message
    assert remedy in message
    assert "Traceback" not in err
    assert len(message.splitlines()) <= 2, "one message, perhaps with the line that names the help"
    assert_nothing_whole(tmp_path)


TOML = """
models = [{source = "bundled:digits_standard", name = "standard"}]
data = "digits"
threats = ["linf:0.1"]
samples = "8"
"""
CONFIGS = [
    ("no TOML", "models = [", "is not TOML", "Correct that line"),
    ("binary", "\udcff", "is not TOML", "Correct that line"),
    ("key misspelt", TOML + "sample = '8'", "'sample'", "Did you mean 'samples'"),
    ("nested key misspelt", TOML.replace("name", "nam"), "'models[0].nam'", "Did you mean 'name'"),
    ("key missing", TOML.replace('data = "digits"', ""), "'data' is missing", "Add it"),
    ("models a text", TOML.replace("models = [", "models = 'x' #"), "models='x'", "[brackets]"),
    ("threats a text", TOML.replace('["linf:0.1"]', '"linf:0.1"'), "threats='linf:0.1'", "[brackets]"),
    ("threats of numbers", TOML.replace('["linf:0.1"]', "[0.1]"), "threats[0]=0.1", "quotes"),
    ("no threats", TOML.replace('["linf:0.1"]', "[]"), "no threats", "at least one"),
    ("seed a text", TOML + "seed = '1'", "seed='1'", "without quotes"),
    ("seed a fraction", TOML + "seed = 1.5", "seed=1.5", "whole number"),
    ("seed a flag", TOML + "seed = true", "seed=True", "whole number"),
    ("curve a number", TOML + "curve = 0.5", "curve=0.5", "[brackets]"),
    ("curve too large", TOML + "curve = [1" + "0" * 400 + "]", "curve[0]=1000", "smaller"),
    ("settings a number", TOML + "settings = 3", "settings=3", "key = value"),
    ("setting twice", TOML + "seed = 1\n[settings]\nseed = 2", "'seed' was given at the top", "Remove one"),
    ("bounds of three", TOML.replace("name =", "bounds = [0, 1, 2], name ="), "bounds=[0, 1, 2]", "exactly"),
    ("flag a text", TOML.replace("name =", "allow_probabilities = 'yes', name ="), "'yes'", "true or false"),
    ("attack a text", TOML + "attacks = ['pgd']", "attacks[0] is 'pgd'", "table"),
    ("attack misspelt", TOML + "attacks = [{name = 'pgdd'}]", "'pgdd'", "Did you mean 'pgd'"),
    ("parameters a list", TOML + "attacks = [{name = 'pgd', parameters = [3]}]", "parameters=[3]", "key = value"),
    ("parameter a text", TOML + "attacks = [{name = 'pgd', parameters = {steps = '3'}}]", "pgd.steps='3'", "Correct"),
    ("name empty", TOML.replace("standard'", "'").replace('"standard"', '""'), "name ''", "short name"),
]


@pytest.mark.parametrize(("text", "given", "remedy"), [pytest.param(*row[1:], id=row[0]) for row in CONFIGS])
def test_a_wrong_configuration_is_refused(text, given, remedy, tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    code, _, err = command("evaluate", "--config", path, "--out", tmp_path / "run", "--quiet")
    assert code == 2, err
    assert given in err
    assert remedy in err
    assert "Traceback" not in err
    assert_nothing_whole(tmp_path)


# Run folders that are not what they were ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A finished run of two shards with its report."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    asked = Config(
        (ModelSpec(STANDARD, name="standard"),),
        "digits",
        ("linf:0.15",),
        (AttackSpec("fgsm"),),
        Settings(samples="0:16", shard_size=8, curve=(), trust="off"),
    )
    start(make_plan(asked), folder)
    carry_out(folder)
    write_report(folder)
    return folder


def edited(change):
    def damage(run: Path) -> None:
        plan = json.loads((run / "plan.json").read_text())
        change(plan)
        (run / "plan.json").write_text(json.dumps(plan))

    return damage


def rows(change):
    def damage(run: Path) -> None:
        path = str(shard_path(run, 1))
        table = duckdb.read_parquet(path).df()
        duckdb.from_df(change(table)).write_parquet(path)

    return damage


def put(name: str, content: bytes):
    def damage(run: Path) -> None:
        (run / name).write_bytes(content)

    return damage


def without(name: str):
    def damage(run: Path) -> None:
        (run / name).unlink()

    return damage


PLANS = [
    ("plan gone", without("plan.json"), "plan.json does not exist"),
    ("plan cut", put("plan.json", b'{"format": 1, "id'), "plan.json cannot be read"),
    ("plan of bytes", put("plan.json", b"\xff\xfe"), "plan.json cannot be read"),
    ("plan a list", put("plan.json", b"[]"), "not a JSON object"),
    ("plan empty", put("plan.json", b"{}"), "lacks"),
    ("plan of another radius", edited(lambda p: p["cells"][0].update(epsilon=0.01)), "has id"),
    ("plan of fewer samples", edited(lambda p: p["shards"][1]["ids"].pop()), "has id"),
    ("plan of another seed", edited(lambda p: p.update(seed=1)), "has id"),
    ("plan of another id", edited(lambda p: p.update(id="0" * 16)), "has id"),
    ("plan with NaN", edited(lambda p: p["cells"][0].update(epsilon=float("nan"))), "lacks"),
    ("plan of text cells", edited(lambda p: p.update(cells="none")), "lacks"),
    ("plan without request", edited(lambda p: p.pop("request")), "lacks 'request'"),
]
SHARDS = [
    ("shard empty", put("shards/00001.parquet", b""), "00001.parquet"),
    ("shard of text", put("shards/00001.parquet", b"PAR1 no PAR1"), "00001.parquet"),
    ("shard a row short", rows(lambda t: t.iloc[1:]), "missing row"),
    ("shard a row doubled", rows(lambda t: t.iloc[[0, *range(len(t))]]), "doubled row"),
    ("shard of others' rows", rows(lambda t: t.assign(cell=t["cell"] + 7)), "row(s)"),
    ("shard of strange status", rows(lambda t: t.assign(status="fine")), "'fine'"),
    ("shard without a column", rows(lambda t: t.drop(columns="distance")), "00001.parquet"),
]


@pytest.mark.parametrize(("damage", "given"), [pytest.param(*row[1:], id=row[0]) for row in PLANS + SHARDS])
def test_a_damaged_run_is_refused_by_every_reader(damage, given, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    damage(run)
    for reader in (read_table, write_report, verify_run):
        with pytest.raises(RobustscopeError) as caught:
            reader(run)
        assert isinstance(caught.value, (CorruptRun, MissingFile))
        assert_three_parts(caught.value)
        assert given in str(caught.value)
    for name in ("report", "verify", "run"):
        code, out, err = command(name, run)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert given in err or name == "run"  # which may stop at the metadata of the same shard


def test_an_unfinished_run_has_no_report_and_no_proof(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run, ignore=shutil.ignore_patterns("report.*", "record.json", "00001.*"))
    for name in ("report", "verify"):
        code, _, err = command(name, run)
        assert code == 2
        assert "1 of 2 shards are missing" in err
        assert "robustscope run" in err
    assert not list(run.glob("report.*"))
    code, _, err = command("run", run, "--quiet", "--workers", "1")
    assert code == 0, err
    assert (run / "report.html").exists()
    assert read_table(run).equals(read_table(whole))


def test_other_requests_do_not_touch_a_run(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    other = ("evaluate", "bundled:digits_adversarial", "--data", "digits", "--samples", "0:16", "--suite", "fgsm")
    code, _, err = command(*other, "--quiet", "--out", run)
    assert code == 2
    assert "was asked for" in err
    assert "Choose another --out" in err
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_evidence_that_is_gone_or_cut_is_found_by_verify(whole, tmp_path):
    name = "evidence/00000.safetensors"
    cut = put(name, (whole / name).read_bytes()[:-1])
    for number, (damage, expected) in enumerate([(without(name), 2), (cut, 1), (put(name, b""), 1)]):
        run = tmp_path / str(number)
        shutil.copytree(whole, run)
        damage(run)
        code, out, err = command("verify", run)
        assert code == expected
        assert "evidence" in out + err
        assert "Traceback" not in err


def test_a_share_of_another_form_is_refused(whole):
    for share in ("0/2", "3/2", "x", "1", "1/0", "-1/2"):
        code, _, err = command("run", whole, f"--shard={share}")
        assert code == 2
        assert f"the share {share!r}" in err


def test_a_broken_record_is_refused(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "record.json").write_text("{")
    with pytest.raises(CorruptRun, match=r"record\.json cannot be read"):
        read_record(run)
    assert command("report", run)[0] == 2


# Writing ---------------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_no_half_report(whole, tmp_path, monkeypatch):
    """The disk is full when the page is written, after its Markdown twin."""
    run = tmp_path / "run"
    shutil.copytree(whole, run, ignore=shutil.ignore_patterns("report.*"))
    write = Path.write_text

    def full(path, text, *arguments, **options):
        if "report.html" in path.name:
            write(path, text[:1000], *arguments, **options)
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, text, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    code, _, err = command("report", run)
    assert code == 2
    assert "No space left on device" in err
    assert "Free space" in err
    assert not list(run.rglob("*.part"))
    assert not (run / "report.html").exists()
    monkeypatch.undo()
    assert command("report", run)[0] == 0
    assert (run / "report.html").read_bytes() == (whole / "report.html").read_bytes()


def test_a_report_needs_a_folder(whole, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for out in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nowhere"):
        code, _, err = command("report", whole, "--out", out)
        assert code == 2
        assert "could not be written" in err


def test_a_plan_holds_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "plan.json", {"epsilon": float("nan")})
    assert_nothing_whole(tmp_path)
    with pytest.raises(InvalidValue, match="a finite number"):
        make_plan(
            Config((ModelSpec(STANDARD),), "digits", ("l2:1",), (AttackSpec("pgd", {"sparse_fraction": float("inf")}),))
        )
