"""Running the checks: on a registered method, or on somebody's own."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from robustscope.attacks import ATTACKS, AttackCard
from robustscope.contracts.attacks import CHECKS, checks_for
from robustscope.contracts.explained import sections
from robustscope.core.errors import InvalidType, InvalidValue, MissingFile, RobustscopeError, UnknownName, did_you_mean
from robustscope.core.registry import Card
from robustscope.core.types import NORMS


@dataclass(frozen=True)
class CheckResult:
    """What one check found for one norm.

    Args:
        name: of the check.
        norm: of the threat models that it used.
        passed: whether the method does what its card says: keeps the contract, or fails where ``known_failures``
            foretells it.
        expected_failure: the reason that ``known_failures`` gives, empty where the contract is to be kept.
        message: what was seen when the contract was not kept, or that a foretold failure did not happen; else empty.
    """

    name: str
    norm: str
    passed: bool
    expected_failure: str
    message: str


def run_check(name: str, card: AttackCard, norm: str) -> CheckResult:
    """Run one check; an exception of any kind is a failure with its reason.

    Raises:
        UnknownName: for a check that does not exist.
    """
    if name not in CHECKS:
        raise UnknownName(f"the check {name!r} is not known", "", did_you_mean(name, CHECKS))
    return outcome(CHECKS[name], name, card, norm)


def outcome(check: Callable[[Any, Any], None], name: str, card: Card, norm: str) -> CheckResult:
    """Run a check of a card of any kind, with what its ``known_failures`` foretell taken into account."""
    expected = card.known_failures.get(f"{name}/{norm}", card.known_failures.get(name, ""))
    try:
        check(card, norm)
    except Exception as error:  # a check that crashes must read as a failure, never as a missing row
        own = isinstance(error, RobustscopeError)
        message = str(error) if own else f"{type(error).__name__} was raised inside the check: {error}"
        return CheckResult(name, norm, bool(expected), expected, message)
    if expected:
        seen = f"{card.name!r} keeps {name!r}, which known_failures says it does not. Remove the entry."
        return CheckResult(name, norm, False, expected, seen)
    return CheckResult(name, norm, True, "", "")


def run_checks(card: AttackCard, norms: Iterable[str] | None = None) -> list[CheckResult]:
    """Run every check that a card must keep, for each of its norms.

    Args:
        card: of the attack.
        norms: norms, or kinds of other threat sets, to check, among those of the card; None checks all.

    Raises:
        InvalidValue: for a norm that the card does not declare.
    """
    chosen = card.kinds if norms is None else tuple(norms)
    if not chosen or not set(chosen) <= set(card.kinds):
        raise InvalidValue(
            f"norms={chosen} were asked for {card.name!r}",
            f"{card.kinds} are allowed",
            "Choose among the card's norms.",
        )
    return [run_check(name, card, norm) for norm in chosen for name in checks_for(card, norm)]


def load_card(target: str, norms: Iterable[str] | None = None) -> AttackCard:
    """Find the card of a registered name, or of a function in a module or a Python file.

    Args:
        target: ``"pgd"``, ``"my_module:my_attack"`` or ``"path/to/file.py:my_attack"``. The function may be registered,
            or just have the signature of an attack; the current folder is searched first.
        norms: norms, or kinds of other threat sets, of a function without a card; None means linf alone.

    Raises:
        UnknownName: if the name is not registered, or the module has no such attribute.
        MissingFile: if the file or the module does not exist.
        InvalidType: if what is found is not an attack.
    """
    place, separator, name = target.rpartition(":")
    if not separator:
        return ATTACKS[target]
    module = _load(place)
    found = getattr(module, name, None)
    if found is None:
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownName(f"{place!r} has no attack {name!r}", "", did_you_mean(name, public))
    if isinstance(found, AttackCard):
        return found
    for card in ATTACKS:
        if card.function is found:
            return card
    return _wrap(name, found, ("linf",) if norms is None else tuple(norms))


def _load(place: str) -> ModuleType:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = Path(place)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise MissingFile(f"{place!r} does not exist", "a Python file is allowed", "Check the path.")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        spec.loader.exec_module(module)
        return module
    except ModuleNotFoundError as error:
        raise MissingFile(
            f"the module {place!r} could not be imported ({error})",
            "an installed module or one in the current folder is allowed",
            "Change into its folder, or give the path of the file: path/to/file.py:my_attack.",
        ) from error
    finally:
        sys.path.remove(here)


def _wrap(name: str, function: Any, norms: tuple[str, ...]) -> AttackCard:
    """Build the card of a bare function from what its signature and docstring say."""
    needed = ("model", "x", "y", "threat", "draws")
    if not callable(function) or not set(needed) <= set(inspect.signature(function).parameters):
        raise InvalidType(
            f"{name!r} is a {type(function).__name__} without the signature of an attack",
            "(model, x, y, threat, *, draws, targets=None, ...) -> AttackResult is allowed",
            "Write a function of that form; robustscope/attacks/fgsm.py is a short one.",
        )
    source = sections(function.__doc__ or "").get("Source", "").strip()
    targeted = _mentions(function, "targets")
    return AttackCard(
        name=name,
        function=function,
        version=1,
        source=source,
        norms=tuple(norm for norm in NORMS if norm in norms),
        threats=tuple(kind for kind in norms if kind not in NORMS),
        goals=("untargeted", "targeted") if targeted else ("untargeted",),
        stochastic=_mentions(function, "draws"),
    )


def _mentions(function: Callable[..., Any], name: str) -> bool:
    """Tell whether the body of a function reads a variable; True where its source cannot be had."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return True
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))


def check(target: str, norms: Iterable[str] | None = None) -> list[CheckResult]:
    """Run all checks on a registered attack or on ``"my_module:my_attack"``; see :func:`load_card`.

    Example:
        >>> results = check("fgsm", norms=("linf",))
        >>> all(result.passed for result in results)
        True
    """
    card = load_card(target, norms)
    return run_checks(card, norms)
