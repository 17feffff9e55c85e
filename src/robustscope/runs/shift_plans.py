"""What a plan says of shifts: suites of corruptions and sequences that are made on the fly, and benchmarks on disk.

An entry of ``plan["shifts"]`` names its parts, a (corruption, severity) or a family of sequences each, and all that decides
the pictures. Its shards hold samples, not models: each picture is made once and shown to every model of the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustscope.core.draws import Draws, shuffled
from robustscope.core.errors import InvalidValue, UnknownName, did_you_mean
from robustscope.corruptions import CORRUPTIONS, SUITES
from robustscope.corruptions.compose import check_pictures as check_values
from robustscope.corruptions.sequences import SEQUENCES, perturb
from robustscope.corruptions.tables import Constants, benchmark
from robustscope.data.base import Dataset
from robustscope.data.benchmarks import WNID, Sequences, positions, read_wnids
from robustscope.data.datasets import SOURCES, load_data
from robustscope.data.layouts import Layout, Part, layout, same_labels
from robustscope.data.selection import select
from robustscope.models.classifier import Classifier
from robustscope.models.loading import LoadedModel
from robustscope.models.selected import Selected, selected
from robustscope.runs.config import Config, ModelSpec
from robustscope.runs.corruption_suites import BENCHMARKS, check_pictures
from robustscope.runs.store import runs_all_cells

SERIES: Mapping[str, tuple[str, bool]] = {
    "imagenet-p": ("auto", False),
    "imagenet-p-extra": ("auto", True),
    "cifar10-p": ("cifar-10-p", False),
    "cifar10-p-extra": ("cifar-10-p", True),
}
"""Suites of sequences: the constants that their names stand for, and whether it is the authors' validation set."""
CHOSEN = "corruptions"
"""Name of the suite of corruptions that were named one by one."""
ALEXNET = "alexnet"
"""The reference whose errors on ImageNet-C were published."""
NOISE = "noise"
"""What the name of a stored sequence holds if its frames are noise, each compared with the first."""
MOST_VALUES, FEWEST = 60_000_000, 8
"""Values that a shard of shifts makes at most, with so many samples at least: what a killed run may have to repeat."""
Plan = dict[str, Any]


def add_shifts(plan: Plan, models: Mapping[str, Classifier], data: Dataset, config: Config) -> None:
    """Add to a plan the shifts that its settings ask for, and their shards.

    Args:
        plan: the plan with the shards of all attacks.
        models: name -> model, in the order of the plan.
        data: of the plan.
        config: what the user asked for.

    Raises:
        RobustscopeError: for suites that do not exist, pictures that they are not defined for, benchmarks that do not
            belong to a model, and a reference that there is not.
    """
    asked, first = config.settings.asked_shifts(data.shape), plan["models"][0]["name"]
    ids = [i for shard in plan["shards"] if runs_all_cells(shard) and shard["model"] == first for i in shard["ids"]]
    entries = list(_entries(asked, data, ids, plan["seed"]))
    _check_reference(config.settings.reference, list(models), entries)
    if not entries:
        return
    plan["shifts"] = []
    for entry in entries:
        if any(entry["name"] == other["name"] for other in plan["shifts"]):
            raise InvalidValue(
                f"the shifts {entry['name']!r} were given twice", "each once is allowed", "Remove the second."
            )
        own = entry.pop("ids", ids)
        entry |= {"index": len(plan["shifts"]), "samples": len(own)}
        entry["columns"] = _columns(entry, models, config.models)
        _rehearse(entry, models, data, config.settings.device, own)
        plan["shifts"].append(entry)
        size = MOST_VALUES // (sum(entry["frames"]) * int(np.prod(data.shape)))
        size = min(config.settings.shard_size, max(FEWEST, size))
        for start in range(0, len(own), size):
            shard = {"index": len(plan["shards"]), "model": first, "ids": own[start : start + size]}
            plan["shards"].append({**shard, "shifts": [entry["index"]]})


def forecast_shifts(plan: Mapping[str, Any]) -> int:
    """Return the rows forward that the shifts of a plan take: each frame of each picture, for each model."""
    return sum(rows_of(plan, shift) for shift in plan.get("shifts", ()))


def rows_of(plan: Mapping[str, Any], shift: Mapping[str, Any]) -> int:
    """Return the rows forward that one of them takes."""
    return shift["samples"] * sum(shift["frames"]) * len(plan["models"])


def _entries(asked: Sequence[str], data: Dataset, ids: list[int], seed: int) -> Iterator[dict[str, Any]]:
    """Yield what was asked for, in its order; corruptions that were named one by one together."""
    single = [text for text in asked if text in CORRUPTIONS]
    for text in asked:
        if text in BENCHMARKS:
            suite, constants = BENCHMARKS[text]
            yield _corrupted(text, SUITES[suite], constants, data)
        elif text in SERIES:
            yield _series(text, data, ids)
        elif text not in CORRUPTIONS:
            yield _stored(text, data, ids, seed)
        elif text == single[0]:
            parts = [(name, level + 1) for name in single for level in range(CORRUPTIONS[name].severities)]
            yield _corrupted(CHOSEN, parts, "auto", data)


def _corrupted(name: str, parts: Sequence[Part], constants: Constants, data: Dataset) -> dict[str, Any]:
    """Return the entry of corruptions that are made here."""
    check_pictures(data, parts)
    cards = [CORRUPTIONS[corruption] for corruption in dict.fromkeys(corruption for corruption, _ in parts)]
    return {
        "name": name,
        "kind": "corruptions",
        "parts": [list(part) for part in parts],
        "frames": [1] * len(parts),
        "versions": {card.name: card.version for card in cards},
        "constants": benchmark(constants, torch.empty(1, *data.shape)),
        "rounding": "truncate",
        "families": {card.name: card.family for card in cards},
        "paired": True,
        "comparable": True,
    }


def _series(name: str, data: Dataset, ids: list[int]) -> dict[str, Any]:
    """Return the entry of a suite of sequences; one picture tells how many frames each has."""
    check_pictures(data, ())
    x = data.read(ids[:1])
    constants, validation = SERIES[name]
    cards = [card for card in SEQUENCES if card.validation == validation]
    return {
        "name": name,
        "kind": "sequences",
        "parts": [[card.name, 0] for card in cards],
        "frames": [perturb(card.name, x, constants=constants).shape[1] for card in cards],
        "versions": {card.name: card.version for card in cards},
        "constants": constants,
        "rounding": "truncate",
        "noise": [card.name for card in cards if card.noise],
        "paired": True,
        "comparable": True,
    }


def _stored(text: str, data: Dataset, ids: list[int], seed: int) -> dict[str, Any]:
    """Return the entry of a benchmark on disk, or of a data source that is one shift."""
    source = text.partition(":")[0]
    if source in SOURCES and ":" in text:
        opened = load_data(text)
        found = Layout(opened.name, {(opened.name, 1): text})
    elif "/" in text or Path(text.partition("?")[0]).exists():
        found = layout(text)
    else:
        known = [*BENCHMARKS, *SERIES, *(card.name for card in CORRUPTIONS)]
        raise UnknownName(f"the shifts {text!r} were asked for", "", did_you_mean(text, known))
    pictures = [stored(found.sequences, place) for place in found.parts.values()]
    first, labels = pictures[0], _labels(pictures[0])
    for part, one in zip(found.parts, pictures, strict=True):
        if len(one) != len(first) or not same_labels(_labels(one), labels):
            raise InvalidValue(
                f"{part} of {text} holds {len(one)} pictures, other than the {len(first)} of the first part",
                "the same pictures in every part are allowed",
                "Copy the benchmark again, or give its parts one by one.",
            )
    paired = len(first) == len(data) and (isinstance(first, Sequences) or same_labels(labels, data.labels))
    own = ids
    if not paired and isinstance(first, Dataset):
        own = select(first, min(len(ids), len(first)), seed)
    elif not paired:
        own = sorted(shuffled(range(len(first)), seed, "shifts")[: len(ids)])
    return {
        "name": found.name,
        "kind": "sequences" if found.sequences else "stored",
        "parts": [list(part) for part in found.parts],
        "frames": [one.frames if isinstance(one, Sequences) else 1 for one in pictures],
        "sources": list(found.parts.values()),
        "fingerprints": [mark_of(one, own) for one in pictures],
        "noise": [name for name, _ in found.parts if found.sequences and NOISE in name],
        "classes": _names(first),
        "paired": paired,
        "comparable": paired or (isinstance(_names(first), list) and _names(first) == _names(data)),
        "ids": own,
    }


def stored(sequences: bool, place: str) -> Dataset | Sequences:
    """Open one part of a benchmark on disk."""
    return Sequences(place) if sequences else load_data(place)


def _labels(pictures: Dataset | Sequences) -> np.ndarray:
    """Return the classes of pictures; sequences have none."""
    return pictures.labels if isinstance(pictures, Dataset) else np.empty(0, dtype=np.int64)


def mark_of(pictures: Dataset | Sequences, ids: Sequence[int]) -> str:
    """Return the sha-256 of the pictures of a part that are evaluated."""
    if isinstance(pictures, Dataset):
        return pictures.fingerprint(ids)
    digest = hashlib.sha256(str((pictures.frames, pictures.shape, len(ids))).encode())
    for start in range(0, len(ids), FEWEST):
        digest.update((pictures.read(ids[start : start + FEWEST]) * 255).round().byte().numpy().tobytes())
    return digest.hexdigest()


def _names(pictures: Dataset | Sequences) -> list[str] | int | None:
    """Return the WordNet ids of the classes, or how many classes there are; None for sequences, which have none."""
    if isinstance(pictures, Sequences):
        return None
    names = pictures.class_names or ()
    return list(names) if names and all(map(WNID.fullmatch, names)) else pictures.num_classes


def asked_outputs(model: LoadedModel, spec: ModelSpec, data: Dataset) -> LoadedModel:
    """Return a model that is asked about the classes of the data alone, if it has a list of its classes.

    Raises:
        InvalidValue: if the data's classes are not among them, or have no WordNet ids.
        MissingFile, BadFile: if the list cannot be read.
    """
    names = list(data.class_names or ())
    if spec.classes is None:
        return model
    whole = read_wnids(spec.classes)
    if not names or not all(map(WNID.fullmatch, names)):
        raise InvalidValue(
            f"a list of classes was given for {model.name!r}, and the classes of {data.name!r} are not named by WordNet ids",
            "data in folders named by WordNet ids are allowed with it",
            "Leave --classes out, or give the data as wnids:FOLDER.",
        )
    places, classifier = positions(names, whole).tolist(), model.classifier
    weight = next(classifier.module.parameters(), torch.empty(0))
    outputs = classifier.classes(data.read([0]).to(weight.device))
    classifier.ledger.reset()
    if outputs != len(whole):
        raise InvalidValue(
            f"{spec.classes} names {len(whole)} classes, and {model.name!r} has {outputs} outputs",
            "one class for each output is allowed",
            "Give the list that belongs to this model.",
        )
    return model if names == whole else selected(model, places, whole)


def _columns(
    entry: Mapping[str, Any], models: Mapping[str, Classifier], specs: Sequence[ModelSpec]
) -> dict[str, list[int]]:
    """Return which outputs of a model are compared on a benchmark of fewer classes; models that have all are left out.

    Raises:
        InvalidValue: if a class is missing, or the classes of a model with other outputs are not known.
    """
    found, classes = {}, entry.get("classes")
    for (name, model), spec in zip(models.items(), specs, strict=True):
        outputs = model.num_classes or 0
        if isinstance(classes, list) and spec.classes is not None:
            chosen = isinstance(model.module, Selected)
            whole = list(model.class_names or ()) if chosen else read_wnids(spec.classes)
            places = positions(classes, whole).tolist()
            if places != list(range(outputs)):
                found[name] = places
        elif isinstance(classes, list) and outputs != len(classes):
            raise InvalidValue(
                f"{entry['name']} has {len(classes)} classes and the model {name!r} {outputs} outputs",
                "as many outputs, or a list of the classes of all outputs, are allowed",
                "Give --classes LIST, a file of the WordNet ids of the model's outputs in their order.",
            )
        elif isinstance(classes, int) and classes > outputs:
            raise InvalidValue(
                f"{entry['name']} has {classes} classes and the model {name!r} {outputs} outputs",
                "at least as many outputs as classes are allowed",
                "Choose the benchmark that belongs to this model.",
            )
    return found


def _rehearse(
    entry: Mapping[str, Any], models: Mapping[str, Classifier], data: Dataset, device: str, ids: Sequence[int]
) -> None:
    """Show one picture of a shift to every model, so that what cannot work is refused before anything runs."""
    name, _ = entry["parts"][0]
    x = data.read(ids[:FEWEST]) if "sources" not in entry else None
    if x is None:
        x = stored(entry["kind"] == "sequences", entry["sources"][0]).read(ids[:1]).flatten(0, -4)[:1]
    else:
        check_values(
            (SEQUENCES if entry["kind"] == "sequences" else CORRUPTIONS)[name], x, Draws(0, tuple(ids[:FEWEST])), "none"
        )
    for label, model in models.items():
        if tuple(model.bounds) != (0.0, 1.0):
            raise InvalidValue(
                f"shifts were asked for, and the bounds of the model {label!r} are {tuple(model.bounds)}",
                "the bounds (0, 1) are allowed, for the pictures have values in [0, 1]",
                "Load the model with mean and std instead of other bounds.",
            )
        model.logits(x[:1].to(device))
        model.ledger.reset()


def _check_reference(reference: str, models: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a reference that there is not.

    Raises:
        InvalidValue: for another name, and for AlexNet where it has no published errors.
        UnknownName: for no model of this run.
    """
    if not reference:
        return
    if not entries:
        raise InvalidValue(
            f"reference={reference!r} was given without shifts",
            "it is allowed with shifts",
            "Name shifts, or leave it out.",
        )
    if reference == ALEXNET and reference not in models:
        official = {name for name, _ in SUITES["imagenet-c"]}
        fits = [
            {name for name, _ in e["parts"]} == official and e.get("constants", "imagenet-c") == "imagenet-c"
            for e in entries
        ]
        if not any(fits):
            raise InvalidValue(
                "reference='alexnet' was given for other shifts than ImageNet-C",
                "the fifteen corruptions at the constants for 224 pixels are allowed",
                "Its errors are published for these; give a model of the run instead.",
            )
    elif reference not in models:
        raise UnknownName(f"the reference {reference!r} was given", "", did_you_mean(reference, [ALEXNET, *models]))
