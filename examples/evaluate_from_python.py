"""Evaluate networks that are in memory, on tensors that are in memory, and look into the table behind the numbers.

    python examples/evaluate_from_python.py [RUN_FOLDER]

The two networks differ in one thing, which the evaluation does not see as a difference: the second takes its inputs
standardised, and the ``Classifier`` around it does that, so that epsilon means the same for both.
"""

from __future__ import annotations

import sys

import pandas as pd
import torch
from torch import nn

import robustscope

MEAN, STD = 0.3, 0.4
THREATS = ("linf:0.1", "l2:0.5")


class Restored(nn.Module):
    """Stands for a network that was trained on standardised inputs: undoes the standardisation, then goes on."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map standardised inputs (B, *S) to logits (B, K)."""
        return self.network(x * STD + MEAN)


def main(out: str | None = None, samples: str = "200") -> robustscope.Evaluation:
    """Evaluate, print the accuracies and which attack broke how many samples, and write the report."""
    network = robustscope.load_model("bundled:digits_adversarial").classifier.module
    data = robustscope.load_data("digits")
    x, y = data.read(range(len(data))), torch.as_tensor(data.labels)
    models = {
        "plain": robustscope.Classifier(network),
        "standardised": robustscope.Classifier(Restored(network).eval(), mean=(MEAN,), std=(STD,)),
    }
    result = robustscope.evaluate(models, (x, y), THREATS, samples=samples, suite="fast", threads=1, out=out)
    print(result)

    cells = pd.DataFrame(result.plan["cells"])[["index", "model", "norm", "attack"]]
    table = result.table.merge(cells, left_on="cell", right_on="index")
    broken = table[table["success"].fillna(False)]
    print("samples broken first by each attack, radii ascending:")
    print(broken.groupby(["model", "norm", "attack"]).size().to_string())
    print("report:", result.report())
    return result


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
