"""Several processes on one batch: each takes its part of the rows, and gradients are added up before each update.

There is no wrapper around the network. Objectives call it as often and in parts as they need (FREE updates within a batch,
YOPO goes backward through the first layer alone), which hooks of a wrapper would have to follow; adding up the gradients of
all weights once for each update is what such hooks come to.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn


def active() -> bool:
    """Tell whether several processes train together."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def world() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if active() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if active() else 0


@contextmanager
def joined(device: str) -> Generator[None]:
    """Join the processes that ``torchrun`` has started, for the length of the block; alone, do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or distributed.is_initialized():
        yield
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:  # "cuda" then means another one in each process
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def part(count: int) -> slice:
    """Return the rows of a batch of ``count`` that this process takes: parts that follow each other."""
    size, processes, mine = count, world(), rank()
    return slice(size * mine // processes, size * (mine + 1) // processes)


def add_up(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over all processes."""
    if active():
        for tensor in tensors:
            distributed.all_reduce(tensor)


def agreed(values: list[float], device: torch.device) -> list[float]:
    """Return the numbers of the first process, so that all decide alike."""
    if not active():
        return values
    shared = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.broadcast(shared, 0)
    return shared.tolist()


def add_gradients(module: nn.Module) -> None:
    """Replace the gradient of each weight by its sum over all processes; one that this process lacks counts as 0."""
    if not active():
        return
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    flat = torch.cat(
        [(weight.grad if weight.grad is not None else torch.zeros_like(weight)).flatten() for weight in weights]
    )
    distributed.all_reduce(flat)
    for weight, gradient in zip(weights, flat.split([weight.numel() for weight in weights]), strict=True):
        weight.grad = gradient.view_as(weight)


def average_statistics(module: nn.Module) -> None:
    """Replace running statistics, such as those of batch norm, by their mean over all processes."""
    if active():
        for buffer in module.buffers():
            if buffer.is_floating_point():
                distributed.all_reduce(buffer)
                buffer /= world()


def merge_changes(memory: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
    """Add the changes that all processes made to remembered tensors; each process has changed its own part only."""
    if active():
        for name, tensor in memory.items():
            start = before.get(name, torch.zeros_like(tensor))
            change = tensor - start
            distributed.all_reduce(change)
            tensor.copy_(start + change)
