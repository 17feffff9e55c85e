"""Videos: a table computed by hand, invariances, squares whose every decision is known, lists and video files."""

import csv
import json
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from doors import assert_three_parts
from robustscope.analyses.video import conditional_accuracy, pm_accuracy, video_summary, worst_frames
from robustscope.core.errors import BadFile, CorruptRun, InvalidValue, MissingExtra, MissingFile
from robustscope.data.frames import from_sequences
from robustscope.data.mining import COLUMNS, difference, mine, write_list
from robustscope.data.pictures import encode
from robustscope.data.video import load_frames, number_of
from robustscope.data.video_files import count_frames, decode_video
from robustscope.data.video_problems import EdgeJudge, moving_squares

# The table by hand -----------------------------------------------------------------------------------------------------

# anchor, offset, right by its own labels, right by its anchor's, margin
HAND = [
    (0, 0, True, True, 3.0),
    (0, -1, True, True, 2.0),
    (0, 1, True, True, 1.0),
    (0, 2, False, True, -1.0),
    (1, 0, True, True, 3.0),
    (1, 1, True, False, 0.5),
    (2, 0, False, False, -2.0),
    (2, -1, True, True, 1.0),
    (3, 0, True, True, 1.0),
]


def table(listed=HAND) -> pd.DataFrame:
    rows = pd.DataFrame(listed, columns=["anchor", "offset", "correct_own", "correct_anchor", "margin_own"])
    rows["correct_own"] = rows["correct_own"].astype("boolean")
    return rows.assign(frame=range(len(rows)), margin_anchor=rows["margin_own"])


def test_the_table_of_four_anchors():
    rows = table()
    counts = {(labels, k): pm_accuracy(rows, k, labels)["k"] for labels in ("own", "anchor") for k in range(4)}
    assert [counts["own", k] for k in range(4)] == [3, 3, 2, 2]
    assert [counts["anchor", k] for k in range(4)] == [3, 2, 2, 2]
    found = pm_accuracy(rows, 2)
    assert (found["value"], found["n"]) == (0.5, 4)
    assert (round(found["low"], 4), round(found["high"], 4)) == (0.0676, 0.9324), "Clopper-Pearson of 2 of 4"


def test_the_summary_of_four_anchors():
    found = video_summary(table(), 2, "own")
    assert (found["n"], found["frames"], found["alone"]) == (4, 5, 1)
    assert found["benign"]["value"] == 0.75
    assert found["drop"]["value"] == 0.25
    assert found["neighbour"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert found["brittle"]["pairs"] == 1
    assert [(row["anchor"], row["offset"]) for row in found["worst"]] == [(0, 2), (1, 1), (2, 0), (3, 0)]
    assert [row["anchor_correct"] for row in found["worst"]] == [True, True, False, True]


def test_accuracy_given_a_right_anchor():
    assert [(row["distance"], row["k"], row["n"]) for row in conditional_accuracy(table())] == [(1, 2, 3), (2, 1, 1)]
    own = conditional_accuracy(table(), "own")
    assert [(row["distance"], row["k"], row["n"]) for row in own] == [(1, 3, 3), (2, 0, 1)]


def test_the_worst_frame_prefers_wrong_then_small_margins_then_near_ones():
    rows = table(
        [(0, 0, True, True, 0.1), (0, 1, False, False, 0.4), (1, 0, True, True, 1.0), (1, -2, True, True, 1.0)]
    )
    assert [row.offset for row in worst_frames(rows, 2).itertuples()] == [1, 0]


def test_bootstrap_intervals_are_those_of_the_resamples():
    resamples = np.array([[0, 0, 0, 0]] * 50 + [[1, 1, 1, 1]] * 50)  # anchor 0 loses, anchor 1 does not
    found = video_summary(table(), 2, "own", resamples)
    assert (found["drop"]["low"], found["drop"]["high"]) == (0.0, 1.0)
    near = found["conditional"][0]
    assert (near["low"], near["high"]) == (0.0, 1.0), (
        "by anchor labels, frames of anchor 0 are right, of anchor 1 wrong"
    )
    with pytest.raises(InvalidValue, match="for 4 anchors") as caught:
        video_summary(table(), 2, "own", np.zeros((3, 5), int))
    assert_three_parts(caught.value)


def test_frames_without_own_labels_are_a_gap_and_no_failure():
    rows = table()
    rows.loc[1, "correct_own"] = pd.NA
    assert pm_accuracy(rows, 0)["k"] == 3
    assert pm_accuracy(rows, 1)["value"] is None
    assert pm_accuracy(rows, 1, "anchor")["k"] == 2
    assert video_summary(rows, 1)["worst"] == []
    assert video_summary(rows, 1, "anchor")["drop"]["value"] == 0.25
    with pytest.raises(InvalidValue, match="no label of their own"):
        worst_frames(rows, 1)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: pm_accuracy(table(), -1), InvalidValue, "k=-1"),
        (lambda: pm_accuracy(table().drop(columns="frame"), 1), InvalidValue, "without frame"),
        (lambda: pm_accuracy(table()[1:], 1), CorruptRun, "rows of offset 0"),
        (lambda: pm_accuracy(pd.concat([table(), table()[1:2]]), 1), CorruptRun, "doubled"),
    ],
)
def test_faults_of_tables_are_named(call, error, says):
    with pytest.raises(error, match=says) as caught:
        call()
    assert_three_parts(caught.value)


@pytest.mark.parametrize("seed", range(4))
def test_invariances_on_random_tables(seed):
    generator = np.random.default_rng(seed)
    listed = [
        (a, o, *(generator.random(2) < 0.9).tolist(), 1.0)
        for a in range(30)
        for o in (0, *generator.choice([-3, -2, -1, 1, 2, 3], generator.integers(0, 7), replace=False))
    ]
    rows = table(listed)
    for labels in ("own", "anchor"):
        curve = [pm_accuracy(rows, k, labels)["k"] for k in range(5)]
        assert curve == sorted(curve, reverse=True)
        assert curve[0] == int(rows[rows["offset"] == 0]["correct_own"].sum()), "pm-0 is benign accuracy"
        assert curve[3] == curve[4], "no frame is further away than three"
        shuffled = rows.sample(frac=1, random_state=seed)
        assert [pm_accuracy(shuffled, k, labels)["k"] for k in range(5)] == curve


def test_independent_errors_give_the_power_law():
    e, anchors, frames = 0.05, 20_000, 4
    right = np.random.default_rng(0).random((anchors, frames + 1)) > e
    listed = [(a, o, r, r, 1.0) for a in range(anchors) for o, r in enumerate(right[a].tolist())]
    found = pm_accuracy(table(listed), frames)
    assert abs(found["value"] - (1 - e) ** (frames + 1)) < 3 * np.sqrt(0.25 / anchors)


# Frames ----------------------------------------------------------------------------------------------------------------


def test_moving_squares_have_the_labels_of_their_places():
    frames = moving_squares([2], [0.5])
    pixels = frames.read(range(21))
    lefts = [int(torch.nonzero(picture.sum((0, 1)))[0]) for picture in pixels]
    assert lefts == [max(0, round(2 + 0.5 * o)) for o in range(-10, 11)]
    assert [label == (1,) for label in frames.labels] == [left >= 6 for left in lefts]
    said = EdgeJudge(10)(pixels).argmax(1).tolist()
    assert said == [int(left > 8) for left in lefts]
    with pytest.raises(InvalidValue, match="frames=4") as caught:
        moving_squares([2], [1.0], frames=4)
    assert_three_parts(caught.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_sequences_are_videos_of_one_label(dtype):
    bytes_ = torch.arange(3 * 4 * 2, dtype=torch.uint8).reshape(3, 4, 1, 1, 2) * 10
    frames = from_sequences(bytes_ if dtype == torch.uint8 else bytes_.to(dtype) / 255, [5, 0, 1], anchor=0)
    assert frames.anchors == (0, 4, 8)
    assert frames.offsets == ((1, 2, 3),) * 3
    assert frames.labels == ((5,),) * 4 + ((0,),) * 4 + ((1,),) * 4
    assert (frames.read(range(12)) * 255).round().byte().tolist() == bytes_.reshape(12, 1, 1, 2).tolist()


@pytest.mark.parametrize(
    "call",
    [
        lambda: from_sequences(torch.rand(2, 3, 4, 4), [0, 1]),
        lambda: from_sequences(torch.rand(2, 3, 1, 4, 4), [0, 1], anchor=3),
        lambda: from_sequences(torch.rand(2, 3, 1, 4, 4) + 1, [0, 1]),
        lambda: from_sequences(torch.rand(2, 3, 1, 4, 4), [0]),
        lambda: from_sequences(torch.zeros(2, 3, 1, 4, 4, dtype=torch.int64), [0, 1]),
    ],
)
def test_faults_of_sequences_are_named(call):
    with pytest.raises(InvalidValue) as caught:
        call()
    assert_three_parts(caught.value)


def written(folder, count=5, size=8, video="clip"):
    """Write grey frames of which number i has the value 10 i; return the folder."""
    (folder / video).mkdir(parents=True)
    for i in range(count):
        (folder / video / f"{i:03d}.png").write_bytes(encode(np.full((1, size, size), 10 * i, np.uint8), "png"))
    return folder


def listing(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted({key for row in rows for key in row}))
        writer.writeheader()
        writer.writerows(rows)


def test_a_list_of_frames(tmp_path, monkeypatch):
    written(tmp_path)
    anchor = "clip/002.png"
    rows = [{"path": f"clip/00{i}.png", "anchor": anchor, "label": "1|2" if i == 2 else ""} for i in (2, 1, 4)]
    listing(tmp_path / "frames.csv", rows)
    frames = load_frames(tmp_path)
    assert frames.shape == (1, 8, 8)
    assert frames.labels == ((1, 2), (), ())
    assert frames.offsets == ((-1, 2),)
    assert frames.read([2, 0])[:, 0, 0, 0].tolist() == pytest.approx([40 / 255, 20 / 255])
    (tmp_path / "frames.csv").unlink()
    (tmp_path / "frames.json").write_text(json.dumps([{**row, "label": [1, 2]} for row in rows]))
    again = load_frames(tmp_path / "frames.json")
    monkeypatch.chdir(tmp_path)
    assert load_frames(".").name == again.name == tmp_path.name
    assert again.labels == ((1, 2),) * 3
    mark = again.fingerprint()
    assert mark != frames.fingerprint()
    (tmp_path / "clip" / "004.png").write_bytes(encode(np.full((1, 8, 8), 41, np.uint8), "png"))
    assert load_frames(tmp_path).fingerprint() != mark


def test_frames_of_different_sizes_want_a_size(tmp_path):
    written(tmp_path, video="a")
    written(tmp_path, size=10, video="b")
    listing(tmp_path / "frames.csv", [{"path": p, "anchor": p, "label": 0} for p in ("a/000.png", "b/001.png")])
    with pytest.raises(BadFile, match="10 x 10"):
        load_frames(tmp_path)
    assert load_frames(f"{tmp_path}?resize=8&crop=6").read([0, 1]).shape == (2, 3, 6, 6)


def test_the_published_layout(tmp_path):
    written(tmp_path)
    (tmp_path / "metadata").mkdir()
    (tmp_path / "misc").mkdir()
    names = [f"clip/00{i}.png" for i in range(5)]
    (tmp_path / "metadata" / "pmsets.json").write_text(json.dumps({names[2]: [names[1], names[4]], names[0]: []}))
    (tmp_path / "metadata" / "labels.json").write_text(json.dumps({name: [0, 1] for name in names}))
    (tmp_path / "misc" / "imagenet_vid_class_index.json").write_text(
        json.dumps({"0": ["n1", "cat"], "1": ["n2", "dog"]})
    )
    frames = load_frames(tmp_path)
    assert [frames.names[a] for a in frames.anchors] == [names[2], names[0]]
    assert frames.offsets == ((-1, 2), ())
    assert frames.labels == ((0, 1),) * 4
    assert frames.class_names == ("cat", "dog")
    (tmp_path / "metadata" / "labels.json").write_text("[")
    with pytest.raises(BadFile, match="published file") as caught:
        load_frames(tmp_path)
    assert_three_parts(caught.value)


def test_what_nobody_reviewed_is_refused(tmp_path):
    written(tmp_path)
    rows = mine(tmp_path, {"clip": 3}, every=3, k=2, furthest=0.05)
    assert [(row["path"][-7:], row["anchor"][-7:], row["offset"]) for row in rows] == [
        ("001.png", "001.png", 0),
        ("000.png", "001.png", -1),
        ("002.png", "001.png", 1),
        ("004.png", "004.png", 0),
        ("003.png", "004.png", -1),
    ]
    assert rows[1]["distance"] == pytest.approx(10 / 255, abs=1e-6)
    assert {row["metric"] for row in rows} == {"rms"}
    path = write_list(rows, tmp_path / "frames.csv")
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
    with pytest.raises(InvalidValue, match="exists"):
        write_list(rows, path)
    with pytest.raises(InvalidValue, match=r"3 frames .* never reviewed") as caught:
        load_frames(tmp_path)
    assert_three_parts(caught.value)
    taken = load_frames(tmp_path, unreviewed=True)
    assert (taken.unreviewed, taken.offsets) == (3, ((-1, 1), (-1,)))
    for row, review in zip(rows, ("", "similar", "different", "", "similar"), strict=True):
        row["review"] = review
    path.unlink()
    write_list(rows, path)
    judged = load_frames(tmp_path)
    assert (judged.unreviewed, judged.offsets) == (0, ((-1,), (-1,)))


def test_differences_are_exact():
    black, white = (np.full((1, 3, 4, 4), v, np.uint8) for v in (0, 255))
    assert difference(white, black[0]).tolist() == difference(white, black[0], "linf").tolist() == [1.0]
    one = black.copy()
    one[0, 0, 0, 0] = 51
    assert difference(one, black[0]).tolist() == pytest.approx([0.2 / np.sqrt(48)])
    assert number_of("a/clip_7.mp4#12") == 12
    assert number_of("a7/frame-003.png") == 3
    assert number_of("a7/anchor.png") is None


ANCHOR = {"path": "clip/002.png", "anchor": "clip/002.png", "label": "1"}


@pytest.mark.parametrize(
    ("rows", "error", "says"),
    [
        ([{**ANCHOR, "anchor": "clip/001.png"}], BadFile, "no row of its own"),
        ([ANCHOR, {**ANCHOR, "path": "clip/001.png"}, {**ANCHOR, "path": "clip/001.png"}], BadFile, "twice"),
        ([{**ANCHOR, "label": ""}], BadFile, "has no label"),
        ([{**ANCHOR, "label": "cat"}], BadFile, "Correct this row"),
        ([{**ANCHOR, "review": "yes"}], BadFile, "review='yes'"),
        ([ANCHOR, {**ANCHOR, "path": "clip/009.png"}], MissingFile, "009.png"),
        ([ANCHOR, {"path": "clip/002.png", "anchor": "clip/003.png", "label": "2"}], BadFile, "the labels"),
        ([{"path": "a"}], BadFile, "without path and anchor"),
        ([], BadFile, "no anchor"),
    ],
)
def test_faults_of_lists_are_named(tmp_path, rows, error, says):
    written(tmp_path)
    (tmp_path / "frames.json").write_text(json.dumps(rows))
    with pytest.raises(error, match=says) as caught:
        load_frames(tmp_path)
    assert_three_parts(caught.value)


def test_a_folder_without_a_list_is_refused(tmp_path):
    with pytest.raises(BadFile, match="no list of frames") as caught:
        load_frames(tmp_path)
    assert_three_parts(caught.value)


# Video files -----------------------------------------------------------------------------------------------------------


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"robustscope\[video\]") as caught:
        count_frames(tmp_path / "clip.mp4")
    assert_three_parts(caught.value)


class FakeVideo:
    """What PyAV offers of a video: frame i has the value 20 i."""

    def __init__(self, frames):
        self.frames = frames
        self.streams = SimpleNamespace(video=[SimpleNamespace(height=4, width=6)])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def decode(self, video):
        for i in range(self.frames):
            yield SimpleNamespace(to_ndarray=lambda format, i=i: np.full((4, 6, 3), 20 * i, np.uint8))


def test_frames_of_a_video_are_read_by_number(tmp_path, monkeypatch):
    fake = SimpleNamespace(open=lambda path: FakeVideo(5), error=SimpleNamespace(FFmpegError=RuntimeError))
    monkeypatch.setitem(sys.modules, "av", fake)
    (tmp_path / "clip.mp4").write_bytes(b"")
    rows = [{"path": f"clip.mp4#{i}", "anchor": "clip.mp4#2", "label": "1"} for i in (2, 3, 0)]
    (tmp_path / "frames.json").write_text(json.dumps(rows))
    frames = load_frames(tmp_path)
    assert frames.offsets == ((1, -2),)
    assert (frames.read([1, 2, 0, 1])[:, 2, 3, 5] * 255).round().tolist() == [60, 0, 40, 60]
    assert [row["offset"] for row in mine(tmp_path, {"clip.mp4": 0}, k=1)] == [0, -1, 1]
    with pytest.raises(BadFile, match="has no frame 7") as caught:
        list(decode_video(tmp_path / "clip.mp4", [1, 7]))
    assert_three_parts(caught.value)


def test_a_real_video_file(tmp_path):
    av = pytest.importorskip("av", reason="PyAV, the extra video, is not installed")
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)  # lossless
        stream.width, stream.height, stream.pix_fmt = 32, 16, "bgr0"
        for i in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), 40 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert count_frames(path) == 6
    found = dict(decode_video(path, [4, 1]))
    assert {i: (int(p.min()), int(p.max()), p.shape) for i, p in found.items()} == {
        1: (40, 40, (3, 16, 32)),
        4: (160, 160, (3, 16, 32)),
    }
    (tmp_path / "torn.mkv").write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadFile, match=r"torn\.mkv") as caught:
        count_frames(tmp_path / "torn.mkv")
    assert_three_parts(caught.value)
