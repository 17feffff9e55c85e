"""Strict forms: plain data from TOML, JSON or a command line into dataclasses, and back. No torch here."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args, get_origin

from robustscope.core.errors import BadFile, InvalidType, InvalidValue, MissingFile, UnknownName, did_you_mean


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        MissingFile, BadFile: if there is no such file or it is not TOML.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFile(f"the configuration {path} does not exist", "a TOML file is allowed", "Check the path.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadFile(f"{path} is not TOML ({error})", "a TOML file is allowed", "Correct that line.") from error


def to_dict(config: Any) -> Any:
    """Return nested dataclasses as plain JSON data."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, (list, tuple)):
        return [to_dict(item) for item in config]
    return dict(config) if isinstance(config, Mapping) else config


def conform(spec: Any) -> None:
    """Check each field of a configuration dataclass against its annotation; lists become tuples, integers floats.

    Raises:
        InvalidType: naming the field and what it wants.
    """
    for name, hint in typing.get_type_hints(type(spec)).items():
        object.__setattr__(spec, name, value_as(hint, getattr(spec, name), name))


def build(kind: Any, raw: Any, where: str) -> Any:
    """Turn plain data into the dataclass ``kind``; ``where`` is the path of keys so far, for messages."""
    if not isinstance(raw, Mapping):
        raise InvalidType(
            f"{where or 'the configuration'} is {raw!r}", "a table of keys is allowed", "Write it as a TOML table."
        )
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in raw:
        if key not in fields:
            raise UnknownName(f"the key {_join(where, key)!r} was given", "", did_you_mean(str(key), fields))
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and name not in raw:
            raise InvalidValue(
                f"the key {_join(where, name)!r} is missing", "it has no default", "Add it to the configuration."
            )
    return kind(**{key: value_as(hints[key], value, _join(where, key)) for key, value in raw.items()})


def value_as(hint: Any, value: Any, where: str) -> Any:
    """Return ``value`` as the annotation wants it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        kinds = [kind for kind in arguments if kind is not type(None)]
        exact = [kind for kind in kinds if type(value) is kind]
        return value_as((exact or kinds)[0], value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _wrong(where, value, "a list", "Put it into [brackets].")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise _wrong(where, value, f"a list of {len(arguments)} values", "Give exactly so many.")
        kind = arguments[0]
        return tuple(value_as(kind, item, f"{where}[{i}]") for i, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, cast(type, hint)) else build(hint, value, where)
    if origin is not None:  # Mapping[str, Any]
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "a table of keys", "Write it as key = value pairs.")
        return dict(value)
    return _plain(hint, value, where)


_PLAIN: dict[type, tuple[str, str]] = {
    str: ("a text", "Write it in quotes."),
    int: ("an integer", "Write a whole number, without quotes."),
    float: ("a number", "Write a number, without quotes."),
    bool: ("true or false", "Write true or false, without quotes."),
}


def _plain(kind: type, value: Any, where: str) -> Any:
    """Return a text, number or flag; an integer will do for a float, and no flag passes for a number."""
    allowed, remedy = _PLAIN[kind]
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise _wrong(where, value, allowed, remedy)
    try:
        return kind(value)
    except OverflowError:
        raise _wrong(where, value, "a number that a float can hold", "Write a smaller one.") from None


def _wrong(where: str, value: Any, allowed: str, remedy: str) -> InvalidType:
    return InvalidType(f"{where}={value!r} was given", f"{allowed} is allowed", remedy)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
