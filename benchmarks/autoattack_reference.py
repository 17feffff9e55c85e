"""Run the reference implementation of AutoAttack on one chunk of images. Started by ``autoattack_parity.py``.

    PEER_PYTHON benchmarks/autoattack_reference.py JOB.pt RESULT.pt

Needs torch and pyautoattack, and from robustscope only the file that builds a network from layer descriptions, which
imports nothing but torch. Its own door, ``run_standard_evaluation``, is not used: it calls the same attack objects one
after the other on the samples that are left, as is done here, but fails on some machines and counts nothing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from robustscope.models.layers import build

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


class Counted(nn.Module):
    """A network with its normalisation, that counts the rows it sends forward and backward."""

    def __init__(self, module: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.module, self.mean, self.std = module, mean, std
        self.forward_rows = self.backward_rows = 0

    def _passed(self, gradient: Tensor) -> None:
        self.backward_rows += len(gradient)

    def forward(self, x: Tensor) -> Tensor:
        self.forward_rows += len(x)
        if self.mean:
            shape = (1, -1, *([1] * (x.dim() - 2)))
            x = (x - x.new_tensor(self.mean).view(shape)) / x.new_tensor(self.std).view(shape)
        logits = self.module(x)
        if logits.requires_grad:
            logits.register_hook(self._passed)
        return logits


def attacker(adversary: AutoAttack, name: str) -> object:
    """Return the attack object of a stage, set as ``run_standard_evaluation`` sets it."""
    if name.startswith("fab"):
        adversary.fab.targeted, adversary.fab.n_restarts = name == "fab-t", 1
        return adversary.fab
    if name.startswith("apgd") and name != "apgd-t":
        adversary.apgd.loss = name.removeprefix("apgd-")
    return {"apgd-t": adversary.apgd_targeted, "square": adversary.square}.get(name, adversary.apgd)


def run(job: dict) -> dict:
    """Return for each stage the rows (positions) attacked and broken, the examples, rows counted and seconds."""
    torch.set_num_threads(job["threads"])
    network = build(job["layers"])
    network.load_state_dict(job["weights"])
    model = Counted(network.eval().requires_grad_(False), job["mean"], job["std"]).eval()
    x, y = job["x"], job["y"]
    adversary = AutoAttack(model, norm=NORMS[job["norm"]], eps=job["epsilon"], seed=job["seed"], version="standard")
    with torch.no_grad():
        remaining = (model(x).argmax(1) == y).nonzero()[:, 0]
    stages = []
    for name in adversary.attacks_to_run:
        attack = attacker(adversary, name)
        attack.seed = job["seed"]
        model.forward_rows = model.backward_rows = 0
        began = time.perf_counter()
        x_adv = attack.perturb(x[remaining], y[remaining]).detach() if len(remaining) else x[:0]
        seconds = time.perf_counter() - began
        forward, backward = model.forward_rows, model.backward_rows
        with torch.no_grad():
            broken = model(x_adv).argmax(1) != y[remaining] if len(remaining) else torch.zeros(0, dtype=torch.bool)
        found = {"attack": name, "attempted": remaining, "broken": remaining[broken], "x_adv": x_adv[broken]}
        stages.append({**found, "forward": forward, "backward": backward, "seconds": seconds})
        remaining = remaining[~broken]
    return {"stages": stages}


if __name__ == "__main__":
    torch.save(run(torch.load(sys.argv[1], weights_only=True)), sys.argv[2])
