"""``file.py:make_model``: a Python file and the function in it that builds the network."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from robustscope.core.errors import BadFile, InvalidType, InvalidValue, ModelError, UnknownName, did_you_mean
from robustscope.models.sources import LOADERS, Source, existing_file
from robustscope.models.weights import fit_weights, read_weights


@LOADERS.register(
    "python",
    version=1,
    source="Format of this package",
    form="file.py:make_model (runs the file; add weights= to load a checkpoint)",
    suffixes=(".py",),
)
def load_python(place: str, weights: str | None) -> Source:
    """Run a Python file, call the named function without arguments, and load weights into what it returns.

    The file may import its neighbours. Afterwards ``sys.path`` and the modules of that folder are as before, so a
    ``forward`` must not import neighbours when it runs. No byte code is written beside the file.

    Args:
        place: ``path.py:name``; the name may also be a class without arguments or a module already built.
        weights: path of a checkpoint, or None.

    Raises:
        MissingFile, BadFile: if the file is not there, or is not Python.
        UnknownName: if it has no such name.
        InvalidValue, InvalidType: if no name was given, the function needs arguments or returns no module.
        ModelError: if the file or the function raises.
    """
    head, _, name = place.partition(".py:")
    if not name:
        found = existing_file(place)
        raise InvalidValue(
            f"the model source {place!r} names no function", "FILE.py:FUNCTION is allowed", f"Write {found}:make_model."
        )
    path = existing_file(head + ".py")
    with _neighbours(path):
        module, namespace = _run(path, name)
    remarks: tuple[str, ...] = ()
    if weights is not None:
        tensors, unwrapped = read_weights(weights)
        remarks = (*unwrapped, *fit_weights(module, tensors, Path(weights).name))
    label = Path(weights).stem if weights else f"{path.stem}-{name}"
    text = inspect.cleandoc(namespace.__doc__ or "").split("\n", 1)[0]
    return Source(
        module.eval(),
        label,
        description=path.read_text(encoding="utf-8"),
        card={"description": text} if text else {},
        remarks=remarks,
    )


def _run(path: Path, name: str) -> tuple[nn.Module, ModuleType]:
    namespace = ModuleType(f"_robustscope_model_{path.stem}")
    namespace.__file__ = str(path.resolve())
    # Dataclasses and pickling of classes look their module up while the file runs; _neighbours removes it again.
    sys.modules[namespace.__name__] = namespace
    try:
        code = compile(path.read_bytes(), str(path.resolve()), "exec")
    except (SyntaxError, ValueError) as error:
        raise BadFile(f"{path.name!r} is not Python ({error})", "a Python file is allowed", "Correct it.") from error
    _guarded(f"the file {path.name!r}", path, lambda: exec(code, namespace.__dict__))
    public = {key: value for key, value in vars(namespace).items() if not key.startswith("_")}
    if name not in vars(namespace):
        own = [k for k, v in public.items() if callable(v) and getattr(v, "__module__", "") == namespace.__name__]
        raise UnknownName(f"{path.name!r} has no {name!r}", "", did_you_mean(name, own))
    maker = vars(namespace)[name]
    if isinstance(maker, nn.Module):
        return maker, namespace
    if not callable(maker):
        raise InvalidType(
            f"{name!r} in {path.name!r} is a {type(maker).__name__}",
            "a function is allowed",
            "Name the one that builds it.",
        )
    needed = _needed(maker)
    if needed:
        raise InvalidValue(
            f"{name!r} in {path.name!r} needs arguments ({', '.join(needed)})",
            "a function that can be called without arguments is allowed",
            f"Add to the file: def make_model(): return {name}(...) and name that.",
        )
    module = _guarded(f"{name}() in {path.name!r}", path, maker)
    if not isinstance(module, nn.Module):
        raise InvalidType(
            f"{name}() in {path.name!r} returned a {type(module).__name__}",
            "a torch.nn.Module is allowed",
            "Return the network itself, not a tuple, a dictionary of weights or None.",
        )
    return module, namespace


def _needed(maker: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(maker).parameters.values()
    except (TypeError, ValueError):
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]


def _guarded(what: str, path: Path, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (Exception, SystemExit) as error:
        trace, line = error.__traceback__, None
        while trace is not None:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == str(path.resolve()) else line
            trace = trace.tb_next
        where = f" at line {line}" if line else ""
        raise ModelError(
            f"{what} raised {type(error).__name__}{where}: {error}",
            "a file that runs without errors is allowed",
            "Try it alone: python -c 'import runpy; runpy.run_path(...)'. Look at the cause above.",
        ) from error


@contextmanager
def _neighbours(path: Path) -> Generator[None]:
    """Let the file import its neighbours; afterwards put the import system back."""
    folder = path.resolve().parent
    before_path, before_names, before_flag = list(sys.path), set(sys.modules), sys.dont_write_bytecode
    hidden = {name: sys.modules.pop(name) for name in _strangers(folder)}
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.path[:] = before_path
        sys.dont_write_bytecode = before_flag
        for name in set(sys.modules) - (before_names - set(hidden)):
            if name.startswith("_robustscope_model_") or _lies_in(sys.modules[name], folder):
                del sys.modules[name]
        sys.modules.update(hidden)


def _strangers(folder: Path) -> list[str]:
    """Names of modules from elsewhere that hide a neighbour of the same name."""
    own = {entry.stem for entry in folder.glob("*.py")} | {entry.parent.name for entry in folder.glob("*/__init__.py")}
    return [
        name
        for name, module in list(sys.modules.items())
        if name.split(".", 1)[0] in own - set(sys.stdlib_module_names) - {"torch", "numpy", "robustscope"}
        if not _lies_in(module, folder)
    ]


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return False
    place = Path(file).resolve()
    return place.is_relative_to(folder) and "site-packages" not in place.relative_to(folder).parts
