"""``robustscope verify``: recompute a run's claims from its evidence."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from robustscope.cli.common import Json, Run, Whole, emit, out
from robustscope.core.errors import InvalidValue


def command(
    run: Run,
    /,
    *,
    show: Annotated[Whole, Parameter(help="Failing rows to print, at most.")] = 20,
    shifts: Annotated[Whole, Parameter(help="Samples of each shift whose pictures are made and judged again.")] = 16,
    json: Json = False,
) -> int:
    """Recompute every claim of a run from models, data and stored examples; exit code 1 if one does not hold.

    Of shifts the pictures of some samples are made again, in every corruption and severity.
    """
    from robustscope.runs.evidence import verify_run

    if show < 0:
        raise InvalidValue(f"--show={show} was given", "0 or more is allowed", "Write e.g. --show 100.")
    if shifts < 0:
        raise InvalidValue(f"--shifts={shifts} was given", "0 or more is allowed", "Write e.g. --shifts 100.")
    check = verify_run(run, shift_samples=shifts)
    if json:
        emit(
            {
                "plan_id": check.plan_id,
                "claims": check.claims,
                "confirmed": check.confirmed,
                "marginal": check.marginal,
                "hold_alone": check.hold_alone,
                "survive_8bit": check.survive_8bit,
                "certificates": check.certificates,
                "shifted": check.shifted,
                "left_out": list(check.left_out),
                "failures": check.failures.to_dict("records"),
            }
        )
    else:
        out.print(f"run {check.plan_id}: {check.confirmed} of {check.claims} claims confirmed")
        if check.claims:
            out.print(
                f"{check.hold_alone} of the examples hold at batch size 1, {check.survive_8bit} survive rounding to 8 bits"
            )
        if check.certificates:
            out.print(f"{check.certificates} samples that it certifies were certified anew")
        if check.shifted:
            out.print(f"{check.shifted} rows of shifts were made and judged anew")
        for reason in check.left_out:
            out.print(f"not made anew: {reason}", markup=False)
        if check.marginal:
            out.print(f"{check.marginal} of them hang on logits that tie to within rounding")
        for row in check.failures.head(show).to_dict("records"):
            out.print("shard {shard} cell {cell} sample {sample}: {problem}".format_map(row), markup=False)
        if len(check.failures) > show:
            out.print(f"... and {len(check.failures) - show} more (see --show, --json)")
    return 1 if len(check.failures) else 0
