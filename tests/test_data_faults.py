"""The data room: every fault in files, tensors and selections is named; subsets are random, nested and stratified."""

import os
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import data_factory as make
from data_factory import NAMES, X, Y
from robustscope.core.errors import (
    BadFile,
    InvalidType,
    InvalidValue,
    MissingFile,
    RobustscopeError,
    UnknownName,
    UnsafeFile,
)
from robustscope.data.datasets import from_pairs, from_tensors, load_data, select

# Faults ---------------------------------------------------------------------------------------------------------------


def _idx_with(t, prefix="t10k", x=None, y=None, cut=0, **flags):
    x = make.pixels(6, 4, 4) if x is None else x
    make.write_idx(t, prefix, x, make.classes(6, 3) if y is None else y, **flags)
    if cut:
        file = next(iter(sorted(t.iterdir())))
        body = file.read_bytes()
        file.write_bytes(body[:cut] if cut < 0 else body + b"x" * cut)
    return f"mnist:{t}"


def _file(t, body, name):
    (t / name).write_bytes(body)
    return t / name


def _savez(t, **arrays):
    np.savez(t / "a.npz", **arrays)
    return f"npz:{t / 'a.npz'}"


def _nan(t):
    x = np.zeros((4, 3))
    x[2, 1] = np.nan
    return _savez(t, x=x, y=np.arange(4))


def _late_nan(t):
    x = np.zeros((4, 3))
    x[2, 1] = np.nan
    np.save(t / "x.npy", x)
    np.save(t / "y.npy", np.arange(4))
    return f"npy:{t}"


def _object_npy(t):
    np.save(t / "x.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    np.save(t / "y.npy", np.arange(2))
    return f"npy:{t}"


def _cut_npy(t):
    make.as_npy(t)
    _file(t, (t / "x.npy").read_bytes()[:-9], "x.npy")
    return f"npy:{t}"


def _sizes(t):
    make.write_pictures(t, X[:2], [0, 1], NAMES)
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(t / "ant" / "odd.png")
    return f"folder:{t}"


def _alpha(t):
    (t / "ant").mkdir()
    Image.fromarray(np.zeros((5, 7, 4), np.uint8)).save(t / "ant" / "a.png")
    return f"folder:{t}"


def _cut_picture(t):
    make.write_pictures(t, X[:2], [0, 1], NAMES)
    file = t / "bee" / "0001.png"
    file.write_bytes(file.read_bytes()[:-900])
    return f"folder:{t}"


def _empty_class(t):
    make.write_pictures(t, X[:2], [0, 1], NAMES)
    (t / "cow").mkdir()
    return f"folder:{t}"


def _pq(t, rows, columns, options=""):
    return f"parquet:{make.write_parquet(t / 'a.parquet', rows, columns)}{options}"


def _cut_parquet(t):
    _pq(t, [(0, [1.0])], "y INT, x FLOAT[]")
    return f"parquet:{_file(t, (t / 'a.parquet').read_bytes()[:-20], 'b.parquet')}"


TAR = {"cifar-10-batches-bin/test_batch.bin": make.records(X, Y)}
FAULTS = {
    "unknown source": (lambda t: "minst:x", UnknownName, "Did you mean 'mnist'"),
    "no text": (lambda t: 3, InvalidType, "from_tensors"),
    "empty text": (lambda t: " ", InvalidValue, "SOURCE:PATH"),
    "no path": (lambda t: "mnist", InvalidValue, "no path"),
    "digits with a path": (lambda t: "digits:x", InvalidValue, "no path"),
    "unknown split": (lambda t: "digits#valid", InvalidValue, "#train or #test or #all"),
    "missing folder": (lambda t: f"mnist:{t / 'none'}", MissingFile, "does not exist"),
    "missing split": (lambda t: _idx_with(t) + "#train", BadFile, "found: t10k"),
    "folder without pairs": (lambda t: f"fashion:{t}", BadFile, "found: none"),
    "one idx file": (lambda t: f"idx:{t}", InvalidValue, "IMAGES,LABELS"),
    "idx truncated": (lambda t: _idx_with(t, cut=-1), BadFile, "truncated"),
    "idx too long": (lambda t: _idx_with(t, cut=1), BadFile, "truncated or damaged"),
    "idx gzip truncated": (lambda t: _idx_with(t, cut=-9, gz=True), BadFile, "could not be decompressed"),
    "idx wrong magic": (
        lambda t: f"idx:{_file(t, b'PK' * 30, 'x')},{_file(t, b'PK', 'y')}", BadFile, "begins with bytes 50 4b"
    ),
    "idx of floats": (
        lambda t: f"idx:{_file(t, bytes([0, 0, 13, 1, 0, 0, 0, 1]) + bytes(4), 'x')},{t / 'x'}", BadFile, "unsigned bytes"
    ),
    "idx gzip without its ending": (
        lambda t: f"idx:{_file(t, __import__('gzip').compress(make.idx_bytes(X[:, 0])), 'x')},{t / 'x'}", BadFile, "1f 8b"
    ),
    "idx counts": (lambda t: _idx_with(t, y=make.classes(5, 3)), BadFile, "6 samples but 5 labels"),
    "idx labels": (lambda t: _idx_with(t, y=np.full(6, 10)), BadFile, "labels from 10 to 10"),
    "idx empty": (lambda t: _idx_with(t, x=np.zeros((0, 4, 4)), y=np.zeros(0)), BadFile, "no values"),
    "idx files swapped": (
        lambda t: f"idx:{_idx_with(t) and t}/t10k-labels-idx1-ubyte,{t}/t10k-images-idx3-ubyte", BadFile, "one dimension"
    ),
    "cifar truncated": (lambda t: f"cifar10:{_file(t, make.records(X, Y)[:-1], 'a.bin')}", BadFile, "3073 bytes"),
    "cifar empty": (lambda t: f"cifar10:{_file(t, b'', 'a.bin')}", BadFile, "0 bytes"),
    "cifar labels": (lambda t: f"cifar10:{_file(t, make.records(X, Y + 8), 'a.bin')}", BadFile, "0 to 9"),
    "cifar split of a file": (lambda t: make.as_record_file(t) + "#train", InvalidValue, "single file"),
    "cifar folder empty": (lambda t: f"cifar10:{t}", BadFile, "no whole test split"),
    "cifar archive without the split": (lambda t: make.as_binary_archive(t) + "#train", BadFile, "no whole train split"),
    "cifar archive truncated": (
        lambda t: f"cifar10:{_file(t, make.write_tar(t / 'c.tar.gz', TAR).read_bytes()[:9000], 'd.tar.gz')}",
        BadFile, "could not be unpacked",
    ),
    "cifar archive of something else": (lambda t: f"cifar10:{_file(t, b'hello', 'd.tar.xz')}", BadFile, "unpacked"),
    "batch truncated": (lambda t: f"cifar10:{_file(t, make.batch(X, Y)[:-50], 'test_batch').parent}", BadFile, "whole Python"),
    "batch of something else": (
        lambda t: f"cifar10:{_file(t, pickle.dumps([1, 2]), 'test_batch').parent}", BadFile, "no image array"
    ),
    "batch labels": (
        lambda t: f"cifar10:{_file(t, make.batch(X, Y[:-1]), 'test_batch').parent}", BadFile, "12 samples but 11 labels"
    ),
    "folder is a file": (lambda t: f"folder:{_file(t, b'', 'f')}", BadFile, "is a file"),
    "folder without classes": (lambda t: f"folder:{t}", BadFile, "no sub-folders"),
    "folder with an empty class": (_empty_class, BadFile, "holds no pictures"),
    "pictures of two sizes": (_sizes, BadFile, "5 x 7 pixels"),
    "pictures with alpha": (_alpha, BadFile, "'RGBA'"),
    "picture truncated": (_cut_picture, BadFile, "could not be decoded"),
    "folder without the split": (lambda t: make.as_split_folder(t) + "#val", BadFile, "#test, #train"),
    "npz is text": (lambda t: f"npz:{_file(t, b'hello', 'a.npz')}", BadFile, r"no \.npz"),
    "npz is a pickle": (lambda t: f"npz:{_file(t, pickle.dumps([1]), 'a.npz')}", BadFile, r"no \.npz"),
    "npz keys": (lambda t: _savez(t, a=X, y=Y), BadFile, "holds a, y"),
    "npz split": (lambda t: _savez(t, x=X, y=Y) + "#train", BadFile, "x_train"),
    "npz objects": (lambda t: _savez(t, x=np.array([{}, 1], dtype=object), y=[0, 1]), UnsafeFile, "Python objects"),
    "npz NaN": (_nan, BadFile, "1 sample.* number 2"),
    "npz integers": (lambda t: _savez(t, x=X.astype(int), y=Y), BadFile, "dtype int64"),
    "npz float labels": (lambda t: _savez(t, x=X, y=Y.astype(float)), BadFile, "labels of dtype float64"),
    "npz one-hot labels": (lambda t: _savez(t, x=X, y=np.eye(3, dtype=int)[Y]), BadFile, "one-hot"),
    "npz negative labels": (lambda t: _savez(t, x=X, y=Y - 1), BadFile, "labels from -1"),
    "npz empty": (lambda t: _savez(t, x=X[:0], y=Y[:0]), BadFile, "no samples"),
    "npz too few names": (lambda t: _savez(t, x=X, y=Y, class_names=["a"]), BadFile, "0 to 0"),
    "npy objects": (_object_npy, UnsafeFile, "Python objects"),
    "npy truncated": (_cut_npy, BadFile, "could not be read"),
    "npy NaN when read": (_late_nan, BadFile, "number 2"),
    "parquet truncated": (_cut_parquet, BadFile, "could not be read"),
    "parquet columns": (lambda t: _pq(t, [(0, [1.0])], "a INT, b FLOAT[]"), BadFile, "columns a, b"),
    "parquet column asked": (lambda t: _pq(t, [(0, [1.0])], "y INT, x FLOAT[]", "?x=z"), BadFile, "z is expected"),
    "parquet option": (lambda t: _pq(t, [(0, [1.0])], "y INT, x FLOAT[]", "?shap=1"), UnknownName, "'shape'"),
    "parquet shape": (lambda t: _pq(t, [(0, [1.0])], "y INT, x FLOAT[]", "?shape=3,2"), BadFile, "have 1 values"),
    "parquet shape text": (lambda t: _pq(t, [(0, [1.0])], "y INT, x FLOAT[]", "?shape=3x2"), InvalidValue, "3x2"),
    "parquet ragged": (lambda t: _pq(t, [(0, [1.0]), (1, [1.0, 2.0])], "y INT, x FLOAT[]"), BadFile, "row 1"),
    "parquet gap": (lambda t: _pq(t, [(0, [1.0]), (1, [None])], "y INT, x FLOAT[]"), BadFile, "gaps"),
    "parquet NaN": (lambda t: _pq(t, [(0, [float("nan")])], "y INT, x FLOAT[]"), BadFile, "number 0"),
    "parquet label gap": (lambda t: _pq(t, [(0, [1.0]), (None, [1.0])], "y INT, x FLOAT[]"), BadFile, "without a label"),
    "parquet texts": (lambda t: _pq(t, [(0, "a")], "y INT, x VARCHAR"), BadFile, "VARCHAR"),
    "parquet empty": (lambda t: _pq(t, [], "y INT, x FLOAT[]"), BadFile, "no samples"),
    "parquet folder empty": (lambda t: f"parquet:{t}", BadFile, "no .parquet"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(name, tmp_path):
    write, kind, phrase = FAULTS[name]
    spec: Any = write(tmp_path)

    def load_and_read():  # Faults inside samples show when they are read.
        data = load_data(spec)
        data.read(range(len(data)))

    with pytest.raises(kind, match=phrase) as caught:
        load_and_read()
    assert type(caught.value) is kind
    assert all((caught.value.given, caught.value.allowed or caught.value.remedy, caught.value.remedy))


TENSOR_FAULTS = [
    (np.zeros((0, 3)), [], InvalidValue, "no samples"),
    (torch.zeros(3), [0, 0, 0], InvalidValue, "batch dimension"),
    (torch.zeros(3, 2, dtype=torch.int64), [0, 0, 0], InvalidType, "int64"),
    (torch.zeros(3, 2), [0, 1], InvalidValue, "3 samples but 2 labels"),
    (torch.zeros(3, 2), [0.0, 1.0, 0.0], InvalidValue, "float64"),
    (torch.zeros(3, 2), [0, -1, 0], InvalidValue, "-1"),
    (torch.zeros(3, 2), [0, 2, 0], InvalidValue, "0 to 1"),
    (torch.full((3, 2), torch.inf), [0, 1, 0], InvalidValue, "infinite"),
    (np.array([["a"]]), [0], InvalidType, "numbers"),
]


@pytest.mark.parametrize(("x", "y", "kind", "phrase"), TENSOR_FAULTS)
def test_faults_in_tensors_are_named(x, y, kind, phrase):
    with pytest.raises(kind, match=phrase):
        from_tensors(x, y, class_names=["a", "b"])


def test_faults_in_pairs_are_named():
    with pytest.raises(InvalidType, match="length"):
        from_pairs(iter([(torch.zeros(2), 0)]))
    with pytest.raises(InvalidType, match="item 1"):
        from_pairs([(torch.zeros(2), 0), torch.zeros(2)])
    with pytest.raises(InvalidValue, match="no samples"):
        from_pairs([])
    with pytest.raises(InvalidValue, match="sample 1"):
        from_pairs([(torch.zeros(2), 0), (torch.zeros(3), 1)]).read([1])


def test_a_file_that_shrinks_after_opening_is_an_error(tmp_path):
    data = load_data(make.as_record_file(tmp_path))
    (tmp_path / "some.bin").write_bytes(b"\0" * 3073)
    with pytest.raises(BadFile, match="could not be read"):
        data.read([5])


class _Bomb:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_the_code_in_a_python_batch_does_not_run(tmp_path):
    trace = tmp_path / "ran"
    for k, call in enumerate(
        [(os.mkdir, str(trace)), (eval, f"__import__('os').mkdir({str(trace)!r})"), (np.save, str(trace), X)]
    ):
        bomb = pickle.dumps(
            {b"data": X.reshape(len(X), -1), b"labels": [0] * len(Y), b"more": _Bomb(*call)}, protocol=2
        )
        (tmp_path / "test_batch").write_bytes(bomb)
        with pytest.raises(UnsafeFile, match="asks for"):
            load_data(f"cifar10:{tmp_path}")
        assert not list(tmp_path.glob("ran*"))
        if k == 0:  # The bomb is real: the ordinary reader sets it off.
            pickle.loads(bomb)
            assert trace.is_dir()
            trace.rmdir()


def test_errors_can_be_caught_as_one():
    with pytest.raises(RobustscopeError):
        load_data("nothing:here")


# Selection ------------------------------------------------------------------------------------------------------------

IMBALANCED = from_tensors(np.zeros((700, 1)), np.repeat([0, 1, 2], [500, 150, 50]))


def test_named_selections():
    assert select(IMBALANCED, "all", 0) == list(range(700))
    assert select(IMBALANCED, "5:9", 0) == [5, 6, 7, 8]
    assert select(IMBALANCED, "698:", 0) == [698, 699]
    assert select(IMBALANCED, " ids: 8,3,5 ", 0) == [8, 3, 5]
    assert select(IMBALANCED, 700, 0) == list(range(700))


@pytest.mark.parametrize("seed", range(5))
def test_subsets_are_nested_and_stratified_and_no_prefix(seed):
    share, before = np.array([500, 150, 50]) / 700, set()
    for count in range(1, 700, 7):
        ids = select(IMBALANCED, str(count), seed)
        assert ids == sorted(set(ids))
        assert len(ids) == count
        assert before <= set(ids)
        assert np.abs(np.bincount(IMBALANCED.labels[ids], minlength=3) - share * count).max() <= 1.5
        before = set(ids)
    firsts = {tuple(select(IMBALANCED, "70", s)) for s in range(5)}
    assert len(firsts) == 5
    assert select(IMBALANCED, "70", seed) == select(IMBALANCED, "70", seed)
    assert max(select(IMBALANCED, "70", seed)) > 600


def test_small_subsets_do_not_lean_to_low_ids():
    """Mean of 3 uniform ids of 1,000, over 40 seeds: 500 +- 26; five standard deviations are allowed."""
    data = from_tensors(np.zeros((1000, 1)), np.arange(1000) % 10)
    ids = [i for seed in range(40) for i in select(data, "3", seed)]
    assert abs(np.mean(ids) - 499.5) < 130


def test_every_sample_of_a_class_is_as_likely():
    """10 of 40 samples, 400 seeds: each is drawn 100 +- 8.7 times; five standard deviations allow for 40 looks."""
    data = from_tensors(np.zeros((40, 1)), np.zeros(40, int))
    drawn = np.bincount(np.concatenate([select(data, "10", seed) for seed in range(400)]), minlength=40)
    assert np.abs(drawn - 100).max() < 44


BAD_TEXTS = [
    "",
    "0",
    "701",
    "-5",
    "some",
    "5:5",
    "9:5",
    "0:701",
    "1:2:3",
    "-3:",
    "ids:",
    "ids:700",
    "ids:3,3",
    "ids:a",
    "1.5",
]


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_bad_selections_are_refused(text):
    with pytest.raises(InvalidValue) as caught:
        select(IMBALANCED, text, 0)
    assert caught.value.allowed
    assert caught.value.remedy
