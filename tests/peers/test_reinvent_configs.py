"""Translated run types of REINVENT4: each key of each table has a counterpart or a note."""

import json
import re
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from chemkl.config import InputError
from chemkl.config.loading import dump, parse
from chemkl.peers.reading import toml_lines
from chemkl.results import Manifest
from chemkl.stages.convert import convert
from chemkl.stages.pipeline import run as run_pipeline
from chemkl.stages.plan import check_file
from chemkl.stages.posttrain import run as posttrain
from chemkl.stages.sample import run as sample

SCORING = """
type = "geometric_mean"
[[{0}.component]]
[{0}.component.QED]
[[{0}.component.QED.endpoint]]
name = "like a drug"
weight = 0.6
[[{0}.component]]
[{0}.component.MolecularWeight]
[[{0}.component.MolecularWeight.endpoint]]
transform = {{ type = "reverse_sigmoid", low = 60, high = 120, k = 0.5 }}
"""
STAGED = """
run_type = "staged_learning"
device = "cpu"
seed = 5
tb_logdir = "tb"

[parameters]
prior_file = "my.prior"
agent_file = "my.prior"
summary_csv_prefix = "out"
batch_size = 16

[learning_strategy]
type = "dap"
sigma = 64
rate = 0.001

[diversity_filter]
type = "IdenticalMurckoScaffold"
bucket_size = 10
minscore = 0.3

[[stage]]
chkpt_file = "one.chkpt"
max_steps = 2
[stage.scoring]""" + SCORING.format("stage.scoring")
SECOND = """
[[stage]]
max_steps = 3
[stage.scoring]""" + SCORING.format("stage.scoring")
SAMPLING = """
run_type = "sampling"
[parameters]
model_file = "my.prior"
output_file = "x.csv"
num_smiles = 12
unique_molecules = true
randomize_smiles = true
"""
SCORES = """
run_type = "scoring"
[parameters]
smiles_file = "a.csv"
smiles_column = "SMI"
output_csv = "b.csv"
standardize_smiles = false
[scoring]""" + SCORING.format("scoring")
TRANSFER = """
run_type = "transfer_learning"
[parameters]
input_model_file = "my.prior"
output_model_file = "tuned.model"
smiles_file = "a.smi"
num_epochs = 4
batch_size = 8
sample_batch_size = 100
save_every_n_epochs = 2
num_refs = 0
"""


@pytest.fixture(scope="module")
def prior(tmp_path_factory, tiny_prior):
    """The tiny prior in REINVENT's format."""
    from chemkl.policies import reinvent

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reinvent, "FIT", ((4, 4, 3, 0.1),))
        path = tmp_path_factory.mktemp("prior") / "my.prior"
        convert(tiny_prior, path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch, prior):
    """The working directory, with my.prior and two files of SMILES."""
    monkeypatch.chdir(tmp_path)
    Path("my.prior").write_bytes(prior.read_bytes())
    Path("a.csv").write_text("id,SMI\n1,CCO\n2,c1ccccc1\n")
    Path("a.smi").write_text("CCO\n")
    return tmp_path


def converted(text, name="in.toml", **options):
    """Convert a config; return the new config and its text."""
    Path(name).write_text(text)
    convert(name, "out.yaml", force=True, **options)
    output = Path("out.yaml").read_text()
    return parse(output, "out.yaml").data, output


def kind(path="out.yaml"):
    return check_file(path).kind


MOL_WT = {"kind": "reverse_sigmoid", "low": 60.0, "high": 120.0, "k": 0.5}
REWARD = {
    "components": [
        {"kind": "qed", "name": "like_a_drug", "weight": 0.6},
        {"kind": "mol_wt", "name": "MolecularWeight", "transform": MOL_WT},
    ],
    "aggregate": "geometric_mean",
}
POSTTRAIN = {
    "prior": "my.prior", "target": {"kind": "gibbs", "sigma": 64.0}, "estimator": "reinvent",
    "batch_size": 16, "learning_rate": 0.001, "seed": 5, "trainer": {"accelerator": "cpu"},
    "reward": REWARD,
    "diversity_filter": {"kind": "murcko", "bucket": 10, "min_score": 0.3, "repeats": False},
    "budget": 32, "max_samples": 32,
}  # fmt: skip


SCORED = "max_steps = 9\nmax_score = 0.6\nmin_steps = 1"
MEAN = {"mean_reward": 0.6, "min_steps": 3}
FILTER = STAGED[STAGED.index("[diversity_filter]") :].partition("\n\n")[0]
TWO_FILTERS = STAGED.replace(FILTER, "") + SECOND + FILTER.replace("[div", "\n[stage.div")
INCEPTION = "[inception]\nmemory_size = 40\nsample_size = 5\ndeduplicate = true\n[learning"
MEMORY = {"capacity": 40, "rows": 5, "draw": "uniform", "selective": False}
SEEDED = INCEPTION.replace("[learning", "smiles_file = 'a.smi'\n[learning")
UNPURGED = STAGED.replace("batch_size", "purge_memories = false\nbatch_size", 1)
TWO = {"budget": 80, "max_samples": 80}
UNTIL = [{"until": {"samples": 32}}, {"until": {"samples": 48}}]
LONG = {"budget": 144, "max_samples": 144}
HEAD = "Made from in.toml of REINVENT4 by chemkl convert.\n#   chemkl posttrain out.yaml"
CONFIGS = {  # REINVENT4's config: the settings that it becomes, a note in the written file
    "one stage": (STAGED, POSTTRAIN, HEAD),
    "two stages": (STAGED + SECOND, POSTTRAIN | TWO | {"stages": UNTIL},
        "max_steps ends a stage and the next one starts"),
    "a mean score": (STAGED.replace("max_steps = 2", SCORED),
        POSTTRAIN | LONG | {"callbacks": {"terminate": MEAN}}, ""),
    "a mean score of two": (STAGED.replace("max_steps = 2", SCORED) + SECOND,
        POSTTRAIN | {"budget": 192, "max_samples": 192,
                     "stages": [{"until": MEAN | {"samples": 144}}, UNTIL[1]]}, ""),
    "no mean score": (STAGED.replace("max_steps = 2", f"{SCORED}\ntermination = 'Null'"),
        POSTTRAIN | LONG, ""),
    # the top level has the settings of the last stage, the other stages what differs
    "two scorings": (STAGED + SECOND.replace("geometric", "arithmetic"),
        POSTTRAIN | TWO | {"reward": REWARD | {"aggregate": "arithmetic_mean"},
                           "stages": [{"reward": REWARD} | UNTIL[0], UNTIL[1]]}, ""),
    "two filters": (TWO_FILTERS,
        POSTTRAIN | TWO | {"stages": [{"diversity_filter": None} | UNTIL[0], UNTIL[1]]}, ""),
    "one filter that continues": (UNPURGED, POSTTRAIN, ""),  # nothing to purge
    "a filter that continues": (UNPURGED + SECOND,
        POSTTRAIN | TWO | {"stages": [UNTIL[0], UNTIL[1] | {"keep_filter": True}]}, ""),
    "inception": (STAGED.replace("[learning", INCEPTION, 1), POSTTRAIN | {"memory": MEMORY},
        ": inception: replayed molecules get the reward of the filter now"),
    "inception of two": (STAGED.replace("[learning", INCEPTION, 1) + SECOND,
        POSTTRAIN | TWO | {"memory": MEMORY, "stages": UNTIL},
        "inception: the memory is emptied when scoring or filter change"),
    "seeds": (STAGED.replace("[learning", SEEDED, 1),
        POSTTRAIN | {"memory": MEMORY | {"seed": {"path": "a.smi"}}},
        "smiles_file: each molecule costs a call of the budget"),
    "an agent": (STAGED.replace('agent_file = "my.prior"', 'agent_file = "agent.chkpt"'),
        POSTTRAIN | {"agent": "agent.chkpt"}, ""),
    "sampling": (SAMPLING + "tb_logdir = 'tb'\n", {"policy": "my.prior", "n": 12}, ""),
    "scoring": (SCORES.replace("[scoring]", "[scoring]\nparallel = false"),
        {"file": "a.csv", "format": "csv", "column": "SMI", "reward": REWARD},
        "#   chemkl score a.csv --config out.yaml --out scores.csv"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "settings", "note"), CONFIGS.values(), ids=[*CONFIGS])
def test_configs_become_settings_that_pass_the_check(folder, text, settings, note):
    Path("agent.chkpt").write_bytes(Path("my.prior").read_bytes())
    config, output = converted(text)
    assert config == settings
    assert note in output
    assert "&" not in output  # no YAML anchors
    assert "LEFT OUT" not in output
    assert kind() == {"policy": "sample", "file": "score"}.get(next(iter(config)), "posttrain")


def test_keys_that_need_no_counterpart_are_named_by_line(folder):
    _, text = converted(STAGED)
    assert "#   in.toml:5: tb_logdir: TensorBoard's log" in text
    needless = ["tb_logdir", "parameters.summary_csv_prefix", "stage.0.chkpt_file"]
    assert re.findall(r"^#   in\.toml:\d+: ([\w.]+): ", text, re.MULTILINE) == needless
    assert "Differs from REINVENT4" not in text


def test_converted_configs_run(folder):
    for name in ("one stage", "two stages", "inception"):
        converted(CONFIGS[name][0])
        assert posttrain("out.yaml", folder / name).exists()
    first = Manifest.load(folder / "two stages").results["stages"][0]
    assert (first["ended_by"], first["samples"]) == ("samples", 32)
    converted(SAMPLING)
    assert len(pd.read_parquet(sample("out.yaml", folder / "samples"))) == 12


def test_transfer_learning_is_a_pipeline_of_prepare_and_pretrain(folder):
    config, text = converted(TRANSFER)
    prepare, pretrain = (entry["config"] for entry in config["stages"])
    assert prepare["source"] == {"kind": "file", "path": "a.smi"}
    assert prepare["split"] == {"kind": "given"}
    assert pretrain == {
        "corpus": "${prepare}", "valid_split": None, "init": "my.prior", "learning_rate": 1e-4,
        "randomise": True, "epochs": 4, "batch_size": 8, "samples_per_epoch": 100,
        "gradient_clip": 1.0,
    }  # fmt: skip
    assert "LEFT OUT" not in text
    Path("a.smi").write_text("CCO\nCCN\nCCC\nC1CC1\nCO\n")
    assert run_pipeline("out.yaml")
    assert kind() == "pipeline"
    Path("b.smi").write_text("OCC\nNCC\n")
    config, text = converted(TRANSFER + 'validation_smiles_file = "b.smi"')
    prepare, valid, tuning = config["stages"]
    assert valid["config"] == prepare["config"] | {"source": {"kind": "file", "path": "b.smi"}}
    of_valid = {"valid_split": "train", "valid_corpus": "${prepare-validation}"}
    assert tuning["config"] == pretrain | of_valid
    assert "LEFT OUT" not in text
    assert kind() == "pipeline"


def test_toml_json_and_yaml_are_the_same(folder):
    data = tomllib.loads(STAGED)
    config, _ = converted(STAGED)
    assert converted(json.dumps(data, indent=1), "in.json")[0] == config
    assert converted(dump(data), "in.yaml")[0] == config
    assert converted(dump(data), "in.yml")[0] == config
    with pytest.raises(InputError, match=r"in.json:\d+: parameters.batch: unknown key"):
        converted(json.dumps(data, indent=1).replace('"batch_size"', '"batch"'), "in.json")


def test_paths_are_found_from_the_folder_of_the_new_file(folder):
    Path("deeper").mkdir()
    Path("in.toml").write_text(SAMPLING)
    convert("in.toml", "deeper/out.yaml")
    config = parse(Path("deeper/out.yaml").read_text(), "out").data
    assert config["policy"] == str(folder / "my.prior")
    assert kind("deeper/out.yaml") == "sample"


def test_missing_inputs_are_reported_and_the_config_is_written(folder, chemkl, capsys):
    validated = TRANSFER.replace("my.prior", "no.prior") + "validation_smiles_file = 'a.smi'"
    Path("in.toml").write_text(validated)
    assert chemkl("convert", "in.toml", "tl.yaml") == 0
    first, second = capsys.readouterr().err.splitlines()
    assert "chemkl check tl.yaml says:" in first
    assert "init: no such file or folder: " in second
    Path("in.toml").write_text(SAMPLING.replace("my.prior", "elsewhere/a.prior"))
    assert chemkl("convert", "in.toml", "out.yaml") == 0
    assert "policy: no such file or folder" in capsys.readouterr().err
    assert "policy: elsewhere/a.prior\n" in Path("out.yaml").read_text()


GAPS = [
    ("batch_size = 16", "batchsize = 16", "parameters.batchsize: unknown key"),
    ("seed = 5", "seeds = 5", "in.toml:4: seeds: unknown key"),
    ("max_steps = 2", "max_steps = 2\ntermination = 'plateau'", "termination: 'plateau': a stage"),
    ('"dap"', '"mauli"', "learning_strategy.type: 'mauli': REINVENT4 has only dap"),
    ('"IdenticalMurcko', '"Other', "diversity_filter: no filter 'OtherScaffold' in chemkl"),
    ("minscore = 0.3", "penalty_function = 'Cosh'", "penalty_function: no penalty 'cosh'"),
    ("minscore = 0.3", "intrinsic_reward = 'RND'\nlearning_rate = 1e-4\ndebug = true",
     "diversity_filter.intrinsic_reward: 'RND': the bonus for novelty is the shaper rnd"),
    ("minscore = 0.3", "nbmax = 3", "diversity_filter.nbmax: unknown key"),
    ("batch_size", "use_checkpoint = true\nbatch_size", "use_checkpoint: True: the filter of an"),
    ("batch_size", "temperature = 1.3\nbatch_size", "temperature: 1.3: samples are drawn at"),
    ("batch_size", "smiles_file = 'a.smi'\nbatch_size", "smiles_file: 'a.smi': is for gen"),
    ("[learning", "[inception]\nmemory = 9\n[learning", "inception.memory: unknown key"),
    ("[learning", "[intrinsic_penalty]\ntype = 'a'\n[learning", "intrinsic_penalty: "),
    ("[learning", "[responder]\nendpoint = 'a'\n[learning", "responder: {'endpoint': 'a'}: the"),
    ('"cpu"', '"tpu"', "device: unknown device 'tpu'"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "note"), GAPS)
def test_settings_without_a_counterpart_are_refused_or_listed(
    folder, chemkl, capsys, old, new, note
):
    Path("in.toml").write_text(STAGED.replace(old, new, 1))
    assert chemkl("convert", "in.toml", "out.yaml") == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("in.toml:")
    assert note in first
    assert second.startswith("in.toml: 1 setting without a counterpart in chemkl: ")
    assert "remove them, or let --lenient leave them out" in second
    assert not Path("out.yaml").exists()
    assert chemkl("convert", "in.toml", "out.yaml", "--lenient") == 0
    assert note in Path("out.yaml").read_text()
    assert kind() == "posttrain"


SAME_SMILES = {"kind": "same_smiles", "floor": 0.5, "bucket": 1, "min_score": 0.0}


@pytest.mark.parametrize(
    ("table", "settings", "unused"),
    [
        ('type = "IdenticalTopologicalScaffold"', {"kind": "generic"}, []),
        ('type = "Identical_Murcko_Scaffold"\nminsimilarity = 0.2\npenalty_multiplier = 0.2',
         {"kind": "murcko"}, [20, 21]),
        ('type = "IdenticalMurckoScaffold"\nbucket_size = 3\npenalty_function = "Tanh"',
         {"kind": "murcko", "penalty": "tanh", "bucket": 3}, []),
        ('type = "ScaffoldSimilarity"', {"kind": "scaffold_similarity", "distance": 0.75}, []),
        ('type = "ScaffoldSimilarity"\nminsimilarity = 0.8',
         {"kind": "scaffold_similarity", "distance": pytest.approx(1 - 0.8 / 1.2, abs=1e-6)}, []),
        ('type = "PenalizeSameSmiles"\nbucket_size = 9\nminscore = 0.1', SAME_SMILES, [20, 21]),
        ('type = "PenalizeSameSmiles"\npenalty_multiplier = 0.2', SAME_SMILES | {"floor": 0.2}, []),
    ],
)  # fmt: skip
def test_every_filter_has_a_counterpart_and_unused_keys_are_named(folder, table, settings, unused):
    before, _, after = STAGED.partition('type = "IdenticalMurckoScaffold"')
    text = before + table + after.replace("bucket_size = 10\nminscore = 0.3\n", "", 1)
    config, output = converted(text)
    defaults = {"bucket": 25, "min_score": 0.4, "repeats": False}
    expected = settings if "min_score" in settings else defaults | settings
    assert config["diversity_filter"] == expected
    assert kind() == "posttrain"
    assert ("Dice of counts" in output) is ("Similarity" in table)
    lines = re.findall(r"in\.toml:(\d+): diversity_filter.\w+: has no effect on the filter", output)
    assert sorted(map(int, lines)) == unused


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (SAMPLING + "sample_strategy = 'beamsearch'", "sample_strategy"),
        (SAMPLING + "smiles_file = 'a.smi'", "smiles_file"),
        (SAMPLING + "temperature = 2", "temperature"),
        (SAMPLING + "[filter]\nsmarts = ['C']\n", r"filter: .'smarts': "),
        (TWO_FILTERS.replace("batch_size", "purge_memories = false\nbatch_size", 1).replace(
            "max_steps = 2\n", "max_steps = 2\n[stage.diversity_filter]\ntype = 'IdenticalMurckoS"
            "caffold'\n", 1), "purge_memories: false: a filter with other settings starts empty"),
        (STAGED.replace("max_steps = 2", "max_steps = 2\nmax_score = -1"),
         r"as converted: .*callbacks.terminate.mean_reward: "),
        (STAGED.replace("[learning", INCEPTION.replace("= 5", "= 50"), 1),
         r"memory\.rows: 50 rows a step, but a capacity of 40"),
    ],
)  # fmt: skip
def test_other_settings_without_a_counterpart_are_refused(folder, text, why):
    with pytest.raises(InputError, match=why):
        converted(text)


USUAL = {  # keys of REINVENT4's schemas with their default values
    STAGED: {
        "batch_size": ["use_checkpoint = false", "purge_memories = true", "tb_isim = false",
                       "randomize_smiles = true", "isomeric_smiles = false", "temperature = 1.0",
                       "sample_strategy = 'multinomial'", "distance_threshold = 99999"],
        "bucket_size": ["minsimilarity = 0.4", "penalty_multiplier = 0.5"],
        "chkpt_file": ["termination = 'simple'", "max_score = 1.0", "min_steps = 50"],
        "[[stage.scoring.component]]": ["parallel = 1", "use_pumas = false"],
    },
    TRANSFER: {
        "num_epochs": ["training_zero_epoch_start = false", "starting_epoch = 1", "n_cpus = 1",
                       "shuffle_each_epoch = true", "standardize_smiles = true", "tb_isim = false",
                       "randomize_smiles = true", "randomize_all_smiles = false",
                       "isomeric_smiles = false", "internal_diversity = false",
                       "max_sequence_length = 128", "clip_gradient_norm = 1.0",
                       "ranking_loss_penalty = false"],
    },
    SAMPLING: {
        "num_smiles": ["target_smiles_path = ''", "target_nll_file = 'target_nll.csv'",
                       "sample_strategy = 'multinomial'", "isomeric_smiles = false",
                       "temperature = 1.0"],
    },
    SCORES: {"[[scoring.component]]": ["parallel = 1", "use_pumas = false"]},
}  # fmt: skip


@pytest.mark.parametrize("text", USUAL, ids=["staged", "transfer", "sampling", "scoring"])
def test_a_key_with_its_usual_value_changes_nothing(folder, text):
    plain, _ = converted(text)
    for before, lines in USUAL[text].items():
        text = text.replace(before, "\n".join([*lines, before]), 1)
    head = 'device = "cuda:0"\n' * (text.startswith('\nrun_type = "transfer'))
    config, _ = converted(head + 'json_out_config = "a.json"\nuse_cuda = true\n' + text)
    assert config == plain


def test_the_documentation_names_every_key():
    page = (Path(__file__).parents[2] / "configs/coming_from_reinvent4.md").read_text()
    groups = [group for lines in USUAL.values() for group in lines.values()]
    text = "\n".join([*USUAL, *(line for group in groups for line in group)])
    keys = set(re.findall(r"^(\w+) =", text, re.MULTILINE))
    assert len(keys) > 50
    assert [key for key in sorted(keys) if not re.search(rf"\b{key}\b", page)] == []


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("in.toml", "run_type = [", "in.toml: not valid TOML: "),
        ("in.json", '{"run_type": ', "in.json:1: "),
        ("in.yaml", "- a\n", "in.yaml:1: expected a config of REINVENT4"),
        ("in.toml", "", "in.toml:1: run_type: required, but missing"),
        ("in.toml", "run_type = 3", "in.toml:1: run_type: should be text (got 3)"),
        (
            "in.toml",
            "run_type = 'enumeration'",
            "run_type: 'enumeration' cannot be translated; ",
        ),
        ("in.toml", "run_type = 'sampling'", "parameters: required, but missing"),
        ("in.toml", SAMPLING.replace("12", "0"), "in.toml, as converted: n: "),
        ("in.toml", SAMPLING.replace("12", "'x'"), "parameters.num_smiles: should be a number"),
        ("in.toml", STAGED.partition("[[stage]]")[0], "stage: required: one [[stage]] or more"),
        ("in.toml", STAGED.replace("[[stage]]", "[stage]"), "stage: should be a list (got "),
        ("in.toml", STAGED.replace("sigma = 64", "sigma = -1"), "as converted: target.sigma: "),
        ("in.json", '{"a": 1, "a": 2}', "in.json:1: the key a is given twice, first in line 1"),
        (
            "in.yaml",
            "{policy: moses, n: 12}",
            "in.yaml: already a config of chemkl (sample); use",
        ),
        ("in.yaml", "{components: []}", "in.yaml: already a config of chemkl (reward); use"),
    ],
)
def test_damaged_files_and_impossible_values(folder, name, text, why):
    with pytest.raises(InputError) as caught:
        converted(text, name, lenient=True)
    assert why in str(caught.value)
    assert str(caught.value).count("run_type: ") <= 1
    assert not Path("out.yaml").exists()


def test_other_commands_name_the_command_that_converts(folder, chemkl, capsys):
    Path("in.toml").write_text(STAGED)
    Path("in.yaml").write_text("run_type: sampling\nparameters: {model_file: my.prior}\n")
    for command in ("check", "run", "posttrain", "sample"):
        for name, target in (("in.toml", "in.yaml"), ("in.yaml", "in-chemkl.yaml")):
            assert chemkl(command, name) == 2
            assert f"chemkl convert {name} {target}" in capsys.readouterr().err


def test_lines_of_toml():
    text = (
        'a = 1\n[b.c]\nd.e = [\n  "x = 1",\n]\n[[f]]\n[f.g]\n[[f.h]]\ni=1\n[[f]]\n[[f.h]]\nj = 2\n'
    )
    lines = toml_lines(text)
    keys = {"a": 1, "b.c": 2, "b.c.d.e": 3, "f": 6, "f.0.g": 7, "f.0.h.0.i": 9, "f.1.h.0.j": 12}
    assert {key: lines[tuple(key.split("."))] for key in keys} == keys
