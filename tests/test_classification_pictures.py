"""Pictures of classifiers: the right numbers in the right places, and one colour for one block."""

import numpy as np
from matplotlib.colors import to_hex

from dbjax import classification_pictures, pictures
from dbjax.metrics.classification import Reliability

WALK = [
    {"step": i + 1, "sigma": 80 / 4**i, "block": i // 2, "accuracy": 0.2 + 0.1 * i}
    | {"oracle": 0.3 + 0.1 * i, "image_only": 0.2 - 0.02 * i}
    for i in range(6)
]


def test_a_walk_has_its_three_accuracies_in_the_colours_of_the_blocks() -> None:
    axes = classification_pictures.walk_figure(WALK, 0.1, 0.9, "twin").axes[0]
    drawn = [np.asarray(line.get_ydata()) for line in axes.get_lines()]
    for key in ("accuracy", "oracle", "image_only"):
        assert any(np.array_equal(y, [row[key] for row in WALK]) for y in drawn)
    for marks in axes.collections:
        found = [to_hex(colour).upper() for colour in np.asarray(marks.get_facecolor())]
        assert found == [pictures.block_colour(i // 2) for i in range(6)]
    texts = {text.get_text() for text in axes.texts}
    assert texts >= {"twin", "guessing", "block 0", "block 1", "block 2", "20.0%", "70.0%"}


def test_a_long_walk_has_lines_alone() -> None:
    walk = [{**WALK[0], "step": i + 1, "block": i // 100} for i in range(1000)]
    axes = classification_pictures.walk_figure(walk, 0.1).axes[0]
    assert not axes.collections
    strip = {to_hex(line.get_color()).upper() for line in axes.get_lines()}
    assert strip == {*pictures.PALETTE, pictures.INK}


def test_a_bar_for_each_block_left_out() -> None:
    rows = [{"block": b, "accuracy": 0.2 * b} for b in range(4)]
    axes = classification_pictures.leave_out_figure(rows, 0.7).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.2 * b for b in range(4)]  # type: ignore[attr-defined]
    assert [to_hex(bar.get_facecolor()).upper() for bar in axes.patches] == [
        pictures.block_colour(b) for b in range(4)
    ]
    assert axes.get_yticklabels()[1].get_text() == "without block 1: 20.0%"
    assert axes.yaxis_inverted(), "the noisiest block comes first"


def test_effort_is_measured_in_layers() -> None:
    steps = [{"num_steps": n, "accuracy": 0.1 * n, "layer_evaluations": 2 * n} for n in (1, 3, 6)]
    noises = [{"num_noises": n, "accuracy": 0.2, "layer_evaluations": 6 * n} for n in (1, 2)]
    axes = classification_pictures.effort_figure(steps, noises, 3).axes[0]
    assert [list(line.get_xdata()) for line in axes.get_lines()] == [[2, 6, 12], [6, 12]]  # type: ignore[arg-type]
    assert [text.get_text() for text in axes.texts] == ["1", "3", "6", "1", "2"]


def test_confidence_without_images_is_not_marked() -> None:
    bins = Reliability(np.array([0, 0.25, 0.75]), np.array([0, 0.5, 0.9]), np.array([0, 0.4, 1.0]))
    upper, lower = classification_pictures.reliability_figure(bins, "run", bins, "twin").axes
    for marks in upper.collections:
        sizes = np.asarray(marks.get_sizes())  # type: ignore[attr-defined]
        assert sizes[0] == 0 and 0 < sizes[1] < sizes[2]
    assert lower.get_yscale() == "log"


def test_confusion_is_transparent_where_nothing_is() -> None:
    confusion = np.array([[9, 1, 0], [0, 10, 0], [0, 0, 0]])
    axes = classification_pictures.confusion_figure(confusion).axes[0]
    image = np.asarray(axes.images[0].get_array())
    assert np.all((image[..., 3] > 0) == (confusion > 0))
    assert image[0, 1, 3] > image[0, 0, 3] / 9, "rare mistakes are drawn stronger"
    assert {text.get_text() for text in axes.texts} == {"9", "1", "10"}
    many = classification_pictures.confusion_figure(np.eye(100, dtype=int)).axes[0]
    assert not many.texts
