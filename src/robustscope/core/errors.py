"""Every error that robustscope raises on purpose.

Each message has three parts: what was given, what is allowed, and what to do about it.
All errors derive from :class:`RobustscopeError` and from the built-in exception that they resemble,
so that ``except ValueError`` written by somebody who has never heard of this package still works.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path


class RobustscopeError(Exception):
    """Base of all errors raised on purpose by robustscope.

    Args:
        given: what was found, as a full clause ("norm='Linf' was given").
        allowed: what is accepted ("one of ('linf', 'l2') is allowed").
        remedy: one sentence that says what to do.
    """

    def __init__(self, given: str, allowed: str = "", remedy: str = "") -> None:
        self.given, self.allowed, self.remedy = given, allowed, remedy
        head = "; ".join(part.rstrip(".;") for part in (given, allowed) if part)
        super().__init__(f"{head}. {remedy}".strip())

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[type[RobustscopeError], tuple[str, str, str]]:
        return type(self), (self.given, self.allowed, self.remedy)


class InvalidValue(RobustscopeError, ValueError):
    """A value lies outside what is allowed."""


class InvalidType(RobustscopeError, TypeError):
    """A value has the wrong type or dtype."""


class UnknownName(RobustscopeError, LookupError):
    """A name is not registered."""

    def __init__(self, given: str, allowed: str = "", remedy: str = "") -> None:
        super().__init__(given, allowed, remedy)


class MissingFile(RobustscopeError, FileNotFoundError):
    """A file or folder that was named does not exist."""


class BadFile(RobustscopeError, ValueError):
    """A file exists but cannot be used: truncated, corrupted, of another format."""


class UnsafeFile(BadFile):
    """Loading the file would run code stored inside it."""


class MissingExtra(RobustscopeError, ImportError):
    """An optional package is needed."""


class ModelError(RobustscopeError, RuntimeError):
    """The model returned something that cannot be evaluated, or raised."""


class QueryLimitReached(RobustscopeError, RuntimeError):
    """More rows were to be sent to a black box than its limit allows; none of them was sent."""


class ConstraintViolated(RobustscopeError, ArithmeticError):
    """An attack returned an example outside its threat set."""


class StoreError(RobustscopeError, OSError):
    """A run folder could not be read or written."""


class CorruptRun(RobustscopeError, ValueError):
    """A run folder holds rows that are missing, doubled, truncated or in error."""


class Contradiction(RobustscopeError, ArithmeticError):
    """Two results that cannot both be true: a certificate and an adversarial example inside it. One method is wrong."""


class RecalledError(RobustscopeError):
    """An error of an earlier process; its text is what :func:`explain` said of the original."""


def explain(error: Exception) -> str:
    """Return an error as one line with the place where it was raised."""
    if isinstance(error, RecalledError):
        return error.given
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if len(frames) else ""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}{where}"[:500]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the nearest known name and lists all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Available: {', '.join(names) if names else 'nothing'}."


def missing_extra(package: str, extra: str, reason: BaseException | None = None) -> MissingExtra:
    """Build the error for an optional package that cannot be imported.

    Args:
        package: the package that was asked for.
        extra: the extra of robustscope that installs it.
        reason: the exception of the failed import; a broken install raises other types than ``ImportError``.
    """
    why = f" ({type(reason).__name__}: {reason})" if reason is not None else ""
    return MissingExtra(
        f"the package {package!r} could not be imported{why}",
        "it is optional",
        f"Install it with: pip install 'robustscope[{extra}]'.",
    )
