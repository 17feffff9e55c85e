"""Figures of what probes of causes return: saliency grids, landscapes, decision maps, predicted against measured.

Each function takes arrays and returns a matplotlib figure; :func:`save` writes it as PNG and as SVG, and
:func:`robustscope.reports.figures.to_svg` puts it into a page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, ListedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from robustscope.core.errors import InvalidValue
from robustscope.reports.figures import GRID, INK, SERIES, drawing, make_axes, series

HEAT = LinearSegmentedColormap.from_list("heat", ["#ffffff", "#9db2e6", SERIES[0], "#16204f"])
SIDES = LinearSegmentedColormap.from_list("sides", ["#8a1c12", "#e9a99f", "#ffffff", "#9db2e6", "#1d2f73"])
LARGEST = 99.0
"""Percentile of a saliency map that is drawn darkest, so that one pixel does not hide all others."""
DPI = 160


def save(figure: Figure, path: Path | str) -> tuple[Path, Path]:
    """Write a figure as PNG and as SVG, both without a date, so that the same figure is the same file.

    Args:
        figure: to write.
        path: where, without an ending.

    Returns:
        The paths of both files.
    """
    stem = Path(path)
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    with drawing():
        figure.savefig(png, dpi=DPI, facecolor="white", metadata={"Software": None})
        figure.savefig(svg, facecolor="white", metadata={"Date": None, "Creator": None})
    return png, svg


def saliency_grid(x: np.ndarray, maps: Mapping[str, np.ndarray], names: Sequence[str] = ()) -> Figure:
    """Draw samples down, and for each the image and its saliency maps across.

    Colours of a pixel are summed as absolute values; each map is drawn from white at 0 to dark at its own 99th percentile,
    so that maps are compared by where they are dark, not by how dark they are.

    Args:
        x: (N, C, H, W), images of one or three channels, in [0, 1].
        maps: title -> (N, C, H, W), maps of the same samples, for instance one of each model.
        names: of the samples, such as their classes; N of them, or none.

    Raises:
        InvalidValue: for maps of other shapes, and inputs that are no images.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or not len(x) or any(m.shape != x.shape for m in maps.values()):
        shapes = ", ".join(str(m.shape) for m in maps.values())
        raise InvalidValue(
            f"images {x.shape} and maps {shapes} were given",
            "images (N, C, H, W) of one or three channels, and maps of their shape, are allowed",
            "Give the pictures of the probe 'saliency' for these images.",
        )
    rows, columns = len(x), 1 + len(maps)
    with drawing():
        figure = Figure(figsize=(1.05 * columns + 0.3, 1.05 * rows + 0.35), layout="constrained")
        for row in range(rows):
            for column, title in enumerate(["image", *maps]):
                axes = _bare(figure, (rows, columns, row * columns + column + 1))
                if column == 0:
                    image = np.clip(np.moveaxis(x[row], 0, -1), 0, 1)
                    axes.imshow(image if image.shape[2] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=1)
                    if len(names) == rows:
                        axes.set_ylabel(str(names[row]), fontsize=8)
                else:
                    size = np.abs(maps[title][row]).sum(0)
                    axes.imshow(size, cmap=HEAT, vmin=0, vmax=max(float(np.percentile(size, LARGEST)), 1e-30))
                if row == 0:
                    axes.set_title(_wrapped(title), fontsize=7.5, color=INK)
        return figure


def _wrapped(title: str, width: int = 15) -> str:
    """Return a title broken behind spaces and underscores, so that it does not run into the next one."""
    lines = [""]
    for part in re.split(r"(?<=[_ \n])", title):
        if len(lines[-1]) + len(part.rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.strip() for text in lines for line in text.strip().split("\n"))


def _bare(figure: Figure, spot: tuple[int, int, int]) -> Any:
    """Return axes without ticks and grid, for an image."""
    axes = make_axes(0, 0, figure=figure, spot=spot)[1]
    axes.grid(visible=False)
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(True)
    return axes


def _panels(grids: Mapping[str, np.ndarray], ticks: np.ndarray) -> None:
    """Refuse grids that do not belong to the ticks.

    Raises:
        InvalidValue: naming the shapes.
    """
    size = (len(ticks), len(ticks))
    if not grids or any(grid.shape != size for grid in grids.values()):
        raise InvalidValue(
            f"grids of shapes {[grid.shape for grid in grids.values()]} were given for {len(ticks)} ticks",
            f"one or more grids {size} are allowed",
            "Give one sample of a picture of the probe 'landscape', and its axis.",
        )


def landscape_2d(
    grids: Mapping[str, np.ndarray],
    ticks: np.ndarray,
    labels: tuple[str, str] = ("loss gradient", "random"),
    quantity: str = "margin",
    found: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """Draw a surface as filled contours, one panel for each model, all on one scale.

    Of margins the boundary, where they are 0, is a bold line, with red below and blue above; losses go from white up.

    Args:
        grids: model -> (n, n), the first direction down its rows, as the probe returns it.
        ticks: (n,), in units of epsilon, of both directions.
        labels: of the first and the second direction.
        quantity: "margin" or "loss".
        found: model -> where its adversarial example lies, in units of the ticks; a cross.

    Raises:
        InvalidValue: for grids of another size than the ticks.
    """
    _panels(grids, ticks)
    values = np.stack(list(grids.values()))
    low, high = float(values.min()), float(values.max())
    sided = quantity == "margin"
    reach = max(abs(low), abs(high)) or 1.0
    scale: dict[str, Any] = (
        {"cmap": SIDES, "norm": TwoSlopeNorm(0.0, -reach, reach)} if sided else {"cmap": HEAT, "vmin": min(low, 0.0)}
    )
    levels = np.linspace(-reach, reach, 21) if sided else np.linspace(min(low, 0.0), max(high, 1e-12), 15)
    with drawing():
        figure = Figure(figsize=(2.75 * len(grids) + 0.7, 2.9), layout="constrained")
        panels = []
        for place, (name, grid) in enumerate(grids.items()):
            axes = _plane(figure, (1, len(grids), place + 1), ticks, labels, name)
            drawn = axes.contourf(ticks, ticks, grid.T, levels=levels, **scale)
            if sided and grid.min() < 0 < grid.max():
                axes.contour(ticks, ticks, grid.T, levels=[0.0], colors=INK, linewidths=1.8)
            axes.plot(0, 0, "o", color=INK, ms=4.5)
            if found and name in found:
                axes.plot(*found[name], "X", color=SERIES[1], ms=7, mec="white", mew=0.8, clip_on=False)
            panels.append(axes)
        bar = figure.colorbar(drawn, ax=panels, shrink=0.85, label=quantity)
        bar.ax.yaxis.set_major_locator(MaxNLocator(6))
        return figure


def _plane(
    figure: Figure, spot: tuple[int, int, int], ticks: np.ndarray, labels: tuple[str, str], name: str, **more: Any
) -> Any:
    """Return square axes of a plane: the first direction to the right, the second up, in units of epsilon."""
    axes = make_axes(0, 0, figure=figure, spot=spot)[1]
    axes.grid(visible=False)
    axes.set(xlim=(ticks[0], ticks[-1]), ylim=(ticks[0], ticks[-1]), aspect="equal", **more)
    axes.set_xlabel(f"{labels[0]} / epsilon")
    if spot[2] == 1:
        axes.set_ylabel(f"{labels[1]} / epsilon")
    axes.set_title(_wrapped(name, 28), fontsize=9, color=INK, loc="left")
    for line in (axes.xaxis, axes.yaxis):
        line.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    return axes


def landscape_3d(
    grids: Mapping[str, np.ndarray],
    ticks: np.ndarray,
    labels: tuple[str, str] = ("loss gradient", "random"),
    quantity: str = "loss",
) -> Figure:
    """Draw a surface in three dimensions, one panel for each model, all on one scale.

    Args:
        grids: model -> (n, n), the first direction down its rows.
        ticks: (n,), in units of epsilon, of both directions.
        labels: of the first and the second direction.
        quantity: what stands upwards.

    Raises:
        InvalidValue: for grids of another size than the ticks.
    """
    _panels(grids, ticks)
    values = np.stack(list(grids.values()))
    low, high = float(values.min()), float(values.max())
    first, second = np.meshgrid(ticks, ticks, indexing="ij")
    with drawing():
        figure = Figure(figsize=(3.6 * len(grids), 3.4))
        figure.subplots_adjust(left=0.02, right=0.9, bottom=0.04, top=0.94, wspace=0.2)
        for place, (name, grid) in enumerate(grids.items()):
            axes: Any = figure.add_subplot(1, len(grids), place + 1, projection="3d")
            axes.plot_surface(
                first, second, grid, cmap=HEAT, vmin=low, vmax=high, lw=0.25, edgecolor=INK, antialiased=True
            )
            axes.set(zlim=(low, high if high > low else low + 1))
            axes.set_xlabel(labels[0], fontsize=8)
            axes.set_ylabel(labels[1], fontsize=8)
            axes.tick_params(labelsize=7, pad=1)
            axes.view_init(elev=28, azim=-128)
            axes.set_title(_wrapped(f"{name}: {quantity}", 32), fontsize=9, color=INK)
            for line in (axes.xaxis, axes.yaxis, axes.zaxis):
                line.set_major_locator(MaxNLocator(5))
                line.set_pane_color((1, 1, 1, 0))
        return figure


def decision_map(
    grids: Mapping[str, np.ndarray],
    ticks: np.ndarray,
    classes: Sequence[str] = (),
    labels: tuple[str, str] = ("loss gradient", "random"),
) -> Figure:
    """Draw which class is predicted where in a plane, one panel for each model.

    Classes have one colour in all panels, named below; at most eight are told apart, those that fill most of the planes.

    Args:
        grids: model -> (n, n), predicted classes, the first direction down its rows.
        ticks: (n,), in units of epsilon, of both directions.
        classes: their names; numbers where there are none.
        labels: of the first and the second direction.

    Raises:
        InvalidValue: for grids of another size than the ticks.
    """
    _panels(grids, ticks)
    values = np.stack(list(grids.values())).astype(np.int64)
    known, counts = np.unique(values, return_counts=True)
    shown = known[np.argsort(-counts, kind="stable")][: len(SERIES)]
    order = {int(k): i for i, k in enumerate(shown)}
    with drawing():
        figure = Figure(figsize=(2.6 * len(grids) + 0.3, 3.3), layout=ConstrainedLayoutEngine(h_pad=0.1, compress=True))
        colours = ListedColormap([*SERIES[: len(shown)], GRID])
        norm = BoundaryNorm(np.arange(len(shown) + 2) - 0.5, len(shown) + 1)
        step = (ticks[1] - ticks[0]) / 2
        for place, (name, grid) in enumerate(grids.items()):
            axes = _plane(figure, (1, len(grids), place + 1), ticks, labels, name)
            ranks = np.vectorize(lambda k: order.get(int(k), len(shown)))(grid)
            ends = (ticks[0] - step, ticks[-1] + step)
            axes.imshow(ranks.T, cmap=colours, norm=norm, alpha=0.72, origin="lower", extent=(*ends, *ends))
            axes.set(xlim=ends, ylim=ends)
            axes.plot(0, 0, "o", color="white", mec=INK, ms=5)
        keys = [
            Figure().add_subplot().scatter([], [], marker="s", s=52, color=SERIES[i], alpha=0.72)
            for i in order.values()
        ]
        said = [str(classes[k]) if k < len(classes) else f"class {k}" for k in order]
        figure.legend(keys, said, loc="outside lower center", ncols=min(len(said), 4), frameon=False, fontsize=8)
        return figure


def predicted_measured(points: Mapping[str, tuple[np.ndarray, np.ndarray]], sigma: float | None = None) -> Figure:
    """Draw measured against predicted distances to the nearest error, and the line where they are equal.

    Args:
        points: model -> (predicted, measured), each (N,); samples where either is NaN are left out, and counted in the
            key.
        sigma: of the noise behind the prediction, for the label.

    Raises:
        InvalidValue: for pairs of different lengths, or where no sample has both.
    """
    if any(a.shape != b.shape or a.ndim != 1 for a, b in points.values()):
        raise InvalidValue("distances of different lengths were given", "one pair for each sample is allowed", "")
    kept = {name: np.isfinite(a) & np.isfinite(b) for name, (a, b) in points.items()}
    if not any(mask.any() for mask in kept.values()):
        raise InvalidValue("no sample with both distances was given", "one or more are allowed", "Use a larger sigma.")
    with drawing():
        figure, axes = make_axes(4.6, 3.6)
        axes.grid(axis="x", visible=True)
        top = max(float(np.max(p[kept[name]])) for name, pair in points.items() for p in pair if kept[name].any())
        axes.plot([0, top], [0, top], color=INK, lw=1.0, ls=(0, (4, 3)), zorder=1)
        for index, (name, (predicted, measured)) in enumerate(points.items()):
            mask = kept[name]
            colour, _, marker = series(index)
            label = f"{name}: {int(mask.sum())} of {len(mask)} samples"
            axes.scatter(
                predicted[mask], measured[mask], s=18, color=colour, marker=marker, alpha=0.75, lw=0, label=label
            )
        axes.set_xlabel("predicted l2 distance" + ("" if sigma is None else f", from noise of sigma {sigma:g}"))
        axes.set_ylabel("measured l2 distance")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
        return figure
