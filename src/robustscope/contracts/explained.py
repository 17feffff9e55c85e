"""The check that an attack says what it is: card and docstring complete."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from robustscope.attacks.cards import Access, Aim, AttackCard, Goal
from robustscope.contracts.broken import ContractBroken
from robustscope.core.errors import RobustscopeError
from robustscope.core.threats import KINDS
from robustscope.core.types import NORMS

_HEADING = re.compile(r"^(Args|Returns|Raises|Yields|Example|Examples|Source|Departures|Note|Notes):", re.MULTILINE)


def sections(docstring: str) -> dict[str, str]:
    r"""Cut a Google-style docstring into its sections; the text before the first heading is "".

    Example:
        >>> sections("Do it.\n\nArgs:\n    x: input.")["Args"].strip()
        'x: input.'
    """
    parts = _HEADING.split(inspect.cleandoc(docstring))
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def _documented(section: str) -> set[str]:
    """Names explained in a section: what stands before the colon of its lines, several separated by commas."""
    names: set[str] = set()
    for line in section.splitlines():
        head, colon, _ = line.strip().partition(":")
        if colon:
            names.update(re.sub(r"\(.*?\)", "", name).strip(" *`") for name in head.split(","))
    return names


def _raised(function: Callable[..., Any]) -> set[str]:
    """Names of the exceptions that the function's own source raises."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return set()
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            names.add(raised.attr if isinstance(raised, ast.Attribute) else getattr(raised, "id", ""))
    return {name for name in names if name[:1].isupper()}


def _gaps_of_the_card(card: AttackCard, checks: Iterable[str]) -> Iterable[str]:
    if not card.name or card.name != card.name.strip():
        yield "the card has no name"
    if not isinstance(card.version, int) or isinstance(card.version, bool) or card.version < 1:
        yield f"version={card.version!r} is not an integer >= 1"
    if not card.source.strip():
        yield "the card names no source"
    for field, values, known in (
        ("norms and threats", card.kinds, (*NORMS, *KINDS)),
        ("goals", card.goals, get_args(Goal)),
        ("aim", (card.aim,), get_args(Aim)),
        ("access", (card.access,), get_args(Access)),
    ):
        if not values or not set(values) <= set(known):
            yield f"{field}={values!r} is not among {known}"
    for name, reason in card.known_failures.items():
        check, _, norm = name.partition("/")
        if check not in checks or (norm and norm not in card.kinds):
            yield f"known_failures names {name!r}, which is no check, or none of the norms"
        if not reason.strip():
            yield f"known_failures gives no reason for {name!r}"
    try:
        card.resolve({name: parameter.default for name, parameter in card.parameters.items()})
        card.resolve(card.quick)
    except RobustscopeError as error:
        yield f"defaults or quick parameters do not fit: {error.given}"


def _gaps_of_the_function(card: AttackCard) -> Iterable[str]:
    parts = sections(card.function.__doc__ or "")
    summary = parts[""].strip().split("\n")[0]
    if not summary.endswith("."):
        yield "the docstring has no first line that ends with a full stop"
    signature = inspect.signature(card.function)
    documented = _documented(parts.get("Args", ""))
    for name, parameter in signature.parameters.items():
        if name not in documented:
            yield f"the parameter {name!r} is not documented"
        if parameter.annotation is parameter.empty:
            yield f"the parameter {name!r} has no annotation"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            yield f"{name!r} hides parameters"
    missing = {"model", "x", "y", "threat", "draws", "targets"} - set(signature.parameters)
    if missing:
        yield f"the parameters {sorted(missing)} are missing"
    for name in ("Returns", "Source"):
        if not parts.get(name, "").strip():
            yield f"the docstring has no section {name!r}"
    for name in sorted(_raised(card.function) - _documented(parts.get("Raises", ""))):
        yield f"the error {name!r} is not documented"


def gaps(card: AttackCard, checks: Iterable[str]) -> list[str]:
    """Return everything that a card and its function do not say."""
    return [*_gaps_of_the_card(card, checks), *_gaps_of_the_function(card)]


def explain(card: AttackCard, norm: str, checks: Iterable[str]) -> None:
    """Raise unless the card is complete and every parameter and error is documented."""
    found = gaps(card, set(checks))
    if found:
        raise ContractBroken(
            f"the attack {card.name!r} does not explain itself: {'; '.join(found)}",
            "a complete card and a complete docstring are allowed",
            "Fill in what is missing; robustscope/attacks/fgsm.py shows the form.",
        )


def gaps_of(function: Callable[..., Any], facts: Mapping[str, Any]) -> list[str]:
    """Return what a function's docstring, and the facts of its card, do not say; for cards of any kind.

    Args:
        function: with a docstring in Google style.
        facts: name -> what the card says; an empty one is a gap.
    """
    parts = sections(function.__doc__ or "")
    documented, errors = _documented(parts.get("Args", "")), _documented(parts.get("Raises", ""))
    return [
        *(
            f"the parameter {name!r} is not documented"
            for name in inspect.signature(function).parameters
            if name not in documented
        ),
        *(
            f"the docstring has no section {n!r}"
            for n in ("Returns", "Raises", "Source")
            if not parts.get(n, "").strip()
        ),
        *(f"the error {name!r} is not documented" for name in sorted(_raised(function) - errors)),
        *(f"the card has no {name}" for name, value in facts.items() if not value),
    ]
