"""Measure how long CLEVER takes beside the Adversarial Robustness Toolbox, at equal gradients and equal score.

Both estimate the untargeted radius of the same images on the same frozen network, in one process, one after the other,
repeats interleaved, the fastest of each kept. ART samples a pool of points for each other class and takes the gradients of
two logits at each; ours samples points once and takes the gradient of each margin. Two comparisons are made:

- margins: as many gradients of margins, so ART sends twice as many rows backward.
- rows: as many rows sent backward, so ours looks at twice as many points.

"Bare" is what the gradients alone cost ART: the same rows through plain autograd, in batches as small as ART sends them,
with nothing before or after. What is beyond it is ART's own.

See clever.md in this folder for how to run it and what was measured.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from speed import Clock, Normalise, _revision, _version

from robustscope.core.types import Estimate
from robustscope.data.datasets import load_data
from robustscope.estimates.compose import estimate
from robustscope.models.classifier import Classifier
from robustscope.models.loading import load_model

NORMS = {"linf": np.inf, "l2": 2, "l1": 1}
COLUMNS = [
    "date", "revision", "torch", "art", "threads", "clock", "network", "threat", "samples", "comparison", "points",
    "rows_ours", "rows_art", "seconds_ours", "seconds_art", "seconds_bare", "ratio", "score_ours", "score_art", "score_ratio",
    "score_spread",
]  # fmt: skip


class Counted(nn.Module):
    """Normalisation and network, with the rows that pass."""

    def __init__(self, door: Classifier) -> None:
        super().__init__()
        self.inner = nn.Sequential(Normalise(door.mean or (0.0,), door.std or (1.0,)), door.module)
        self.forward_rows = self.backward_rows = 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K)."""
        self.forward_rows += len(x)
        logits = self.inner(x)
        if logits.requires_grad:
            logits.register_hook(self._went_back)
        return logits

    def _went_back(self, gradient: Tensor) -> None:
        self.backward_rows += len(gradient)


def ours(door: Classifier, x: Tensor, y: Tensor, threat: str, batches: int, points: int, seed: int) -> Estimate:
    """Estimate with the default fit."""
    return estimate("clever", door, x, y, threat, seed=seed, batches=batches, points=points)


def theirs(network: nn.Module, x: Tensor, threat: str, classes: int, options: dict[str, int], seed: int) -> list[float]:
    """Return the scores of ART's ``clever_u``, which takes one image at a time."""
    from art.estimators.classification import PyTorchClassifier
    from art.metrics import clever_u

    norm, _, radius = threat.partition(":")
    np.random.seed(seed)  # noqa: NPY002
    wrapped = PyTorchClassifier(
        network, loss=nn.CrossEntropyLoss(), input_shape=tuple(x.shape[1:]), nb_classes=classes, clip_values=(0.0, 1.0),
        device_type="cpu",
    )  # fmt: skip
    return [
        float(clever_u(wrapped, one, radius=float(radius), norm=NORMS[norm], verbose=False, **options))
        for one in x.numpy()
    ]


def bare(network: nn.Module, x: Tensor, calls: int, size: int) -> None:
    """Send as many rows as ART through plain autograd: for each class but one, two logits of each of ``calls`` batches."""
    points = (x[:1] + 0.01 * torch.rand(size, *x.shape[1:])).clamp(0, 1)
    for _ in range(len(x) * calls):
        leaf = points.detach().requires_grad_(True)
        torch.autograd.grad(network(leaf)[:, 0].sum(), leaf)


def correct_images(door: Classifier, data: str, samples: int) -> tuple[Tensor, Tensor]:
    """Return images that the network classifies correctly, spread evenly over the data set."""
    source = load_data(data)
    rows = np.linspace(0, len(source) - 1, 2 * samples).astype(int).tolist()
    x, y = source.read(rows), torch.as_tensor(np.asarray(source.labels)[rows])
    keep = (door.logits(x).argmax(1) == y).nonzero()[:samples, 0]
    return x[keep], y[keep]


def compare(text: str, args: argparse.Namespace, clock: Clock) -> list[dict[str, Any]]:
    """Measure one network, given as MODEL@DATA@THREAT."""
    name, data, threat = text.split("@")
    found = load_model(name, device="cpu").classifier
    found.module.requires_grad_(False)
    x, y = correct_images(found, data, args.samples)
    classes = found.classes(x)
    pool = args.pool_factor * args.batch_size
    network = Counted(found)
    doors = [Classifier(found.module, mean=found.mean, std=found.std, batch_size=args.rows) for _ in range(2)]
    options = {"nb_batches": args.batches, "batch_size": args.batch_size, "pool_factor": args.pool_factor}
    points = {"margins": max(1, pool // args.batches), "rows": max(1, 2 * pool // args.batches)}
    runs: dict[Any, Any] = {
        "margins": lambda: ours(doors[0], x, y, threat, args.batches, points["margins"], 0),
        "rows": lambda: ours(doors[1], x, y, threat, args.batches, points["rows"], 0),
        "art": lambda: theirs(network, x, threat, classes, options, 0),
        "bare": lambda: bare(network.inner, x, 2 * (classes - 1) * args.batch_size, args.pool_factor),
    }
    ours(doors[0], x[:1], y[:1], threat, 10, 2, 1)  # imports
    doors[0].ledger.reset()
    times = clock.best(runs, args.repeats)
    seconds, scores = times["art"]
    rows = []
    for (comparison, count), door in zip(points.items(), doors):
        own_seconds, own = times[comparison]
        radius = own.radius.tolist()
        ratios = [a / b for a, b in zip(radius, scores)]
        rows.append(
            {
                "network": name,
                "threat": threat,
                "samples": len(x),
                "comparison": comparison,
                "points": args.batches * count,
                "rows_ours": door.ledger.backward // args.repeats // len(x),
                "rows_art": network.backward_rows // args.repeats // len(x),
                "seconds_ours": round(own_seconds / len(x), 4),
                "seconds_art": round(seconds / len(x), 4),
                "seconds_bare": round(times["bare"][0] / len(x), 4),
                "ratio": round(seconds / own_seconds, 1),
                "score_ours": round(statistics.mean(radius), 5),
                "score_art": round(statistics.mean(scores), 5),
                "score_ratio": round(statistics.median(ratios), 4),
                "score_spread": f"{min(ratios):.3f}-{max(ratios):.3f}",
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Run all networks and print a line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["bundled:digits_standard@digits@l2:2"])
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--batches", type=int, default=50, help="maxima that are fitted")
    parser.add_argument(
        "--batch-size", type=int, default=100, help="of ART: points behind a maximum, and gradient calls"
    )
    parser.add_argument("--pool-factor", type=int, default=10, help="of ART: points of one gradient call")
    parser.add_argument("--rows", type=int, default=256, help="most rows that ours sends at once")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--history", type=Path, help="append all rows to this file")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    clock = Clock("cpu", "cpu")
    about = {
        "date": np.datetime64("today").astype(str),
        "revision": _revision(),
        "torch": torch.__version__,
        "art": _version("adversarial-robustness-toolbox"),
        "threads": args.threads,
        "clock": "cpu",
    }
    for text in args.networks:
        for row in compare(text, args, clock):
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            if args.history:
                append(args.history, about | row)


def append(path: Path, row: dict[str, Any]) -> None:
    """Append a row to a table, with a heading if it is new."""
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if fresh:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
