"""Encoded pictures (PNG, JPEG, …) as arrays of bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robustscope.core.errors import BadFile, MissingExtra

CHANNELS = {"L": 1, "RGB": 3}
_REMEDY = "Convert it to 8-bit RGB or grey with a decision of your own on transparency and palettes."


def pillow() -> Any:
    """Import Pillow's Image module.

    Raises:
        MissingExtra: if it cannot be imported.
    """
    try:
        from PIL import Image
    except Exception as error:
        raise MissingExtra(
            f"Pillow could not be imported ({type(error).__name__}: {error})",
            "it decodes pictures",
            "Install it with: pip install pillow.",
        ) from error
    return Image


def header(path: Path) -> tuple[str, int, int]:
    """Return mode, height and width of a picture, read from its first bytes.

    Raises:
        BadFile: if it is no picture, or of another mode than 8-bit RGB or grey.
    """
    try:
        with pillow().open(path) as picture:
            mode, (width, height) = picture.mode, picture.size
    except (OSError, ValueError, SyntaxError) as error:
        raise BadFile(f"{path} could not be read ({error})", "a picture is allowed", "Remove or replace it.") from error
    if mode not in CHANNELS:
        raise BadFile(f"{path} has the mode {mode!r}", "'RGB' or 'L' is allowed", _REMEDY)
    return mode, height, width


def decode(source: Path | bytes | Any, channels: int, where: str) -> np.ndarray:
    """Return a picture as uint8 (C, H, W).

    Grey pictures are repeated in all channels where three are asked for, which loses nothing. Orientation tags are not
    applied.

    Args:
        source: file, encoded bytes, or a Pillow picture.
        channels: 1 or 3.
        where: what it is, for messages.

    Raises:
        BadFile: if it is truncated, no picture, of another mode, or coloured where one channel is asked for.
    """
    image = pillow()
    try:
        given: Any = source
        if isinstance(source, (Path, bytes)):
            given = image.open(io.BytesIO(source if isinstance(source, bytes) else source.read_bytes()))
        mode = given.mode
        if mode not in CHANNELS or CHANNELS[mode] > channels:
            allowed = "'RGB' or 'L'" if channels == 3 else "'L'"
            raise BadFile(f"{where} has the mode {mode!r}", f"{allowed} is allowed", _REMEDY)
        pixels = np.asarray(given.convert("RGB") if channels == 3 else given)
    except (OSError, ValueError, SyntaxError) as error:
        if isinstance(error, BadFile):
            raise
        raise BadFile(f"{where} could not be decoded ({error})", "a whole picture is allowed", "Replace it.") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None])


def encode(pixels: np.ndarray, form: Literal["png", "jpeg"]) -> bytes:
    """Return a picture as the bytes of a file.

    Args:
        pixels: uint8 (C, H, W), grey or RGB.
        form: "png", which keeps every value, or "jpeg" of quality 85, as the pictures of ImageNet-C are stored.
    """
    file = io.BytesIO()
    picture = pillow().fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if form == "png":
        picture.save(file, "PNG")
    else:
        picture.save(file, "JPEG", quality=85, optimize=True)
    return file.getvalue()


def split_names(present: set[str], asked: str, where: str) -> str | None:
    """Return which of the splits in ``present`` is meant: the asked one, else "test", else None for no splits at all.

    Raises:
        BadFile: if the asked split is absent, or there are splits but no test split to take by default.
    """
    if asked in present:
        return asked
    if not asked and "test" in present:
        return "test"
    if not asked and not present:
        return None
    raise BadFile(
        f"{where} has no split {asked or 'test'!r}",
        f"{', '.join('#' + name for name in sorted(present)) or 'no split'} is allowed",
        "Write one of these after the path." if present else "Leave out the split.",
    )


def through_jpeg(pictures: np.ndarray, quality: int) -> np.ndarray:
    """Return pictures after one way through JPEG, by Pillow with its own defaults.

    Args:
        pictures: uint8 (B, C, H, W), grey or RGB.
        quality: of the JPEG, 1 to 95.

    Returns:
        uint8 (B, C, H, W).
    """
    image = pillow()
    opened = np.empty(pictures.shape, np.uint8)
    for picture, target in zip(np.ascontiguousarray(pictures), opened, strict=True):
        file = io.BytesIO()
        # Plane by plane, as Pillow takes colours apart and puts them together in a third of NumPy's time.
        planes = [image.fromarray(plane) for plane in picture]
        (planes[0] if len(planes) == 1 else image.merge("RGB", planes)).save(file, "JPEG", quality=quality)
        seen = image.open(file)
        for name, plane in zip("RGB" if len(planes) == 3 else "L", target, strict=True):
            plane[...] = np.frombuffer(seen.tobytes("raw", name), np.uint8).reshape(plane.shape)
    return opened
