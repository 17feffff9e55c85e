"""Threat sets that are not lp balls, and the one place that reads and rebuilds any threat set from text.

A plan names a threat set by (norm, epsilon). An lp ball has its norm and its radius there. A set of this module has its
*family*, the sizes at factor 1 such as ``"patch:5,5"``, where the ball has its norm, and as ``epsilon`` the factor that
scales them. Sets of one family are nested as balls are, so tables, curves and cascades need to know nothing else.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar, cast

from torch import Tensor

from robustscope.core.errors import InvalidValue, UnknownName
from robustscope.core.types import NORMS, Bounds, Norm, ThreatModel

F = TypeVar("F", bound="_Family")


class _Family:
    """What sets that are scaled by a factor share with balls; the arithmetic of radii is the ball's."""

    kind: ClassVar[str]
    form: ClassVar[str]

    def _ball(self) -> ThreatModel:
        own = cast(Any, self)  # a dataclass with bounds and epsilon
        return ThreatModel("linf", own.epsilon, own.bounds)

    def _check(self) -> None:
        ball = self._ball()
        object.__setattr__(self, "epsilon", ball.epsilon)
        object.__setattr__(self, "bounds", ball.bounds)
        if math.inf in (ball.epsilon if isinstance(ball.epsilon, tuple) else (ball.epsilon,)):
            raise InvalidValue(
                f"the factor epsilon=inf was given to {self.kind!r}",
                "a finite factor is allowed",
                "Leave it out, and say how large the set is by its sizes.",
            )

    @property
    def norm(self) -> str:
        """The family: kind and sizes at factor 1, which stands where an lp ball has its norm."""
        raise NotImplementedError

    @property
    def common_epsilon(self) -> float:
        """The factor that all samples share; see :attr:`ThreatModel.common_epsilon`."""
        return self._ball().common_epsilon

    def radius(self, x: Tensor) -> Tensor:
        """Return the factor of each sample of ``x`` (B, ...): (B,), in the dtype and on the device of ``x``."""
        return self._ball().radius(x)

    def select(self: F, keep: Tensor) -> F:
        """Return the threat set of the samples that ``keep`` (bool mask or indices) picks."""
        return replace(cast(Any, self), epsilon=self._ball().select(keep).epsilon)

    def scaled(self: F, factor: float) -> F:
        """Return the same family with every size multiplied by ``factor``."""
        return replace(cast(Any, self), epsilon=self._ball().scaled(factor).epsilon)


@dataclass(frozen=True)
class RotationTranslation(_Family):
    """The adversary rotates the image about its centre, then shifts it; what comes in from outside is black.

    Args:
        max_rotation: largest angle to either side, in degrees, 0 to 180.
        max_translation: largest shift in each of the two directions, in pixels, >= 0.
        bounds: valid range of every input value; its lower end is what black means.
        epsilon: factor by which both sizes are multiplied; a tuple gives one for each sample of a batch.

    Raises:
        InvalidValue: for sizes, factors or bounds that are not allowed.

    Source: Engstrom et al. 2019, arXiv:1712.02779, Sec. 3.

    Example:
        >>> RotationTranslation(30, 3).norm
        'rotation-translation:30,3'
    """

    kind: ClassVar[str] = "rotation-translation"
    form: ClassVar[str] = "rotation-translation:DEGREES,PIXELS"

    max_rotation: float
    max_translation: float
    bounds: Bounds = Bounds(0.0, 1.0)
    epsilon: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        for name, most in (("max_rotation", 180.0), ("max_translation", math.inf)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value <= most or math.isinf(value):
                raise InvalidValue(
                    f"{name}={value!r} was given",
                    "a number from 0 to 180 (degrees) is allowed" if most == 180 else "pixels >= 0 are allowed",
                    f"Write e.g. {self.kind}:30,3 for 30 degrees and 3 pixels.",
                )
            object.__setattr__(self, name, float(value))
        self._check()

    @property
    def norm(self) -> str:
        """The family, for instance ``"rotation-translation:30,3"``."""
        return f"{self.kind}:{_short(self.max_rotation)},{_short(self.max_translation)}"

    @classmethod
    def sized(cls, sizes: list[float], bounds: Bounds) -> RotationTranslation:
        """Return the set that two numbers name."""
        rotation, translation = sizes
        return cls(rotation, translation, bounds)


@dataclass(frozen=True)
class Patch(_Family):
    """The adversary overwrites one rectangle anywhere, with whatever the bounds allow.

    Args:
        height, width: largest sides of the rectangle, in input values, >= 1. Inputs (B, D) that are no pictures count
            as pictures of height 1. A rectangle larger than the picture is the whole picture.
        bounds: valid range of every input value.
        epsilon: factor by which both sides are multiplied, then rounded down; a tuple gives one for each sample.

    Raises:
        InvalidValue: for sides, factors or bounds that are not allowed.

    Source: Brown et al. 2017, arXiv:1712.09665; Karmon et al. 2018, arXiv:1801.02608.

    Example:
        >>> Patch(5, 5).norm
        'patch:5,5'
    """

    kind: ClassVar[str] = "patch"
    form: ClassVar[str] = "patch:HEIGHT,WIDTH"

    height: int
    width: int
    bounds: Bounds = Bounds(0.0, 1.0)
    epsilon: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 1 or value % 1:
                raise InvalidValue(
                    f"{name}={value!r} was given",
                    "a whole number of pixels >= 1 is allowed",
                    f"Write e.g. {self.kind}:5,5.",
                )
            object.__setattr__(self, name, int(value))
        self._check()

    @property
    def norm(self) -> str:
        """The family, for instance ``"patch:5,5"``."""
        return f"{self.kind}:{self.height},{self.width}"

    @classmethod
    def sized(cls, sizes: list[float], bounds: Bounds) -> Patch:
        """Return the set that two numbers name."""
        height, width = sizes
        return cls(cast(int, height), cast(int, width), bounds)


Threat = ThreatModel | RotationTranslation | Patch
KINDS: dict[str, type[RotationTranslation] | type[Patch]] = {kind.kind: kind for kind in (RotationTranslation, Patch)}


def kind_of(threat: Threat) -> str:
    """Return what an attack must be defined for: the norm of a ball, else the kind of the set."""
    return threat.norm if isinstance(threat, ThreatModel) else threat.kind


def parse_threat(text: str, bounds: Bounds = Bounds(0.0, 1.0)) -> Threat:
    """Read a threat set as users write it: ``"linf:8/255"``, ``"rotation-translation:30,3"``, ``"patch:5,5"``.

    Raises:
        UnknownName: for a kind that is nearly one of ours.
        InvalidValue: for any other text.

    Example:
        >>> parse_threat("patch:3,4").height
        3
    """
    kind = text.strip().partition(":")[0]
    if kind in KINDS:
        return make_threat(text.strip(), 1.0, bounds)
    near = difflib.get_close_matches(kind.lower().replace("_", "-"), KINDS, n=1, cutoff=0.8)
    if near and kind not in NORMS:
        forms = ", ".join(known.form for known in KINDS.values())
        raise UnknownName(f"threat={text!r} was given", f"NORM:EPSILON, {forms} are allowed", f"Write {near[0]}:....")
    return ThreatModel.parse(text, bounds)


def make_threat(norm: str, epsilon: float | tuple[float, ...], bounds: Bounds = Bounds(0.0, 1.0)) -> Threat:
    """Return the threat set that a plan names by (norm, epsilon); see the module's first lines.

    Raises:
        InvalidValue: for a family or a factor that is not allowed.
    """
    kind, _, sizes = norm.partition(":")
    if kind not in KINDS:
        return ThreatModel(cast(Norm, norm), epsilon, bounds)
    try:
        numbers = [float(size) for size in sizes.split(",")]
        if len(numbers) != 2:
            raise ValueError
    except ValueError:
        raise InvalidValue(
            f"threat={norm!r} was given", f"the form {KINDS[kind].form} is allowed", "Write two numbers."
        ) from None
    return replace(KINDS[kind].sized(numbers, bounds), epsilon=epsilon)


def threat_text(threat: Threat) -> str:
    """Return a threat set as :func:`parse_threat` reads it.

    Raises:
        InvalidValue: if each sample has its own size.

    Example:
        >>> threat_text(ThreatModel("linf", 0.1)), threat_text(Patch(4, 4, epsilon=0.5))
        ('linf:0.1', 'patch:2,2')
    """
    factor = threat.common_epsilon
    if isinstance(threat, ThreatModel):
        return f"{threat.norm}:{factor!r}"
    if factor == 1:
        return threat.norm
    if isinstance(threat, Patch):
        return f"{threat.kind}:{math.floor(threat.height * factor)},{math.floor(threat.width * factor)}"
    return f"{threat.kind}:{_short(threat.max_rotation * factor)},{_short(threat.max_translation * factor)}"


def _short(value: float) -> str:
    """Write a number as it was most likely given, without losing a bit."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)
