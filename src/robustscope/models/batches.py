"""How rows are cut into batches: at most so many, fewer where memory runs out, and sizes that repeat."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustscope.core.errors import ModelError
from robustscope.core.types import Ledger

Work = Callable[[slice], tuple[Tensor, ...]]

FINENESS = 32
"""A batch of n rows is filled up by less than n / 32 rows: 32 sizes for each doubling, 1 percent more rows on average.

oneDNN prepares kernels for every convolution at every batch size. As samples leave an attack, nearly every step has a
new size; with sizes that repeat, a row of a small residual network took 11 percent less time, one without 0 to 8.
"""

_MESSAGES = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "ALLOC_FAILED")


@dataclass
class Batches:
    """Cuts the rows of a call; remembers how many fit.

    Args:
        most: rows that are sent at once.
        fill: whether batches are filled up to sizes that repeat.
    """

    most: int
    fill: bool = False

    @classmethod
    def of(cls, module: nn.Module, most: int) -> Batches:
        """Return how to cut for a module; only convolutions are known to gain from repeating sizes."""
        convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        return cls(most, any(isinstance(part, convolutions) for part in module.modules()))

    def filled(self, x: Tensor) -> Tensor:
        """Return ``x`` (b, *S), on a CPU with copies of its first rows behind it until its size is one that repeats.

        The rows added belong to no sample: their outputs are thrown away, and they are not counted.
        """
        if not self.fill or x.device.type != "cpu":
            return x
        spare = min(repeating(len(x)), self.most) - len(x)
        return torch.cat([x, x.detach()[:spare]]) if spare > 0 else x

    def cut(self, rows: int, work: Work, ledger: Ledger) -> tuple[Tensor, ...]:
        """Call ``work`` on slices of range(rows), in order; return what the calls returned, one behind the other.

        Nothing is returned for no rows.

        Where memory runs out the slice is halved and sent again; later calls keep to the size that fitted. The ledger
        is put back first, so that no row counts twice.

        Raises:
            ModelError: if memory runs out for a single row.
        """
        done: list[tuple[Tensor, ...]] = []
        start = 0
        while start < rows:
            part = slice(start, min(start + self.most, rows))
            forward, backward = ledger.forward, ledger.backward
            try:
                done.append(work(part))
                start = part.stop
                continue
            except Exception as error:
                if not out_of_memory(error):
                    raise
                said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            # Only here, where the error and all that its traceback holds are gone, is the memory free again.
            ledger.forward, ledger.backward = forward, backward
            self._halve(part.stop - part.start, said)
        return done[0] if len(done) == 1 else tuple(torch.cat(column) for column in zip(*done, strict=True))

    def _halve(self, tried: int, said: str) -> None:
        if tried == 1:
            raise ModelError(
                f"memory ran out for a batch of a single row ({said})",
                "a model and inputs that fit into memory are allowed",
                "Free memory, use a machine or device with more of it, or a smaller model or input.",
            )
        self.most = (tried + 1) // 2
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        warnings.warn(
            f"memory ran out for a batch of {tried} rows; batches of at most {self.most} are sent from here on",
            RuntimeWarning,
            stacklevel=4,
        )


def repeating(rows: int) -> int:
    """Return the smallest multiple of a power of two, at most ``rows`` / 32, that is no less than ``rows``.

    Example:
        >>> [repeating(n) for n in (7, 63, 65, 101, 199, 255)]
        [7, 63, 66, 102, 200, 256]
    """
    quantum = 1 << max((rows // FINENESS).bit_length() - 1, 0)
    return -(-rows // quantum) * quantum


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on a CPU or an accelerator.

    Example:
        >>> out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"))
        True
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)
