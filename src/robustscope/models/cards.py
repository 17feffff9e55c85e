"""Architecture cards: a network as a JSON file of plain facts beside a safetensors file of weights.

The JSON object needs two entries and may have more, which are carried into reports as they are:

- ``layers``: the list that :mod:`robustscope.models.layers` describes. Tensors are named ``<index>.<tensor>``, inside
  ``residual_add`` ``<index>.main.<i>.<tensor>`` and ``<index>.shortcut.<i>.<tensor>``.
- ``input``: ``shape`` [C, H, W] or [D]; ``value_range`` [lower, upper], [0, 1] if absent; ``mean`` and ``std``, one
  number for each channel or a single one: the module sees ``(x - mean) / std``; mean 0 and std 1, or neither, is none.
- ``num_classes``, if given, must be the number of outputs. ``class_names``, if given, has one text for each class.
- ``weights``: ``file`` names the safetensors file in the same folder (``NAME.safetensors`` beside ``NAME.json`` if
  absent); ``sha256``, if given, must agree.
- Often also ``name``, ``dataset``, ``licence``, ``training``, ``published``, ``measured``, ``notes``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from robustscope.core.errors import BadFile, InvalidValue, RobustscopeError, StoreError
from robustscope.core.types import Bounds
from robustscope.models.layers import build
from robustscope.models.randomness import kept_randomness
from robustscope.models.sources import existing_file
from robustscope.models.weights import fit_weights


def read_card(path: str | Path) -> dict[str, Any]:
    """Read an architecture card.

    Raises:
        MissingFile: if there is no such file.
        BadFile: if it is not JSON, or has no layers or no input.
    """
    file = existing_file(path)
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BadFile(
            f"the file {file.name!r} is not JSON ({error})", "an architecture card is allowed", "Download it again."
        ) from error
    if (
        not isinstance(card, dict)
        or not isinstance(card.get("layers"), list)
        or not isinstance(card.get("input"), dict)
    ):
        raise BadFile(
            f"the file {file.name!r} is JSON, but no architecture card",
            "an object with 'layers' (a list) and 'input' (an object) is allowed",
            "See the format in robustscope.models.cards.",
        )
    return card


def input_facts(card: Mapping[str, Any], label: str) -> tuple[tuple[int, ...], Bounds, Any, Any]:
    """Return shape, bounds, mean and std of a card; mean and std are None where they change nothing.

    Raises:
        BadFile: if one of them is missing or makes no sense.
    """
    facts = card["input"]
    try:
        shape = tuple(int(n) for n in facts["shape"])
        bounds = Bounds(*facts.get("value_range", (0.0, 1.0))).check()
        mean, std = ([float(v) for v in facts[k]] if facts.get(k) is not None else None for k in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise BadFile(
            f"the 'input' of {label!r} cannot be read ({type(error).__name__}: {error})",
            "shape, value_range, mean and std as lists of numbers are allowed",
            "See the format in robustscope.models.cards.",
        ) from error
    if not shape or min(shape) < 1 or (mean is None) != (std is None):
        raise BadFile(
            f"the 'input' of {label!r} has shape {shape}, mean {mean} and std {std}",
            "positive sizes, and both or neither of mean and std, are allowed",
            "See the format in robustscope.models.cards.",
        )
    if mean is None or (set(mean) == {0.0} and set(std or ()) == {1.0}):
        return shape, bounds, None, None
    return shape, bounds, tuple(mean), tuple(std or ())


def build_card(
    card: Mapping[str, Any], tensors: Mapping[str, Tensor], label: str
) -> tuple[nn.Sequential, tuple[str, ...]]:
    """Build the network of a card, put the weights in, and run it once on zeros to see that the layers fit together.

    Raises:
        BadFile: if a layer or a setting is unknown, tensors are missing, unexpected or mis-shaped, or layers do not fit.
    """
    shape, *_ = input_facts(card, label)
    try:
        with kept_randomness():
            module = build(card["layers"])
    except RobustscopeError as error:
        raise BadFile(f"{label!r}: {error.given}", error.allowed, error.remedy) from error
    remarks = fit_weights(module, tensors, label)
    module.eval()
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    try:
        with torch.no_grad():
            outputs = module(torch.zeros(1, *shape, dtype=dtype))
    except (RuntimeError, ValueError, IndexError) as error:
        raise BadFile(
            f"the layers of {label!r} do not fit inputs of shape {shape} ({str(error).splitlines()[0]})",
            "layers that fit each other are allowed",
            "Compare input_shape and output_shape of the layers.",
        ) from error
    classes = card.get("num_classes", outputs.shape[-1])
    if outputs.shape != (1, classes):
        raise BadFile(
            f"the layers of {label!r} return shape {tuple(outputs.shape[1:])} for one input",
            f"({classes},) is allowed for num_classes={classes}",
            "End the network with a layer of one output for each class.",
        )
    return module, remarks


def save_model(
    path: str | Path,
    layers: Sequence[Mapping[str, Any]],
    state_dict: Mapping[str, Tensor],
    input_facts: Mapping[str, Any],
    *,
    overwrite: bool = False,
    **facts: Any,
) -> Path:
    """Write an architecture card and its weights, after checking that they load.

    Args:
        path: the JSON file; the weights go beside it, under the same name ending in .safetensors.
        layers: layer descriptions, see :mod:`robustscope.models.layers`.
        state_dict: the tensors of the network that ``build(layers)`` makes.
        input_facts: ``shape``, and if needed ``value_range``, ``mean`` and ``std``.
        overwrite: replace files that are there.
        facts: further entries of the card, such as dataset, licence, training, measured.

    Returns:
        The path of the card.

    Raises:
        InvalidValue: if the path does not end in .json, or is taken.
        BadFile: if layers and tensors do not make a network.
        StoreError: if the folder cannot be written.
    """
    target = Path(path)
    weights = target.with_suffix(".safetensors")
    if target.suffix != ".json" or (not overwrite and (target.exists() or weights.exists())):
        raise InvalidValue(
            f"path={str(path)!r} was given",
            "a new file ending in .json is allowed",
            "Name another, or say overwrite=True.",
        )
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in state_dict.items()
        if not name.endswith("num_batches_tracked")
    }
    stored = save(tensors)
    card = {
        "name": target.stem,
        **facts,
        "input": dict(input_facts),
        "weights": {"file": weights.name, "sha256": hashlib.sha256(stored).hexdigest()},
        "layers": [dict(layer) for layer in layers],
    }
    module, _ = build_card(card, tensors, target.name)
    card["num_parameters"] = sum(p.numel() for p in module.parameters())
    try:
        for file, content in ((weights, stored), (target, (json.dumps(card, indent=1) + "\n").encode())):
            part = file.with_name(file.name + ".part")
            part.write_bytes(content)
            part.replace(file)
    except OSError as error:
        raise StoreError(
            f"the model could not be written to {str(target)!r} ({error})", "a writable folder is allowed", "Check it."
        ) from error
    return target
