"""Measure pm-k accuracy of networks on CIFAR-10 along the smooth sequences of ImageNet-P, made here.

    python benchmarks/video_models.py RECORDS MODEL [MODEL ...] [--samples 200] [--k 10]

RECORDS is a file of records of one label and 3 x 32 x 32 bytes, MODEL what ``robustscope.load_model`` takes. The frame that is
the unchanged picture, or the nearest to it, is the anchor.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import robustscope
from robustscope.analyses.video import video_summary
from robustscope.core.draws import permutation
from robustscope.corruptions.sequences import perturb
from robustscope.data.frames import from_sequences
from robustscope.runs.video import evaluate_video, resampled

FAMILIES = ("brightness", "rotate", "tilt")
"""Those whose middle frame is the picture, or nearly, and whose ten frames before and after change it little."""


def main() -> int:
    """Write one table in Markdown: benign and pm-k accuracy in percent, what is lost, and how far brittle frames are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--k", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    records = np.fromfile(given.records, np.uint8).reshape(-1, 3073)
    records = records[sorted(permutation(0, "video models", len(records))[: given.samples])]
    x = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32)).float() / 255
    models = {Path(place).stem: robustscope.load_model(place).classifier for place in given.models}
    sys.stdout.write(f"| Motion | Network | Benign | pm-{given.k} | Lost, points | Brittle frames beyond 8/255 |\n")
    sys.stdout.write("| --- | --- | --: | --: | --: | --: |\n")
    for family in FAMILIES:
        frames = from_sequences(perturb(family, x, constants="imagenet-p"), records[:, 0].astype(np.int64), name=family)
        for name, model in models.items():
            with tempfile.TemporaryDirectory() as folder:
                rows = evaluate_video(model, frames, Path(folder) / "run")
            found = video_summary(rows, given.k, "own", resampled(len(frames)), epsilon=8 / 255)
            pm, drop, beyond = found["pm"]["own"], found["drop"], found["brittle"]["beyond"]
            lost = f"{100 * drop['value']:.1f} ({100 * drop['low']:.1f} to {100 * drop['high']:.1f})"
            far = "–" if beyond is None else f"{100 * beyond:.1f} % of {found['brittle']['pairs']:,}"
            rates = " | ".join(f"{100 * rate['value']:.1f}" for rate in (found["benign"], pm))
            sys.stdout.write(f"| {family} | {name} | {rates} | {lost} | {far} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
