"""The plan: which cells and shards, in which order, under which id, and what they may cost."""

import dataclasses

import pytest
import torch

from doors import STANDARD, Net, X, Y
from robustscope.attacks import ATTACKS
from robustscope.attacks.suites import RECIPES, SUITES
from robustscope.core.errors import CorruptRun, InvalidType, InvalidValue
from robustscope.core.files import read_json, write_json
from robustscope.core.types import AttackResult
from robustscope.data.datasets import from_tensors
from robustscope.models.loading import from_module
from robustscope.runs.config import AttackSpec, Config, ModelSpec, Settings
from robustscope.runs.plan import Subjects, known_suites, load_subjects, make_plan
from robustscope.runs.session import carry_out, start
from robustscope.runs.store import read_plan, read_record, read_table


def config(**changes) -> Config:
    settings = {"samples": "0:10", "shard_size": 4, "curve": (), **changes.pop("settings", {})}
    base = {
        "models": (ModelSpec(STANDARD, name="standard"),),
        "data": "digits",
        "threats": ("linf:0.15",),
        "attacks": (AttackSpec("fgsm"), AttackSpec("pgd", {"steps": 4, "restarts": 2})),
    }
    return Config(**{**base, **changes}, settings=Settings(**settings))


def test_cells_norms_as_given_radii_ascending_attacks_in_order():
    plan = make_plan(config(threats=("l2:0.5", "linf:0.2", "l2:0.25"), settings={"curve": (2.0, 0.5)}))
    cells = [(cell["norm"], cell["epsilon"], cell["attack"]) for cell in plan["cells"]]
    radii = {"l2": [0.125, 0.25, 0.5, 1.0], "linf": [0.1, 0.2, 0.4]}
    assert cells == [(norm, radius, name) for norm in radii for radius in radii[norm] for name in ("fgsm", "pgd")]
    assert [cell["index"] for cell in plan["cells"]] == list(range(len(cells)))


def test_the_curve_adds_radii_but_no_headline():
    plan = make_plan(config(threats=("linf:0.2", "linf:0.1"), settings={"curve": (0.5, 2.0)}))
    shown = {cell["epsilon"]: cell["headline"] for cell in plan["cells"]}
    assert shown == {0.05: False, 0.1: True, 0.2: True, 0.4: False}
    assert [threat["text"] for threat in plan["threats"]] == ["linf:0.2", "linf:0.1"]
    assert {cell["epsilon"] for cell in make_plan(config())["cells"]} == {0.15}


def test_shards_hold_every_sample_of_every_model_once():
    models = (ModelSpec(STANDARD, name="a"), ModelSpec(STANDARD, name="b"))
    plan = make_plan(config(models=models, settings={"samples": "ids:9,2,5,7,1", "shard_size": 2}))
    assert [shard["index"] for shard in plan["shards"]] == list(range(6))
    for name in ("a", "b"):
        assert [shard["ids"] for shard in plan["shards"] if shard["model"] == name] == [[9, 2], [5, 7], [1]]
    assert plan["data"]["n"] == 5


def test_every_parameter_is_written_out():
    first, second = make_plan(config())["cells"]
    assert first["parameters"] == ATTACKS["fgsm"].resolve({})
    assert second["parameters"] == {**ATTACKS["pgd"].resolve({}), "steps": 4, "restarts": 2}
    assert first["version"] == ATTACKS["fgsm"].version


def test_a_thousand_samples_unless_asked_otherwise():
    x, y = torch.zeros(1200, 64), torch.zeros(1200, dtype=torch.int64)
    y[::2] = 1
    subjects = Subjects((from_module(Net(classes=2)),), from_tensors(x, y))
    for samples, n in (("", 1000), ("all", 1200), ("7", 7)):
        plan = make_plan(config(models=(ModelSpec("", name="net"),), settings={"samples": samples}), subjects)
        assert plan["data"]["n"] == n
    assert make_plan(config(settings={"samples": ""}))["data"]["n"] == 500, "all of a small set"


@pytest.mark.parametrize(
    ("suite", "threat"),
    [
        (s, t)
        for s in sorted(SUITES)
        for t in ("linf:0.15", "l2:0.8", "l1:3", "linf:0")
        if s not in RECIPES or t != "linf:0"
    ],
)
def test_the_forecast_bounds_what_is_counted(suite, threat, tmp_path):
    few = suite in ("scores", "decisions")  # thousands of queries one after another
    long = suite in RECIPES  # thousands of rows for each survivor
    samples = "0:2" if long else "0:3" if few else "0:6"
    facts = {"suite": suite, "curve": () if few or long else (0.5,), "samples": samples}
    asked = config(threats=(threat,), attacks=(), settings=facts)
    if (suite, threat) == ("decisions", "l1:3"):
        with pytest.raises(InvalidValue, match="'hopskipjump' was asked for norm='l1'"):
            make_plan(asked)
        return
    bounded(asked, tmp_path)


def test_a_suite_leaves_out_what_has_no_form_for_the_norm():
    for suite, threat, due in (
        ("decisions", "linf:0.1", ["noise_uniform", "noise_gaussian", "hopskipjump"]),
        ("decisions", "l2:0.5", ["noise_uniform", "noise_gaussian", "hopskipjump", "boundary"]),
        ("scores", "l1:3", ["noise_uniform", "noise_gaussian", "square"]),
    ):
        asked = config(threats=(threat,), attacks=(), settings={"suite": suite, "curve": (), "samples": "0:6"})
        assert [cell["attack"] for cell in make_plan(asked)["cells"]] == due
    with pytest.raises(InvalidValue, match="'boundary' was asked for norm='linf'"):  # an attack named is not left out
        make_plan(config(threats=("linf:0.1",), attacks=(AttackSpec("boundary", {}),), settings={"samples": "0:6"}))


def test_the_forecast_bounds_restarts_and_several_models(tmp_path):
    models = (ModelSpec(STANDARD, name="a"), ModelSpec("bundled:digits_adversarial", name="b"))
    attacks = tuple(
        AttackSpec(card.name, dict(card.quick)) for card in ATTACKS if "linf" in card.norms and not card.equip
    )
    bounded(config(models=models, attacks=attacks, threats=("linf:0.05",)), tmp_path)
    bounded(config(attacks=(AttackSpec("pgd", {"steps": 3, "restarts": 4}),), threats=("linf:0.01",)), tmp_path / "2")


def bounded(asked: Config, folder) -> None:
    plan = make_plan(asked)
    start(plan, folder / "run")
    carry_out(folder / "run")
    record, table = read_record(folder / "run"), read_table(folder / "run")
    assert set(table["status"]) <= {"ok", "skipped"}
    for name in ("forward", "backward"):
        assert table[name].sum() <= record[name] <= plan["cost"][name]
    hard = table[(table["status"] == "ok") & ~table["success"].fillna(False)]
    if len(hard):  # what is never broken costs nearly all that was foretold
        cell = plan["cells"][int(hard["cell"].iloc[0])]
        assert hard["forward"].iloc[0] >= 0.5 * ATTACKS[cell["attack"]].cost(cell["parameters"])[0]


def test_planning_asks_every_attack_with_its_parameters_before_anything_runs(tmp_path):
    """An attack that refuses, or cannot take, its parameters is found by calling it on no samples."""

    def picky(model, x, y, threat, *, draws, targets=None, depth: int = 1) -> AttackResult:
        if depth > 3:
            raise IndexError("too deep")
        none = torch.zeros(len(x), dtype=torch.int64)
        return AttackResult(x.clone(), none, none)

    ATTACKS.register("picky", version=1, source="this test", norms=("linf",))(picky)
    try:
        make_plan(config(attacks=(AttackSpec("picky", {"depth": 3}),)))
        with pytest.raises(InvalidValue, match=r"'picky'.*IndexError: too deep.*robustscope check picky"):
            make_plan(config(attacks=(AttackSpec("picky", {"depth": 4}),)))
    finally:
        ATTACKS.remove("picky")
    with pytest.raises(InvalidType, match=r"pgd\.steps=None"):
        make_plan(config(attacks=(AttackSpec("pgd", {"steps": None}),)))


def test_planning_leaves_model_and_counts_alone():
    asked = config(attacks=())
    subjects = load_subjects(asked.models, asked.data, asked.settings)
    classifier = subjects.models[0].classifier
    before = {name: value.clone() for name, value in classifier.module.state_dict().items()}
    make_plan(asked, subjects)
    assert (classifier.ledger.forward, classifier.ledger.backward) == (0, 0)
    assert all(torch.equal(before[name], value) for name, value in classifier.module.state_dict().items())
    assert all(parameter.grad is None for parameter in classifier.module.parameters())


def test_names_and_wording_are_no_part_of_the_id():
    base = make_plan(config())["id"]
    assert make_plan(config(models=(ModelSpec(STANDARD, name="another"),)))["id"] == base
    assert make_plan(config(threats=("linf:15/100",)))["id"] == base
    assert make_plan(config(threats=("linf:0.2",)))["id"] != base
    assert make_plan(config(attacks=(AttackSpec("fgsm"),)))["id"] != base


def test_the_same_model_under_two_names_and_one_name_for_two():
    plan = make_plan(config(models=(ModelSpec(STANDARD, name="a"), ModelSpec(STANDARD, name="b"))))
    assert plan["models"][0]["fingerprint"] == plan["models"][1]["fingerprint"]
    with pytest.raises(InvalidValue, match="several models are named 'a'"):
        make_plan(config(models=(ModelSpec(STANDARD, name="a"), ModelSpec("bundled:digits_adversarial", name="a"))))


def test_a_model_on_another_device_is_refused():
    """Only the meta device is at hand everywhere; a classifier refuses it, so the parameter moves afterwards."""
    loaded = from_module(Net(), name="net")
    loaded.classifier.module.register_buffer("stray", torch.empty(1, device="meta"))
    subjects = Subjects((loaded,), from_tensors(X, Y))
    with pytest.raises(InvalidValue, match=r"'net' is on meta and device='cpu'.*model\.to"):
        make_plan(config(models=(ModelSpec("", name="net"),), settings={"samples": "all"}), subjects)


def test_known_suites_say_their_parameters():
    listed = known_suites()
    assert listed.pop("common")[:-1] == listed["audited"], "the default suite, and beside it shifts and brackets"
    assert set(listed) == set(SUITES)
    assert "pgd:steps=40,loss=margin" in listed["baseline"]
    from robustscope.runs.plan import attack_specs

    for name, texts in listed.items():
        specs = [(spec.name, dict(spec.parameters)) for spec in attack_specs(texts)]
        assert specs == [(attack, dict(parameters)) for attack, parameters in SUITES[name]]


def test_a_plan_is_made_of_plain_data():
    import json

    plan = make_plan(config())
    assert json.loads(json.dumps(plan, allow_nan=False)) == plan
    assert dataclasses.asdict(config())["data"] == plan["request"]["data"]


@pytest.mark.parametrize(
    "edit",
    [
        lambda plan: plan["data"].update(name="another"),
        lambda plan: plan["cells"][0].update(headline=not plan["cells"][0]["headline"]),
        lambda plan: plan["threats"][0].update(text="linf:0.001"),
        lambda plan: plan.pop("seal"),
    ],
)
def test_an_edit_of_what_is_only_shown_is_noticed_too(tmp_path, edit):
    """These are no part of the id, for they change no row; but they change what a reader is told."""
    run = tmp_path / "run"
    start(make_plan(config()), run)
    plan = read_json(run / "plan.json")
    edit(plan)
    write_json(run / "plan.json", plan)
    with pytest.raises(CorruptRun, match="seal"):
        read_plan(run)
