"""Where claims are tested: data, networks that are trained once and kept, verdicts of attacks, probes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from robustscope.attacks import ATTACKS
from robustscope.attacks.compose import Attempt, attack, cascade
from robustscope.attacks.suites import suite
from robustscope.claims.effects import percent
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.files import read_json, write_atomically, write_json
from robustscope.core.types import Norm, ThreatModel
from robustscope.data.base import Dataset
from robustscope.data.datasets import load_data
from robustscope.data.selection import select
from robustscope.models.classifier import Classifier
from robustscope.models.loading import LoadedModel, from_module, load_model
from robustscope.models.randomness import kept_randomness
from robustscope.probes.why import Findings
from robustscope.probes.why.compose import investigate
from robustscope.training import OBJECTIVES, Passes, Recipe, load_recipe, train
from robustscope.training.export import architecture
from robustscope.training.loop import VERSION

FAMILY: Mapping[str, Mapping[str, Any]] = {
    "standard": {"objective": "standard"},
    "noise": {"objective": "gaussian_noise"},
    "input_gradient": {"objective": "input_gradient"},
    "pgd_third": {"objective": "pgd", "radius": 1 / 3},
    "fast": {"objective": "fast"},
    "pgd": {"objective": "pgd"},
    "trades": {"objective": "trades"},
}
"""Networks from fragile to robust, of which a claim asks what goes along with what."""


@dataclass(frozen=True)
class Setting:
    """What a claim is tested on.

    Args:
        data: source, without a split.
        recipe: of its networks, a name of the package or a TOML file.
        models: (name, source) of networks of the user's, in place of those it would train.
        seed: first seed of networks, samples and draws.
        device: torch device.
    """

    data: str
    recipe: str
    models: tuple[tuple[str, str], ...] = ()
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Batch:
    """Samples: inputs (B, *S), classes int64 (B,), and their positions in the data set."""

    x: Tensor
    y: Tensor
    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Subject:
    """A network that a claim looks at.

    Args:
        name: for tables.
        model: the classifier.
        fingerprint: SHA-256 of weights and normalisation.
        history: one row for each epoch of its training; empty for networks of the user's.
        passes: rows that its training sent through it.
        samples: how many it was trained on.
    """

    name: str
    model: Classifier
    fingerprint: str
    history: tuple[Mapping[str, Any], ...] = ()
    passes: Passes = field(default_factory=Passes)
    samples: int = 0


class Lab:
    """Data, networks and measurements of claims. What takes long is kept in a folder, so that claims share it.

    Args:
        folder: where networks and verdicts of attacks are kept; the same question is answered from there.
        setting: data, recipe, seed.
        tell: called with a line about each thing that takes long.
    """

    def __init__(self, folder: Path, setting: Setting, tell: Callable[[str], object] = str) -> None:
        self.folder, self.setting, self.tell = folder, setting, tell
        self.recalled = 0.0
        """Seconds that took, when it was made, what was read from the folder."""

    # Data.

    @cached_property
    def train_set(self) -> Dataset:
        """The training samples."""
        return load_data(f"{self.setting.data}#train")

    @cached_property
    def test_set(self) -> Dataset:
        """The samples that nothing is trained on."""
        return load_data(f"{self.setting.data}#test")

    def samples(self, count: int, split: str = "test") -> Batch:
        """Return a random subset with each class in proportion; all there are where ``count`` asks for more.

        Args:
            count: how many.
            split: "test" or "train".
        """
        data = self.test_set if split == "test" else self.train_set
        ids = select(data, min(count, len(data)), self.setting.seed)
        x, y = data.read(ids), torch.as_tensor(data.labels[ids])
        return Batch(x.to(self.setting.device), y.to(self.setting.device), tuple(ids))

    def draws(self, scope: str, batch: Batch, seed: int = 0) -> Draws:
        """Return random numbers that belong to the samples."""
        return Draws(self.setting.seed + seed, batch.ids, f"claims/{scope}")

    # Networks.

    def recipe(self, seed: int = 0, *, radius: float = 1.0, **changes: Any) -> Recipe:
        """Return the recipe of the setting with changes.

        Args:
            seed: counted from that of the setting.
            radius: factor of the recipe's epsilon.
            **changes: keys of the recipe; what is None stays as it is there.
        """
        asked = {key: value for key, value in changes.items() if value is not None}
        base = load_recipe(
            self.setting.recipe,
            **{"best_by": "last", "threads": 1, **asked},
            data=f"{self.setting.data}#train",
            seed=self.setting.seed + seed,
            device=self.setting.device,
        )
        if radius == 1.0:
            return base
        threat = ThreatModel.parse(base.threat).scaled(radius)
        return replace(base, threat=f"{threat.norm}:{threat.epsilon!r}")

    @cached_property
    def threat(self) -> ThreatModel:
        """The threat model of the recipe: where robustness is judged."""
        return ThreatModel.parse(self.recipe().threat)

    def network(
        self,
        seed: int = 0,
        *,
        name: str = "",
        data: Dataset | None = None,
        radius: float = 1.0,
        given: Tensor | None = None,
        **changes: Any,
    ) -> Subject:
        """Return a network trained by the recipe with changes; one that was trained before is read from the folder.

        Args:
            seed: counted from that of the setting.
            name: for tables; the objective if left out.
            data: training set in memory, in place of that of the setting.
            radius: factor of the recipe's epsilon.
            given: what the objective needs besides the recipe, such as the masks of "masked".
            **changes: keys of the recipe, such as objective, parameters, epochs, model_parameters, samples.
        """
        recipe = self.recipe(seed, radius=radius, **changes)
        source = data if data is not None else self.train_set
        facts = [VERSION, recipe.identity(), OBJECTIVES[recipe.objective].version, source.fingerprint(), _torch()]
        facts += [] if given is None else [_bytes(given)]
        stem = self.folder / "networks" / _key(facts)
        weights, record = stem.with_suffix(".safetensors"), stem.with_suffix(".json")
        if not (weights.is_file() and record.is_file()):
            self.tell(f"training {name or recipe.objective}, seed {recipe.seed}")
            trained = train(recipe, data=data, given=given)
            tensors = {key: value.detach().cpu().contiguous() for key, value in trained.module.state_dict().items()}
            write_atomically(weights, lambda part: save_file(tensors, part))
            told = {"history": [_plain(row) for row in trained.history], "passes": vars(trained.passes)}
            write_json(record, told)
        else:
            self.recalled += sum(row["seconds"] for row in read_json(record)["history"])
        told = read_json(record)
        with kept_randomness():
            module = architecture(recipe, source, None).module
        module.load_state_dict(load_file(weights))
        for weight in module.parameters():
            weight.requires_grad_(False)
        loaded = from_module(
            module.eval().to(recipe.device),
            mean=recipe.mean,
            std=recipe.std,
            bounds=ThreatModel.parse(recipe.threat).bounds,
        )
        return Subject(
            name or recipe.objective,
            loaded.classifier,
            loaded.fingerprint,
            tuple(told["history"]),
            Passes(**told["passes"]),
            len(source),
        )

    def table(
        self,
        networks: Mapping[str, Mapping[str, Any]],
        seeds: int,
        measure: Callable[[Subject], Mapping[str, Any]],
        **common: Any,
    ) -> list[dict[str, Any]]:
        """Train each of some networks with each of some seeds, and measure them.

        Args:
            networks: name -> what of :meth:`network` sets it apart.
            seeds: how many of each.
            measure: returns the columns of a network's row.
            **common: what of :meth:`network` they share.

        Returns:
            One row for each network and seed: "network", "seed", and what was measured. Rows of one seed belong together.
        """
        return [
            {"network": name, "seed": seed, **measure(self.network(seed, name=name, **{**common, **how}))}
            for name, how in networks.items()
            for seed in range(seeds)
        ]

    def subjects(self, seeds: int = 1, **changes: Any) -> list[Subject]:
        """Return the user's networks, or else a family of them from fragile to robust.

        Args:
            seeds: of each member of the family.
            **changes: keys of the recipe.
        """
        if self.setting.models:
            return [_given(name, load_model(source)) for name, source in self.setting.models]
        return [
            self.network(seed, name=f"{name}/{seed}", **{**how, **changes})
            for seed in range(seeds)
            for name, how in FAMILY.items()
        ]

    # Measurements.

    def correct(self, subject: Subject, batch: Batch) -> Tensor:
        """Return whether each sample is classified correctly: bool (B,)."""
        return subject.model.decisions(batch.x) == batch.y

    def robust(self, subject: Subject, batch: Batch, threat: ThreatModel | None = None) -> Tensor:
        """Return whether each sample is classified correctly and withstands the search of ``audited``: bool (B,).

        Args:
            subject: the network.
            batch: the samples.
            threat: threat model; that of the recipe if None.

        Raises:
            InvalidValue: if an attack failed, for that is no robustness.
        """
        threat = threat or self.threat
        attempts = [
            Attempt(name, threat, given)
            for name, given in suite("audited", threat.norm, subject.model.classes(batch.x[:1]))
        ]
        versions = [[one.attack, ATTACKS[one.attack].version] for one in attempts]
        facts = [subject.fingerprint, _digest(batch), str(threat), versions, self.setting.seed, _torch()]

        def search() -> Tensor:
            self.tell(f"attacking {subject.name} at {threat.norm} {threat.epsilon:g}")
            left = self.correct(subject, batch)
            for step in cascade(subject.model, batch.x, batch.y, attempts, self.draws("robust", batch), left.clone()):
                if step.error is not None:
                    raise InvalidValue(
                        f"an attack on {subject.name} failed ({step.error})",
                        "a network that can be attacked is allowed",
                        "A failed attack says nothing about robustness; see the reason.",
                    ) from step.error
                if step.outcome is not None:
                    left[step.rows[step.outcome.verdict.success]] = False
            return left

        return self._kept("robust", facts, search).bool()

    def accuracies(self, subject: Subject, batch: Batch) -> dict[str, float]:
        """Return what :meth:`correct` and :meth:`robust` find, as columns of a table in percent."""
        return {"accuracy": percent(self.correct(subject, batch)), "robust": percent(self.robust(subject, batch))}

    def withstands(
        self, method: str, subject: Subject, batch: Batch, threat: ThreatModel | None = None, **parameters: Any
    ) -> Tensor:
        """Return whether each sample is classified correctly and withstands one attack: bool (B,).

        Args:
            method: the attack; what :meth:`robust` is for a whole search, this is for a weak attack or one of many.
            subject: the network.
            batch: the samples.
            threat: threat model; that of the recipe if None.
            **parameters: of the attack.
        """
        draws, threat = self.draws(method, batch), threat or self.threat
        found = attack(method, subject.model, batch.x, batch.y, threat, draws=draws, **parameters)
        return self.correct(subject, batch) & ~found.verdict.success

    def distance(self, subject: Subject, batch: Batch, norm: Norm = "l2", method: str = "deepfool") -> Tensor:
        """Return the distance to the nearest adversarial example found: (B,); 0 where already wrong, inf where none.

        Args:
            subject: the network.
            batch: the samples.
            norm: of the distance.
            method: minimum-norm attack.
        """
        facts = [
            subject.fingerprint,
            _digest(batch),
            norm,
            method,
            ATTACKS[method].version,
            self.setting.seed,
            _torch(),
        ]

        def search() -> Tensor:
            self.tell(f"looking for the nearest adversarial examples of {subject.name}")
            threat = ThreatModel(norm, float("inf"), self.threat.bounds)
            found = attack(method, subject.model, batch.x, batch.y, threat, draws=self.draws(method, batch))
            reached = torch.where(found.verdict.success, found.verdict.distance, torch.inf)
            return torch.where(self.correct(subject, batch), reached, torch.zeros_like(reached))

        return self._kept("distance", facts, search)

    def find(self, probe: str, subject: Subject, batch: Batch, **parameters: Any) -> Findings:
        """Run a probe of causes at the threat model of the recipe."""
        return investigate(
            probe, subject.model, batch.x, batch.y, self.threat, draws=self.draws(probe, batch), **parameters
        )

    def _kept(self, kind: str, facts: list[Any], compute: Callable[[], Tensor]) -> Tensor:
        """Return what was computed before from the same facts, or compute and keep it."""
        path = self.folder / kind / f"{_key(facts)}.safetensors"
        if path.is_file():
            kept = load_file(path)
            self.recalled += float(kept["seconds"])
        else:
            started = time.perf_counter()
            kept = {"value": compute().detach().cpu().contiguous()}
            kept["seconds"] = torch.tensor(time.perf_counter() - started)
            write_atomically(path, lambda part: save_file(kept, part))
        return kept["value"].to(self.setting.device)


def _given(name: str, loaded: LoadedModel) -> Subject:
    return Subject(name, loaded.classifier, loaded.fingerprint)


def _key(facts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _digest(batch: Batch) -> str:
    whole = hashlib.sha256(batch.x.cpu().contiguous().numpy().tobytes())
    whole.update(batch.y.cpu().numpy().tobytes() + repr(batch.ids).encode())
    return whole.hexdigest()


def _bytes(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without what JSON cannot say."""
    return {name: None if isinstance(value, float) and value != value else value for name, value in row.items()}


def _torch() -> str:
    return str(torch.__version__)
