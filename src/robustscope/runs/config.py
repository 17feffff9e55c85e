"""What a user asks for: the same dataclasses behind the TOML file, the command line and Python. No torch here."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustscope.core.errors import InvalidValue, UnknownName, did_you_mean
from robustscope.core.forms import build, conform, read_toml, value_as

DEFAULT_THREAT = "linf:8/255"
MOST_THREADS = 1024
COMMON, COMMON_BRACKET = "common", "16"
"""The suite of attacks, shifts and brackets on one card, and for how many samples it brackets the radius."""


@dataclass(frozen=True)
class ModelSpec:
    """Where a model comes from.

    Args:
        source: "net.json", "file.py:make_model", "net.pt2", "net.onnx", "timm:NAME", "hf:NAME", "robustbench:NAME".
        name: name in tables and reports; derived from the source when left out.
        weights: a safetensors or weights-only checkpoint for sources that take one.
        mean, std: per-channel normalisation done before the model; read from the source where it knows them.
        bounds: valid range of the inputs before normalisation.
        allow_probabilities: accept a model whose outputs look like softmax probabilities.
        classes: list of the WordNet ids of the model's outputs, in their order; only those that the data have are
            compared. See ``models.selected``.
    """

    source: str
    name: str | None = None
    weights: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    bounds: tuple[float, float] | None = None
    allow_probabilities: bool = False
    classes: str | None = None

    def __post_init__(self) -> None:
        conform(self)
        if self.name is not None and not (self.name.strip() and self.name.isprintable()):
            raise InvalidValue(
                f"the model name {self.name!r} was given",
                "printable characters, at least one, are allowed",
                "Give a short name; it stands in every table.",
            )


@dataclass(frozen=True)
class AttackSpec:
    """An attack with the hyper-parameters that differ from its defaults."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        conform(self)


@dataclass(frozen=True)
class Audit:
    """How far an audit is to go; see docs/audit.md.

    Args:
        bound: by how much, as a fraction of all samples, the full attacks may still lower the robust accuracy; None asks
            for no bound.
        samples: most survivors that audits may attack in full; None sets no limit.
        confidence: of the bound.
    """

    bound: float | None
    samples: int | None = None
    confidence: float = 0.95

    @classmethod
    def parse(cls, text: str) -> Audit | None:
        """Read ``"2pp"``, ``"100samples"``, both with a comma between, or ``"off"``, which gives None.

        Raises:
            InvalidValue: for anything else.

        Example:
            >>> Audit.parse("2pp,100samples")
            Audit(bound=0.02, samples=100, confidence=0.95)
        """
        if text.strip() == "off":
            return None
        found = _AUDIT.fullmatch(text.replace(" ", ""))
        if not found or not any(found.groups()) or float(found[1] or 0) > 100:
            raise InvalidValue(
                f"audit={text!r} was given",
                "a bound in percentage points, a number of samples, both, or 'off' is allowed",
                "Write e.g. 2pp, 100samples, 2pp,100samples or off.",
            )
        return cls(float(found[1]) / 100 if found[1] else None, int(found[2]) if found[2] else None)


_AUDIT = re.compile(r"(?:(\d+(?:\.\d+)?)pp)?,?(?:(\d+)samples)?")


@dataclass(frozen=True)
class Settings:
    """How an evaluation is carried out; the defaults of the command line and of the TOML file.

    Args:
        samples: "all", a number for a seeded random subset stratified by class, "0:500" for a range of sample ids, or
            "ids:3,5,8". Empty means 1000, or all if there are fewer. A number may also be an integer.
        suite: named suite of attacks, or the name of one attack; "common" is the default one with shifts and brackets.
        curve: factors of epsilon at which accuracy is measured too, for the accuracy-against-epsilon curve; empty
            measures at the threat models alone.
        seed: seed of every random number.
        shard_size: samples in a shard, the unit that is stored, resumed and handed to workers.
        batch_size: most rows sent through the model at once.
        threads: torch threads of each worker. Part of the plan, for it changes the last bits of a result.
        device: torch device, such as "cpu" or "cuda".
        twin: "folded" lets attacks search on a faster twin of each model, checked against it; verdicts stay with the
            model itself. "off" searches on the model. Others: ``robustscope.models.twin.KINDS``.
        audit: how the survivors are audited by full attacks: a bound such as "2pp", a budget such as "100samples", both
            with a comma between, or "off". Empty means "2pp" for the suite "audited" and "off" for any other.
        trust: on how many samples the probes ask whether the robust accuracy can be believed, or "off".
        certify: certifier that looks at every sample at the radius of each threat model, with its parameters, such as
            "crown" or "crown:memory=256", or "off".
        bracket: for how many samples the robust radius is bracketed between a certified radius, an estimate and the
            nearest adversarial example, or "off". The certifier is that of ``certify``, "crown" if that is left empty, and
            none if it is "off". Empty means "16" for the suite "common" and "off" for any other.
        estimate: the estimate of the bracket, with its parameters, such as "clever:batches=100,points=100", or "off".
        shifts: suites of corruptions or sequences made on the fly, corruptions, benchmarks on disk by path, or ("off",); one
            text with commas between them will do. Empty means MNIST-C or ImageNet-C, by the shape of the data, for the
            suite "common" and nothing for any other. See ``runs.shift_plans``.
        reference: whose errors mCE and mFR divide by: "alexnet", or the name of a model of the run; empty for none.
    """

    samples: str | int = ""
    suite: str = "audited"
    curve: tuple[float, ...] = (0.25, 0.5, 2.0)
    seed: int = 0
    shard_size: int = 256
    batch_size: int = 128
    threads: int = 1
    device: str = "cpu"
    twin: str = "off"
    audit: str = ""
    trust: str | int = "32"
    certify: str = ""
    bracket: str | int = ""
    estimate: str = "clever:batches=50,points=64,rivals=3"
    shifts: tuple[str, ...] | str = ()
    reference: str = ""

    @property
    def attacks(self) -> str:
        """The suite of attacks: that of "common" is the default one."""
        return Settings.suite if self.suite == COMMON else self.suite

    def asked_shifts(self, shape: Sequence[int]) -> tuple[str, ...]:
        """Return the shifts that are asked for on data of a shape (*S); none if they are off."""
        if self.shifts or self.suite != COMMON:
            return () if self.shifts == ("off",) else tuple(self.shifts)
        pictures = len(shape) == 3 and shape[0] in (1, 3)
        return (("mnist-c" if tuple(shape) == (1, 28, 28) else "imagenet-c"),) if pictures else ()

    def asked_audit(self, own_attacks: bool) -> Audit | None:
        """Return the audit that is asked for; an evaluation with attacks of one's own has none unless it says so."""
        default = "2pp" if self.attacks == Settings.suite and not own_attacks else "off"
        return Audit.parse(self.audit or default)

    def asked_number(self, name: str) -> int:
        """Return how many samples ``trust`` or ``bracket`` is to look at; 0 if it is off.

        Raises:
            InvalidValue: for anything but a number >= 1 and "off".
        """
        text = getattr(self, name).strip()
        if name == "bracket" and not text:
            text = COMMON_BRACKET if self.suite == COMMON else "off"
        if text == "off":
            return 0
        if not text.isdecimal() or int(text) < 1:
            raise InvalidValue(
                f"{name}={text!r} was given", "a number of samples or 'off' is allowed", f"Write e.g. {name}=32."
            )
        return int(text)

    @property
    def certifier(self) -> str:
        """The certifier that is asked for, with its parameters; empty if there is none."""
        default = "crown" if self.asked_number("bracket") else ""
        return "" if self.certify.strip() == "off" else self.certify.strip() or default

    @property
    def estimator(self) -> str:
        """The estimate that is asked for, with its parameters; empty if there is none."""
        off = not self.asked_number("bracket") or self.estimate.strip() in ("", "off")
        return "" if off else self.estimate.strip()

    def __post_init__(self) -> None:
        conform(self)
        for name in ("samples", "trust", "bracket"):
            object.__setattr__(self, name, str(getattr(self, name)))
        if isinstance(self.shifts, str):
            object.__setattr__(self, "shifts", tuple(part.strip() for part in self.shifts.split(",") if part.strip()))
        Audit.parse(self.audit or "off")
        for name in ("trust", "bracket"):
            self.asked_number(name)
        for name, most in (("shard_size", None), ("batch_size", None), ("threads", MOST_THREADS)):
            value = getattr(self, name)
            if value < 1 or (most is not None and value > most):
                raise InvalidValue(
                    f"{name}={value} was given",
                    "an integer >= 1 is allowed" if most is None else f"an integer from 1 to {most} is allowed",
                    f"Correct {name}; its default is {getattr(Settings, name)}.",
                )
        for factor in self.curve:
            if not 0 < factor < math.inf:
                raise InvalidValue(
                    f"curve={self.curve} was given",
                    "factors > 0 are allowed",
                    "Write factors of epsilon, e.g. 0.5 and 2; radius 0 is always measured.",
                )


@dataclass(frozen=True)
class Config:
    """A whole evaluation as the user asked for it.

    Args:
        models: one or more models; all see the same samples.
        data: data source, such as "digits", "mnist:FOLDER", "cifar10:FILE", "folder:PATH", "npz:FILE".
        threats: threat models, such as "linf:8/255" or "patch:5,5".
        attacks: attacks instead of a suite, in order.
        settings: everything else.
    """

    models: tuple[ModelSpec, ...]
    data: str
    threats: tuple[str, ...]
    attacks: tuple[AttackSpec, ...] = ()
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        conform(self)
        for name, values in (("models", self.models), ("threats", self.threats)):
            if not values:
                raise InvalidValue(f"no {name} were given", f"one or more {name} are allowed", "Name at least one.")
        if self.attacks and self.settings.suite != Settings.suite:
            raise InvalidValue(
                f"both attacks and suite={self.settings.suite!r} were given",
                "one of them is allowed",
                "Leave the suite out, or add its attacks to the others.",
            )


def load_config(path: str | Path) -> Config:
    """Read a TOML file. Unknown keys, wrong types and missing keys are errors.

    Raises:
        MissingFile, BadFile: if there is no such file or it is not TOML.
        UnknownName, InvalidType, InvalidValue: naming the key.
    """
    return config_from_dict(read_toml(path))


def config_from_dict(raw: Mapping[str, Any]) -> Config:
    """Build a configuration from plain data, as strictly as :func:`load_config`.

    The settings may stand at the top level, beside ``models``, ``data``, ``threats`` and ``attacks``.
    """
    settings = {f.name for f in dataclasses.fields(Settings)}
    own = {f.name for f in dataclasses.fields(Config)}
    unknown = [key for key in raw if key not in settings | own]
    if unknown:
        raise UnknownName(f"the key {unknown[0]!r} was given", "", did_you_mean(unknown[0], settings | own))
    nested = value_as(Mapping[str, Any], raw.get("settings", {}), "settings")
    doubled = [key for key in raw if key in nested]
    if doubled:
        raise InvalidValue(
            f"the key {doubled[0]!r} was given at the top and under 'settings'",
            "one of them is allowed",
            "Remove one of the two.",
        )
    nested.update({key: value for key, value in raw.items() if key in settings})
    body = {key: value for key, value in raw.items() if key in own}
    return build(Config, {**body, "settings": nested}, "")
