"""``robustscope demo``: the main job on data and networks that ship with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from robustscope.cli.common import Bar, Json, Quiet, Workers, err, worker_count
from robustscope.cli.evaluate_command import describe, present
from robustscope.runs.config import Config, ModelSpec, Settings

DEMO = Config(
    models=(
        ModelSpec("bundled:digits_standard", name="standard"),
        ModelSpec("bundled:digits_adversarial", name="adversarially trained"),
    ),
    data="digits",
    threats=("linf:0.15",),
    settings=Settings(samples="all", suite="baseline", curve=(0.25, 0.5, 0.75, 1.5, 2.0), shard_size=125),
)


def command(
    *,
    out_: Annotated[Path, Parameter(name="--out", help="Run folder.")] = Path("demo"),
    workers: Workers = None,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Evaluate two small networks on scikit-learn's digits, one trained as usual and one on PGD examples.

    Nothing is downloaded. Run it twice: the second time it only renders the report again.
    """
    from robustscope.runs.plan import make_plan
    from robustscope.runs.session import carry_out, check_folder, start

    check_folder(out_)
    plan = make_plan(DEMO)
    count = worker_count(workers, plan)
    start(plan, out_)
    if not quiet and not json:
        err.print(f"plan {plan['id']} in {out_}: {describe(plan)}; {count} worker(s)", markup=False)
    with Bar(quiet or json) as bar:
        carry_out(out_, workers=count, watcher=bar)
    return present(out_, json=json)
