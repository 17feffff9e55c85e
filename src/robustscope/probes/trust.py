"""The verdict on the verdict: from the results of all probes to trust, doubt, or do not trust, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from robustscope.core.errors import InvalidValue
from robustscope.probes.bench import Check

Word = Literal["trust", "doubt", "do not trust this number"]
ENOUGH = 3
"""Weight of one failure that is enough by itself."""
TOGETHER = 4
"""Sum of weights of failures that are enough together."""


@dataclass(frozen=True)
class Trust:
    """Whether a robust accuracy can be believed.

    Args:
        verdict: "trust", "doubt" or "do not trust this number".
        why: the reasons in plain sentences, the weightiest first.
        checks: every result, in the order in which they were made.
        n, correct, left: samples, those classified correctly, and those that the evaluation left; None where it could not
            be run.
    """

    verdict: Word
    why: tuple[str, ...]
    checks: tuple[Check, ...]
    n: int | None = None
    correct: int | None = None
    left: int | None = None

    def __getitem__(self, name: str) -> Check:
        """Return the result of the probe ``name``.

        Raises:
            KeyError: if it was not run.
        """
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The failures, the weightiest first."""
        return tuple(sorted((c for c in self.checks if c.verdict == "fail"), key=lambda c: -c.weight))

    def __str__(self) -> str:
        return "\n".join([self.verdict, *(f"- {reason}" for reason in self.why)])


def judge(checks: Sequence[Check]) -> Trust:
    """Return the verdict of these results.

    *Do not trust*: a failure of weight 3, or failures whose weights add up to 4. *Doubt*: any other failure, or a vital
    probe that did not apply, since then nothing speaks against the number because nothing was asked. *Trust*: neither.

    Args:
        checks: results of probes.

    Raises:
        InvalidValue: without results.

    Example:
        >>> judge([Check("a", "pass", "all is well")]).verdict
        'trust'
        >>> judge([Check("a", "fail", "3 of 9", "it is weak", "try more", weight=2)]).why
        ('a: 3 of 9. It is weak.',)
    """
    if not checks:
        raise InvalidValue("no results were given", "those of one probe or more are allowed", "Run the probes first.")
    failed = sorted((c for c in checks if c.verdict == "fail"), key=lambda c: -c.weight)
    untested = [c for c in checks if c.vital and c.verdict == "not applicable"]
    weights = [c.weight for c in failed]
    if failed and (weights[0] >= ENOUGH or sum(weights) >= TOGETHER):
        verdict: Word = "do not trust this number"
    else:
        verdict = "doubt" if failed or untested else "trust"
    why = [f"{c.name}: {c.evidence}. {c.means[:1].upper()}{c.means[1:]}." for c in failed]
    why += [f"{c.name} is not known: {c.evidence}." for c in untested]
    if not why:
        asked = sum(c.verdict == "pass" for c in checks)
        why = [
            f"all {asked} checks that apply were passed, of {len(checks)}: nothing found says that the attack was too weak."
        ]
    return Trust(verdict, tuple(why), tuple(checks))
