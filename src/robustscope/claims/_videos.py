"""Pictures of a data set as short videos, and how networks fare on their frames."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from robustscope.claims.lab import Batch, Lab, Subject
from robustscope.corruptions.sequences import perturb
from robustscope.data.frames import FrameSet, from_sequences
from robustscope.runs.video import evaluate_video

MOTIONS = ("brightness", "rotate", "tilt")
"""Those whose middle frame is the picture, or nearly, and whose neighbouring frames change it little."""


def videos(lab: Lab, batch: Batch, motions: Sequence[str] = MOTIONS) -> dict[str, FrameSet]:
    """Return motion -> videos of 31 frames of the samples, whose frame in the middle is the anchor."""
    return {
        motion: from_sequences(
            perturb(motion, batch.x, draws=lab.draws("videos", batch), constants="imagenet-p"),
            batch.y.tolist(),
            name=motion,
        )
        for motion in motions
    }


def judged(subject: Subject, frames: FrameSet) -> pd.DataFrame:
    """Return a row for each anchor and frame, as ``robustscope.analyses.video`` reads them."""
    with tempfile.TemporaryDirectory() as folder:
        return evaluate_video(subject.model, frames, Path(folder) / "run")
