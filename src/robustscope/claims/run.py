"""Run claims and keep what they found: one JSON file for each, in a folder that they share with the networks."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from robustscope import __version__
from robustscope.claims.cards import CLAIMS, ClaimCard, Evidence
from robustscope.claims.lab import Lab, Setting
from robustscope.core.errors import InvalidValue, RobustscopeError, explain
from robustscope.core.files import read_json, write_json
from robustscope.core.threads import torch_threads
from robustscope.data.datasets import load_data
from robustscope.models.loading import load_model
from robustscope.runs.engines.local import end_with, in_processes
from robustscope.runs.session import git_state

Tell = Callable[[str], object]
Record = dict[str, Any]


def setting_of(
    card: ClaimCard,
    *,
    data: str | None = None,
    recipe: str | None = None,
    models: Sequence[tuple[str, str]] = (),
    seed: int = 0,
    device: str = "cpu",
    full: bool = False,
) -> Setting:
    """Return what a claim is tested on: the protocol for two cores, with what the user asks for in its place.

    Raises:
        InvalidValue: for models or data that the claim cannot use, and for the full protocol without data.
    """
    if models and not card.takes_models:
        able = ", ".join(other.name for other in CLAIMS if other.takes_models)
        raise InvalidValue(
            f"models were given for the claim {card.name!r}",
            "it trains its own networks",
            f"Those that take models: {able}.",
        )
    if (data or recipe) and not card.data:
        raise InvalidValue(
            f"data or a recipe was given for the claim {card.name!r}", "it is about a formula", "Leave both out."
        )
    if "#" in (data or ""):
        raise InvalidValue(
            f"data={data!r} was given", "a source without a split is allowed", "Leave out what follows #."
        )
    if full and card.data and not data:
        raise InvalidValue(
            f"the full protocol of {card.name!r} was asked for without data",
            "it needs a data source of yours",
            "Give --data, for instance cifar10:FOLDER.",
        )
    return Setting(
        data or card.data, recipe or (card.full_recipe if full else card.recipe), tuple(models), seed, device
    )


def run_claim(
    card: ClaimCard,
    folder: Path,
    *,
    parameters: Mapping[str, Any] | None = None,
    full: bool = False,
    again: bool = False,
    tell: Tell = str,
    **setting: Any,
) -> Record:
    """Test one claim, or return what was found before for the same question.

    Args:
        card: of the claim.
        folder: where networks and records are kept.
        parameters: of the protocol, in place of its own.
        full: start from the parameters and the recipe of the full protocol.
        again: test again what was found before; networks and verdicts of attacks that are kept stay.
        tell: called with a line about each thing that takes long.
        **setting: data, recipe, models, seed, device; see :func:`setting_of`.

    Returns:
        The record, as it stands in ``folder/claims/NAME.json``.

    Raises:
        RobustscopeError: if the protocol cannot be run; nothing is recorded then.
    """
    resolved = card.resolve({**(card.full if full else {}), **(parameters or {})})
    asked = setting_of(card, full=full, **setting)
    request = _request(card, asked, resolved)
    path = folder / "claims" / f"{card.name}.json"
    if path.is_file() and not again:
        there = read_json(path)
        if there.get("identity") == request["identity"]:
            if there.get("about") != about(card):
                write_json(path, there := {**there, "about": about(card)})
            return there
    started = time.perf_counter()
    with torch_threads(1):
        lab = Lab(folder, asked, tell)
        evidence = card.function(lab, **resolved)
    seconds = round(time.perf_counter() - started + lab.recalled, 1)
    found = _found(card, evidence)
    record = {**request, "about": about(card), **found, "seconds": seconds, "git": git_state()}
    write_json(path, record)
    return record


def about(card: ClaimCard) -> dict[str, str]:
    """Return what a page says of a claim beside what was found; it decides no answer."""
    names = ("topic", "finding", "hypothesis", "caveats", "source")
    return {"summary": card.summary(), **{name: getattr(card, name) for name in names}}


def _request(card: ClaimCard, setting: Setting, parameters: Mapping[str, Any]) -> Record:
    """Return all that decides the answer, with its SHA-256."""
    models = [[name, load_model(source).fingerprint] for name, source in setting.models]
    data = {split: load_data(f"{setting.data}#{split}").fingerprint() for split in ("train", "test") if setting.data}
    facts = {
        "claim": card.name,
        "version": card.version,
        "rules": [asdict(rule) for rule in card.rules],
        "parameters": json.loads(json.dumps(parameters)),
        "data": setting.data,
        "recipe": setting.recipe if card.recipe else "",
        "models": models,
        "seed": setting.seed,
        "fingerprints": data,
        "versions": {"robustscope": __version__, "torch": str(torch.__version__)},
    }
    return {**facts, "identity": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()}


def _found(card: ClaimCard, evidence: Evidence) -> Record:
    verdict, each = card.judge(evidence.effects)
    missing = [plot.table for plot in evidence.plots if plot.table not in evidence.tables]
    if missing:
        raise InvalidValue(f"a plot of {missing[0]!r} was returned", "plots of tables are allowed", "Return the table.")
    return {
        "verdict": verdict,
        "verdicts": each,
        "effects": {name: asdict(effect) for name, effect in evidence.effects.items()},
        "tables": {name: [dict(row) for row in rows] for name, rows in evidence.tables.items()},
        "plots": [asdict(plot) for plot in evidence.plots],
    }


def run_claims(
    names: Sequence[str],
    folder: Path,
    *,
    workers: int = 1,
    report: Callable[[str, str], object] = lambda name, line: None,
    **asked: Any,
) -> dict[str, str]:
    """Test many claims, each of which may fail without stopping the others.

    Args:
        names: of registered claims.
        folder: where networks and records are kept.
        workers: processes; the records do not depend on it.
        report: called with the name of a claim and its verdict, or why it has none.
        **asked: as for :func:`run_claim`.

    Returns:
        name -> why it could not be tested, of those that failed.

    Raises:
        UnknownName, InvalidType, InvalidValue: for what one of the claims cannot use; none is tested then.
    """
    given = {name: value for name, value in asked.items() if name not in ("parameters", "again", "tell")}
    for name in names:
        setting_of(CLAIMS[name], **given)
        CLAIMS[name].resolve(asked.get("parameters"))
    failed = {}
    if workers > 1 and len(names) > 1:
        done = in_processes(_work, names, workers, _start, (str(folder), asked))
    else:
        done = (_attempt(name, folder, asked) for name in names)
    for name, verdict, error in done:
        if error:
            failed[name] = error
        report(name, error or verdict)
    return failed


def _attempt(name: str, folder: Path, asked: Mapping[str, Any]) -> tuple[str, str, str]:
    try:
        return name, run_claim(CLAIMS[name], folder, **asked)["verdict"], ""
    except RobustscopeError as error:
        return name, "", explain(error)


_worker: dict[str, Any] = {}


def _start(folder: str, asked: Mapping[str, Any], parent: int) -> None:
    end_with(parent)
    _worker.update(folder=Path(folder), asked=asked)


def _work(name: str) -> tuple[str, str, str]:
    return _attempt(name, _worker["folder"], _worker["asked"])
