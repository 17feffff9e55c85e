"""Small runs for the tests of the record: a bundled network on digits, cut into many shards."""

import multiprocessing
import os
import resource
from pathlib import Path

import pandas as pd

from robustscope.runs.config import AttackSpec, Config, ModelSpec, Settings, config_from_dict
from robustscope.runs.plan import load_subjects, make_plan
from robustscope.runs.session import carry_out, start
from robustscope.runs.store import evidence_digest, missing_shards, read_plan, read_table


def config(samples="0:96", shard_size=4, **changes) -> Config:
    return Config(
        models=(ModelSpec("bundled:digits_standard", name="standard"),),
        data="digits",
        threats=("linf:0.1",),
        attacks=(AttackSpec("noise_uniform"), AttackSpec("fgsm"), AttackSpec("pgd", {"steps": 15})),
        settings=Settings(samples=samples, shard_size=shard_size, curve=(0.5,), **{"trust": "off", **changes}),
    )


def planned(folder: Path, **options) -> Path:
    """Write the plan of a small run into ``folder``."""
    start(make_plan(config(**options)), folder)
    return folder


def finished(folder: Path, **options) -> Path:
    """Run a small run to its end, undisturbed."""
    carry_out(planned(folder, **options))
    return folder


def assert_same_run(first: Path, second: Path) -> None:
    """The same plan, the same rows in every column, the same bytes of evidence."""
    assert read_plan(first)["id"] == read_plan(second)["id"]
    pd.testing.assert_frame_equal(read_table(first), read_table(second), check_exact=True)
    for shard in read_plan(first)["shards"]:
        assert evidence_digest(first, shard["index"]) == evidence_digest(second, shard["index"])


def in_process(target, *arguments):
    """Start ``target(ready, ...)`` in a process that has imported everything; return it and the event it sets."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["robustscope.api", "runs.harness"])
    ready = context.Event()
    process = context.Process(target=target, args=(ready, *arguments))
    process.start()
    return process, ready


def carry_out_quietly(ready, run: Path, file_limit=None) -> None:
    """Carry out a run; exit with code 3 on one of our own errors."""
    from robustscope.core.errors import RobustscopeError

    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    config_ = config_from_dict(read_plan(run)["request"])
    subjects = load_subjects(config_.models, config_.data, config_.settings)
    ready.set()
    try:
        carry_out(run, subjects=subjects)
    except RobustscopeError as error:
        (run.parent / "error.txt").write_text(str(error))
        os._exit(3)


def carry_out_keenly(ready, run: Path) -> None:
    """Carry out a run that saves its progress at every checkpoint."""
    from robustscope.runs import partial

    partial.EVERY = partial.LEISURE = 0.0
    carry_out_quietly(ready, run)


def killed(run: Path, more: int, pause: float) -> int:
    """Let a process carry out a run and kill it ``pause`` seconds after it has stored so many more shards; return what is missing."""
    plan = read_plan(run)
    before = len(missing_shards(run, plan))
    worker, ready = in_process(carry_out_quietly, run)
    ready.wait(60)
    while worker.is_alive() and before - len(missing_shards(run, plan)) < more:
        worker.join(0.001)
    worker.join(pause)
    worker.kill()
    worker.join()
    return len(missing_shards(run, plan))
