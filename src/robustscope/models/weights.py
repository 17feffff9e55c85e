"""Read weights from files without running code that may be stored in them, and fit them to a module."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from robustscope.core.errors import BadFile, InvalidType, InvalidValue, UnsafeFile
from robustscope.models.sources import existing_file

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights", "params")
_PREFIXES = ("module.", "_orig_mod.")


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read named tensors from a .safetensors, .pt, .pth, .bin or .ckpt file, onto the CPU.

    Files of ``torch.save`` are pickles, which can carry code. They are read with ``weights_only=True`` alone, which
    builds tensors and plain containers and nothing else.

    Returns:
        tensors by name, and remarks on what was unwrapped or stripped on the way.

    Raises:
        MissingFile: if there is no such file.
        UnsafeFile: if the file holds anything but tensors and plain containers; nothing in it was run.
        BadFile: if it is truncated, corrupted, of another format, or holds no tensors.
    """
    file = existing_file(path)
    if file.suffix.lower() == ".safetensors":
        return read_safetensors(file), ()
    if file.suffix.lower() not in {".pt", ".pth", ".bin", ".ckpt"}:
        raise BadFile(
            f"weights={str(path)!r} were given",
            ".safetensors, .pt, .pth, .bin or .ckpt files are allowed",
            "Save the weights with safetensors.torch.save_file(model.state_dict(), 'weights.safetensors').",
        )
    return _named_tensors(read_pickle_safely(file), file)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        BadFile: if it is truncated or corrupted.
    """
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise BadFile(
            f"the file {file.name!r} could not be read as safetensors ({error})",
            "a whole safetensors file is allowed",
            "Download or save it again, and compare its checksum.",
        ) from error


def read_pickle_safely(file: Any, name: str = "") -> Any:
    """Return the contents of a ``torch.save`` file (path or buffer) that holds tensors and plain containers only.

    Raises:
        UnsafeFile: if it names any other class or function; nothing was run.
        BadFile: if it is not such a file.
    """
    label = name or Path(file).name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        named = re.search(r"GLOBAL (\S+)|Unsupported (?:global|class|operand)[: ]+(\S+)", text)
        if named is None and "Unsupported" not in text and "not allowed" not in text:
            raise _not_a_checkpoint(label, error) from error
        what = f" ({named[1] or named[2]})" if named else ""
        raise UnsafeFile(
            f"the file {label!r} holds Python objects{what} whose loading would run code; none of it was run",
            "tensors in plain dictionaries are allowed",
            "Ask its author for safetensors, or save it where you trust it: "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors').",
        ) from error
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise UnsafeFile(
                f"the file {label!r} is a TorchScript program",
                "a file of weights or a torch.export program (.pt2) is allowed",
                "Export it again where it was made: torch.export.save(torch.export.export(model, (x,)), 'net.pt2').",
            ) from error
        raise _not_a_checkpoint(label, error) from error
    except (EOFError, OSError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise _not_a_checkpoint(label, error) from error


def _not_a_checkpoint(label: str, error: Exception) -> BadFile:
    reason = str(error).split("\n", 1)[0][:200]
    return BadFile(
        f"the file {label!r} could not be read as a PyTorch checkpoint ({reason})",
        "a whole file written by torch.save is allowed",
        "Download or save it again, and compare its checksum.",
    )


def _named_tensors(found: Any, file: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    remarks = []
    for _ in range(2):
        if not isinstance(found, Mapping):
            break
        wrapper = next((key for key in _WRAPPERS if isinstance(found.get(key), Mapping)), None)
        if wrapper is None:
            break
        remarks.append(f"the weights were taken from the entry {wrapper!r} of {file.name}")
        found = found[wrapper]
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        kind = type(found).__name__
        if isinstance(found, Mapping):
            others = [str(key) for key, value in found.items() if not isinstance(value, Tensor)]
            kind = f"a dictionary whose entries {others[:5]} are no tensors" if others else "an empty dictionary"
        raise BadFile(
            f"the file {file.name!r} holds {kind}",
            "a dictionary from names to tensors is allowed, alone or under one of " + ", ".join(map(repr, _WRAPPERS)),
            "Save model.state_dict().",
        )
    return {str(key): value for key, value in found.items()}, tuple(remarks)


def fit_weights(module: nn.Module, tensors: Mapping[str, Tensor], label: str) -> tuple[str, ...]:
    """Copy named tensors into a module; names and shapes must agree exactly.

    ``num_batches_tracked`` counters may be absent: evaluation mode never reads them. A prefix that every name has and
    no name of the module has ("module." of DataParallel, "_orig_mod." of compiled modules) is removed.

    Args:
        module: the module, changed in place.
        tensors: tensors by name.
        label: name of the file, for messages.

    Returns:
        Remarks on prefixes removed.

    Raises:
        BadFile: if names are missing or unexpected, or shapes differ; all of them are named.
        InvalidType: if a dtype cannot be held without rounding.
    """
    expected = module.state_dict(keep_vars=True)
    tensors, remarks = _strip_prefixes(tensors, expected, label)
    missing = [name for name in expected if name not in tensors and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in tensors if name not in expected]
    shapes = [
        f"{name}: {tuple(tensors[name].shape)} in the file, {tuple(expected[name].shape)} in the model"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    if missing or unexpected or shapes:
        parts = [f"missing {_some(missing)}"] * bool(missing) + [f"unexpected {_some(unexpected)}"] * bool(unexpected)
        parts += [f"other shapes: {_some(shapes)}"] * bool(shapes)
        raise BadFile(
            f"the weights in {label!r} do not fit the model ({'; '.join(parts)})",
            "exactly the tensors of the model are allowed",
            "Check that the file belongs to this architecture, with the same number of classes and channels.",
        )
    for name, tensor in tensors.items():
        _check_dtype(name, tensor.dtype, expected[name].dtype)
    with torch.no_grad():
        for name, tensor in tensors.items():
            expected[name].copy_(tensor)
    return remarks


def _strip_prefixes(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], label: str
) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    remarks = []
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            if not tensors or any(name in expected for name in tensors):
                break
            if all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
                remarks.append(f"the prefix {prefix!r} was removed from every name in {label}")
    return tensors, tuple(remarks)


def _check_dtype(name: str, given: torch.dtype, wanted: torch.dtype) -> None:
    if given == wanted or (torch.promote_types(given, wanted) == wanted and given.is_floating_point):
        return
    if not given.is_floating_point and not wanted.is_floating_point:
        return
    raise InvalidType(
        f"the weight {name!r} is stored as {given}",
        f"{wanted}, or a type that fits into it without rounding, is allowed",
        f"Build the model in {given}, or save the weights as {wanted}.",
    )


def _some(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def require_floats(module: nn.Module, label: str) -> None:
    """Refuse modules whose parameters are not floating point, or that hold quantised tensors.

    Raises:
        InvalidType: naming the first such tensor.
    """
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_quantized or (isinstance(tensor, nn.Parameter) and not tensor.is_floating_point()):
            raise InvalidType(
                f"the tensor {name!r} of {label} has type {tensor.dtype}",
                "floating-point weights are allowed",
                "Load the model as it was before quantisation; a quantised one has no input gradient.",
            )


def check_device(device: str) -> torch.device:
    """Return the torch device of that name.

    Raises:
        InvalidValue: if torch does not know it or this machine lacks it.
    """
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()  # the meta device makes tensors, but they hold nothing
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).split("\n", 1)[0][:120]
        raise InvalidValue(
            f"device={device!r} was given ({reason})",
            "a device of this machine is allowed",
            "Write e.g. device='cpu' or device='cuda:0'.",
        ) from error
    return found
