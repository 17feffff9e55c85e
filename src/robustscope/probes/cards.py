"""The card of a probe and the registry of probes: checks that ask whether a robust accuracy can be believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from robustscope.core.registry import Card, Registry

Verdict = Literal["pass", "fail", "not applicable"]
Rows = tuple[int, int]


@dataclass(frozen=True)
class ProbeCard(Card):
    """What a probe says about itself.

    Its function has the form ``(bench: Bench) -> Reading``; see ``probes.bench``.

    Args:
        measures: the figure, in words; it is what a pass means too.
        means: what a failure means.
        remedy: what to do after a failure.
        access: what it needs of the model: "gradients", "scores" or "decisions".
        weight: how much a failure counts against the robust accuracy, from 1 (a doubt) to 3 (enough by itself).
        vital: whether a robust accuracy cannot be trusted without it.
        last: whether it looks at what the other probes ran.
        cost: (rows of one run of the gradient attack, facts of the bench) -> most rows (forward, backward) that one
            sample costs beyond the evaluation itself. Facts: "noise", rows forward of "scores" and "decisions",
            rows of "reference" and of "all" the evaluation, how many "surrogates".
    """

    measures: str = ""
    means: str = ""
    remedy: str = ""
    access: Literal["gradients", "scores", "decisions"] = "gradients"
    weight: int = 2
    vital: bool = False
    last: bool = False
    cost: Callable[[Rows, Mapping[str, Any]], Rows] = lambda white, facts: (0, 0)


PROBES: Registry[ProbeCard] = Registry("probe", ProbeCard)
register = PROBES.register


def runs_of(white: Rows, times: float, runs: int, extra: int = 0) -> Rows:
    """Return the rows of a sample for some runs of the gradient attack.

    Args:
        white: rows of one run.
        times: how many times its rows all runs take together.
        runs: how often an attack is run: each is judged three times at most, and its start costs nothing more.
        extra: further rows forward.
    """
    return int(times * white[0]) + 3 * runs + extra, int(times * white[1])
