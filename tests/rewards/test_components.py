import math
import os
import sys

import pytest
from rdkit import Chem, DataStructs, RDConfig
from rdkit.Chem import QED, Crippen, Descriptors, Lipinski, rdFingerprintGenerator

from chemkl.config import InputError
from chemkl.rewards.components import substructure
from chemkl.rewards.registry import COMPONENTS, find_component

CELECOXIB = "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1"
MOLECULES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    CELECOXIB,
    "OC(CCCN1CCC(O)(c2ccc(Cl)cc2)CC1)c1ccc(F)cc1",
    "C[C@H]1CC[C@@H](O)C1=O",
    "C[N+](C)(C)CC(=O)[O-]",
    "O=S(=O)(O)c1ccccc1.[Na+]",
    "C",
    "C" * 300,
    "[CH3]",
    "[2H]O[2H]",
    "C1CC2(C1)CC1CC2CCCCCCC1",  # spiro, bridged, macrocycle
]


def sascorer():
    sys.path.append(os.path.join(RDConfig.RDContribDir, "SA_Score"))
    try:
        import sascorer as module
    finally:
        sys.path.pop()
    return module


ORACLES = {
    "qed": QED.qed,
    "sa_score": lambda mol: sascorer().calculateScore(mol),
    "mol_wt": Descriptors.MolWt,
    "logp": Crippen.MolLogP,
    "tpsa": Descriptors.TPSA,
    "hbd": Lipinski.NumHDonors,
    "hba": Lipinski.NumHAcceptors,
    "rotatable_bonds": Lipinski.NumRotatableBonds,
    "rings": Lipinski.RingCount,
}


@pytest.mark.parametrize("smiles", MOLECULES)
@pytest.mark.parametrize("kind", ORACLES)
def test_properties_are_rdkits(kind, smiles):
    mol = Chem.MolFromSmiles(smiles)
    low, high = COMPONENTS[kind].range
    value = find_component(kind).build({})(mol)
    assert value == ORACLES[kind](mol)
    assert low <= value <= high


def test_aspirin_against_its_data_sheet():
    aspirin = Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O")
    by_kind = {kind: find_component(kind).build({})(aspirin) for kind in ORACLES}
    assert by_kind["mol_wt"] == pytest.approx(180.159, abs=1e-3)  # C9H8O4
    assert by_kind["tpsa"] == pytest.approx(63.6, abs=0.01)  # PubChem CID 2244
    # an acid donates one H; the ester's ether O accepts nothing in RDKit's count; one ring
    assert (by_kind["hbd"], by_kind["hba"], by_kind["rings"]) == (1, 3, 1)


def test_a_new_component_needs_an_oracle_above_or_a_test_of_its_own():
    own = {"tanimoto", "required_smarts", "forbidden_smarts"}
    shipped = {
        kind
        for kind, each in COMPONENTS.items()
        if each.factory.__module__.startswith("chemkl.rewards.components.")
    }
    assert shipped == set(ORACLES) | own


def similarity(smiles, reference, radius=2, n_bits=2048):
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=n_bits)
    a, b = (generator.GetFingerprint(Chem.MolFromSmiles(s)) for s in (smiles, reference))
    return DataStructs.TanimotoSimilarity(a, b)


REFERENCES = ["CCO", CELECOXIB, "c1ccccc1"]


@pytest.mark.parametrize("smiles", MOLECULES)
def test_all_references_count(smiles):
    mol = Chem.MolFromSmiles(smiles)
    each = [similarity(smiles, reference) for reference in REFERENCES]
    nearest = find_component("tanimoto").build({"references": REFERENCES})
    mean = find_component("tanimoto").build({"references": REFERENCES, "combine": "mean"})
    assert nearest(mol) == max(each)
    assert mean(mol) == pytest.approx(sum(each) / 3, abs=1e-15)


def test_the_nearest_reference_need_not_be_the_first():
    score = find_component("tanimoto").build({"references": ["CCO", CELECOXIB]})
    assert score(Chem.MolFromSmiles(CELECOXIB)) == 1.0
    assert similarity(CELECOXIB, "CCO") < 0.1


def test_radius_and_length_are_settings():
    mol = Chem.MolFromSmiles(CELECOXIB)
    for radius, n_bits in [(1, 2048), (3, 256)]:
        score = find_component("tanimoto").build(
            {"references": "Cc1ccccc1", "radius": radius, "n_bits": n_bits}
        )
        assert score(mol) == similarity(CELECOXIB, "Cc1ccccc1", radius, n_bits)


def test_a_reference_that_is_no_molecule_is_named():
    with pytest.raises(InputError, match=r"references\[1\] = 'C1' is not a molecule: not parsable"):
        find_component("tanimoto").build({"references": ["CCO", "C1"]})
    with pytest.raises(InputError, match=r"references: should have at least 1 entry"):
        find_component("tanimoto").build({"references": []})
    with pytest.raises(InputError, match="references: required, and not given"):
        find_component("tanimoto").build({})
    with pytest.raises(InputError, match=r"combine: 'min' is not allowed.*Known: max, mean"):
        find_component("tanimoto").build({"references": ["C"], "combine": "min"})
    with pytest.raises(InputError, match="radius: should be greater than or equal to 0"):
        find_component("tanimoto").build({"references": ["C"], "radius": -1})


ACID, AMINE = "C(=O)[OX2H1]", "[NX3;H2]"


@pytest.mark.parametrize(
    ("smiles", "every", "any_", "none"),
    [
        ("NCC(=O)O", 1, 1, 0),  # glycine: both
        ("CC(=O)O", 0, 1, 0),
        ("CCN", 0, 1, 0),
        ("CCO", 0, 0, 1),
    ],
)
def test_required_and_forbidden_patterns(smiles, every, any_, none):
    mol = Chem.MolFromSmiles(smiles)
    required = find_component("required_smarts")
    patterns = {"smarts": [ACID, AMINE]}
    assert required.build(patterns)(mol) == every
    assert required.build({**patterns, "combine": "any"})(mol) == any_
    assert find_component("forbidden_smarts").build(patterns)(mol) == none


@pytest.mark.parametrize("kind", ["required_smarts", "forbidden_smarts"])
def test_every_unparsable_pattern_is_named_with_its_place(kind, capfd):
    with pytest.raises(InputError) as caught:
        find_component(kind).build({"smarts": ["[#6]", "[#6", "C(", "é", ""]})
    assert str(caught.value).splitlines() == [
        f"{kind}: smarts[1] = '[#6' is not a SMARTS pattern",
        f"{kind}: smarts[2] = 'C(' is not a SMARTS pattern",
        f"{kind}: smarts[3] = 'é' is not a SMARTS pattern",
        f"{kind}: smarts[4] = '' is not a SMARTS pattern",
    ]
    assert capfd.readouterr().err == ""


def test_patterns_are_compiled_once(monkeypatch):
    compiled = []
    compile_one = Chem.MolFromSmarts
    monkeypatch.setattr(
        substructure.Chem, "MolFromSmarts", lambda text: compiled.append(text) or compile_one(text)
    )
    score = find_component("forbidden_smarts").build({"smarts": [ACID, AMINE]})
    assert [score(Chem.MolFromSmiles(s)) for s in MOLECULES * 3].count(1.0) > 0
    assert compiled == [ACID, AMINE]


def test_every_component_says_its_unit_range_and_source():
    for each in COMPONENTS.values():
        assert each.factory.__doc__, each.kind
        assert each.source, each.kind
        low, high = each.range
        assert low < high, each.kind
        if not each.unit and each.kind != "logp":  # a pure number is bounded
            assert math.isfinite(low), each.kind
            assert math.isfinite(high), each.kind
