"""Runs against threat sets that are not finite balls: planned, run, stored, checked, reported; and tampering is caught."""

import json
import math
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import robustscope
from doors import STANDARD, command
from robustscope.api import Evaluation
from robustscope.core.errors import CorruptRun, InvalidValue
from robustscope.core.files import read_json
from robustscope.core.threats import Patch, RotationTranslation
from robustscope.runs.config import AttackSpec, Config, ModelSpec, Settings
from robustscope.runs.evidence import verify_run
from robustscope.runs.plan import make_plan
from robustscope.runs.session import carry_out, start
from robustscope.runs.store import evidence_path, plan_id, portable, read_plan, read_table

ROTATION = ("rotation-translation:8,0.5", AttackSpec("rotation_translation", {"trials": 4, "angles": 5, "shifts": 3}))
PATCH = ("patch:2,2", AttackSpec("patch", {"steps": 12, "restarts": 2}))
ENDLESS = ("linf:inf", AttackSpec("fmn", {"steps": 40}))


def config(threat, *attacks, curve=(0.5,), samples="0:40", suite=Settings.suite):
    settings = Settings(samples=samples, shard_size=20, curve=curve, suite=suite, trust="off")
    return Config((ModelSpec(STANDARD, name="standard"),), "digits", (threat,), attacks, settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    done = {}

    def run(threat, *attacks):
        if threat not in done:
            folder = tmp_path_factory.mktemp("threats") / "run"
            start(make_plan(config(threat, *attacks)), folder)
            carry_out(folder)
            done[threat] = folder
        return done[threat]

    return run


@pytest.mark.parametrize(("threat", "attack"), [ROTATION, PATCH, ENDLESS])
def test_a_run_is_confirmed_and_reported(finished, threat, attack):
    run = finished(threat, attack)
    check = verify_run(run)
    assert check.failures.empty
    assert check.confirmed == check.claims > 10
    plan, table = read_plan(run), read_table(run)
    assert plan["threats"][0]["text"] == threat
    assert (table["distance"].dropna() <= max(cell["epsilon"] for cell in plan["cells"]) + 1e-6).all()
    summary = Evaluation(run).summary()
    name = threat.replace(":", " ")
    assert summary["models"][0]["threats"][0]["name"] == name
    assert summary["robust_accuracy"]["k"] < summary["clean_accuracy"]["k"]
    page = Evaluation(run).report().read_text()
    assert name in page
    assert json.loads((run / "report.json").read_text(), parse_constant=pytest.fail)["plan_id"] == plan["id"]


def test_the_curve_scales_the_sizes(finished):
    cells = read_plan(finished(*ROTATION))["cells"]
    assert [(cell["norm"], cell["epsilon"], cell["headline"]) for cell in cells] == [
        ("rotation-translation:8,0.5", 0.5, False),
        ("rotation-translation:8,0.5", 1.0, True),
    ]
    parameters = np.concatenate(
        [load_file(evidence_path(finished(*ROTATION), shard))["cell/0/parameters"] for shard in (0, 1)]
    )
    assert np.abs(parameters).max(0) == pytest.approx([4, 0.25, 0.25], rel=0.1)
    assert (np.abs(parameters) <= [4, 0.25, 0.25]).all()


def tampered(run, folder, change):
    copy = shutil.copytree(run, folder / "copy")
    path = evidence_path(copy, 0)
    arrays = {name: array.copy() for name, array in load_file(path).items()}
    cell = max(int(name.split("/")[1]) for name in arrays if name.startswith("cell/"))
    samples = arrays[f"cell/{cell}/samples"]
    change(arrays, f"cell/{cell}/")
    save_file(arrays, path)
    failures = verify_run(copy).failures
    assert failures["problem"].str.contains("sha-256").any()
    return failures[failures["cell"] == cell], samples


def test_another_angle_than_the_stored_one_is_caught(finished, tmp_path):
    def turn(arrays, cell):
        arrays[cell + "parameters"][1, 0] += 0.5

    failures, samples = tampered(finished(*ROTATION), tmp_path, turn)
    assert set(failures["sample"]) == {int(samples[1])}
    assert failures["problem"].str.contains("angle and shift").any()


def test_an_angle_beyond_the_set_is_caught_even_if_the_image_fits_it(finished, tmp_path):
    import torch

    from robustscope.core.types import Bounds
    from robustscope.data.datasets import load_data
    from robustscope.geometry.rigid import transform

    def turn(arrays, cell):
        parameters = torch.tensor([[40.0, 0.0, 0.0]], dtype=torch.float64)
        x = load_data("digits").read([int(arrays[cell + "samples"][0])])
        arrays[cell + "x_adv"][0] = transform(x, parameters, Bounds(0.0, 1.0))[0].numpy()
        arrays[cell + "parameters"][0] = parameters[0].numpy()

    failures, samples = tampered(finished(*ROTATION), tmp_path, turn)
    assert set(failures["sample"]) == {int(samples[0])}
    assert failures["problem"].str.contains("outside epsilon").any()


def test_missing_parameters_are_caught(finished, tmp_path):
    failures, samples = tampered(finished(*ROTATION), tmp_path, lambda arrays, cell: arrays.pop(cell + "parameters"))
    assert set(failures["sample"]) == {int(sample) for sample in samples}


def test_a_pixel_beside_the_patch_is_caught(finished, tmp_path):
    def spot(arrays, cell):
        image = arrays[cell + "x_adv"][0, 0]
        image[0, 0], image[7, 7] = 0.5, 0.5  # no rectangle of two by two holds both

    failures, samples = tampered(finished(*PATCH), tmp_path, spot)
    assert set(failures["sample"]) == {int(samples[0])}
    assert failures["problem"].str.contains("outside epsilon").any()


def test_python_and_command_line_plan_the_same_runs(finished, tmp_path):
    model = robustscope.load_model(STANDARD)
    for threat, given in (("patch:2,2", Patch(2, 2)), (RotationTranslation(8, 0.5).norm, RotationTranslation(8, 0.5))):
        attack = (PATCH if threat.startswith("patch") else ROTATION)[1]
        settings = {"samples": "0:8", "curve": (), "threads": 1}
        result = robustscope.evaluate(model, "digits", given, attacks=attack, out=tmp_path / threat[:5], **settings)
        text = f"{attack.name}:" + ",".join(f"{key}={value}" for key, value in attack.parameters.items())
        options = ("--threat", threat, "--attack", text, "--samples", "0:8", "--curve", "none", "--json")
        code, out, _ = command(
            "evaluate", STANDARD, "--data", "digits", *options, "--out", tmp_path / f"cli{threat[:5]}"
        )
        assert code == 0
        cells = [{**cell, "model": ""} for cell in read_plan(tmp_path / f"cli{threat[:5]}")["cells"]]
        assert cells == [{**cell, "model": ""} for cell in result.plan["cells"]]
        assert json.loads(out)["robust_accuracy"]["k"] == result.summary()["robust_accuracy"]["k"]
        assert command("verify", tmp_path / f"cli{threat[:5]}")[0] == 0


# Unbounded -----------------------------------------------------------------------------------------------------------


def test_an_infinite_radius_is_stored_as_text_and_read_as_a_number(finished, tmp_path):
    run = finished(*ENDLESS)
    raw = read_json(run / "plan.json")
    assert raw["cells"][0]["epsilon"] == raw["threats"][0]["epsilon"] == "inf"
    assert [cell["epsilon"] for cell in read_plan(run)["cells"]] == [math.inf], "factors of infinity are one radius"
    assert portable([math.inf, -1.0, {"a": (1, math.inf)}]) == ["inf", -1.0, {"a": [1, "inf"]}]
    assert plan_id({"a": math.inf}) == plan_id({"a": "inf"})
    with pytest.raises(ValueError, match="JSON"):
        plan_id({"a": math.nan})
    options = ("--data", "digits", "--samples", "0:4", "--threat", "linf:inf", "--attack", "fmn")
    code, out, _ = command("plan", STANDARD, *options, "--json")
    assert (code, json.loads(out, parse_constant=pytest.fail)["cells"][0]["epsilon"]) == (0, "inf")
    assert command("plan", STANDARD, *options)[0] == 0
    raw["cells"][0]["epsilon"] = "endless"
    (tmp_path / "plan.json").write_text(json.dumps(raw))
    with pytest.raises(CorruptRun):
        read_plan(tmp_path)


def test_one_minimum_norm_run_is_the_whole_curve(finished):
    run = finished(*ENDLESS)
    curve = Evaluation(run).summary()["curve"]
    table = read_table(run)
    correct = table["clean_correct"].sum()
    assert len(curve) == 26
    assert [curve[0]["epsilon"], curve[-1]["epsilon"]] == [0.0, "inf"]
    for point in curve[1:-1]:
        assert point["k"] == correct - (table["distance"][table["success"].fillna(False)] <= point["epsilon"]).sum()
    values = [point["k"] for point in curve]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) > 8


def test_the_curve_agrees_with_runs_at_finite_radii(finished, tmp_path):
    """A point of the curve is what the same attack leaves at that radius, up to its own luck."""
    curve = Evaluation(finished(*ENDLESS)).summary()["curve"]
    point = curve[8]
    model = robustscope.load_model(STANDARD)
    settings = {"samples": "0:40", "curve": (), "threads": 1}
    there = robustscope.evaluate(model, "digits", f"linf:{point['epsilon']!r}", attacks=ENDLESS[1], **settings)
    assert abs(there.summary()["robust_accuracy"]["k"] - point["k"]) <= 1


def test_distances_without_a_limit_count_at_finite_radii_too(tmp_path):
    model = robustscope.load_model(STANDARD)
    settings = {"attacks": ["fgsm", "fmn"], "samples": "0:40", "curve": (), "threads": 1}
    alone = robustscope.evaluate(model, "digits", "linf:0.1", **{**settings, "attacks": "noise_uniform:restarts=1"})
    both = robustscope.evaluate(
        model, "digits", ["linf:0.1", "linf:inf"], **{**settings, "attacks": ["noise_uniform:restarts=1", "fmn"]}
    )
    assert both.summary()["robust_accuracy"]["k"] < alone.summary()["robust_accuracy"]["k"]
    assert len(both.summary()["curve"]) == 3, "noise broke samples anywhere in the box: no curve is read off"


def test_a_fixed_epsilon_attack_gets_the_whole_box():
    model = robustscope.load_model(STANDARD)
    for norm in ("linf", "l2", "l1"):
        settings = {"samples": "0:20", "curve": (), "threads": 1}
        result = robustscope.evaluate(model, "digits", f"{norm}:inf", attacks="pgd", **settings)
        assert result.summary()["robust_accuracy"]["k"] == 0, "without a limit every network falls"


@pytest.mark.parametrize(
    ("threats", "suite", "id_"),
    [(("linf:0.1", "l2:0.5"), "baseline", "2ea64b50e769c879"), (("l1:3",), "fast", "33e13f4ef84d7672")],
)
def test_plans_of_finite_balls_keep_the_id_they_had_before_other_sets_existed(threats, suite, id_):
    settings = Settings(samples="0:20", suite=suite, trust="off")
    plan = make_plan(Config((ModelSpec(STANDARD, name="standard"),), "digits", threats, (), settings))
    assert plan["id"] == id_
    assert all(set(cell) == set(plan["cells"][0]) for cell in plan["cells"])


def test_what_does_not_fit_is_refused_before_anything_runs():
    with pytest.raises(InvalidValue, match="choose among: rotation_translation"):
        make_plan(config(ROTATION[0], PATCH[1]))
    with pytest.raises(InvalidValue, match="choose among"):
        make_plan(config(PATCH[0], suite="baseline"))
    with pytest.raises(InvalidValue, match="finite"):
        make_plan(config("patch:2,2", AttackSpec("patch", {"relative_step_size": math.inf})))
