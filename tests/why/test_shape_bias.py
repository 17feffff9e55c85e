"""Shape or texture: published counts, classifiers that see one cue only, and two networks trained to see one each."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmark_nets import pooled_cnn, train
from robustscope.analyses.cue_conflict import cue_conflict
from robustscope.core.draws import Draws
from robustscope.core.errors import BadFile, InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.data.cue_conflict import KINDS, SIXTEEN, ShapeOracle, TextureOracle, cue_digits, pool_probabilities
from robustscope.data.datasets import load_data
from robustscope.models.classifier import Classifier
from robustscope.probes.why import WHY
from robustscope.probes.why.shape_bias import decide

ROOT = Path(__file__).resolve().parents[2]
THREAT = ThreatModel("linf", 0.1)
# Decisions on the 1,200 pictures in conflict: for the shape, for the texture, and the bias that was published or follows.
COUNTS = {
    "ten people": (9236, 398, 12000, 0.95869),
    "AlexNet": (283, 376, 1200, 0.4294),
    "GoogLeNet": (228, 503, 1200, 0.3119),
    "VGG-16": (130, 625, 1200, 0.1722),
    "ResNet-50": (162, 572, 1200, 0.2207),
    "ResNet-50, Stylized-ImageNet": (586, 141, 1200, 0.8061),
    "DenseNet-121": (163, 597, 1200, 0.2145),
    "SqueezeNet": (133, 597, 1200, 0.1822),
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_counts(name):
    shape, texture, n, bias = COUNTS[name]
    decisions = np.repeat([0, 1, -1], [shape, texture, n - shape - texture])
    found = cue_conflict(decisions, np.zeros(n, int), np.ones(n, int)).iloc[0]
    assert found["shape_bias"] == pytest.approx(bias, abs=5e-5)
    assert (found["n"], found["as_other"]) == (n, n - shape - texture)
    assert found["low"] < bias < found["high"]
    assert shape / n != pytest.approx(bias, abs=0.01)  # out of all pictures it would be another number


def test_counts_by_class():
    shapes, textures = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([1, 1, 2, 0, 0, 1, 0])
    decisions = np.array([0, 1, 0, 0, 5, 1, 2])
    table = cue_conflict(decisions, shapes, textures, ["cat", "dog", "owl"]).set_index("shape")
    assert table.loc["cat", ["n", "as_shape", "as_texture", "as_other"]].tolist() == [3, 2, 1, 0]
    assert table.loc["cat", "shape_bias"] == pytest.approx(2 / 3)
    assert table.loc["dog", "n"] == 1
    assert "no picture was decided" in table.loc["dog", "reason"]
    assert table.loc["dog", ["shape_bias", "low", "high"]].isna().all()
    with pytest.raises(InvalidValue, match="whose cues differ"):
        cue_conflict([0, 1], [0, 1], [0, 1])


@cache
def read(kind, cue="shape", split="test"):
    data = load_data(f"cue-digits:{kind},{cue}#{split}")
    return data.read(range(len(data))), torch.from_numpy(data.labels)


def ask(module, x, y, targets, **parameters):
    draws = Draws(0, tuple(range(len(x))))
    return WHY["shape_bias"].function(Classifier(module), x, y, THREAT, draws=draws, targets=targets, **parameters)


def test_oracles_score_exactly_one_and_zero():
    x, shapes = read("conflict")
    textures = read("conflict", "texture")[1]
    for oracle, bias in ((ShapeOracle(x, shapes), 1), (TextureOracle(), 0)):
        found = ask(oracle, x, shapes, textures).columns
        assert (found["shape_bias"] == bias).all()
        assert (found["cue_decided"] == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_digits_have_the_cues_they_say(kind):
    (x, shapes), textures = read(kind), read(kind, "texture")[1]
    assert (ShapeOracle(x, shapes)(x).argmax(1) == shapes).all()
    assert (TextureOracle()(x).argmax(1) == textures).all()
    agree = (shapes == textures).double().mean().item()
    if kind == "random":
        assert agree == pytest.approx(0.1, abs=3 * (0.09 / 500) ** 0.5)
    else:
        assert agree == (kind == "consistent")
    assert shapes.tolist() == load_data("digits").labels.tolist()
    counts = torch.bincount(textures, minlength=10)
    assert counts.min() > 25


def test_a_digit_does_not_depend_on_the_others():
    data = load_data("digits")
    x, y = data.read(range(6)), torch.from_numpy(data.labels[:6])
    whole = cue_digits(x, y, "conflict", draws=Draws(0, tuple(range(6))))
    part = cue_digits(x[4:], y[4:], "conflict", draws=Draws(0, (4, 5)))
    assert torch.equal(whole.x[4:], part.x)
    assert torch.equal(whole.textures[4:], part.textures)


def test_pictures_without_conflict_are_left_out():
    x, shapes = read("conflict")
    textures = torch.where(torch.arange(len(shapes)) < 5, shapes, read("conflict", "texture")[1])
    module = ShapeOracle(x, shapes)
    found = ask(module, x, shapes, textures).columns
    assert found["shape_bias"][:5].isnan().all()
    assert found["cue_decided"][:5].isnan().all()
    assert (found["shape_bias"][5:] == 1).all()
    decisions = decide(Classifier(module), x)
    table = cue_conflict(decisions.numpy(), shapes.numpy(), textures.numpy())
    assert table.loc[0, "shape_bias"] == found["shape_bias"].nanmean().item()
    assert table.loc[0, "n"] == 495


class Fixed(nn.Module):
    """Returns stored logits, one row for each input."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits
        self.eval()

    def forward(self, x):
        return self.logits[: len(x)]


def test_probabilities_are_averaged_not_summed():
    """One output of 0.3 against three of 0.2: the mean says the first, the sum the second."""
    shares = torch.tensor([[0.3, 0.2, 0.2, 0.2, 0.1]])
    groups = [[0], [1, 2, 3], [4]]
    pooled = pool_probabilities(shares.log(), groups)
    assert torch.allclose(pooled, torch.tensor([[0.3, 0.2, 0.1]], dtype=torch.float64))
    x, y, t = torch.zeros(1, 4), torch.tensor([1]), torch.tensor([0])
    assert ask(Fixed(shares.log()), x, y, t, groups=groups).columns["shape_bias"].item() == 0
    summed = torch.stack([shares[:, g].sum(1) for g in groups], 1)
    assert ask(Fixed(summed.log()), x, y, t).columns["shape_bias"].item() == 1


def test_the_sixteen_categories():
    assert list(SIXTEEN) == sorted(SIXTEEN)
    sizes = {name: len(outputs) for name, outputs in SIXTEEN.items()}
    assert sizes["dog"] == 109
    assert sizes["bird"] == 49
    assert sum(sizes.values()) == len({i for outputs in SIXTEEN.values() for i in outputs}) == 207
    logits = torch.zeros(2, 1000)
    logits[0, 404] = logits[1, 268] = 20.0
    x = torch.zeros(2, 4)
    places = {name: place for place, name in enumerate(SIXTEEN)}
    y, t = torch.tensor([places["airplane"], places["cat"]]), torch.tensor([places["dog"], places["dog"]])
    assert ask(Fixed(logits), x, y, t, groups="imagenet-16").columns["shape_bias"].tolist() == [1, 0]


def test_two_trained_networks_are_told_apart():
    """The same network, the same pictures, whose cues are independent: one is taught the shape, one the texture."""
    x, shapes = read("conflict")
    textures = read("conflict", "texture")[1]
    bias = {}
    for cue in ("shape", "texture"):
        module = train(pooled_cnn(width=8), *read("random", cue, "train"), epochs=10)
        found = ask(module, x, shapes, textures).columns
        assert found["cue_decided"].nanmean() > 0.7
        bias[cue] = found["shape_bias"].nanmean().item()
    assert bias["shape"] > 0.9
    assert bias["texture"] < 0.1


def stimuli(folder):
    for name in ("cat/cat1-dog2", "cat/cat2-cat1", "dog/dog1-cat10"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (10 * len(name), 0, 0)).save(folder / f"{name}.png")


def test_stimuli_are_read_by_their_names(tmp_path):
    stimuli(tmp_path)
    shapes, textures = (load_data(f"cue-conflict:{tmp_path}#{cue}") for cue in ("shape", "texture"))
    assert shapes.class_names == textures.class_names == ("cat", "dog")
    assert shapes.labels.tolist() == [0, 0, 1]
    assert textures.labels.tolist() == [1, 0, 0]
    assert torch.equal(shapes.read([2]), textures.read([2]))
    assert load_data(f"cue-conflict:{tmp_path}?resize=4&crop=4").shape == (3, 4, 4)
    (tmp_path / "dog" / "dog1-owl1.png").write_bytes((tmp_path / "dog" / "dog1-cat10.png").read_bytes())
    with pytest.raises(BadFile, match="not named after"):
        load_data(f"cue-conflict:{tmp_path}")


@pytest.mark.shared
def test_the_shared_stimuli():
    folder = ROOT.parent / "shared" / "data" / "cue-conflict"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    shapes, textures = (load_data(f"cue-conflict:{folder}#{cue}") for cue in ("shape", "texture"))
    assert shapes.class_names == tuple(SIXTEEN)
    assert (len(shapes), int((shapes.labels != textures.labels).sum())) == (1280, 1200)
    assert np.bincount(shapes.labels).tolist() == np.bincount(textures.labels).tolist() == [80] * 16


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x, y: ask(TextureOracle(), x, y, None), "targets="),
        (lambda x, y: ask(TextureOracle(), x, y, y, groups="imagenet"), "groups='imagenet'"),
        (lambda x, y: ask(TextureOracle(), x, y, y, groups=[[0], []]), "two or more categories"),
        (lambda x, y: ask(TextureOracle(), x, y, y, groups="imagenet-16"), "imagenet-16"),
        (lambda x, y: load_data("cue-digits:conflicting"), "cue-digits:conflicting"),
        (lambda x, y: load_data("cue-digits:conflict,colour"), "CUE"),
        (lambda x, y: cue_digits(x, y, "both", draws=Draws(0, range(2))), "kind='both'"),
    ],
)
def test_what_is_refused(call, says):
    x, y = read("conflict")
    with pytest.raises(InvalidValue, match=says):
        call(x[:2], y[:2])
