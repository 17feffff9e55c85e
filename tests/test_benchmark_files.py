"""Published benchmarks of shifts on disk: the right rows, labels and classes, and every fault is named."""

import numpy as np
import pytest
import torch
from PIL import Image

from doors import assert_three_parts
from robustscope.core.errors import BadFile, InvalidValue, MissingFile, RobustscopeError, UnsafeFile
from robustscope.corruptions.sequences import perturb
from robustscope.data.benchmarks import ROWS, Sequences, positions, read_wnids
from robustscope.data.datasets import load_data
from robustscope.data.layouts import layout

SIDE = 32 * 32 * 3


def sparse(path, *shape, dtype=np.uint8):
    """Write an array of zeros that takes no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """A CIFAR-10-C of zeros whose first picture of each severity says which it is."""
    folder = tmp_path_factory.mktemp("benchmarks") / "CIFAR-10-C"
    for value, name in ((10, "fog"), (20, "gaussian_noise")):
        rows = sparse(folder / f"{name}.npy", 5 * ROWS, 32, 32, 3)
        for severity in range(5):
            rows[severity * ROWS, :, :, 1] = value + severity + 1
            rows[severity * ROWS + ROWS - 1, 0, 31, 2] = 100 + severity + 1
    np.save(folder / "labels.npy", np.tile(np.arange(ROWS) % 10, 5))
    return folder


# CIFAR-10-C, CIFAR-100-C, MNIST-C -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), [("fog", 10), ("gaussian_noise", 20)])
@pytest.mark.parametrize("severity", [1, 3, 5])
def test_a_severity_is_its_block_of_rows(cifar, name, value, severity):
    data = load_data(f"cifar10c:{cifar}#{name}_{severity}")
    assert (len(data), data.shape, data.num_classes) == (ROWS, (3, 32, 32), 10)
    assert data.class_names is not None
    assert data.class_names[0] == "airplane"
    first, last = (data.read([0, ROWS - 1]) * 255).round()
    assert first[:, 5, 5].tolist() == [0, value + severity, 0]
    assert last[:, 0, 31].tolist() == [0, 0, 100 + severity]
    assert data.labels[:12].tolist() == [*range(10), 0, 1]


def test_without_a_severity_all_five_are_read(cifar):
    data = load_data(f"cifar10c:{cifar}#fog")
    assert len(data) == 5 * ROWS
    firsts = data.read([k * ROWS for k in range(5)])[:, 1, 0, 0] * 255
    assert firsts.round().tolist() == [11, 12, 13, 14, 15]


def test_cifar_100_has_a_hundred_classes(cifar, tmp_path):
    sparse(tmp_path / "fog.npy", 5 * ROWS, 32, 32, 3)
    np.save(tmp_path / "labels.npy", np.tile(np.arange(ROWS) % 100, 5))
    data = load_data(f"cifar100c:{tmp_path}#fog_2")
    assert (len(data), data.num_classes, data.labels.max()) == (ROWS, 100, 99)
    np.save(tmp_path / "labels.npy", np.tile(np.arange(ROWS) % 101, 5))
    with pytest.raises(BadFile, match="0 to 99"):
        load_data(f"cifar100c:{tmp_path}#fog_2")


def test_mnist_c_is_read_by_folder(tmp_path):
    for name, mark in (("fog", 7), ("identity", 9)):
        images = sparse(tmp_path / name / "test_images.npy", 10_000, 28, 28, 1)
        images[3, 2, 1] = mark
        np.save(tmp_path / name / "test_labels.npy", np.arange(10_000) % 10)
    sparse(tmp_path / "fog" / "train_images.npy", 60_000, 28, 28, 1)
    np.save(tmp_path / "fog" / "train_labels.npy", np.arange(60_000) % 10)
    for name, mark in (("fog", 7), ("identity", 9)):
        data = load_data(f"mnistc:{tmp_path}#{name}")
        assert (len(data), data.shape, data.num_classes) == (10_000, (1, 28, 28), 10)
        assert float(data.read([3])[0, 0, 2, 1] * 255) == pytest.approx(mark)
    assert len(load_data(f"mnistc:{tmp_path}#fog_train")) == 60_000


def _folder_of(t, rows=5 * ROWS, labels=None, shape=(32, 32, 3), dtype=np.uint8):
    sparse(t / "fog.npy", rows, *shape, dtype=dtype)
    np.save(t / "labels.npy", np.tile(np.arange(ROWS) % 10, 5) if labels is None else labels)
    return f"cifar10c:{t}#fog_1"


def _objects(t):
    text = _folder_of(t)
    np.save(t / "fog.npy", np.asarray([{}], dtype=object), allow_pickle=True)
    return text


def _cut(t):
    text = _folder_of(t)
    with (t / "fog.npy").open("r+b") as file:
        file.truncate(1000)
    return text


FAULTS = {
    "one severity only": (lambda t: _folder_of(t, rows=ROWS), BadFile, "50000 x 32 x 32 x 3"),
    "channels first": (lambda t: _folder_of(t, shape=(3, 32, 32)), BadFile, "as published"),
    "floats": (lambda t: _folder_of(t, dtype=np.float32), BadFile, "uint8"),
    "few labels": (lambda t: _folder_of(t, labels=np.arange(ROWS) % 10), BadFile, "50000 samples but 10000"),
    "shuffled labels": (lambda t: _folder_of(t, labels=np.arange(5 * ROWS) // 7 % 10), BadFile, "other severities"),
    "unknown corruption": (lambda t: _folder_of(t).replace("fog_1", "frog_1"), InvalidValue, "Did you mean 'fog'"),
    "severity 6": (lambda t: _folder_of(t).replace("fog_1", "fog_6"), InvalidValue, "'fog_6'"),
    "none named": (lambda t: _folder_of(t).replace("#fog_1", ""), InvalidValue, "no corruption of"),
    "empty": (lambda t: f"cifar10c:{t}#fog", BadFile, "holds no corruption"),
    "absent": (lambda t: f"cifar10c:{t}/nowhere#fog", MissingFile, "does not exist"),
    "objects": (_objects, UnsafeFile, "Python objects"),
    "truncated": (_cut, BadFile, "could not be read"),
    "no mnist": (lambda t: f"mnistc:{t}#fog", BadFile, "holds no corruption"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(fault, tmp_path):
    make, kind, match = FAULTS[fault]
    with pytest.raises(kind, match=match) as caught:
        load_data(make(tmp_path))
    assert isinstance(caught.value, RobustscopeError)
    assert_three_parts(caught.value)


# Classes by WordNet id ------------------------------------------------------------------------------------------------


def wnid(k: int) -> str:
    return f"n{k:08d}"


def picture(path, value, height=6, width=6):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (value, 0, 0)).save(path)


def test_classes_are_numbered_as_the_list_says(tmp_path):
    for k in (7, 2, 5):
        picture(tmp_path / "set" / wnid(k) / "a.png", k)
    listed = tmp_path / "all.txt"
    listed.write_text("".join(f"{wnid(k)} some name\n" for k in (9, 7, 5, 3, 2)), encoding="utf-8")
    data = load_data(f"wnids:{tmp_path / 'set'},{listed}")
    assert data.num_classes == 5
    values = (data.read(range(3))[:, 0, 0, 0] * 255).round().int().tolist()
    assert dict(zip(values, data.labels.tolist(), strict=True)) == {2: 4, 5: 2, 7: 1}
    for k in range(2, 10):  # a folder of all classes is a list too
        (tmp_path / "whole" / wnid(k)).mkdir(parents=True)
    data = load_data(f"wnids:{tmp_path / 'set'},{tmp_path / 'whole'}")
    assert (data.labels.tolist(), data.num_classes) == ([0, 3, 5], 8)


def test_two_hundred_folders_need_no_list_and_map_into_a_thousand(tmp_path):
    subset = [wnid(5 * k) for k in range(200)]
    for name in subset:
        picture(tmp_path / name / "a.png", 1)
    data = load_data(f"wnids:{tmp_path}")
    assert (data.labels.tolist(), data.num_classes) == (list(range(200)), 200)
    whole = [wnid(k) for k in range(1000)]
    assert data.class_names is not None
    found = positions(data.class_names, whole)
    assert found.tolist() == list(range(0, 1000, 5))
    logits = torch.zeros(1, 1000)
    logits[0, 15], logits[0, 16] = 1.0, 2.0  # class 16 is not in the subset, and cannot win
    assert int(logits[:, found].argmax()) == 3
    with pytest.raises(InvalidValue, match="1 of 2 classes are not"):
        positions([wnid(3), wnid(1000)], whole)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (32, 32), (33, 97)])
def test_pictures_of_any_size_are_resized_and_cropped_as_torchvision_does(tmp_path, height, width):
    transforms = pytest.importorskip("torchvision.transforms")
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    (tmp_path / "set" / wnid(1)).mkdir(parents=True)
    Image.fromarray(noise).save(tmp_path / "set" / wnid(1) / "a.png")
    (tmp_path / "all.txt").write_text(wnid(1), encoding="utf-8")
    data = load_data(f"wnids:{tmp_path / 'set'},{tmp_path / 'all.txt'}?resize=32&crop=28")
    own = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(28), transforms.ToTensor()])
    assert torch.equal(data.read([0])[0], own(Image.fromarray(noise)))


def test_the_middle_is_cut_out(tmp_path):
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8, 0] = 255
    (tmp_path / "set" / wnid(1)).mkdir(parents=True)
    Image.fromarray(wide).save(tmp_path / "set" / wnid(1) / "a.png")
    (tmp_path / "all.txt").write_text(wnid(1), encoding="utf-8")
    x = load_data(f"wnids:{tmp_path / 'set'},{tmp_path / 'all.txt'}?resize=4&crop=4").read([0])
    assert x[0, 0].min() == 1.0
    assert x[0, 1:].max() == 0.0


def test_faults_of_classes_are_named(tmp_path):
    picture(tmp_path / "set" / wnid(1) / "a.png", 1)
    picture(tmp_path / "set" / wnid(2) / "a.png", 1, height=7)
    (tmp_path / "all.txt").write_text(f"{wnid(1)}\n{wnid(2)}\n", encoding="utf-8")
    (tmp_path / "twice.txt").write_text(f"{wnid(1)}\n{wnid(1)}\n", encoding="utf-8")
    (tmp_path / "words.txt").write_text("tench\n", encoding="utf-8")
    (tmp_path / "short.txt").write_text(wnid(1), encoding="utf-8")
    (tmp_path / "set2" / wnid(1)).mkdir(parents=True)
    picture(tmp_path / "set3" / "tench" / "a.png", 1)
    for text, match in (
        ("set", "no list of all classes"),
        ("set,all.txt", "6 x 6"),
        ("set,all.txt#test", "no split"),
        ("set,all.txt?resize=224&crop=256", "M <= N"),
        ("set,all.txt?size=224", "M <= N"),
        ("set,twice.txt", f"{wnid(1)} twice"),
        ("set,words.txt", "'tench'"),
        ("set,short.txt", "1 of 2 classes are not"),
        ("set,nowhere.txt", "does not exist"),
        ("set2,all.txt", "holds no pictures"),
        ("set3,all.txt", "'tench'"),
        ("all.txt", "is a file"),
    ):
        with pytest.raises(RobustscopeError, match=match) as caught:
            load_data("wnids:" + ",".join(f"{tmp_path}/{part}" for part in text.split(",")))
        assert_three_parts(caught.value)
    assert read_wnids(tmp_path / "all.txt") == [wnid(1), wnid(2)]


# Sequences ------------------------------------------------------------------------------------------------------------


def test_sequences_come_in_the_form_of_perturb(tmp_path):
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made = perturb("brightness", x, constants="cifar-10-p")
    stored = (made * 255).round().byte().permute(0, 1, 3, 4, 2).contiguous().numpy()
    np.save(tmp_path / "brightness.npy", stored)
    for i, frames in enumerate(stored):
        folder = tmp_path / "frames" / wnid(i) / "sequence"
        folder.mkdir(parents=True)
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / f"frame{number}.png")  # frame10 is the tenth, not the second
    for place in ("brightness.npy", "frames"):
        found = Sequences(tmp_path / place)
        assert (len(found), found.frames, found.shape) == (3, made.shape[1], (3, 32, 32))
        assert torch.equal(found.read([2, 0]), made[[2, 0]])
        with pytest.raises(InvalidValue, match="0 to 2") as caught:
            found.read([3])
        assert_three_parts(caught.value)


def test_faults_of_sequences_are_named(tmp_path):
    np.save(tmp_path / "flat.npy", np.zeros((4, 32, 32, 3), np.uint8))
    np.save(tmp_path / "one.npy", np.zeros((4, 1, 8, 8, 3), np.uint8))
    for k in range(3):
        picture(tmp_path / "uneven" / "a" / f"{k}.png", k)
    picture(tmp_path / "uneven" / "b" / "0.png", 1)
    (tmp_path / "none").mkdir()
    for name, match in (
        ("flat.npy", "any x any"),
        ("one.npy", "two or more"),
        ("uneven", "1 and 3 frames"),
        ("none", "no frames"),
        ("nowhere", "does not exist"),
    ):
        with pytest.raises(RobustscopeError, match=match) as caught:
            Sequences(tmp_path / name)
        assert_three_parts(caught.value)


# Which benchmark a folder holds ---------------------------------------------------------------------------------------


def test_a_layout_is_told_by_the_folder(cifar, tmp_path):
    found = layout(str(cifar))
    assert list(found.parts) == [(name, k) for name in ("fog", "gaussian_noise") for k in range(1, 6)]
    assert found.parts["fog", 3] == f"cifar10c:{cifar}#fog_3"
    assert (found.name, found.sequences) == ("CIFAR-10-C", False)
    for name in ("identity", "fog"):
        sparse(tmp_path / "m" / name / "test_images.npy", 10_000, 28, 28, 1)
    assert layout(str(tmp_path / "m")).parts == {
        ("clean", 0): f"mnistc:{tmp_path / 'm'}#identity",
        ("fog", 1): f"mnistc:{tmp_path / 'm'}#fog",
    }
    sparse(tmp_path / "p" / "tilt.npy", 3, 31, 8, 8, 3)
    assert layout(str(tmp_path / "p")).parts == {("tilt", 0): str(tmp_path / "p" / "tilt.npy")}
    assert layout(str(tmp_path / "p")).sequences
    for place in ("c/fog/1/n00000001", "c/fog/2/n00000001", "c/blur/zoom_blur/3/dog", "r/n00000001", "r/n00000002"):
        picture(tmp_path / place / "1.png", 7, 8, 8)
    pictures = layout(f"{tmp_path / 'c'}?resize=8&crop=6").parts
    assert list(pictures) == [("zoom_blur", 3), ("fog", 1), ("fog", 2)]
    assert pictures["zoom_blur", 3] == f"folder:{tmp_path / 'c' / 'blur' / 'zoom_blur' / '3'}"
    fog = tmp_path / "c" / "fog" / "1"
    assert pictures["fog", 1] == f"wnids:{fog},{fog}?resize=8&crop=6"
    assert load_data(pictures["fog", 1]).shape == (3, 6, 6)
    assert list(layout(str(tmp_path / "r")).parts) == [("r", 1)]


def test_faults_of_a_layout_are_named(cifar, tmp_path):
    (tmp_path / "empty").mkdir()
    sparse(tmp_path / "flat" / "fog.npy", 4, 8, 8, 3)
    for text, kind, match in (
        (str(tmp_path / "nowhere"), MissingFile, "does not exist"),
        (str(tmp_path / "empty"), BadFile, "no benchmark that is known"),
        (str(cifar / "fog.npy"), BadFile, "no benchmark that is known"),
        (str(tmp_path / "flat"), BadFile, "no labels.npy beside it"),
        (f"{cifar}?resize=8&crop=6", InvalidValue, "resize=8&crop=6 was given"),
    ):
        with pytest.raises(kind, match=match) as caught:
            layout(text)
        assert_three_parts(caught.value)
