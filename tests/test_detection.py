"""Detection on frames: precision by hand, objects claimed once, and the drop on the worst frame of each anchor."""

import numpy as np
import pytest

from doors import assert_three_parts
from robustscope.analyses.detection import Boxes, average_precision, detection_drop, mean_average_precision, overlaps
from robustscope.core.errors import InvalidValue


def test_overlap_and_average_precision_by_hand():
    boxes = np.array([[0.0, 0, 4, 4], [2, 2, 6, 6], [0, 0, 0, 0]])
    assert overlaps(boxes, boxes[:2]).round(4).tolist() == [[1.0, 0.1429], [0.1429, 1.0], [0.0, 0.0]]
    assert average_precision(np.array([True, False, True]), np.array([0.9, 0.8, 0.7]), 2) == pytest.approx(5 / 6)
    assert average_precision(np.array([False, True]), np.array([0.9, 0.8]), 2) == pytest.approx(0.25)
    assert average_precision(np.array([False, True, True]), np.array([0.9, 0.8, 0.7]), 2) == pytest.approx(2 / 3)
    assert average_precision(np.zeros(0, bool), np.zeros(0), 3) == 0.0


def test_an_object_is_claimed_once_and_by_the_surest():
    truth = {0: Boxes(np.array([[0, 0, 4, 4]]), np.array([1]))}
    twice = {0: Boxes(np.array([[0, 0, 4, 4], [0, 0, 4, 3.9]]), np.array([1, 1]), np.array([0.5, 0.9]))}
    assert mean_average_precision([0], twice, truth) == 1.0
    wrong_class = {0: Boxes(np.array([[0, 0, 4, 4]]), np.array([2]), np.array([0.9]))}
    assert mean_average_precision([0], wrong_class, truth) == 0.0
    assert mean_average_precision([0], {}, truth) == 0.0


def test_the_drop_of_a_detector_that_loses_an_object_in_one_frame():
    box, one = np.array([[0, 0, 4, 4]]), np.array([0])
    truth = {name: Boxes(box, one) for name in "abcd"} | {"empty": Boxes(np.zeros((0, 4)), np.zeros(0))}
    seen = Boxes(box, one, np.array([0.9]))
    far = Boxes(box + 3, one, np.array([0.9]))
    found = detection_drop(["a", "c"], [["b", "empty"], ["d"]], {"a": seen, "b": far, "c": seen, "d": seen}, truth)
    # the worst frames are b (missed) and c: one of two objects, the false alarm of the same score first
    assert found["worst"] == ["b", "c"]
    assert (found["benign"], found["pm"], found["drop"]) == (1.0, 0.25, 0.75)
    with pytest.raises(InvalidValue, match="one set for each") as caught:
        detection_drop(["a"], [], {}, truth)
    assert_three_parts(caught.value)
    with pytest.raises(InvalidValue, match="corners"):
        Boxes(np.array([[4, 0, 0, 4]]), one)
