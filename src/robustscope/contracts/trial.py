"""What the checks of attacks share: calling an attack as the package does, comparing, and watching what it touches."""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustscope.attacks.cards import AttackCard
from robustscope.attacks.verify import Verdict, verify
from robustscope.contracts.broken import ContractBroken
from robustscope.core.draws import Draws
from robustscope.core.errors import ConstraintViolated
from robustscope.core.threats import Patch, RotationTranslation, Threat, make_threat
from robustscope.core.types import AttackResult, Bounds
from robustscope.data.problems import Problem
from robustscope.geometry import balls
from robustscope.models.classifier import Classifier

FAMILIES: Mapping[str, str] = {RotationTranslation.kind: RotationTranslation(30, 1).norm, Patch.kind: Patch(2, 2).norm}
"""The sizes at factor 1 of threat sets that are not balls; the radii below are factors of them."""

MODERATE: Mapping[str, float] = {"linf": 0.07, "l2": 0.48, "l1": 1.5, "l0": 6.0, **dict.fromkeys(FAMILIES, 1.0)}
"""Radii at which a sound attack breaks most samples of ``problems.smooth_cnn`` and noise few."""

GENEROUS: Mapping[str, float] = {"linf": 0.2, "l2": 1.5, "l1": 4.8, "l0": 24.0, **dict.fromkeys(FAMILIES, 2.0)}
"""Radii at which a sound attack reaches the least likely class of ``problems.smooth_cnn`` for most samples."""


def threat_of(norm: str, epsilon: float | tuple[float, ...], bounds: Bounds = Bounds(0.0, 1.0)) -> Threat:
    """Return the threat set of a check: a ball, or a set of a kind with ``epsilon`` as its factor."""
    return make_threat(FAMILIES.get(norm, norm), epsilon, bounds)


def subject(problem: Problem, batch_size: int = 256) -> Classifier:
    """Return a fresh classifier of a problem's module."""
    return Classifier(problem.module, problem.bounds, batch_size=batch_size)


def aim(card: AttackCard, problem: Problem) -> Tensor | None:
    """Return None for an attack that can be untargeted, else the next class as target: int64 (B,)."""
    if "untargeted" in card.goals:
        return None
    with torch.no_grad():
        classes = problem.module(problem.x).shape[1]
    return (problem.y + 1) % classes


def call(
    card: AttackCard,
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    targets: Tensor | None = None,
    ids: Sequence[int] | None = None,
    seed: int = 0,
    **parameters: Any,
) -> AttackResult:
    """Call an attack with its quick parameters and the same scope of draws as ``attacks.compose.attack``, unjudged.

    Raises:
        ContractBroken: if the attack raises, or returns something else than an ``AttackResult``.
    """
    try:
        return call_bare(card, model, x, y, threat, targets=targets, ids=ids, seed=seed, **parameters)
    except ContractBroken:
        raise
    except Exception as error:
        raise ContractBroken(
            f"the attack {card.name!r} raised {type(error).__name__} on inputs {tuple(x.shape)} of {x.dtype} "
            f"with {threat.norm} epsilon {_short(threat)}: {error}",
            "no exception is allowed on sound inputs",
            "Run it on a small problem of robustscope.data.problems and read the traceback above.",
        ) from error


def call_bare(
    card: AttackCard,
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    targets: Tensor | None = None,
    ids: Sequence[int] | None = None,
    seed: int = 0,
    **parameters: Any,
) -> AttackResult:
    """As :func:`call`, but let the attack's own exceptions pass."""
    card.check(threat, targets)
    draws = Draws(seed, tuple(range(len(x)) if ids is None else ids)).within(card.name)
    with _equipped(card, model, x, threat) as files:
        resolved = card.resolve({**card.quick, **files, **parameters})
        result = card.function(model, x, y, threat, draws=draws, targets=targets, **resolved)
    if not isinstance(result, AttackResult):
        raise broken(card, f"returned a {type(result).__name__}", "an AttackResult", "Return AttackResult(x_adv, ...).")
    for name in ("x_adv", "forward", "backward"):
        if not isinstance(getattr(result, name), Tensor):
            raise broken(card, f"returned no tensor as {name}", "a tensor", "See robustscope.core.types.AttackResult.")
    return result


@contextmanager
def _equipped(card: AttackCard, model: Classifier, x: Tensor, threat: Threat) -> Generator[Mapping[str, Any]]:
    """Give an attack the files that it needs, for one call."""
    if card.equip is None:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        yield card.equip(Path(folder), model, x, threat)


def _short(threat: Threat) -> str:
    return "per sample" if isinstance(threat.epsilon, tuple) else f"{threat.epsilon:g}"


def broken(card: AttackCard, seen: str, allowed: str, remedy: str) -> ContractBroken:
    """Build the error: the attack did ``seen``, only ``allowed`` is allowed, and what to do about it."""
    return ContractBroken(f"the attack {card.name!r} {seen}", f"{allowed} is allowed", remedy)


def judged(
    card: AttackCard,
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    result: AttackResult,
    targets: Tensor | None = None,
) -> Verdict:
    """Let the judge decide about a result; an example outside the threat set breaks the contract."""
    try:
        return verify(model, x, y, threat, result, targets)
    except ConstraintViolated as error:
        raise ContractBroken(f"the attack {card.name!r}: {error.given}", error.allowed, error.remedy) from error


def require_form(card: AttackCard, x: Tensor, result: AttackResult) -> None:
    """Raise unless a result has the form that the inputs ask for."""
    x_adv = result.x_adv
    if x_adv.shape != x.shape:
        raise broken(
            card,
            f"returned examples of shape {tuple(x_adv.shape)} for inputs of shape {tuple(x.shape)}",
            "the same shape",
            "Keep the batch dimension; reshape with view_as(x), never squeeze().",
        )
    if x_adv.dtype != x.dtype or x_adv.device != x.device:
        raise broken(
            card,
            f"returned {x_adv.dtype} on {x_adv.device} for inputs of {x.dtype} on {x.device}",
            "the dtype and device of the inputs",
            "Create tensors with x.new_* or like=, and cast nothing.",
        )
    if x_adv.requires_grad or x_adv.grad_fn is not None:
        raise broken(card, "returned examples that carry a graph", "no graph", "Return x_adv.detach().")
    if not bool(torch.isfinite(x_adv).all()):
        raise broken(
            card, "returned NaN or infinite values", "finite values", "Guard divisions by norms that may be 0."
        )
    for name, count in (("forward", result.forward), ("backward", result.backward)):
        if count.dtype != torch.int64 or count.shape != (len(x),) or bool((count < 0).any()):
            raise broken(
                card,
                f"returned {name} counts of {count.dtype} and shape {tuple(count.shape)} for {len(x)} samples",
                f"int64 ({len(x)},), nothing negative,",
                "Count the rows that each sample sends through the model.",
            )
    trace = result.trace
    if trace is not None and (trace.dim() != 2 or len(trace) != len(x) or trace.requires_grad):
        raise broken(
            card,
            f"returned a trace of shape {tuple(trace.shape)} for {len(x)} samples",
            f"({len(x)}, T) without a graph",
            "Record one loss for each sample and iterate.",
        )


def require_inside(card: AttackCard, threat: Threat, x: Tensor, result: AttackResult) -> None:
    """Raise unless every example lies in its threat set."""
    x_adv, parameters = result.x_adv, result.parameters
    inside = balls.contains(threat, x, x_adv, parameters)
    if bool(inside.all()):
        return
    row = int((~inside).nonzero()[0])
    length = float(balls.distance(threat, x, x_adv, parameters)[row])
    raise broken(
        card,
        f"left its threat set in {int((~inside).sum())} of {len(x)} rows of {x.dtype}: row {row} is at {threat.norm} "
        f"distance {length:.9g}, values in [{float(x_adv[row].min()):.9g}, {float(x_adv[row].max()):.9g}]",
        f"distance <= {float(threat.radius(x)[row]):.9g} inside {tuple(threat.bounds)}",
        "Return robustscope.geometry.balls.project(threat, x, x_adv).",
    )


def difference(a: AttackResult, b: AttackResult, tolerance: float = 0.0) -> str:
    """Say how two results differ, or return the empty text."""
    for name in ("x_adv", "forward", "backward", "parameters"):
        one, two = getattr(a, name), getattr(b, name)
        if one is None and two is None:
            continue
        if one is None or two is None:
            return f"{name} is there in one and not in the other"
        if one.shape != two.shape:
            return f"{name} has shape {tuple(one.shape)} in one and {tuple(two.shape)} in the other"
        if not one.numel():
            continue
        gap = (one.double() - two.double()).abs()
        if not bool((gap <= (tolerance if name in ("x_adv", "parameters") else 0)).all()):
            rows = int((~(gap <= tolerance)).flatten(1).any(1).sum()) if gap.dim() > 1 else int((gap > 0).sum())
            return f"{name} differs in {rows} of {len(one)} rows, by up to {float(gap.max()):.3g}"
    return ""


def take(result: AttackResult, rows: Tensor) -> AttackResult:
    """Return some rows of a result."""
    parameters = None if result.parameters is None else result.parameters[rows]
    return AttackResult(result.x_adv[rows], result.forward[rows], result.backward[rows], parameters=parameters)


class ModelWatch:
    """Remembers everything about a module that an attack could change.

    Args:
        module: the module, watched from now on.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.before = self._look()

    def _look(self) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for name, module in self.module.named_modules():
            label = name or "the model"
            seen[f"mode of {label}"] = module.training
            hooks = {key: len(value) for key, value in vars(module).items() if key.endswith("_hooks") and value}
            seen[f"hooks of {label}"] = hooks
            seen[f"attributes of {label}"] = sorted(vars(module))
        for name, tensor in [*self.module.named_parameters(), *self.module.named_buffers()]:
            seen[f"values of {name}"] = tensor.detach().clone()
            seen[f"requires_grad of {name}"] = tensor.requires_grad
            seen[f"gradient of {name}"] = None if tensor.grad is None else tensor.grad.clone()
            seen[f"hooks of {name}"] = len(getattr(tensor, "_backward_hooks", None) or ())
        return seen

    def changes(self) -> list[str]:
        """Name what is not as it was."""
        now = self._look()
        return [key for key in {**self.before, **now} if not _equal(self.before.get(key), now.get(key))]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return a == b


def global_state() -> dict[str, Any]:
    """Return copies of the process-wide states that an attack must leave alone."""
    return {
        "torch's generator": torch.get_rng_state(),
        "NumPy's generator": copy.deepcopy(np.random.get_state(legacy=False)),  # noqa: NPY002
        "Python's generator": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "floating-point errors of NumPy": np.geterr(),
    }


def state_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Name the process-wide states that differ."""
    return [name for name in before if not _equal_state(before[name], after[name])]


def _equal_state(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal_state(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return _equal(a, b)


@contextmanager
def other_global_numbers(seed: int) -> Generator[None]:
    """Put the three global generators into an unusual state, and back afterwards.

    Whoever reseeds with a usual number, or uses global numbers, is found out; the caller's state is not disturbed.
    """
    before = global_state()
    generator = torch.Generator().manual_seed(seed)
    torch.set_rng_state(generator.get_state())
    np.random.set_state(np.random.RandomState(seed).get_state(legacy=False))  # noqa: NPY002
    random.setstate(random.Random(seed).getstate())
    try:
        yield
    finally:
        torch.set_rng_state(before["torch's generator"])
        np.random.set_state(before["NumPy's generator"])  # noqa: NPY002
        random.setstate(before["Python's generator"])
        torch.set_grad_enabled(before["grad mode"])
        torch.set_default_dtype(before["default dtype"])
        if torch.are_deterministic_algorithms_enabled() != before["deterministic algorithms"]:
            # Only if needed: the call imports torch's compiler, which takes a second.
            torch.use_deterministic_algorithms(before["deterministic algorithms"])
        torch.backends.cudnn.benchmark = before["cudnn.benchmark"]
        torch.backends.cudnn.deterministic = before["cudnn.deterministic"]
