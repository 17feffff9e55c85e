"""Measure the accuracy of networks on CIFAR-10 under the fifteen corruptions of ImageNet-C, made here.

    python benchmarks/corrupted_models.py RECORDS MODEL [MODEL ...] [--samples 200]

RECORDS is a file of records of one label and 3 x 32 x 32 bytes, MODEL what ``robustscope.load_model`` takes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

import robustscope
from robustscope.core.draws import permutation
from robustscope.corruptions import corrupt
from robustscope.corruptions.suites import IMAGENET_C


def main() -> int:
    """Write one table in Markdown: percent correct, the mean over five severities."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--samples", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    records = np.fromfile(given.records, np.uint8).reshape(-1, 3073)
    records = records[sorted(permutation(0, "corrupted models", len(records))[: given.samples])]
    x, y = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32)).float() / 255, torch.from_numpy(records[:, 0]).long()
    models = [robustscope.load_model(place).classifier for place in given.models]
    found = {"clean": [[correct(model, x, y)] for model in models]}
    for name in IMAGENET_C:
        found[name] = [[] for _ in models]
        for severity in range(1, 6):
            corrupted = corrupt(name, x, severity)
            for model, accuracies in zip(models, found[name], strict=True):
                accuracies.append(correct(model, corrupted, y))
    found["mean of 15"] = [[np.mean([found[name][k] for name in IMAGENET_C])] for k in range(len(models))]
    heads = [Path(place).stem for place in given.models]
    sys.stdout.write(f"| | {' | '.join(heads)} |\n| --- |{' --: |' * len(heads)}\n")
    for name, several in found.items():
        sys.stdout.write(f"| {name} | {' | '.join(f'{100 * np.mean(one):.1f}' for one in several)} |\n")
    return 0


def correct(model: robustscope.Classifier, x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the share of samples that a model gets right."""
    return float((model.logits(x).argmax(1) == y).double().mean())


if __name__ == "__main__":
    sys.exit(main())
