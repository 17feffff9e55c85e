"""Models come from every source as they are, and broken or dangerous files end in one clear error."""

import copy
import gzip
import io
import json
import pickle
import random
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from robustscope.core.errors import (
    BadFile,
    InvalidType,
    InvalidValue,
    MissingExtra,
    MissingFile,
    ModelError,
    UnknownName,
    UnsafeFile,
)
from robustscope.models import zoo
from robustscope.models.cards import save_model
from robustscope.models.fingerprints import fingerprint
from robustscope.models.layers import build, layer_types
from robustscope.models.loaders import onnx_file as onnx_loader
from robustscope.models.loaders.onnx_file import OnnxRuntimeModule
from robustscope.models.loading import LOADERS, from_module, load_model

SHARED = Path(__file__).resolve().parents[2] / "shared"
INPUT = {"shape": [1, 8, 8], "value_range": [0, 1], "mean": [0.2], "std": [0.5]}
torch.set_num_threads(1)


def net(classes: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return build(zoo.small_cnn((1, 8, 8), classes, width=4)).eval()


@pytest.fixture
def card(tmp_path):
    return save_model(
        tmp_path / "net.json", zoo.small_cnn((1, 8, 8), 3, width=4), net().state_dict(), INPUT, dataset="toy"
    )


@pytest.fixture
def images():
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def python_file(folder: Path, text: str, name: str = "nets.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


MAKE = """
    '''Nets for a test.'''
    import torch
    from torch import nn
    from robustscope.models.layers import build
    from robustscope.models import zoo

    def make_model():
        return build(zoo.small_cnn((1, 8, 8), 3, width=4))
"""


# ---------------------------------------------------------------- architecture cards


def test_a_saved_card_gives_the_same_logits(card, images):
    loaded = load_model(str(card))
    assert torch.equal(loaded.classifier.logits(images), net()((images - 0.2) / 0.5))
    assert (loaded.classifier.mean, loaded.classifier.std) == ((0.2,), (0.5,))
    assert loaded.card["dataset"] == "toy"
    assert loaded.name == "net"
    assert load_model(str(card.with_suffix(".safetensors"))).fingerprint == loaded.fingerprint


def test_what_the_user_gives_goes_before_the_card(card, images):
    loaded = load_model(str(card), mean=0, std=1, bounds=(-1, 2), class_names=["a", "b", "c"])
    assert torch.equal(loaded.classifier.logits(images), net()(images))
    assert loaded.classifier.bounds == (-1, 2)
    assert loaded.classifier.class_names == ("a", "b", "c")


def test_mean_zero_and_std_one_are_no_normalisation(tmp_path):
    path = save_model(
        tmp_path / "n.json", zoo.small_cnn((1, 8, 8), 3, width=4), net().state_dict(), {"shape": [1, 8, 8]}
    )
    facts = json.loads(path.read_text())
    facts["input"] |= {"mean": [0.0], "std": [1.0]}
    path.write_text(json.dumps(facts))
    assert load_model(str(path)).classifier.mean is None


def edited(card: Path, change) -> str:
    facts = json.loads(card.read_text())
    change(facts)
    card.write_text(json.dumps(facts))
    return str(card)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["layers"][1].update(type="rleu"), "'rleu'"),
        (lambda c: c["layers"][0].update(padding_mode="circular"), "'padding_mode'"),
        (lambda c: c["layers"][0].pop("kernel"), "'kernel'"),
        (lambda c: c["layers"][0].update(index=4), "index 4"),
        (lambda c: c["layers"][5].update({"in": 30}), "5.weight"),
        (lambda c: c["layers"].pop(), "unexpected 7.bias, 7.weight"),
        (lambda c: c["layers"].append({"type": "linear", "in": 3, "out": 3}), "missing 8.weight, 8.bias"),
        (lambda c: c["layers"].pop(4), "missing"),
        (lambda c: c["layers"].insert(8, {"type": "global_avgpool2d"}), "do not fit"),
        (lambda c: c.update(num_classes=7), "num_classes=7"),
        (lambda c: c.pop("input"), "no architecture card"),
        (lambda c: c["input"].pop("shape"), "shape"),
        (lambda c: c["input"].update(std=None), "mean"),
        (lambda c: c["weights"].update(sha256="0" * 64), "SHA-256"),
        (lambda c: c["weights"].update(file="../net.safetensors"), "bare name"),
    ],
)
def test_a_wrong_card_is_refused_and_says_why(card, change, says):
    with pytest.raises(BadFile, match=says):
        load_model(edited(card, change))


def test_truncated_and_absent_files(card, tmp_path):
    weights = card.with_suffix(".safetensors")
    whole = weights.read_bytes()
    for broken in (whole[:100], whole[:-7], b"", b"\xff" * 64):
        weights.write_bytes(broken)
        with pytest.raises(BadFile, match=r"net\.safetensors"):
            load_model(str(card))
    weights.unlink()
    with pytest.raises(MissingFile, match=r"net\.safetensors"):
        load_model(str(card))
    with pytest.raises(MissingFile, match=r"Did you mean 'net\.json'"):
        load_model(str(tmp_path / "nett.json"))
    card.write_text("{")
    with pytest.raises(BadFile, match="not JSON"):
        load_model(str(card))
    (tmp_path / "x.json").mkdir()
    with pytest.raises(MissingFile, match="is a folder"):
        load_model(str(tmp_path / "x.json"))


def test_nan_weights_are_refused(card):
    state = load_file(card.with_suffix(".safetensors"))
    state["5.bias"][2] = float("nan")
    save_file(state, card.with_suffix(".safetensors"))
    edited(card, lambda c: c["weights"].pop("sha256"))
    with pytest.raises(InvalidValue, match=r"5\.bias"):
        load_model(str(card))


def test_save_model_writes_nothing_that_does_not_load(tmp_path, card):
    with pytest.raises(BadFile, match="missing"):
        save_model(tmp_path / "bad.json", zoo.small_cnn((1, 8, 8), 3, width=4), {}, INPUT)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.json", "net.safetensors"]
    with pytest.raises(InvalidValue, match="overwrite"):
        save_model(card, zoo.small_cnn((1, 8, 8), 3, width=4), net().state_dict(), INPUT)


def test_every_layer_type_is_built_and_used():
    residual = {"type": "residual_add", "main": [{"type": "conv2d", "in": 4, "out": 4, "kernel": 3, "padding": 1}]}
    images = [
        {"type": "conv2d", "in": 1, "out": 4, "kernel": 3, "padding": 1, "bias": False},
        {"type": "batchnorm2d", "channels": 4},
        {"type": "relu"},
        {**residual, "shortcut": [{"type": "identity"}]},
        {**residual, "shortcut": []},
        {"type": "maxpool2d", "kernel": 2},
        {"type": "avgpool2d", "kernel": 2, "stride": 1},
        {"type": "subsample_and_zero_pad_channels", "spatial_stride": 2, "pad_each_side": 1},
        {"type": "global_avgpool2d"},
        {"type": "flatten"},
        {"type": "identity"},
        {"type": "dropout", "share": 0.3},
        {"type": "linear", "in": 6, "out": 3},
    ]
    tokens = [
        {"type": "patch_embedding", "in": 1, "dim": 6, "patch": 4, "tokens": 5},
        {"type": "batchnorm_tokens", "dim": 6},
        {"type": "multi_head_self_attention", "dim": 6, "heads": 2, "scale": 0.5},
        {"type": "mean_over_tokens"},
        {"type": "batchnorm1d", "channels": 6},
        {"type": "linear", "in": 6, "out": 3},
    ]
    for layers in (images, tokens):
        assert build(layers).eval()(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    assert {layer["type"] for layer in images + tokens} == set(layer_types())


def test_attention_equals_the_reference():
    layer: Any = build([{"type": "multi_head_self_attention", "dim": 6, "heads": 2, "scale": 3**-0.5}])[0]
    reference = nn.MultiheadAttention(6, 2, batch_first=True)
    with torch.no_grad():
        parts = (layer.query, layer.key, layer.value)
        reference.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        reference.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        reference.out_proj.weight.copy_(layer.out.weight)
        reference.out_proj.bias.copy_(layer.out.bias)
        x = torch.rand(3, 5, 6)
        assert torch.allclose(layer(x), reference(x, x, x)[0], atol=1e-6)


# ---------------------------------------------------------------- Python files and weights


def test_a_python_file_with_weights(tmp_path, images):
    file = python_file(tmp_path, MAKE)
    for name in ("w.safetensors", "w.pt"):
        state = net().state_dict()
        save_file(state, tmp_path / name) if name.endswith("s") else torch.save(state, tmp_path / name)
        loaded = load_model(f"{file}:make_model", weights=str(tmp_path / name), mean=0.5, std=0.5)
        assert torch.equal(loaded.classifier.logits(images), net()((images - 0.5) / 0.5))
        assert not loaded.classifier.module.training
        assert "loading" not in loaded.card


@pytest.mark.parametrize("wrap", ["state_dict", "model"])
def test_wrappers_and_prefixes_are_recognised_and_said(tmp_path, images, wrap):
    file = python_file(tmp_path, MAKE)
    torch.save({wrap: {f"module.{k}": v for k, v in net().state_dict().items()}, "epoch": 3}, tmp_path / "w.pt")
    loaded = load_model(f"{file}:make_model", weights=str(tmp_path / "w.pt"))
    assert torch.equal(loaded.classifier.logits(images), net()(images))
    assert wrap in loaded.card["loading"][0]
    assert "'module.'" in loaded.card["loading"][1]


def test_weights_that_do_not_fit_are_named(tmp_path):
    file = python_file(tmp_path, MAKE)
    state = net().state_dict()
    state["extra"] = state.pop("0.bias")
    state["7.weight"] = torch.zeros(5, 32)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(BadFile, match=r"missing 0\.bias; unexpected extra; other shapes: 7\.weight: \(5, 32\)"):
        load_model(f"{file}:make_model", weights=str(tmp_path / "w.safetensors"))
    save_file({k: v.double() for k, v in net().state_dict().items()}, tmp_path / "w.safetensors")
    with pytest.raises(InvalidType, match="float64"):
        load_model(f"{file}:make_model", weights=str(tmp_path / "w.safetensors"))


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
def test_code_in_a_pickle_is_never_run(tmp_path, suffix):
    file, marker = python_file(tmp_path, MAKE), tmp_path / "ran"
    torch.save({"state_dict": net().state_dict(), "x": Bomb(marker)}, tmp_path / f"zip{suffix}")
    (tmp_path / f"raw{suffix}").write_bytes(pickle.dumps(Bomb(marker)))
    torch.save(net(), tmp_path / f"whole{suffix}")
    for name in ("zip", "raw", "whole"):
        with pytest.raises(UnsafeFile, match="none of it was run"):
            load_model(f"{file}:make_model", weights=str(tmp_path / f"{name}{suffix}"))
        assert not marker.exists()
    torch.load(tmp_path / f"zip{suffix}", weights_only=False)
    assert marker.exists()  # or the bomb would prove nothing


def test_files_that_are_no_checkpoints(tmp_path):
    file = python_file(tmp_path, MAKE)
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    torch.save(net().state_dict(), tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:-200])
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "w.npy").write_bytes(b"")
    for name in ("list.pt", "none.pt", "cut.pt", "text.pt", "empty.pt", "w.npy"):
        with pytest.raises(BadFile, match=name) as caught:
            load_model(f"{file}:make_model", weights=str(tmp_path / name))
        assert not isinstance(caught.value, UnsafeFile), name


@pytest.mark.parametrize(
    ("text", "name", "error", "says"),
    [
        (MAKE, "make_modle", UnknownName, "Did you mean 'make_model'"),
        ("def make_model(width): return None", "make_model", InvalidValue, "width"),
        ("def make_model(): return 3", "make_model", InvalidType, "int"),
        ("def make_model(): return None, 1", "make_model", InvalidType, "tuple"),
        ("make_model = 3", "make_model", InvalidType, "int"),
        ("def make_model():\n    x = 1\n    raise RuntimeError('boom')", "make_model", ModelError, "line 3: boom"),
        ("import sys; sys.exit(2)", "make_model", ModelError, "SystemExit"),
        ("import nothing_of_that_name", "make_model", ModelError, "nothing_of_that_name"),
        ("def make_model(:", "make_model", BadFile, "not Python"),
        (MAKE, "", InvalidValue, "names no function"),
    ],
)
def test_python_files_that_cannot_be_used(tmp_path, text, name, error, says):
    file = python_file(tmp_path, text)
    with pytest.raises(error, match=says):
        load_model(f"{file}:{name}" if name else str(file))
    with pytest.raises(MissingFile):
        load_model(f"{tmp_path}/other.py:make_model")


def numpy_state() -> np.ndarray:
    state: Any = np.random.get_state()
    return state[1].copy()


def test_a_python_file_leaves_the_process_alone(tmp_path):
    python_file(tmp_path, "WIDTH = 4", "helper_of_the_net.py")
    python_file(
        tmp_path,
        "from torch import nn\nclass Net(nn.Linear):\n    def __init__(self): super().__init__(4, 2)",
        "json.py",
    )
    text = "import random, numpy, torch\nfrom helper_of_the_net import WIDTH\nrandom.random(); numpy.random.rand()\n"
    file = python_file(tmp_path, text + "def make_model():\n    torch.rand(3)\n    return torch.nn.Linear(WIDTH, 2)")
    bad = python_file(tmp_path, "import helper_of_the_net\nraise ValueError", "bad.py")
    before = list(sys.path), set(sys.modules), random.getstate(), numpy_state(), torch.get_rng_state()
    load_model(f"{file}:make_model")
    with pytest.raises(ModelError):
        load_model(f"{bad}:make_model")
    assert sys.path == before[0]
    assert {name for name in set(sys.modules) - before[1] if "helper" in name or "robustscope_model" in name} == set()
    assert random.getstate() == before[2]
    assert np.array_equal(numpy_state(), before[3])
    assert torch.equal(torch.get_rng_state(), before[4])
    assert not list(tmp_path.rglob("__pycache__"))


def test_two_folders_may_have_helpers_of_the_same_name(tmp_path):
    outputs = []
    for width in (2, 3):
        folder = tmp_path / str(width)
        folder.mkdir()
        python_file(folder, f"WIDTH = {width}", "shared_helper.py")
        file = python_file(
            folder, "import torch, shared_helper\ndef m(): return torch.nn.Linear(4, shared_helper.WIDTH)"
        )
        outputs.append(load_model(f"{file}:m").classifier.module.out_features)
    assert outputs == [2, 3]


# ---------------------------------------------------------------- exported programs


def export(folder: Path, module: nn.Module, name: str = "net.pt2", dynamic: bool = True) -> Path:
    shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    torch.export.save(torch.export.export(module, (torch.rand(4, 1, 8, 8),), dynamic_shapes=shapes), folder / name)
    return folder / name


def test_an_exported_program_has_the_logits_and_gradients_of_the_original(tmp_path, images):
    module = nn.Sequential(net(), nn.Dropout()).eval()
    loaded = load_model(str(export(tmp_path, module)), mean=0.2, std=0.5)
    assert torch.allclose(loaded.classifier.logits(images), module((images - 0.2) / 0.5), atol=1e-6)

    def score(logits, rows):
        return logits.logsumexp(1)

    mine = loaded.classifier.gradient(score, images)[1]
    other = from_module(module, mean=0.2, std=0.5).classifier.gradient(score, images)[1]
    assert torch.allclose(mine, other, atol=1e-6)
    assert mine.abs().sum() > 0
    assert loaded.classifier.logits(images[:1]).shape == (1, 3)


def test_exports_that_cannot_be_used(tmp_path):
    with pytest.raises(InvalidValue, match="exactly 4"):
        load_model(str(export(tmp_path, net(), dynamic=False)))
    for layer in (nn.Dropout(), nn.BatchNorm1d(3)):
        with pytest.raises(InvalidValue, match="training mode"):
            load_model(str(export(tmp_path, nn.Sequential(net(), layer).train())))
    path = export(tmp_path, net())
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(BadFile, match=r"net\.pt2"):
        load_model(str(path))
    path.write_text("no zip")
    with pytest.raises(BadFile, match=r"net\.pt2"):
        load_model(str(path))


def rewritten(path: Path, change) -> Path:
    """Write the archive again with records changed; stored, not compressed, as torch wants them."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    change(records)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return path


def test_code_in_an_exported_program_is_never_run(tmp_path):
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w').close()"

    def bomb_inputs(records):
        buffer = io.BytesIO()
        torch.save((Bomb(marker),), buffer)
        records["net/data/sample_inputs/model.pt"] = buffer.getvalue()

    def program(records, change):
        facts = json.loads(records["net/models/model.json"])
        change(facts)
        records["net/models/model.json"] = json.dumps(facts).encode()

    def bomb_weight(records):
        name = "net/data/weights/model_weights_config.json"
        facts = json.loads(records[name])
        facts["config"]["0.weight"]["use_pickle"] = True
        records[name] = json.dumps(facts).encode()
        buffer = io.BytesIO()
        torch.save(Bomb(marker), buffer)
        records["net/data/weights/" + facts["config"]["0.weight"]["path_name"]] = buffer.getvalue()

    def bomb_constant(records):
        name = "net/data/constants/model_constants_config.json"
        entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        records[name] = json.dumps({"config": {"c": entry}}).encode()
        records["net/data/constants/opaque_obj_0"] = pickle.dumps(Bomb(marker))

    def bomb_guard(records):
        program(records, lambda facts: facts.update(guards_code=[f"exec({code!r}) is None"]))

    def bomb_symbol(records):
        raw = records["net/models/model.json"].decode()
        assert '"expr_str": "S' in raw
        start = raw.index('"expr_str": "') + len('"expr_str": "')
        stop = raw.index('"', start)
        records["net/models/model.json"] = (raw[:start] + json.dumps(f"exec({code!r})")[1:-1] + raw[stop:]).encode()

    def bomb_target(records):
        program(records, lambda facts: facts["graph_module"]["graph"]["nodes"][0].update(target="torch.hub.load"))

    def library(records):
        records["net/data/aotinductor/model/model.so"] = b"\x7fELF"

    def old_format(records):
        records["version"] = b"8.1"

    bombs = (bomb_inputs, bomb_weight, bomb_constant, bomb_guard, bomb_symbol, bomb_target, library, old_format)
    for bomb in bombs:
        path = rewritten(export(tmp_path, net()), bomb)
        with pytest.raises(UnsafeFile, match="none of it was run"):
            load_model(str(path))
        assert not marker.exists(), bomb.__name__
    # The same file, opened by torch itself, does run its code; and a rewritten harmless one still loads.
    for bomb in (bomb_inputs, bomb_weight, bomb_constant, bomb_symbol):
        path = rewritten(export(tmp_path, net()), bomb)
        with pytest.raises(Exception):  # noqa: B017
            torch.export.load(path).module()(torch.rand(2, 1, 8, 8), "never reached")
        assert marker.exists(), bomb.__name__
        marker.unlink()
    load_model(str(rewritten(export(tmp_path, net()), lambda records: None)))


# ---------------------------------------------------------------- ONNX and names


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(3))
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight.numpy(), "w")],
    )
    path = tmp_path_factory.mktemp("onnx") / "toy.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path, weight


def test_onnx_gives_the_logits_and_says_that_gradients_are_missing(onnx_file, images):
    path, weight = onnx_file
    loaded = load_model(str(path), mean=0.5, std=0.5)
    assert torch.allclose(loaded.classifier.logits(images), (2 * images - 1).flatten(1) @ weight.T, atol=1e-5)
    if loaded.card["engine"] == "onnxruntime":
        assert "onnx2torch" in loaded.card["loading"][0]
        with pytest.raises(ModelError, match="do not depend on its inputs"):
            loaded.classifier.gradient(lambda logits, rows: logits[:, 0], images)


def test_the_fingerprint_of_onnx_follows_its_weights(onnx_file):
    content = onnx_file[0].read_bytes()
    module, twin = OnnxRuntimeModule(content), OnnxRuntimeModule(content)
    assert fingerprint(module) == fingerprint(twin)
    twin.onnx[-1] ^= 1
    assert fingerprint(module) != fingerprint(twin)


def test_onnx_survives_copies_and_refuses_rubbish(onnx_file, tmp_path, images):
    loaded = load_model(str(onnx_file[0]))
    assert torch.equal(copy.deepcopy(loaded.classifier.module)(images), loaded.classifier.module(images))
    (tmp_path / "bad.onnx").write_bytes(onnx_file[0].read_bytes()[:-300])
    with pytest.raises(BadFile, match=r"bad\.onnx"):
        load_model(str(tmp_path / "bad.onnx"))
    with pytest.raises(InvalidType, match="float64"):
        OnnxRuntimeModule(onnx_file[0].read_bytes())(images.double())


@pytest.mark.parametrize("dilation", [1, 2])
def test_a_model_of_a_new_opset_is_relabelled_only_if_it_stays_sound(dilation):
    helper = pytest.importorskip("onnx").helper
    pool = helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[2, 2])
    if dilation > 1:
        pool.attribute.append(helper.make_attribute("dilations", [dilation, dilation]))
    reshape = helper.make_node("Reshape", ["p", "s"], ["y"], allowzero=1)
    shape = helper.make_tensor("s", 7, [2], [-1, 49])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [pool, reshape], "g", [value("x", 1, ["b", 1, 8, 8])], [value("y", 1, ["b", 49])], [shape]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    twin = onnx_loader._relabelled(proto)
    assert (twin is proto) == (dilation > 1)
    assert twin.opset_import[0].version == (20 if dilation > 1 else 18)
    assert len(proto.graph.node[1].attribute) == 1
    assert len(twin.graph.node[1].attribute) == (1 if dilation > 1 else 0)


def test_a_wrong_conversion_of_onnx_is_refused(onnx_file):
    run, weight = OnnxRuntimeModule(onnx_file[0].read_bytes()), onnx_file[1]
    last = nn.Linear(64, 3, bias=False)
    right = nn.Sequential(nn.Flatten(), last)
    with torch.no_grad():
        last.weight.copy_(weight)
    assert "agrees" in onnx_loader._compare(right, run, "toy")
    with torch.no_grad():
        last.weight[0, 0] += 1
    with pytest.raises(ModelError, match="differ by"):
        onnx_loader._compare(right, run, "toy")


@pytest.mark.parametrize(
    ("source", "package", "extra"),
    [
        ("timm:resnet18", "timm", "vision"),
        ("hf:nobody/nothing", "transformers", "hf"),
        ("robustbench:Standard", "robustbench", "robustbench"),
        ("robustbench:Standard,cifar10,L2", "robustbench", "robustbench"),
    ],
)
def test_missing_packages_name_the_extra(monkeypatch, source, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"'{package}'.*robustscope\[{extra}\]"):
        load_model(source)


def test_a_broken_package_is_reported_as_it_broke(monkeypatch):
    import importlib

    from robustscope.models.loaders import timm_name

    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    assert timm_name.import_module is importlib.import_module
    monkeypatch.setattr(timm_name, "import_module", broken)
    with pytest.raises(MissingExtra, match="nms does not exist"):
        load_model("timm:resnet18")


@pytest.mark.parametrize("source", ["net.xyz", "tim:resnet18", "", "net", "weights.pt", "C:nothing"])
def test_other_forms_list_the_forms_allowed(source):
    with pytest.raises(InvalidValue) as caught:
        load_model(source)
    for card in LOADERS:
        assert card.form in str(caught.value)
    if source.startswith("tim:"):
        assert "Did you mean 'timm'" in str(caught.value)


def test_bad_options_are_refused(card):
    wrong: list[dict[str, Any]] = [
        {"device": "gpu"},
        {"mean": 0.5},
        {"bounds": (1, 0)},
        {"mean": 0.5, "std": 0},
        {"batch_size": 0},
    ]
    for options in wrong:
        with pytest.raises(InvalidValue):
            load_model(str(card), **options)


# ---------------------------------------------------------------- modules in memory, fingerprints


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.layer = nn.Linear(2, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(2))
            self.layer.bias.zero_()

    def forward(self, x):
        return self.factor * self.layer(x)


def test_from_module_changes_nothing_and_refuses_what_it_must():
    module = net()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    from_module(module, mean=0.5, std=0.5)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    with pytest.raises(InvalidValue, match="training mode"):
        from_module(net().train())
    with pytest.raises(InvalidType, match="builtin_function"):
        from_module(cast(Any, len))


def test_the_fingerprint_follows_everything_that_decides_a_result():
    base = fingerprint(Scaled(1.0))
    changed = Scaled(1.0)
    with torch.no_grad():
        changed.layer.bias[0] += 1e-7
    other = type("Scaled", (Scaled,), {"forward": lambda self, x: self.layer(x) ** 3})(1.0)
    buffered = Scaled(1.0)
    buffered.register_buffer("seen", torch.zeros(1), persistent=False)
    variants = [
        fingerprint(Scaled(2.0)),
        fingerprint(changed),
        fingerprint(other),
        fingerprint(buffered),
        fingerprint(Scaled(1.0).double()),
        fingerprint(Scaled(1.0), mean=(0.0,), std=(1.0,)),
        fingerprint(Scaled(1.0), bounds=(0, 2)),
        fingerprint(Scaled(1.0), description="x"),
        fingerprint(nn.Sequential(nn.Conv2d(1, 1, 3, stride=1))),
    ]
    assert len({base, *variants}) == len(variants) + 1
    assert fingerprint(Scaled(1.0).train()) == base == fingerprint(Scaled(1.0))


def test_the_fingerprint_ignores_the_place_but_not_the_text_of_a_file(tmp_path):
    marks = []
    for folder, text in (("a", MAKE), ("b", MAKE), ("c", MAKE + "\n    VERSION = 2\n")):
        (tmp_path / folder).mkdir()
        file = python_file(tmp_path / folder, text)
        save_file(net().state_dict(), tmp_path / folder / f"{folder}.safetensors")
        marks.append(
            load_model(f"{file}:make_model", weights=str(tmp_path / folder / f"{folder}.safetensors")).fingerprint
        )
    assert marks[0] == marks[1] != marks[2]


# ---------------------------------------------------------------- shared models


def _idx(pattern: str, header: int) -> np.ndarray:
    with gzip.open(next((SHARED / "data/mnist").glob(pattern))) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def _mnist():
    x = torch.from_numpy(_idx("t10k-images*", 16).reshape(-1, 1, 28, 28).copy()).float() / 255
    return x, torch.from_numpy(_idx("t10k-labels*", 8).astype("int64"))


def _exact_cifar():
    rows = np.frombuffer((SHARED / "data/cifar10/test-exact-subset.bin").read_bytes(), np.uint8).reshape(-1, 3073)
    x = torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).copy()).float() / 255
    return x, torch.from_numpy(rows[:, 0].astype("int64"))


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    [
        "cifar10_resnet2b_adv",
        "cifar10_resnet20_std",
        "cifar10_vit_pgd_2_3_16",
        "mnist_colt_linf01",
    ],
)
def test_shared_models_reach_their_measured_accuracy(name):
    """One of each kind of layer here; all 35 go through the command line in the parity tests."""
    path = SHARED / "models" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside the project")
    loaded = load_model(str(path))
    x, y = _exact_cifar() if name.startswith("cifar") else _mnist()
    accuracy = (loaded.classifier.logits(x).argmax(1) == y).double().mean().item()
    measured = loaded.card["measured"]
    key = next(k for k in measured if ("exact_pixels_subset" if name.startswith("cifar") else "10000") in k)
    assert abs(accuracy - measured[key]) < 0.001
