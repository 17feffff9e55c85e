"""``net.pt2``: a program written by ``torch.export.save``, screened for code before it is opened.

``torch.export.load`` must not meet a file that nobody vouches for: it unpickles example inputs, constants and some
weights with full pickle, evaluates symbolic expressions as Python, and executes guard expressions. Here the file is
read into memory once, and opened only if

- its pickles hold nothing but tensors and plain containers (each is first read with ``weights_only=True``),
- it has no compiled libraries, custom objects or opaque constants, and is not of the format before torch 2.8,
- every call in its graph goes to an operator of ``torch.ops.aten`` or the like, or to Python arithmetic,
- every symbolic expression and every guard is arithmetic and comparison over sizes.

Whatever else is there is refused. This closes the ways that are known; it is no proof that there are no others.
"""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustscope.core.errors import BadFile, InvalidValue, UnsafeFile
from robustscope.models.sources import LOADERS, Source, existing_file
from robustscope.models.weights import fit_weights, read_pickle_safely, read_weights

_TARGETS = re.compile(
    r"(torch\.ops\.(aten|prims|quantized_decomposed|torchvision|_c10d_functional)\.[\w.]+|_operator\.\w+)"
)
_OPERATORS = re.compile(
    r"_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
_SYMBOLIC = {"Max", "Min", "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv", "IntTrueDiv", "FloatTrueDiv", "Eq"}
_SYMBOLIC |= {"Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "TruncToInt", "FloorToInt", "CeilToInt", "ToFloat"}
_SYMBOLIC |= {"Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow"}
_SIZES = re.compile(r"_?[suz]\d*|int_oo|inf|L|[a-z]+_\d+")
_ARITHMETIC = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Constant, ast.Name, ast.Load, ast.Call),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.Subscript, ast.Attribute, ast.Tuple, ast.List, ast.keyword),
)
_REMEDY = "Export it again with plain tensors and operators, or load the network from file.py:make_model."


@LOADERS.register(
    "export",
    version=1,
    source="torch.export, archive format of torch 2.8 and later",
    form="net.pt2 (written by torch.export.save)",
    suffixes=(".pt2",),
)
def load_exported(place: str, weights: str | None) -> Source:
    """Open an exported program after screening it; gradients flow through it as through the original.

    The batch dimension must have been exported as dynamic, and the model in evaluation mode: an exported program cannot
    be switched, its dropout and batch norm are fixed.

    Args:
        place: path of the .pt2 file.
        weights: weights of the same program, or None.

    Raises:
        MissingFile: if there is no such file.
        UnsafeFile: if opening it could run code; nothing was run.
        BadFile: if it cannot be read.
        InvalidValue: if it was exported in training mode, for one batch size, or with other than one input.
    """
    path = existing_file(place)
    content = path.read_bytes()
    _screen(content, path.name)
    level = logging.getLogger("torch.export").level
    try:
        logging.getLogger("torch.export").setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(io.BytesIO(content))
            module = program.module()
    except Exception as error:
        raise _unreadable(path.name, error) from error
    finally:
        logging.getLogger("torch.export").setLevel(level)
    _check_program(program, path.name)
    # torch forbids eval() on exported modules, since it could change nothing: their mode is part of the graph, and
    # _check_program has just found it to be evaluation. The flag alone is set, so that it says what is true.
    for part in module.modules():
        part.training = False
    remarks: tuple[str, ...] = ()
    if weights is not None:
        tensors, unwrapped = read_weights(weights)
        remarks = (*unwrapped, *fit_weights(module, tensors, Path(weights).name))
    return Source(module, path.stem, description="torch.export", remarks=remarks)


def _unreadable(label: str, error: Exception) -> BadFile:
    reason = f"{type(error).__name__}: {error}".split("\n", 1)[0][:200]
    return BadFile(
        f"the file {label!r} could not be opened as an exported program ({reason})",
        "a whole file written by torch.export.save, by a version of torch near this one, is allowed",
        f"Export it again with torch {torch.__version__.split('+')[0]}.",
    )


def _unsafe(label: str, what: str) -> UnsafeFile:
    return UnsafeFile(
        f"the file {label!r} holds {what}, and opening it could run code; none of it was run",
        "exported programs of tensors and plain operators are allowed",
        _REMEDY,
    )


def _screen(content: bytes, label: str) -> None:
    """Refuse a file that could run code when opened."""
    try:
        # Python's zip reader is what torch falls back to for files of the older format.
        if "version" in zipfile.ZipFile(io.BytesIO(content)).namelist():
            raise _unsafe(label, "the format used before torch 2.8, which is pickles throughout")
        # The reader that torch.export.load uses, so that both see the same records under the same names.
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))
        names = [name for name in reader.get_all_records() if not name.startswith(".data/")]
        records = {name: reader.get_record(name) for name in names if not name.startswith("data/weights/weight")}
        plain = {name: json.loads(raw) for name, raw in records.items() if name.endswith(".json")}
    except UnsafeFile:
        raise
    except (RuntimeError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise _unreadable(label, error) from error
    known = re.compile(
        r"(data/(weights|constants|sample_inputs)/[^/]+|models/[^/]+\.json|archive_\w+|byteorder|version|extra/.*)"
    )
    for name in names:
        if not known.fullmatch(name):
            raise _unsafe(label, f"the record {name!r}")
        if name.endswith(".pt") and not name.startswith("data/sample_inputs/"):
            raise _unsafe(label, f"the pickle {name!r} of an older format")
        if name.startswith("data/sample_inputs/") and records[name]:
            read_pickle_safely(io.BytesIO(records[name]), f"{label}:{name}")
    for name, table in plain.items():
        if name.startswith(("data/weights/", "data/constants/")):
            _screen_payload(reader, name, table, label)
        elif name.startswith("models/"):
            for key, value in _strings(table):
                _screen_text(key, value, label)


def _screen_payload(reader: Any, name: str, table: Any, label: str) -> None:
    folder = name.rsplit("/", 1)[0]
    for tensor, facts in table.get("config", {}).items():
        path = str(facts.get("path_name"))
        if not re.fullmatch(r"(weight|tensor)_\d+", path):
            raise _unsafe(label, f"the constant {tensor!r} stored as {path!r}")
        if facts.get("use_pickle"):
            read_pickle_safely(io.BytesIO(reader.get_record(f"{folder}/{path}")), f"{label}:{path}")


def _strings(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of a JSON tree with the key it stands under; lists pass their key on."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _strings(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value, key)
    elif isinstance(node, str):
        yield key, node


def _screen_text(key: str, text: str, label: str) -> None:
    if key == "target" and "." in text and not _target_is_plain(text):
        raise _unsafe(label, f"a call to {text!r}")
    if key in {"expr_str", "guards_code"} and not _is_arithmetic(text):
        raise _unsafe(label, f"the expression {text[:80]!r}")
    if key == "name" and text and not re.fullmatch(r"\*{0,2}[\w.]+", text):
        raise _unsafe(label, f"the name {text[:80]!r}")


def _target_is_plain(text: str) -> bool:
    if text.startswith("_operator"):
        return _OPERATORS.fullmatch(text) is not None
    if text.startswith(("torch", "math", "#")):
        return _TARGETS.fullmatch(text) is not None
    return re.fullmatch(r"[\w.]+", text) is not None  # the name of a parameter or buffer


def _is_arithmetic(text: str) -> bool:
    """Tell whether a text is arithmetic over sizes: no names, attributes or calls besides a few known ones."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, _ARITHMETIC):
            return False
        if isinstance(node, ast.Attribute) and node.attr != "size":
            return False
        if isinstance(node, ast.Name) and not (node.id in _SYMBOLIC or _SIZES.fullmatch(node.id)):
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)) and node not in _texts(tree):
            return False
        if isinstance(node, ast.Call) and not _is_known_call(node):
            return False
    return True


def _texts(tree: ast.AST) -> list[ast.expr]:
    """Texts that are not evaluated: the name in Symbol('s0', ...) and the key in L['x']. Others might be."""
    found = [node.slice for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
    found += [node.args[0] for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_symbol(node)]
    return [node for node in found if isinstance(node, ast.Constant) and re.fullmatch(r"\w+", str(node.value))]


def _is_symbol(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id == "Symbol" and len(node.args) == 1


def _is_known_call(node: ast.Call) -> bool:
    if isinstance(node.func, ast.Attribute):
        return not node.args and not node.keywords
    plain = all(isinstance(keyword.value, ast.Constant) for keyword in node.keywords)
    return isinstance(node.func, ast.Name) and node.func.id in _SYMBOLIC and plain


def _check_program(program: Any, label: str) -> None:
    graph = program.graph
    user = set(program.graph_signature.user_inputs)
    inputs = [node for node in graph.nodes if node.op == "placeholder" and node.name in user]
    if len(inputs) != 1 or not isinstance(inputs[0].meta.get("val"), Tensor):
        raise InvalidValue(
            f"the program {label!r} takes {len(inputs)} inputs",
            "one tensor of shape (B, *S) is allowed",
            "Wrap the model in a module whose forward takes the inputs alone, and export that.",
        )
    batch = inputs[0].meta["val"].shape[0] if inputs[0].meta["val"].dim() else 0
    if isinstance(batch, int):
        raise InvalidValue(
            f"the program {label!r} was exported for batches of exactly {batch}",
            "a dynamic batch dimension is allowed",
            "Export with torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)), "
            "where x holds two samples or more.",
        )
    for node in graph.nodes:
        if node.op == "call_function" and _trains(node):
            raise InvalidValue(
                f"the program {label!r} was exported in training mode ({node.name})",
                "evaluation mode is allowed",
                "Call model.eval() before torch.export.export.",
            )


def _trains(node: Any) -> bool:
    """Tell whether a dropout or batch-norm node was traced in training mode, by the schema of its operator."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return False
    for position, argument in enumerate(schema.arguments):
        if argument.name in {"train", "training", "use_input_stats"}:
            given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            return given is True
    return "_native_batch_norm_legit.default" in str(node.target)
