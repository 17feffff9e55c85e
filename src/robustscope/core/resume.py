"""Progress that outlives its process: long loops tell where they are, and a later process goes on from there.

A loop opens a :func:`stage` with a function that tells its state, and calls :func:`checkpoint` at the top of each round,
where that state is whole. Stages nest: what is saved is the state of all that are open. A piece of work that is over
and done is handed to :func:`remember`, and :func:`recall` gives it back. Nothing is kept unless a :class:`Keeper` is in
force, and then a loop costs one look at a context variable for each round.

What makes this safe is that everything here is a function of its inputs: a process that takes up a state, and one that
never stopped, come to the same result bit by bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from robustscope.core.types import Ledger

State = Mapping[str, Tensor | int | None]
"""What a stage tells of itself; None stands for a tensor that is not there."""

DONE = "done"


@dataclass(frozen=True)
class Saved:
    """A saved state, with the rows that had gone through the model by then.

    Args:
        state: the tensors.
        forward: rows forward.
        backward: rows backward.
        names: how often each name had been used under the stage, so that its next one gets the next number.
    """

    state: dict[str, Tensor]
    forward: int
    backward: int
    names: Mapping[str, int] = field(default_factory=dict)


@dataclass
class _Open:
    path: str
    name: str
    state: Callable[[], State] | None
    names: Counter[str] = field(default_factory=Counter)


class Keeper(ABC):
    """Keeps states, and hands out those of an earlier process.

    Args:
        ledger: of the model; set to what it was when a state that is taken up was saved, for the rows sent by then are
            part of what the work cost, and those sent since to get back to it are not.
        found: path -> what an earlier process saved; each is handed out once, where the same stage opens again.
    """

    def __init__(self, ledger: Ledger, found: Mapping[str, Saved]) -> None:
        self._ledger, self._found = ledger, dict(found)
        self._open = [_Open("", "", None)]

    @abstractmethod
    def due(self) -> bool:
        """Tell whether it is time to save."""

    @abstractmethod
    def save(self, running: Mapping[str, Saved]) -> None:
        """Keep the states of the stages that are open, in place of those saved before."""

    @abstractmethod
    def keep(self, path: str, done: Saved) -> None:
        """Keep the result of a piece of work for good; writing it may wait until the next :meth:`save`."""

    def path(self, name: str) -> str:
        """Return the path of a name under the stage that is open now; the second use of a name is another one."""
        here = self._open[-1]
        here.names[name] += 1
        return f"{here.path}/{name}#{here.names[name] - 1}"

    def take(self, path: str) -> Saved | None:
        """Return what was saved under a path, the first time it is asked for."""
        saved = self._found.pop(path, None)
        if saved is not None:
            self._ledger.forward, self._ledger.backward = saved.forward, saved.backward
        return saved

    def saved(self, state: State, names: Mapping[str, int] | None = None) -> Saved:
        """Return a state as it can be kept: tensors alone, the rows so far, and the names in use."""
        tensors = {
            name: value if isinstance(value, Tensor) else torch.tensor(value)
            for name, value in state.items()
            if value is not None
        }
        return Saved(tensors, self._ledger.forward, self._ledger.backward, dict(names or {}))

    def opened(self, name: str, state: Callable[[], State] | None) -> dict[str, Tensor] | None:
        """Open a stage; return the state from which it has to go on, if there is one."""
        stage = _Open(self.path(name), name, state)
        saved = self.take(stage.path)
        if saved is not None:
            stage.names.update(saved.names)
        self._open.append(stage)
        return None if saved is None else saved.state

    def closed(self) -> None:
        """Close the stage that was opened last."""
        self._open.pop()

    def checkpoint(self) -> None:
        """Save all open stages if it is time."""
        if not self.due():
            return
        running = {}
        for stage, within in zip(self._open, [*self._open[1:], None], strict=True):
            if stage.state is not None:
                names = Counter(stage.names)
                if within is not None:  # it will be opened again
                    names[within.name] -= 1
                running[stage.path] = self.saved(stage.state(), names)
        self.save(running)


_KEEPER: ContextVar[Keeper | None] = ContextVar("keeper", default=None)


@contextmanager
def keeping(keeper: Keeper) -> Generator[None]:
    """Let a keeper be in force."""
    token = _KEEPER.set(keeper)
    try:
        yield
    finally:
        _KEEPER.reset(token)


@contextmanager
def stage(name: str, state: Callable[[], State] | None = None) -> Generator[dict[str, Tensor] | None]:
    """Open a stage for a loop.

    Args:
        name: of the loop; stages of one name under the same stage are told apart by their order.
        state: tells at any checkpoint, also one of a stage within, from where the loop has to go on; None for a piece of
            work that has no state of its own and only keeps the stages within apart from others.

    Yields:
        The state to go on from, with integers as tensors without dimensions; None to begin at the beginning. Who is
        given a state must send no row through a model that had been sent before it was saved.
    """
    keeper = _KEEPER.get()
    if keeper is None:
        yield None
        return
    saved = keeper.opened(name, state)
    try:
        yield saved
    finally:
        keeper.closed()


def checkpoint() -> None:
    """Say that the states of all open stages are whole now; they are saved if it is time."""
    keeper = _KEEPER.get()
    if keeper is not None:
        keeper.checkpoint()


def recall(name: str) -> tuple[str, dict[str, Tensor] | None]:
    """Return a place of its own for a piece of work, and the result that an earlier process remembered there, if any.

    Ask in the same order in every process: pieces of one name are told apart by it.
    """
    keeper = _KEEPER.get()
    if keeper is None:
        return name, None
    place = f"{keeper.path(name)}/{DONE}"
    saved = keeper.take(place)
    return place, None if saved is None else saved.state


def remember(place: str, result: Callable[[], State]) -> None:
    """Remember the result of a piece of work that is over; its tensors may not change any more."""
    keeper = _KEEPER.get()
    if keeper is not None:
        keeper.keep(place, keeper.saved(result()))


def tensors(thing: Any, *without: str) -> dict[str, Tensor]:
    """Return the fields of a dataclass that hold tensors, save those named.

    Example:
        >>> tensors(Saved({}, 0, 0))
        {}
    """
    found = {item.name: getattr(thing, item.name) for item in fields(thing) if item.name not in without}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def named(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with a prefix before each name, to put it beside others; :func:`under` takes it off."""
    return {f"{prefix}.{name}": value for name, value in state.items()}


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what stands under a prefix, without it.

    Example:
        >>> under("a", named("a", {"b": torch.tensor(1)}))
        {'b': tensor(1)}
    """
    return {name[len(prefix) + 1 :]: value for name, value in state.items() if name.startswith(f"{prefix}.")}
