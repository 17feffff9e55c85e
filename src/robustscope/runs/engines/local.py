"""The local engine: run the missing shards here, in this process or in several, beside any other worker.

A worker claims a shard by an advisory lock on ``shards/NNNNN.lock``. The system releases the lock when a process ends,
however it ends, so a killed worker leaves nothing to clean up, and workers of several machines that share a file
system may work on one run folder.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from robustscope.core.errors import InvalidValue, StoreError
from robustscope.core.threads import torch_threads
from robustscope.runs.config import config_from_dict
from robustscope.runs.execute import check_subjects, run_shard
from robustscope.runs.plan import Subjects, load_subjects
from robustscope.runs.store import missing_shards, read_plan, shard_path

Report = Callable[[int, int], None]
Task = TypeVar("Task")
Done = TypeVar("Done")


@contextmanager
def claim(run: Path, index: int) -> Generator[bool]:
    """Try to lock a shard; yields whether this process has it."""
    path = shard_path(run, index).with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
    except OSError as error:
        raise StoreError(
            f"{path} could not be opened ({error.strerror})", "a writable run folder is allowed", "Check permissions."
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        # A lock taken on a file that its former owner has just deleted guards nothing.
        fresh = path.exists() and os.fstat(handle.fileno()).st_ino == path.stat().st_ino
        try:
            yield fresh
        finally:
            if fresh:
                with suppress(OSError):
                    path.unlink(missing_ok=True)


def part(indices: Sequence[int], share: str | None) -> list[int]:
    """Return the shards of share "i/n" (i from 1): every n-th shard.

    Raises:
        InvalidValue: if the text has another form.

    Example:
        >>> part([0, 1, 2, 3, 4], "2/2")
        [1, 3]
    """
    if share is None:
        return list(indices)
    number, separator, total = share.partition("/")
    if not (separator and number.isdigit() and total.isdigit() and 1 <= int(number) <= int(total)):
        raise InvalidValue(
            f"the share {share!r} was given", "i/n with 1 <= i <= n is allowed", "Write e.g. 1/4 for the first of four."
        )
    return [index for index in indices if index % int(total) == int(number) - 1]


def run_here(plan: Mapping[str, Any], run: Path, subjects: Subjects, wanted: Sequence[int], report: Report) -> None:
    """Run shards in this process, leaving out those that are stored or claimed by another worker."""
    with torch_threads(plan["threads"]):
        for index in wanted:
            _run_one(plan, run, subjects, index)
            report(index, len(plan["shards"][index]["ids"]))


def _run_one(plan: Mapping[str, Any], run: Path, subjects: Subjects, index: int) -> None:
    if shard_path(run, index).is_file():
        return
    with claim(run, index) as mine:
        if mine and not shard_path(run, index).is_file():
            run_shard(plan, index, subjects, run)


_worker: dict[str, Any] = {}


def end_with(parent: int) -> None:
    """End this worker process when its parent is gone."""

    def watch() -> None:
        pause = threading.Event()
        while os.getppid() == parent:
            pause.wait(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start_worker(run: str, parent: int) -> None:
    """Load the plan's subjects once in a worker process; end the worker when its parent is gone."""
    end_with(parent)
    plan = read_plan(run)
    config = config_from_dict(plan["request"])
    torch.set_num_threads(plan["threads"])
    subjects = load_subjects(config.models, config.data, config.settings)
    check_subjects(plan, subjects)
    _worker.update(plan=plan, run=Path(run), subjects=subjects)


def _work(index: int) -> int:
    _run_one(_worker["plan"], _worker["run"], _worker["subjects"], index)
    return index


def in_processes(
    work: Callable[[Task], Done],
    tasks: Sequence[Task],
    workers: int,
    start: Callable[..., None],
    facts: tuple[Any, ...],
    left: Callable[[], str] = str,
) -> Generator[Done]:
    """Do tasks in fresh processes; yield what each returns, as they come.

    Args:
        work: of a module, called in the processes.
        tasks: what each call of ``work`` is given.
        workers: processes, at most as many as tasks.
        start: called once in each process with ``facts`` and the id of this process, to end with it: :func:`end_with`.
        facts: plain data.
        left: asked for what is to be added to the message when a worker has died.

    Raises:
        StoreError: if a worker died; what the others stored is kept.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(max(1, min(workers, len(tasks))), context, start, (*facts, os.getpid()))
    try:
        for future in as_completed([pool.submit(work, task) for task in tasks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise StoreError(
            f"a worker process ended unexpectedly{left()}",
            "workers that live are allowed",
            "Memory may have run out: use fewer workers, or a smaller batch_size where there is one, and give the same "
            "command again; nothing stored is lost.",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_in_processes(plan: Mapping[str, Any], run: Path, wanted: Sequence[int], workers: int, report: Report) -> None:
    """Run shards in ``workers`` fresh processes, each with the plan's number of threads.

    Raises:
        StoreError: if a worker died; stored shards are kept.
    """

    def missing() -> str:
        return f"; {len(missing_shards(run, plan))} shards are still missing"

    for index in in_processes(_work, wanted, workers, _start_worker, (str(run),), missing):
        report(index, len(plan["shards"][index]["ids"]))
