"""The registry of places that models come from, and what a loader hands over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from robustscope.core.errors import InvalidValue, MissingFile, did_you_mean
from robustscope.core.registry import Card, Registry


@dataclass(frozen=True)
class LoaderCard(Card):
    """A kind of model source.

    A loader is a function ``(place, weights) -> Source``: ``place`` is what the user wrote, without the prefix;
    ``weights`` is a path to a file of weights, or None.

    Args:
        form: how the user writes it, such as "net.onnx".
        prefix: text before the first colon that selects this loader, such as "timm"; empty for files.
        suffixes: endings of a file name that select it, such as (".json",).
        extra: the extra of robustscope that it needs, empty for none.
    """

    form: str = ""
    prefix: str = ""
    suffixes: tuple[str, ...] = ()
    extra: str = ""


@dataclass(frozen=True)
class Source:
    """What a loader found: a module in evaluation mode and what the source itself says about its inputs.

    Args:
        module: maps (B, *S) to logits (B, K).
        name: short display name.
        mean, std, bounds, class_names: facts of the source, None where it is silent; what the user gives goes first.
        description: text that decides what the module computes beyond its classes and tensors, for the fingerprint.
        card: facts for reports.
        remarks: what was noticed while loading, one sentence each.
    """

    module: nn.Module
    name: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    bounds: tuple[float, float] | None = None
    class_names: tuple[str, ...] | None = None
    description: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


LOADERS: Registry[LoaderCard] = Registry("model source", LoaderCard)


def find_loader(source: str) -> tuple[LoaderCard, str]:
    """Return the loader for what the user wrote, and the place it should look at.

    Raises:
        InvalidValue: if no loader knows the form; the message lists the forms.
    """
    if not isinstance(source, str) or not source.strip():
        raise InvalidValue(f"the model source {source!r} was given", _forms(), "Name a file or a model.")
    prefix, colon, rest = source.partition(":")
    for card in LOADERS:
        if colon and card.prefix and prefix == card.prefix:
            return card, rest
    path = source.split(".py:", 1)[0] + ".py" if ".py:" in source else source
    suffix = Path(path).suffix.lower()
    for card in LOADERS:
        if suffix in card.suffixes:
            return card, source
    if suffix in {".pt", ".pth", ".bin", ".ckpt"}:
        raise InvalidValue(
            f"the model source {source!r} was given",
            "a file of weights alone has no architecture; " + _forms(),
            f"Write a function that builds the network: file.py:make_model with weights={source!r}.",
        )
    prefixes = [card.prefix for card in LOADERS if card.prefix]
    hint = did_you_mean(prefix, prefixes) if colon and suffix == "" and "/" not in prefix else ""
    hint = hint if "Did you mean" in hint else "Check the ending of the file name, or the word before the colon."
    raise InvalidValue(f"the model source {source!r} was given", _forms(), hint)


def _forms() -> str:
    return "one of these forms is allowed: " + ", ".join(card.form for card in LOADERS)


def existing_file(path: str | Path) -> Path:
    """Return ``path`` if it is a file.

    Raises:
        MissingFile: if nothing, or a folder, is there.
    """
    found = Path(path).expanduser()
    if found.is_file():
        return found
    folder = found.parent
    what = "is a folder" if found.is_dir() else "does not exist"
    near = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    hint = did_you_mean(found.name, near).split("Available:")[0].strip() if near else f"Look in {folder}."
    raise MissingFile(f"the file {str(path)!r} {what}", "an existing file is allowed", hint or "Check the path.")
