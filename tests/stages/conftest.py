"""What tests of runs share: their module's config with a small prior, and how one is refused."""

import json

import pytest


@pytest.fixture
def config(request, tiny_prior):
    return {"prior": str(tiny_prior), **request.module.CONFIG}


@pytest.fixture(scope="module")
def finished(request, tiny_prior, tmp_path_factory):
    """A finished run of that config that many tests look at."""
    from chemkl.stages import posttrain

    out = tmp_path_factory.mktemp("run")
    posttrain.run(request.module.CONFIG | {"prior": str(tiny_prior), "budget": 150}, out)
    return out


@pytest.fixture
def refusal(chemkl, capsys, tmp_path):
    """Post-train by a config that is refused before anything is written; give the one line."""

    def refused(settings):
        file = tmp_path / "c.yaml"
        file.write_text(json.dumps(settings))
        assert chemkl("posttrain", file, "--out", tmp_path / "out") == 2
        assert not (tmp_path / "out").exists()
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
        return line

    return refused
