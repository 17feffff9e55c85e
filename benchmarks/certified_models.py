"""Certified, robust and clean accuracy of every shared model, and whether an attack breaks what is certified.

    OMP_NUM_THREADS=1 python benchmarks/certified_models.py OUT.csv --shared ../shared --n 10
    python benchmarks/certified_models.py OUT.csv --table

Each model at the radius at which its card was checked by PGD, and at a quarter of it, where more can be certified. Every
registered attack on linf balls runs on all correctly classified images, each on those that none before has broken, with
the hyper-parameters of its contract checks, except those that send more than ``--rows`` rows for an image. One line for
each image; an image that is certified by any method and broken by any attack ends the run. Models whose lines are in
OUT.csv are not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import torch
from certified_parity import images
from torch import Tensor

from robustscope.attacks.cards import ATTACKS
from robustscope.attacks.compose import Attempt, cascade
from robustscope.certify import certify
from robustscope.certify.graph import trace
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue, RobustscopeError
from robustscope.core.types import ThreatModel
from robustscope.models.classifier import Classifier
from robustscope.models.loading import load_model

METHODS: dict[str, dict[str, Any]] = {
    "ibp": {},
    "deepz": {"most_terms": 4000, "timeout": 30.0},
    "crown": {"most_forms": 8000, "timeout": 30.0},
    "alpha_crown": {"most_forms": 8000, "hidden_steps": 0, "timeout": 30.0},
    "milp": {"sample_timeout": 5.0, "binaries": 300, "timeout": 30.0},
}
SMALL = 3000
"""Most values of a network that is given to the exact verifier."""

FIELDS = ["model", "epsilon", "sample", "y", "correct", *METHODS, "broken_by", "seconds"]


def radius_of(path: Path) -> float:
    """Return the radius of a card's PGD check; one card has none."""
    measured = json.loads(path.read_text())["measured"].get("pgd_sanity", [])
    return measured[0]["epsilon"] if measured else 2 / 255


def attempts(threat: ThreatModel, most: int) -> list[Attempt]:
    """Return the registered untargeted attacks on the ball that need no files nor more rows, the cheapest first."""
    cards = [c for c in ATTACKS if threat.norm in c.norms and "untargeted" in c.goals and c.equip is None]
    rows = {card.name: sum(card.cost(card.resolve(card.quick))) for card in cards}
    cards.sort(key=lambda card: rows[card.name])
    return [Attempt(card.name, threat, dict(card.quick)) for card in cards if rows[card.name] <= most]


def statuses(model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel, size: int) -> dict[str, tuple[str, ...]]:
    """Return what each method says of each image; "-" where it was not asked."""
    told: dict[str, tuple[str, ...]] = {}
    for method, budget in METHODS.items():
        if method == "milp" and size > SMALL:
            told[method] = ("-",) * len(x)
            continue
        told[method] = certify(method, model, x, y, threat, **budget).status
    return told


def run(path: Path, shared: Path, count: int, most: int, writer: Any) -> None:
    """Certify and attack images on one model at two radii, and write a line for each."""
    model = load_model(str(path)).classifier
    kind = {"cifar": "exact", "fashi": "fashion"}.get(path.stem[:5], "mnist_spread")
    ids, x, y = images(kind, shared, count)
    try:
        graph, logits = trace(model, x)
    except InvalidValue as error:
        writer.writerow([path.stem, "", "", "", "", *["" for _ in METHODS], "", error.given])
        return
    size = sum(torch.Size(node.shape).numel() for node in graph.nodes)
    correct = logits.argmax(1) == y
    for factor in (1.0, 0.25):
        began = time.process_time()
        threat = ThreatModel("linf", factor * radius_of(path), model.bounds)
        told = statuses(model, x, y, threat, size)
        broken: dict[int, str] = {}
        tries = attempts(threat, most)
        steps = cascade(model, x, y, tries, Draws(0, tuple(ids), "models"), correct)
        for attempt, step in zip(tries, steps, strict=True):
            if step.error is not None:
                raise step.error
            if step.outcome is not None:
                broken |= dict.fromkeys(step.rows[step.outcome.verdict.success].tolist(), attempt.attack)
        seconds = (time.process_time() - began) / len(x)
        for i, sample in enumerate(ids):
            said = [told[method][i] for method in METHODS]
            if "verified" in said and i in broken:
                raise SystemExit(f"{path.stem}: image {sample} is certified at {threat} and broken by {broken[i]}")
            facts = [path.stem, f"{threat.common_epsilon:.6g}", sample, int(y[i]), int(correct[i]), *said]
            writer.writerow([*facts, broken.get(i, ""), f"{seconds:.2f}"])


def table(path: Path) -> str:
    """Return the lines of a file as a Markdown table: numbers of images, of all, of each model and radius."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    lines = [
        f"| model | epsilon | n | clean | robust | {' | '.join(METHODS)} | out of budget |",
        "|---" * (6 + len(METHODS)) + "|",
    ]
    for key in dict.fromkeys((row["model"], row["epsilon"]) for row in rows):
        own = [row for row in rows if (row["model"], row["epsilon"]) == key]
        if not key[1]:
            lines.append(f"| {key[0]} | refused: {own[0]['seconds']} |" + " |" * (4 + len(METHODS)))
            continue
        good = [row for row in own if row["correct"] == "1"]
        robust = sum(not row["broken_by"] for row in good)
        sure = ["-" if own[0][m] == "-" else str(sum(row[m] == "verified" for row in own)) for m in METHODS]
        late = sum("timeout" in [row[m] for m in METHODS] for row in good)
        lines.append(f"| {key[0]} | {key[1]} | {len(own)} | {len(good)} | {robust} | {' | '.join(sure)} | {late} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[1] / "../shared")
    parser.add_argument("--models", nargs="*", default=None)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.table:
        print(table(given.out))
        return
    fresh = not given.out.exists()
    with given.out.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(FIELDS)
        file.flush()
        done = {row["model"] for row in csv.DictReader(given.out.open())}
        for path in sorted(
            (given.shared / "models").glob("*.json"), key=lambda each: ("resnet" in each.stem, each.stem)
        ):
            if path.stem in done or (given.models and path.stem not in given.models):
                continue
            try:
                run(path, given.shared, given.n, given.rows, writer)
            except RobustscopeError as error:
                raise SystemExit(f"{path.stem}: {error}") from error
            file.flush()


if __name__ == "__main__":
    main()
