"""Draws the pictures of docs/guides/placement.md: python docs/images/placements.py"""

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from dbjax.pictures import block_colour

INK, PALE, GREY = "#30343b", "#f3f4f6", "#c9cdd4"


def box(axes: Axes, x: float, y: float, w: float, h: float, text: str, face: str, **style) -> None:
    edge = style.pop("edge", face)
    axes.add_patch(
        FancyBboxPatch(
            (x, y), w, h, boxstyle="round,pad=0,rounding_size=0.08", facecolor=face,
            edgecolor=edge, linewidth=1.2, **style,
        )
    )  # fmt: skip
    if text:
        light = face in (PALE, GREY, "white")
        colour = INK if light else "white"
        axes.text(x + w / 2, y + h / 2, text, ha="center", va="center", color=colour, fontsize=10)


def device(axes: Axes, x: float, y: float, w: float, h: float, name: str) -> None:
    box(axes, x, y, w, h, "", PALE, edge=INK)
    axes.text(x + 0.12, y + h - 0.1, name, ha="left", va="top", fontsize=8.5, color=INK)


def block(axes: Axes, b: int, x: float, y: float, w: float, h: float, **style) -> None:
    box(axes, x, y, w, h, f"block {b}", block_colour(b), **style)


def arrow(axes: Axes, start: tuple, end: tuple, text: str = "", side: float = 0.14) -> None:
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="<->", mutation_scale=11, color=INK, linewidth=1.2)
    )
    if text:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        axes.text(x + side, y, text, ha="left", va="center", fontsize=8.5, color=INK)


def sequential(axes: Axes) -> None:
    device(axes, 0, 1.55, 3.4, 1.25, "accelerator")
    block(axes, 1, 0.25, 1.75, 2.9, 0.6)
    device(axes, 0, 0, 3.4, 0.95, "host memory")
    block(axes, 0, 0.25, 0.12, 1.35, 0.45, alpha=0.55)
    block(axes, 2, 1.8, 0.12, 1.35, 0.45, alpha=0.55)
    arrow(axes, (1.7, 0.97), (1.7, 1.53), "one visit after the other")


def stacked(axes: Axes) -> None:
    device(axes, 0, 0, 3.4, 2.8, "accelerator")
    for b in range(3):
        block(axes, b, 0.25, 1.65 - 0.72 * b, 2.9, 0.6)


def sharded(axes: Axes) -> None:
    for b in range(3):
        y = 1.95 - 0.97 * b
        for i in range(2):
            device(axes, 2.55 * i, y, 2.2, 0.85, f"device {2 * b + i}")
            block(axes, b, 2.55 * i + 0.15, y + 0.1, 1.9, 0.42)
        arrow(axes, (2.2, y + 0.3), (2.55, y + 0.3))
    axes.text(2.375, -0.12, "data", ha="center", va="top", fontsize=8.5, color=INK)
    arrow(axes, (4.95, 0.1), (4.95, 2.7))
    axes.text(
        5.05, 1.4, "block: nothing,\nor the average\nof a shared\ninterface",
        ha="left", va="center", fontsize=8.5, color=INK,
    )  # fmt: skip


def isolated(axes: Axes) -> None:
    names = ("a GPU here", "a laptop", "a TPU elsewhere")
    for b, name in enumerate(names):
        device(axes, 1.75 * b, 1.5, 1.55, 1.3, name)
        block(axes, b, 1.75 * b + 0.15, 1.68, 1.25, 0.65)
        axes.add_patch(
            FancyArrowPatch(
                (1.75 * b + 0.775, 1.48), (2.525, 0.72), arrowstyle="->", mutation_scale=11,
                color="#757b84", linewidth=1.2, linestyle="--",
            )
        )  # fmt: skip
    box(axes, 1.2, 0.1, 2.65, 0.6, "assemble, once, at the end", "white", edge=INK)


PICTURES: dict[str, tuple[Callable[[Axes], None], float]] = {
    "sequential": (sequential, 3.6),
    "stacked": (stacked, 3.6),
    "sharded": (sharded, 6.3),
    "isolated": (isolated, 5.2),
}


def main() -> None:
    for name, (draw, width) in PICTURES.items():
        figure, axes = plt.subplots(figsize=(width, 3.2), dpi=160)
        draw(axes)
        axes.set(xlim=(-0.1, width - 0.1), ylim=(-0.35, 2.9), aspect="equal")
        axes.axis("off")
        figure.savefig(
            Path(__file__).parent / f"placement_{name}.png", bbox_inches="tight", pad_inches=0.05
        )
        plt.close(figure)


if __name__ == "__main__":
    main()
