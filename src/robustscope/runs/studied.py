"""What a study found, read from its folder; without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robustscope.core.errors import CorruptRun
from robustscope.core.files import read_json
from robustscope.runs.store import read_evidence_file

SHARE = 100
"""Samples of a part."""


def part_path(folder: Path, model: str, probe: str, share: int) -> Path:
    """Return where the columns of a probe are for one share of the samples."""
    return folder / "parts" / model / f"{probe}-{share}.safetensors"


def pictures_path(folder: Path, model: str, probe: str) -> Path:
    """Return where what a probe has to be drawn is."""
    return folder / "pictures" / model / f"{probe}.safetensors"


@dataclass(frozen=True)
class Record:
    """What a study found.

    Args:
        request: as stored.
        facts: "probe.column" -> what it means, which way it is expected, when it has a gap.
        rows: one row for each (model, property, sample): model, property, sample, value (NaN in a gap).
        figures: one row for each (model, property): model, property, value.
        errors: (model, probe) -> why it has no columns.
    """

    request: dict[str, Any]
    facts: dict[str, Any]
    rows: pd.DataFrame
    figures: pd.DataFrame
    errors: dict[tuple[str, str], str]


def read_study(out: str | Path) -> Record:
    """Read a finished study.

    Raises:
        MissingFile: if there is none in the folder.
        CorruptRun: if a part is missing or damaged.
    """
    folder = Path(out)
    request, facts = read_json(folder / "request.json"), read_json(folder / "facts.json")
    shares = -(-int(request["count"]) // SHARE)
    rows, figures, errors = [], {}, {}
    for model in request["models"]:
        for probe in request["probes"]:
            for share in range(shares):
                path = part_path(folder, model, probe, share)
                found = read_evidence_file(path)
                if "error" in found:
                    errors[model, probe] = found["error"].tobytes().decode()
                    continue
                _check(path, found)
                for name in (name for name in facts if name.startswith(f"{probe}.")):
                    own = name.removeprefix(f"{probe}.")
                    if (values := found.get(f"column/{own}")) is not None:
                        part = {"model": model, "property": name, "sample": found["sample"], "value": values}
                        rows.append(pd.DataFrame(part))
                    elif (figure := found.get(f"figure/{own}")) is not None:
                        figures[model, name] = float(figure[0])
    listed = [{"model": model, "property": name, "value": value} for (model, name), value in figures.items()]
    columns = ["model", "property", "sample", "value"]
    table = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)
    if errors:
        table = table[~_in_error(table, errors)].reset_index(drop=True)
    return Record(request, facts, table, pd.DataFrame(listed, columns=["model", "property", "value"]), errors)


def _in_error(table: pd.DataFrame, errors: Mapping[tuple[str, str], str]) -> pd.Series:
    """Tell which rows belong to a probe that failed on a share of the samples: the others would be a biased choice."""
    probes = table["property"].str.split(".", n=1).str[0]
    return pd.Series([pair in errors for pair in zip(table["model"], probes, strict=True)], index=table.index)


def _check(path: Path, found: Mapping[str, np.ndarray]) -> None:
    if "sample" not in found or any(
        key.startswith("column/") and len(values) != len(found["sample"]) for key, values in found.items()
    ):
        raise CorruptRun(
            f"{path} holds {', '.join(found)}",
            "columns of one number for each sample are allowed",
            "Delete it, and study again: only this part is recomputed.",
        )


def read_pictures(out: str | Path, model: str, probe: str) -> dict[str, np.ndarray] | None:
    """Return what a probe has to be drawn of a model, with the samples "x", or None."""
    path = pictures_path(Path(out), model, probe)
    return read_evidence_file(path) if path.is_file() else None
