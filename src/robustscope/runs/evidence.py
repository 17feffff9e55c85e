"""Check a finished run from its evidence alone: nobody has to trust the run that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robustscope.attacks.verify import TIE, round_to_8_bits
from robustscope.certify.cards import certify
from robustscope.core.draws import Draws
from robustscope.core.errors import CorruptRun
from robustscope.core.threats import RotationTranslation, make_threat
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import margin
from robustscope.geometry.rules import is_adversarial
from robustscope.runs.config import config_from_dict
from robustscope.runs.engines.local import torch_threads
from robustscope.runs.execute import check_subjects
from robustscope.runs.measured import read_measures
from robustscope.runs.plan import Subjects, load_subjects
from robustscope.runs.shift_evidence import SAMPLES, check_shifts
from robustscope.runs.store import cells_of, evidence_digest, read_evidence, read_plan, read_table, shard_record


@dataclass(frozen=True)
class Check:
    """What was found when a run was checked.

    Args:
        plan_id: id of the plan.
        claims: rows that claim a success.
        confirmed: claims that hold.
        failures: one row for each thing that does not hold: shard, cell, sample, problem.
        marginal: claims whose logits tie to within 1e-5 of their spread here; another machine's rounding decided them.
        certificates: samples that the run certifies and that were certified again here.
        hold_alone: claims whose example fools the model here when it goes through it alone, at batch size 1.
        survive_8bit: claims whose example fools it here after rounding to 8 bits.
        shifted: rows of shifts whose pictures were made and judged again here.
        left_out: why other rows of shifts could not be, in words.
    """

    plan_id: str
    claims: int
    confirmed: int
    failures: pd.DataFrame
    marginal: int
    hold_alone: int = 0
    survive_8bit: int = 0
    certificates: int = 0
    shifted: int = 0
    left_out: tuple[str, ...] = ()


def verify_run(run: str | Path, subjects: Subjects | None = None, *, shift_samples: int = SAMPLES) -> Check:
    """Recompute every claim of a run from models, data and stored examples.

    Checked for each row that claims success: the example is there, lies inside the bounds and the radius, its distance
    is the stored one, the model misclassifies it when it sees it alone, label and prediction are the stored ones, and it
    survives rounding to 8 bits if that is stored; a transformed example is made anew from the stored angle and shift. Checked for each
    sample: its label and its clean prediction. Checked for the folder: plan id, hashes of models, data and evidence,
    rows missing or doubled, examples that no row claims. Certificates are computed anew, and must hold again. Of shifts the
    pictures of some samples are made anew, and each model must say the same of them.

    Args:
        run: folder of a finished run.
        subjects: models and data in memory; loaded from the plan when None.
        shift_samples: samples of each shift that are made again.

    Raises:
        RobustscopeError: if the folder itself cannot be read, or models or data have changed.
    """
    run = Path(run)
    plan, table = read_plan(run), read_table(run)
    if subjects is None:
        config = config_from_dict(plan["request"])
        subjects = load_subjects(config.models, config.data, config.settings)
    check_subjects(plan, subjects)
    failures: list[Failure] = []
    marginal = hold_alone = survive_8bit = proofs = 0
    measured = read_measures(run)
    with torch_threads(plan["threads"]):
        for shard in plan["shards"]:
            if "shifts" in shard:
                continue
            checker = _Checker(run, plan, shard, subjects)
            if "measures" in shard:
                checker.check_certificates(plan, measured[measured["shard"] == shard["index"]])
            else:
                checker.check(table[table["shard"] == shard["index"]])
            failures += checker.failures
            marginal += checker.marginal
            hold_alone += checker.hold_alone
            survive_8bit += checker.survive_8bit
            proofs += checker.certificates
        classifiers = [model.classifier for model in subjects.models]
        remade = check_shifts(run, plan, classifiers, subjects.data, shift_samples)
    failures += [Failure(shard, -1, sample, problem) for shard, sample, problem in remade.problems]
    claims = table[table["success"].fillna(False)]
    bad = {(failure.shard, failure.cell, failure.sample) for failure in failures}
    held = [key not in bad for key in zip(claims["shard"], claims["cell"], claims["sample"], strict=True)]
    found = pd.DataFrame(failures, columns=list(Failure._fields))
    counts = marginal, hold_alone, survive_8bit, proofs, remade.rows
    return Check(plan["id"], len(claims), sum(held), found, *counts, tuple(remade.left_out))


class Failure(NamedTuple):
    """One thing that does not hold; cell and sample are -1 where it concerns more than one row."""

    shard: int
    cell: int
    sample: int
    problem: str


class _Checker:
    """Checks one shard and collects what does not hold."""

    def __init__(self, run: Path, plan: Mapping[str, Any], shard: Mapping[str, Any], subjects: Subjects) -> None:
        position = next(i for i, model in enumerate(plan["models"]) if model["name"] == shard["model"])
        self.run, self.shard = run, shard["index"]
        self.cells = cells_of(plan, shard)
        self.model = subjects.models[position].classifier
        self.ids = list(shard["ids"])
        self.x = subjects.data.read(self.ids).to(plan["request"]["settings"]["device"])
        self.y = torch.as_tensor(subjects.data.labels[self.ids], dtype=torch.int64, device=self.x.device)
        self.place = {sample: i for i, sample in enumerate(self.ids)}
        self.failures: list[Failure] = []
        self.marginal = self.hold_alone = self.survive_8bit = self.certificates = 0

    def fail(self, problem: str, cell: int = -1, sample: int = -1) -> None:
        self.failures.append(Failure(self.shard, cell, sample, problem))

    def check(self, rows: pd.DataFrame) -> None:
        if evidence_digest(self.run, self.shard) != shard_record(self.run, self.shard)["evidence"]:
            self.fail("the evidence file is not the one that the run wrote (sha-256 differs)")
        self.check_clean(rows)
        try:
            evidence = read_evidence(self.run, self.shard)
        except CorruptRun as error:
            self.fail(str(error))
            return
        for cell in self.cells:
            claimed = rows[(rows["cell"] == cell["index"]) & rows["success"].fillna(False)]
            self.check_cell(cell, claimed, evidence)

    def check_clean(self, rows: pd.DataFrame) -> None:
        """Labels and clean predictions; all rows of a sample must agree on them."""
        columns = ["sample", "y", "clean_correct", "clean_prediction"]
        logits = self.model.logits(self.x)
        predicted = logits.argmax(1)
        tied = margin(logits, predicted) <= TIE * logits.abs().amax(1)
        distinct = rows[columns].drop_duplicates()
        for sample, y, correct, prediction in distinct.itertuples(index=False, name=None):
            i = self.place[sample]
            if y != int(self.y[i]):
                self.fail(f"label {y} is stored, the data say {int(self.y[i])}", sample=sample)
            elif not pd.isna(correct):
                if prediction != int(predicted[i]) and not tied[i]:
                    self.fail(f"clean prediction {prediction} is stored, now {int(predicted[i])}", sample=sample)
                elif bool(correct) != (prediction == y):
                    self.fail("clean_correct contradicts label and prediction", sample=sample)

    def check_certificates(self, plan: Mapping[str, Any], rows: pd.DataFrame) -> None:
        """Certify again what the run certifies, with the method and at the radius of the plan."""
        for measure in plan["measures"]:
            claimed = rows[(rows["measure"] == measure["index"]) & rows["holds"].fillna(False)]
            if measure["kind"] != "certificate" or claimed.empty:
                continue
            pick = [self.place[sample] for sample in claimed["sample"]]
            threat = ThreatModel(measure["norm"], measure["epsilon"], self.model.bounds)
            draws = Draws(plan["seed"], tuple(claimed["sample"].tolist()))
            given = measure["method"], self.model, self.x[pick], self.y[pick], threat
            proof = certify(*given, draws=draws, **measure["parameters"])
            for sample, status in zip(claimed["sample"], proof.status, strict=True):
                self.certificates += status == "verified"
                if status != "verified":
                    self.fail(f"{measure['method']} certifies it in the run, and says {status} now", sample=int(sample))

    def check_cell(self, cell: Mapping[str, Any], claimed: pd.DataFrame, evidence: Mapping[str, np.ndarray]) -> None:
        """Every claim has its example and every example its claim; then the examples themselves."""
        number = cell["index"]
        stored = evidence.get(f"cell/{number}/samples", np.empty(0, np.int64)).tolist()
        row_of = {sample: i for i, sample in enumerate(stored)}
        for sample in sorted(set(stored) - set(claimed["sample"])):
            self.fail("an example is stored, but no row claims it", number, sample)
        for sample in sorted(set(claimed["sample"]) - set(stored)):
            self.fail("success is claimed, but no example is stored", number, sample)
        rows = claimed[claimed["sample"].isin(stored)]
        if not len(rows):
            return
        place = [row_of[sample] for sample in rows["sample"]]
        examples = evidence[f"cell/{number}/x_adv"][place]
        if examples.shape[1:] != self.x.shape[1:]:
            self.fail(f"examples of shape {examples.shape[1:]} are stored", number)
            return
        done = evidence.get(f"cell/{number}/parameters")
        parameters = None if done is None or len(done) != len(stored) else torch.as_tensor(done[place])
        self.check_examples(cell, rows, torch.as_tensor(examples, device=self.x.device), parameters)

    def check_examples(
        self, cell: Mapping[str, Any], rows: pd.DataFrame, x_adv: Tensor, parameters: Tensor | None
    ) -> None:
        """Distance, membership and prediction of each example against its row and its threat model."""
        pick = [self.place[sample] for sample in rows["sample"]]
        x, y = self.x[pick], self.y[pick]
        threat = make_threat(cell["norm"], cell["epsilon"], self.model.bounds)
        made = ", or it is not what the stored angle and shift make" if isinstance(threat, RotationTranslation) else ""
        inside = balls.contains(threat, x, x_adv, parameters).tolist()
        measured = balls.distance(threat, x, x_adv, parameters).tolist()
        logits = torch.cat([self.model.logits(one) for one in x_adv.split(1)])
        predicted = logits.argmax(1).tolist()
        tied = _tied(logits, y)
        rounded = self.model.logits(round_to_8_bits(x_adv, self.model.bounds))
        survives, open_8bit = is_adversarial(rounded, y).tolist(), _tied(rounded, y)
        self.hold_alone += int(is_adversarial(logits, y).sum())
        self.survive_8bit += sum(survives)
        columns = rows[["sample", "y", "y_adv", "distance", "survives_8bit"]].itertuples(index=False, name=None)
        for i, (sample, label, y_adv, distance, stored) in enumerate(columns):
            problems = []
            if not inside[i]:
                problems.append(
                    f"{cell['norm']} distance {measured[i]:.9g}, or a value, lies outside epsilon={cell['epsilon']:.9g} "
                    f"or the bounds{made}"
                )
            if abs(measured[i] - distance) > 1e-9 + 1e-6 * abs(distance):
                problems.append(f"distance {distance:.9g} is stored, {measured[i]:.9g} measured")
            if predicted[i] == int(y[i]) and not tied[i]:
                problems.append("the model classifies the example correctly")
            elif predicted[i] != y_adv and not tied[i]:
                problems.append(f"prediction {y_adv} is stored, the model says {predicted[i]}")
            if not pd.isna(stored) and bool(stored) != survives[i] and not open_8bit[i]:
                problems.append(f"survives_8bit={bool(stored)} is stored, rounding says {survives[i]}")
            if y_adv == label:
                problems.append("success is claimed, but the stored prediction equals the label")
            self.marginal += tied[i]
            for problem in problems:
                self.fail(problem, cell["index"], sample)


def _tied(logits: Tensor, y: Tensor) -> list[bool]:
    """Tell for each row whether rounding alone may decide between its label and the next class."""
    return (margin(logits, y).abs() <= TIE * logits.abs().amax(1)).tolist()
