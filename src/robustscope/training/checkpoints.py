"""Checkpoints of a training: one file, written whole, holding tensors and plain containers only."""

from __future__ import annotations

import copy
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from robustscope.core.errors import InvalidValue
from robustscope.core.files import write_atomically, write_json
from robustscope.models.weights import read_pickle_safely
from robustscope.training.cards import Passes
from robustscope.training.monitor import Reading

if TYPE_CHECKING:
    from robustscope.training.loop import Training

NAME = "checkpoint.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a training.

    Raises:
        StoreError: if the folder cannot be written.
    """
    write_atomically(folder / NAME, lambda part: torch.save(state, part))


def load(folder: Path, identity: str) -> dict[str, Any] | None:
    """Return the state of the training in a folder; None if there is none.

    Args:
        folder: run folder.
        identity: of the training that asks: its recipe, samples and versions.

    Raises:
        UnsafeFile, BadFile: if the file is not a checkpoint of this package.
        InvalidValue: if it belongs to another training.
    """
    file = folder / NAME
    if not file.is_file():
        return None
    state = read_pickle_safely(file)
    if not isinstance(state, dict) or state.get("identity") != identity:
        raise InvalidValue(
            f"the folder {str(folder)!r} holds a checkpoint of another training",
            "the same recipe, data and version are allowed to go on with it",
            "Name another folder, or use the recipe.json that lies there.",
        )
    return state


def capture(training: Training) -> dict[str, Any]:
    """Return everything that the next epoch depends on, copied."""
    return copy.deepcopy(
        {
            "identity": training.identity,
            "epoch": training.epoch,
            "attempt": training.attempt,
            "stopped": training.stopped,
            "module": training.network.module.state_dict(),
            "optimizer": training.optimizer.state_dict(),
            "scaler": training.scaler.state_dict(),
            "average": training.average.state_dict() if training.average is not None else {},
            "memory": dict(training.memory),
            "pruner": training.pruner.state(),
            "history": training.history,
            "best": training.best,
            "best_weights": training.best_weights,
            "before": vars(training.before),
            "passes": vars(training.passes()),
        }
    )


def put_back(training: Training, state: Mapping[str, Any]) -> None:
    """Bring a training to a state that :func:`capture` returned."""
    state = copy.deepcopy(dict(state))
    training.epoch, training.attempt, training.stopped = state["epoch"], state["attempt"], state["stopped"]
    training.network.module.load_state_dict(state["module"])
    training.optimizer.load_state_dict(state["optimizer"])
    training.scaler.load_state_dict(state["scaler"])
    if training.average is not None:
        training.average.load_state_dict(state["average"])
    training.pruner.load(state["pruner"])
    training.memory = {name: tensor.to(training.device) for name, tensor in state["memory"].items()}
    training.history, training.best, training.best_weights = state["history"], state["best"], state["best_weights"]
    training.before = Reading(**state["before"])
    training.spent = Passes(**state["passes"])
    training.network.forward_rows = training.network.backward_rows = training.network.partial_rows = 0


def write_recipe(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Write the recipe of a training, all defaults filled in."""
    write_json(folder / "recipe.json", dict(recipe))


def history_csv(history: Sequence[Mapping[str, Any]]) -> str:
    """Return the history as a table, one line for each epoch."""
    names = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
