"""``net.onnx``: an ONNX model, with gradients through onnx2torch or for scores only through ONNX Runtime.

onnx2torch rebuilds the graph from torch modules. It needs torchvision, and lacks some operators of recent opsets; where
that helps, it is given the model under the label of opset 18. Where it is absent or lacks an operator, ONNX Runtime runs
the model: then there are logits but no gradients, and attacks that need gradients say so. Where both are there, their
logits must agree.
"""

from __future__ import annotations

import copy
import math
import sys
import warnings
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustscope.core.errors import BadFile, InvalidType, InvalidValue, ModelError, missing_extra
from robustscope.models.sources import LOADERS, Source, existing_file

_TOLERANCE = 1e-3


@LOADERS.register(
    "onnx",
    version=1,
    source="Open Neural Network Exchange, onnx.ai",
    form="net.onnx (extra: onnx)",
    suffixes=(".onnx",),
    extra="onnx",
)
def load_onnx(place: str, weights: str | None) -> Source:
    """Read an ONNX classifier with one input and one output; weights are inside the file.

    Args:
        place: path of the .onnx file; external weight files are read from its folder.
        weights: None; ONNX files bring theirs.

    Raises:
        MissingFile: if there is no such file.
        BadFile: if it is not a sound ONNX model.
        MissingExtra: if neither onnx2torch nor ONNX Runtime can be imported.
        ModelError: if the two compute different logits.
    """
    path = existing_file(place)
    if weights is not None:
        raise InvalidValue(
            f"weights={weights!r} were given with {path.name!r}", "ONNX files bring their weights", "Leave weights out."
        )
    proto = _read(path)
    converted, reason = _convert(proto)
    run, why = _runtime(proto, path.name)
    if converted is None and run is not None and "onnx2torch" in sys.modules:
        converted, _ = _convert(_relabelled(proto))
    if converted is None:
        if run is None:
            raise missing_extra("onnx2torch", "onnx", why or reason) from reason
        remark = f"gradients are not available: onnx2torch failed ({_short(reason)}); ONNX Runtime gives the logits"
        return Source(run.eval(), path.stem, card={"engine": "onnxruntime"}, remarks=(remark,))
    remarks = () if run is None else (_compare(converted, run, path.name),)
    return Source(converted.eval(), path.stem, card={"engine": "onnx2torch"}, remarks=remarks)


def _short(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]


def _read(path: Any) -> Any:
    try:
        onnx = import_module("onnx")
    except Exception as error:
        raise missing_extra("onnx", "onnx", error) from error
    try:
        proto = onnx.load(str(path))
        onnx.checker.check_model(proto)
    except Exception as error:
        raise BadFile(
            f"the file {path.name!r} could not be read as ONNX ({_short(error)})",
            "a sound ONNX model, with its external weight files beside it, is allowed",
            "Export it again, or fetch the .data file that belongs to it.",
        ) from error
    return proto


def _convert(proto: Any) -> tuple[nn.Module | None, Exception | None]:
    try:
        onnx2torch = import_module("onnx2torch")
    except Exception as error:
        return None, error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return onnx2torch.convert(proto), None
    except Exception as error:
        return None, error


def _relabelled(proto: Any) -> Any:
    """Return a copy that onnx2torch is more likely to know, or the same model if the copy would not be sound.

    Opset 19 gave AveragePool dilations, and PyTorch's exporter writes ``allowzero=1`` on every Reshape, also where no
    size is zero. The copy is labelled opset 18 and lacks that attribute. That is no proof of sameness: it is accepted
    only where ONNX's checker passes, and its logits are then compared with ONNX Runtime on the original.
    """
    twin = copy.deepcopy(proto)
    for opset in twin.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = min(opset.version, 18)
    for node in twin.graph.node:
        if node.op_type == "Reshape":
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
    try:
        import_module("onnx").checker.check_model(twin)
    except Exception:
        return proto
    return twin


def _runtime(proto: Any, label: str) -> tuple[OnnxRuntimeModule | None, Exception | None]:
    try:
        import_module("onnxruntime")
    except Exception as error:
        return None, error
    return OnnxRuntimeModule(proto.SerializeToString(), label), None


def _compare(converted: nn.Module, run: OnnxRuntimeModule, label: str) -> str:
    """Run both on a fixed batch that is neither constant nor random, and refuse different logits."""
    sizes = [size for size in run.shape if size is not None]
    if len(sizes) < len(run.shape):
        return "the conversion was not compared with ONNX Runtime: the input shape is not fixed"
    count = math.prod(sizes)
    x = (torch.arange(2 * count, dtype=torch.float32) * 0.7548777).frac().reshape(2, *sizes)
    with torch.no_grad():
        ours, theirs = converted.eval()(x), run(x)
    gap = (ours - theirs).abs().max().item() / max(1.0, theirs.abs().max().item())
    if not gap <= _TOLERANCE:
        raise ModelError(
            f"onnx2torch and ONNX Runtime differ by {gap:.2g} of the largest logit on {label!r}",
            f"{_TOLERANCE:g} is allowed",
            "Load the original network from file.py:make_model or net.pt2, and report the difference to onnx2torch.",
        )
    return f"onnx2torch agrees with ONNX Runtime to {gap:.1g} of the largest logit"


class OnnxRuntimeModule(nn.Module):
    """Logits of an ONNX model by ONNX Runtime on the CPU; it has no gradients.

    Args:
        content: the serialised model, weights included.
        label: name for messages.

    Raises:
        MissingExtra: if ONNX Runtime cannot be imported.
        BadFile: if it refuses the model.
        InvalidValue: if the model has several inputs or outputs, or a fixed batch above 1.
    """

    onnx: Tensor

    def __init__(self, content: bytes, label: str = "model") -> None:
        super().__init__()
        # As a buffer the model is part of the state, so that it is hashed and travels with copies.
        self.register_buffer("onnx", torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self.label = label
        self._session = self._open()
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        batch = inputs[0].shape[0] if len(inputs) == 1 and inputs[0].shape else None
        if len(inputs) != 1 or len(outputs) != 1 or (isinstance(batch, int) and batch > 1):
            raise InvalidValue(
                f"{label!r} has {len(inputs)} inputs, {len(outputs)} outputs and a batch dimension of {batch}",
                "one input (B, *S), one output (B, K), and a dynamic batch or one of 1 are allowed",
                "Export it again with dynamic_axes or dynamic_shapes for the first dimension.",
            )
        self.one_by_one = isinstance(batch, int)
        self.shape = tuple(size if isinstance(size, int) else None for size in inputs[0].shape[1:])
        self._dtype = {"tensor(float)": torch.float32, "tensor(double)": torch.float64}.get(inputs[0].type)
        if self._dtype is None:
            raise InvalidType(
                f"{label!r} takes {inputs[0].type}", "float or double inputs are allowed", "Export it so."
            )

    def _open(self) -> Any:
        try:
            onnxruntime = import_module("onnxruntime")
        except Exception as error:
            raise missing_extra("onnxruntime", "onnx", error) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 4
        try:
            content = self.onnx.cpu().numpy().tobytes()
            return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BadFile(
                f"ONNX Runtime refused {self.label!r} ({_short(error)})",
                "a model it can run is allowed",
                "Export it again with an opset that both sides know.",
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._session = self._open()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of inputs (B, *S), on the device of the inputs and without a graph."""
        if x.dtype != self._dtype:
            raise InvalidType(
                f"inputs of type {x.dtype} were given to {self.label!r}",
                f"{self._dtype} is allowed",
                "Convert the inputs.",
            )
        values = x.detach().cpu().contiguous().numpy()
        name = self._session.get_inputs()[0].name
        parts = np.split(values, len(values)) if self.one_by_one and len(values) > 1 else [values]
        outputs = [self._session.run(None, {name: part})[0] for part in parts]
        return torch.from_numpy(np.concatenate(outputs)).to(x.device)
