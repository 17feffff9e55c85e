"""Evaluation under shifts: the rows are those of the model on the pictures, whatever happened on the way; exact summaries."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from doors import assert_three_parts
from robustscope.analyses.intervals import clustered, proportion
from robustscope.analyses.sequences import sequence_summary
from robustscope.analyses.shifts import add_differences, against, shift_summary
from robustscope.core.draws import Draws
from robustscope.core.errors import CorruptRun, InvalidValue, MissingFile
from robustscope.corruptions import corrupt
from robustscope.data.datasets import load_data
from robustscope.models.classifier import Classifier
from robustscope.reports.shifts import heat_map, render_shifts, write_shifts
from robustscope.runs import shifts
from robustscope.runs.corrupted import Request, Writer, write_corrupted
from robustscope.runs.shifts import Made, Stored, evaluate_shifts, read_shifts

REQUEST = Request("digits", ("contrast", "gaussian_noise"), "tiny-imagenet-c", samples="40", seed=2)


def linear(classes=10, seed=0) -> Classifier:
    layer = nn.Linear(64, classes)
    generator = torch.Generator().manual_seed(seed)
    layer.weight.data.copy_(torch.randn(classes, 64, generator=generator))
    layer.bias.data.zero_()
    return Classifier(nn.Sequential(nn.Flatten(), layer).eval())


def test_rows_are_those_of_the_model_on_the_corrupted_pictures(tmp_path):
    model, made = linear(), Made(REQUEST)
    rows = evaluate_shifts(model, made, tmp_path, rows=7)
    assert len(rows) == 40 * 11
    data, ids = load_data("digits"), made.ids
    for name, severity in (("clean", 0), ("gaussian_noise", 4), ("contrast", 5)):
        x = data.read(ids)
        if severity:
            x = corrupt(name, x, severity, draws=Draws(2, tuple(ids)), constants="tiny-imagenet-c")
        probabilities = model.logits(x).double().softmax(1)
        mine = rows[(rows["corruption"] == name) & (rows["severity"] == severity)]
        assert mine["sample"].tolist() == ids
        assert mine["prediction"].tolist() == probabilities.argmax(1).tolist()
        assert np.allclose(mine["confidence"], probabilities.max(1).values.numpy(), atol=1e-6)
        assert (mine["correct"].to_numpy() == (mine["prediction"].to_numpy() == data.labels[ids])).all()


def test_an_evaluation_that_was_stopped_goes_on_with_the_next_part(tmp_path, monkeypatch):
    model = linear()
    whole = evaluate_shifts(model, Made(REQUEST), tmp_path / "whole")
    real, left = shifts.write_atomically, [4]

    def failing(path, write, **options):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(path, write, **options)

    monkeypatch.setattr(shifts, "write_atomically", failing)
    with pytest.raises(KeyboardInterrupt):
        evaluate_shifts(model, Made(REQUEST), tmp_path / "broken")
    with pytest.raises(CorruptRun) as caught:
        read_shifts(tmp_path / "broken")
    assert_three_parts(caught.value)
    monkeypatch.setattr(shifts, "write_atomically", real)
    more: list[int] = []
    again = evaluate_shifts(model, Made(REQUEST), tmp_path / "broken", report=more.append)
    assert sum(more) == 40 * 7, "four of eleven parts were stored"
    pd.testing.assert_frame_equal(again, whole)


def test_another_model_or_request_is_refused(tmp_path):
    request = dataclasses.replace(REQUEST, suite=("contrast",), samples="10")
    evaluate_shifts(linear(), Made(request), tmp_path)
    for model, other in (
        (linear(seed=1), request),
        (linear(), dataclasses.replace(request, seed=3)),
        (linear(), dataclasses.replace(request, suite=("fog",))),
    ):
        with pytest.raises(InvalidValue, match="was begun with") as caught:
            evaluate_shifts(model, Made(other), tmp_path)
        assert_three_parts(caught.value)


def test_a_benchmark_on_disk_gives_the_rows_of_the_one_made_here(tmp_path):
    request = dataclasses.replace(REQUEST, suite=("contrast",), samples="all")
    source = tmp_path / "set.npz"  # sorted by class, as folders are
    data = load_data("digits")
    order = np.argsort(data.labels, kind="stable")[::5]
    pixels = (data.read(order) * 255).round().byte().numpy()
    np.savez(source, x=pixels, y=data.labels[order])
    request = dataclasses.replace(request, data=f"npz:{source}")
    write_corrupted(Writer(request, tmp_path / "c"))
    specs = {("contrast", k): f"folder:{tmp_path / 'c' / 'contrast' / str(k)}" for k in range(1, 6)}
    stored = evaluate_shifts(linear(), Stored({("clean", 0): f"npz:{source}", **specs}), tmp_path / "stored")
    made = evaluate_shifts(linear(), Made(request), tmp_path / "made")
    pd.testing.assert_frame_equal(stored, made)


def test_faults_are_named(tmp_path):
    with pytest.raises(InvalidValue, match="4 outputs, and there is a label 9") as caught:
        evaluate_shifts(linear(4), Made(REQUEST), tmp_path / "few")
    assert_three_parts(caught.value)
    with pytest.raises(InvalidValue, match="no part"):
        Stored({})
    with pytest.raises(MissingFile):
        read_shifts(tmp_path / "nowhere")
    evaluate_shifts(linear(), Made(dataclasses.replace(REQUEST, suite=("fog",))), tmp_path / "one")
    (tmp_path / "one" / "parts" / "fog-2.safetensors").write_bytes(b"torn")
    with pytest.raises(CorruptRun, match="fog-2"):
        read_shifts(tmp_path / "one")


# Summaries ------------------------------------------------------------------------------------------------------------


def rows_of(cells: dict[tuple[str, int], str]) -> pd.DataFrame:
    """Rows from texts such as "1101": one digit for each sample, all of confidence 3/4."""
    parts = [
        pd.DataFrame(
            {
                "corruption": name,
                "severity": severity,
                "sample": range(len(text)),
                "correct": [c == "1" for c in text],
                "confidence": 0.75,
            }
        )
        for (name, severity), text in cells.items()
    ]
    return pd.concat(parts, ignore_index=True)


CELLS = {
    ("clean", 0): "1111",
    ("fog", 1): "1110",
    ("fog", 2): "1000",
    ("snow", 2): "0000",
    ("snow", 1): "1100",
}


def test_the_summary_of_a_hand_computed_table():
    found = shift_summary(rows_of(CELLS), {"fog": [0.5, 0.5], "snow": [1.0, 1.0]}, 0.25)
    cells = {(c["corruption"], c["severity"]): c for c in found["cells"]}
    assert {key: cell["value"] for key, cell in cells.items()} == {
        ("fog", 1): 0.75,
        ("fog", 2): 0.25,
        ("snow", 1): 0.5,
        ("snow", 2): 0.0,
    }
    assert (cells["fog", 1]["k"], cells["fog", 1]["n"], found["n"]) == (3, 4, 4)
    assert (found["clean"]["value"], found["clean"]["low"] < 1) == (1.0, True)
    assert found["mean_error"] == pytest.approx((0.25 + 0.75 + 0.5 + 1.0) / 4)
    assert [row["error"] for row in found["corruptions"]] == pytest.approx([0.5, 0.75])
    assert [row["ratio"] for row in found["corruptions"]] == pytest.approx([1.0, 0.75])
    assert found["mce"] == pytest.approx(0.875)
    assert found["relative_mce"] == pytest.approx((0.5 / 0.25 + 0.75 / 0.75) / 2)
    assert found["clean"]["rms_calibration_error"] == pytest.approx(0.25)
    assert found["shifted"]["rms_calibration_error"] == pytest.approx(0.75 - 6 / 16)
    assert cells["fog", 1]["rms_calibration_error"] == pytest.approx(0.0)


def test_the_order_of_rows_does_not_matter():
    rows = rows_of(CELLS)
    mixed = pd.concat([rows[rows["corruption"] != "clean"].iloc[::-1], rows.iloc[:4]], ignore_index=True)
    first, second = (shift_summary(each) for each in (rows, mixed))
    assert first["shifted"] == second["shifted"]
    key = lambda cell: (cell["corruption"], cell["severity"])  # noqa: E731
    assert sorted(first["cells"], key=key) == sorted(second["cells"], key=key)


def test_what_cannot_be_summarised_is_refused():
    rows = rows_of(CELLS)
    for wrong, kind, match in (
        (rows.drop(columns="correct"), InvalidValue, "without correct"),
        (rows[rows["corruption"] == "clean"], InvalidValue, "without a corruption"),
        (rows.drop(index=5), CorruptRun, "fog of severity 1 has 3 rows"),
        (pd.concat([rows, rows.iloc[[6]]]), CorruptRun, "has 5 rows of 4"),
    ):
        with pytest.raises(kind, match=match) as caught:
            shift_summary(wrong)
        assert_three_parts(caught.value)
    with pytest.raises(InvalidValue, match="only one of model and baseline"):
        shift_summary(rows, {"fog": 0.5})


def test_the_page_and_the_heat_map_show_every_cell(tmp_path):
    cells = {**CELLS, ("glass_blur", 3): "1110"}  # of one severity, as in MNIST-C
    found = shift_summary(rows_of(cells))
    page = render_shifts(found, "a | b").replace("\u00a0", " ")
    assert "# Shifts: a \\| b" in page
    assert "| fog | 75.0 % | 25.0 % | – | 50.0 % |" in page
    assert "| glass\\_blur | – | – | 75.0 % | 25.0 % |" in page
    assert "mCE" not in page
    picture = heat_map(found)
    assert [picture.count(f">{text}<") for text in ("75", "25", "50", "fog", "glass_blur")] == [2, 1, 1, 1, 1]
    paths = write_shifts(found, tmp_path, "one")
    assert paths["svg"].read_text(encoding="utf-8") == picture
    before = paths["md"].read_bytes()
    assert write_shifts(found, tmp_path, "one")["md"].read_bytes() == before
    with_baseline = render_shifts(shift_summary(rows_of(CELLS), {"fog": 0.5, "snow": 1.0}, 0.25), "one")
    assert "mCE 87.5" in with_baseline
    assert "relative mCE 150.0" in with_baseline


def test_means_differences_and_families_of_a_hand_computed_table():
    first, second = rows_of(CELLS), rows_of({**CELLS, ("fog", 1): "0111", ("snow", 1): "1111"})
    found = shift_summary(first, families={"fog": "weather", "snow": "weather"})
    means = [row["value"] for row in found["corruptions"]]
    assert means == [0.5, 0.25]
    assert found["shifted"]["value"] == found["families"][0]["value"] == 0.375
    assert found["families"][0]["corruptions"] == ["fog", "snow"]
    add_differences(found, first, second)
    assert [row["difference"]["value"] for row in found["corruptions"]] == [0.0, -0.25]
    gaps = np.array([0.5, 0, 0, -0.5])  # of fog, each the mean of two severities
    half = 3.182446305 * gaps.std(ddof=1) / 2
    assert found["corruptions"][0]["difference"]["high"] == pytest.approx(half)
    assert found["shifted"]["difference"]["value"] == pytest.approx(-0.125)


def test_a_ratio_that_is_not_defined_is_a_gap_with_its_reason():
    rows = rows_of(CELLS)
    clean = rows[rows["corruption"] == "clean"]
    shifted = rows[rows["corruption"] != "clean"]
    errors = {"fog": [0.0, 0.0], "snow": [0.5, 0.5]}
    found = against(shifted, (errors, 0.0), clean=clean)
    assert (found["mce"], found["relative_mce"]) == (None, None)
    assert "'fog'" in found["mce_reason"]
    found = against(shifted, ({"fog": [0.2, 0.2], "snow": [0.5, 0.5]}, 0.3), clean=clean)
    assert found["mce"] == pytest.approx((0.5 / 0.2 + 0.75 / 0.5) / 2)
    assert found["relative_mce"] is None
    assert found["mce_reason"]
    assert against(shifted, None, clean=None)["mce_reason"] is None


def test_a_model_without_confidences_has_no_calibration():
    found = shift_summary(rows_of(CELLS).assign(confidence=np.nan))
    assert found["shifted"]["rms_calibration_error"] is None
    assert found["shifted"]["value"] == 0.375


def test_intervals_know_that_pictures_of_one_image_go_together():
    for k in (0, 3, 8):
        alike = np.repeat([1.0, 0.0], [k, 8 - k])
        assert clustered(alike, 1) == pytest.approx(proportion(k, 8), abs=1e-12)
        assert clustered(alike, 5) == pytest.approx(proportion(k, 8), abs=1e-12)
    generator = np.random.default_rng(0)
    apart = generator.binomial(10, 0.5, 400) / 10
    low, high = proportion(int(apart.sum() * 10), 4000)[1:]
    found = clustered(apart, 10)
    assert found[2] - found[1] == pytest.approx(high - low, rel=0.1), "independent answers count in full"
    covered = 0
    for _ in range(500):  # half of the images answer alike, half anew for each picture
        chance = np.where(generator.random(80) < 0.5, (generator.random(80) < 0.8).astype(float), 0.8)
        _, low, high = clustered(generator.binomial(5, chance) / 5, 5)
        covered += low <= 0.8 <= high
    assert covered / 500 > 0.92
    for wrong in ((np.empty(0), 2), (np.array([0.5]), 0), (np.array([1.5]), 2)):
        with pytest.raises(InvalidValue) as caught:
            clustered(*wrong)
        assert_three_parts(caught.value)


def orders_of(predictions: list[list[int]]) -> pd.DataFrame:
    """Rows of sequences of one family: the predicted class first, then five others that never change."""
    rows = [
        {"corruption": "tilt", "sample": i, "orders": np.array([[c, 91, 92, 93, 94] for c in one]).ravel()}
        for i, one in enumerate(predictions)
    ]
    return pd.DataFrame(rows)


def test_flips_of_hand_computed_sequences():
    rows = orders_of([[1, 2, 2, 2], [3, 3, 3, 3], [1, 2, 1, 2]])
    moving = sequence_summary(rows, {"tilt": 4}, ())
    assert moving["sequences"][0]["value"] == moving["mean_flips"] == pytest.approx((1 / 3 + 0 + 1) / 3)
    still = sequence_summary(rows, {"tilt": 4}, ("tilt",))
    assert still["sequences"][0]["value"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert moving["sequences"][0]["top5"] == pytest.approx(5 * (1 / 3 + 0 + 1) / 3)
    other = sequence_summary(orders_of([[1, 2, 1, 2], [3, 3, 3, 3], [1, 2, 1, 2]]), {"tilt": 4}, ())
    found = sequence_summary(rows, {"tilt": 4}, (), other)
    assert (found["mfr"], found["mt5d"]) == (pytest.approx(4 / 6), pytest.approx(4 / 6))
    never = sequence_summary(orders_of([[1, 1, 1, 1]] * 3), {"tilt": 4}, ())
    assert sequence_summary(rows, {"tilt": 4}, (), never)["mfr"] is None
    assert "never changes its mind" in sequence_summary(rows, {"tilt": 4}, (), never)["reason"]
    with pytest.raises(InvalidValue):
        sequence_summary(rows.iloc[:0], {"tilt": 4}, ())
