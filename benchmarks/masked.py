"""Attack networks that hide their gradients: naively, by the ladder, and by the best attack known to work.

    python benchmarks/masked.py --samples 100 --norm linf --epsilon 0.1

The masks are those of ``robustscope.data.masked``, put on a bundled network for digits, so that the best attack is known:
the one on the network beside, judged by the masked one (the same network without its mask, the straight-through gradient
of a transformation, the mean over draws of noise). Where a model tells its decisions and nothing else, nobody could
attack that, so HopSkipJump stands there; what the hidden network would have given is told in the last column.

The table goes to ``--out``, masked.md beside this script by default, and is written anew after each mask.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustscope.attacks.compose import attack
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.data.datasets import load_data
from robustscope.data.masked import MASKED, masked, unmasked
from robustscope.models.classifier import Classifier
from robustscope.models.loading import load_model

HEAD = [
    "| mask | what is hidden | clean, % | PGD, % | best known, % | ladder, % | difference, pp | rows forward / backward |",
    "|---|---|---:|---:|---:|---:|---:|---:|",
]
DECISIONS = "labels"
"""The mask behind which only decisions are told."""


@dataclass
class Case:
    """Samples and threat model of one table."""

    module: nn.Module
    x: Tensor
    y: Tensor
    threat: ThreatModel

    def left(self, model: Classifier, name: str, **parameters: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return which samples are right and survive the attack, its points, and rows (B, 2) forward and backward."""
        draws = Draws(0, tuple(range(len(self.x))))
        right = (model.logits(self.x).argmax(1) == self.y).nonzero()[:, 0]
        found = attack(name, model, self.x[right], self.y[right], self.threat, draws=draws.select(right), **parameters)
        left, points = torch.zeros(len(self.x), dtype=torch.bool), self.x.clone()
        rows = torch.zeros(len(self.x), 2, dtype=torch.int64)
        left[right] = ~found.verdict.success
        points[right] = found.result.x_adv
        rows[right] = torch.stack([found.result.forward, found.result.backward], 1)
        return left, points, rows


def door(module: nn.Module) -> Classifier:
    """Return the classifier of a module."""
    return Classifier(module, allow_probabilities=True, batch_size=1000)


def transferred(case: Case, name: str, model: Classifier) -> Tensor:
    """Return which samples are right and survive Auto-PGD on the network beside, as the masked network judges it."""
    _, points, _ = case.left(door(unmasked(name, case.module)), "apgd_targeted", loss="margin")
    right = model.logits(case.x).argmax(1) == case.y
    return right & (model.logits(points).argmax(1) == case.y)


def line(case: Case, name: str) -> str:
    """Attack one masked network in all ways; return its line of the table."""
    model = door(masked(name, case.module))
    clean = model.logits(case.x).argmax(1) == case.y
    naive, _, _ = case.left(model, "pgd")
    hidden = transferred(case, name, model)
    known, note = hidden, ""
    if name == DECISIONS:
        known, _, _ = case.left(model, "hopskipjump", queries=10_000, stop_at_epsilon=True)
        note = f" (hidden network: {share(hidden):.0f})"
    ladder, _, rows = case.left(model, "ladder")
    spent = rows[ladder].double().mean(0) if ladder.any() else torch.zeros(2)
    above = share(ladder) - share(known)
    return (
        f"| {name} | {MASKED[name].says} | {share(clean):.0f} | {share(naive):.0f} | {share(known):.0f}{note} | "
        f"{share(ladder):.0f} | {above:+.0f} | {spent[0]:,.0f} / {spent[1]:,.0f} |"
    )


def share(which: Tensor) -> float:
    """Return the percentage that is true."""
    return 100 * float(which.double().mean())


def main() -> None:
    """Attack every masked network and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="digits_standard", help="bundled network to put the masks on")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--epsilon", type=float, default=0.1)
    parser.add_argument("--masks", nargs="*", default=list(MASKED))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("digits")
    ids = list(range(given.samples))
    case = Case(
        load_model(f"bundled:{given.network}").classifier.module,
        data.read(ids),
        torch.as_tensor(data.labels[ids], dtype=torch.int64),
        ThreatModel(given.norm, given.epsilon),
    )
    command = (
        f"python benchmarks/masked.py --network {given.network} --samples {given.samples} "
        f"--norm {given.norm} --epsilon {given.epsilon:g}"
    )
    if given.masks != list(MASKED):
        command += " --masks " + " ".join(given.masks)
    lines = ["```", command, "```", "", *HEAD]
    for name in given.masks:
        begin = time.perf_counter()
        lines.append(line(case, name))
        given.out.write_text("\n".join(lines) + "\n")
        sys.stderr.write(f"{lines[-1]} {time.perf_counter() - begin:.0f} s\n")


if __name__ == "__main__":
    main()
