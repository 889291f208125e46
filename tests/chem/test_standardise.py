import inspect
import pickle
import re

import pytest
from rdkit import Chem, rdBase
from rdkit.Chem.MolStandardize import rdMolStandardize
from reinvent_chemistry.standardization.filter_configuration import FilterConfiguration
from reinvent_chemistry.standardization.filter_registry import FilterRegistry

from chemkl.chem.standardise import FILTER_NAMES, PARAMETER_TYPES, Standardiser
from chemkl.config import InputError

_SMILES = """
    C[C@H]([NH3+])C(=O)[O-].[Cl-] O=C([O-])CC(C(=O)[O-])c1ccccc1.[K+].[K+] CC(=O)Oc1ccccc1C(=O)O
    CCCCCCC SCc1ccccc1 [Pt]c1ccccc1 [Na+].[Cl-] C [2H]c1ccccc1C OC(=O)c1ccccc1[N+](=O)[O-]
    F/C=C/c1ccccc1
"""
SMILES = _SMILES.split()


@pytest.fixture(scope="module")
def rdkit_standardizer():
    """The package's own class; importing its file switches RDKit's log off for good."""
    from reinvent_chemistry.standardization.rdkit_standardizer import RDKitStandardizer

    for channel in ("rdApp.warning", "rdApp.error"):
        rdBase.EnableLog(channel)
    return RDKitStandardizer


@pytest.mark.parametrize("smiles", SMILES)
@pytest.mark.parametrize(
    "filters",
    [
        [("default", {})],
        [("default", {"remove_long_side_chains": False, "neutralise_charges": False})],
        [("get_largest_fragment", {}), ("remove_hydrogens", {}), ("neutralise_charges", {})],
        [("remove_salts", {}), ("allowed_atom_type", {"element_list": [6, 7, 8]})],
        [("heavy_atom_filter", {"min_heavy_atoms": 3, "max_heavy_atoms": 8})],
    ],
)
def test_agrees_with_reinvent_chemistrys_own_standardiser(rdkit_standardizer, smiles, filters):
    theirs = rdkit_standardizer([FilterConfiguration(n, p) for n, p in filters], None)
    expected = theirs.apply_filter(smiles)
    ours = Standardiser([{"name": name, "parameters": p} for name, p in filters])
    standardised, reason = ours(smiles)
    # theirs is not always canonical after a reaction: it is written from an unsanitised molecule
    assert standardised == (None if expected is None else Chem.CanonSmiles(expected))
    assert (reason is None) == (standardised is not None)


FLAT = [{"name": "general_cleanup"}]  # any filter of reinvent-chemistry loses stereo and isotopes
FILTERS = [
    {"name": "get_largest_fragment"},
    {"name": "heavy_atom_filter", "parameters": {"min_heavy_atoms": 3}},
    {"name": "aliphatic_chain_filter"},
]
VOCABULARY = [{"name": "vocabulary_filter", "parameters": {"vocabulary": ["C", "O"]}}]


@pytest.mark.parametrize(
    ("filters", "smiles", "standardised", "reason"),
    [
        ([], "O[C@@H](C)F.[Na+]", "C[C@H](O)F.[Na+]", None),
        ([], "F/C=C/F", "F/C=C/F", None),
        ([], "C1CC", None, "not parsable: unclosed ring 1 opened at position 2"),
        ([], "", None, "empty"),
        (FLAT, "C[C@H](O)F", "CC(O)F", None),
        (FLAT, "F/C=C/F", "FC=CF", None),
        (FLAT, "[13CH3]O", "CO", None),
        (FILTERS, "c1ccccc1.[Na+]", "c1ccccc1", None),
        (FILTERS, "CCO", None, "dropped by filter heavy_atom_filter"),  # 3 < n, not <=
        (FILTERS, "CCCCCO", None, "dropped by filter aliphatic_chain_filter"),
        (VOCABULARY, "CCO", "CCO", None),
        (VOCABULARY, "CCN", None, "dropped by filter vocabulary_filter"),
        ([{"name": "remove_salts"}], "CCO", None, "filter remove_salts failed: division by zero"),
    ],
)
def test_filters_change_a_molecule_or_give_a_reason(
    monkeypatch, filters, smiles, standardised, reason
):
    monkeypatch.setattr(FilterRegistry, "_remove_salts", lambda *_: 1 / 0)
    assert Standardiser(filters)(smiles) == (standardised, reason)


def test_why_stereo_cannot_be_kept():
    # the two enantiomers of alanine: the package's filter turns one into the other
    neutralise = FilterRegistry().get_filter("neutralise_charges")
    ionised = neutralise(Chem.MolFromSmiles("C[C@H]([NH3+])C(=O)[O-]"))
    assert Chem.MolToSmiles(ionised) == Chem.CanonSmiles("C[C@@H](N)C(=O)O")
    assert Chem.MolToSmiles(ionised) != Chem.CanonSmiles("C[C@H](N)C(=O)O")


def test_every_problem_is_named_at_once():
    with pytest.raises(InputError) as caught:
        Standardiser(
            [
                {"name": "defalt"},
                {"name": "valid_size", "parameters": {"min_heavy": 3, "max_heavy_atoms": "many"}},
                {"name": "remove_salts", "parameters": {"a": 1}},
                {"parameters": {}},
                {"name": "default", "params": {}},
                {"name": "vocabulary_filter"},
            ]
        )
    expected = [
        r"filters\[0\]: unknown filter 'defalt'; did you mean 'default'\? Known: default, ",
        r"filters\[1\]: .*unknown parameter 'min_heavy'; did you mean 'min_heavy_atoms'\?",
        r"filters\[1\]: .*max_heavy_atoms = 'many': Input should be a valid integer",
        r"filters\[2\]: .*unknown parameter 'a'; it takes none",
        r"filters\[3\]: unknown filter None",
        r"filters\[4\]: unknown key 'params'",
        r"filters\[5\]: vocabulary_filter: the parameter 'vocabulary'",
    ]
    for line, pattern in zip(str(caught.value).splitlines(), expected, strict=True):
        assert re.match(pattern, line)


def test_workers_get_an_equal_one_and_nothing_is_logged(capfd):
    standardiser = Standardiser([{"name": "default", "parameters": {"max_heavy_atoms": 12}}])
    copy = pickle.loads(pickle.dumps(standardiser))
    for smiles in SMILES:
        assert copy(smiles) == standardiser(smiles)
    Standardiser([{"name": "remove_salts"}])("[Na+].[Cl-].[H]")
    assert capfd.readouterr().err == ""


def test_names_and_parameters_are_those_of_the_installed_package():
    assert {"default", "get_largest_fragment", "valid_size"} < {*FILTER_NAMES}
    assert len(FILTER_NAMES) == 12
    filters = map(FilterRegistry().get_filter, FILTER_NAMES)
    offered = {parameter for work in filters for parameter in inspect.signature(work).parameters}
    assert offered - {"mol", "reactions"} == set(PARAMETER_TYPES) - {"share", "seed"}  # our own


# ---- filters that keep stereochemistry


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("C[C@H]([NH3+])C(=O)[O-].[Cl-]", "C[C@H](N)C(=O)O"),
        ("F/C=C/C(=O)[O-].[K+]", "F/C=C/C(=O)O"),
        ("C[N+](C)(C)CCO.[Cl-]", "C[N+](C)(C)CCO"),  # no proton can make it neutral
        ("CC[S@](C)=O", "CC[S@+](C)[O-]"),  # the same neighbours in the same order
        ("[2H]C([2H])([2H])Oc1ccccc1", "COc1ccccc1"),
        ("OCC[18F]", "OCCF"),
        ("CO.OC(=O)CCCCCCCCC(=O)O.[Zn+2]", "OC(=O)CCCCCCCCC(=O)O"),
        ("[Na+].[Br-].[Br-].CC", "CC"),  # organic before large
        ("O[C@@H](C)F", "C[C@H](O)F"),
    ],
)
def test_a_parent_is_one_uncharged_molecule_with_its_stereochemistry(smiles, expected):
    assert Standardiser([{"name": "parent"}])(smiles) == (Chem.CanonSmiles(expected), None)


def test_the_parents_of_real_molecules_are_rdkits(real_smiles):
    for smiles in real_smiles[:100]:
        mol = Chem.MolFromSmiles(smiles)
        theirs = rdMolStandardize.ChargeParent(mol)
        assert Standardiser([{"name": "parent"}])(smiles) == (Chem.MolToSmiles(theirs), None)


def test_open_stereochemistry_is_assigned_and_specified_stereochemistry_kept():
    assign = Standardiser([{"name": "assign_stereo"}])
    isomers = {Chem.CanonSmiles(f"C/C=C{bond}C(=O)NC(F)Cl") for bond in "/\\"}
    assigned, reason = assign("CC=CC(=O)NC(F)Cl")
    assert reason is None
    assert assigned == assign("CC=CC(=O)NC(F)Cl")[0]
    centres = Chem.FindMolChiralCenters(
        Chem.MolFromSmiles(assigned), includeUnassigned=True, useLegacyImplementation=False
    )
    assert "?" not in dict(centres).values()
    assert Chem.CanonSmiles(assigned.replace("@", "")) in isomers
    epimers = {Chem.CanonSmiles(f"C[C@H](O)[C@{mark}H](F)Cl") for mark in ("", "@")}
    assert assign("C[C@H](O)C(F)Cl")[0] in epimers
    for strained in ("CC1CC2CCC1C2O", "CC1C2CCCC12"):  # a bridge, a fused ring of three
        assert assign(strained) == (Chem.CanonSmiles(strained), None)


def test_every_spelling_becomes_the_same_isomer_of_a_seed():
    smiles = "CC(F)C(N)C(Cl)C=CC(O)C(C)Br"
    spellings = {Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(smiles), 40, i)[0] for i in range(9)}
    assert len(spellings) > 5
    by_seed = []
    for seed in range(4):
        assign = Standardiser([{"name": "assign_stereo", "parameters": {"seed": seed}}])
        isomers = {assign(text)[0] for text in spellings}
        assert len(isomers) == 1
        by_seed += isomers
    assert len({*by_seed}) > 2
    assert by_seed[0] == Standardiser([{"name": "assign_stereo"}])(smiles)[0]


def test_a_share_of_the_molecules_stays_open():
    smiles = [f"C{'C' * i}C(F)N{'C' * j}" for i in range(20) for j in range(20)]
    half = Standardiser([{"name": "assign_stereo", "parameters": {"share": 0.5}}])
    n_assigned = sum("@" in half(text)[0] for text in smiles)
    assert 150 < n_assigned < 250  # 400 x 0.5, five standard deviations
    n_clockwise = sum(half(text)[0].count("@@") == 1 for text in smiles)
    assert n_assigned / 4 < n_clockwise < n_assigned * 3 / 4  # both hands occur
    with pytest.raises(InputError, match="share = 2: Input should be less than or equal to 1"):
        Standardiser([{"name": "assign_stereo", "parameters": {"share": 2}}])
