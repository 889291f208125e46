"""Fixtures of runs: their module's config with a small prior, finished runs, refused configs."""

import json

import pytest

from chemkl.stages.registry import STAGES


@pytest.fixture
def config(request, tiny_prior):
    return {"prior": str(tiny_prior), **request.module.CONFIG}


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    """Run a stage once per module and settings; return its folder."""
    folders = {}

    def run(stage, settings):
        key = stage, json.dumps(settings)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp(stage) / "run"
            STAGES[stage].run(settings, folders[key])
        return folders[key]

    return run


@pytest.fixture(scope="module")
def finished(request, run_once, tiny_prior):
    """A finished run of the module's config that many tests look at."""
    config = request.module.CONFIG | {"prior": str(tiny_prior), "budget": 150}
    return run_once("posttrain", config)


@pytest.fixture
def refusal(chemkl, capsys, tmp_path):
    """Post-train with a config that is refused before anything is written; return the line."""

    def refuse(settings):
        file = tmp_path / "c.yaml"
        file.write_text(json.dumps(settings))
        assert chemkl("posttrain", file, "--out", tmp_path / "out") == 2
        assert not (tmp_path / "out").exists()
        (line,) = filter(None, capsys.readouterr().err.splitlines())
        return line

    return refuse
