"""Synthetic runs with known answers: tables for the analyses, whole run folders for the reports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robustscope.runs import store

ATTACKS = (
    {"attack": "noise", "label": "noise", "floor": True, "reach": 0.15, "forward": 10, "backward": 0},
    {"attack": "fgsm", "label": "fgsm", "floor": False, "reach": 0.6, "forward": 2, "backward": 1},
    {"attack": "pgd", "label": "pgd, margin", "floor": False, "reach": 1.0, "forward": 41, "backward": 40},
)


def make_plan(
    *,
    names: Sequence[str] = ("standard",),
    radii: Sequence[tuple[str, float, bool]] = (("linf", 0.05, False), ("linf", 0.1, True)),
    n: int = 40,
    shards: int = 2,
    shape: Sequence[int] = (1, 8, 8),
    classes: int = 10,
    class_names: Sequence[str] | None = None,
    attacks: Sequence[Mapping[str, Any]] = ATTACKS,
) -> dict[str, Any]:
    """Return a plan with a cell for each model, radius and attack, and ``shards`` shards for each model."""
    class_names = list(class_names or (str(k) for k in range(classes)))
    cells, parts = [], []
    for name in names:
        for norm, epsilon, headline in radii:
            for attack in attacks:
                cells.append(
                    {
                        "index": len(cells),
                        "model": name,
                        "norm": norm,
                        "epsilon": epsilon,
                        "headline": headline,
                        **{key: attack[key] for key in ("attack", "label", "floor")},
                        "version": 1,
                        "source": f"Author of {attack['attack']}, 2018, arXiv:0000.00000",
                        "parameters": {"steps": attack["backward"]},
                        "aim": "fixed-epsilon",
                    }
                )
        ids = np.array_split(np.arange(n), shards)
        parts += [{"index": len(parts) + i, "model": name, "ids": part.tolist()} for i, part in enumerate(ids)]
    work = sum(attack["forward"] for attack in attacks) * len(radii) * n * len(names)
    return {
        "format": 1,
        "id": "0123456789abcdef" * 2,
        "seed": 0,
        "created_by": "robustscope 0.1.0",
        "models": [
            {
                "name": name,
                "source": f"{name}.json",
                "fingerprint": "ab" * 32,
                "bounds": [0, 1],
                "mean": None,
                "std": None,
                "num_classes": len(class_names),
                "class_names": class_names,
            }
            for name in names
        ],
        "data": {
            "name": "digits",
            "source": "digits",
            "fingerprint": "cd" * 32,
            "shape": list(shape),
            "total": n,
            "selection": str(n),
            "class_names": class_names,
        },
        "threats": [
            {"norm": norm, "epsilon": epsilon, "text": f"{norm}:{epsilon:g}", "bounds": [0, 1]}
            for norm, epsilon, headline in radii
            if headline
        ],
        "suite": "baseline",
        "request": {"models": [], "settings": {"device": "cpu"}},
        "batch_size": 256,
        "threads": 1,
        "cells": cells,
        "shards": parts,
        "cost": {"forward": work, "backward": work},
    }


def make_table(
    plan: Mapping[str, Any],
    *,
    seed: int = 0,
    scale: Mapping[str, float] | None = None,
    true_radius: Mapping[str, Sequence[float]] | None = None,
    attacks: Sequence[Mapping[str, Any]] = ATTACKS,
) -> pd.DataFrame:
    """Return the table of a world in which each sample has a radius: an attack breaks it iff radius <= reach * epsilon.

    A radius of 0 means misclassified. Samples broken at a smaller radius of a norm are not attacked again.
    """
    rng = np.random.default_rng(seed)
    reach = {attack["label"]: attack for attack in attacks}
    classes = plan["models"][0]["num_classes"]
    rows: list[dict[str, Any]] = []
    for model in (entry["name"] for entry in plan["models"]):
        ids = [(part["index"], i) for part in plan["shards"] if part["model"] == model for i in part["ids"]]
        drawn = np.maximum(rng.exponential((scale or {}).get(model, 0.08), len(ids)) - 0.003, 0.0)
        rho = np.asarray(true_radius[model]) if true_radius else drawn
        for position, (shard, sample) in enumerate(ids):
            y, correct, gone = sample % classes, bool(rho[position] > 0), dict[str, float]()
            for cell in (cell for cell in plan["cells"] if cell["model"] == model):
                way = reach[cell["label"]]
                row = _row(cell, shard, sample, y, correct, float(rho[position]), classes)
                if not correct:
                    row |= {"status": "skipped", "note": "misclassified"}
                elif gone.get(cell["norm"], np.inf) < cell["epsilon"]:
                    row |= {"status": "skipped", "note": "broken earlier"}
                else:
                    won = bool(rho[position] <= way["reach"] * cell["epsilon"])
                    row |= _outcome(won, float(rho[position]), cell["epsilon"], y, classes, way, sample)
                    if won:
                        gone.setdefault(cell["norm"], cell["epsilon"])
                rows.append(row)
    table = pd.DataFrame(rows)
    for name in ("success", "survives_8bit", "survives_alone", "clean_correct"):
        table[name] = table[name].astype("boolean")
    return table.astype({"shard": "int32", "cell": "int32"})


def _row(
    cell: Mapping[str, Any], shard: int, sample: int, y: int, correct: bool, rho: float, classes: int
) -> dict[str, Any]:
    return {
        "shard": shard,
        "cell": cell["index"],
        "sample": sample,
        "y": y,
        "status": "ok",
        "note": "",
        "success": None,
        "distance": np.nan,
        "y_adv": -1,
        "adv_confidence": np.nan,
        "adv_margin": np.nan,
        "survives_8bit": None,
        "survives_alone": None,
        "forward": 0,
        "backward": 0,
        "clean_correct": correct,
        "clean_prediction": y if correct else (y + 1) % classes,
        "clean_confidence": min(0.5 + 3 * rho, 0.999),
        "clean_margin": 10 * rho if correct else -0.5,
    }


def _outcome(
    won: bool, rho: float, epsilon: float, y: int, classes: int, way: Mapping[str, Any], sample: int
) -> dict[str, Any]:
    return {
        "success": won,
        "distance": epsilon,
        "y_adv": (y + 3) % classes if won else y,
        "adv_confidence": 0.7 if won else 0.6,
        "adv_margin": -1.0 if won else 1.0,
        "survives_8bit": sample % 7 != 0 if won else None,
        "survives_alone": True if won else None,
        "forward": way["forward"],
        "backward": way["backward"],
    }


def pictures(plan: Mapping[str, Any], ids: Sequence[int]) -> np.ndarray:
    """Return one smooth blob for each sample id, shaped as the plan's data, in [0, 1]."""
    shape = tuple(plan["data"]["shape"])
    out = np.empty((len(ids), *shape), np.float32)
    for row, sample in zip(out, ids, strict=True):
        rng = np.random.default_rng(sample)
        if len(shape) == 3:
            yy, xx = np.mgrid[0 : shape[1], 0 : shape[2]]
            for channel in row:
                cy, cx = rng.uniform(0.2, 0.8, 2) * shape[1:]
                channel[:] = np.exp(-((yy - cy) ** 2 + (xx - cx) ** 2) / (0.08 * shape[1] * shape[2]))
        else:
            row[:] = rng.uniform(0, 1, shape)
    return out


def write_run(
    folder: Path,
    plan: Mapping[str, Any],
    table: pd.DataFrame,
    *,
    images: np.ndarray | None = None,
    record: Mapping[str, Any] | None = None,
    gallery: int = 8,
) -> Path:
    """Write a run folder in the layout of the store: plan, record, Parquet shards, evidence.

    Args:
        images: (N, *S) pictures indexed by sample id; blobs when None.
        record: entries that replace those of the record.
        gallery: originals kept for each shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan: dict[str, Any] = store.sealed(plan)
    (folder / "plan.json").write_text(json.dumps(plan, indent=1), encoding="utf-8")
    spent = []
    for part in plan["shards"]:
        mine = table[table["shard"] == part["index"]]
        x = pictures(plan, part["ids"]) if images is None else images[part["ids"]].astype(np.float32)
        store.write_shard(folder, part["index"], mine, _evidence(plan, part, mine, x, gallery), {})
        counts = {name: int(mine[name].sum()) + len(part["ids"]) for name in ("forward", "backward")}
        spent.append({"index": part["index"], "seconds": 1.5, **counts, "warnings": []})
    written = {
        "plan_id": plan["id"],
        "complete": True,
        "versions": {"python": "3.11.7", "numpy": "2.4.0", "torch": "2.13.0"},
        "device": "cpu",
        "git": {"revision": "f" * 40, "dirty": False},
        "seconds": 12.25,
        "shards": spent,
        "warnings": [],
        "platform": "Linux-x86_64",
    }
    (folder / "record.json").write_text(json.dumps(written | dict(record or {}), indent=1), encoding="utf-8")
    return folder


def _evidence(
    plan: Mapping[str, Any], part: Mapping[str, Any], rows: pd.DataFrame, x: np.ndarray, gallery: int
) -> dict[str, np.ndarray]:
    """Return adversarial examples at the border of the ball, and the originals of the first samples."""
    where = {sample: i for i, sample in enumerate(part["ids"])}
    out = {"gallery/x": x[:gallery].copy(), "gallery/samples": np.array(part["ids"][:gallery], np.int64)}
    for cell in plan["cells"]:
        won = rows[(rows["cell"] == cell["index"]) & rows["success"].fillna(False)]["sample"].tolist()
        if not won:
            continue
        base = x[[where[sample] for sample in won]]
        rng = np.random.default_rng(cell["index"])
        step = np.sign(rng.standard_normal(base.shape)) * min(cell["epsilon"], 0.25)
        out[f"cell/{cell['index']}/x_adv"] = np.clip(base + step, 0, 1).astype(np.float32)
        out[f"cell/{cell['index']}/samples"] = np.array(won, np.int64)
    return out
