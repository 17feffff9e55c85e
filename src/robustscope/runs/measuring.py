"""Carry out a shard of measures: certificates, certified radii, estimates, probes. Each failure is a row in error."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robustscope.certify.cards import certify
from robustscope.certify.radius import certified_radius
from robustscope.core.draws import Draws
from robustscope.core.errors import explain
from robustscope.core.types import ThreatModel
from robustscope.estimates.compose import estimate
from robustscope.estimates.records import records
from robustscope.models.classifier import Classifier
from robustscope.runs.measured import COLUMNS
from robustscope.runs.measures import HALVINGS
from robustscope.runs.store import read_table
from robustscope.runs.trust import WHITE, trust

Entry = Mapping[str, Any]


@dataclass
class _Task:
    """One measure on the samples of a shard that are classified correctly.

    Args:
        run, plan, measure: where, of what, and which.
        model: the classifier.
        x: (B, *S), correctly classified samples.
        y: int64 (B,), their classes.
        draws: their random numbers.
        verdict: what probes say of all samples together; filled in by them.
    """

    run: Path
    plan: Entry
    measure: Entry
    model: Classifier
    x: Tensor
    y: Tensor
    draws: Draws
    verdict: dict[str, Any] = field(default_factory=dict)

    @property
    def threat(self) -> ThreatModel:
        return ThreatModel(self.measure["norm"], self.measure["epsilon"], self.model.bounds)


def measure_shard(
    plan: Entry, shard: Entry, model: Classifier, x: Tensor, y: Tensor, run: Path
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Carry out the measures of a shard.

    Returns:
        One row for each (measure, sample), columns as in ``runs.measured``, and the verdicts of trust among them.
    """
    ids = list(shard["ids"])
    predicted = model.logits(x).argmax(1)
    correct = predicted == y
    frames, verdicts = [], []
    for index in shard["measures"]:
        measure = plan["measures"][index]
        asked = correct if measure["sound"] != "probabilistic" else torch.ones_like(correct)
        rows = asked.nonzero()[:, 0]
        draws = Draws(plan["seed"], tuple(ids)).select(rows)
        task = _Task(run, plan, measure, model, x[rows], y[rows], draws)
        columns = _empty(ids, y, correct, asked)
        columns["shard"], columns["measure"] = shard["index"], index
        try:
            found = KINDS[measure["kind"]](task) if len(rows) else {}
        except Exception as error:  # a measure that fails is a row in error; the run goes on
            found = {"status": "error", "note": explain(error)}
        at = rows.cpu().numpy()
        columns["status"][at] = "ok"
        for name, values in found.items():
            columns[name][at] = values
        frames.append(pd.DataFrame({name: columns[name] for name in COLUMNS}))
        if task.verdict:
            verdicts.append(task.verdict)
    return pd.concat(frames, ignore_index=True), verdicts


def _empty(ids: list[int], y: Tensor, correct: Tensor, asked: Tensor) -> dict[str, Any]:
    """Return the columns of a measure that looked at nothing: what is misclassified is skipped.

    Certificates that are not proofs are about another classifier, which may be right where this one is not.
    """
    n, right = len(ids), correct.cpu().numpy()
    return {
        "sample": np.asarray(ids, dtype=np.int64),
        "y": y.cpu().numpy(),
        "status": np.full(n, "skipped", dtype=object),
        "note": np.where(asked.cpu().numpy(), "", "misclassified").astype(object),
        "clean_correct": right,
        "holds": np.full(n, None, dtype=object),
        "value": np.full(n, np.nan),
        "detail": np.full(n, "{}", dtype=object),
        "forward": np.zeros(n, dtype=np.int64),
        "backward": np.zeros(n, dtype=np.int64),
    }


def _certificate(task: _Task) -> dict[str, Any]:
    """Certify at the radius."""
    name, parameters = task.measure["method"], task.measure["parameters"]
    proof = certify(name, task.model, task.x, task.y, task.threat, draws=task.draws, **parameters)
    late = np.asarray([status == "timeout" for status in proof.status])
    return {
        "status": np.where(late, "timeout", "ok"),
        "note": np.where(late, "the time was up", ""),
        "holds": proof.verified.cpu().numpy(),
        "value": _finite(proof.lower_margin),
        "detail": json.dumps({"confidence": proof.confidence}),
        "forward": proof.forward.cpu().numpy(),
    }


def _radius(task: _Task) -> dict[str, Any]:
    """Search the largest radius that can be certified."""
    found = certified_radius(
        task.measure["method"],
        task.model,
        task.x,
        task.y,
        task.measure["norm"],
        largest=task.measure["epsilon"],
        halvings=HALVINGS,
        draws=task.draws,
        **task.measure["parameters"],
    )
    refused = [None if math.isinf(r) else r for r in found.refused.tolist()]
    return {
        "value": found.radius.cpu().numpy(),
        "detail": [json.dumps({"refused": r}) for r in refused],
        "forward": found.forward.cpu().numpy(),
    }


def _estimate(task: _Task) -> dict[str, Any]:
    """Estimate the robust radius."""
    found = estimate(
        task.measure["method"],
        task.model,
        task.x,
        task.y,
        task.threat,
        draws=task.draws,
        **task.measure["parameters"],
    )
    details = [{k: v for k, v in row.items() if k != "sample"} for row in records(found, task.draws.ids)]
    return {
        "value": found.radius.cpu().numpy(),
        "detail": [json.dumps(_plain(row), allow_nan=False) for row in details],
        "forward": found.forward.cpu().numpy(),
        "backward": found.backward.cpu().numpy(),
    }


def _trust(task: _Task) -> dict[str, Any]:
    """Ask whether the robust accuracy can be believed, with what all attacks broke."""
    given = task.measure["parameters"]["white"]
    hit = broken(task.plan, read_table(task.run), task.measure["model"], task.measure["norm"], task.measure["epsilon"])
    said = trust(
        task.model,
        task.x,
        task.y,
        task.threat,
        white=WHITE if given is None else (given[0], given[1]),
        broken=torch.tensor([i in hit for i in task.draws.ids], device=task.x.device),
        seed=task.draws.seed,
        ids=task.draws.ids,
    )
    ids = task.draws.ids
    against: dict[int, list[str]] = {i: [] for i in range(len(ids))}
    for check in said.failed:
        for i in check.affected:
            against[i].append(check.name)
    checks = [_plain({**asdict(check), "affected": [ids[i] for i in check.affected]}) for check in said.checks]
    task.verdict |= {key: task.measure[key] for key in ("model", "norm", "epsilon")}
    task.verdict |= {"verdict": said.verdict, "why": list(said.why), "checks": checks}
    task.verdict |= {"n": len(ids), "left": said.left, "white": (given or WHITE)[0]}
    return {
        "value": [float(len(names)) for names in against.values()],
        "holds": [not names for names in against.values()],
        "detail": [json.dumps({"against": names}) for names in against.values()],
    }


KINDS: dict[str, Callable[[_Task], dict[str, Any]]] = {
    "certificate": _certificate,
    "radius": _radius,
    "estimate": _estimate,
    "trust": _trust,
}


def broken(plan: Entry, table: pd.DataFrame, model: str, norm: str, epsilon: float) -> set[int]:
    """Return the samples that any attack broke within a radius of a norm.

    Args:
        plan: plan of the run with its stages.
        table: all rows of attacks.
        model, norm, epsilon: whose.
    """
    cells = {c["index"]: float(c["epsilon"]) for c in plan["cells"] if (c["model"], c["norm"]) == (model, norm)}
    rows = table[table["cell"].isin(cells) & table["success"].fillna(False).astype(bool)]
    radius = rows["cell"].map(cells)
    near = (radius <= epsilon) | ((radius == math.inf) & (rows["distance"] <= epsilon))
    return set(rows.loc[near, "sample"].tolist())


def _finite(values: Tensor) -> np.ndarray:
    """Return numbers as float64; a bound of minus infinity says nothing and becomes a gap."""
    plain = values.double().cpu().numpy().copy()
    plain[~np.isfinite(plain)] = np.nan
    return plain


def _plain(content: Any) -> Any:
    """Return plain data without numbers that JSON does not know; they become gaps."""
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
