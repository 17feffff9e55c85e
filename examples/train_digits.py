"""Train the two small networks of `robustscope demo`: one as usual, one on PGD examples. About a minute on two cores.

    python examples/train_digits.py OUT_FOLDER

writes ``digits_standard`` and ``digits_adversarial`` (.json and .safetensors) into OUT_FOLDER. The copies inside the
package were made by this very command.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import robustscope
from robustscope.core.draws import permutation
from robustscope.core.types import ThreatModel
from robustscope.models.cards import save_model
from robustscope.models.layers import build
from robustscope.models.zoo import small_cnn

EPOCHS, BATCH, PEAK_RATE, WIDTH = 40, 128, 3e-3, 16
THREAT = ThreatModel("linf", 0.15)


def initialise(module: nn.Module, seed: int) -> None:
    """He initialisation from draws, so that the same seed gives the same network everywhere."""
    draws = robustscope.Draws(seed, (0,), "init")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                scale = math.sqrt(2 / parameter[0].numel())
                parameter.copy_(draws.normal(name, parameter[None])[0] * scale)
            else:
                parameter.zero_()


def adversarial(module: nn.Module, x: torch.Tensor, y: torch.Tensor, ids: list[int], epoch: int) -> torch.Tensor:
    """PGD examples of a batch; the network attacks in evaluation mode and goes back to training."""
    module.eval()
    draws = robustscope.Draws(0, tuple(ids), f"train/{epoch}")
    model = robustscope.Classifier(module)
    found = robustscope.attack("pgd", model, x, y, THREAT, draws=draws, steps=10, relative_step_size=0.25)
    module.train()
    return found.result.x_adv


def train(module: nn.Module, robust: bool) -> None:
    """One-cycle Adam on the training split of scikit-learn's digits."""
    data = robustscope.load_data("digits#train")
    x, y = data.read(range(len(data))), torch.as_tensor(data.labels)
    per_epoch = math.ceil(len(data) / BATCH)
    optimiser = torch.optim.Adam(module.parameters(), lr=PEAK_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, total_steps=EPOCHS * per_epoch)
    module.train()
    for epoch in range(EPOCHS):
        order = permutation(0, f"epoch/{epoch}", len(data))
        for start in range(0, len(order), BATCH):
            ids = order[start : start + BATCH]
            inputs = adversarial(module, x[ids], y[ids], ids, epoch) if robust else x[ids]
            loss = F.cross_entropy(module(inputs), y[ids])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    module.eval()


def main(folder: str) -> None:
    """Train both networks and save them with their cards."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name, robust in (("digits_standard", False), ("digits_adversarial", True)):
        layers = small_cnn((1, 8, 8), 10, width=WIDTH)
        module = build(layers)
        initialise(module, seed=0)
        train(module, robust)
        test = robustscope.load_data("digits#test")
        with torch.no_grad():
            hits = module(test.read(range(len(test)))).argmax(1) == torch.as_tensor(test.labels)
        method = f"PGD adversarial training, 10 steps, linf {THREAT.epsilon}" if robust else "standard training"
        save_model(
            target / f"{name}.json",
            layers,
            module.state_dict(),
            {"shape": [1, 8, 8], "value_range": [0.0, 1.0]},
            overwrite=True,
            dataset="scikit-learn digits, training split of 1297",
            num_classes=10,
            class_names=[str(digit) for digit in range(10)],
            licence="MIT",
            training={"method": method, "command": "python examples/train_digits.py OUT_FOLDER"},
            measured={"clean_accuracy_test_500": hits.double().mean().item()},
        )
        sys.stdout.write(f"{name}: clean accuracy {hits.double().mean().item():.3f}\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".")
