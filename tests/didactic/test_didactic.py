import xml.etree.ElementTree as ET
from io import StringIO
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from chemkl.config import InputError
from chemkl.didactic import run as didactic_run
from chemkl.didactic.config import DidacticConfig
from chemkl.didactic.run import draw
from chemkl.results import Manifest
from chemkl.stages import didactic
from chemkl.stages.plan import check_file
from chemkl.stages.registry import STAGES

ROOT = Path(__file__).parents[2]
SHORT = {"steps": 20}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of all five figures after a short training, the table, and the printed text."""
    folder, printed = tmp_path_factory.mktemp("didactic"), StringIO()
    console = Console(file=printed, width=200)
    frame = didactic.run({"learning": SHORT}, folder, console=console)
    return folder, frame, printed.getvalue()


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_every_figure_is_a_png_and_an_svg(finished, number):
    folder, _, _ = finished
    image = matplotlib.image.imread(folder / f"fig{number}.png")
    assert image.shape[0] > 300
    assert image.shape[1] > 900
    assert image[..., :3].min() < 0.5 < image[..., :3].max()  # something is drawn on white
    text = (folder / f"fig{number}.svg").read_text()
    assert ET.fromstring(text).tag.endswith("svg")
    assert "dc:date" not in text


def test_the_table_is_written_described_and_printed(finished):
    folder, frame, printed = finished
    table = pq.read_table(folder / "quantities.parquet")
    assert all(field.metadata[b"description"] for field in table.schema)
    assert table.num_rows == len(frame)
    assert set(frame["source"]) == {"paper", "formula"}
    for word in ("closed form", "trained", "mara, forward KL, beta 1", " 3.589 ", "beta where the"):
        assert word in printed
    assert " formula " in printed
    row = frame[frame["experiment"] == "mara, reverse KL, beta 1"].iloc[0]
    assert row["trained_min"] < row["trained"] < row["trained_max"]


def test_a_training_that_is_too_short_is_reported(finished, monkeypatch, tmp_path):
    _, frame, printed = finished
    assert f"largest TV {frame['tv'].max():.4f}: not converged, take more steps" in printed
    monkeypatch.setattr(didactic_run, "CONVERGED", 1.0)  # no distance is above that
    console = Console(file=StringIO(), width=132)
    didactic.run({"figures": [3], "learning": SHORT}, tmp_path, console=console)
    assert "closed form" in console.file.getvalue()
    assert "not converged" not in console.file.getvalue()


def test_the_manifest_names_the_figures(finished):
    folder, frame, _ = finished
    manifest = Manifest.load(folder)
    assert manifest.status == "complete"
    assert manifest.stage == "didactic"
    assert manifest.results["figures"] == [1, 2, 3, 4, 5]
    assert manifest.results["largest_tv"] == pytest.approx(frame["tv"].max())
    written = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    figures = {f"fig{n}.{end}" for n in range(1, 6) for end in ("png", "svg")}
    tables = {"quantities.parquet", "distributions.parquet", "sweep.parquet"}
    assert written == figures | tables | {"manifest.json", "log.jsonl"}


def test_some_figures_alone_are_the_same_bytes(finished, tmp_path):
    """Every run has its own random stream, and no file has a date in it."""
    folder, _, _ = finished
    didactic.run({"figures": [4, 3], "learning": SHORT}, tmp_path, console=Console(quiet=True))
    for name in ("fig3.png", "fig3.svg", "fig4.png", "fig4.svg"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert not (tmp_path / "fig1.png").exists()
    assert not (tmp_path / "sweep.parquet").exists()
    assert set(pq.read_table(tmp_path / "distributions.parquet")["figure"].to_pylist()) == {3, 4}


def test_the_seed_reaches_the_samples(finished, tmp_path):
    config = {"figures": [3], "seed": 1, "learning": SHORT}
    other = didactic.run(config, tmp_path, console=Console(quiet=True))
    _, frame, _ = finished
    same = frame[frame["figure"] == 3]["trained"].to_numpy()
    assert other["trained"].to_numpy() != pytest.approx(same, nan_ok=True)


def test_all_bad_settings_are_reported_together(tmp_path):
    bad = {
        "figures": [1, 7],
        "seed": -1,
        "learning": {"steps": 0, "reverse_estimator": "rlo", "lr": 1.0},
    }
    with pytest.raises(InputError) as error:
        didactic.run(bad, tmp_path / "out")
    text = str(error.value)
    assert len(text.splitlines()) == 5
    assert "figures.1: 7 is not allowed. Known: 1, 2, 3, 4, 5" in text
    assert "did you mean 'rloo'?" in text
    assert "learning.lr: not a known key" in text
    assert not (tmp_path / "out").exists()


def test_a_figure_twice_or_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="figures: 2 given twice; each figure is made once"):
        didactic.run({"figures": [2, 1, 2]}, tmp_path)
    with pytest.raises(InputError, match="figures"):
        didactic.run({"figures": []}, tmp_path)


def test_a_folder_with_other_settings_is_refused(finished):
    folder, _, _ = finished
    with pytest.raises(InputError, match="steps"):
        didactic.run({"learning": {"steps": 21}}, folder)


def test_bars_are_the_closed_form_and_dots_the_trained_policy():
    answers = pd.DataFrame(
        {
            "figure": 3,
            "kl": "reverse",
            "token": [0, 1, 2],
            "reward": [0.0, 0.9, 1.0],
            "p_ref": [0.2, 0.3, 0.5],
            "closed_form": [0.1, 0.2, 0.7],
            "trained": [0.11, 0.22, 0.67],
        }
    )
    figure = draw(3, pd.concat([answers.assign(experiment=f"run {n}") for n in (1, 2)]))
    assert len(figure.axes) == 2
    for axes in figure.axes:
        heights = [bar.get_height() for bar in axes.patches]
        assert heights == pytest.approx([0.2, 0.3, 0.5, 0.1, 0.2, 0.7])
        (dots,) = axes.lines
        np.testing.assert_allclose(dots.get_ydata(), [0.11, 0.22, 0.67])
    with pytest.raises(ValueError, match=r"Fig\. 2 needs the table of both modes over beta"):
        draw(2, answers)


def test_the_shipped_files_say_the_defaults(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert check_file("pipelines/paper_figures.yaml").kind == "pipeline"
    assert STAGES["didactic"].load("configs/didactic/paper.yaml") == DidacticConfig()


@pytest.mark.slow
def test_the_shipped_pipeline_reproduces_every_number(tmp_path):
    config = ROOT / "configs" / "didactic" / "paper.yaml"
    frame = didactic.run(config, tmp_path, console=Console(quiet=True))
    assert frame["tv"].max() < 0.02
    assert ((frame["closed_form"] - frame["value"]).abs() <= frame["tolerance"] * 1.000001).all()
    # a probability moves by at most the total variation distance
    p = frame[frame["quantity"].str.startswith("p of")]
    off = (p["trained"] - p["closed_form"]).abs()
    assert p[off > p["tv"] + 1e-9].to_dict("records") == []
