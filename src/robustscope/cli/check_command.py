"""``robustscope check``: run the contract checks on one attack."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from robustscope.cli.common import Json, emit, out


def command(
    target: Annotated[str, Parameter(help="Name of an attack, my_module:my_attack, or path/to/file.py:my_attack.")],
    /,
    *,
    json: Json = False,
) -> int:
    """Run the contract checks on a registered attack, or on your own: my_module:my_attack.

    The module is imported from the current folder or the Python path: its code runs because you named it. Exit code 1
    if a check fails that the attack's card does not declare.
    """
    from robustscope.contracts import check

    results = check(target)
    failed = [result for result in results if not result.passed]
    if json:
        emit([vars(result) for result in results])
        return 1 if failed else 0
    for result in results:
        mark = "FAILED" if not result.passed else ("known failure" if result.expected_failure else "passed")
        out.print(f"{mark:13} {result.norm:5} {result.name}", markup=False)
        if result.message or result.expected_failure:
            out.print(f"{'':20}{result.message or result.expected_failure}", markup=False)
    out.print(f"{len(results) - len(failed)} of {len(results)} checks hold")
    return 1 if failed else 0
