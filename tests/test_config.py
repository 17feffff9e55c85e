"""The configuration: one set of dataclasses behind TOML, command line and Python."""

import dataclasses

import pytest

from robustscope.cli.evaluate_command import RunOptions
from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.core.forms import to_dict
from robustscope.runs.config import (
    AttackSpec,
    Config,
    ModelSpec,
    Settings,
    config_from_dict,
    load_config,
)

FULL = Config(
    models=(
        ModelSpec("net.json"),
        ModelSpec("net.py:make", "mine", "w.safetensors", (0.5, 0.25, 0.1), (1.0, 2.0, 3.0), (-1.0, 1.0), True),
    ),
    data="mnist:somewhere",
    threats=("linf:8/255", "l2:0.5"),
    attacks=(AttackSpec("fgsm"), AttackSpec("pgd", {"steps": 7, "loss": "margin"})),
    settings=Settings("0:500", "audited", (0.5, 2.0), -3, 17, 19, 2, "cuda:1"),
)
TOML = """
data = "mnist:somewhere"
threats = ["linf:8/255", "l2:0.5"]
samples = "0:500"
curve = [0.5, 2]
seed = -3
shard_size = 17
batch_size = 19
threads = 2
device = "cuda:1"

[[models]]
source = "net.json"

[[models]]
source = "net.py:make"
name = "mine"
weights = "w.safetensors"
mean = [0.5, 0.25, 0.1]
std = [1, 2, 3]
bounds = [-1, 1]
allow_probabilities = true

[[attacks]]
name = "fgsm"

[[attacks]]
name = "pgd"
parameters = {steps = 7, loss = "margin"}
"""


def test_a_toml_file_says_everything(tmp_path):
    (tmp_path / "all.toml").write_text(TOML)
    assert load_config(tmp_path / "all.toml") == FULL


def test_settings_may_stand_in_a_table_of_their_own(tmp_path):
    lines = TOML.splitlines()
    settings = [line for line in lines if line.split(" ")[0] in {f.name for f in dataclasses.fields(Settings)}]
    rest = [line for line in lines if line not in settings]
    (tmp_path / "all.toml").write_text("\n".join([*rest, "[settings]", *settings]))
    assert load_config(tmp_path / "all.toml") == FULL


def test_plain_data_and_back():
    """A plan stores the request as JSON data; reading it back gives the request."""
    import json

    assert config_from_dict(json.loads(json.dumps(to_dict(FULL)))) == FULL


def test_missing_keys_get_the_defaults_of_the_command_line():
    config = config_from_dict({"models": [{"source": "net.json"}], "data": "digits", "threats": ["linf:0.1"]})
    assert config.settings == Settings()
    assert RunOptions().settings() == Settings()
    assert {f.name for f in dataclasses.fields(RunOptions)} == {f.name for f in dataclasses.fields(Settings)}


def test_numbers_take_the_type_of_the_field():
    settings = Settings(samples=20, curve=[1, 0.5])
    assert settings.samples == "20"
    assert settings.curve == (1.0, 0.5)
    assert all(type(factor) is float for factor in settings.curve)
    assert isinstance(ModelSpec("net.json", bounds=[0, 1]).bounds, tuple)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Settings(samples=True), InvalidType),
        (lambda: Settings(samples=1.0), InvalidType),
        (lambda: Settings(seed="0"), InvalidType),
        (lambda: Settings(seed=False), InvalidType),
        (lambda: Settings(curve="0.5"), InvalidType),
        (lambda: Settings(curve=[True]), InvalidType),
        (lambda: Settings(threads=1025), InvalidValue),
        (lambda: Settings(curve=(0.0,)), InvalidValue),
        (lambda: ModelSpec(3), InvalidType),
        (lambda: ModelSpec("net.json", name="\t"), InvalidValue),
        (lambda: ModelSpec("net.json", bounds=(0, 1, 2)), InvalidType),
        (lambda: ModelSpec("net.json", allow_probabilities=1), InvalidType),
        (lambda: AttackSpec("pgd", [("steps", 3)]), InvalidType),
        (lambda: dataclasses.replace(FULL, threats="linf:0.1"), InvalidType),
        (lambda: dataclasses.replace(FULL, threats=()), InvalidValue),
        (lambda: dataclasses.replace(FULL, models=()), InvalidValue),
        (lambda: dataclasses.replace(FULL, models=("net.json",)), InvalidType),
        (lambda: dataclasses.replace(FULL, settings=Settings(suite="fast")), InvalidValue),
    ],
)
def test_python_is_held_to_the_same_types(make, error):
    with pytest.raises(error):
        make()


def test_a_specification_does_not_share_the_callers_table():
    parameters = {"steps": 3}
    spec = AttackSpec("pgd", parameters)
    parameters["steps"] = 4
    assert spec.parameters == {"steps": 3}
