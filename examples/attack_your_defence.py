"""Put defences in front of a network, and see what is left of them once the attack knows that they are there.

    python examples/attack_your_defence.py [SAMPLES]

Prints robust accuracy in percent for each defence and each view of it: "oblivious" attacks the bare network,
"gradient" and "bpda" differentiate the defence with one draw, "eot" and "bpda+eot" with the mean over several. Then
the list of what every sound evaluation shows, for JPEG compression.
"""

from __future__ import annotations

import sys

import torch

import robustscope
from robustscope.attacks.checklist import checklist
from robustscope.attacks.comparison import Defence, Line, compare, table
from robustscope.defenses.apply import transformation
from robustscope.defenses.quilting import patch_database

THREAT = "linf:0.15"


def main(samples: int = 100) -> list[Line]:
    """Compare the defences on so many digits, print the table and the list, and return the lines."""
    network = robustscope.load_model("bundled:digits_standard").classifier
    data, train = robustscope.load_data("digits"), robustscope.load_data("digits#train")
    x, y = data.read(range(samples)), torch.as_tensor(data.labels[:samples])
    patches = patch_database(train.read(range(len(train))), patch=5, count=1000)
    fronts = {
        "bit depth 3": transformation("bit_depth", depth=3),
        "JPEG 75": transformation("jpeg", quality=75),
        "Gaussian noise": transformation("gaussian_noise", sigma=0.25),
        "crop and rescale": transformation("crop_rescale", share=0.875),
        "TV minimisation": transformation("tv_minimisation", iterations=15),
        "quilting": transformation("quilting", patches=patches),
    }
    defences = {"none": Defence(network)}
    defences |= {title: Defence(network, front, verdict_draws=8) for title, front in fronts.items()}
    attacks = (("pgd", {"steps": 20, "loss": "margin"}),)
    lines = compare(defences, x, y, THREAT, attacks=attacks, gradient_draws=8)
    print(table(lines))
    print()
    for finding in checklist(defences["JPEG 75"].seen(), x[:40], y[:40], THREAT, white=attacks[0], tolerance=0.03):
        print(f"{'holds' if finding.level == 'ok' else 'FAILS'}  {finding.name}: {finding.message}")
    return lines


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
