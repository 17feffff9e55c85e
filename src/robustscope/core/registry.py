"""Registries: every method is one function with one registration, and carries a card."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

from robustscope.core.errors import InvalidType, InvalidValue, UnknownName, did_you_mean


@dataclass(frozen=True)
class Card:
    """What a registered method says about itself.

    Args:
        name: name in the registry.
        function: the method.
        version: raised whenever a change can alter a number.
        source: authors, year, arXiv or DOI, section.
        bibtex: entry for ``robustscope cite``, empty when there is no publication.
        known_failures: contract check, or check/norm, -> reason. Strict: an unexpected pass fails.
    """

    name: str
    function: Callable[..., Any]
    version: int
    source: str
    bibtex: str = ""
    known_failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The method's hyper-parameters: its keyword-only arguments that have a default."""
        signature = inspect.signature(self.function)
        return {
            name: parameter
            for name, parameter in signature.parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
            if name != "targets"
        }

    def resolve(self, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return all hyper-parameters, defaults filled in, each checked against its annotation.

        Raises:
            UnknownName: for a key that the method does not have.
            InvalidType, InvalidValue: for a value that does not fit the annotation.
        """
        parameters = self.parameters
        hints = typing.get_type_hints(self.function)
        resolved = {name: parameter.default for name, parameter in parameters.items()}
        for name, value in (given or {}).items():
            if name not in parameters:
                raise UnknownName(
                    f"the parameter {name!r} was given to {self.name!r}",
                    "",
                    did_you_mean(name, parameters),
                )
            resolved[name] = _conform(f"{self.name}.{name}", value, hints.get(name, Any))
        return resolved

    def summary(self) -> str:
        """The first line of the method's docstring."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]


def _conform(label: str, value: Any, hint: Any) -> Any:
    """Return ``value`` as the annotation wants it, or say what is wrong."""
    origin = get_origin(hint)
    if origin is Literal:
        if value not in get_args(hint):
            raise InvalidValue(
                f"{label}={value!r} was given",
                f"one of {get_args(hint)} is allowed",
                did_you_mean(str(value), map(str, get_args(hint))),
            )
        return value
    allowed = get_args(hint) if origin in (types.UnionType, typing.Union) else (hint,)
    if value is None and type(None) in allowed:
        return None
    for kind in allowed:
        if kind is Any or (kind is bool and isinstance(value, bool)):
            return value
        if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if kind is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if kind is str and isinstance(value, str):
            return value
        plain = get_origin(kind) or kind  # of several values, such as Sequence[float], the method checks each
        if isinstance(plain, type) and plain not in (bool, int, float, str) and isinstance(value, plain):
            return value
    names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in allowed)
    raise InvalidType(
        f"{label}={value!r} ({type(value).__name__}) was given",
        f"{names} is allowed",
        "Correct the value in the configuration.",
    )


C = TypeVar("C", bound=Card)


class Registry(Generic[C]):
    """Named cards of one kind of method.

    Args:
        kind: singular noun for messages, such as "attack".
        card: the dataclass of its cards.
    """

    def __init__(self, kind: str, card: type[C]) -> None:
        self.kind, self._card, self._cards = kind, card, dict[str, C]()

    def register(self, name: str, **facts: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return a decorator that registers a function under ``name`` and returns it unchanged.

        Raises:
            InvalidValue: if the name is taken by another function, or the card lacks a fact.
        """

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            self.add(self._card(name=name, function=function, **facts))
            return function

        return decorate

    def add(self, card: C) -> None:
        """Register a card; a second one under the same name raises."""
        taken = self._cards.get(card.name)
        if taken is not None and taken.function is not card.function:
            raise InvalidValue(
                f"a second {self.kind} named {card.name!r} was registered",
                "each name belongs to one function",
                "Choose another name.",
            )
        self._cards[card.name] = card

    def remove(self, name: str) -> None:
        """Forget a name; for tests and for reloading a user's own method."""
        self._cards.pop(name, None)

    def __getitem__(self, name: str) -> C:
        try:
            return self._cards[name]
        except KeyError:
            raise UnknownName(
                f"the {self.kind} {name!r} is not known", "", did_you_mean(str(name), self._cards)
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._cards

    def __iter__(self) -> Iterator[C]:
        return iter(sorted(self._cards.values(), key=lambda card: card.name))

    def __len__(self) -> int:
        return len(self._cards)
