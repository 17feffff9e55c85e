"""The nouns that every floor shares: bounds, threat models, results."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor

from robustscope.core.errors import InvalidType, InvalidValue

Norm = Literal["linf", "l2", "l1", "l0"]
NORMS: tuple[Norm, ...] = get_args(Norm)


class Bounds(NamedTuple):
    """Valid range of every input value, inclusive. Never means a certificate."""

    lower: float
    upper: float

    @classmethod
    def of(cls, values: Any) -> Bounds:
        """Return a pair of numbers as checked bounds.

        Raises:
            InvalidValue: if it is no pair of numbers, or they are not finite or not ordered.
        """
        try:
            lower, upper = (float(value) for value in values)
        except (TypeError, ValueError):
            raise InvalidValue(
                f"bounds={values!r} were given",
                "two finite numbers with lower < upper are allowed",
                "Write e.g. bounds=(0.0, 1.0).",
            ) from None
        return cls(lower, upper).check()

    def check(self) -> Bounds:
        """Return these bounds as floats.

        Raises:
            InvalidValue: if they are not finite or not ordered.
        """
        lower, upper = float(self[0]), float(self[1])
        if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
            raise InvalidValue(
                f"bounds=({lower}, {upper}) were given",
                "two finite numbers with lower < upper are allowed",
                "Give the valid range of the inputs before normalisation, e.g. Bounds(0.0, 1.0).",
            )
        return Bounds(lower, upper)


_FRACTION = re.compile(r"^\s*([0-9.eE+-]+)\s*/\s*([0-9.eE+-]+)\s*$")


def parse_epsilon(text: str | float) -> float:
    """Read a radius such as ``0.3``, ``"8/255"`` or ``"inf"``.

    Returns:
        The radius in the units of the bounds: at least 0, perhaps infinite.

    Raises:
        InvalidValue: for negative radii, NaN and texts that are not numbers.
    """
    given = text
    if isinstance(text, bool):
        raise InvalidType(
            f"epsilon={text!r} was given", "a number or a fraction is allowed", "Write e.g. epsilon=0.3 or '8/255'."
        )
    try:
        match = _FRACTION.match(text) if isinstance(text, str) else None
        value = float(match[1]) / float(match[2]) if match else float(text)
    except (TypeError, ValueError, ZeroDivisionError):
        value = math.nan
    if math.isnan(value) or value < 0:
        raise InvalidValue(
            f"epsilon={given!r} was given",
            "a number >= 0 or a fraction is allowed",
            "Write e.g. 0.3, '8/255', or 'inf' for the smallest perturbation.",
        )
    return value


@dataclass(frozen=True)
class ThreatModel:
    """What the adversary may do: move inside an lp ball around the input and inside the input bounds.

    Args:
        norm: "linf", "l2", "l1" or "l0" ("l0" counts input values that differ).
        epsilon: radius in the units of ``bounds``; a tuple gives one radius for each sample of a batch;
            ``inf`` asks for the smallest perturbation. Texts such as ``"8/255"`` are parsed.
        bounds: valid range of every input value.

    Raises:
        InvalidValue: if the norm, the radius or the bounds are not allowed.

    Example:
        >>> ThreatModel.parse("linf:8/255")
        ThreatModel(norm='linf', epsilon=0.03137254901960784, bounds=Bounds(lower=0.0, upper=1.0))
    """

    norm: Norm
    epsilon: float | tuple[float, ...]
    bounds: Bounds = Bounds(0.0, 1.0)

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise InvalidValue(
                f"norm={self.norm!r} was given",
                f"one of {NORMS} is allowed",
                "Write it in lower case, e.g. norm='linf'.",
            )
        epsilon = self.epsilon
        if isinstance(epsilon, (Tensor, list)):
            epsilon = tuple(epsilon.tolist()) if isinstance(epsilon, Tensor) else tuple(epsilon)
        radii = tuple(map(parse_epsilon, epsilon)) if isinstance(epsilon, tuple) else parse_epsilon(epsilon)
        object.__setattr__(self, "epsilon", radii)
        object.__setattr__(self, "bounds", Bounds.of(self.bounds))

    @classmethod
    def parse(cls, text: str, bounds: Bounds = Bounds(0.0, 1.0)) -> ThreatModel:
        """Read ``"NORM:EPSILON"``, for instance ``"linf:8/255"`` or ``"l2:0.5"``.

        Raises:
            InvalidValue: if the text has another form.
        """
        norm, separator, epsilon = text.strip().partition(":")
        if not separator:
            raise InvalidValue(
                f"threat={text!r} was given",
                "the form NORM:EPSILON is allowed",
                "Write e.g. linf:8/255, l2:0.5, l1:12 or l0:10.",
            )
        return cls(cast(Norm, norm), parse_epsilon(epsilon), bounds)

    @property
    def common_epsilon(self) -> float:
        """The radius that all samples share.

        Raises:
            InvalidValue: if each sample has its own.
        """
        if isinstance(self.epsilon, tuple):
            raise InvalidValue(
                f"{len(self.epsilon)} radii were given",
                "one radius for all samples is allowed here",
                "Give one number.",
            )
        return self.epsilon

    def radius(self, x: Tensor) -> Tensor:
        """Return the radius of each sample of ``x`` (B, ...), shape (B,), in the dtype and on the device of ``x``."""
        batch = x.shape[0]
        if isinstance(self.epsilon, tuple):
            if len(self.epsilon) != batch:
                raise InvalidValue(
                    f"{len(self.epsilon)} radii were given for a batch of {batch}",
                    "one radius for each sample, or a single one, is allowed",
                    "Pass epsilon as a float or as a tuple as long as the batch.",
                )
            return x.new_tensor(self.epsilon)
        if self.epsilon > torch.finfo(x.dtype).max and not math.isinf(self.epsilon):
            raise InvalidValue(
                f"epsilon={self.epsilon} was given for inputs of {x.dtype}",
                f"radii up to {torch.finfo(x.dtype).max:.3g}, or 'inf', are allowed",
                "Give the radius in the units of the bounds.",
            )
        return x.new_full((batch,), self.epsilon)

    def select(self, keep: Tensor) -> ThreatModel:
        """Return the threat model of the samples that ``keep`` (bool mask or indices) picks."""
        if not isinstance(self.epsilon, tuple):
            return self
        index = torch.arange(len(self.epsilon))[keep.cpu()].tolist()
        return replace(self, epsilon=tuple(self.epsilon[i] for i in index))

    def scaled(self, factor: float) -> ThreatModel:
        """Return the same threat model with every radius multiplied by ``factor``."""
        if isinstance(self.epsilon, tuple):
            return replace(self, epsilon=tuple(factor * e for e in self.epsilon))
        return replace(self, epsilon=factor * self.epsilon)


@dataclass(frozen=True)
class AttackResult:
    """What an attack returns: one row for each sample. Success is not here; ``attacks.verify`` decides it.

    Args:
        x_adv: (B, *S), in the dtype and on the device of the inputs.
        forward: int64 (B,), rows that each sample sent forward through the model.
        backward: int64 (B,), rows that each sample sent backward.
        trace: (B, T) losses along the way, or None; NaN where a sample had already left the batch.
        parameters: (B, P) what was done to each input, for threat sets of transformations, where it proves membership.
        elsewhere: int64 (B, 2), rows that each sample sent forward and backward through other models than the one under
            attack, or None.
    """

    x_adv: Tensor
    forward: Tensor
    backward: Tensor
    trace: Tensor | None = None
    parameters: Tensor | None = None
    elsewhere: Tensor | None = None


Status = Literal["verified", "unknown", "timeout"]


@dataclass(frozen=True)
class Certificate:
    """What a certifier returns: a lower bound for each sample, where an attack gives an upper one.

    Args:
        lower_margin: (B,), a lower bound of the margin (true logit minus the largest other) over the whole threat set;
            > 0 means that no adversarial example exists in it; -inf where the time was up before the first bound.
        status: for each sample "verified" (the bound exceeds 0 by more than rounding may amount to), "unknown" (it does
            not; nothing follows) or "timeout" (the time was up first; nothing follows).
        forward: int64 (B,), rows that each sample sent forward through the model.
        rows: int64 (B,), linear forms or error terms that were carried through the network for each sample.
        seconds: of the whole call.
        confidence: probability with which the statement about a sample holds, for each by itself; 1 for a proof, less for
            randomised smoothing.
        radius: float64 (B,), the radius up to which the method finds each sample robust, where one call tells; None
            where only the radius of the threat model was looked at. 0 where there is none.
        x_adv: (B, *S), inputs of the threat set that the method found adversarial on its way, the input itself where it
            found none; None for methods that look for none. ``attacks.verify`` judges them as those of an attack.
    """

    lower_margin: Tensor
    status: tuple[Status, ...]
    forward: Tensor
    rows: Tensor
    seconds: float
    confidence: float = 1.0
    radius: Tensor | None = None
    x_adv: Tensor | None = None

    @property
    def verified(self) -> Tensor:
        """Which samples have no adversarial example in the threat set: bool (B,)."""
        found = [each == "verified" for each in self.status]
        return torch.tensor(found, dtype=torch.bool, device=self.lower_margin.device)


@dataclass(frozen=True)
class Estimate:
    """What an estimator of the robust radius returns: one row for each sample. An estimate is no bound, in either direction.

    Figures of the fit are those of the class that decides, the one with the smallest radius. NaN is an explicit gap: no
    fit was made because the sample is misclassified, all maxima are equal, or the likelihood has no maximum.

    Args:
        radius: float64 (B,), the estimate in the units of the bounds, from 0 (already misclassified) to the cap.
        margin: float64 (B,), logit of the true class minus that of the deciding one.
        rival: int64 (B,), the deciding class; -1 for a sample that is misclassified.
        location: float64 (B,), the largest gradient norm (or curvature) that the fit extrapolates to; NaN as above, but
            the constant or the largest maximum where nothing was fitted.
        shape, scale: float64 (B,), the other parameters of the reverse Weibull distribution.
        statistic, p_value: float64 (B,), Kolmogorov-Smirnov distance of the maxima from the fit, and its p-value.
        capped: bool (B,), whether the radius is the sampling radius itself: the estimate says "at least this".
        zero_share: float64 (B,), share of the points looked at where the gradient of the deciding margin is exactly zero.
        warnings: for each sample the codes of what makes its estimate doubtful; ``estimates.cards.WARNINGS`` explains them.
        maxima: float64 (B, N), the maxima that were fitted, for the deciding class; NaN for a misclassified sample.
        rivals: int64 (B, C), the classes considered; -1 for a sample that is misclassified.
        radii: float64 (B, C), the estimate for each of them; 0 for a sample that is misclassified.
        forward: int64 (B,), rows that each sample sent forward through the model.
        backward: int64 (B,), rows that each sample sent backward.
    """

    radius: Tensor
    margin: Tensor
    rival: Tensor
    location: Tensor
    shape: Tensor
    scale: Tensor
    statistic: Tensor
    p_value: Tensor
    capped: Tensor
    zero_share: Tensor
    warnings: tuple[tuple[str, ...], ...]
    maxima: Tensor
    rivals: Tensor
    radii: Tensor
    forward: Tensor
    backward: Tensor


@dataclass
class Ledger:
    """Rows that went through a model, counted where they pass."""

    forward: int = 0
    backward: int = 0

    def reset(self) -> None:
        """Set both counts back to zero."""
        self.forward = self.backward = 0


@dataclass(frozen=True)
class Finding:
    """One thing that a check or the input doctor has to say.

    Args:
        name: short name of the check.
        level: "ok", "warning", "error" or "skipped".
        message: what was found, with the figure behind it.
        remedy: what to do about it, empty when nothing is to be done.
        data: figures for machines.
    """

    name: str
    level: Literal["ok", "warning", "error", "skipped"]
    message: str
    remedy: str = ""
    data: dict[str, Any] = field(default_factory=dict)


def as_indices(ids: Sequence[int] | Tensor) -> tuple[int, ...]:
    """Return sample ids as a tuple of Python integers."""
    return tuple(ids.tolist()) if isinstance(ids, Tensor) else tuple(int(i) for i in ids)
