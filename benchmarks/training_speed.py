"""How long a pass of adversarial training takes in this loop, beside plain torch, torchattacks and ART, on the same work.

python benchmarks/training_speed.py [--samples 2048] [--epochs 3] [--repeats 5] [--data mnist:FOLDER#train]

A few epochs of PGD-7 and of FAST on a small MNIST network (`cnn_a`), batches of 128, Adam, one thread, one process; repeats are
interleaved and the fastest of each counts. Rows that reach the network are counted by a hook, so that each is judged by what it
did: the figure is microseconds of the processor for each row forward and backward, what comes before the first epoch included (ours
reads all samples once for their fingerprint). Tools that are not installed are left out. Neither ours nor the others' validation
is part of it. Needs an environment with ART and torchattacks beside this package.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable, Iterator
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
Work = Callable[[nn.Module, Tensor, Tensor, int], None]


def ours(objective: str, parameters: dict[str, Any]) -> Work:
    """Return epochs of this loop."""

    def work(network: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
        recipe = Recipe(
            data="memory", objective=objective, parameters=parameters, threat=f"linf:{EPSILON}", validation=1, epochs=epochs,
            batch_size=BATCH, optimizer="adam", learning_rate=RATE, weight_decay=0.0, schedule="flat", threads=1,
        )  # fmt: skip
        training = Training(recipe, None, from_tensors(x, y), network, (), None)
        for training.epoch in range(epochs):
            training._epoch()

    return work


def plain(steps: int) -> Work:
    """Return epochs of adversarial training in bare torch, random numbers from the global generator."""

    def work(network: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
        optimizer = torch.optim.Adam(network.parameters(), RATE)
        size = 1.25 * EPSILON if steps == 1 else EPSILON / 4
        for at in shuffled(len(x), epochs):
            clean, labels = x[at], y[at]
            delta = torch.empty_like(clean).uniform_(-EPSILON, EPSILON)
            for _ in range(steps):
                delta.requires_grad_(True)
                loss = F.cross_entropy(network((clean + delta).clamp(0, 1)), labels)
                (gradient,) = torch.autograd.grad(loss, delta)
                delta = (delta.detach() + size * gradient.sign()).clamp(-EPSILON, EPSILON)
            loss = F.cross_entropy(network((clean + delta).clamp(0, 1)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return work


def shuffled(count: int, epochs: int) -> Iterator[Tensor]:
    """Yield the batches of some epochs."""
    for _ in range(epochs):
        yield from torch.randperm(count).split(BATCH)


def torchattacks(steps: int) -> Work:
    """Return epochs whose examples come from torchattacks, as its documentation trains."""

    def work(network: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
        package = importlib.import_module("torchattacks")
        attack = (
            package.FFGSM(network, eps=EPSILON, alpha=1.25 * EPSILON)
            if steps == 1
            else package.PGD(network, eps=EPSILON, alpha=EPSILON / 4, steps=steps)
        )
        optimizer = torch.optim.Adam(network.parameters(), RATE)
        for at in shuffled(len(x), epochs):
            adversarial = attack(x[at], y[at])
            network.train()
            loss = F.cross_entropy(network(adversarial), y[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

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
    """Return epochs of ART's trainers: Madry's for several steps, "fast is better than free" for one."""

    def work(network: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
        estimators = importlib.import_module("art.estimators.classification")
        trainers = importlib.import_module("art.defences.trainer")
        classifier = estimators.PyTorchClassifier(
            Whole(network), nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, torch.optim.Adam(network.parameters(), RATE),
            clip_values=(0.0, 1.0), device_type="cpu",
        )  # fmt: skip
        images, labels = x.numpy(), np.eye(10, dtype=np.float32)[y.numpy()]
        if steps == 1:
            trainer = trainers.AdversarialTrainerFBFPyTorch(classifier, eps=EPSILON)
            trainer.fit(images, labels, batch_size=BATCH, nb_epochs=epochs)
        else:
            trainer = trainers.AdversarialTrainerMadryPGD(
                classifier, nb_epochs=epochs, batch_size=BATCH, eps=EPSILON, eps_step=EPSILON / 4, max_iter=steps
            )
            trainer.fit(images, labels)

    return work


def fresh() -> nn.Module:
    """Return the network, the same each time."""
    torch.manual_seed(0)
    return build(cnn_a((1, 28, 28), 10)).train()


def timed(work: Work, x: Tensor, y: Tensor, epochs: int) -> tuple[float, int]:
    """Return seconds of the processor and rows forward."""
    network, rows = fresh(), [0]

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows[0] += len(inputs[0])

    network.get_submodule("0").register_forward_pre_hook(count)
    started = time.process_time()
    work(network, x, y, epochs)
    return time.process_time() - started, rows[0]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
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
    print(
        f"torch {torch.__version__}, {asked.samples} samples, {asked.epochs} epochs, {asked.repeats} repeats, one thread\n"
    )
    print("| Work | Tool | Rows forward for each sample | Microseconds for each row | Over ours |")
    print("| --- | --- | --- | --- | --- |")
    for name, steps, parameters in (("pgd", STEPS, {"steps": STEPS}), ("fast", 1, {})):
        tools = {"robustscope": ours(name, parameters), "plain torch": plain(steps)}
        for package, make in (("torchattacks", torchattacks), ("adversarial-robustness-toolbox", art)):
            try:
                tools[f"{package} {version(package)}"] = make(steps)
            except PackageNotFoundError:
                continue
        best: dict[str, tuple[float, int]] = {}
        for _ in range(asked.repeats):
            for tool, work in tools.items():
                found = timed(work, x, y, asked.epochs)
                best[tool] = min(best.get(tool, found), found)
        base = best["robustscope"][0] / best["robustscope"][1]
        for tool, (seconds, rows) in best.items():
            each = seconds / rows
            print(f"| {name} | {tool} | {rows / len(x) / asked.epochs:.2f} | {1e6 * each:.1f} | {each / base:.2f} |")


if __name__ == "__main__":
    main()
