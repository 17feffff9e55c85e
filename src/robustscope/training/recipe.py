"""What a training is: one dataclass behind the TOML file, the command line and Python."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from robustscope.core.errors import InvalidValue, UnknownName, did_you_mean
from robustscope.core.forms import build, conform, read_toml, to_dict
from robustscope.training.augment import AUGMENTATIONS
from robustscope.training.schedules import SCHEDULES

ALARMS = ("warn", "stop", "rollback")
AVERAGES = ("none", "ema", "swa")
PRECISIONS = ("float32", "bfloat16", "float16")
OPTIMIZERS = ("sgd", "adam", "adamw")
BEST_BY = ("robust", "clean", "last")
SCOPES = ("global", "layer")
METHODS = ("magnitude", "surgery")
TABLES = {"objective": "parameters", "model": "model_parameters", "schedule": "schedule_parameters"}
"""What is chosen by name -> the table of its settings."""


@dataclass(frozen=True)
class Sparsity:
    """How many weights are pruned, and when.

    The share of pruned weights rises as amount * (1 - (1 - u)^3), u the part of the way from ``begin`` to ``end``; it
    changes at the start of an epoch. Biases and the weights of batch norm are never pruned.

    Args:
        amount: share of the weights that are 0 at the end, from 0 (none) to below 1.
        scope: "global" prunes the smallest weights of all layers together, "layer" the same share of each.
        method: "magnitude": what is pruned stays 0. "surgery": pruned weights go on learning out of sight, and come back
            when they have grown past others.
        begin, end: shares of the training; equal, they mean all at once.

    Raises:
        InvalidType, InvalidValue: for values that are not allowed.
    """

    amount: float = 0.0
    scope: str = "global"
    method: str = "magnitude"
    begin: float = 0.25
    end: float = 0.75

    def __post_init__(self) -> None:
        conform(self)
        for name, allowed in (("scope", SCOPES), ("method", METHODS)):
            value = getattr(self, name)
            if value not in allowed:
                raise InvalidValue(
                    f"sparsity.{name}={value!r} was given",
                    f"one of {allowed} is allowed",
                    did_you_mean(value, allowed),
                )
        if not 0 <= self.amount < 1 or not 0 <= self.begin <= self.end < 1:
            raise InvalidValue(
                f"sparsity with amount={self.amount}, begin={self.begin} and end={self.end} was given",
                "0 <= amount < 1 and 0 <= begin <= end < 1 are allowed",
                "Write e.g. amount = 0.9, begin = 0.25, end = 0.75.",
            )


@dataclass(frozen=True)
class Recipe:
    """A training as the user asks for it.

    Args:
        data: training set, such as "digits#train", "mnist:FOLDER#train", "cifar10:FOLDER#train".
        objective: name in the registry of objectives.
        parameters: its parameters that differ from the defaults.
        threat: threat model that it trains against, such as "linf:8/255".
        model: architecture of ``models.zoo``, or the path of an architecture card whose layers and weights are the start.
        model_parameters: of the architecture, such as width.
        mean, std: normalisation in front of the network, for each channel.
        samples: which samples of the training set, as for ``evaluate``.
        validation: held-out samples, taken from the training set: a number, or the fraction that they are.
        validation_data: a data set of its own for validation; then ``validation`` is how many samples of it.
        epochs: passes over the training set.
        batch_size: samples in a batch, over all processes; the last one of an epoch may be smaller, and takes one sample more
            rather than leave it alone.
        optimizer: "sgd", "adam" or "adamw".
        learning_rate: the highest; ``schedule`` gives the factor.
        momentum, nesterov: of "sgd".
        weight_decay: of the optimizer.
        schedule: "flat", "cyclic", "piecewise" or "cosine"; see ``training.schedules``.
        schedule_parameters: of the schedule.
        epsilon_ramp: share of the training in which epsilon rises from 0 to its value.
        augment: "flip", "crop", "cutout", in this order.
        clip_norm: largest l2 norm of the gradient of all weights; 0 leaves it as it is.
        average: weights that are judged and saved: those of the last step ("none"), their exponential moving average
            ("ema"), or the mean of the epochs in the last quarter ("swa").
        ema_decay: of "ema", for each update.
        precision: "float32", "bfloat16" or "float16", of mixed precision.
        seed: seed of every random number.
        device: torch device.
        threads: torch threads, which change the last bits of a result; 0 leaves torch's own number.
        validation_steps: steps of the PGD that measures robust accuracy on held-out samples.
        best_by: which epoch is saved as the model: best "robust" or "clean" accuracy on held-out samples, or the "last".
        patience: stop when ``best_by`` has not improved for so many epochs; 0 never.
        alarm: what happens at catastrophic overfitting: "warn", "stop" with the weights from before, or "rollback" to them
            and go on at half the learning rate.
        alarm_every: updates between two looks of the alarm; 0 looks at the end of each epoch.
        sparsity: how many weights are pruned, and when; see :class:`Sparsity`. Only epochs with all of them pruned count
            for ``best_by``.
        dropout: share of the inputs of each linear layer that are dropped while training, but for the network's first
            layer; there are none of it in the network that is saved.

    Raises:
        InvalidType, InvalidValue, UnknownName: for values that are not allowed.
    """

    data: str
    objective: str = "fast"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    threat: str = "linf:8/255"
    model: str = "small_cnn"
    model_parameters: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    samples: str | int = "all"
    validation: float = 0.1
    validation_data: str = ""
    epochs: int = 15
    batch_size: int = 128
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "cyclic"
    schedule_parameters: Mapping[str, Any] = field(default_factory=dict)
    epsilon_ramp: float = 0.0
    augment: tuple[str, ...] = ()
    clip_norm: float = 0.0
    average: str = "none"
    ema_decay: float = 0.999
    precision: str = "float32"
    seed: int = 0
    device: str = "cpu"
    threads: int = 0
    validation_steps: int = 10
    best_by: str = "robust"
    patience: int = 0
    alarm: str = "warn"
    alarm_every: int = 0
    sparsity: Sparsity = Sparsity()
    dropout: float = 0.0

    def __post_init__(self) -> None:
        conform(self)
        for name, allowed in (
            ("optimizer", OPTIMIZERS),
            ("schedule", tuple(SCHEDULES)),
            ("average", AVERAGES),
            ("precision", PRECISIONS),
            ("best_by", BEST_BY),
            ("alarm", ALARMS),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise InvalidValue(
                    f"{name}={value!r} was given", f"one of {allowed} is allowed", did_you_mean(value, allowed)
                )
        for name in self.augment:
            if name not in AUGMENTATIONS:
                raise UnknownName(f"augment={name!r} was given", "", did_you_mean(name, AUGMENTATIONS))
        least = {"epochs": 1, "batch_size": 1, "validation_steps": 1, "patience": 0, "alarm_every": 0, "threads": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InvalidValue(
                    f"{name}={getattr(self, name)} was given", f"{low} or more is allowed", f"Correct {name}."
                )
        for name in ("learning_rate", "momentum", "weight_decay", "clip_norm", "epsilon_ramp", "validation"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InvalidValue(
                    f"{name}={getattr(self, name)} was given", "a finite number >= 0 is allowed", f"Correct {name}."
                )
        mean, std = self.mean, self.std
        if (mean is None) != (std is None) or (mean and std and (len(mean) != len(std) or min(std) <= 0)):
            raise InvalidValue(
                f"mean={mean} and std={std} were given",
                "both, with one number > 0 of std for each of mean, or neither are allowed",
                "Give one of each for each channel.",
            )
        if not 0 < self.ema_decay < 1:
            raise InvalidValue(f"ema_decay={self.ema_decay} was given", "0 to 1 is allowed", "Write e.g. 0.999.")
        if not 0 <= self.dropout < 1:
            raise InvalidValue(f"dropout={self.dropout} was given", "0 to below 1 is allowed", "Write e.g. 0.5.")
        if self.sparsity.amount and self.sparsity.end > (self.epochs - 1) / self.epochs:
            raise InvalidValue(
                f"sparsity.end={self.sparsity.end} was given for {self.epochs} epochs",
                f"at most {(self.epochs - 1) / self.epochs:.3g}, the start of the last epoch, is allowed",
                "Prune earlier, or train longer: weights that stay must learn to do without the others.",
            )

    def identity(self) -> str:
        """Return the SHA-256 of everything here but the device, so that a training can go on elsewhere."""
        facts = {key: value for key, value in to_dict(self).items() if key != "device"}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def recipes() -> dict[str, Path]:
    """Return the recipes inside the package: name -> file."""
    folder = Path(str(files("robustscope.training") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(place: str | Path, **changes: Any) -> Recipe:
    """Read a recipe of the package by name, or a TOML file by path.

    Args:
        place: name such as "mnist-fast", or path.
        changes: values that replace those of the file; tables such as ``parameters`` are merged, unless they belong to
            what another objective, model or schedule replaces.

    Raises:
        MissingFile, BadFile, UnknownName, InvalidType, InvalidValue: naming the key.
    """
    known = recipes()
    text = str(place)
    if text not in known and not text.endswith(".toml"):
        raise UnknownName(
            f"the recipe {text!r} was given", "", did_you_mean(text, known) + " Or give a path ending in .toml."
        )
    raw = read_toml(known.get(text, Path(text)))
    for key, table in TABLES.items():
        if changes.get(key, raw.get(key)) != raw.get(key):
            raw.pop(table, None)
    for key, value in changes.items():
        raw[key] = {**raw.get(key, {}), **value} if isinstance(value, Mapping) else value
    return build(Recipe, raw, "")
