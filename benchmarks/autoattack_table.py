"""Print the table of what autoattack_parity.py measured, as Markdown.

    python benchmarks/autoattack_table.py OUT > benchmarks/autoattack_parity.md

A row is a model and threat model. Only images that every tool of the row has seen are counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pandas as pd

CASE = ["model", "images", "norm", "epsilon", "seed"]
HEAD = (
    "model | threat | n | clean | reference | `standard` | audited's search | reference F + B | `standard` F + B | "
    "search F + B | reference / search F | B"
)


def radius(epsilon: float) -> str:
    """Write a radius as a fraction of 255 where it is one."""
    steps = Fraction(epsilon * 255).limit_denominator(4)
    return f"{steps}/255" if abs(float(steps) / 255 - epsilon) < 1e-9 and epsilon < 0.1 else f"{epsilon:g}"


def lines(verdicts: pd.DataFrame, costs: pd.DataFrame) -> Iterator[str]:
    """Yield the rows of the table, then the medians of its ratios."""
    ratios = []
    for case, group in verdicts.groupby(CASE):
        broken = group.pivot(index="sample", columns="tool", values="broken_by")
        if not {"standard", "reference"} <= set(broken.columns):
            continue
        correct = group.groupby("sample")["correct"].first()
        tools = [tool for tool in ("reference", "standard", "audited") if tool in broken.columns]
        seen = group.groupby("sample")["tool"].nunique() == len(tools)
        chunks = group[group["sample"].isin(seen[seen].index)].groupby("tool")["chunk"].unique()
        robust = {tool: int(((broken[tool] == "") & (correct == 1))[seen].sum()) for tool in tools}
        spent = {}
        for tool in tools:
            of_tool = (costs[CASE] == list(case)).all(axis=1) & (costs["tool"] == tool)
            rows = costs[of_tool & costs["chunk"].isin(chunks[tool])][["forward", "backward"]].sum()
            spent[tool] = (int(rows["forward"]), int(rows["backward"]))
        n = int(seen.sum())
        share = {tool: f"{100 * robust[tool] / n:.1f} ({robust[tool]})" for tool in tools}
        each = {tool: f"{spent[tool][0] / n:.0f} + {spent[tool][1] / n:.0f}" for tool in tools}
        ratio = ["", ""]
        if "audited" in tools:
            values = [spent["reference"][i] / max(spent["audited"][i], 1) for i in range(2)]
            ratios.append(values)
            ratio = [f"{value:.0f}" for value in values]
        cells = [case[0], f"{case[2]} {radius(case[3])}", n, int((correct[seen] == 1).sum())]
        cells += [share.get(tool, "") for tool in ("reference", "standard", "audited")]
        cells += [each.get(tool, "") for tool in ("reference", "standard", "audited")]
        yield " | ".join(map(str, cells + ratio))
    if ratios:
        median = pd.DataFrame(ratios).median()
        yield " | ".join(["median", *[""] * 9, f"{median[0]:.0f}", f"{median[1]:.0f}"])


def main() -> None:
    out = Path(sys.argv[1])
    verdicts = pd.read_csv(out / "verdicts.csv", keep_default_na=False)
    verdicts = verdicts.drop_duplicates([*CASE, "tool", "sample"], keep="last")
    costs = pd.read_csv(out / "costs.csv").drop_duplicates([*CASE, "tool", "chunk", "attack"], keep="last")
    rows = list(lines(verdicts, costs))
    print(f"| {HEAD} |\n|{'---|' * (HEAD.count('|') + 1)}")
    print("\n".join(f"| {row} |" for row in rows))


if __name__ == "__main__":
    main()
