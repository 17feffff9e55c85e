"""From a recipe to a network, and from a trained network to files that ``robustscope evaluate`` takes as they are."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from robustscope import __version__
from robustscope.core.draws import key
from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.core.files import write_atomically, write_json, write_text
from robustscope.core.types import ThreatModel
from robustscope.data.base import Dataset
from robustscope.models.cards import read_card, save_model
from robustscope.models.layers import build
from robustscope.models.loaders.card_file import load_card
from robustscope.models.zoo import ARCHITECTURES
from robustscope.training.checkpoints import history_csv
from robustscope.training.recipe import Recipe


@dataclass(frozen=True)
class Architecture:
    """The network at the start.

    Args:
        module: the network.
        layers: its description, see ``models.layers``; None if it was given as a module.
        shape: of one input.
        classes: names of the classes, or None.
    """

    module: nn.Module
    layers: Sequence[Mapping[str, Any]] | None
    shape: tuple[int, ...]
    classes: tuple[str, ...] | None = None


def architecture(recipe: Recipe, data: Dataset, module: nn.Module | None) -> Architecture:
    """Build the network that a recipe names, with weights drawn from the seed, or read from a card.

    Call it inside ``kept_randomness``: torch draws initial weights from its global generator.

    Raises:
        UnknownName, InvalidValue, InvalidType: for an architecture or settings that do not exist.
        MissingFile, BadFile: for a card that cannot be read.
    """
    if module is not None:
        if not isinstance(module, nn.Module):
            raise InvalidType(
                f"a {type(module).__name__} was given as the network",
                "a torch.nn.Module is allowed",
                "Pass the module.",
            )
        return Architecture(module, None, data.shape, data.class_names)
    if recipe.model.endswith(".json"):
        source = load_card(recipe.model, None)
        if (source.mean, source.std) != (recipe.mean, recipe.std):
            raise InvalidValue(
                f"mean={recipe.mean} and std={recipe.std} were given for {Path(recipe.model).name!r}, which was trained "
                f"behind mean={source.mean} and std={source.std}",
                "the normalisation that the weights know is allowed",
                "Copy mean and std of the card into the recipe.",
            )
        return Architecture(source.module, read_card(recipe.model)["layers"], data.shape, data.class_names)
    card = ARCHITECTURES[recipe.model]
    layers = card.function(data.shape, data.num_classes, **card.resolve(recipe.model_parameters))
    torch.manual_seed(key(recipe.seed, "train", "weights", 0))
    return Architecture(build(layers), layers, data.shape, data.class_names)


def write_record(
    out: Path, recipe: Mapping[str, Any], history: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> None:
    """Write ``history.csv`` and ``training.json``: all that the report of a training is made from."""
    versions = {"robustscope": __version__, "torch": str(torch.__version__), "python": platform.python_version()}
    write_text(out / "history.csv", history_csv(history))
    write_json(out / "training.json", {"recipe": dict(recipe), **facts, "versions": versions})


def save_trained(
    out: Path, recipe: Recipe, made: Architecture, module: nn.Module, best: Mapping[str, Any], stopped: str
) -> Path:
    """Write ``model.json`` beside ``model.safetensors``; return the path of the model.

    A network that was given as a module has no description, and gets ``model.safetensors`` alone.
    """
    if made.layers is None:
        path = out / "model.safetensors"
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
        write_atomically(path, lambda part: part.write_bytes(save(tensors)))
        return path
    facts: dict[str, Any] = {"shape": list(made.shape), "value_range": list(ThreatModel.parse(recipe.threat).bounds)}
    if recipe.mean is not None:
        facts |= {"mean": list(recipe.mean), "std": list(recipe.std or ())}
    return save_model(
        out / "model.json",
        made.layers,
        module.state_dict(),
        facts,
        overwrite=True,
        **({"class_names": list(made.classes)} if made.classes else {}),
        training={
            "objective": recipe.objective,
            "threat": recipe.threat,
            "epoch": best.get("epoch"),
            "stopped": stopped,
        },
        measured={name: best[name] for name in ("clean", "fgsm", "robust") if name in best},
    )
