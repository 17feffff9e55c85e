"""How long a pass of adversarial training takes in this loop, beside plain torch, torchattacks and ART, on the same work.

python benchmarks/training_speed.py [--samples 512] [--epochs 20] [--data mnist:FOLDER#train]

Epochs of PGD-7 and of FAST on a small MNIST network (`cnn_a`), batches of 128, Adam, one thread, one process. The tools take turns
after each epoch, and epochs are short, so that a busy machine is equally busy for all. Rows that reach the network are counted by
a hook, so that each is judged by what it did: the figure is microseconds of the processor for each row forward and backward.
Neither what comes before the first epoch nor validation is part of it. Tools that are not installed are left out; needs an
environment with ART and torchattacks beside this package.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustscope.data.arrays import from_tensors
from robustscope.data.datasets import load_data
from robustscope.models.layers import build
from robustscope.models.zoo import cnn_a
from robustscope.training import Recipe
from robustscope.training.loop import Training

EPSILON, STEPS, BATCH, RATE = 0.1, 7, 128, 1e-3
Epoch = Callable[[], object]
Work = Callable[[nn.Module, Tensor, Tensor], Epoch]


def ours(objective: str, parameters: dict[str, Any]) -> Work:
    """Return an epoch of this loop."""

    def work(network: nn.Module, x: Tensor, y: Tensor) -> Epoch:
        recipe = Recipe(
            data="memory", objective=objective, parameters=parameters, threat=f"linf:{EPSILON}", validation=1, epochs=1,
            batch_size=BATCH, optimizer="adam", learning_rate=RATE, weight_decay=0.0, schedule="flat", threads=1,
        )  # fmt: skip
        data = from_tensors(torch.cat([x, x[:1]]), torch.cat([y, y[:1]]))  # one sample more, for one is held out
        return Training(recipe, None, data, network, (), None)._epoch

    return work


def plain(steps: int) -> Work:
    """Return an epoch of adversarial training in bare torch, random numbers from the global generator."""
    size = 1.25 * EPSILON if steps == 1 else EPSILON / 4

    def work(network: nn.Module, x: Tensor, y: Tensor) -> Epoch:
        optimizer = torch.optim.Adam(network.parameters(), RATE)

        def epoch() -> None:
            for at in torch.randperm(len(x)).split(BATCH):
                clean, labels = x[at], y[at]
                delta = torch.empty_like(clean).uniform_(-EPSILON, EPSILON)
                for _ in range(steps):
                    delta.requires_grad_(True)
                    loss = F.cross_entropy(network((clean + delta).clamp(0, 1)), labels)
                    (gradient,) = torch.autograd.grad(loss, delta)
                    delta = (delta.detach() + size * gradient.sign()).clamp(-EPSILON, EPSILON)
                descend(network, optimizer, (clean + delta).clamp(0, 1), labels)

        return epoch

    return work


def descend(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Update the weights once."""
    loss = F.cross_entropy(network(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def torchattacks(steps: int) -> Work:
    """Return an epoch whose examples come from torchattacks, as its documentation trains."""

    def work(network: nn.Module, x: Tensor, y: Tensor) -> Epoch:
        package = importlib.import_module("torchattacks")
        attack = (
            package.FFGSM(network, eps=EPSILON, alpha=1.25 * EPSILON)
            if steps == 1
            else package.PGD(network, eps=EPSILON, alpha=EPSILON / 4, steps=steps)
        )
        optimizer = torch.optim.Adam(network.parameters(), RATE)

        def epoch() -> None:
            for at in torch.randperm(len(x)).split(BATCH):
                adversarial = attack(x[at], y[at])
                network.train()
                descend(network, optimizer, adversarial, y[at])

        return epoch

    return work


class Whole(nn.Module):
    """A network as one module; ART takes the first layer of a sequential one for its output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.network(x)


def art(steps: int) -> Work:
    """Return an epoch of ART's trainers: Madry's for several steps, "fast is better than free" for one."""

    def work(network: nn.Module, x: Tensor, y: Tensor) -> Epoch:
        estimators = importlib.import_module("art.estimators.classification")
        trainers = importlib.import_module("art.defences.trainer")
        classifier = estimators.PyTorchClassifier(
            Whole(network), nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, torch.optim.Adam(network.parameters(), RATE),
            clip_values=(0.0, 1.0), device_type="cpu",
        )  # fmt: skip
        images, labels = x.numpy(), np.eye(10, dtype=np.float32)[y.numpy()]
        if steps == 1:
            trainer = trainers.AdversarialTrainerFBFPyTorch(classifier, eps=EPSILON)
            return lambda: trainer.fit(images, labels, batch_size=BATCH, nb_epochs=1)
        trainer = trainers.AdversarialTrainerMadryPGD(
            classifier, nb_epochs=1, batch_size=BATCH, eps=EPSILON, eps_step=EPSILON / 4, max_iter=steps
        )
        return lambda: trainer.fit(images, labels)

    return work


def fresh() -> nn.Module:
    """Return the network, the same each time."""
    torch.manual_seed(0)
    return build(cnn_a((1, 28, 28), 10)).train()


def timed(works: Mapping[str, Work], x: Tensor, y: Tensor, epochs: int) -> dict[str, tuple[list[float], float]]:
    """Return for each tool the seconds of the processor of each epoch, shortest first, and rows forward in one epoch."""
    rows = dict.fromkeys(works, 0)
    seconds: dict[str, list[float]] = {tool: [] for tool in works}
    running: dict[str, Epoch] = {}
    for tool, work in works.items():
        network = fresh()
        running[tool] = work(network, x, y)

        def count(module: nn.Module, inputs: tuple[Tensor, ...], tool: str = tool) -> None:
            rows[tool] += len(inputs[0])

        network.get_submodule("0").register_forward_pre_hook(count)
    for _ in range(epochs):
        for tool, epoch in running.items():
            begun = time.process_time()
            epoch()
            seconds[tool].append(time.process_time() - begun)
    return {tool: (sorted(seconds[tool]), rows[tool] / epochs) for tool in works}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--data", default="")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.data:
        data = load_data(asked.data)
        x, y = data.read(range(asked.samples)), torch.as_tensor(data.labels[: asked.samples])
    else:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(asked.samples, 1, 28, 28, generator=generator)
        y = torch.randint(0, 10, (asked.samples,), generator=generator)
    print(f"torch {torch.__version__}, {asked.samples} samples, {asked.epochs} epochs, one thread\n")
    print(
        "| Work | Tool | Rows forward for each sample | Microseconds for each row, fastest | Over ours, fastest | median |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for name, steps, parameters in (("fast", 1, {}), ("pgd", STEPS, {"steps": STEPS})):
        tools = {"robustscope": ours(name, parameters), "plain torch": plain(steps)}
        for package, make in (("torchattacks", torchattacks), ("adversarial-robustness-toolbox", art)):
            try:
                tools[f"{package} {version(package)}"] = make(steps)
            except PackageNotFoundError:
                continue
        found = timed(tools, x, y, asked.epochs)
        each = {tool: (seconds[0] / rows, seconds[len(seconds) // 2] / rows) for tool, (seconds, rows) in found.items()}
        fastest, middle = each["robustscope"]
        for tool, (least, median) in each.items():
            visits = found[tool][1] / len(x)
            print(
                f"| {name} | {tool} | {visits:.2f} | {1e6 * least:.1f} | {least / fastest:.2f} | {median / middle:.2f} |"
            )


if __name__ == "__main__":
    main()
