"""``robustscope video``: a classifier on neighbouring frames of videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from robustscope.cli.common import Bar, Json, Quiet, Whole, bounds_pair, emit, numbers, out
from robustscope.cli.evaluate_command import FLAT, ModelOptions
from robustscope.core.errors import InvalidValue
from robustscope.runs.config import Settings


def command(
    model: Annotated[str, Parameter(help="SOURCE, as for `evaluate`.", metavar="MODEL")],
    frames: Annotated[
        str,
        Parameter(
            help="Folder with frames.csv or frames.json, or of ImageNet-Vid-Robust; ?resize=256&crop=224 behind it.",
            metavar="FRAMES",
        ),
    ],
    /,
    *,
    k: Annotated[Whole, Parameter(help="Frames before and after an anchor.")] = 10,
    labels: Annotated[
        Literal["own", "anchor"],
        Parameter(help="Labels that the headline judges a frame by: its own, or its anchor's."),
    ] = "own",
    out_: Annotated[Path, Parameter(name="--out", help="Folder to write; the same command resumes it.")] = Path(
        "video"
    ),
    groups: Annotated[
        Path | None, Parameter(help="JSON list: for each class the outputs of the model that stand for it.")
    ] = None,
    unreviewed: Annotated[
        bool, Parameter(help="Take frames that nobody has found to look like their anchor.", show_default=False)
    ] = False,
    seed: Annotated[Whole, Parameter(help="Of the bootstrap.")] = Settings.seed,
    batch_size: Annotated[Whole, Parameter(help="Most rows sent through the model at once.")] = Settings.batch_size,
    threads: Whole = Settings.threads,
    device: str = Settings.device,
    model_options: Annotated[ModelOptions, FLAT] = ModelOptions(),
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Evaluate a classifier on anchor frames and the similar frames around them: benign and pm-k accuracy.

    OUT then holds the rows, and video.html and video.md with the worst frames beside their anchors.
    """
    if k < 0:
        raise InvalidValue(f"--k={k} was given", "0 or more is allowed", "Write e.g. --k 10.")
    from robustscope.analyses.video import video_summary
    from robustscope.data.video import load_frames
    from robustscope.models.loading import load_model
    from robustscope.reports.formats import native
    from robustscope.reports.video import fallen, write_video
    from robustscope.runs.engines.local import torch_threads
    from robustscope.runs.video import evaluate_video, read_groups, resampled

    subject = load_frames(frames, unreviewed=unreviewed)
    loaded = load_model(
        model,
        weights=model_options.weights,
        mean=numbers(model_options.mean, "--mean"),
        std=numbers(model_options.std, "--std"),
        bounds=bounds_pair(model_options.bounds),
        batch_size=batch_size,
        allow_probabilities=model_options.allow_probabilities,
        device=device,
    )
    outputs = None if groups is None else read_groups(groups)
    with torch_threads(threads), Bar(quiet or json) as bar:
        bar.show("video", 0, len(subject))
        rows = evaluate_video(loaded.classifier, subject, out_, groups=outputs, report=bar.advance)
    summary = video_summary(rows, k, labels, resampled(len(subject), seed))
    summary["unreviewed"] = subject.unreviewed
    pairs = [subject.read([subject.anchors[row["anchor"]], row["frame"]]).numpy() for row in fallen(summary)]
    names = subject.class_names or loaded.classifier.class_names
    title = f"{loaded.name} on {subject.name}"
    written = write_video(summary, out_, title, [(pair[0], pair[1]) for pair in pairs], names)
    if json:
        emit({**native(summary), "out": {kind: str(path) for kind, path in written.items()}})
        return 0
    for name, row in (("benign", summary["benign"]), (f"pm-{k}", summary["pm"][labels])):
        told = "withheld, for some frames have no label of their own: --labels anchor"
        if row["value"] is not None:
            told = f"{100 * row['value']:.1f} % ({row['k']} of {row['n']}, 95 % interval {100 * row['low']:.1f}-{100 * row['high']:.1f})"
        out.print(f"{loaded.name}: {name} accuracy {told}", markup=False)
    out.print(f"report: {written['html']}", markup=False)
    return 0 if summary["pm"][labels]["value"] is not None else 1
