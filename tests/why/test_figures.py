"""Figures of probes of causes show the numbers that they are given, and are the same files each time."""

import numpy as np
import pytest
from PIL import Image

from robustscope.core.errors import InvalidValue
from robustscope.reports.figures import drawing, to_svg
from robustscope.reports.why_figures import (
    decision_map,
    landscape_2d,
    landscape_3d,
    predicted_measured,
    saliency_grid,
    save,
)

TICKS = np.linspace(-2, 2, 9)
PLANE = 1.0 - np.add.outer(TICKS, 0 * TICKS)  # falls along the first direction, 0 at 1


def figures():
    numbers = np.random.default_rng(0)
    maps = {"one": numbers.normal(size=(2, 3, 5, 6)), "other": np.zeros((2, 3, 5, 6))}
    points = {"one": (np.array([0.1, 0.2, np.nan]), np.array([0.1, 0.3, 0.2]))}
    return {
        "saliency": saliency_grid(numbers.random((2, 3, 5, 6)), maps, ["cat", "dog"]),
        "margin": landscape_2d({"plane": PLANE, "flat": PLANE * 0}, TICKS, found={"plane": (1.0, 0.5)}),
        "loss": landscape_2d({"plane": 1 - PLANE}, TICKS, quantity="loss"),
        "surface": landscape_3d({"plane": PLANE, "flat": PLANE * 0}, TICKS),
        "classes": decision_map({"one": (PLANE > 0).astype(float), "two": 2 + 0 * PLANE}, TICKS, ["cat", "dog", "owl"]),
        "points": predicted_measured(points, 0.1),
    }


@pytest.fixture(scope="module")
def drawn():
    return figures()


def test_the_boundary_is_drawn_where_the_margin_is_zero(drawn):
    axes = drawn["margin"].axes[0]
    lines = [c for c in axes.collections if np.allclose(getattr(c, "levels", [1]), [0.0])]
    assert len(lines) == 1
    vertices = lines[0].get_paths()[0].vertices
    assert np.allclose(vertices[:, 0], 1.0)  # the first direction lies to the right
    assert np.ptp(vertices[:, 1]) == 4.0
    assert not [c for c in drawn["margin"].axes[1].collections if np.allclose(getattr(c, "levels", [1]), [0.0])]


def test_panels_share_one_scale(drawn):
    scales = {(c.norm.vmin, c.norm.vmax) for axes in drawn["margin"].axes[:2] for c in axes.collections[:1]}
    assert scales == {(-3.0, 3.0)}


def test_maps_are_absolute_values_summed_over_colours(drawn):
    given = np.random.default_rng(0).normal(size=(2, 3, 5, 6))
    figure = saliency_grid(np.full((2, 3, 5, 6), 0.5), {"one": given})
    assert len(figure.axes) == 4
    assert np.allclose(figure.axes[1].images[0].get_array(), np.abs(given[0]).sum(0))
    assert np.allclose(figure.axes[3].images[0].get_array(), np.abs(given[1]).sum(0))
    grey = saliency_grid(np.full((1, 1, 4, 4), 0.5), {})
    assert grey.axes[0].images[0].get_array().shape == (4, 4)


def test_classes_have_one_colour_in_all_panels(drawn):
    first, second = (axes.images[0].get_array() for axes in drawn["classes"].axes[:2])
    assert len(np.unique(second)) == 1
    assert not set(np.unique(first)) & set(np.unique(second))
    assert [text.get_text() for text in drawn["classes"].legends[0].get_texts()] == ["owl", "dog", "cat"]


def test_points_without_both_distances_are_counted_and_left_out(drawn):
    axes = drawn["points"].axes[0]
    assert np.allclose(axes.collections[0].get_offsets(), [[0.1, 0.1], [0.2, 0.3]])
    assert "2 of 3" in axes.get_legend().get_texts()[0].get_text()


@pytest.mark.parametrize("name", ["saliency", "margin", "loss", "surface", "classes", "points"])
def test_files_are_the_same_each_time_and_show_something(tmp_path, drawn, name):
    png, svg = save(figures()[name], tmp_path / "figures" / name)
    again = save(figures()[name], tmp_path / "again" / name)
    assert svg.read_bytes() == again[1].read_bytes()
    assert png.read_bytes() == again[0].read_bytes()
    pixels = np.asarray(Image.open(png).convert("L"))
    assert pixels.std() > 5
    assert (pixels[0] == 255).all()  # nothing is cut off at the upper edge
    with drawing():
        assert to_svg(drawn[name], name, "A figure").startswith("<svg")


def test_what_does_not_fit_is_refused():
    with pytest.raises(InvalidValue, match="ticks"):
        landscape_2d({"plane": PLANE[:5]}, TICKS)
    with pytest.raises(InvalidValue, match="ticks"):
        landscape_3d({}, TICKS)
    with pytest.raises(InvalidValue, match="images"):
        saliency_grid(np.zeros((2, 7)), {})
    with pytest.raises(InvalidValue, match="images"):
        saliency_grid(np.zeros((2, 1, 4, 4)), {"one": np.zeros((2, 1, 4, 5))})
    with pytest.raises(InvalidValue, match="both distances"):
        predicted_measured({"one": (np.array([np.nan]), np.array([1.0]))})
    with pytest.raises(InvalidValue, match="lengths"):
        predicted_measured({"one": (np.array([1.0]), np.array([1.0, 2.0]))})
