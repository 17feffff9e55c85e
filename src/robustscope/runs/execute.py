"""Execute a plan: run the shards that are missing, in any order, and store each whole. Execute decides nothing."""

from __future__ import annotations

import platform
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robustscope import __version__
from robustscope.attacks.compose import Attempt, Outcome, Step, cascade
from robustscope.core.draws import Draws
from robustscope.core.errors import CorruptRun, explain
from robustscope.core.resume import keeping
from robustscope.core.threats import make_threat
from robustscope.geometry.losses import margin
from robustscope.models.classifier import Classifier
from robustscope.models.twin import CHECKED, Twin, make_twin
from robustscope.probes.flags import measure_flags
from robustscope.runs.measured import COLUMNS as MEASURED
from robustscope.runs.measuring import measure_shard
from robustscope.runs.partial import Partial
from robustscope.runs.plan import Subjects
from robustscope.runs.shifted import COLUMNS as SHIFTED
from robustscope.runs.shifting import shift_shard, stored_marks
from robustscope.runs.store import cells_of, runs_all_cells, write_shard

GALLERY = 8
Entry = Mapping[str, Any]


def check_subjects(plan: Mapping[str, Any], subjects: Subjects) -> None:
    """Refuse models or data that are not the plan's.

    Raises:
        CorruptRun: naming what changed since the plan was made.
    """
    shards = [shard for shard in plan["shards"] if runs_all_cells(shard)]
    ids = sorted({i for shard in shards for i in shard["ids"]})
    pairs = [
        (f"the model {entry['name']!r}", entry["fingerprint"], model.fingerprint)
        for entry, model in zip(plan["models"], subjects.models, strict=True)
    ]
    if ids and max(ids) >= len(subjects.data):
        pairs.append(("the data set", plan["data"]["fingerprint"], "of fewer samples"))
    else:
        first = [i for shard in shards if shard["model"] == plan["models"][0]["name"] for i in shard["ids"]]
        pairs.append(("the data set", plan["data"]["fingerprint"], subjects.data.fingerprint(first)))
    pairs += stored_marks(plan)
    for what, expected, found in pairs:
        if expected != found:
            raise CorruptRun(
                f"{what} has changed since the plan was made (sha-256 {expected[:12]}, now {found[:12]})",
                "the model and the data of the plan are allowed",
                "Restore them, or evaluate into a new folder.",
            )


def run_shard(plan: Mapping[str, Any], index: int, subjects: Subjects, run: Path) -> dict[str, Any]:
    """Run one shard and store it.

    Args:
        plan: the plan.
        index: which shard.
        subjects: models and data of the plan.
        run: run folder.

    Returns:
        The record of the shard: seconds, rows, warnings.
    """
    shard = plan["shards"][index]
    if "shifts" in shard:
        return _run_shift(plan, shard, subjects, run)
    position = next(i for i, model in enumerate(plan["models"]) if model["name"] == shard["model"])
    classifier = subjects.models[position].classifier
    device = plan["request"]["settings"]["device"]
    ids = list(shard["ids"])
    x = subjects.data.read(ids).to(device)
    y = torch.as_tensor(subjects.data.labels[ids], dtype=torch.int64, device=device)
    classifier.ledger.reset()
    began = time.perf_counter()
    if "measures" in shard:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rows, verdicts = measure_shard(plan, shard, classifier, x, y, run)
        record = _record(index, [classifier], time.perf_counter() - began, caught, device) | {"trust": verdicts}
        write_shard(run, index, rows, {}, record, MEASURED)
        return record
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        keeper = Partial(run, plan, index, classifier.ledger, {**versions(), "device": describe_device(device)}, device)
        flags = _flags(plan, shard, classifier, x, y)
        twin = twin_of(plan, position, subjects)
        if is_first(plan, shard):
            classifier.ledger.forward += twin.forward
            classifier.ledger.backward += twin.backward
        with keeping(keeper):
            rows, evidence, again = attack_shard(plan, shard, classifier, x, y, twin)
    record = _record(index, [classifier], keeper.earlier + time.perf_counter() - began, caught, device) | {
        "twin": {"kind": twin.kind, "notes": list(twin.notes), "reverted": again.fooled_twin},
        "alone": {"samples": again.alone, "forward": again.forward, "backward": again.backward},
        "flags": flags,
    }
    write_shard(run, index, rows, evidence, record)
    keeper.remove()
    return record


def _run_shift(plan: Mapping[str, Any], shard: Entry, subjects: Subjects, run: Path) -> dict[str, Any]:
    """Run a shard of shifts, which all models of the plan see, and store it."""
    models = [model.classifier for model in subjects.models]
    for classifier in models:
        classifier.ledger.reset()
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = shift_shard(plan, shard, models, subjects.data)
    device = plan["request"]["settings"]["device"]
    record = _record(shard["index"], models, time.perf_counter() - began, caught, device)
    write_shard(run, shard["index"], rows, {}, record, SHIFTED)
    return record


def _record(
    index: int,
    classifiers: Sequence[Classifier],
    seconds: float,
    caught: Sequence[warnings.WarningMessage],
    device: str,
) -> dict[str, Any]:
    """Return what the record of every shard says."""
    return {
        "index": index,
        "seconds": round(seconds, 3),
        "forward": sum(classifier.ledger.forward for classifier in classifiers),
        "backward": sum(classifier.ledger.backward for classifier in classifiers),
        "warnings": sorted({f"{w.category.__name__}: {w.message}" for w in caught}),
        "versions": versions(),
        "device": describe_device(device),
    }


def _flags(plan: Mapping[str, Any], shard: Entry, classifier: Classifier, x: Tensor, y: Tensor) -> list[dict[str, Any]]:
    """Return what is to be said of the model; measured with its first shard."""
    if not is_first(plan, shard):
        return []
    return [{"model": shard["model"], **asdict(finding)} for finding in measure_flags(classifier, x, y)]


def is_first(plan: Mapping[str, Any], shard: Entry) -> bool:
    """Tell whether a shard is the first of its model: what is done once for a model is counted there."""
    return shard["index"] == min(one["index"] for one in plan["shards"] if one["model"] == shard["model"])


def twin_of(plan: Mapping[str, Any], position: int, subjects: Subjects) -> Twin:
    """Return what to search on instead of a model; a twin is made once, and checked on the plan's first samples.

    So it does not depend on the shards that a worker happens to run whether a twin is used or refused. The ledger is
    left as it was: each process makes a twin of its own, and a run that was resumed must not seem to have cost more.
    """
    if position not in subjects.twins:
        classifier = subjects.models[position].classifier
        kind = plan.get("twin", "off")
        x = subjects.data.read(list(plan["shards"][0]["ids"][:CHECKED])) if kind != "off" else torch.empty(0, 1)
        ledger = classifier.ledger
        before = ledger.forward, ledger.backward
        subjects.twins[position] = make_twin(classifier, x.to(plan["request"]["settings"]["device"]), kind)
        ledger.forward, ledger.backward = before
    return subjects.twins[position]


@dataclass
class Again:
    """Samples that were attacked again because their first example did not hold; see ``attacks.twins``.

    Args:
        fooled_twin: those whose example fooled the twin alone.
        alone: those whose example was adversarial in company of other rows only.
        forward: rows that attacking the latter one by one took.
        backward: the same, backward.
    """

    fooled_twin: int = 0
    alone: int = 0
    forward: int = 0
    backward: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count those of one attack."""
        self.fooled_twin += 0 if outcome.reverted is None else int(outcome.reverted.sum())
        if outcome.alone is not None:
            self.alone += int(outcome.alone.any(1).sum())
            self.forward += int(outcome.alone[:, 0].sum())
            self.backward += int(outcome.alone[:, 1].sum())


def attack_shard(
    plan: Mapping[str, Any],
    shard: Mapping[str, Any],
    classifier: Classifier,
    x: Tensor,
    y: Tensor,
    twin: Twin | None = None,
) -> tuple[pd.DataFrame, dict[str, np.ndarray], Again]:
    """Run all cells of a shard; return its rows, its evidence, and how many samples had to be attacked again."""
    ids = np.asarray(shard["ids"], dtype=np.int64)
    cells = cells_of(plan, shard)
    try:
        clean = _clean_columns(classifier, x, y)
    except Exception as error:
        return _failed(shard, cells, ids, y, error), {}, Again()
    correct = torch.as_tensor(clean["clean_correct"].astype(bool), device=x.device)
    draws = Draws(plan["seed"], tuple(ids.tolist()))
    frames, evidence, shown, again = [], {}, [], Again()
    for norm in dict.fromkeys(cell["norm"] for cell in cells):
        group = [cell for cell in cells if cell["norm"] == norm]
        attempts = [
            Attempt(c["attack"], make_threat(norm, c["epsilon"], classifier.bounds), c["parameters"]) for c in group
        ]
        broken: dict[str, Any] = {"note": np.full(len(ids), "", dtype=object)}
        broken["note"][~clean["clean_correct"]] = "misclassified"
        steps = cascade(classifier, x, y, attempts, draws, correct, twin=twin, name=norm)
        for cell, step in zip(group, steps, strict=True):
            columns = _columns(len(ids), step, broken["note"])
            frames.append(_frame(shard, cell, ids, y, {**columns, **clean}))
            if step.outcome is not None:
                again.add(step.outcome)
                found = step.rows[step.outcome.verdict.success]
                where = found.cpu().numpy()
                result, success = step.outcome.result, step.outcome.verdict.success
                if len(where):
                    evidence[f"cell/{cell['index']}/x_adv"] = result.x_adv[success].cpu().numpy()
                    if result.parameters is not None:
                        evidence[f"cell/{cell['index']}/parameters"] = result.parameters[success].cpu().numpy()
                    evidence[f"cell/{cell['index']}/samples"] = ids[where]
                    shown += where.tolist()
                broken["note"][where] = f"broken earlier, in cell {cell['index']}"
    gallery = list(dict.fromkeys(shown))[:GALLERY]
    if gallery:
        evidence["gallery/x"] = x[gallery].cpu().numpy()
        evidence["gallery/samples"] = ids[gallery]
    return pd.concat(frames, ignore_index=True), evidence, again


def _clean_columns(classifier: Classifier, x: Tensor, y: Tensor) -> dict[str, np.ndarray]:
    classifier.check_inputs(x, y)
    logits = classifier.check_outputs(x, y)
    predicted = logits.argmax(1)
    confidence = logits.softmax(1).gather(1, predicted[:, None])[:, 0]
    return {
        "clean_correct": (predicted == y).cpu().numpy(),
        "clean_prediction": predicted.cpu().numpy(),
        "clean_confidence": confidence.double().cpu().numpy(),
        "clean_margin": margin(logits, y).double().cpu().numpy(),
    }


def _columns(n: int, step: Step, notes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of one cell: skipped rows, and what the step says of the others."""
    columns: dict[str, np.ndarray] = {
        "status": np.full(n, "skipped", dtype=object),
        "note": notes.copy(),
        "success": np.full(n, None, dtype=object),
        "distance": np.full(n, np.nan),
        "y_adv": np.full(n, -1, dtype=np.int64),
        "adv_confidence": np.full(n, np.nan),
        "adv_margin": np.full(n, np.nan),
        "survives_8bit": np.full(n, None, dtype=object),
        "survives_alone": np.full(n, None, dtype=object),
        "forward": np.zeros(n, dtype=np.int64),
        "backward": np.zeros(n, dtype=np.int64),
    }
    rows = step.rows.cpu().numpy()
    if step.error is not None:
        columns["status"][rows] = "error"
        columns["note"][rows] = explain(step.error)
    elif step.outcome is not None:
        result, verdict = step.outcome.result, step.outcome.verdict
        success = verdict.success.cpu().numpy()
        columns["status"][rows] = "ok"
        columns["success"][rows] = success
        columns["distance"][rows] = verdict.distance.cpu().numpy()
        columns["y_adv"][rows] = verdict.prediction.cpu().numpy()
        columns["adv_confidence"][rows] = verdict.confidence.double().cpu().numpy()
        columns["adv_margin"][rows] = verdict.margin.double().cpu().numpy()
        columns["survives_8bit"][rows[success]] = verdict.survives_8bit.cpu().numpy()[success]
        fooled = (verdict.success | verdict.reverted).cpu().numpy()
        columns["survives_alone"][rows[fooled]] = verdict.survives_alone.cpu().numpy()[fooled]
        columns["forward"][rows] = result.forward.cpu().numpy()
        columns["backward"][rows] = result.backward.cpu().numpy()
        if result.elsewhere is not None:
            spent = result.elsewhere.tolist()
            columns["note"][rows] = [f"on other models: {f} forward rows, {b} backward" for f, b in spent]
    return columns


def _frame(shard: Entry, cell: Entry, ids: np.ndarray, y: Tensor, columns: dict[str, np.ndarray]) -> pd.DataFrame:
    head = {"shard": shard["index"], "cell": cell["index"], "sample": ids, "y": y.cpu().numpy()}
    return pd.DataFrame({**head, **columns})


def _failed(shard: Entry, cells: Sequence[Entry], ids: np.ndarray, y: Tensor, error: Exception) -> pd.DataFrame:
    """Return error rows for a shard whose clean pass failed."""
    nothing = {
        "clean_correct": np.full(len(ids), None, dtype=object),
        "clean_prediction": np.full(len(ids), -1, dtype=np.int64),
        "clean_confidence": np.full(len(ids), np.nan),
        "clean_margin": np.full(len(ids), np.nan),
    }
    step = Step(torch.arange(len(ids)), None, error)
    notes = np.full(len(ids), "", dtype=object)
    return pd.concat(
        [_frame(shard, cell, ids, y, {**_columns(len(ids), step, notes), **nothing}) for cell in cells],
        ignore_index=True,
    )


def versions() -> dict[str, str]:
    """Return the versions that can change a float."""
    return {
        "robustscope": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }


def describe_device(device: str) -> str:
    """Return a device in words."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(torch.device(device))
    return f"{device} ({platform.processor() or platform.machine()}, {torch.get_num_threads()} thread(s))"
