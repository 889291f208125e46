import re
import subprocess
import sys

import numpy as np
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from chemkl.chem.molecules import (
    DEFAULT_MAX_ATOMS,
    ELEMENTS,
    MOST_ATOMS,
    Molecule,
    MoleculeError,
    as_mol,
    canonicalise,
    element_counts,
    parse,
    parse_formula,
    randomise,
    read_molecule,
    sdf_record,
    silenced,
    step,
)
from chemkl.chem.scaffolds import murcko_scaffold
from chemkl.config import InputError

REASONS = [
    ("", "empty"),
    ("C1CC", "not parsable: unclosed ring 1 opened at position 2"),
    ("CC%12CC1CC1", "not parsable: unclosed ring 12 opened at position 3"),
    ("CC(C", "not parsable: unclosed branch at position 3"),
    ("CC)", "not parsable: ')' without '(' at position 3"),
    ("CC[NH", "not parsable: unclosed bracket at position 3"),
    ("C[Xx]", "not parsable: unknown atom [Xx] at position 2"),
    ("CCX", "not parsable: unexpected 'X' at position 3"),
    ("CC=", "not parsable: syntax error"),
    (".", "not parsable: syntax error"),
    ("CN(C)(C)C", "not sane: Explicit valence for atom # 1 N, 4, is greater than permitted"),
    ("c1cccc1", "not sane: Can't kekulize mol. Unkekulized atoms: 0 1 2 3 4"),
    ("CCé", "not ASCII: 'é' at position 3"),
    ("C\udc80", r"not ASCII: '\udc80' at position 2"),
    ("CC ethane", "whitespace: ' ' at position 3"),
    ("CC\n", r"whitespace: '\n' at position 3"),
    ("C\x00C", r"whitespace: '\x00' at position 2"),
    ("^CC$", "not parsable: unexpected '^' at position 1"),
    ("C>>CC", "not parsable: unexpected '>' at position 2"),  # a reaction
    ("CC |$;x$|", "whitespace: ' ' at position 3"),  # CXSMILES
    ("C..C", "not parsable: syntax error"),  # an empty fragment
    ("[C,N]", "not parsable: unknown atom [C,N] at position 1"),  # SMARTS
    ("[$(CC)]", "not parsable: unknown atom [$(CC)] at position 1"),
    ("C%(123456)CC%(123456)", "not parsable: syntax error"),
    ("[C:99999999999]", "not parsable: unknown atom [C:99999999999] at position 1"),
    *(  # RDKit raises for the first, and misreads the others
        (smiles, f"not parsable: a number too large in the bracket at position {position}; elements"
         " go to 118, isotopes have at most 4 digits, charges and hydrogens 2")
        for position, all_smiles in [
            (1, ["[#119]", "[2#1118]", "[65548C]", "[999999999999C]", "[C-999]", "[CH260]"]),
            (2, ["C[#262]", "C[N+257]"]),
        ]
        for smiles in all_smiles
    ),
    ("Cc1ccc2nc(C)=n(C)c12", "not readable again: RDKit writes CC1=c2c(nc(C)n2C)C=C1, not sane: "
     "Can't kekulize mol. Unkekulized atoms: 3 4 5"),
]  # fmt: skip


@pytest.mark.parametrize(("smiles", "reason"), REASONS)
def test_every_failure_has_its_reason(smiles, reason):
    molecule = read_molecule(smiles)
    assert molecule == Molecule(smiles, None, None, reason)
    assert not molecule.valid
    assert canonicalise(smiles) is None


@pytest.mark.parametrize(
    ("smiles", "canonical"),
    [
        ("OCC", "CCO"),
        ("C1=CC=CC=C1.[Na+].[Cl-]", "[Cl-].[Na+].c1ccccc1"),  # salts keep every fragment
        ("O[C@@H](C)F", "C[C@H](O)F"),
        ("C%10CC%10", "C1CC1"),
        ("C%(123)CC%(123)", "C1CC1"),
        ("[#118]", "[Og]"),
        ("[CH3:999]C", "C[CH3:999]"),
        # stereo, isotope, radical, dummy atom, charges
        *((s, s) for s in ("F/C=C\\F", "[2H]C", "[CH3]", "*C", "CC[N+](C)(C)C", "[Fe+15]")),
    ],
)
def test_valid_molecules_keep_stereo_charges_isotopes_and_fragments(smiles, canonical):
    molecule = read_molecule(smiles)
    assert (molecule.valid, molecule.reason) == (True, None)
    assert molecule.canonical_smiles == canonical == Chem.CanonSmiles(smiles)
    assert parse(smiles).GetNumAtoms() == molecule.mol.GetNumAtoms()


@pytest.mark.parametrize(
    ("n", "limit", "reason"),
    [
        (300, {}, None),
        (501, {}, "too many atoms: 501, at most 500"),
        (10, {"max_atoms": 9}, "too many atoms: 10, at most 9"),
        (10, {"max_atoms": 10}, None),
        # never passed to RDKit, where it would take gigabytes
        (10_000_000, {}, "too long: 10000000 characters, at most 5000"),
    ],
)
def test_size_limits(n, limit, reason):
    assert read_molecule("C" * n, **limit).reason == reason


@pytest.mark.parametrize("error", [RuntimeError, OverflowError, TypeError, MemoryError])
@pytest.mark.parametrize(
    ("step", "category"), [("MolFromSmiles", "parsable"), ("MolToSmiles", "writable")]
)
def test_whatever_rdkit_raises_is_a_reason(monkeypatch, error, step, category):
    def fails(*_, **__):
        raise error("Bad\n\tthing Violation occurred on line 1 in file x.cpp RDKIT: 2026")

    monkeypatch.setattr(Chem, step, fails)
    assert read_molecule("CC").reason == f"not {category}: Bad thing"


@pytest.mark.parametrize("text", ["C(", "[", "(", "C1", "%(", "C.", "[C@@H](", "C=", "c1cc"])
@pytest.mark.parametrize("max_atoms", [DEFAULT_MAX_ATOMS, MOST_ATOMS])
def test_deep_and_long_strings_neither_crash_nor_hang(text, max_atoms):
    for n in (10_000, 1_000_000):
        assert read_molecule(text * n, max_atoms=max_atoms).reason is not None


@pytest.mark.parametrize(("n", "stack"), [(MOST_ATOMS, 8192), (DEFAULT_MAX_ATOMS, 512)])
def test_the_largest_molecules_fit_on_the_stack(n, stack):
    # RDKit recurses along a chain; 8192 kB is what Linux gives a process, 512 kB macOS a thread
    program = f"""
from chemkl.chem.molecules import read_molecule
assert read_molecule("C" * {n}, max_atoms={n}).valid
assert read_molecule("C(" * {n - 1} + "C" + ")" * {n - 1}, max_atoms={n}).valid
assert not read_molecule("C1" + "C" * {9 * n} + "1", max_atoms={n}).valid
"""
    limited = f"ulimit -s {stack}; exec {sys.executable} -c '{program}'"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_functions_that_need_a_molecule_refuse_an_invalid_smiles():
    mol = Chem.MolFromSmiles("CC")
    assert as_mol(mol) is mol
    assert as_mol("CCO").GetNumAtoms() == 3
    with pytest.raises(MoleculeError, match=r"^drawing failed: RuntimeError$"), step("drawing"):
        raise RuntimeError
    functions = (as_mol, lambda text: randomise(text, np.random.default_rng(0)), murcko_scaffold,
                 lambda text: sdf_record(text, "", {}))  # fmt: skip
    for function in functions:
        with pytest.raises(InputError, match="'C1' is not a molecule: not parsable: unclosed ring"):
            function("C1")


def test_the_log_is_silent_in_the_scope_only():
    before = rdBase.LogStatus()
    assert "rdApp.error:enabled" in before
    with pytest.raises(KeyError), silenced():  # noqa: PT012 - the log inside the scope
        with silenced():
            pass
        assert "rdApp.error:disabled" in rdBase.LogStatus()
        raise KeyError
    assert rdBase.LogStatus() == before


def test_importing_and_parsing_leave_rdkit_log_and_torch_alone():
    program = """
import sys
from rdkit import rdBase
before = rdBase.LogStatus()
from chemkl.chem import fingerprints, molecules, scaffolds, standardise
assert molecules.read_molecule("C1CC").reason
assert standardise.Standardiser([{"name": "default"}])("CC(=O)[O-].[Na+]")
assert rdBase.LogStatus() == before, rdBase.LogStatus()
assert not {"torch", "lightning"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def ring_of_rings(k):
    """A large ring of k six-membered rings, each with two equal paths around it."""
    return "C9" + "C2CCC(CC2)" * (k - 1) + "C2CCC9CC2"


def test_rings_that_would_cost_rdkit_minutes_are_refused():
    reason = "too many rings: 40 on one large ring, at most 16"
    assert read_molecule(ring_of_rings(40)).reason == reason
    ladder = "C12" + "C3C4" * 6 + "C" + "C3C4" * 34 + "C1C5C2C3C45"  # a mutated cage
    assert not read_molecule(ladder).valid


@pytest.mark.parametrize(
    ("smiles", "n_rings"),
    [
        (ring_of_rings(14), 14),
        (".".join(["C1CC1"] * 40), 40),
        ("C1CC1" * 40, 40),
        (
            "c12c3c4c5c1c1c6c7c2c2c8c3c3c9c4c4c%10c5c5c1c1c6c6c%11c7c2c2c7c8c3c3c8c9c4c4c9c%10c5c5"
            "c1c1c6c6c%11c2c2c7c3c3c8c4c4c9c5c1c1c6c2c3c41",  # C60
            32,
        ),
    ],
)
def test_many_rings_elsewhere_are_valid(smiles, n_rings):
    assert read_molecule(smiles).mol.GetRingInfo().NumRings() >= n_rings


# ---- formulas


@pytest.mark.parametrize(
    "smiles",
    ["CC(=O)Oc1ccccc1C(=O)O", "[2H]O[2H]", "[CH3]", "CC(=O)[O-].[Na+]", "C[N+](C)(C)CCO", "[H][H]"],
)
def test_counts_are_those_of_rdkits_formula(smiles):
    mol = Chem.MolFromSmiles(smiles)
    formula = re.sub(r"[+-]\d*$", "", CalcMolFormula(mol))
    assert element_counts(mol) == parse_formula(formula)


def test_a_formula_takes_the_118_elements():
    assert parse_formula("C2H5OH") == {"C": 2, "H": 6, "O": 1}
    assert parse_formula("CCl4") == {"C": 1, "Cl": 4}
    with pytest.raises(InputError, match=r"'Fe\(OH\)3' is not a molecular formula"):
        parse_formula("Fe(OH)3")
    assert len(ELEMENTS) == 118
    assert ELEMENTS & {"H", "C", "Cl", "Og", "D", "T", "*", "Xx"} == {"H", "C", "Cl", "Og"}


# ---- random spellings

CELECOXIB = "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1"


@pytest.mark.parametrize(
    "smiles",
    [CELECOXIB, "C[C@H](N)C(=O)O", "F/C=C/[C@@H]1CC[C@H](O)C1", "[Na+].[O-]C(=O)c1ccccc1",
     "[2H]C([13CH3])O", "C"],
)  # fmt: skip
def test_a_random_spelling_is_of_the_same_molecule(smiles):
    generator = np.random.default_rng(1)
    spellings = {Chem.CanonSmiles(randomise(smiles, generator)) for _ in range(50)}
    assert spellings == {Chem.CanonSmiles(smiles)}


def test_the_generator_decides_and_rdkits_shared_state_does_not(monkeypatch):
    spellings = []
    for seed in (0, 0, 1):
        spellings.append(randomise(CELECOXIB, np.random.default_rng(seed)))
        Chem.MolToSmiles(Chem.MolFromSmiles(CELECOXIB), doRandom=True)
    assert spellings[0] == spellings[1] != spellings[2]
    generator = np.random.default_rng(0)
    assert len({randomise(CELECOXIB, generator) for _ in range(100)}) > 50  # with repeats
    monkeypatch.setattr(Chem, "RenumberAtoms", lambda *_: 1 / 0)
    with pytest.raises(MoleculeError, match=r"^random spelling failed: division by zero$"):
        randomise(CELECOXIB, generator)


# ---- SD records


def read(record):
    supplier = Chem.SDMolSupplier()
    supplier.SetData(record)
    (mol,) = supplier
    return mol


@pytest.mark.parametrize(
    "smiles",  # CC=CC is unspecified, and must not become trans by its drawing
    ["C[C@H](N)C(=O)O", "C/C=C/C", "C/C=C\\C", "CC=CC", "CC=NO", "N[C@@H]1CC[C@H](O)CC1",
     "C[S@](=O)CC", "C[N+](C)(C)CC([O-])=O", "[Na+].[O-]c1ccccc1", "[13CH3]C([2H])O", "*c1ccccc1",
     "c1cc[nH]c1", "C=C=C", "[CH3]"],
)  # fmt: skip
def test_rdkit_reads_the_same_molecule_back(smiles):
    assert Chem.MolToSmiles(read(sdf_record(smiles, "", {}))) == Chem.CanonSmiles(smiles)


def test_a_record_has_a_title_flat_coordinates_and_properties():
    ethanol = Chem.MolFromSmiles("CCO")
    record = sdf_record(ethanol, "run_1", {"reward": "0.5", "reason": "two\n\nlines", "empty": ""})
    assert (ethanol.GetNumConformers(), ethanol.GetPropsAsDict()) == (0, {})  # unchanged
    assert re.fullmatch(r"run_1\n.*V2000.*\$\$\$\$\n", record, re.DOTALL)
    mol = read(record)
    assert mol.GetPropsAsDict() == {"reward": 0.5, "reason": "two lines", "empty": ""}
    positions = mol.GetConformer().GetPositions()
    assert not positions[:, 2].any()
    assert len({tuple(xyz) for xyz in positions.tolist()}) == 3
    assert not mol.GetConformer().Is3D()
    record = sdf_record(Chem.MolFromSmiles("C[C@H](N)O |&1:1|"), "", {})  # a racemate
    assert "V3000" in record
    assert len(read(record).GetStereoGroups()) == 1
