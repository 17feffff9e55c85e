"""Leave the global random generators as they were while code of others runs."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> tuple[Any, ...]:
    """Return the state of the generators of Python, NumPy, and torch on every device in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda  # noqa: NPY002


def same_random_state(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Tell whether two states of :func:`random_state` are equal."""
    arrays = all(np.array_equal(p, q) for p, q in zip(a[1], b[1], strict=True))
    cuda = len(a[3]) == len(b[3]) and all(torch.equal(p, q) for p, q in zip(a[3], b[3], strict=True))
    return a[0] == b[0] and arrays and torch.equal(a[2], b[2]) and cuda


@contextmanager
def kept_randomness() -> Generator[None]:
    """Put all global generators back to where they were, also when something raises."""
    python, numpy, cpu, cuda = random_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def seed_layers(seed: int, device: torch.device) -> None:
    """Seed the global generators that layers such as dropout draw from on a device; call it inside :func:`kept_randomness`.

    On a CPU that is one generator. ``torch.manual_seed`` also notes the seed for every kind of device that is not in use,
    with a trace of the stack each time: a fiftieth of the time of training a small network.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
