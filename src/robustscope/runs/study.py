"""Study what many models have in common: all probes of causes on all of them, on the same samples.

Layout of the folder::

    request.json                        what is studied: fingerprints of models and data, probes and their parameters, versions
    facts.json                          what each column means, and which way its source expects it in robust models
    parts/MODEL/saliency-0.safetensors  columns and figures of a probe for one share of the samples, or why there are none
    pictures/MODEL/saliency.safetensors what a probe has to be drawn, for a few samples

A part is whole or absent, so that a study that was killed goes on with the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.numpy import save

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue, StoreError, explain
from robustscope.core.files import write_atomically, write_json
from robustscope.core.threads import torch_threads
from robustscope.core.threats import parse_threat
from robustscope.core.types import ThreatModel
from robustscope.data.base import Dataset
from robustscope.data.datasets import load_data
from robustscope.data.selection import select, stratified
from robustscope.models.loading import load_model
from robustscope.probes.why import WHY, Findings, WhyCard
from robustscope.probes.why.compose import investigate
from robustscope.runs.corrupted import claim_folder
from robustscope.runs.engines.local import end_with, in_processes
from robustscope.runs.studied import SHARE, part_path, pictures_path

ALWAYS = "confidence"
"""The probe that every study has: clean accuracy and calibration follow from its columns."""
Report = Callable[[int], object]


@dataclass(frozen=True)
class StudyRequest:
    """What is to be studied.

    Args:
        models: (name, source) of each, two or more; names differ.
        data: data source, e.g. "cifar10:FOLDER".
        threat: text such as "linf:8/255": where probes look.
        samples: which, as for an evaluation.
        seed: decides random draws, and random subsets.
        probes: names; none takes all that fit the data and the norm.
        full: whether probes run with their own defaults, and not with the shorter ones of their cards for studies.
        pictures: samples that are drawn.
    """

    models: tuple[tuple[str, str], ...]
    data: str
    threat: str
    samples: str = "500"
    seed: int = 0
    probes: tuple[str, ...] = ()
    full: bool = False
    pictures: int = 4


class Study:
    """A request with its data: every process has its own.

    Args:
        request: what to study.
        out: folder.

    Raises:
        InvalidValue: for fewer than two models, names given twice, an infinite radius, or a probe that does not fit.
    """

    def __init__(self, request: StudyRequest, out: Path) -> None:
        self.request, self.out, self.data = request, out, load_data(request.data)
        names = [name for name, _ in request.models]
        if len(names) < 2 or len(set(names)) < len(names):
            raise InvalidValue(
                f"the models {', '.join(names) or 'none'} were given",
                "two or more with different names are allowed",
                "Name them: NAME=SOURCE.",
            )
        unfit = next((name for name in names if name in ("", ".", "..") or set(name) & set("/\\")), None)
        if unfit is not None:
            raise InvalidValue(
                f"the model was named {unfit!r}", "a name of a folder is allowed", "Write it without slashes."
            )
        threat = parse_threat(request.threat)
        if not isinstance(threat, ThreatModel):
            raise InvalidValue(
                f"threat={request.threat!r} was given", "an lp ball is allowed", "Write e.g. linf:8/255 or l2:0.5."
            )
        self.threat = threat
        count = request.samples
        self.ids = select(
            self.data, "all" if count.isdecimal() and int(count) >= len(self.data) else count, request.seed
        )
        self.shown = [self.ids[i] for i in stratified(self.data.labels[self.ids], self._drawn(), request.seed)]
        self.shares = [self.ids[start : start + SHARE] for start in range(0, len(self.ids), SHARE)]
        self.cards = chosen(request.probes, self.data, threat)
        for card in self.cards:
            card.check(threat)

    def _drawn(self) -> int:
        return min(max(self.request.pictures, 0), len(self.ids))

    def parameters(self, card: WhyCard) -> dict[str, Any]:
        """Return all parameters of a probe."""
        return card.resolve({} if self.request.full else card.brief)

    def facts(self) -> dict[str, Any]:
        """Return what decides the answers, as plain data."""
        models = {}
        for name, source in self.request.models:
            loaded = load_model(source)
            models[name] = {"source": source, "fingerprint": loaded.fingerprint}
        probes = {card.name: {"version": card.version, "parameters": self.parameters(card)} for card in self.cards}
        own = {key: value for key, value in asdict(self.request).items() if key not in ("models", "probes")}
        fingerprint = self.data.fingerprint(self.ids)
        return {**own, "models": models, "probes": probes, "fingerprint": fingerprint, "count": len(self.ids)}

    def meanings(self) -> dict[str, Any]:
        """Return what columns and figures mean, by "probe.column"."""
        found = {}
        for card in self.cards:
            for name, words in {**card.columns, **card.figures}.items():
                found[f"{card.name}.{name}"] = {
                    "meaning": words,
                    "robust": card.robust.get(name),
                    "gap": card.gaps.get(name),
                    "source": card.source,
                    "of": "samples" if name in card.columns else "model",
                }
        return found

    def path(self, model: str, probe: str, share: int) -> Path:
        """Return where a part is."""
        return part_path(self.out, model, probe, share)

    def missing(self, model: str, probe: str) -> list[int]:
        """Return the shares that are not there yet."""
        return [share for share in range(len(self.shares)) if not self.path(model, probe, share).is_file()]

    def look(self, model: str, probe: str) -> Generator[int]:
        """Carry out the missing parts of a probe on a model; yield the samples of each when it is written."""
        pictures = pictures_path(self.out, model, probe)
        for share in self.missing(model, probe):
            ids = self.shares[share]
            try:
                found = self._found(model, probe, ids, self.parameters(WHY[probe]))
                if found.pictures and share == 0 and self.shown and not pictures.is_file():
                    self._draw(model, probe, pictures)
                content = _packed(ids, found)
            except (StoreError, MemoryError):  # says nothing about the model, and may be gone the next time
                raise
            except Exception as error:  # one probe that fails on one model is a gap with a reason
                content = {"error": np.frombuffer(explain(error).encode(), dtype=np.uint8)}
            body = save(content)
            write_atomically(self.path(model, probe, share), lambda to, body=body: to.write_bytes(body), flush=False)
            yield len(ids)

    def _draw(self, model: str, probe: str, path: Path) -> None:
        """Store what is to be drawn, with the probe's own defaults."""
        found = self._found(model, probe, self.shown, {})
        content = {f"picture/{name}": _plain(picture) for name, picture in found.pictures.items()}
        for name, axes in found.axes.items():
            content |= {f"axis/{name}/{i}": np.ascontiguousarray(axis) for i, axis in enumerate(axes)}
        body = save({**content, "x": _plain(self.data.read(self.shown)), "sample": np.asarray(self.shown, np.int64)})
        write_atomically(path, lambda to: to.write_bytes(body), flush=False)

    def _found(self, model: str, probe: str, ids: Sequence[int], parameters: Mapping[str, Any]) -> Findings:
        classifier = _loaded(dict(self.request.models)[model])
        x = self.data.read(ids)
        y = torch.as_tensor(self.data.labels[list(ids)], dtype=torch.int64)
        threat = parse_threat(self.request.threat, classifier.bounds)
        draws = Draws(self.request.seed, tuple(ids))
        return investigate(WHY[probe], classifier, x, y, cast(ThreatModel, threat), draws=draws, **dict(parameters))


def chosen(names: Sequence[str], data: Dataset, threat: ThreatModel) -> list[WhyCard]:
    """Return the probes of a study: those named, or all that fit, and the one that every study has.

    Raises:
        UnknownName: for a probe that is not registered.
        InvalidValue: for one that was named and does not fit.
    """
    wanted = [WHY[name] for name in dict.fromkeys([*names, ALWAYS])] if names else list(WHY)
    fits = [card for card in wanted if _fits(card, data, threat)]
    apart = [card.name for card in wanted if card not in fits]
    if apart and names:
        raise InvalidValue(
            f"the probe {apart[0]!r} was asked for inputs {tuple(data.shape)} and norm={threat.norm!r}",
            "probes that are defined for them are allowed",
            "Leave it out; without --probes all that fit are taken.",
        )
    return fits


def _fits(card: WhyCard, data: Dataset, threat: ThreatModel) -> bool:
    images = len(data.shape) == 3
    return threat.norm in card.norms and (card.inputs == "any" or (card.inputs == "images" and images))


_models: dict[str, Any] = {}


def _loaded(source: str) -> Any:
    """Return the classifier of a source; the last one is kept, since the parts of a model follow each other."""
    if source not in _models:
        _models.clear()
        _models[source] = load_model(source).classifier
    return _models[source]


def _plain(values: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.cpu().numpy())


def _packed(ids: Sequence[int], found: Findings) -> dict[str, np.ndarray]:
    """Return the content of a part."""
    content = {"sample": np.asarray(ids, dtype=np.int64)}
    content |= {f"column/{name}": _plain(column.double()) for name, column in found.columns.items()}
    return content | {f"figure/{name}": np.asarray([value], np.float64) for name, value in found.figures.items()}


def run_study(
    study: Study,
    *,
    workers: int = 1,
    begin: Callable[[int, int], object] = lambda done, total: None,
    report: Report = lambda more: None,
) -> None:
    """Run a study, or go on with one.

    Args:
        study: of the request, in its folder.
        workers: processes; the parts do not depend on it.
        begin: told how many (sample, probe, model) are there and how many there will be.
        report: told about so many more.

    Raises:
        InvalidValue: if the folder holds anything else.
        StoreError: if a file could not be written or a worker died; what is stored is kept.
    """
    claim_folder(study.out, study.facts())
    write_json(study.out / "facts.json", study.meanings())
    tasks = [(name, card.name) for name, _ in study.request.models for card in study.cards]
    left = {task: sum(len(study.shares[share]) for share in study.missing(*task)) for task in tasks}
    total = len(study.ids) * len(tasks)
    begin(total - sum(left.values()), total)
    for more in _carried_out(study, [task for task in tasks if left[task]], workers):
        report(more)


def _carried_out(study: Study, tasks: Sequence[tuple[str, str]], workers: int) -> Generator[int]:
    if workers == 1 or len(tasks) < 2:
        with torch_threads(1):
            for task in tasks:
                yield from study.look(*task)
        return
    yield from in_processes(_work, tasks, workers, _start, (asdict(study.request), str(study.out)))


_worker: dict[str, Study] = {}


def _start(request: Mapping[str, Any], out: str, parent: int) -> None:
    end_with(parent)
    torch.set_num_threads(1)
    _worker["study"] = Study(StudyRequest(**request), Path(out))


def _work(task: tuple[str, str]) -> int:
    return sum(_worker["study"].look(*task))
