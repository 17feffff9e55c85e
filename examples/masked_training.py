"""Does a foreground mask make a network robust, or only the attacker's space small? Half a minute on one core.

    python examples/masked_training.py

Digits lie on clutter, with known masks. Three networks are trained on PGD examples at one radius: on whole pictures, on
masked ones, and behind as many pixels at random. Each is attacked as it was trained.
"""

from __future__ import annotations

from typing import Literal

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

import robustscope
from robustscope.analyses.masks import mask_summary
from robustscope.core.draws import permutation
from robustscope.data.foreground_problems import digits_on_clutter
from robustscope.data.masks import Kind, changed
from robustscope.models.foreground import masked_rows, with_masks
from robustscope.models.layers import build
from robustscope.models.zoo import small_cnn
from robustscope.reports.masks import render_masks
from robustscope.runs.masks import evaluate_masks

EPOCHS, BATCH, RATE, EPSILON = 15, 128, 5e-3, 0.1
KINDS: tuple[Literal["none"] | Kind, ...] = ("none", "foreground", "random")


def network() -> nn.Module:
    """Return a small network, initialised from draws, so that it is the same everywhere."""
    module = build(small_cnn((1, 16, 16), 10, width=16))
    draws = robustscope.Draws(0, (0,), "init")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = (2 / parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.0
            parameter.copy_(draws.normal(name, parameter[None])[0] * scale)
    return module


def of_kind(kind: Literal["none"] | Kind, masks: torch.Tensor, draws: robustscope.Draws) -> torch.Tensor:
    return torch.ones_like(masks) if kind == "none" else changed(kind, masks, draws.within("masks"))


def train(
    kind: Literal["none"] | Kind, x: torch.Tensor, y: torch.Tensor, masks: torch.Tensor, epochs: int
) -> nn.Module:
    """Train on PGD examples; the mask comes after the perturbation, in training as in the attack."""
    module, everyone = network(), robustscope.Draws(0, tuple(range(len(x))), "train")
    carried = with_masks(x, of_kind(kind, masks, everyone))
    optimiser = torch.optim.Adam(module.parameters(), lr=RATE)
    for epoch in range(epochs):
        order = permutation(0, f"epoch/{epoch}", len(x))
        for start in range(0, len(order), BATCH):
            ids = order[start : start + BATCH]
            module.eval()
            behind, draws = masked_rows(robustscope.Classifier(module)), robustscope.Draws(epoch, tuple(ids), "train")
            options = {"steps": 7, "relative_step_size": 0.25, "draws": draws}
            found = robustscope.attack("pgd", behind, carried[ids], y[ids], f"linf:{EPSILON}", **options)
            module.train()
            pixels, shown = found.result.x_adv[:, :1], carried[ids][:, 1:] > 0.5
            loss = F.cross_entropy(module(torch.where(shown, pixels, 0.0)), y[ids])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return module.eval()


def main(epochs: int = EPOCHS, samples: int = 500) -> pd.DataFrame:
    """Train and attack the three networks, print the table, and return its rows."""
    torch.set_num_threads(1)
    train_set, (x, y, masks) = digits_on_clutter("train"), digits_on_clutter("test")
    parts = []
    for kind in KINDS:
        model = robustscope.Classifier(train(kind, *train_set, epochs))
        part = (x[:samples], y[:samples], masks[:samples])
        parts.append(evaluate_masks(model, *part, f"linf:{EPSILON}", kinds=(kind,)))
    rows = pd.concat(parts, ignore_index=True)
    print(render_masks(mask_summary(rows), f"three networks, digits on clutter, linf {EPSILON}"), end="")
    return rows


if __name__ == "__main__":
    main()
