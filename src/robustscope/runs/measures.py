"""What a plan measures beside attacks: certificates, brackets of the robust radius, and whether the number can be trusted.

A measure is to these what a cell is to an attack: a model, a threat set and a method with all its parameters. Shards with
"measures" carry them out and have rows of their own, see ``runs.measured``. The probes of trust need what the attacks
broke, so that their shards are only known when all others are stored; ``runs.stages`` adds them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from robustscope.attacks.suites import parse_attack
from robustscope.certify import CERTIFIERS, certify
from robustscope.core.draws import shuffled
from robustscope.core.errors import InvalidValue, RobustscopeError
from robustscope.core.threats import Threat
from robustscope.core.types import ThreatModel
from robustscope.data.base import Dataset
from robustscope.estimates import ESTIMATES
from robustscope.models.classifier import Classifier
from robustscope.runs import trust
from robustscope.runs.cells import make_cell
from robustscope.runs.config import Settings
from robustscope.runs.store import runs_all_cells

REACH = 4.0
"""Largest radius that a bracket looks at, in radii of the threat model: that of sampling, and of the first certificate."""
NEAREST = "nearest"
"""The minimum-norm attack of a bracket."""
LARGE, SMALL = 64, 16
"""Samples of a shard of certificates, and of a bracket: what a killed run may have to repeat."""
HALVINGS = 7
"""Halvings of the search for a certified radius: it is found within ``REACH`` / 128 of the radius."""
PROOFS = ("certificate", "radius")
PROBED = ("linf", "l2", "l1")
Plan = dict[str, Any]


def add_measures(plan: Plan, models: Mapping[str, Classifier], threats: Sequence[Threat], settings: Settings) -> None:
    """Add to a plan what its settings ask for beside attacks: measures, cells of brackets, and their shards.

    Args:
        plan: the plan with the cells and shards of all attacks.
        models: name -> model, in the order of the plan.
        threats: threat sets of the headline.
        settings: what was asked for.

    Raises:
        RobustscopeError: for a certifier or an estimate that does not exist, or has no form for a threat set.
    """
    plan["measures"] = []
    for name, model in models.items():
        whole = [s for s in plan["shards"] if s["model"] == name and runs_all_cells(s)]
        ids = [i for shard in whole for i in shard["ids"]]
        for threat in threats:
            entry = _Entry(plan, name, model, threat, ids, settings)
            entry.certificate()
            entry.bracket()
            entry.trust()
    if not plan["measures"]:
        del plan["measures"]


class _Entry:
    """What is asked of one model at one threat set."""

    def __init__(
        self, plan: Plan, name: str, model: Classifier, threat: Threat, ids: list[int], settings: Settings
    ) -> None:
        self.plan, self.name, self.model, self.threat = plan, name, model, threat
        self.ids, self.settings = ids, settings

    def certificate(self) -> None:
        """A certificate of every sample at the radius, if one was named; a bracket alone asks for none."""
        if self.settings.certify.strip() not in ("", "off"):
            measure = self._measure("certificate", self.settings.certifier, self._ball("certify"))
            self._shards(self.ids, LARGE, measures=[measure])

    def bracket(self) -> None:
        """Certified radius, estimate and nearest example of some samples."""
        count = self.settings.asked_number("bracket")
        implied = not str(
            self.settings.bracket
        ).strip()  # by the suite, and then only where there is something to bracket
        if not count or (implied and not _bracketed(self.threat)):
            return
        ball = self._ball("bracket")
        wide = replace(ball, epsilon=REACH * ball.common_epsilon)
        chosen = sorted(shuffled(self.ids, self.settings.seed, "bracket")[:count])
        found = []
        if self.settings.certifier:
            _about_itself(parse_attack(self.settings.certifier)[0])
            found.append(self._measure("radius", self.settings.certifier, wide))
        if self.settings.estimator:
            found.append(self._measure("estimate", self.settings.estimator, wide))
        known = [c for c in self.plan["cells"] if c.get("subset") == "bracket"]
        if not any((c["model"], c["norm"]) == (self.name, self.threat.norm) for c in known):
            endless = replace(ball, epsilon=math.inf)
            cell = make_cell(len(self.plan["cells"]), self.name, endless, NEAREST, {}, False)
            self.plan["cells"].append(
                {**cell, "label": f"bracket: {NEAREST}", "stage": 0, "subset": "bracket", "samples": len(chosen)}
            )
            self._shards(chosen, SMALL, cells=[cell["index"]])
        if found:
            self._shards(chosen, SMALL, measures=found)

    def trust(self) -> None:
        """Whether the robust accuracy can be believed; without a shard, for what was broken is not known yet."""
        count = self.settings.asked_number("trust")
        if count and _probed(self.model, self.threat):
            white = _white(self.plan, self.name, self.threat)
            self._add(
                "trust", "trust", self.threat.common_epsilon, trust.VERSION, {"white": white}, count, trust.SOURCE
            )

    def _ball(self, what: str) -> ThreatModel:
        """Return the threat set if it is a ball of a finite radius above 0."""
        if isinstance(self.threat, ThreatModel) and _bracketed(self.threat):
            return self.threat
        raise InvalidValue(
            f"{what} was asked for at {self.threat.norm}:{self.threat.common_epsilon:g}",
            "the ball of a norm with a finite radius above 0 is allowed",
            f"Give another threat model, or leave {what} out.",
        )

    def _measure(self, kind: str, text: str, ball: ThreatModel) -> int:
        """Add a certificate, certified radius or estimate; return its index."""
        name, parameters = parse_attack(text)
        card = ESTIMATES[name] if kind == "estimate" else CERTIFIERS[name]
        card.check(ball)
        resolved = dict(card.resolve(parameters))
        samples = len(self.ids) if kind == "certificate" else min(self.settings.asked_number("bracket"), len(self.ids))
        return self._add(kind, name, ball.common_epsilon, card.version, resolved, samples, card.source)

    def _add(
        self,
        kind: str,
        method: str,
        epsilon: float,
        version: int,
        parameters: Mapping[str, Any],
        samples: int,
        source: str,
    ) -> int:
        index = len(self.plan["measures"])
        measure = {"index": index, "kind": kind, "model": self.name, "norm": self.threat.norm, "epsilon": epsilon}
        measure |= {"at": self.threat.common_epsilon, "method": method, "version": version, "source": source}
        measure["sound"] = CERTIFIERS[method].sound if kind in PROOFS else ""
        self.plan["measures"].append({**measure, "parameters": dict(parameters), "samples": samples})
        return index

    def _shards(self, ids: Sequence[int], most: int, **what: list[int]) -> None:
        """Add the shards that carry out measures or cells on these samples."""
        size = min(most, self.settings.shard_size)
        shards = self.plan["shards"]
        for start in range(0, len(ids), size):
            shards.append({"index": len(shards), "model": self.name, "ids": list(ids[start : start + size]), **what})


def _bracketed(threat: Threat) -> bool:
    """Tell whether a threat set is the ball of a norm with a finite radius above 0."""
    return isinstance(threat, ThreatModel) and 0 < threat.common_epsilon < math.inf


def _about_itself(name: str) -> None:
    """Refuse a certifier whose certificates are about another classifier: its radius bounds nothing that attacks reach."""
    if CERTIFIERS[name].subject is not None:
        raise InvalidValue(
            f"a bracket with the certifier {name!r} was asked for",
            "a certifier whose certificates are about the model itself is allowed",
            f"Use crown for the bracket; evaluate the classifier that {name} certifies with certify.certified_model.",
        )


def _probed(model: Classifier, threat: Threat) -> bool:
    """Tell whether probes can judge a robust accuracy; ``reports.measures.WITHOUT`` says in words where they cannot."""
    ball = _bracketed(threat) and threat.norm in PROBED
    return ball and model.access == "gradients"


def _white(plan: Plan, model: str, threat: Threat) -> list[Any] | None:
    """Return the gradient attack behind the claim with its parameters; None if the plan has none that can be varied."""
    for cell in plan["cells"]:
        here = (cell["model"], cell["norm"], float(cell["epsilon"])) == (model, threat.norm, threat.common_epsilon)
        if here and cell["access"] == "gradients" and "steps" in cell["parameters"]:
            return [cell["attack"], dict(cell["parameters"])]
    return None


def rehearse(plan: Plan, models: Mapping[str, Classifier], data: Dataset, device: str) -> None:
    """Try each certifier on one sample: a layer that it cannot pass is refused before anything runs.

    Raises:
        RobustscopeError: naming the layer.
    """
    tried = set()
    for measure in plan.get("measures", ()):
        key = measure["model"], measure["method"]
        if measure["kind"] not in PROOFS or key in tried or not CERTIFIERS[measure["method"]].layers:
            continue
        tried.add(key)
        model = models[measure["model"]]
        first = next(shard for shard in plan["shards"] if shard["model"] == measure["model"])["ids"][:1]
        y = torch.as_tensor(data.labels[first], device=device)
        threat = ThreatModel(measure["norm"], 0.0, model.bounds)
        try:
            certify(measure["method"], model, data.read(first).to(device), y, threat, **measure["parameters"])
        except RobustscopeError as error:
            if plan["request"]["settings"]["certify"].strip():
                raise
            raise InvalidValue(  # nobody asked for this certifier by name
                f"the bracket wants certificates, and {measure['method']} cannot give them ({error.given})",
                error.allowed,
                "Say certify='off', on the command line --certify off: the bracket then has no lower end.",
            ) from error
        model.ledger.reset()


def forecast_measures(plan: Mapping[str, Any]) -> tuple[int, int]:
    """Return the most rows forward and backward that the measures of a plan take; of certificates the clean passes."""
    forward = backward = 0
    for measure in plan.get("measures", ()):
        if measure["kind"] in PROOFS:
            tries = 1 if measure["kind"] == "certificate" else 2 + HALVINGS
            most = 1 + tries * CERTIFIERS[measure["method"]].cost(measure["parameters"]), 0
        elif measure["kind"] == "estimate":
            classes = next(model["num_classes"] for model in plan["models"] if model["name"] == measure["model"])
            most = ESTIMATES[measure["method"]].cost(measure["parameters"], classes)
        else:
            rows = trust.expected_rows(*filter(None, (measure["parameters"]["white"],)))
            parts = [cost for name, cost in rows.items() if name != "evaluation"]
            most = sum(cost[0] for cost in parts), sum(cost[1] for cost in parts)
        forward += measure["samples"] * most[0]
        backward += measure["samples"] * most[1]
    return forward, backward
