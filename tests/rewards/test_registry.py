from typing import Literal

import pytest
from rdkit import Chem

from chemkl.config import InputError
from chemkl.rewards import RewardModel, component
from chemkl.rewards.registry import COMPONENTS, find_component


@pytest.fixture
def registry():
    """Whatever a test registers is forgotten after it."""
    before = dict(COMPONENTS)
    yield
    COMPONENTS.clear()
    COMPONENTS.update(before)


def test_a_component_of_ones_own_is_one_function(registry):
    @component("carbon_share", range=(0, 1), source="this test")
    def carbon_share(element: int = 6, *, mode: Literal["share", "any"] = "share"):
        """Share of one element among the heavy atoms."""

        def score(mol):
            found = sum(atom.GetAtomicNum() == element for atom in mol.GetAtoms())
            return found / mol.GetNumAtoms() if mode == "share" else float(found > 0)

        return score

    frame = RewardModel.from_config(
        {
            "components": [
                {"kind": "carbon_share"},
                {
                    "kind": "carbon_share",
                    "name": "has_o",
                    "parameters": {"element": "8", "mode": "any"},
                },
            ]
        }
    ).score(["CCO", "CC"])
    assert frame["raw_carbon_share"].tolist() == [2 / 3, 1.0]
    assert frame["raw_has_o"].tolist() == [1.0, 0.0]


def test_its_signature_is_its_schema(registry):
    @component("demo", range=(0, 1), source="this test")
    def demo(patterns: list[str], *, model_size: int = 3, mode: Literal["a", "b"] = "a"):
        return lambda _: 0.0

    with pytest.raises(InputError) as caught:
        find_component("demo").build({"modle_size": 1, "model_size": "x", "mode": "c"})
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "demo: patterns: required, and not given" in lines[0]
    assert "demo: model_size: should be a" in lines[1]
    assert "demo: mode: 'c' is not allowed. Known: a, b" in lines[2]
    assert "modle_size: not a known key; did you mean 'model_size'? Known: mode" in lines[3]


def test_a_component_without_parameters_says_so():
    with pytest.raises(InputError, match=r"qed takes no parameters \(got weights\)"):
        find_component("qed").build({"weights": "mean"})


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        InputError, match=r"unknown component 'qedd'; did you mean 'qed'\? .*chemkl show rewards"
    ):
        find_component("qedd")


def test_a_name_is_taken_once(registry):
    with pytest.raises(ValueError, match=r"'qed' is registered already, by chemkl.*physchem\.qed"):
        component("qed", range=(0, 1), source="this test")(lambda: len)
    assert find_component("qed").build({})(Chem.MolFromSmiles("CCO")) == pytest.approx(
        0.4068, abs=1e-4
    )


@pytest.mark.parametrize("kind", ["", "QED", "a b", "1a", "a-b"])
def test_a_name_must_fit_a_config_and_a_column(registry, kind):
    with pytest.raises(ValueError, match="use lower-case letters, digits and _"):
        component(kind, range=(0, 1), source="this test")(lambda: len)


def test_a_parameter_needs_a_type(registry):
    with pytest.raises(ValueError, match="component 'demo': parameter 'width' needs a type"):
        component("demo", range=(0, 1), source="this test")(lambda width: width)

    def anything(**parameters: int):
        return len

    with pytest.raises(ValueError, match=r"component 'demo': \*args and \*\*kwargs have no schema"):
        component("demo", range=(0, 1), source="this test")(anything)
    assert "demo" not in COMPONENTS
