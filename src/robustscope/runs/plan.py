"""Turn a configuration into a plan: every cell, every shard, every default filled in, and what it will cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from robustscope import __version__
from robustscope.attacks import ATTACKS
from robustscope.attacks.compose import attack
from robustscope.attacks.suites import SUITES, auditor, suite
from robustscope.core.errors import InvalidValue, RobustscopeError
from robustscope.core.forms import to_dict
from robustscope.core.threats import Threat, kind_of, make_threat, parse_threat
from robustscope.data.base import Dataset
from robustscope.data.datasets import load_data
from robustscope.data.selection import select
from robustscope.models.blackbox import limit_of
from robustscope.models.classifier import Classifier
from robustscope.models.loading import LoadedModel, load_model
from robustscope.models.twin import CHECKED, Twin, check_kind
from robustscope.models.weights import check_device
from robustscope.probes.flags import COST, SAMPLES
from robustscope.runs.audit import expected_draws
from robustscope.runs.cells import make_cell
from robustscope.runs.config import COMMON, AttackSpec, Audit, Config, ModelSpec, Settings
from robustscope.runs.measures import add_measures, forecast_measures, rehearse
from robustscope.runs.shift_plans import add_shifts, asked_outputs, forecast_shifts
from robustscope.runs.store import FORMAT, runs_all_cells, sealed

DEFAULT_SAMPLES = 1000
Attacks = list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Subjects:
    """The models and the data of a plan, loaded, and the twins of the models that were made so far, by position."""

    models: tuple[LoadedModel, ...]
    data: Dataset
    twins: dict[int, Twin] = field(default_factory=dict, compare=False)


def load_subjects(models: Sequence[ModelSpec], data: str, settings: Settings) -> Subjects:
    """Load what a configuration names.

    Raises:
        RobustscopeError: whatever is wrong with a model or the data.
    """
    dataset = load_data(data)
    loaded = [
        load_model(
            spec.source,
            weights=spec.weights,
            mean=spec.mean,
            std=spec.std,
            bounds=spec.bounds,
            batch_size=settings.batch_size,
            allow_probabilities=spec.allow_probabilities,
            device=settings.device,
        )
        for spec in models
    ]
    return Subjects(tuple(asked_outputs(*pair, dataset) for pair in zip(loaded, models, strict=True)), dataset)


def make_plan(config: Config, subjects: Subjects | None = None) -> dict[str, Any]:
    """Return the plan of a configuration as plain JSON data.

    Args:
        config: what the user asked for.
        subjects: models and data already in memory; loaded from the configuration when None.

    Raises:
        RobustscopeError: for anything that cannot be planned, before anything runs.
    """
    settings = config.settings
    subjects = subjects or load_subjects(config.models, config.data, settings)
    names = _unique([spec.name or model.name for spec, model in zip(config.models, subjects.models, strict=True)])
    ids = _samples(subjects.data, settings)
    attacks = _attacks(config)  # a suite or an attack that does not exist is refused before any model runs
    check_device(settings.device)
    check_kind(settings.twin, settings.device)
    threats, cells = [], []
    for name, model in zip(names, subjects.models, strict=True):
        _check_place(name, model.classifier, settings.device)
        for text in config.threats:
            threat = parse_threat(text, model.classifier.bounds)
            for wanted, _ in _defined(attacks, threat, config):  # before a single row is sent: it may cost money
                ATTACKS[wanted].check_access(model.classifier, threat)
        _probe(model.classifier, subjects.data, ids, settings.device)
        threats = [parse_threat(text, model.classifier.bounds) for text in config.threats]
        _once("the threat model", [f"{t.norm}:{t.common_epsilon:g}" for t in threats])
        classes = model.classifier.num_classes or 0
        suited = {t.norm: _defined(_attacks(config, t.norm, classes), t, config) for t in threats}
        own = _cells(len(cells), name, threats, suited, settings.curve)
        _rehearse(own, model.classifier, subjects.data, ids, settings)
        cells += own
    shards = []
    for name in names:
        for start in range(0, len(ids), settings.shard_size):
            shards.append({"index": len(shards), "model": name, "ids": ids[start : start + settings.shard_size]})
    plan: dict[str, Any] = {
        "format": FORMAT,
        "id": "",
        "created_by": f"robustscope {__version__}",
        "seed": settings.seed,
        "batch_size": settings.batch_size,
        "threads": settings.threads,
        "twin": settings.twin,
        "models": [_describe(n, m, s) for n, m, s in zip(names, subjects.models, config.models, strict=True)],
        "data": {
            "name": subjects.data.name,
            "source": config.data,
            "fingerprint": subjects.data.fingerprint(ids),
            "shape": list(subjects.data.shape),
            "total": len(subjects.data),
            "selection": settings.samples or f"at most {DEFAULT_SAMPLES}",
            "n": len(ids),
            "class_names": None if subjects.data.class_names is None else list(subjects.data.class_names),
            "num_classes": subjects.data.num_classes,
        },
        "threats": [
            {"norm": t.norm, "epsilon": t.common_epsilon, "text": text, "bounds": list(t.bounds)}
            for t, text in zip(threats, config.threats, strict=True)
        ],
        "suite": settings.suite if not config.attacks else "custom",
        "cells": cells,
        "shards": shards,
        "request": to_dict(config),
    }
    audit = settings.asked_audit(bool(config.attacks))
    if audit is not None and any(auditor(t.norm, 2) for t in threats):
        plan["audit"] = asdict(audit)
    classifiers = {name: model.classifier for name, model in zip(names, subjects.models, strict=True)}
    add_measures(plan, classifiers, threats, settings)
    rehearse(plan, classifiers, subjects.data, settings.device)
    add_shifts(plan, classifiers, subjects.data, config)
    plan["cost"] = forecast(plan)
    return sealed(plan)


def _unique(names: Sequence[str]) -> list[str]:
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise InvalidValue(
            f"several models are named {sorted(doubled)[0]!r}",
            "each model needs a name of its own",
            "Give names, e.g. NAME=SOURCE on the command line or name = '...' in the configuration.",
        )
    return list(names)


def _attacks(config: Config, norm: str = "linf", classes: int = 10) -> Attacks:
    """Return the attacks of a configuration, as they are in a norm for a model of so many classes."""
    given = [(a.name, dict(a.parameters)) for a in config.attacks]
    attacks = given or [(name, dict(parameters)) for name, parameters in suite(config.settings.attacks, norm, classes)]
    _once("the attack", [(name, ATTACKS[name].resolve(parameters)) for name, parameters in attacks])
    return attacks


def _defined(attacks: Attacks, threat: Threat, config: Config) -> Attacks:
    """Leave out the attacks of a suite that have no form for a norm, if more than noise stays; else they are refused
    later, as attacks that were asked for by name are.
    """
    kept = [(name, parameters) for name, parameters in attacks if kind_of(threat) in ATTACKS[name].kinds]
    return attacks if config.attacks or all(ATTACKS[name].floor for name, _ in kept) else kept


def _once(what: str, things: Sequence[Any]) -> None:
    for i, thing in enumerate(things):
        if thing in things[:i]:
            name = thing if isinstance(thing, str) else thing[0]
            raise InvalidValue(
                f"{what} {name!r} was given twice",
                "each one once is allowed",
                "Remove the second; it would find nothing new and stand twice in the report.",
            )


def _check_place(name: str, classifier: Classifier, device: str) -> None:
    """Refuse a model in memory that is not on the device of the run; sources are put there when they are loaded."""
    wanted = torch.device(device)
    for tensor in (*classifier.module.parameters(), *classifier.module.buffers()):
        same = tensor.device.type == wanted.type and wanted.index in (None, tensor.device.index)
        if not same:
            raise InvalidValue(
                f"the model {name!r} is on {tensor.device} and device={device!r} was given",
                "a model on the device of the run is allowed",
                f"Move it, model.to({device!r}), or say device={str(tensor.device)!r}.",
            )


def _samples(data: Dataset, settings: Settings) -> list[int]:
    text = settings.samples
    if not text:
        text = str(DEFAULT_SAMPLES) if len(data) > DEFAULT_SAMPLES else "all"
    return select(data, text, settings.seed)


def _probe(classifier: Classifier, data: Dataset, ids: Sequence[int], device: str) -> None:
    """Send a few samples through the model, so that what cannot work is refused before anything runs."""
    few = list(ids[:8])
    x = data.read(few).to(device)
    y = torch.as_tensor(data.labels[few], device=device)
    classifier.check_inputs(x, y)
    classifier.check_outputs(x, y)
    outputs = classifier.classes(x)
    if data.num_classes > outputs:
        raise InvalidValue(
            f"the data have {data.num_classes} classes and the model {outputs} outputs",
            "at least as many outputs as classes are allowed",
            "Choose the model that belongs to these data.",
        )
    classifier.ledger.reset()


def _rehearse(
    cells: Sequence[dict[str, Any]], classifier: Classifier, data: Dataset, ids: Sequence[int], settings: Settings
) -> None:
    """Call every attack once on no samples at all: it costs nothing, and hyper-parameters that are out of range are
    refused here instead of becoming rows in error.
    """
    x = data.read(ids[:1]).to(settings.device)[:0]
    y = torch.empty(0, dtype=torch.int64, device=x.device)
    for cell in cells:
        threat = make_threat(cell["norm"], cell["epsilon"], classifier.bounds)
        try:
            attack(cell["attack"], classifier, x, y, threat, seed=settings.seed, **cell["parameters"])
        except RobustscopeError:
            raise
        except Exception as error:
            raise InvalidValue(
                f"the attack {cell['attack']!r} with {cell['parameters']} raised {type(error).__name__}: {error}",
                "an attack that takes an empty batch is allowed",
                f"Correct its parameters; `robustscope check {cell['attack']}` examines the attack itself.",
            ) from error


def _cells(
    first: int,
    model: str,
    threats: Sequence[Threat],
    attacks: Mapping[str, Attacks],
    curve: Sequence[float],
) -> list[dict[str, Any]]:
    """Return the cells of one model: norms in the order given, radii ascending, attacks in the order of the suite.

    A threat set that is not a ball has its family where a ball has its norm, and its factor where a ball has its radius.
    """
    cells: list[dict[str, Any]] = []
    headline = {(t.norm, t.common_epsilon) for t in threats}
    for norm in dict.fromkeys(t.norm for t in threats):
        given = [t for t in threats if t.norm == norm]
        factors = (1.0, *curve)
        radii = {t.scaled(factor).common_epsilon for t in given for factor in factors}
        for epsilon in sorted(radii):
            threat = make_threat(norm, epsilon, given[0].bounds)
            for name, parameters in attacks[norm]:
                cells.append(
                    make_cell(first + len(cells), model, threat, name, parameters, (norm, epsilon) in headline)
                )
    return cells


def _describe(name: str, model: LoadedModel, spec: ModelSpec) -> dict[str, Any]:
    classifier = model.classifier
    limit = limit_of(classifier.module)
    return {
        "name": name,
        "source": spec.source,
        "fingerprint": model.fingerprint,
        "bounds": list(classifier.bounds),
        "mean": None if classifier.mean is None else list(classifier.mean),
        "std": None if classifier.std is None else list(classifier.std),
        "num_classes": classifier.num_classes,
        "class_names": None if classifier.class_names is None else list(classifier.class_names),
        **({} if limit is None else {"query_limit": limit}),
    }


def forecast(plan: dict[str, Any]) -> dict[str, int]:
    """Return the most rows that a plan can cost: a clean pass, every attack on every sample at every radius, the judge's
    three passes after each attack, a few samples for the automatic flags, estimates, probes, and the first audit; later ones follow only
    where the first has found something. Certificates count their clean passes alone. With a twin, every sample may have to be attacked twice. What is attacked again
    one by one (see ``attacks.twins``) is not foreseen; its rows are told apart.
    """
    forward = backward = 0
    searches = 1 if plan["twin"] == "off" else 2
    audited: dict[tuple[str, str, float], int] = {}
    per_model = {model["name"]: 0 for model in plan["models"]}
    for shard in plan["shards"]:
        if runs_all_cells(shard):
            per_model[shard["model"]] += len(shard["ids"])
    for name, samples in per_model.items():
        looked_at = min(samples, SAMPLES)
        checked = 2 * CHECKED * len(plan["shards"]) * (searches - 1)
        forward += samples + looked_at * COST[0] + checked
        backward += looked_at * COST[1] + checked
        for cell in plan["cells"]:
            if cell["model"] == name:
                most = ATTACKS[cell["attack"]].cost(cell["parameters"])
                attacked = cell.get("samples", samples)
                forward += attacked * (searches * (most[0] + 4) - 1)
                backward += attacked * searches * most[1]
                if plan.get("audit") and cell["headline"]:
                    audited.setdefault((name, cell["norm"], cell["epsilon"]), samples)
    for (name, norm, _), samples in audited.items():
        classes = next(model["num_classes"] for model in plan["models"] if model["name"] == name)
        drawn = expected_draws(samples, Audit(**plan["audit"]))
        for attack_name, parameters in auditor(norm, classes):
            card = ATTACKS[attack_name]
            most = card.cost(card.resolve(parameters))
            forward += drawn * (searches * (most[0] + 4) - 1)
            backward += drawn * searches * most[1]
    measured = forecast_measures(plan)
    forward += forecast_shifts(plan)
    return {"forward": math.ceil(forward + measured[0]), "backward": math.ceil(backward + measured[1])}


def known_suites() -> dict[str, list[str]]:
    """Return the attacks of each named suite as the command line writes them, for listings."""
    found = {name: [_said(attack, parameters) for attack, parameters in attacks] for name, attacks in SUITES.items()}
    return {**found, COMMON: [*found[Settings.suite], "and beside them shifts and brackets"]}


def _said(attack: str, parameters: Mapping[str, Any]) -> str:
    given = ",".join(f"{key}={value}" for key, value in parameters.items())
    return f"{attack}:{given}" if given else attack


def attack_specs(texts: Sequence[str]) -> tuple[AttackSpec, ...]:
    """Read attacks as the command line writes them, "pgd:steps=100,loss=margin"."""
    from robustscope.attacks.suites import parse_attack

    return tuple(AttackSpec(*parse_attack(text)) for text in texts)
