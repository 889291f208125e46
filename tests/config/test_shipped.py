"""Files that come with chemkl: found by name, after the user's own; identified by name in a run."""

import shutil
from pathlib import Path

import pytest
import yaml

from chemkl.config import Config, InputError, InputPath, load_config, loading, paths
from chemkl.config.loading import Document
from chemkl.config.paths import find_shipped, shipped_name, shipped_names
from chemkl.config.posttrain import PosttrainConfig
from chemkl.results import Manifest, config_hash
from chemkl.stages.plan import check_file
from chemkl.stages.registry import STAGES

ROOT = Path(__file__).parents[2]
PRIOR = "data/priors/moses.safetensors"
QUICKSTART = ROOT / "configs/posttrain/quickstart.yaml"


class Settings(Config):
    prior: InputPath


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Files in the place where an installed package has them, without a checkout."""
    root = tmp_path / "site-packages/chemkl/shipped"
    for folder in ("configs", "data/priors"):
        shutil.copytree(ROOT / folder, root / folder)
    cached = shipped_names, paths._shipped_names_and_folders
    for function in cached:
        function.cache_clear()
    for module in (paths, loading):
        monkeypatch.setattr(module, "shipped_root", lambda: root)
    yield root
    for function in cached:
        function.cache_clear()


@pytest.mark.parametrize(
    ("name", "kinds", "expected"),
    [
        ("quickstart", ["pipelines"], "pipelines/quickstart.yaml"),
        ("quickstart.yaml", ["pipelines"], "pipelines/quickstart.yaml"),
        ("pipelines/quickstart.yaml", [], "pipelines/quickstart.yaml"),
        ("./pipelines/quickstart.yaml", [], "pipelines/quickstart.yaml"),
        ("quickstart", ["configs/posttrain"], "configs/posttrain/quickstart.yaml"),
        ("posttrain/quickstart", [], "configs/posttrain/quickstart.yaml"),
        ("configs/posttrain/quickstart", [], "configs/posttrain/quickstart.yaml"),
        ("pmo/qed", ["configs/rewards"], "configs/rewards/pmo/qed.yaml"),
        ("data/moses_sample", [], "data/moses_sample"),
        (f"../../{PRIOR}", [], PRIOR),
        ("quickstart", [], None),
        ("", ["pipelines"], None),
        ("data", [], None),
        (f"/nowhere/{PRIOR}", [], None),
    ],
)
def test_a_shipped_file_is_found_by_path_or_by_name(name, kinds, expected):
    assert find_shipped(name, *kinds) == (ROOT / expected if expected else None)


def test_a_stage_takes_a_shipped_config_by_name_from_any_folder(elsewhere):
    config = STAGES["posttrain"].load("quickstart")
    assert config.prior == ROOT / PRIOR
    assert config == STAGES["posttrain"].load(QUICKSTART)


def test_files_of_the_user_take_precedence(elsewhere):
    Path("quickstart").write_text(f"prior: {ROOT / PRIOR}\nbudget: 7\n")
    assert Document.read("quickstart", kinds=["configs/posttrain"]).data["budget"] == 7
    Path(PRIOR).parent.mkdir(parents=True)
    Path(PRIOR).write_text("mine")
    assert load_config(Settings, {"prior": PRIOR}).prior == elsewhere / PRIOR


@pytest.mark.parametrize("written", [PRIOR, f"../../{PRIOR}", f"./{PRIOR}"])
def test_a_config_of_the_user_can_name_shipped_files(elsewhere, written):
    Path("mine.yaml").write_text(f"prior: {written}\n")
    assert load_config(Settings, "mine.yaml").prior == ROOT / PRIOR


@pytest.mark.parametrize(
    ("stage", "config", "key"),
    [
        ("posttrain", "quickstart", "prior"),
        ("posttrain", "quickstart", "agent"),
        ("forecast", "quickstart", "prior"),
        ("sample", "prior", "policy"),
        ("sample", "beta_scale", "prior"),
        ("pretrain", "fine_tune", "init"),
    ],
)
def test_the_name_of_a_prior_stands_for_its_file_in_any_config(elsewhere, stage, config, key):
    Path("moses").mkdir()  # a folder is no model file

    def resolved(value, folder=Path()):
        data = yaml.safe_load((ROOT / f"configs/{stage}/{config}.yaml").read_text())
        required = {"pretrain": {"corpus": str(elsewhere)}, "sample": {"policy": "moses"}}
        data |= required.get(stage, {}) | {key: value}
        (folder / "mine.yaml").write_text(yaml.safe_dump(data))
        return getattr(STAGES[stage].load(folder / "mine.yaml"), key)

    assert resolved("moses") == ROOT / PRIOR
    message = rf"{key}: no such .* did you mean 'moses'\? Known: chembl, moses"
    with pytest.raises(InputError, match=message):
        resolved("mosse")
    folder = Path("of_mine")
    folder.mkdir()
    (folder / "moses").write_text("mine")  # in the folder of the config
    assert resolved("moses", folder) == elsewhere / "of_mine/moses"


def test_members_of_a_mixture_can_be_named_too():
    members = {name: {"policy": "moses", "weight": 0.5} for name in "ab"}
    config = STAGES["sample"].load({"mixture": {"policies": members}})
    assert {*config.mixture.models.values()} == {ROOT / PRIOR}


@pytest.mark.parametrize("value", ["qed_sa", "rewards/qed_sa", "configs/rewards/qed_sa.yaml"])
def test_a_reward_can_be_named(value):
    reward = STAGES["posttrain"].load("quickstart", [f"reward={value}"]).reward
    assert [component.kind for component in reward.components] == ["qed", "sa_score"]


def test_a_shipped_config_expects_earlier_output_in_the_working_directory(elsewhere, installed):
    made = elsewhere / "data/corpora/moses"
    source = installed / "configs/pretrain/moses.yaml"
    assert check_file(source).pending == (made,)
    made.mkdir(parents=True)
    assert STAGES["pretrain"].load(source).corpus == made


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: STAGES["posttrain"].load("quikstart"), "did you mean 'quickstart'"),
        (lambda: check_file("quikstart"), "did you mean 'quickstart'"),
        (lambda: STAGES["posttrain"].load("nothing_like_it"), r"\(chemkl show configs\)"),
        (
            lambda: STAGES["posttrain"].load("quickstart", ["prior=data/priors/mose.safetensors"]),
            f"did you mean '{PRIOR}', which comes with chemkl",
        ),
        (
            lambda: STAGES["posttrain"].load("quickstart", ["reward=qed_as"]),
            "did you mean 'qed_sa', which comes with chemkl",
        ),
    ],
)
def test_an_unknown_name_is_one_error_that_names_the_nearest(call, says):
    with pytest.raises(InputError, match=says) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


# ---- identity of a run


def identity_of(source):
    config = load_config(PosttrainConfig, source).model_dump(mode="json")
    return config_hash(config), config


def test_a_run_has_the_same_identity_from_a_checkout_and_an_installed_package(elsewhere, installed):
    in_checkout, plain = identity_of(QUICKSTART)
    in_package, moved = identity_of(installed / "configs/posttrain/quickstart.yaml")
    assert plain["prior"] == str(ROOT / PRIOR) != moved["prior"]
    assert in_checkout == in_package
    inputs = {"prior": plain["prior"]}
    with Manifest.start("run", stage="posttrain", config=plain, inputs=inputs):
        pass
    manifest = Manifest.load("run")
    assert manifest.config["prior"] == manifest.inputs["prior"].path == PRIOR
    assert manifest.is_finished("posttrain", moved)
    (installed / PRIOR).write_text("another prior")
    assert manifest.has_changed_inputs()


def test_another_file_with_a_shipped_name_makes_another_run(elsewhere):
    hashes = []
    for content in ("mine", (ROOT / PRIOR).read_bytes()):
        place = elsewhere / PRIOR
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
        hashes.append(config_hash({"prior": str(place)}))
    assert hashes[0] != hashes[1] == config_hash({"prior": PRIOR})


def test_a_shipped_corpus_is_identified_by_its_name(elsewhere):
    assert shipped_name(ROOT / "data/moses_sample") == "data/moses_sample"
    shutil.copytree(ROOT / "data/moses_sample", "data/moses_sample")
    assert shipped_name(elsewhere / "data/moses_sample") == "data/moses_sample"
    (elsewhere / "data/moses_sample/tokens.json").write_text("{}")
    assert shipped_name(elsewhere / "data/moses_sample") is None


def test_a_run_begun_with_absolute_paths_keeps_its_identity(elsewhere):
    config = {"prior": str(ROOT / PRIOR)}
    with Manifest.start("run", stage="posttrain", config=config):
        pass
    older = Manifest.load("run")
    older.config, older.config_hash = config, "its hash then"
    older.save()
    assert older.is_finished("posttrain", {"prior": str(ROOT / PRIOR)})
    resumed = Manifest.start("run", stage="posttrain", config=config)
    assert resumed.config_hash == "its hash then"  # its trace is written under that


REWARD = {"components": [{"kind": "qed"}]}
HASHES = [
    ("sample", {"policy": PRIOR}, "1e0d2a7c6656"),
    ("pretrain", {"corpus": "data/moses_sample"}, "a20e6988ed29"),
    (
        "posttrain",
        {"prior": PRIOR, "reward": REWARD, "target": {"kind": "gibbs", "sigma": 128}}
        | {"diversity_filter": "murcko"},
        "2ab6a1975c5c",
    ),
]
"""Settings of a stage, and the beginning of their hash before later keys were added."""


@pytest.mark.parametrize(("stage", "settings", "begins"), HASHES)
def test_keys_added_later_do_not_change_the_identity(stage, settings, begins):
    config = load_config(STAGES[stage].model, settings, folder=ROOT)
    assert config_hash(config.model_dump(mode="json")).startswith(begins)


def test_show_configs_lists_every_shipped_config(elsewhere, chemkl, capsys):
    assert chemkl("show", "configs", "posttrain/") == 0
    out = capsys.readouterr().out
    for file in (ROOT / "configs/posttrain").glob("*.yaml"):
        assert f"configs/posttrain/{file.name}" in out
        assert yaml.safe_load(file.read_text())
