"""Rules of the repository: imports, docstrings, descriptions, and every shipped file."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import chemkl
from chemkl import stages
from chemkl.config import Config, InputError
from chemkl.stages.plan import check_file
from chemkl.stages.registry import STAGES

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "chemkl").rglob("*.py"))
SHIPPED = sorted([*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("pipelines/*.yaml")])


def relative(path):
    return str(path.relative_to(ROOT))


def folder_of(path):
    """Purpose of a shipped file by its place: pipelines/x.yaml or configs/<folder>/.../x.yaml."""
    parts = path.relative_to(ROOT).parts
    return parts[1] if parts[0] == "configs" else parts[0]


def modules_of(room):
    """Every module of a room, by its files."""
    package = importlib.import_module(f"chemkl.{room}")
    inside = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [package.__name__, *(module.name for module in inside)]


# ---- imports: import-linter checks static ones, this what Python really loads


def loaded_after_importing(room):
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "print(*sys.modules, sep='\\n')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *modules_of(room)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return set(ended.stdout.split())


TORCH = {"torch", "lightning", "pytorch_lightning"}
MOLECULES = {"rdkit", "reinvent_chemistry"}
TABLES = {"pandas", "pyarrow"}
LLM = {"transformers", "trl"}


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("losses", {"lightning", "pytorch_lightning", "pydantic", *MOLECULES, *TABLES, *LLM}),
        ("config", {"numpy", "scipy", *TORCH, *MOLECULES, *TABLES, *LLM}),
        ("chem", {*TORCH, *LLM}),
        ("files", {*TORCH, *LLM}),
        ("rewards", {*TORCH, *LLM}),
        ("results", {*TORCH, *MOLECULES, *LLM}),
        ("policies", {"lightning", "pytorch_lightning", *MOLECULES, *LLM}),
        ("evaluation", {"lightning", "pytorch_lightning", *LLM}),
    ],
)
def test_a_package_loads_nothing_that_it_must_not(room, forbidden):
    loaded = loaded_after_importing(room)
    assert f"chemkl.{room}" in loaded
    assert sorted(loaded & forbidden) == []


def test_the_loss_core_loads_no_other_room():
    rooms = {name for name in loaded_after_importing("losses") if name.startswith("chemkl.")}
    assert {name.split(".")[1] for name in rooms} == {"losses"}


# ---- words


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_every_module_has_a_docstring(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, f"{relative(path)} has no docstring"
    assert "placeholder" not in docstring.lower()


def config_models():
    """Every config class of chemkl.config and of the figures of the paper."""
    models = {}
    for name in [*modules_of("config"), "chemkl.didactic.config"]:
        for member in vars(importlib.import_module(name)).values():
            if inspect.isclass(member) and issubclass(member, Config) and member is not Config:
                models[f"{member.__module__}.{member.__qualname__}"] = member
    return [models[name] for name in sorted(models)]


@pytest.mark.parametrize("model", config_models(), ids=lambda model: model.__name__)
def test_every_setting_has_a_description(model):
    without = [
        name
        for name, field in model.model_fields.items()
        if not (field.description and len(field.description.split()) > 1)
    ]
    assert without == [], f"{model.__name__}: write a text under these fields"
    assert (model.__doc__ or "").strip() != (Config.__doc__ or "").strip()


def test_the_walk_over_config_models_finds_those_of_every_stage():
    assert {stage.model for stage in STAGES.values()} <= set(config_models())


# ---- shipped files


@pytest.mark.parametrize("path", SHIPPED, ids=relative)
def test_every_shipped_file_passes_the_check(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    kind = check_file(path.relative_to(ROOT)).kind
    folder = folder_of(path)
    assert kind == {"pipelines": "pipeline", "rewards": "reward"}.get(folder, folder)


def test_there_are_shipped_files_of_every_kind():
    assert {"rewards", "pipelines", "posttrain"} <= {folder_of(path) for path in SHIPPED}
    assert {"pmo", "guacamol", "synth"} <= {path.parent.name for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=relative)
def test_every_shipped_file_starts_with_its_purpose_and_command(path):
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line)
    assert len(comment) >= 2
    assert folder_of(path) == "rewards" or any("chemkl " in line for line in comment)


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_every_stage_can_be_loaded_and_run_as_the_registry_says(stage):
    assert callable(stage.module.work)  # the import makes it an attribute of chemkl.stages, too
    parameters = list(inspect.signature(getattr(stages, stage.name).run).parameters)
    assert parameters[:2] == ["config", "out_dir"]
    assert issubclass(stage.model, Config)


def test_the_constraints_name_every_direct_dependency():
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    required = {
        re.split(r"[<>=\[; ]", line)[0].lower() for line in project["dependencies"] + extras
    }
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if "==" in line}
    assert required == pinned
    assert chemkl.__version__ == project["version"]


def test_a_reward_without_components_is_detected_by_its_folder(tmp_path):
    file = tmp_path / "rewards" / "mine" / "broken.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("aggregate: product\n")
    with pytest.raises(InputError, match=r"components: required, and not given"):
        check_file(file)
