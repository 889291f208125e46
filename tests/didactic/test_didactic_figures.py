import numpy as np
import pandas as pd
import pytest

from chemkl.didactic.figures import draw
from chemkl.reports.figures import to_png, to_svg


@pytest.fixture
def answers():
    """Two experiments over three answers, as Figs 3 and 4 have them."""
    own = {
        "token": [0, 1, 2],
        "reward": [0.0, 0.9, 1.0],
        "p_ref": [0.2, 0.3, 0.5],
        "closed_form": [0.1, 0.2, 0.7],
        "trained": [0.11, 0.22, 0.67],
    }
    frames = [
        pd.DataFrame(own).assign(figure=figure, experiment=f"run {n}", kl="reverse")
        for figure in (3, 4)
        for n in (1, 2)
    ]
    return pd.concat(frames)


def test_bars_are_the_closed_form_and_dots_the_trained_policy(answers):
    figure = draw(3, answers)
    assert len(figure.axes) == 2
    for axes in figure.axes:
        heights = [bar.get_height() for bar in axes.patches]
        assert heights == pytest.approx([0.2, 0.3, 0.5, 0.1, 0.2, 0.7])
        (dots,) = axes.lines
        np.testing.assert_allclose(dots.get_ydata(), [0.11, 0.22, 0.67])


def test_the_bytes_are_the_same_every_time(answers):
    for encode in (to_png, to_svg):
        assert encode(draw(4, answers)) == encode(draw(4, answers))


def test_figure_2_needs_the_sweep(answers):
    with pytest.raises(ValueError, match=r"Fig\. 2 needs the table of both modes over beta"):
        draw(2, answers.assign(figure=2))
