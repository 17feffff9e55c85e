"""The audit of a run: full attacks on a random subset of the survivors, and what that says about all of them.

A run whose search is done goes on in stages. Each stage is one more file of cells and shards, ``stages/001.json``, that
follows from the plan and the rows stored so far alone; whoever carries the run out, wherever it is taken up, writes the
same one. Which survivors are drawn is decided by a number that each sample got from the seed before anything ran.

    search ─▶ audit of m survivors ─▶ few enough found? ─▶ done
                     ▲                     │ no
                     └── escalation: what found them, on all other survivors

docs/audit.md explains the statistics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from robustscope.attacks.suites import auditor
from robustscope.core.draws import shuffled
from robustscope.core.sampling import draws_needed, most_marked
from robustscope.runs.config import Audit
from robustscope.runs.measured import certified

FIRST_SHARE = 0.8
"""Share of the risk that the first audit may take; the later ones halve what is left between them."""

FAILED = ("error", "timeout")
Plan = Mapping[str, Any]
Key = tuple[str, str, float]


@dataclass(frozen=True)
class Verdict:
    """What the audits say of one model at one threat model.

    Args:
        model, norm, epsilon: whose.
        n: samples of the run, the denominator of ``bound``.
        survivors: samples that the search alone, escalations left out, did not break.
        audited: survivors that got the full attacks, over all audits.
        found: how many of those they broke.
        escalated: attacks that ran on all survivors because they had found something in an audit.
        broken_by_escalation: what these broke outside the audits.
        certified: survivors that are proved to have no adversarial example there; they are not audited.
        unaudited: samples left that no audit has seen and no proof covers.
        missed: upper confidence bound on how many of those the full attacks would still break; None before an audit.
        bound: ``missed / n``, the most by which the full attacks would still lower the robust accuracy.
        asked: the bound that was asked for, as a fraction of n.
        confidence: of the bound, over all audits together.
        kept: whether the bound asked for holds.
        reason: why there is no bound, or why it is larger than asked; empty otherwise.
        forward, backward: rows that audits and escalations spent.
    """

    model: str
    norm: str
    epsilon: float
    n: int
    survivors: int
    audited: int
    found: int
    escalated: tuple[str, ...]
    broken_by_escalation: int
    certified: int
    unaudited: int
    missed: int | None
    bound: float | None
    asked: float | None
    confidence: float
    kept: bool
    reason: str
    forward: int
    backward: int


def risk_of(audit: int, risk: float) -> float:
    """Return the risk that the audit number ``audit`` (from 1) may take, so that all of them together take ``risk``.

    Example:
        >>> [round(risk_of(i, 0.05), 5) for i in (1, 2, 3)]
        [0.04, 0.005, 0.0025]
    """
    return risk * (FIRST_SHARE if audit == 1 else (1 - FIRST_SHARE) / 2 ** (audit - 1))


@dataclass
class _Case:
    """One model at one threat model: what is stored of it."""

    plan: Plan
    rows: pd.DataFrame
    key: Key
    measured: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        model, norm, epsilon = self.key
        self.asked = Audit(**self.plan["audit"])
        self.stages = [s for s in self.plan.get("stages", ()) if (s["model"], s["norm"], s["epsilon"]) == self.key]
        self.cells = {c["index"]: c for c in self.plan["cells"] if (c["model"], c["norm"]) == (model, norm)}
        inside = [i for i, c in self.cells.items() if c["epsilon"] <= epsilon]
        mine = self.rows[self.rows["cell"].isin(inside)]
        self.late = mine["cell"].map(lambda i: "stage" in self.cells[i]).astype(bool)
        self.mine = mine
        everyone = self.rows[self.rows["cell"].isin(self.cells)]
        correct = everyone.groupby("sample")["clean_correct"].first()
        self.n = len(correct)
        self.failed = bool(correct.isna().any() or mine["status"].isin(FAILED).any())
        hit = mine["success"].fillna(False).astype(bool)
        self.hits = mine[hit]
        right = set(correct.index[correct.fillna(False).astype(bool)])
        self.survivors = right - set(mine.loc[hit & ~self.late, "sample"])
        self.audited = {i for s in self.stages if s["kind"] == "audit" for i in s["ids"]}
        self.standing = self.survivors - set(self.hits["sample"])
        self.certified: set[int] = set()
        if self.measured is not None:
            self.certified = certified(self.plan, self.measured, *self.key) & self.standing
        self.standing -= self.certified  # proved: no attack can break them, so that none need be audited

    @property
    def unaudited(self) -> list[int]:
        """Samples that still stand and that no audit has seen, in the order in which audits draw them."""
        return shuffled(self.standing - self.audited, self.plan["seed"], "audit")

    @property
    def allowed(self) -> int:
        """How many samples may be missed: all of them where no bound was asked for."""
        return self.n if self.asked.bound is None else math.floor(self.asked.bound * self.n + 1e-9)

    def found(self, stage: Mapping[str, Any]) -> pd.DataFrame:
        """Rows in which a stage broke a sample."""
        return self.hits[self.hits["cell"].isin(stage["cells"])]

    def missed(self) -> int | None:
        """Bound on the samples that the full attacks would still break; None if it is not known yet."""
        audits = [s for s in self.stages if s["kind"] == "audit"]
        if not audits or self.stages[-1]["kind"] != "audit":
            rest = len(self.standing - self.audited)
            return rest if rest <= self.allowed else None  # so few that even all of them would not exceed the bound
        last = audits[-1]
        found = len(self.found(last))
        risk = risk_of(len(audits), 1 - self.asked.confidence)
        return most_marked(last["population"], len(last["ids"]), found, risk) - found


def headline(plan: Plan) -> list[Key]:
    """Return (model, norm, epsilon) of every cell that the headline rests on and that has an auditor."""
    keys = {(c["model"], c["norm"], float(c["epsilon"])): None for c in plan["cells"] if c["headline"]}
    return [key for key in keys if auditor(key[1], 10)]


def verdicts(plan: Plan, rows: pd.DataFrame, measured: pd.DataFrame | None = None) -> list[dict[str, Any]]:
    """Return what the audits of a run say, for each model and threat model, as plain data.

    Args:
        plan: plan of the run with its stages.
        rows: all stored rows of attacks.
        measured: all stored rows of measures: what is certified needs no audit.
    """
    if not plan.get("audit"):
        return []
    return [asdict(_verdict(_Case(plan, rows, key, measured))) for key in headline(plan)]


def _verdict(case: _Case) -> Verdict:
    missed = None if case.failed else case.missed()
    if case.failed:
        reason = "an attack failed, so that the survivors are not known"
    elif missed is None:
        reason = "the budget allows no audit" if case.standing else ""
        missed = None if case.standing else 0
    else:
        reason = "" if missed <= case.allowed else "the budget was spent before the bound held"
    late = case.mine[case.late]
    audits = [s for s in case.stages if s["kind"] == "audit"]
    raised = [s for s in case.stages if s["kind"] == "escalation"]
    return Verdict(
        *case.key,
        n=case.n,
        survivors=len(case.survivors),
        audited=len(case.audited),
        found=sum(len(case.found(stage)) for stage in audits),
        escalated=tuple(dict.fromkeys(case.cells[i]["attack"] for s in raised for i in s["cells"])),
        broken_by_escalation=sum(len(case.found(stage)) for stage in raised),
        certified=len(case.certified),
        unaudited=len(case.standing - case.audited),
        missed=missed,
        bound=None if missed is None else missed / case.n,
        asked=case.asked.bound,
        confidence=case.asked.confidence,
        kept=missed is not None and missed <= case.allowed,
        reason=reason,
        forward=int(late["forward"].sum()),
        backward=int(late["backward"].sum()),
    )


def next_stages(plan: Plan, rows: pd.DataFrame, measured: pd.DataFrame | None = None) -> list[dict[str, Any]]:
    """Return what is to be done next, one entry for each model and threat model that is not settled; [] ends the run.

    Args:
        plan: plan of the run with its stages so far, all of them carried out.
        rows: all stored rows of attacks.
        measured: all stored rows of measures: what is certified needs no audit.

    Returns:
        Entries {kind, model, norm, epsilon, ids, population, attacks}.
    """
    if not plan.get("audit"):
        return []
    found = (_next(_Case(plan, rows, key, measured)) for key in headline(plan))
    return [entry for entry in found if entry is not None]


def _next(case: _Case) -> dict[str, Any] | None:
    pool = case.unaudited
    if case.failed or not pool:
        return None
    last = case.stages[-1] if case.stages else None
    if last is not None and last["kind"] == "audit":
        missed, culprits = case.missed(), case.found(last)["cell"].drop_duplicates().tolist()
        if missed is None or missed <= case.allowed or not culprits:
            return None
        if case.asked.samples is not None and len(case.audited) >= case.asked.samples:
            return None
        attacks = [(case.cells[i]["attack"], case.cells[i]["parameters"]) for i in sorted(culprits)]
        return _entry(case, "escalation", pool, attacks)
    number = sum(s["kind"] == "audit" for s in case.stages) + 1
    wanted = len(pool)
    if case.asked.bound is not None:
        wanted = draws_needed(len(pool), min(case.allowed, len(pool)), risk_of(number, 1 - case.asked.confidence))
    if case.asked.samples is not None:
        wanted = min(wanted, case.asked.samples - len(case.audited))
    classes = next(m["num_classes"] for m in case.plan["models"] if m["name"] == case.key[0])
    return _entry(case, "audit", pool[:wanted], auditor(case.key[1], classes), len(pool)) if wanted > 0 else None


def _entry(
    case: _Case, kind: str, ids: Sequence[int], attacks: Sequence[Any], population: int | None = None
) -> dict[str, Any]:
    model, norm, epsilon = case.key
    return {
        "kind": kind,
        "model": model,
        "norm": norm,
        "epsilon": epsilon,
        "ids": sorted(ids),
        "population": len(ids) if population is None else population,
        "attacks": [(name, dict(parameters)) for name, parameters in attacks],
    }


def expected_draws(n: int, audit: Audit) -> int:
    """Return how many of ``n`` samples the first audit draws at most, for forecasts."""
    wanted = n
    if audit.bound is not None:
        wanted = draws_needed(n, math.floor(audit.bound * n + 1e-9), risk_of(1, 1 - audit.confidence))
    return wanted if audit.samples is None else min(wanted, audit.samples)
