"""One hash for everything that decides what a model computes."""

from __future__ import annotations

import hashlib
import inspect
import json
import textwrap
from collections.abc import Iterator, Sequence
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn


def fingerprint(
    module: nn.Module,
    *,
    bounds: Sequence[float] = (0.0, 1.0),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    description: str = "",
) -> str:
    """Return the SHA-256 of a model: its architecture, its tensors, and how its inputs are read.

    Hashed are the tree of submodules with their types and settings, the source text of every class that is not
    torch's own, names, shapes, dtypes and bytes of all parameters and buffers, bounds, mean and std. Not hashed are
    paths, names of files, devices, the training mode, and helper functions in other modules that a ``forward`` calls.

    Args:
        module: the network; only read.
        bounds, mean, std: as given to the classifier.
        description: further text that decides what the module computes, such as an architecture file.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> fingerprint(layer) == fingerprint(layer) != fingerprint(layer, bounds=(-1, 1))
        True
    """
    digest = hashlib.sha256()
    for part in _parts(module, bounds, mean, std, description):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def tensor_hash(module: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers alone; for checks that nothing was changed."""
    digest = hashlib.sha256()
    for part in _tensors(module):
        digest.update(part)
    return digest.hexdigest()


def _parts(module: nn.Module, bounds: Any, mean: Any, std: Any, description: str) -> Iterator[bytes]:
    facts = {
        "bounds": list(map(float, bounds)),
        "mean": None if mean is None else list(map(float, mean)),
        "std": None if std is None else list(map(float, std)),
        "description": description,
    }
    yield json.dumps(facts, sort_keys=True).encode()
    seen: set[type] = set()
    for name, part in module.named_modules(remove_duplicate=False):
        kind = type(part)
        generated = isinstance(part, torch.fx.GraphModule)
        label = "GraphModule" if generated else f"{kind.__module__.split('<', 1)[0]}.{kind.__qualname__}"
        own = not kind.__module__.startswith("torch.")
        settings = _settings(part) if own and not generated else part.extra_repr()
        yield f"{name}|{kind.__qualname__ if own else label}|{settings}".encode()
        if generated:
            yield part.code.encode()
        elif own and kind not in seen:
            seen.add(kind)
            yield from _sources(kind)
    yield from _tensors(module)


def _tensors(module: nn.Module) -> Iterator[bytes]:
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        yield f"{name}|{tuple(tensor.shape)}|{tensor.dtype}".encode()
        yield _bytes(tensor)


def _bytes(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu()
    plain = plain.int_repr() if plain.is_quantized else plain
    return plain.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def _settings(module: nn.Module) -> str:
    """Plain attributes of a user's module: a factor or a threshold there changes what it computes."""
    parts = []
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or name == "training":
            continue
        if isinstance(value, Tensor):
            parts.append(f"{name}={tuple(value.shape)}:{hashlib.sha256(_bytes(value)).hexdigest()}")
        elif isinstance(value, FunctionType):
            parts.append(f"{name}={source_text(value)}")
        elif isinstance(value, (bool, int, float, str, tuple, list, dict, type(None))):
            parts.append(f"{name}={value!r}")
        else:
            parts.append(f"{name}:{type(value).__qualname__}")
    return ";".join(parts)


def _sources(kind: type) -> Iterator[bytes]:
    for base in kind.__mro__:
        if base.__module__.startswith("torch.") or base in (object, nn.Module):
            continue
        for name, member in sorted(vars(base).items()):
            function = inspect.unwrap(getattr(member, "__func__", member)) if callable(member) else member
            if isinstance(function, FunctionType):
                yield f"{name}:{source_text(function)}".encode()


def source_text(function: FunctionType) -> str:
    """Return the source text of a function, or its bytecode where the text is gone."""
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return _code(function.__code__)


def _code(code: CodeType) -> str:
    """Bytecode with names and constants, for functions whose text is gone; it differs between Python versions."""
    constants = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()}|{code.co_names}|{code.co_varnames}|{constants}"
