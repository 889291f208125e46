"""The figure of a text run, read off its axes: means, bands and the lines across."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from chemkl.reports.curves import draw_entropy
from chemkl.reports.figures import INK, SOFT, colour, dash

NAN = float("nan")


def seed(steps, entropy, mass, *, k=2, entropy_ref=0.325, mass_ref=0.8):
    return pd.DataFrame(
        {
            "step": steps, "ln_k": math.log(k), "entropy": entropy, "entropy_ref": entropy_ref,
            "mass": mass, "mass_ref": mass_ref,
        }
    )  # fmt: skip


@pytest.fixture
def curves():
    """Three seeds of one method, out of order and with steps of their own; one run of another."""
    return {
        "mara": [
            seed([0, 20, 10, 30], [0.3, 0.6, 0.5, 0.9], [0.8, 0.9, 0.7, 0.1]),
            seed([0, 10, 20, 40], [0.5, 0.3, 0.7, 0.9], [0.6, 0.7, 1.0, 0.1]),
            seed([0, 10, 20], [1.0, 0.1, 0.2], [0.1, 0.7, 0.8]),
        ],
        "rloo": [seed([0, 10], [0.3, 0.2], [0.8, 0.9])],
    }


def drawn(axes):
    """The lines of the methods by label: x, y and the line; and those across: y and the line."""
    methods, across = {}, []
    for line in axes.get_lines():
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        if len(x) == 2 and (x == [0, 1]).all() and y[0] == y[1]:  # from edge to edge
            across.append((y[0], line))
        else:
            methods[line.get_label()] = (x.tolist(), y.tolist(), line)
    return methods, across


def outline(band, x):
    """The lowest and the highest y of a band at an x."""
    vertices = band.get_paths()[0].vertices
    here = vertices[vertices[:, 0] == x][:, 1]
    return [float(here.min()), float(here.max())]


def test_a_method_is_the_mean_of_its_seeds_at_the_steps_that_all_have(curves):
    left, right = draw_entropy(curves).axes
    # steps 0, 10, 20 are of all three seeds
    expected = {
        "mara (n = 3)": (([0, 10, 20], [0.6, 0.3, 0.5]), ([0, 10, 20], [0.5, 0.7, 0.9])),
        "rloo": (([0, 10], [0.3, 0.2]), ([0, 10], [0.8, 0.9])),
    }
    for axes, place in ((left, 0), (right, 1)):
        methods, _ = drawn(axes)
        assert methods.keys() == expected.keys()
        for number, (name, (x, y, line)) in enumerate(methods.items()):
            assert x == expected[name][place][0]
            assert y == pytest.approx(expected[name][place][1])
            assert (line.get_color(), line.get_linestyle()) == (colour(number), dash(number))


def test_the_band_reaches_from_the_lowest_to_the_highest_seed(curves):
    left, right = draw_entropy(curves).axes
    expected = {
        left: {0: [0.3, 1.0], 10: [0.1, 0.5], 20: [0.2, 0.7]},
        right: {0: [0.1, 0.8], 10: [0.7, 0.7], 20: [0.8, 1.0]},
    }
    for axes, at in expected.items():
        (band,) = axes.collections  # the run without a second seed has none
        assert {x: pytest.approx(outline(band, x)) for x in at} == at
        assert set(band.get_paths()[0].vertices[:, 0]) == set(at)
        assert tuple(band.get_facecolor()[0]) == pytest.approx(to_rgba(colour(0), 0.18))


def test_the_lines_across_are_ln_k_and_the_reference(curves):
    left, right = draw_entropy(curves).axes
    entropies, masses = (drawn(axes)[1] for axes in (left, right))
    assert [
        (y, line.get_label(), line.get_linestyle(), line.get_color()) for y, line in entropies
    ] == [
        (pytest.approx(math.log(2), abs=5e-4), "ln K, uniform", ":", INK),
        (0.325, "reference", "--", SOFT),
    ]
    assert [(y, line.get_label(), line.get_linestyle()) for y, line in masses] == [
        (0.8, "reference", "--")
    ]


def test_tasks_of_different_size_have_a_line_each_and_one_entry_in_the_legend():
    two = seed([0, 10], [0.3, 0.6], [0.8, 0.9])
    many = seed([0, 10], [0.9, 2.0], [0.8, 0.9], k=16, entropy_ref=1.2, mass_ref=0.5)
    figure = draw_entropy({"two": [two], "sixteen": [many]})
    entropies, masses = (drawn(axes)[1] for axes in figure.axes)
    expected = [math.log(2), math.log(16), 0.325, 1.2]
    assert [y for y, _ in entropies] == pytest.approx(expected, abs=5e-4)
    assert [y for y, _ in masses] == [0.5, 0.8]
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["two", "sixteen", "ln K, uniform", "reference"]


def test_a_step_without_a_value_is_left_out_and_so_is_a_reference_that_is_not_known():
    seeds = [
        seed([0, 10, 20], [0.3, NAN, 0.5], [0.8, 0.8, 0.8], entropy_ref=NAN),
        seed([0, 10, 20], [0.1, 0.4, 0.5], [0.8, 0.8, 0.8], entropy_ref=NAN),
    ]
    left, right = draw_entropy({"mara": seeds}).axes
    methods, across = drawn(left)
    assert methods["mara (n = 2)"][:2] == ([0, 20], pytest.approx([0.2, 0.5]))
    assert [line.get_label() for _, line in across] == ["ln K, uniform"]
    assert drawn(right)[0]["mara (n = 2)"][0] == [0, 10, 20]


def test_both_axes_begin_at_nothing(curves):
    left, right = draw_entropy(curves).axes
    assert left.get_ylim()[0] == right.get_ylim()[0] == 0
    assert right.yaxis.get_major_formatter()(0.5) == "50%"
