"""Evaluation on videos: the rows are those of the model on the frames, also after a stop; the page shows the worst frames."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from doors import assert_three_parts
from robustscope.analyses.video import pm_accuracy, video_summary
from robustscope.cli import main
from robustscope.core.errors import BadFile, CorruptRun, InvalidValue, MissingFile
from robustscope.data.frames import from_sequences
from robustscope.data.pictures import encode
from robustscope.data.video_problems import EdgeJudge, moving_squares
from robustscope.models.classifier import Classifier
from robustscope.reports.video import fallen, render_video, write_video
from robustscope.runs import video
from robustscope.runs.video import evaluate_video, read_groups, read_video, resampled

STARTS, SPEEDS = [2, 4, 6, 9, 9], [0.5, 0.0, 0.0, -1.0, 1.0]
FRAMES = moving_squares(STARTS, SPEEDS)
JUDGE = Classifier(EdgeJudge(10))


def left(video_number: int, offset: int) -> int:
    return int(np.clip(round(STARTS[video_number] + SPEEDS[video_number] * offset), 0, 12))


def test_the_decisions_on_moving_squares_are_those_of_geometry(tmp_path):
    rows = evaluate_video(JUDGE, FRAMES, tmp_path, shard_size=2)
    assert len(rows) == 5 * 21
    for row in rows.itertuples():
        at, anchor = left(row.anchor, row.offset), left(row.anchor, 0)
        assert row.prediction == (at > 8)
        assert row.correct_own == ((at > 8) == (at >= 6))
        assert row.correct_anchor == ((at > 8) == (anchor >= 6))
        light = 4.0 * (min(max(at - 6, 0), 4) - (4 - min(max(at - 6, 0), 4)))  # right of the edge less left of it
        assert row.margin_own == (light if at >= 6 else -light)
        assert row.linf == float(at != anchor)
        apart = 4 * 2 * min(abs(at - anchor), 4) / 256
        assert row.rms == pytest.approx(np.sqrt(apart))
        assert row.name == f"{row.anchor}/{row.offset}"
    # by hand: square 0 is wrong from +7 on (columns 6 to 8), 1 never, 2 always, 3 from +1 on, 4 from -1 on
    counts = [pm_accuracy(rows, k)["k"] for k in (0, 1, 6, 7)]
    assert counts == [4, 2, 2, 1]
    # by the anchor's labels square 0 is never seen right of the middle, and 3 and 4 are lost as before
    assert [pm_accuracy(rows, k, "anchor")["k"] for k in (0, 1, 10)] == [4, 2, 2]


def test_pairs_beyond_the_reach_of_an_attack_are_counted(tmp_path):
    faint = from_sequences(np.array([0, 9, 51, 255], np.uint8).reshape(1, 4, 1, 1, 1).repeat(3, 0), [0, 0, 1], anchor=0)
    bright = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, 2)).eval()
    bright[1].weight.data.copy_(torch.tensor([[0.0], [1.0]]))
    bright[1].bias.data.copy_(torch.tensor([0.01, 0.0]))  # class 1 from 0.01 on
    rows = evaluate_video(Classifier(bright), faint, tmp_path)
    found = video_summary(rows, 3, epsilon=0.1)["brittle"]
    assert found["pairs"] == 6, "two anchors are right, and each loses all its frames"
    assert found["beyond"] == pytest.approx(2 / 3)
    assert found["linf"] == pytest.approx(51 / 255)
    assert video_summary(rows, 3)["brittle"]["beyond"] is None


def test_an_evaluation_that_was_stopped_goes_on_with_the_next_shard(tmp_path, monkeypatch):
    whole = evaluate_video(JUDGE, FRAMES, tmp_path / "whole")
    real, calls = video.write_atomically, []

    def failing(path, write, **options):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(path, write, **options)

    monkeypatch.setattr(video, "write_atomically", failing)
    with pytest.raises(KeyboardInterrupt):
        evaluate_video(JUDGE, FRAMES, tmp_path / "cut", shard_size=1)
    with pytest.raises(CorruptRun) as caught:
        read_video(tmp_path / "cut")
    assert_three_parts(caught.value)
    forward = JUDGE.ledger.forward
    pd.testing.assert_frame_equal(evaluate_video(JUDGE, FRAMES, tmp_path / "cut", shard_size=1), whole)
    assert JUDGE.ledger.forward - forward == 3 * 21, "two of five shards were stored"


def test_a_frame_beside_two_anchors_is_sent_once(tmp_path):
    shared = replace(FRAMES, anchors=(10, 11), members=((11,), (10,)), offsets=((1,), (-1,)))
    before = JUDGE.ledger.forward
    rows = evaluate_video(JUDGE, shared, tmp_path)
    assert JUDGE.ledger.forward - before == 2
    assert rows["frame"].tolist() == [10, 11, 11, 10]


class Four(torch.nn.Module):
    """Outputs 0 and 2 stand for left, 1 and 3 for right; the largest of each pair is the judge's."""

    def forward(self, x):
        return torch.cat([EdgeJudge(10)(x) - 1, EdgeJudge(10)(x)], 1)


def test_outputs_are_merged_by_their_largest(tmp_path):
    expected = evaluate_video(JUDGE, FRAMES, tmp_path / "two")
    four = Classifier(Four().eval())
    (tmp_path / "groups.json").write_text("[[0, 2], [1, 3]]")
    found = evaluate_video(four, FRAMES, tmp_path / "four", groups=read_groups(tmp_path / "groups.json"))
    pd.testing.assert_frame_equal(found, expected)
    for groups in ([[0, 4], [1]], [[0], []], []):
        with pytest.raises(InvalidValue, match="groups of outputs") as caught:
            evaluate_video(four, FRAMES, tmp_path / f"bad{len(str(groups))}", groups=groups)
        assert_three_parts(caught.value)
    for text in ('["12", "3"]', "[[0.5], [1]]", "[[true]]", "{}", "[["):
        (tmp_path / "groups.json").write_text(text)
        with pytest.raises(BadFile, match="list of lists of outputs"):
            read_groups(tmp_path / "groups.json")
    with pytest.raises(InvalidValue, match="there is a label 1, and 1 classes"):
        evaluate_video(four, FRAMES, tmp_path / "one", groups=[[0]])


def test_another_model_or_other_frames_are_refused(tmp_path):
    evaluate_video(JUDGE, FRAMES, tmp_path)
    for model, frames in ((Classifier(EdgeJudge(9)), FRAMES), (JUDGE, moving_squares(STARTS, SPEEDS, size=14))):
        with pytest.raises(InvalidValue, match="was begun with") as caught:
            evaluate_video(model, frames, tmp_path)
        assert_three_parts(caught.value)
    with pytest.raises(MissingFile):
        read_video(tmp_path / "nowhere")
    (tmp_path / "parts" / "00000.safetensors").write_bytes(b"torn")
    with pytest.raises(CorruptRun, match="00000"):
        read_video(tmp_path)


def test_resampled_anchors_depend_on_the_seed_alone():
    assert (resampled(7, 3, 5) == resampled(7, 3, 9)[:5]).all()
    assert resampled(7).shape == (1000, 7)
    assert not (resampled(7, 0) == resampled(7, 1)).all()


# The page --------------------------------------------------------------------------------------------------------------


def test_the_page_shows_worst_frames_beside_their_anchors(tmp_path):
    rows = evaluate_video(JUDGE, FRAMES, tmp_path / "run")
    summary = video_summary(rows, 10, "own", resampled(5))
    summary["unreviewed"] = 3
    lost = fallen(summary)
    assert sorted(row["anchor"] for row in lost) == [0, 3, 4]
    assert [row["rms"] for row in lost] == sorted(row["rms"] for row in lost)
    pairs = [FRAMES.read([FRAMES.anchors[row["anchor"]], row["frame"]]).numpy() for row in lost]
    title = "a|b <script>"
    paths = write_video(summary, tmp_path, title, [(pair[0], pair[1]) for pair in pairs], FRAMES.class_names)
    page, text = (paths[kind].read_text(encoding="utf-8") for kind in ("html", "md"))
    assert "<script>" not in page
    assert "<script>" not in text
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org/\S+", "", page), "self-contained"
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 6
    for data, expected in zip(pictures, (picture for pair in pairs for picture in pair), strict=True):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert (shown == np.rint(expected[0] * 255)).all()
    for said in ("40.0", "nobody has looked at 3", "20.0"):
        assert said in page.replace("\xa0", " ")
    assert "| labels of each frame | 20.0\xa0% (1/5;" in text


def test_a_convention_without_labels_is_withheld(tmp_path):
    bare = replace(FRAMES, labels=tuple(mine if i in FRAMES.anchors else () for i, mine in enumerate(FRAMES.labels)))
    rows = evaluate_video(JUDGE, bare, tmp_path)
    assert rows["correct_own"].notna().sum() == 5
    text = render_video(video_summary(rows), "bare")
    assert "**withheld** (of 5)" in text
    assert "first convention says nothing" in text


MODEL = """
from robustscope.data.video_problems import EdgeJudge
def make_model():
    return EdgeJudge(10)
"""


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    """A model file, and the squares as pictures with a list."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge.py").write_text(MODEL)
    listed = []
    for a, (anchor, members) in enumerate(zip(FRAMES.anchors, FRAMES.members, strict=True)):
        for i in (anchor, *members):
            name = f"{a}/{i % 21:02d}.png"
            (tmp_path / "set" / str(a)).mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / name).write_bytes(encode(FRAMES.reader.read([i])[0], "png"))
            anchor_name = f"{a}/{anchor % 21:02d}.png"
            listed.append({"path": name, "anchor": anchor_name, "label": FRAMES.labels[i][0], "review": "similar"})
    (tmp_path / "set" / "frames.json").write_text(json.dumps(listed))
    return tmp_path


def told(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(["video", *map(str, arguments)])
    return caught.value.code, capsys.readouterr()


def test_the_command_prints_both_accuracies_and_resumes(on_disk, capsys):
    code, said = told(capsys, "judge.py:make_model", "set", "--k", 7, "--quiet")
    assert code == 0, said.err
    assert "judge-make_model: benign accuracy 80.0 % (4 of 5" in said.out
    assert "judge-make_model: pm-7 accuracy 20.0 % (1 of 5" in said.out
    first = {path.name: path.read_bytes() for path in (on_disk / "video").glob("video.*")}
    assert set(first) == {"video.md", "video.html"}
    assert first["video.md"].startswith(b"# Videos: judge-make\\_model on set\n")
    code, said = told(capsys, "judge.py:make_model", "set", "--k", 7, "--json")
    summary = json.loads(said.out)
    assert (code, summary["pm"]["own"]["k"], summary["pm"]["anchor"]["k"]) == (0, 1, 2)
    assert {path.name: path.read_bytes() for path in (on_disk / "video").glob("video.*")} == first


def test_the_command_asks_for_a_review(on_disk, capsys):
    path = on_disk / "set" / "frames.json"
    path.write_text(path.read_text().replace('"similar"', '""'))
    code, said = told(capsys, "judge.py:make_model", "set")
    assert code == 2
    assert "--unreviewed" in said.err
    code, said = told(capsys, "judge.py:make_model", "set", "--unreviewed", "--quiet", "--k", 1)
    assert code == 0
    assert "100 of these frames" in (on_disk / "video" / "video.md").read_text()
    code, said = told(capsys, "judge.py:make_model", "set", "--k", -1)
    assert code == 2
