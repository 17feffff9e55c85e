"""How far a shard has come, kept in its run folder until the shard is stored.

``partial/NNNNN/state.safetensors`` holds the state of the loops that were running, ``partial/NNNNN/done-….safetensors``
one finished attack each. Every file says in its header which plan, shard, versions and device it belongs to, and carries
a hash over all of it. A file that is damaged, or of another plan or other software, is not used; the record says so.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from robustscope.core.errors import StoreError
from robustscope.core.files import write_atomically
from robustscope.core.resume import Keeper, Saved
from robustscope.core.types import Ledger

FORMAT = 2
EVERY = 30.0
"""Seconds from one save to the next: what a killed run may have to repeat."""
LEISURE = 20.0
"""Seconds of work for each second that saving took, at least."""
SEPARATOR = "::"


class PartialWarning(UserWarning):
    """Saved progress could not be used, or progress not be saved; the run does the work again, or goes on without."""


def partial_folder(run: Path, shard: int) -> Path:
    """Return where the progress of a shard is kept."""
    return run / "partial" / f"{shard:05d}"


class Partial(Keeper):
    """Keeps the progress of one shard in the run folder.

    Args:
        run: run folder.
        plan: the plan; its id must be that of a file for the file to be used.
        shard: index of the shard.
        ledger: of the model, just set to zero.
        circumstances: versions and device, which can change the last bits of a result: they must be the same too.
        device: where tensors are put that are taken up.
    """

    def __init__(
        self,
        run: Path,
        plan: Mapping[str, Any],
        shard: int,
        ledger: Ledger,
        circumstances: Mapping[str, str],
        device: str = "cpu",
    ) -> None:
        self.folder = partial_folder(run, shard)
        self._head = {"format": FORMAT, "plan": plan["id"], "shard": shard, **circumstances}
        self.earlier = 0.0
        self._began = self._last = time.monotonic()
        self._pause = EVERY
        self._waiting: list[tuple[str, Saved]] = []
        self._stored = 0
        super().__init__(ledger, self._read(device))

    def due(self) -> bool:
        """Tell whether the pause since the last save is over."""
        return time.monotonic() - self._last >= self._pause

    def keep(self, path: str, done: Saved) -> None:
        """Hold a finished attack until the next save."""
        self._waiting.append((path, done))

    def save(self, running: Mapping[str, Saved]) -> None:
        """Write the attacks finished since the last save, then the state of what is running."""
        began = time.monotonic()
        try:
            while self._waiting:
                path, done = self._waiting[0]
                self._write(f"done-{self._stored:05d}", {path: done})
                self._stored += 1
                self._waiting.pop(0)
            self._write("state", running)
            self._pause = max(EVERY, LEISURE * (time.monotonic() - began))
        except StoreError as error:  # a lost safety net is no reason to stop; a full disk will stop the shard itself
            warnings.warn(f"progress is not saved any more: {error}", PartialWarning, stacklevel=2)
            self._pause = float("inf")
        self._last = time.monotonic()

    def remove(self) -> None:
        """Forget the progress; the shard is stored."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            self.folder.parent.rmdir()

    def _write(self, name: str, states: Mapping[str, Saved]) -> None:
        tensors, layouts, rows = {}, {}, {}
        for path, saved in states.items():
            rows[path] = [saved.forward, saved.backward, dict(saved.names)]
            for key, value in saved.state.items():
                flat, order = packed(value)
                tensors[f"{path}{SEPARATOR}{key}"] = flat
                if order is not None:
                    layouts[f"{path}{SEPARATOR}{key}"] = order
        seconds = self.earlier + time.monotonic() - self._began
        head = json.dumps({**self._head, "seconds": seconds, "rows": rows, "layouts": layouts}, sort_keys=True)
        raw = save(tensors, {"head": head, "sha256": digest(head, tensors)})
        write_atomically(self.folder / f"{name}.safetensors", lambda part: part.write_bytes(raw))

    def _read(self, device: str) -> dict[str, Saved]:
        """Return everything that was saved and can be used: path -> state."""
        found: dict[str, Saved] = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            head: dict[str, Any] = {}
            tensors: dict[str, Tensor] = {}
            try:
                head, tensors = read_partial(file)
                others = [key for key, value in self._head.items() if head[key] != value]
                problem = f"it belongs to another {others[0]}" if others else ""
            except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
                problem = f"it is damaged ({(str(error).splitlines() or [type(error).__name__])[0][:120]})"
            if problem:
                message = f"the saved progress {file.parent.name}/{file.name} was not used: {problem}; its work was done again"
                warnings.warn(message, PartialWarning, stacklevel=2)
                continue
            if file.stem.startswith("done-"):
                self._stored = max(self._stored, int(file.stem.removeprefix("done-")) + 1)
            self.earlier = max(self.earlier, head["seconds"])
            for path, (forward, backward, names) in head["rows"].items():
                start = f"{path}{SEPARATOR}"
                state = {
                    key.removeprefix(start): unpacked(value, head["layouts"].get(key)).to(device)
                    for key, value in tensors.items()
                    if key.startswith(start)
                }
                found[path] = Saved(state, forward, backward, names)
        return found


def packed(value: Tensor) -> tuple[Tensor, list[int] | None]:
    """Return a tensor as it can be stored, on the CPU, and the order of its dimensions in memory if it is unusual.

    The order is kept because it can decide which kernel runs, and so the last bits of a result.
    """
    value = value.detach().cpu()
    if value.is_contiguous():
        return value.clone(), None  # stored tensors may not share memory
    strides = value.stride()
    order = sorted(range(value.dim()), key=lambda i: (-strides[i], i))
    if not value.permute(order).is_contiguous():  # one that holes or repeats: its layout cannot be kept
        return value.contiguous(), None
    return value.permute(order).contiguous(), order


def unpacked(value: Tensor, order: list[int] | None) -> Tensor:
    """Return a tensor whose dimensions lie in memory as they did before :func:`packed`."""
    if order is None:
        return value
    return value.permute([order.index(i) for i in range(len(order))])


def digest(head: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the sha-256 over a header and all tensors."""
    sha = hashlib.sha256(head.encode())
    for name in sorted(tensors):
        value = tensors[name]
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return sha.hexdigest()


def read_partial(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return header and tensors of a file of saved progress.

    Raises:
        OSError, SafetensorError, ValueError, KeyError, TypeError: if it is not whole.
    """
    raw = file.read_bytes()
    tensors = load(raw)
    length = int.from_bytes(raw[:8], "little")
    told = json.loads(raw[8 : 8 + length])["__metadata__"]
    if digest(told["head"], tensors) != told["sha256"]:
        raise ValueError("its sha-256 is another")
    return json.loads(told["head"]), tensors
