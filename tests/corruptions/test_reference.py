"""Corruptions do to the shared images what the authors' programs do: deterministic ones exactly, others in the mean.

``reference.json`` holds, for each benchmark, corruption and severity, two numbers of one run of those programs on the
images below: the mean over images of the mean change and of the root-mean-square change, in 8-bit levels. Ours runs
twice; how much the two differ says how far chance can move such a mean. The programs are make_imagenet_c.py, make_tinyimagenet_c.py and make_cifar_c.py of hendrycks/robustness
and corruptions.py of google-research/mnist-c, run on NumPy 2.4, SciPy 1.17, scikit-image 0.26 and OpenCV 5.0 with what
these have dropped or changed put back: the names ``multichannel`` and ``float_``, blurring of columns alone where a grey
picture was said to be multichannel, the shear of scikit-image 0.14, and ImageMagick's motion blur by its formula.
"""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from robustscope.corruptions import CORRUPTIONS, corrupt
from robustscope.corruptions.suites import MNIST_C

SHARED = Path(__file__).resolve().parents[3] / "shared"
REFERENCE = json.loads(Path(__file__).with_name("reference.json").read_text(encoding="utf-8"))
CASES = [(bench, name) for bench, listed in REFERENCE.items() for name in listed]
FROST = 0.12
"""Relative gap that is allowed for frost, whose textures are not those of the programs."""

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason="needs the images beside the project"),
]


def photos(n, side):
    pictures = [
        Image.open(file).convert("RGB") for file in sorted((SHARED / "data/imagenet-sample").glob("*/*.jpg"))[:n]
    ]
    small = [picture.resize((side, side), Image.Resampling.BOX) if side != 224 else picture for picture in pictures]
    return np.stack([np.asarray(picture) for picture in small])


@pytest.fixture(scope="module")
def images():
    """Benchmark -> uint8 (n, C, H, W)."""
    cifar = np.fromfile(SHARED / "data/cifar10/test-exact-subset.bin", np.uint8).reshape(-1, 3073)[:200, 1:]
    with gzip.open(SHARED / "data/mnist/t10k-images-idx3-ubyte.gz") as file:
        mnist = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)[:200]
    return {
        "imagenet-c": photos(5, 224).transpose(0, 3, 1, 2),
        "tiny-imagenet-c": photos(40, 64).transpose(0, 3, 1, 2),
        "cifar-10-c": cifar.reshape(-1, 3, 32, 32),
        "mnist-c": mnist,
    }


@pytest.mark.parametrize(("bench", "name"), CASES)
def test_the_change_is_that_of_the_authors_programs(bench, name, images):
    clean = torch.tensor(images[bench])
    card = CORRUPTIONS[name]
    chosen = {"constants": bench} if "constants" in card.parameters else {}
    listed = REFERENCE[bench][name]
    wanted = {MNIST_C[name]: listed[0]} if bench == "mnist-c" else {s: listed[s - 1] for s in (1, 3, 5)}
    # A gap that chance exceeds once in 10,000 means, with a deviation that is estimated from so few images.
    factor = float(stats.t.ppf(0.9999, len(clean) - 1)) * 1.5**0.5
    for severity, due in wanted.items():
        runs = [changes(name, clean, severity, seed, chosen) for seed in range(1 + card.stochastic)]
        for k, label in enumerate(("mean", "rms")):
            slack = 0.2
            if card.stochastic:
                chance = float((runs[0][k] - runs[1][k]).std()) / (2 * len(clean)) ** 0.5
                slack = 0.1 + factor * chance + (FROST * due[1] if name == "frost" else 0)
            seen = float(sum(run[k].mean() for run in runs)) / len(runs)
            assert abs(seen - due[k]) <= slack, f"severity {severity}: {label} {seen}, not {due[k]} +- {slack}"


def changes(name, clean, severity, seed, chosen):
    """Return the mean and the root-mean-square change of each image, in levels."""
    found = corrupt(name, clean.float() / 255, severity, seed=seed, **chosen)
    change = ((found * 255).round() - clean).flatten(1).double()
    return change.mean(1), change.square().mean(1).sqrt()


def test_golden_numbers_of_the_first_digit(images):
    """MNIST's first test image, a 7, whose values sum to 18,454."""
    digit = torch.tensor(images["mnist-c"][:1]).double() / 255
    assert round(float(digit.sum() * 255)) == 18454

    def total(name, severity, seed=0):
        return float(corrupt(name, digit, severity, seed=seed, rounding="none").sum() * 255)

    assert total("stripe", 1) == pytest.approx(117036)
    assert total("scale", 3) == pytest.approx(8708.6, abs=0.1)
    assert total("brightness", 5) == pytest.approx(111580.5, abs=0.1)
    assert total("canny_edges", 1) == pytest.approx(74 * 255)
    assert 18454 in {round(total("translate", 3, seed)) for seed in range(12)}
    turned = {round(total("rotate", 2, seed), 2) for seed in range(12)}
    assert turned == {18454.49, 18371.17}
