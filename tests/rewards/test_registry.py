"""Components by name: signatures as schemas, configs of rewards, synonyms and tables."""

import io
import math
from typing import Literal, NamedTuple, get_type_hints
from unittest.mock import patch

import pytest
from building import build, part, reward_of, value
from rich.console import Console

from chemkl.chem.molecules import DEFAULT_MAX_ATOMS
from chemkl.config import InputError
from chemkl.config.loading import load_config
from chemkl.config.reward import SETTINGS, RewardConfig
from chemkl.config.schema import keys_of
from chemkl.rewards import RewardModel, component
from chemkl.rewards.registry import (
    COMPONENTS,
    SYNONYMS,
    find_component,
    paragraphs,
    reward_tables,
    transform_tables,
)

SHIPPED = [entry for entry in COMPONENTS.values() if entry.factory.__module__.startswith("chemkl.")]


@pytest.fixture
def registry():
    """Forget the components that a test registers."""
    with patch.dict(COMPONENTS):
        yield


def register(kind, factory):
    return component(kind, range=(0, 1), source="this test")(factory)


def test_a_user_component_is_one_function(registry):
    @component("carbon_share", range=(0, 1), source="this test", batched=False, costly=True)
    def carbon_share(element: int = 6, *, mode: Literal["share", "any"] = "share"):
        """Share of one element among the heavy atoms."""

        def score(mol):
            n = sum(atom.GetAtomicNum() == element for atom in mol.GetAtoms())
            return n / mol.GetNumAtoms() if mode == "share" else float(n > 0)

        return score

    oxygen = {**part("carbon_share", element="8", mode="any"), "name": "has_o"}
    frame = reward_of("carbon_share", oxygen).score(["CCO", "CC"])
    assert frame["raw_carbon_share"].tolist() == [2 / 3, 1.0]
    assert frame["raw_has_o"].tolist() == [1.0, 0.0]
    entry = find_component("carbon_share")
    assert (entry.batched, entry.costly, entry.version) == (False, True, 1)
    assert paragraphs(entry.factory)[0] == "Share of one element among the heavy atoms."


def test_a_signature_is_a_schema(registry):
    def demo(patterns: list[str], *, model_size: int = 3, mode: Literal["a", "b"] = "a"):
        return lambda _: 0.0

    register("demo", demo)
    with pytest.raises(InputError) as caught:
        build("demo", modle_size=1, model_size="x", mode="c")
    expected = [
        "demo: patterns: required, and not given",
        "demo: model_size: should be a",
        "demo: mode: 'c' is not allowed. Known: a, b",
        "demo: modle_size: not a known key; did you mean 'model_size'? Known: mode",
    ]
    for line, start in zip(str(caught.value).splitlines(), expected, strict=True):
        assert line.startswith(start)
    with pytest.raises(InputError, match=r"qed takes no parameters \(got weights\)"):
        build("qed", weights="mean")


class Window(NamedTuple):
    """Settings shared by two components."""

    low: int = 1
    high: int = 3


DEFAULT_WINDOW = Window(high=5)


def test_shared_settings_are_one_parameter(registry):
    def demo(elements: list[str], *, window: Window = DEFAULT_WINDOW, exactly: bool = False):
        return lambda mol: float(window.low <= mol.GetNumAtoms() <= window.high)

    register("demo", demo)
    names = [key.name for key in keys_of(find_component("demo").parameter_model)]
    assert names == ["elements", "low", "high", "exactly"]
    values = [value("demo", s, elements=["C"], low="2") for s in ("C", "CC", "CCC", "CCCC")]
    assert values == [0, 1, 1, 0]
    with pytest.raises(InputError, match="window: not a known key"):
        build("demo", elements=["C"], window={"low": 1})


def any_keyword(**parameters: int):
    return len


@pytest.mark.parametrize(
    ("kind", "factory", "message"),
    [
        ("qed", lambda: len, r"'qed': is registered already, by chemkl.*descriptors\.qed"),
        *((kind, lambda: len, "use lower-case letters, digits and _")
          for kind in ("", "QED", "a b", "1a", "a-b")),
        ("demo", lambda width: width, "component 'demo': parameter 'width' needs a type"),
        ("demo", any_keyword, r"component 'demo': parameter \*parameters has no schema"),
    ],
)  # fmt: skip
def test_a_bad_name_or_parameter_is_not_registered(registry, kind, factory, message):
    with pytest.raises(ValueError, match=message):
        register(kind, factory)
    assert "demo" not in COMPONENTS
    assert value("qed", "CCO") == pytest.approx(0.4068, abs=1e-4)


def test_every_component_has_a_unit_range_source_and_documented_parameters():
    numbers = {"logp", "penalized_logp", "balaban_j", "rdkit_descriptor"}  # pure, unbounded
    assert len(SHIPPED) > 80
    for entry in SHIPPED:
        assert entry.factory.__doc__, entry.kind
        assert entry.source, entry.kind
        low, high = entry.range
        assert low < high, entry.kind
        assert entry.unit or entry.kind in numbers or math.isfinite(high - low), entry.kind
        names = []
        for name, kind in get_type_hints(entry.factory).items():
            names += getattr(kind, "_fields", [] if name == "return" else [name])
        keys = keys_of(entry.parameter_model)
        assert [key.name for key in keys] == names
        assert all(key.meaning for key in keys), entry.kind
    with pytest.raises(InputError, match="exact_mass takes no parameters"):  # a row of a table
        build("exact_mass", hydrogens=True)


# ---- configs of rewards

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


# ---- names in other programs

MEANT = """
required_smarts substructure smarts MatchingSubstructure matching_substructure
forbidden_smarts custom_alerts unwanted_substructures
tanimoto TanimotoSimilarity TanimotoDistance jaccard_distance similarity ROCSSimilarity
no_alerts CustomAlerts | mol_wt MolecularWeight MW | tpsa TPSA | logp SlogP | sa_score SAScore
functional_group_count GroupCount | qed Qed qedd drug-likeness | hba HBondAcceptors
hbd HBondDonors NumHBD | rotatable_bonds NumRotBond | rings NumRings RingCount
vina DockStream docking | aromatic_rings NumAromaticRings | aliphatic_rings NumAliphaticRings
largest_ring LargestRingSize | heavy_atoms NumHeavyAtoms | npr1 PMI | hetero_atoms NumHeteroAtoms
stereo_centres NumAtomStereoCenters | csp3_fraction Csp3 | sp2_atoms numsp2
graph_length GraphLength | molecular_volume MolVolume | reaction_filter ReactionFilter
external_program ExternalProcess
"""


@pytest.mark.parametrize("names", MEANT.strip().replace(" | ", "\n").splitlines())
def test_an_unknown_kind_suggests_the_component_that_was_meant(names):
    kind, *others = names.split()
    for name in others:
        with pytest.raises(InputError) as caught:
            reward_of(name)
        message = str(caught.value)
        hint, _, meaning = message.partition("? ")
        assert f"unknown component {name!r}; did you mean " in hint
        assert repr(kind) in hint
        assert paragraphs(COMPONENTS[kind].factory)[0] in meaning
        assert message.endswith(f") chemkl show rewards lists all {len(COMPONENTS)}")
        assert len(message.splitlines()) == 1


def test_every_synonym_belongs_to_a_component_and_is_none():
    assert set(SYNONYMS) <= set(COMPONENTS)
    assert not {name for names in SYNONYMS.values() for name in names} & set(COMPONENTS)


# ---- tables


def shown(tables):
    console = Console(width=300, file=io.StringIO())
    for table in tables:
        console.print(table, highlight=False)
    return console.file.getvalue()


def test_every_component_and_transform_is_in_a_table():
    components, transforms = shown(reward_tables()), shown(transform_tables())
    assert all(f"│ {kind} " in components for kind in COMPONENTS)
    assert all(f"│ {kind} " in transforms for kind in SETTINGS)
    sigmoid = shown(transform_tables("sigmoid"))
    assert "k: number > 0 = 0.25. Steepness" in sigmoid
    assert "double_sigmoid" not in sigmoid
    details = shown(reward_tables("external_program"))
    for text in (
        "unit    as answered",
        "range   -inf to inf",
        "source  your program",
        "costly  computed last",
        "│ command   │ list of text │ required │",
        "│ timeout   │ number > 0   │ 60.0     │",
        '{"id": 7, "smiles": "CCO"}',
    ):
        assert text in details
    assert "takes no parameters" in shown(reward_tables("qed"))


@pytest.mark.parametrize(
    ("table", "name", "message"),
    [
        (reward_tables, "tanimto", "unknown component 'tanimto'; did you mean 'tanimoto'"),
        (reward_tables, "zzz", r"unknown component 'zzz'\. chemkl show rewards lists"),
        (transform_tables, "sigmod", "unknown transform 'sigmod'; did you mean 'sigmoid'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(table, name, message):
    with pytest.raises(InputError, match=message):
        shown(table(name))
