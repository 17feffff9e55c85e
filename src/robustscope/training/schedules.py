"""How the learning rate, and epsilon, change while training goes on: functions of the progress from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from robustscope.core.errors import InvalidValue

Schedule = Callable[[float], float]


def flat() -> Schedule:
    """Return the schedule that never changes."""
    return lambda progress: 1.0


def cyclic(peak: float = 0.5, last: float = 0.0) -> Schedule:
    """Rise from 0 to 1 at ``peak`` of the training, then fall to ``last``, both in straight lines.

    Args:
        peak: share of the training, strictly between 0 and 1; FAST takes 0.5 on CIFAR-10 and 2/5 on MNIST.
        last: factor at the end, >= 0.

    Source: Smith 2017, arXiv:1506.01186; Wong, Rice, Kolter 2020, arXiv:2001.03994, Sec. 5.

    Example:
        >>> rate = cyclic(0.5)
        >>> rate(0.25), rate(0.5), rate(0.75)
        (0.5, 1.0, 0.5)
    """
    if not 0 < peak < 1 or last < 0:
        raise InvalidValue(
            f"a cyclic schedule with peak={peak} and last={last} was given",
            "0 < peak < 1 and last >= 0 are allowed",
            "Write e.g. peak = 0.5, last = 0.",
        )

    def rate(progress: float) -> float:
        if progress < peak:
            return progress / peak
        return 1 + (last - 1) * (progress - peak) / (1 - peak)

    return rate


def piecewise(drops: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> Schedule:
    """Multiply by ``factor`` at each of ``drops``, which are shares of the training.

    Example:
        >>> [round(piecewise((0.5, 0.75))(t), 3) for t in (0.49, 0.5, 0.75)]
        [1.0, 0.1, 0.01]
    """
    if not all(0 <= drop <= 1 for drop in drops) or list(drops) != sorted(drops) or not factor > 0:
        raise InvalidValue(
            f"a piecewise schedule with drops={tuple(drops)} and factor={factor} was given",
            "increasing shares of the training from 0 to 1 and a factor > 0 are allowed",
            "Write e.g. drops = [0.5, 0.75], factor = 0.1.",
        )
    return lambda progress: factor ** sum(progress >= drop for drop in drops)


def cosine(warm_up: float = 0.0, last: float = 0.0) -> Schedule:
    """Fall as half a cosine from 1 to ``last``, after rising in a straight line for ``warm_up`` of the training."""
    if not 0 <= warm_up < 1 or last < 0:
        raise InvalidValue(
            f"a cosine schedule with warm_up={warm_up} and last={last} was given",
            "0 <= warm_up < 1 and last >= 0 are allowed",
            "Write e.g. warm_up = 0.05.",
        )

    def rate(progress: float) -> float:
        if progress < warm_up:
            return progress / warm_up
        return last + (1 - last) * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up))) / 2

    return rate


SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "flat": flat,
    "cyclic": cyclic,
    "piecewise": piecewise,
    "cosine": cosine,
}


def ramp(share: float) -> Schedule:
    """Rise from 0 to 1 during ``share`` of the training and stay there; 0 means 1 from the start."""
    return lambda progress: 1.0 if share <= 0 else min(1.0, progress / share)
