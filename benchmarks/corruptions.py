"""Compare the corruptions with the package imagecorruptions, in what they do and in how long they take.

    python benchmarks/corruptions.py PHOTOS CIFAR            tables in Markdown, on the terminal
    python benchmarks/corruptions.py PHOTOS CIFAR --quick    two pictures of each kind

PHOTOS is a folder of folders of photographs of 224 x 224 pixels, CIFAR a file of records of one label and 3 x 32 x 32
bytes. Needed besides this package: imagecorruptions 1.1.2, opencv-python and scikit-image. Where today's NumPy, SciPy,
scikit-image and setuptools have dropped names that it uses, they are put back here; its computations are not touched.

As for speed.py, let the C library keep its memory:
export GLIBC_TUNABLES=glibc.malloc.trim_threshold=1000000000:glibc.malloc.mmap_threshold=1000000000

Both run in one process on one thread. Times are those of the processor, each the best of three, so that other programs
do not count, and both in turns. imagecorruptions takes one picture of bytes at a time and returns one; this package
takes and returns tensors: batches of 64 and of 8, and one picture. "on tensors" adds to theirs what it takes to turn
tensors into bytes and back, so that both do the same job.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from robustscope.corruptions import CORRUPTIONS, corrupt
from robustscope.corruptions.suites import IMAGENET_C, IMAGENET_C_EXTRA

BANDS = (0.0, 0.03, 0.12, 0.25, 0.71)
"""Edges of the bands of frequency, in cycles per pixel."""
SLOW = {"glass_blur": 2}
"""How many photographs of those that the other package needs seconds for."""


def reference() -> types.ModuleType:
    """Import imagecorruptions, with the names that it lost put back."""
    warnings.simplefilter("ignore")
    from scipy import ndimage
    from skimage import filters

    if importlib.util.find_spec("pkg_resources") is None:
        lost = types.ModuleType("pkg_resources")
        lost.resource_filename = lambda name, file: str(Path(sys.modules[name].__file__).parent / file)
        sys.modules["pkg_resources"] = lost
    if importlib.util.find_spec("scipy.ndimage.interpolation") is None:
        lost = types.ModuleType("scipy.ndimage.interpolation")
        lost.map_coordinates = ndimage.map_coordinates
        sys.modules["scipy.ndimage.interpolation"] = lost
    setattr(np, "float_", np.float64)  # noqa: B010  (written so because the name is gone)
    import imagecorruptions
    from imagecorruptions import corruptions

    def gaussian(image: np.ndarray, sigma: float, multichannel: bool = False, **more: object) -> np.ndarray:
        return filters.gaussian(image, sigma, channel_axis=-1 if multichannel else None, **more)

    corruptions.gaussian = gaussian
    return imagecorruptions


def load(photos: Path, cifar: Path, quick: bool) -> dict[int, np.ndarray]:
    """Return side -> pictures, uint8 (B, side, side, 3)."""
    files = sorted(photos.glob("*/*.jpg"))[:: 1 if quick else 6][: 2 if quick else 16]
    big = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    records = np.fromfile(cifar, np.uint8).reshape(-1, 3073)[: 2 if quick else 64, 1:]
    return {32: records.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy(), 224: big}


def tensor(pictures: np.ndarray) -> torch.Tensor:
    """Return pictures as floats (B, 3, H, W)."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(255).contiguous()


def theirs(package: types.ModuleType, name: str, pictures: np.ndarray, severity: int) -> np.ndarray | None:
    """Return their pictures; None where they raise."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return np.stack([package.corrupt(picture, severity, name) for picture in pictures])
        except Exception:  # a row of the table says so
            return None


def ours(name: str, x: torch.Tensor, severity: int) -> np.ndarray:
    """Return our pictures at the same constants."""
    found = corrupt(name, x, severity, constants="imagenet-c")
    return found.mul(255).round().byte().permute(0, 2, 3, 1).numpy()


def spectrum(difference: np.ndarray) -> np.ndarray:
    """Return the power of grey differences (B, H, W) in each band."""
    power = (np.abs(np.fft.fft2(difference)) ** 2).mean(0)
    axis = np.fft.fftfreq(difference.shape[-1])
    radius = np.hypot(axis[:, None], axis)
    return np.array([power[(radius >= a) & (radius < b)].mean() for a, b in pairwise(BANDS)])


def seconds(run: Callable[[], object], count: int, repeats: int = 3) -> float:
    """Return the best processor time for each of ``count`` pictures."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best / count


def fidelity(package: types.ModuleType, data: dict[int, np.ndarray]) -> list[str]:
    """Return the table of what both do to the same pictures."""
    rows = [
        "| corruption | side | severity | mean abs. difference | mean, theirs | ours | rms, theirs | ours | spectrum |"
    ]
    rows.append("| --- | --: | --: | --: | --: | --: | --: | --: | --- |")
    for name in IMAGENET_C + IMAGENET_C_EXTRA:
        for side, pictures in data.items():
            part = pictures[: SLOW.get(name, len(pictures))] if side == 224 else pictures
            for severity in range(1, 6):
                np.random.seed(severity)  # noqa: NPY002  (theirs draws from the global generator)
                other, mine = theirs(package, name, part, severity), ours(name, tensor(part), severity)
                if other is None:
                    rows.append(f"| {name} | {side} | {severity} | raises | | {mine.mean():.1f} | | | |")
                    continue
                gaps = [(found.astype(float) - part) for found in (other, mine)]
                size = [float(np.sqrt((gap**2).mean())) for gap in gaps]
                bands = [spectrum(gap.mean(-1)) for gap in gaps]
                ratio = " ".join(f"{b / a:.2f}" for a, b in zip(*bands, strict=True))
                apart = f"{np.abs(other.astype(float) - mine).mean():.3f}"
                means = f"{other.mean():.1f} | {mine.mean():.1f}"
                rows.append(
                    f"| {name} | {side} | {severity} | {'' if CORRUPTIONS[name].stochastic else apart} | {means} "
                    f"| {size[0]:.1f} | {size[1]:.1f} | {ratio} |"
                )
    return rows


def converted(x: torch.Tensor) -> torch.Tensor:
    """Turn tensors into the bytes that the other package takes, and its bytes into tensors."""
    pictures = x.mul(255).round_().byte().permute(0, 2, 3, 1).contiguous().numpy()
    return tensor(np.stack(list(pictures)))


def speed(package: types.ModuleType, data: dict[int, np.ndarray]) -> list[str]:
    """Return the table of milliseconds for each picture, at the mean over severities 1, 3 and 5."""
    rows = ["| corruption | side | theirs, ms | ours, ms | times faster | on tensors | ours, one picture, ms |"]
    rows.append("| --- | --: | --: | --: | --: | --: | --: |")
    ratios: dict[int, list[tuple[float, float]]] = {}
    for name in IMAGENET_C + IMAGENET_C_EXTRA:
        for side, pictures in data.items():
            few = pictures[: 1 if name in SLOW and side == 224 else 4 if side == 224 else 16]
            x = tensor(pictures[: 8 if side == 224 else 64])
            took = dict.fromkeys(("theirs", "ours", "one", "conversion"), 0.0)
            for severity in (1, 3, 5):
                mine = partial(corrupt, name, severity=severity, constants="imagenet-c")
                mine(x[:1])
                jobs = {
                    "theirs": (partial(theirs, package, name, few, severity), len(few)),
                    "ours": (partial(mine, x), len(x)),
                    "one": (partial(mine, x[:1]), 1),
                    "conversion": (partial(converted, x), len(x)),
                }
                # In turns, so that other work on the machine slows all of them alike.
                best = dict.fromkeys(jobs, float("inf"))
                for _ in range(1 if name in SLOW and side == 224 else 4):
                    for key, (job, count) in jobs.items():
                        best[key] = min(best[key], seconds(job, count, 1))
                if theirs(package, name, few[:1], severity) is None:
                    best["theirs"] = float("nan")
                took = {key: took[key] + best[key] / 3 for key in took}
            ratio, same = took["theirs"] / took["ours"], (took["theirs"] + took["conversion"]) / took["ours"]
            if ratio == ratio:
                ratios.setdefault(side, []).append((ratio, same))
            cells = " | ".join(f"{took[key] * 1000:.3f}" for key in ("theirs", "ours"))
            rows.append(f"| {name} | {side} | {cells} | {ratio:.1f} | {same:.1f} | {took['one'] * 1000:.3f} |")
    everything = [pair for found in ratios.values() for pair in found]
    for title, side, found in (*(("median", *item) for item in ratios.items()), ("median", "both", everything)):
        middle = " | ".join(f"{statistics.median(part):.1f}" for part in zip(*found, strict=True))
        rows.append(f"| *{title}* | {side} | | | {middle} | |")
    least = " | ".join(f"{min(part):.1f}" for part in zip(*everything, strict=True))
    rows.append(f"| *smallest* | both | | | {least} | |")
    for bound in (1, 10):
        many = " | ".join(str(sum(ratio >= bound for ratio in part)) for part in zip(*everything, strict=True))
        rows.append(f"| *rows of {bound} and more* | of {len(everything)} | | | {many} | |")
    return rows


def main() -> int:
    """Write both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=("fidelity", "speed"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    package, data = reference(), load(given.photos, given.cifar, given.quick)
    for title, table in (("speed", speed), ("fidelity", fidelity)):
        if given.only in (None, title):
            sys.stdout.write(f"\n## {title.capitalize()}\n\n" + "\n".join(table(package, data)) + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
