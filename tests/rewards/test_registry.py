"""Components by name: one function is one, its signature is its schema, and the tables show all."""

import io
import math
from typing import Literal, NamedTuple, get_type_hints
from unittest.mock import patch

import pytest
from building import build, part, reward_of, value
from rich.console import Console

from chemkl.config import InputError
from chemkl.config.reward import SETTINGS
from chemkl.config.schema import keys_of
from chemkl.rewards import component
from chemkl.rewards.registry import (
    COMPONENTS,
    SYNONYMS,
    find_component,
    paragraphs,
    reward_tables,
    transform_tables,
)

SHIPPED = [each for each in COMPONENTS.values() if each.factory.__module__.startswith("chemkl.")]


@pytest.fixture
def registry():
    """Whatever a test registers is forgotten after it."""
    with patch.dict(COMPONENTS):
        yield


def test_a_component_of_ones_own_is_one_function(registry):
    @component("carbon_share", range=(0, 1), source="this test", batched=False, costly=True)
    def carbon_share(element: int = 6, *, mode: Literal["share", "any"] = "share"):
        """Share of one element among the heavy atoms."""

        def score(mol):
            found = sum(atom.GetAtomicNum() == element for atom in mol.GetAtoms())
            return found / mol.GetNumAtoms() if mode == "share" else float(found > 0)

        return score

    oxygen = {**part("carbon_share", element="8", mode="any"), "name": "has_o"}
    frame = reward_of("carbon_share", oxygen).score(["CCO", "CC"])
    assert frame["raw_carbon_share"].tolist() == [2 / 3, 1.0]
    assert frame["raw_has_o"].tolist() == [1.0, 0.0]
    made = find_component("carbon_share")
    assert (made.batched, made.costly, made.version) == (False, True, 1)
    assert paragraphs(made.factory)[0] == "Share of one element among the heavy atoms."


def test_its_signature_is_its_schema(registry):
    @component("demo", range=(0, 1), source="this test")
    def demo(patterns: list[str], *, model_size: int = 3, mode: Literal["a", "b"] = "a"):
        return lambda _: 0.0

    with pytest.raises(InputError) as caught:
        build("demo", modle_size=1, model_size="x", mode="c")
    says = [
        "demo: patterns: required, and not given",
        "demo: model_size: should be a",
        "demo: mode: 'c' is not allowed. Known: a, b",
        "demo: modle_size: not a known key; did you mean 'model_size'? Known: mode",
    ]
    for line, start in zip(str(caught.value).splitlines(), says, strict=True):
        assert line.startswith(start)
    with pytest.raises(InputError, match=r"qed takes no parameters \(got weights\)"):
        build("qed", weights="mean")


class Window(NamedTuple):
    """Settings that two components share."""

    low: int = 1
    high: int = 3


DEFAULT_WINDOW = Window(high=5)


def test_settings_that_several_components_share_are_one_parameter(registry):
    @component("demo", range=(0, 1), source="this test")
    def demo(elements: list[str], *, window: Window = DEFAULT_WINDOW, exactly: bool = False):
        return lambda mol: float(window.low <= mol.GetNumAtoms() <= window.high)

    assert [key.name for key in keys_of(find_component("demo").parameter_model)] == [
        *("elements", "low", "high", "exactly")
    ]
    given = {"elements": ["C"], "low": "2"}
    assert [value("demo", smiles, **given) for smiles in ("C", "CC", "CCC", "CCCC")] == [0, 1, 1, 0]
    with pytest.raises(InputError, match="window: not a known key"):
        build("demo", elements=["C"], window={"low": 1})


def test_a_name_is_taken_once_and_fits_a_config_and_a_column(registry):
    with pytest.raises(ValueError, match=r"'qed': is registered already, by chemkl.*ors\.qed"):
        component("qed", range=(0, 1), source="this test")(lambda: len)
    assert value("qed", "CCO") == pytest.approx(0.4068, abs=1e-4)
    for kind in ("", "QED", "a b", "1a", "a-b"):
        with pytest.raises(ValueError, match="use lower-case letters, digits and _"):
            component(kind, range=(0, 1), source="this test")(lambda: len)


def test_a_parameter_needs_a_type(registry):
    with pytest.raises(ValueError, match="component 'demo': parameter 'width' needs a type"):
        component("demo", range=(0, 1), source="this test")(lambda width: width)

    def anything(**parameters: int):
        return len

    with pytest.raises(ValueError, match=r"component 'demo': parameter \*parameters has no schema"):
        component("demo", range=(0, 1), source="this test")(anything)
    assert "demo" not in COMPONENTS


def test_every_component_says_its_unit_range_source_and_parameters():
    numbers = {"logp", "penalized_logp", "balaban_j", "rdkit_descriptor"}  # pure, without an end
    assert len(SHIPPED) > 80
    for one in SHIPPED:  # other tests register components of their own
        assert one.factory.__doc__, one.kind
        assert one.source, one.kind
        low, high = one.range
        assert low < high, one.kind
        assert one.unit or one.kind in numbers or math.isfinite(high - low), one.kind
        keys = keys_of(one.parameter_model)
        names = []
        for name, kind in get_type_hints(one.factory).items():
            names += getattr(kind, "_fields", [] if name == "return" else [name])
        assert [key.name for key in keys] == names
        assert all(key.meaning for key in keys), one.kind
    with pytest.raises(InputError, match="exact_mass takes no parameters"):  # a row of a table
        build("exact_mass", hydrogens=True)


# ---- names that other programs and people have


MEANT = {
    "required_smarts": "substructure smarts MatchingSubstructure matching_substructure",
    "forbidden_smarts": "custom_alerts unwanted_substructures",
    "tanimoto": "TanimotoSimilarity TanimotoDistance jaccard_distance similarity ROCSSimilarity",
    **{"no_alerts": "CustomAlerts", "mol_wt": "MolecularWeight MW", "tpsa": "TPSA"},
    **{"logp": "SlogP", "functional_group_count": "GroupCount", "qed": "Qed qedd drug-likeness"},
    **{"sa_score": "SAScore", "hba": "HBondAcceptors", "hbd": "HBondDonors NumHBD"},
    **{
        "rotatable_bonds": "NumRotBond",
        "rings": "NumRings RingCount",
        "vina": "DockStream docking",
    },
    **{"aromatic_rings": "NumAromaticRings", "aliphatic_rings": "NumAliphaticRings"},
    **{"largest_ring": "LargestRingSize", "heavy_atoms": "NumHeavyAtoms", "npr1": "PMI"},
    **{"hetero_atoms": "NumHeteroAtoms", "stereo_centres": "NumAtomStereoCenters"},
    **{"csp3_fraction": "Csp3", "sp2_atoms": "numsp2", "graph_length": "GraphLength"},
    **{"molecular_volume": "MolVolume", "reaction_filter": "ReactionFilter"},
    "external_program": "ExternalProcess",
}


@pytest.mark.parametrize("meant", MEANT)
def test_an_unknown_kind_names_the_component_that_was_meant(meant):
    for name in MEANT[meant].split():
        with pytest.raises(InputError) as caught:
            reward_of(name)
        message = str(caught.value)
        hint, _, meaning = message.partition("? ")
        assert f"unknown component {name!r}; did you mean " in hint
        assert repr(meant) in hint
        assert paragraphs(COMPONENTS[meant].factory)[0] in meaning
        assert message.endswith(f") chemkl show rewards lists all {len(COMPONENTS)}")
        assert len(message.splitlines()) == 1


def test_every_other_name_is_of_a_component_and_none_is_a_component_itself():
    assert set(SYNONYMS) <= set(COMPONENTS)
    assert not {name for names in SYNONYMS.values() for name in names} & set(COMPONENTS)


# ---- the tables of components and transforms


def shown(tables):
    console = Console(width=300, file=io.StringIO())
    for table in tables:
        console.print(table, highlight=False)
    return console.file.getvalue()


def test_every_component_and_transform_is_in_a_table():
    text = shown(reward_tables())
    assert all(f"│ {kind} " in text for kind in COMPONENTS)
    text = shown(transform_tables())
    assert all(f"│ {kind} " in text for kind in SETTINGS)
    one = shown(transform_tables("sigmoid"))
    assert "k: number > 0 = 0.25. Steepness" in one
    assert "double_sigmoid" not in one


def test_one_component_in_detail():
    text = shown(reward_tables("external_program"))
    for said in (
        "unit    as answered",
        "range   -inf to inf",
        "source  a program of yours",
        "costly  computed last",
        "│ command   │ list of text │ required │",
        "│ timeout   │ number > 0   │ 60.0     │",
        '{"id": 7, "smiles": "CCO"}',
    ):
        assert said in text
    assert "takes no parameters" in shown(reward_tables("qed"))


@pytest.mark.parametrize(
    ("table", "name", "message"),
    [
        (reward_tables, "tanimto", "unknown component 'tanimto'; did you mean 'tanimoto'"),
        (reward_tables, "zzz", r"unknown component 'zzz'\. chemkl show rewards lists"),
        (transform_tables, "sigmod", "unknown transform 'sigmod'; did you mean 'sigmoid'"),
    ],
)
def test_unknown_names_are_met_with_the_nearest(table, name, message):
    with pytest.raises(InputError, match=message):
        shown(table(name))
