"""Configs of rewards: defaults, and all problems at once with their places."""

import pytest

from chemkl.chem.molecules import DEFAULT_MAX_ATOMS
from chemkl.config import InputError
from chemkl.config.loading import load_config
from chemkl.config.reward import RewardConfig
from chemkl.rewards import RewardModel
from chemkl.rewards.registry import COMPONENTS

PLAIN = {"kind": "qed"}


def problems(config):
    with pytest.raises(InputError) as caught:
        RewardModel.from_config(config)
    return str(caught.value).splitlines()


def test_defaults_and_short_forms():
    config = load_config(RewardConfig, {"components": [{"kind": "qed", "transform": "none"}]})
    part = config.components[0]
    assert (part.name, part.weight, part.parameters) == ("qed", 1.0, {})
    assert part.transform.kind == "none"
    assert config.aggregate == "geometric_mean"
    assert config.max_atoms == DEFAULT_MAX_ATOMS
    assert load_config(RewardConfig, config.model_dump()) == config


def test_every_problem_of_schema_and_components_at_once():
    components = [
        {"kind": "qedd"},
        {"kind": "qed", "weight": 0},
        {"kind": "sa_score"},
        {"kind": "tanimoto", "parameters": {"references": ["CCO"], "radus": 3}},
        {"kind": "required_smarts", "parameters": {"smarts": ["C", "[#6"]}},
        {"kind": "logp", "transform": {"kind": "sigmod", "low": 1, "high": 2}},
        {"kind": "tpsa", "transform": {"kind": "sigmoid", "low": 3, "high": 3}},
        {"kind": "hbd", "transform": {"kind": "step"}},
        {"kind": "hba", "transform": {"kind": "step", "low": 2, "high": 1}},
        {"kind": "qed", "name": "number of rings"},
        {"name": "nameless"},
    ]
    lines = problems({"components": components, "agregate": "arithmetic_mean"})
    expected = [
        "components.0.kind: unknown component 'qedd'; did you mean 'qed'? (",
        "components.1.weight: should be greater than 0 (got 0)",
        "components.2.transform: sa_score lies between 1 and 10, and a score between 0 and 1",
        "components.3.parameters.radus: not a known key; did you mean 'radius'?",
        "components.4.parameters: smarts[1] = '[#6' is not a SMARTS pattern",
        "components.5.transform.kind: 'sigmod' is not known; did you mean 'sigmoid'?",
        "components.6.transform: low = 3 must be below high = 3; for a hard edge use step",
        "components.7.transform: a step needs low, high or both",
        "components.8.transform: low = 2 must not be above high = 1",
        "components.9.name: does not have the required form (Name of its columns "
        "(raw_<name>, score_<name>), in letters, digits and _ - or dots; default: its kind) "
        "(got 'number of rings')",
        "components.10.kind: required, and not given",
        "agregate: not a known key; did you mean 'aggregate'?",
    ]
    for text in expected:
        assert sum(line.startswith(f"reward: {text}") for line in lines) == 1, text
    assert len(lines) == len(expected)


def test_names_must_differ():
    hbd = {"kind": "hbd", "name": "qed", "transform": {"kind": "step", "low": 1}}
    assert problems({"components": [PLAIN, hbd]}) == [
        "reward: component names must differ, but several are called qed: give each its own name"
    ]
    model = RewardModel.from_config({"components": [{"kind": "qed"}, {"kind": "qed", "name": "b"}]})
    assert model.component_names == ["qed", "b"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "reward: components: required, and not given"),
        ({"components": []}, "reward: components: should have at least 1 entry"),
        ({"components": "qed"}, "reward: components: should be a list"),
        ({"components": ["qed"]}, "reward: components.0: should be a mapping"),
        ({"components": [{**PLAIN, "parameters": [1]}]}, "parameters: should be a mapping"),
        ({"components": [{**PLAIN, "weight": float("nan")}]}, "weight: should be a finite"),
        ({"components": [{**PLAIN, "weight": "inf"}]}, "weight: should be a finite"),
        ({"components": [{**PLAIN, "weight": -1}]}, "weight: should be greater than 0"),
        ({"components": [PLAIN, {"kind": "hba", "role": "filtre"}]},
         "components.1.role: 'filtre' is not allowed; did you mean 'filter'\\? Known: filter,"),
        ({"components": [{**PLAIN, "role": "filter", "weight": 2}]},
         "components.0.weight: is for scorers; a filter has none: leave it out"),
        ({"components": [{**PLAIN, "role": "penalty"}]},
         "no component is a scorer, so there is no"),
        ({"components": [{**PLAIN, "weight": 2}], "aggregate": "minimum"},
         "the minimum has no weights"),
        ({"components": [PLAIN], "most_failures": 1.1}, "most_failures: should be less"),
        ({"components": [{"kind": "rings", "role": "filter"}]}, "rings lies between 0 and inf"),
        ({"components": [PLAIN], "aggregate": "sum"}, "'sum' is not allowed.*geometric"),
        ({"components": [PLAIN], "max_atoms": 0}, "max_atoms: should be greater than"),
        (3, "expected a mapping or the path of a YAML file, got int"),
        ("no/such/file.yaml", "no/such/file.yaml: no such file"),
    ],
)  # fmt: skip
def test_unusable_configs(config, message):
    with pytest.raises(InputError, match=message):
        RewardModel.from_config(config)


def test_a_problem_of_a_file_has_its_line(tmp_path):
    file = tmp_path / "reward.yaml"
    file.write_text(
        "components:\n- kind: qed\n- kind: tanimoto\n  parameters:\n    references: ['C1']\n"
        "- kind: hdb\n"
    )
    assert [line.removeprefix(f"{file}:").split(" = ")[0] for line in problems(file)] == [
        "4: components.1.parameters: references[0]",
        "6: components.2.kind: unknown component 'hdb'; did you mean 'hbd'? (Number of "
        f"hydrogen-bond donors.) chemkl show rewards lists all {len(COMPONENTS)}",
    ]
