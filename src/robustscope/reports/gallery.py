"""Pictures for the report: original, adversarial, magnified perturbation, as PNG data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from robustscope.analyses._common import class_name, join
from robustscope.analyses.worst import nearest
from robustscope.core.errors import CorruptRun
from robustscope.runs import store

PER_MODEL = 6
LARGEST_SIDE = 224


@dataclass(frozen=True)
class Picture:
    """One item of the gallery.

    Args:
        facts: what is said of it, JSON-ready.
        original, adversarial, perturbation: PNG data URIs; the perturbation is drawn around mid-grey and stretched by
            ``facts["magnified"]``.
    """

    facts: dict[str, Any]
    original: str
    adversarial: str
    perturbation: str


def collect(run: Path, plan: Mapping[str, Any], table: pd.DataFrame) -> tuple[list[Picture], str | None]:
    """Return pictures of each model at its first threat model, or the reason why there are none.

    Of the samples whose originals were kept, one for each class comes first; each is shown with the nearest adversarial
    example found.
    """
    shape = tuple(plan["data"].get("shape") or ())
    if len(shape) != 3 or shape[0] not in (1, 3):
        return [], f"inputs of shape {shape} are not images of one or three channels, so there is nothing to show"
    rows = join(table, plan)
    found: list[Picture] = []
    try:
        for model in plan["models"]:
            found += _of_model(run, plan, rows, model)
    except CorruptRun as error:
        return [], str(error)
    if not found:
        return [], "no adversarial example was found among the samples whose originals were kept"
    return found, None


def _of_model(run: Path, plan: Mapping[str, Any], rows: pd.DataFrame, model: Mapping[str, Any]) -> list[Picture]:
    threats = [
        t for t in plan["threats"] if any(c["model"] == model["name"] and c["norm"] == t["norm"] for c in plan["cells"])
    ]
    if not threats:
        return []
    hits = nearest(rows, model["name"], threats[0]["norm"], threats[0]["epsilon"]).set_index("sample")
    pools: dict[int, list[tuple[pd.Series, np.ndarray, np.ndarray]]] = {}
    for shard in (part for part in plan["shards"] if part["model"] == model["name"]):
        if not hits.index.isin(shard["ids"]).any():
            continue
        evidence = store.read_evidence(run, shard["index"])
        for position, sample in enumerate(evidence.get("gallery/samples", np.empty(0, np.int64)).tolist()):
            if sample in hits.index:
                hit = hits.loc[sample]
                x_adv = _example(evidence, int(hit["cell"]), sample)
                if x_adv is not None:
                    pools.setdefault(int(hit["y"]), []).append((hit, evidence["gallery/x"][position], x_adv))
        if len(pools) >= PER_MODEL or sum(map(len, pools.values())) >= 4 * PER_MODEL:
            break
    rounds = max((len(pool) for pool in pools.values()), default=0)
    chosen = [pools[y][turn] for turn in range(rounds) for y in sorted(pools) if turn < len(pools[y])][:PER_MODEL]
    return [_picture(plan, model, hit, x, x_adv) for hit, x, x_adv in chosen]


def _example(evidence: Mapping[str, np.ndarray], cell: int, sample: int) -> np.ndarray | None:
    samples = evidence.get(f"cell/{cell}/samples", np.empty(0, np.int64))
    where = np.flatnonzero(samples == sample)
    return evidence[f"cell/{cell}/x_adv"][where[0]] if where.size else None


def _picture(
    plan: Mapping[str, Any], model: Mapping[str, Any], hit: pd.Series, x: np.ndarray, x_adv: np.ndarray
) -> Picture:
    low, high = (float(bound) for bound in model.get("bounds") or (0.0, 1.0))
    x, x_adv = (np.asarray(value, np.float64) for value in (x, x_adv))
    delta = (x_adv - x) / (high - low)
    largest = float(np.abs(delta).max())
    factor = 0.5 / largest if largest else 1.0
    cell = next(cell for cell in plan["cells"] if cell["index"] == int(hit["cell"]))
    facts: dict[str, Any] = {
        "model": model["name"],
        "sample": int(hit.name),  # ty: ignore[invalid-argument-type]
        "cell": int(hit["cell"]),
        "label": cell["label"],
        "norm": cell["norm"],
        "epsilon": cell["epsilon"],
        "distance": float(hit["distance"]),
        "class_name": class_name(plan, model["name"], int(hit["y"])),
        "clean_confidence": float(hit["clean_confidence"]),
        "adv_class_name": class_name(plan, model["name"], int(hit["y_adv"])),
        "adv_confidence": float(hit["adv_confidence"]),
        "magnified": factor,
    }
    return Picture(facts, png((x - low) / (high - low)), png((x_adv - low) / (high - low)), png(0.5 + factor * delta))


def png(unit: np.ndarray) -> str:
    """Return an image (C, H, W) with values in [0, 1], C = 1 or 3, as a PNG data URI; values outside are cut off."""
    pixels = np.rint(np.clip(np.moveaxis(unit, 0, -1), 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    if max(image.size) > LARGEST_SIDE:
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
