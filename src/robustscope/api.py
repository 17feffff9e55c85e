"""The Python door: evaluate a model that is in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from robustscope.core.errors import InvalidType, InvalidValue, UnknownName, did_you_mean
from robustscope.core.threats import Patch, RotationTranslation, Threat, threat_text
from robustscope.core.types import Ledger, ThreatModel
from robustscope.data.datasets import Dataset, from_pairs, from_tensors, load_data
from robustscope.models.classifier import Classifier
from robustscope.models.loading import LoadedModel, fingerprint, from_module
from robustscope.reports import summarise, write_report
from robustscope.runs.config import DEFAULT_THREAT, AttackSpec, Config, ModelSpec, Settings
from robustscope.runs.plan import Subjects, attack_specs, make_plan
from robustscope.runs.session import Watcher, carry_out, start
from robustscope.runs.store import read_plan, read_table


@dataclass(frozen=True)
class Evaluation:
    """A finished run; everything is read from its folder.

    Args:
        run: the run folder.
    """

    run: Path

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row for each (cell, sample): see ``robustscope.runs.store.COLUMNS``."""
        return read_table(self.run)

    @cached_property
    def plan(self) -> dict[str, Any]:
        """The plan: every cell with all its parameters, every shard, every hash."""
        return read_plan(self.run)

    def summary(self) -> dict[str, Any]:
        """Return what report.json holds: accuracies with intervals and denominators, attacks, curve, cost, warnings."""
        return summarise(self.run)

    def report(self, path: str | Path | None = None) -> Path:
        """Write report.html, report.md and report.json into ``path`` (default: the run folder); return the page."""
        return write_report(self.run, None if path is None else Path(path))["html"]

    def __str__(self) -> str:
        return headline(self.summary())


def headline(summary: Mapping[str, Any]) -> str:
    """Return the accuracies of a summary as plain lines."""
    lines = []
    for model in summary["models"]:
        lines.append(f"{model['name']}: clean accuracy {_figure(model['clean_accuracy'])}")
        for threat in model["threats"]:
            lines.append(f"{model['name']}: robust accuracy {_figure(threat['robust_accuracy'])} at {threat['name']}")
            for found in threat["certified"]:
                lines.append(f"{model['name']}: certified accuracy {_figure(found)} by {found['name']}")
            if threat.get("audit"):
                lines.append(f"  {threat['audit']['sentence']}")
            if threat["trust"]["verdict"]:
                lines.append(f"  {threat['trust']['sentence']}")
    lines += [f"{entry['model']}: {entry['sentence']}" for entry in summary["brackets"]]
    lines += [f"{told['model']}: {told['sentence']}" for shift in summary["shifts"] for told in shift["models"]]
    return "\n".join(lines)


def _figure(figure: Mapping[str, Any] | None) -> str:
    if figure is None or figure.get("value") is None:
        return "withheld: rows are in error"
    low, high = 100 * figure["low"], 100 * figure["high"]
    return f"{100 * figure['value']:.1f} % ({figure['k']} of {figure['n']}, 95 % interval {low:.1f}-{high:.1f})"


Model = nn.Module | Classifier | LoadedModel


def evaluate(
    model: Model | Mapping[str, Model],
    data: Dataset | str | tuple[Any, Any] | Any,
    threat: str | Threat | Sequence[str | Threat] = DEFAULT_THREAT,
    *,
    attacks: str | AttackSpec | Sequence[str | AttackSpec] = (),
    settings: Settings | None = None,
    out: str | Path | None = None,
    watcher: Watcher | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    bounds: Sequence[float] | None = None,
    **changes: Any,
) -> Evaluation:
    """Evaluate the robustness of one or several models and store the whole record in a folder.

    Args:
        model: a torch module in evaluation mode, a :class:`Classifier`, what ``load_model`` returns, or a mapping of
            names to several of them.
        data: a data source such as "digits", a data set, a pair of tensors (x, y), or a torch data set of pairs.
        threat: threat model or models, such as "linf:8/255", "rotation-translation:30,3", "patch:5,5" or "linf:inf".
        attacks: attack or attacks, such as "pgd:steps=100", instead of a suite.
        settings: samples, suite, curve, seed, sizes, device; see :class:`Settings`.
        out: run folder; a new temporary one when None. The same call with the same folder resumes it.
        watcher: told about progress.
        mean: per-channel mean that modules expect to be subtracted, if they do not normalise themselves. For modules
            only, like ``std`` and ``bounds``: a classifier has its own.
        std: per-channel standard deviation, with ``mean``.
        bounds: valid range of the inputs; (0, 1) when None.
        **changes: single settings, such as ``samples="500"`` or ``seed=1``.

    Returns:
        The evaluation: ``.table``, ``.summary()``, ``.report(path)``.

    Raises:
        RobustscopeError: for anything that cannot be evaluated, before anything runs.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
        >>> result = evaluate(net, "digits", "linf:0.1", samples="20", suite="fgsm", curve=())
        >>> result.table["sample"].nunique()
        20
    """
    settings = _settings(settings, changes)
    named = dict(model) if isinstance(model, Mapping) else {"model": model}
    specs = tuple(ModelSpec(source="", name=name) for name in named)
    options = {"mean": mean, "std": std, "bounds": bounds}
    loaded = [_wrap(name, one, options, settings.batch_size) for name, one in named.items()]
    dataset, source = _open(data)
    threats = tuple(
        _threat_text(one, loaded) for one in _several("threat", threat, (str, ThreatModel, RotationTranslation, Patch))
    )
    config = Config(specs, source, threats, _attacks(attacks), settings)
    if not isinstance(out, (str, Path, type(None))):
        raise InvalidType(f"out={out!r} was given", "a path is allowed", "Write e.g. out='runs/first'.")
    subjects = Subjects(tuple(loaded), dataset)
    plan = make_plan(config, subjects)
    run = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="robustscope-"))
    start(plan, run)
    carry_out(run, subjects=subjects, watcher=watcher)
    return Evaluation(run)


def _settings(settings: Settings | None, changes: Mapping[str, Any]) -> Settings:
    known = [field.name for field in fields(Settings)]
    for name in changes:
        if name not in known:
            raise UnknownName(f"the setting {name!r} was given", "", did_you_mean(name, known))
    if not isinstance(settings, (Settings, type(None))):
        raise InvalidType(
            f"settings of type {type(settings).__name__} were given",
            "a Settings object or None is allowed",
            "Give single settings as arguments instead, e.g. seed=1.",
        )
    return replace(settings or Settings(threads=torch.get_num_threads()), **changes)


def _several(what: str, given: Any, kinds: tuple[type, ...]) -> tuple[Any, ...]:
    """Return one thing or a sequence of them as a tuple."""
    found = (given,) if isinstance(given, kinds) else given
    if not isinstance(found, (list, tuple)) or not all(isinstance(one, kinds) for one in found):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise InvalidType(
            f"{what}={given!r} was given", f"{names}, or a list of them, is allowed", f"Write e.g. {_EXAMPLES[what]}."
        )
    return tuple(found)


def _attacks(given: Any) -> tuple[AttackSpec, ...]:
    several = _several("attacks", given, (str, AttackSpec))
    return tuple(attack_specs([one])[0] if isinstance(one, str) else one for one in several)


_EXAMPLES = {"threat": "threat='linf:8/255'", "attacks": "attacks=['fgsm', 'pgd:steps=100']"}


def _threat_text(threat: str | Threat, models: Sequence[LoadedModel]) -> str:
    """Return a threat model as text; its bounds must be those of the models, which the plan takes them from."""
    if isinstance(threat, str):
        return threat
    for model in models:
        if threat.bounds != model.classifier.bounds:
            raise InvalidValue(
                f"a threat model with bounds {tuple(threat.bounds)} was given for the model {model.name!r} "
                f"with bounds {tuple(model.classifier.bounds)}",
                "equal bounds are allowed",
                "Say bounds= in both, or give the threat model as text.",
            )
    return threat_text(threat)


def _wrap(name: str, model: Any, options: Mapping[str, Any], batch_size: int) -> LoadedModel:
    """Return a model of any kind under this name, with the run's batch size and a ledger of its own."""
    if not isinstance(model, (Classifier, LoadedModel)):
        return from_module(model, name=name, batch_size=batch_size, **options)
    said = [key for key, value in options.items() if value is not None]
    if said:
        raise InvalidValue(
            f"{said[0]}= was given beside a {type(model).__name__}",
            "it is allowed beside a torch module, for a classifier has its own",
            f"Say {said[0]}= where the classifier is made.",
        )
    classifier = model if isinstance(model, Classifier) else model.classifier
    own = replace(classifier, batch_size=batch_size, ledger=Ledger())
    if isinstance(model, LoadedModel):
        return replace(model, classifier=own, name=name)
    mark = fingerprint(own.module, bounds=own.bounds, mean=own.mean, std=own.std, description="")
    return LoadedModel(own, name, "", mark)


def _open(data: Any) -> tuple[Dataset, str]:
    if isinstance(data, (str, Path)):
        return load_data(str(data)), str(data)
    if isinstance(data, Dataset):
        return data, data.name
    if isinstance(data, tuple) and len(data) == 2:
        return from_tensors(*data), "tensors"
    return from_pairs(data), "pairs"
