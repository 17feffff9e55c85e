"""Evaluate a network of your own from the command line: a function without arguments that returns it is all it takes.

    robustscope evaluate examples/evaluate_your_model.py:make_model --data digits --threat linf:0.15 --out my-run

Copy this file, put your architecture and your checkpoint in, and name your data. Normalisation belongs into the
network, or on the command line as --mean and --std: inputs are handed over as the data source gives them, in [0, 1].
"""

from __future__ import annotations

from importlib.resources import files

from safetensors.torch import load
from torch import nn

# Yours: Path("checkpoint.safetensors"), or leave loading out here and say --weights checkpoint.safetensors.
CHECKPOINT = files("robustscope.models") / "bundled" / "digits_adversarial.safetensors"


def make_model() -> nn.Module:
    """Build the network as usual and load its weights."""
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    network.load_state_dict(load(CHECKPOINT.read_bytes()))
    return network.eval()
