"""The sanity lines of an evaluation, checked by machine: is this attack weak, or is the model strong?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from robustscope.attacks.cards import ATTACKS
from robustscope.attacks.compose import attack
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Finding, ThreatModel
from robustscope.models.classifier import Classifier

AttackText = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Trial:
    """What every line of the list looks at: a model, correctly classified samples, and the attacks.

    Args:
        model: classifier under attack.
        x: (B, *S), samples that it classifies correctly.
        y: int64 (B,), true classes.
        threat: threat model of the claim.
        draws: random numbers of these samples.
        white: the gradient attack behind the claim; it has a parameter ``steps``.
        black: attacks without gradients.
        tolerance: share of samples that may contradict a line.
    """

    model: Classifier
    x: Tensor
    y: Tensor
    threat: ThreatModel
    draws: Draws
    white: AttackText
    black: Sequence[AttackText]
    tolerance: float

    def broken(self, which: AttackText, threat: ThreatModel | None = None, **changes: Any) -> Tensor:
        """Tell which samples an attack breaks: bool (B,)."""
        name, parameters = which
        facts = {**parameters, **changes}
        found = attack(name, self.model, self.x, self.y, threat or self.threat, draws=self.draws, **facts)
        return found.verdict.success

    def finding(self, name: str, passed: bool, evidence: str, remedy: str, **data: Any) -> Finding:
        """Return a line; its data hold the counts."""
        return Finding(
            name, "ok" if passed else "error", evidence, "" if passed else remedy, {"n": len(self.x), **data}
        )

    @property
    def allowed(self) -> int:
        """How many samples may contradict a line."""
        return math.floor(self.tolerance * len(self.x) + 1e-9)


def gradients_beat_queries(trial: Trial) -> Finding:
    """An attack without gradients breaks nothing that the gradient attack does not break."""
    white = trial.broken(trial.white)
    only = {name: int((trial.broken((name, p)) & ~white).sum()) for name, p in trial.black}
    worst = max(only.values(), default=0)
    counts = ", ".join(f"{name} {count}" for name, count in only.items())
    evidence = f"{trial.white[0]} breaks {int(white.sum())} of {len(trial.x)}; broken without gradients alone: {counts}"
    remedy = "Gradients are masked: attack through the defence with BPDA or EOT, or with another loss."
    return trial.finding("gradients beat queries", worst <= trial.allowed, evidence, remedy, only_black=only)


def unbounded_breaks_all(trial: Trial) -> Finding:
    """With a radius that spans the whole box no sample is left."""
    lower, upper = trial.threat.bounds
    values = trial.x[0].numel()
    reach = (upper - lower) * {"linf": 1.0, "l2": math.sqrt(values), "l1": values, "l0": values / (upper - lower)}[
        trial.threat.norm
    ]
    left = int((~trial.broken(trial.white, ThreatModel(trial.threat.norm, reach, trial.threat.bounds))).sum())
    evidence = f"{left} of {len(trial.x)} survive {trial.white[0]} at {trial.threat.norm} {reach:g}, the whole box"
    remedy = "Nothing survives an attack without limits: the attack does not find its way."
    return trial.finding("unbounded breaks all", left <= trial.allowed, evidence, remedy, left=left, epsilon=reach)


def larger_is_stronger(trial: Trial) -> Finding:
    """Robust accuracy falls, or stays, as epsilon grows."""
    factors = (0.5, 1.0, 2.0)
    left = [int((~trial.broken(trial.white, trial.threat.scaled(factor))).sum()) for factor in factors]
    rise = max(later - earlier for earlier, later in pairwise(left))
    evidence = (
        "left of "
        + f"{len(trial.x)}: "
        + ", ".join(f"{count} at {factor:g} epsilon" for factor, count in zip(factors, left, strict=True))
    )
    remedy = "A larger set holds the smaller one: the steps are too long, or the gradients lead astray."
    return trial.finding(
        "larger is stronger", rise <= trial.allowed, evidence, remedy, left=left, factors=list(factors)
    )


def doubling_changes_nothing(trial: Trial) -> Finding:
    """Twice the steps break no more than the tolerance allows."""
    steps = _steps(trial.white)
    once, twice = (int(trial.broken(trial.white, steps=count).sum()) for count in (steps, 2 * steps))
    evidence = f"{steps} steps break {once} of {len(trial.x)}, {2 * steps} steps {twice}"
    remedy = "The attack has not converged: give it more steps until this line holds."
    passed = twice - once <= trial.allowed
    return trial.finding("doubling changes nothing", passed, evidence, remedy, once=once, twice=twice)


def noise_is_weaker(trial: Trial) -> Finding:
    """Random noise breaks nothing that the gradient attack does not break."""
    noise, white = trial.broken(("noise_uniform", {})), trial.broken(trial.white)
    only = int((noise & ~white).sum())
    evidence = (
        f"noise breaks {int(noise.sum())} of {len(trial.x)}, {only} of them alone; {trial.white[0]} {int(white.sum())}"
    )
    remedy = "An attack that noise beats follows no gradient: look for a defect, or for masked gradients."
    return trial.finding("noise is weaker", only <= trial.allowed, evidence, remedy, only_noise=only)


def steps_beat_one_step(trial: Trial) -> Finding:
    """A single step breaks nothing that the whole attack does not break."""
    one, white = trial.broken(("fgsm", {})), trial.broken(trial.white)
    only = int((one & ~white).sum())
    evidence = (
        f"one step breaks {int(one.sum())} of {len(trial.x)}, {only} of them alone; {trial.white[0]} {int(white.sum())}"
    )
    remedy = "The loss is rough or the steps are too long; average gradients (EOT), or shorten the steps."
    return trial.finding("steps beat one step", only <= trial.allowed, evidence, remedy, only_single=only)


LINES: tuple[Callable[[Trial], Finding], ...] = (
    gradients_beat_queries,
    unbounded_breaks_all,
    larger_is_stronger,
    doubling_changes_nothing,
    noise_is_weaker,
    steps_beat_one_step,
)


def checklist(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel | str,
    *,
    white: AttackText = ("pgd", {"steps": 40, "loss": "margin"}),
    black: Sequence[AttackText] = (("square", {"queries": 300}),),
    tolerance: float = 0.01,
    seed: int = 0,
) -> list[Finding]:
    """Check what must hold of every sound evaluation; a line that fails says that the attack is too weak.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes; misclassified samples are left out.
        threat: threat model, or a text such as "linf:8/255"; linf, l2 or l1.
        white: the gradient attack behind the claim, with its parameters.
        black: attacks without gradients.
        tolerance: share of samples that may contradict a line.
        seed: of the attacks.

    Returns:
        One finding for each line, level "ok" or "error", with the counts behind it.

    Raises:
        InvalidValue: if no sample is classified correctly, or the gradient attack takes no steps.

    Example:
        >>> import torch
        >>> model = Classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval())
        >>> x = torch.rand(6, 1, 4, 4)
        >>> [f.level for f in checklist(model, x, model.logits(x).argmax(1), "linf:0.1")]
        ['ok', 'ok', 'ok', 'ok', 'ok', 'ok']

    Source: lists of Carlini et al. 2019, arXiv:1902.06705, and Tramer et al. 2020, arXiv:2002.08347.
    """
    threat = ThreatModel.parse(threat, model.bounds) if isinstance(threat, str) else threat
    model.check_inputs(x, y)
    if not 0 <= tolerance < 1:
        raise InvalidValue(f"tolerance={tolerance} was given", "[0, 1) is allowed", "Write e.g. tolerance=0.01.")
    _steps(white)
    rows = (model.logits(x).argmax(1) == y).nonzero()[:, 0]
    if not len(rows):
        raise InvalidValue(
            f"none of {len(x)} samples is classified correctly", "one or more is allowed", "Look at the labels first."
        )
    draws = Draws(seed, tuple(range(len(x)))).select(rows)
    trial = Trial(model, x[rows], y[rows], threat.select(rows), draws, white, tuple(black), tolerance)
    return [line(trial) for line in LINES]


def _steps(white: AttackText) -> int:

    own = ATTACKS[white[0]].parameters.get("steps")
    steps = white[1].get("steps", None if own is None else own.default)
    if not isinstance(steps, int):
        raise InvalidValue(
            f"the attack {white[0]!r} was given as white=",
            "an attack with a parameter 'steps' is allowed",
            "Choose e.g. ('pgd', {'steps': 40}).",
        )
    return steps
