"""Shifts of the data that keep its meaning, after Ding et al.: accuracy and robust accuracy, trained anew on each.

    python benchmarks/data_shifts.py            table in Markdown, on the terminal
    python benchmarks/data_shifts.py --quick    two shifts, fewer epochs

On scikit-learn's digits, smoothed, saturated or with another gamma, training and test data alike: a fully connected network trained in the
standard way, and one on PGD examples (linf 0.15, 7 steps). Both are judged on the 500 test digits of the same shift, by PGD of 40 steps
with three restarts. Epsilon stays the same. One process, one thread.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from features import digits, robust
from small_nets import mlp, train

from robustscope.core.types import ThreatModel
from robustscope.data.transforms import adjust_gamma, saturate, smooth
from robustscope.models.classifier import Classifier
from robustscope.probes.why.average_filter import room

THREAT = ThreatModel("linf", 0.15)
SHIFTS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    **{f"smoothed, {k} x {k}": lambda x, k=k: smooth(x, k) for k in (2, 3, 4)},
    **{f"saturation {p:g}": lambda x, p=p: saturate(x, p) for p in (1.0, 4.0, 16.0, math.inf)},
    **{f"gamma {g:g}": lambda x, g=g: adjust_gamma(x, g) for g in (0.5, 2.0)},
}
HEAD = "| shift | room, per value | nearest other class, l2 | standard: accuracy, % | robust, % | PGD-trained: accuracy, % | robust, % |"


def measure(shift: Callable[[Tensor], Tensor], epochs: int) -> list[str]:
    """Return the figures of a shift."""
    (x, y), (test, true) = (digits(split) for split in ("train", "test"))
    x, test = shift(x), shift(test)
    facts = room(x, y, THREAT)
    cells = [f"{math.exp(facts['log_volume']):.3f}", f"{facts['interclass_distance']:.2f}"]
    for adversary in (None, (THREAT, 7)):
        model = Classifier(train(mlp((256, 256)), x, y, epochs=epochs, adversary=adversary))
        clean = float((model.decisions(test) == true).double().mean())
        cells += [f"{100 * clean:.1f}", f"{100 * robust(model, test, true, THREAT):.1f}"]
    return cells


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print(HEAD + "\n|---|" + "---:|" * 6)
    for name in list(SHIFTS)[:2] if quick else SHIFTS:
        print(f"| {name} | " + " | ".join(measure(SHIFTS[name], 10 if quick else 40)) + " |", flush=True)


if __name__ == "__main__":
    main()
