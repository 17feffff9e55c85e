"""``robustscope run``: carry out or resume a planned run."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from robustscope.cli.common import Bar, Json, Quiet, Run, Workers, emit, out, worker_count
from robustscope.cli.evaluate_command import present


def command(
    run: Run,
    /,
    *,
    shard: Annotated[str | None, Parameter(help="i/n runs every n-th shard only, for job arrays.")] = None,
    workers: Workers = None,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Carry out the shards that are missing in a run folder, then write the report.

    Safe to call after any interruption, and from several machines at once on a shared file system.
    """
    from robustscope.runs.session import carry_out
    from robustscope.runs.store import missing_shards, read_plan

    plan = read_plan(run)
    with Bar(quiet or json) as bar:
        finished = carry_out(run, workers=worker_count(workers, plan), share=shard, watcher=bar)
    if finished:
        return present(run, json=json)
    left = len(missing_shards(run, plan))
    if json:
        emit({"plan_id": plan["id"], "complete": False, "missing_shards": left})
    else:
        out.print(f"this share is done; {left} shard(s) of the run are still missing")
    return 0
