"""``net.json`` or ``net.safetensors``: an architecture card beside its weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from robustscope.core.errors import BadFile, MissingFile
from robustscope.models.cards import build_card, input_facts, read_card
from robustscope.models.sources import LOADERS, Source, existing_file
from robustscope.models.weights import read_safetensors, read_weights


@LOADERS.register(
    "card",
    version=1,
    source="Format of this package: robustscope.models.cards",
    form="net.json (architecture card beside net.safetensors)",
    suffixes=(".json", ".safetensors"),
)
def load_card(place: str, weights: str | None) -> Source:
    """Build the network that a card describes and load its weights.

    Args:
        place: path of the JSON file, or of the safetensors file with the card of the same name beside it.
        weights: another file of weights for the same architecture, or None.

    Raises:
        MissingFile: if the card or the weights are not there.
        BadFile: if one of them cannot be used; see :func:`robustscope.models.cards.build_card`.
    """
    given = existing_file(place)
    path = given.with_suffix(".json")
    if not path.is_file():
        raise MissingFile(
            f"{given.name!r} was given, but there is no {path.name!r} beside it",
            "weights need an architecture card",
            "Put the card beside the weights, or write file.py:make_model with weights=...",
        )
    card = read_card(path)
    remarks: tuple[str, ...] = ()
    if weights is not None:
        tensors, remarks = read_weights(weights)
        label = Path(weights).name
    else:
        file = given if given.suffix == ".safetensors" else _weights_of(card, path)
        tensors, label = read_safetensors(file), file.name
        expected = card["weights"].get("sha256") if isinstance(card.get("weights"), dict) else None
        if expected is not None and hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise BadFile(
                f"the SHA-256 of {file.name!r} is not the one that {path.name!r} states",
                "the weights that the card was written for are allowed",
                "Download both again.",
            )
    module, more = build_card(card, tensors, path.name if weights is None else label)
    _, bounds, mean, std = input_facts(card, path.name)
    names = card.get("class_names")
    return Source(
        module,
        str(card.get("name", path.stem)),
        mean=mean,
        std=std,
        bounds=bounds,
        class_names=tuple(map(str, names)) if names else None,
        description=json.dumps(card["layers"], sort_keys=True),
        card={key: value for key, value in card.items() if key != "layers"},
        remarks=(*remarks, *more),
    )


def _weights_of(card: dict, path: Path) -> Path:
    facts = card.get("weights")
    name = facts.get("file") if isinstance(facts, dict) else None
    if name is None:
        return existing_file(path.with_suffix(".safetensors"))
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
        raise BadFile(
            f"{path.name!r} names the weights {name!r}",
            "the bare name of a safetensors file in the same folder is allowed",
            "Put the weights beside the card.",
        )
    return existing_file(path.with_name(name))
