"""Bad inputs at the Python doors: each is one clear error of three parts, and nothing half-written looks whole."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import robustscope
from doors import STANDARD, Net, X, Y, assert_nothing_whole, assert_three_parts, attacked, evaluated, raises
from robustscope.core.errors import (
    BadFile,
    InvalidType,
    InvalidValue,
    MissingFile,
    ModelError,
    RobustscopeError,
    StoreError,
    UnknownName,
    UnsafeFile,
)
from robustscope.core.types import Bounds, ThreatModel
from robustscope.models.classifier import Classifier

Row = tuple[str, Any, type[RobustscopeError], str, str]  # name, call, type of error, what was given, remedy


def named(rows: list[Row]) -> list[Any]:
    """Give each row its name as the id of its test."""
    return [pytest.param(*row, id=row[0]) for row in rows]


class FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, *gradients):
        raise ValueError("no way back")


def spoilt(value: float) -> Net:
    net = Net()
    net.layer.weight.data[0, 0] = value
    return net


# Models that cannot be evaluated --------------------------------------------------------------------------------------

CAST = [
    ("tuple", lambda z, x: (z, x), "returned tuple", "one row of logits"),
    ("dictionary", lambda z, x: {"logits": z}, "returned dict", "one row of logits"),
    ("none", lambda z, x: None, "returned NoneType", "one row of logits"),
    ("array", lambda z, x: z.detach().numpy(), "returned ndarray", "one row of logits"),
    ("3-D logits", lambda z, x: z[:, None], "returned (8, 1, 10)", "one row of logits"),
    ("1-D logits", lambda z, x: z[:, 0], "returned (8,)", "one row of logits"),
    ("wrong batch", lambda z, x: z[:1], "returned (1, 10)", "one row of logits"),
    ("integer logits", lambda z, x: z.long(), "returned torch.int64", "before any rounding"),
    ("boolean logits", lambda z, x: z > 0, "returned torch.bool", "before any rounding"),
    ("complex logits", lambda z, x: z.to(torch.complex64), "returned torch.complex64", "before any rounding"),
    ("sparse logits", lambda z, x: z.to_sparse(), "sparse_coo", "before any rounding"),
    ("meta logits", lambda z, x: z.to("meta"), "on meta", "where the inputs are"),
    ("NaN logits", lambda z, x: z * float("nan"), "NaN or infinite logits for 8 of 8", "overflow"),
    ("infinite logits", lambda z, x: z / 0.0, "NaN or infinite logits", "division by zero"),
    ("raises ValueError", raises(ValueError("boom")), "raised ValueError", "trained on"),
    ("raises KeyError", raises(KeyError("k")), "raised KeyError", "trained on"),
    ("raises RuntimeError", raises(RuntimeError("boom")), "boom", "trained on"),
]
MODELS: list[Row] = [
    *((name, lambda t, f=f: evaluated(t, Net(f)), ModelError, given, remedy) for name, f, given, remedy in CAST),
    ("one output", lambda t: evaluated(t, Net(lambda z, x: z[:, :1])), InvalidValue, "1 output", "torch.stack"),
    ("no output", lambda t: evaluated(t, Net(lambda z, x: z[:, :0])), InvalidValue, "0 output", "torch.stack"),
    ("softmax", lambda t: evaluated(t, Net(lambda z, x: z.softmax(1))), InvalidValue, "probabilit", "final softmax"),
    ("nine classes", lambda t: evaluated(t, Net(classes=9)), InvalidValue, "0 to 9", "model's order"),
    ("wrong input size", lambda t: evaluated(t, nn.Linear(63, 10).eval()), ModelError, "(8, 1, 8, 8)", "trained on"),
    ("half-precision model", lambda t: evaluated(t, Net().half()), ModelError, "float32", "dtype"),
    ("double model", lambda t: evaluated(t, Net().double()), ModelError, "float32", "dtype"),
    ("train mode", lambda t: evaluated(t, Net().train()), InvalidValue, "training mode", "model.eval()"),
    ("NaN weight", lambda t: evaluated(t, spoilt(float("nan"))), InvalidValue, "'layer.weight'", "sound checkpoint"),
    ("infinite weight", lambda t: evaluated(t, spoilt(float("inf"))), InvalidValue, "'layer.weight'", "checkpoint"),
    ("meta weights", lambda t: evaluated(t, nn.Linear(64, 10, device="meta").eval()), InvalidValue, "meta", "weights"),
    ("function", lambda t: evaluated(t, lambda x: x), InvalidType, "a function was given", "network itself"),
    ("class", lambda t: evaluated(t, Net.__class__), InvalidType, "type was given", "network itself"),
    ("text", lambda t: evaluated(t, "net.json"), InvalidType, "str was given", "load_model"),
    ("no models", lambda t: evaluated(t, {}), InvalidValue, "no models", "at least one"),
    ("empty name", lambda t: evaluated(t, {"": Net()}), InvalidValue, "name ''", "short name"),
    ("name with newline", lambda t: evaluated(t, {"a\nb": Net()}), InvalidValue, "a\\nb", "short name"),
    ("name is a number", lambda t: evaluated(t, {1: Net()}), InvalidType, "name=1", "quotes"),
    ("mean alone", lambda t: evaluated(t, mean=(0.5,)), InvalidValue, "std=None", "Give both"),
    ("no means", lambda t: evaluated(t, mean=(), std=()), InvalidValue, "mean=()", "each channel"),
    ("mean is text", lambda t: evaluated(t, mean="a", std="b"), InvalidType, "mean='a'", "mean=(0.5,)"),
    ("std zero", lambda t: evaluated(t, mean=(0.5,), std=(0.0,)), InvalidValue, "std=(0.0,)", "each channel"),
    (
        "three means for grey",
        lambda t: evaluated(t, mean=(0,) * 3, std=(1,) * 3),
        InvalidValue,
        "3 channels",
        "channel",
    ),
    ("bounds swapped", lambda t: evaluated(t, bounds=(1, 0)), InvalidValue, "(1.0, 0.0)", "valid range"),
    ("bounds of one", lambda t: evaluated(t, bounds=(0,)), InvalidValue, "bounds=(0,)", "bounds=(0.0, 1.0)"),
    ("bounds of text", lambda t: evaluated(t, bounds=("a", "b")), InvalidValue, "('a', 'b')", "bounds=(0.0, 1.0)"),
    ("bounds NaN", lambda t: evaluated(t, bounds=(0, float("nan"))), InvalidValue, "nan", "valid range"),
    (
        "bounds beside a classifier",
        lambda t: evaluated(t, Classifier(Net()), bounds=(-1, 1)),
        InvalidValue,
        "bounds= was given beside a Classifier",
        "where the classifier is made",
    ),
]

# Data that cannot be evaluated ----------------------------------------------------------------------------------------


def tensors(folder: Path, x: Any = X, y: Any = Y):
    return evaluated(folder, data=(x, y), samples="all")


DATA: list[Row] = [
    ("labels of an 11th class", lambda t: tensors(t, y=Y + 5), InvalidValue, "labels from 5 to 10", "from 0"),
    ("negative label", lambda t: tensors(t, y=Y - 1), InvalidValue, "labels from -1", "from 0"),
    ("float labels", lambda t: tensors(t, y=Y.float()), InvalidValue, "float32", "class index"),
    ("one-hot labels", lambda t: tensors(t, y=nn.functional.one_hot(Y)), InvalidValue, "(6, 6)", "no one-hot"),
    ("boolean labels", lambda t: tensors(t, y=Y > 2), InvalidValue, "bool", "class index"),
    ("labels of text", lambda t: tensors(t, y=list("abcdef")), InvalidType, "labels of dtype", "Stack"),
    ("no labels", lambda t: tensors(t, y=None), InvalidType, "labels of dtype object", "Stack"),
    ("fewer labels", lambda t: tensors(t, y=Y[:3]), InvalidValue, "6 samples but 3 labels", "same split"),
    ("empty set", lambda t: tensors(t, X[:0], Y[:0]), InvalidValue, "no samples", "Check how"),
    ("no features", lambda t: tensors(t, X[:, :0]), ModelError, "(6, 0)", "trained on"),
    ("NaN input", lambda t: tensors(t, X * float("nan")), InvalidValue, "6 sample(s) hold NaN", "at the source"),
    ("inputs to 2", lambda t: tensors(t, X * 2), InvalidValue, "inputs in [0, 2]", "before normalisation"),
    ("inputs from -1", lambda t: tensors(t, X * 2 - 1), InvalidValue, "inputs in [-1, 1]", "declare other bounds"),
    ("int64 inputs", lambda t: tensors(t, (X * 255).long()), InvalidType, "int64", "uint8"),
    ("boolean inputs", lambda t: tensors(t, X > 0.5), InvalidType, "bool", "float32"),
    ("complex inputs", lambda t: tensors(t, X.to(torch.complex64)), InvalidType, "complex64", "float32"),
    ("sparse inputs", lambda t: tensors(t, X.to_sparse()), InvalidType, "make no array", "torch.stack"),
    ("meta inputs", lambda t: tensors(t, X.to("meta")), InvalidType, "make no array", "torch.stack"),
    ("no batch dimension", lambda t: tensors(t, X[:, 0]), InvalidValue, "(6,)", "x[None]"),
    ("ragged inputs", lambda t: tensors(t, [[1, 2], [3]], [0, 1]), InvalidType, "make no array", "torch.stack"),
    ("triple", lambda t: evaluated(t, data=(X, Y, Y)), InvalidType, "item 0 is Tensor", "x and y only"),
    ("no data", lambda t: evaluated(t, data=None), InvalidType, "NoneType", "list first"),
    ("generator", lambda t: evaluated(t, data=(pair for pair in zip(X, Y))), InvalidType, "generator", "list(stream)"),
    ("rows of dictionaries", lambda t: evaluated(t, data=[{"x": X[0]}]), InvalidType, "item 0 is dict", "x and y"),
    ("data misspelt", lambda t: evaluated(t, data="digit"), UnknownName, "'digit'", "Did you mean 'digits'"),
    ("split misspelt", lambda t: evaluated(t, data="digits#tests"), InvalidValue, "'tests'", "#train"),
    ("no such folder", lambda t: evaluated(t, data=f"mnist:{t}/none"), MissingFile, "none does not exist", "typing"),
    ("empty folder", lambda t: evaluated(t, data=f"folder:{t}"), BadFile, "no sub-folders", "by class"),
]

# Settings -------------------------------------------------------------------------------------------------------------

TWO = (X, Y % 2)
SETTINGS: list[Row] = [
    ("threat None", lambda t: evaluated(t, threat=None), InvalidType, "threat=None", "linf:8/255"),
    ("threat a number", lambda t: evaluated(t, threat=0.1), InvalidType, "threat=0.1", "linf:8/255"),
    ("no threats", lambda t: evaluated(t, threat=()), InvalidValue, "no threats", "at least one"),
    ("threat twice", lambda t: evaluated(t, threat=["linf:0.1", "linf:1/10"]), InvalidValue, "linf:0.1", "second"),
    (
        "threat of other bounds",
        lambda t: evaluated(t, threat=ThreatModel("linf", 0.1, Bounds(-1, 1))),
        InvalidValue,
        "bounds (-1.0, 1.0)",
        "bounds= in both",
    ),
    ("norm l0 for FGSM", lambda t: evaluated(t, threat="l0:3"), InvalidValue, "norm='l0'", "robustscope list"),
    ("infinite shift", lambda t: evaluated(t, threat="rotation-translation:9,inf"), InvalidValue, "=inf", "3 pixels"),
    (
        "patch and default suite",
        lambda t: evaluated(t, threat="patch:2,2"),
        InvalidValue,
        "'patch:2,2'",
        "choose among",
    ),
    ("radius beyond float32", lambda t: evaluated(t, threat="l2:1e300"), InvalidValue, "1e+300", "units of the bounds"),
    ("setting misspelt", lambda t: evaluated(t, sample="8"), UnknownName, "'sample'", "Did you mean 'samples'"),
    ("settings a dictionary", lambda t: evaluated(t, settings={"seed": 1}), InvalidType, "dict", "seed=1"),
    ("samples a list", lambda t: evaluated(t, samples=[1, 2]), InvalidType, "samples=[1, 2]", "quotes"),
    ("seed a float", lambda t: evaluated(t, seed=1.5), InvalidType, "seed=1.5", "whole number"),
    ("seed a flag", lambda t: evaluated(t, seed=True), InvalidType, "seed=True", "whole number"),
    ("shard size text", lambda t: evaluated(t, shard_size="4"), InvalidType, "shard_size='4'", "without quotes"),
    ("batch size 0", lambda t: evaluated(t, batch_size=0), InvalidValue, "batch_size=0", "default is 128"),
    ("a billion threads", lambda t: evaluated(t, threads=10**9), InvalidValue, "threads=1000000000", "default is 1"),
    ("curve a number", lambda t: evaluated(t, curve=0.5), InvalidType, "curve=0.5", "[brackets]"),
    ("curve of text", lambda t: evaluated(t, curve=("a",)), InvalidType, "curve[0]='a'", "a number"),
    ("curve negative", lambda t: evaluated(t, curve=(-1.0,)), InvalidValue, "curve=(-1.0,)", "factors of epsilon"),
    ("device unknown", lambda t: evaluated(t, device="tpux"), InvalidValue, "device='tpux'", "device='cpu'"),
    ("device meta", lambda t: evaluated(t, device="meta"), InvalidValue, "device='meta'", "device='cpu'"),
    ("device object", lambda t: evaluated(t, device=torch.device("cpu")), InvalidType, "device(type=", "quotes"),
    ("suite unknown", lambda t: evaluated(t, suite="basline"), UnknownName, "'basline'", "Did you mean 'baseline'"),
    ("suite and attacks", lambda t: evaluated(t, suite="fast", attacks="fgsm"), InvalidValue, "suite='fast'", "Leave"),
    ("attacks None", lambda t: evaluated(t, attacks=None), InvalidType, "attacks=None", "attacks=["),
    ("attack twice", lambda t: evaluated(t, attacks=["pgd", "pgd:steps=40"]), InvalidValue, "'pgd'", "nothing new"),
    ("attack of no steps", lambda t: evaluated(t, attacks="pgd:steps=0"), InvalidValue, "steps=0", "steps"),
    (
        "DLR with two classes",
        lambda t: evaluated(t, Net(classes=2), data=TWO, samples="all", attacks="pgd:loss=dlr"),
        InvalidValue,
        "model of 2 classes",
        "loss='margin'",
    ),
    ("out a number", lambda t: evaluated(t, out=3), InvalidType, "out=3", "out='runs/first'"),
    ("out below a file", lambda t: evaluated(t, out=file(t) / "run"), StoreError, "could not be made", "another --out"),
    ("out a file", lambda t: evaluated(t, out=file(t)), StoreError, "could not be made", "another --out"),
    ("out in /proc", lambda t: evaluated(t, out="/proc/run"), StoreError, "could not be made", "another --out"),
    ("out with other files", lambda t: evaluated(t, out=file(t).parent), InvalidValue, "other files", "another --out"),
]


def file(folder: Path) -> Path:
    """Put a file into a folder of its own; as root no folder is read-only, but nothing can be made below a file."""
    path = folder / "occupied" / "notes.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("not a run")
    return path


@pytest.mark.parametrize(("name", "call", "error", "given", "remedy"), named(MODELS + DATA + SETTINGS))
def test_evaluate_refuses(name, call, error, given, remedy, tmp_path):
    with pytest.raises(RobustscopeError) as caught:
        call(tmp_path)
    assert type(caught.value) is error, repr(caught.value)
    assert_three_parts(caught.value)
    assert given in str(caught.value)
    assert remedy in caught.value.remedy
    assert_nothing_whole(tmp_path)


# One attack on one batch ----------------------------------------------------------------------------------------------

Z = (Y + 1) % 10
ATTACKS: list[Row] = [
    ("attack unknown", lambda: attacked("fgms"), UnknownName, "'fgms'", "Did you mean 'fgsm'"),
    ("attack None", lambda: attacked(None), UnknownName, "None", "Available"),
    ("bare module", lambda: attacked(model=Net()), InvalidType, "model of type Net", "Classifier("),
    ("threat a number", lambda: attacked(threat=0.1), InvalidType, "threat of type float", "linf:8/255"),
    ("threat without radius", lambda: attacked(threat="linf"), InvalidValue, "'linf'", "linf:8/255"),
    ("threat without number", lambda: attacked(threat="linf:"), InvalidValue, "epsilon=''", "0.3"),
    ("norm in capitals", lambda: attacked(threat="Linf:0.1"), InvalidValue, "'Linf'", "lower case"),
    ("norm unknown", lambda: attacked(threat="l3:1"), InvalidValue, "'l3'", "norm="),
    ("radius negative", lambda: attacked(threat="linf:-0.1"), InvalidValue, "'-0.1'", "8/255"),
    ("radius NaN", lambda: attacked(threat="linf:nan"), InvalidValue, "'nan'", "8/255"),
    ("radius 8/0", lambda: attacked(threat="linf:8/0"), InvalidValue, "'8/0'", "8/255"),
    ("radius text", lambda: attacked(threat="linf:some"), InvalidValue, "'some'", "8/255"),
    ("two radii for six", lambda: attacked(threat=ThreatModel("l2", (1, 2))), InvalidValue, "2 radii", "tuple"),
    ("other bounds", lambda: attacked(threat=ThreatModel("l2", 1, Bounds(-1, 1))), InvalidValue, "(-1.0, 1.0)", "both"),
    ("x an array", lambda: attacked(x=X.numpy()), InvalidType, "ndarray", "x.float()"),
    ("x of bytes", lambda: attacked(x=X.to(torch.uint8)), InvalidType, "uint8", "/ 255"),
    ("x complex", lambda: attacked(x=X.to(torch.complex64)), InvalidType, "complex64", "x.float()"),
    ("x float16", lambda: attacked(x=X.half()), ModelError, "float16", "dtype"),
    ("x bfloat16", lambda: attacked(x=X.bfloat16()), ModelError, "bfloat16", "dtype"),
    ("x sparse", lambda: attacked(x=X.to_sparse()), InvalidType, "sparse_coo", "to_dense"),
    ("x meta", lambda: attacked(x=X.to("meta")), InvalidType, "meta", "real device"),
    ("x NaN", lambda: attacked(x=X * float("nan")), InvalidValue, "NaN", "Clean"),
    ("x to 3", lambda: attacked(x=X * 3), InvalidValue, "[0, 3]", "normalisation"),
    ("x one sample", lambda: attacked(x=X[0], y=Y[:1]), InvalidValue, "(64,)", "x[None]"),
    ("x requires grad", lambda: attacked(x=X.clone().requires_grad_()), InvalidValue, "gradients", "x.detach()"),
    ("x of another size", lambda: attacked(x=X[:, :5]), ModelError, "(1, 5)", "trained on"),
    ("y float", lambda: attacked(y=Y.float()), InvalidType, "float32", "y.long()"),
    ("y a list", lambda: attacked(y=Y.tolist()), InvalidType, "list", "y.long()"),
    ("y a column", lambda: attacked(y=Y[:, None]), InvalidValue, "(6, 1)", "class index"),
    ("y short", lambda: attacked(y=Y[:3]), InvalidValue, "(3,)", "class index"),
    ("y of class 10", lambda: attacked(y=Y + 5), InvalidValue, "5 to 10", "model's order"),
    ("targets short", lambda: attacked(targets=Z[:3]), InvalidValue, "targets of shape (3,)", "class index"),
    ("targets of class 10", lambda: attacked(targets=Z + 5), InvalidValue, "targets from", "model's order"),
    ("targets a number", lambda: attacked(targets=3), InvalidType, "targets of type int", "long()"),
    ("parameter misspelt", lambda: attacked(stepz=3), UnknownName, "'stepz'", "Did you mean 'steps'"),
    ("bim of no steps", lambda: attacked("bim", steps=0), InvalidValue, "steps=0", "steps"),
    ("bim of text steps", lambda: attacked("bim", steps="3"), InvalidType, "steps='3'", "Correct"),
    ("no restarts", lambda: attacked(restarts=0), InvalidValue, "restarts=0", "restarts"),
    ("negative step", lambda: attacked(relative_step_size=-1.0), InvalidValue, "-1.0", "relative_step_size"),
    ("NaN step", lambda: attacked(relative_step_size=float("nan")), InvalidValue, "nan", "relative_step_size"),
    ("restarts from x", lambda: attacked(restarts=2, random_start=False), InvalidValue, "restarts=2", "random_start"),
    ("loss unknown", lambda: attacked(loss="ce"), InvalidValue, "loss='ce'", "cross_entropy"),
    ("draws of others", lambda: attacked(draws=robustscope.Draws(0, (1, 2))), InvalidValue, "2 samples", "select"),
    ("draws a number", lambda: attacked(draws=3), InvalidType, "draws of type int", "seed="),
    ("seed text", lambda: attacked(seed="a"), InvalidType, "seed='a'", "seed=0"),
    (
        "raises in backward",
        lambda: attacked(model=Classifier(Net(lambda z, x: FailsBackward.apply(z)))),
        ModelError,
        "no way back",
        "scores only",
    ),
    (
        "NaN gradient",
        lambda: attacked(model=Classifier(Net(lambda z, x: z + (x - x).abs().sum(1, keepdim=True).sqrt()))),
        ModelError,
        "gradient holds NaN",
        "sqrt",
    ),
    ("no gradient", lambda: attacked(model=Classifier(Net(lambda z, x: z.detach()))), ModelError, "autograd", "detach"),
]


@pytest.mark.parametrize(("name", "call", "error", "given", "remedy"), named(ATTACKS))
def test_attack_refuses(name, call, error, given, remedy):
    with pytest.raises(RobustscopeError) as caught:
        call()
    assert type(caught.value) is error, repr(caught.value)
    assert_three_parts(caught.value)
    assert given in str(caught.value)
    assert remedy in caught.value.remedy


# Files that hold something else ---------------------------------------------------------------------------------------


def pickled_code(path: Path, mark: Path) -> Path:
    """Write a checkpoint whose loading would make the file ``mark``."""

    class Trap:
        def __reduce__(self):
            return (Path.touch, (mark,))

    torch.save({"layer.weight": Trap()}, path)
    return path


def test_the_code_in_a_pickle_does_not_run(tmp_path):
    mark = tmp_path / "the code ran"
    trap = pickled_code(tmp_path / "weights.pt", mark)
    torch.load(trap, weights_only=False)
    assert mark.exists(), "the trap must be able to spring"
    mark.unlink()
    (tmp_path / "net.py").write_text("from torch import nn\n\ndef make():\n    return nn.Linear(64, 10)\n")
    with pytest.raises(UnsafeFile, match="none of it was run"):
        robustscope.load_model(f"{tmp_path / 'net.py'}:make", weights=str(trap))
    np.savez(tmp_path / "data.npz", x=np.array([Path("x")], dtype=object), y=np.zeros(1, int))
    with pytest.raises(BadFile):
        robustscope.load_data(f"npz:{tmp_path / 'data.npz'}")
    assert not mark.exists()


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_a_cut_safetensors_file_is_refused(cut, tmp_path):
    """Cut to nothing, inside the length, inside the header and by one byte."""
    from safetensors.torch import save

    raw = save({"weight": torch.zeros(10, 64), "bias": torch.zeros(10)})
    (tmp_path / "net.py").write_text("from torch import nn\n\ndef make():\n    return nn.Linear(64, 10)\n")
    (tmp_path / "net.safetensors").write_bytes(raw[:cut])
    with pytest.raises(BadFile, match="could not be read as safetensors") as caught:
        robustscope.load_model(f"{tmp_path / 'net.py'}:make", weights=str(tmp_path / "net.safetensors"))
    assert_three_parts(caught.value)


def test_a_checkpoint_with_something_behind_it_is_refused_or_equal(tmp_path):
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(10, 64), "bias": torch.zeros(10)}, buffer)
    (tmp_path / "net.py").write_text("from torch import nn\n\ndef make():\n    return nn.Linear(64, 10)\n")
    (tmp_path / "cut.pt").write_bytes(buffer.getvalue()[:-200])
    with pytest.raises(BadFile, match="could not be read as a PyTorch checkpoint"):
        robustscope.load_model(f"{tmp_path / 'net.py'}:make", weights=str(tmp_path / "cut.pt"))


# What is allowed at the edges -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_radius_zero_gives_the_clean_accuracy_exactly(norm, tmp_path):
    model = robustscope.load_model(STANDARD)
    summary = evaluated(tmp_path, model, threat=f"{norm}:0", samples="40", suite="baseline").summary()
    clean, robust = summary["clean_accuracy"], summary["robust_accuracy"]
    assert (clean["k"], clean["n"]) == (robust["k"], robust["n"])
    assert clean["k"] > 30


@pytest.mark.parametrize(
    "x",
    [X[:1], X.double(), X.half(), X.bfloat16(), (X * 255).to(torch.uint8), X.numpy(), X.clone().requires_grad_()],
    ids=["one sample", "float64", "float16", "bfloat16", "uint8", "array", "requires grad"],
)
def test_odd_but_sound_inputs_are_evaluated(x, tmp_path):
    result = evaluated(tmp_path, data=(x, Y[: len(x)]), samples="all")
    assert set(result.table["status"]) <= {"ok", "skipped"}
    assert result.table["sample"].nunique() == len(x)


def test_a_target_that_is_the_label_and_an_empty_batch_are_no_errors():
    model = Classifier(Net())
    y = model.logits(X).argmax(1)
    assert attacked(model=model, y=y, targets=y).verdict.success.all(), "the target is reached from the start"
    assert attacked(x=X[:0], y=Y[:0]).verdict.success.shape == (0,)


def test_a_failing_check_leaves_the_folder_as_it_was(tmp_path):
    """A second, wrong request on a finished run changes none of its files."""
    evaluated(tmp_path)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(InvalidValue, match="was asked for"):
        evaluated(tmp_path, seed=1)
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    shutil.rmtree(tmp_path / "run")
