"""Translated scoring of REINVENT4 gives the scores of its formulas to 1e-6.

The formulas are written here again, from reinvent/scoring of version 4.8.
"""

import math
import re
from math import exp, prod

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import (
    QED,
    Crippen,
    Descriptors,
    Lipinski,
    rdFingerprintGenerator,
    rdMolDescriptors,
)
from rdkit.DataStructs import TanimotoSimilarity

from chemkl.peers import Notes, read_config
from chemkl.peers.scoring import PLAIN, WITH_PARAMETERS, plain, translate_scoring
from chemkl.rewards import RewardModel
from chemkl.rewards.components.descriptors import sascorer

with open("data/moses_sample.smi") as lines:
    MOLECULES = [line.split()[0] for line, _ in zip(lines, range(100), strict=False)]
MOLS = [Chem.MolFromSmiles(smiles) for smiles in MOLECULES]
CELECOXIB = "Cc1ccc(cc1)-c1cc(nn1-c1ccc(cc1)S(N)(=O)=O)C(F)(F)F"


# ---- REINVENT4's formulas


def rising(x, low, high, k):
    return 1 / (1 + 10 ** (-10 * k * (x - (high + low) / 2) / (high - low)))


def window(x, low, high, div, left, right):
    if x < (high - low) / 2 + low:
        return 1 / (1 + 10 ** (-(x - low) * left / div))
    return 1 - 1 / (1 + 10 ** (-(x - high) * right / div))


def geometric(scores, weights):
    return prod(s ** (w / sum(weights)) for s, w in zip(scores, weights, strict=True))


def arithmetic(scores, weights):
    return sum(s * w for s, w in zip(scores, weights, strict=True)) / sum(weights)


def similarity(radius, features, counts):
    invariants = rdFingerprintGenerator.GetMorganFeatureAtomInvGen() if features else None
    maker = rdFingerprintGenerator.GetMorganGenerator(
        radius=radius, atomInvariantsGenerator=invariants
    )
    make = maker.GetSparseCountFingerprint if counts else maker.GetSparseFingerprint
    target = make(Chem.MolFromSmiles(CELECOXIB))
    return lambda mol: TanimotoSimilarity(make(mol), target)


def hybrids(kind):
    expected = getattr(Chem.HybridizationType, kind)
    return lambda mol: sum(atom.GetHybridization() == expected for atom in mol.GetAtoms())


RAW = {
    "Qed": QED.qed,
    "MolecularWeight": Descriptors.MolWt,
    "GraphLength": lambda mol: np.max(Chem.GetDistanceMatrix(mol)),
    "NumAtomStereoCenters": rdMolDescriptors.CalcNumAtomStereoCenters,
    "HBondAcceptors": Lipinski.NumHAcceptors,
    "HBondDonors": Lipinski.NumHDonors,
    "NumRotBond": Lipinski.NumRotatableBonds,
    "Csp3": Lipinski.FractionCSP3,
    "numsp": hybrids("SP"),
    "numsp2": hybrids("SP2"),
    "numsp3": hybrids("SP3"),
    "NumHeavyAtoms": Lipinski.HeavyAtomCount,
    "NumHeteroAtoms": Lipinski.NumHeteroatoms,
    "NumRings": Lipinski.RingCount,
    "NumAromaticRings": Lipinski.NumAromaticRings,
    "NumAliphaticRings": Lipinski.NumAliphaticRings,
    "SlogP": Crippen.MolLogP,
    "LargestRingSize": lambda mol: max(map(len, mol.GetRingInfo().AtomRings()), default=0),
    "SAScore": lambda mol: sascorer()(mol),
    "TPSA": Descriptors.TPSA,
}
"""Values of components without parameters, by their names in REINVENT4."""

TRANSFORMS = {
    "type = 'sigmoid', low = {a}, high = {b}, k = 0.4": lambda x, a, b: rising(x, a, b, 0.4),
    "type = 'sigmoid', low = {b}, high = {a}, k = 0.4": lambda x, a, b: rising(x, b, a, 0.4),
    "type = 'reverse_sigmoid', low = {a}, high = {b}, k = 0.25":
        lambda x, a, b: 1 - rising(x, a, b, 0.25),
    "type = 'Reverse-Sigmoid', low = {b}, high = {a}, k = 0.25":
        lambda x, a, b: 1 - rising(x, b, a, 0.25),
    "type = 'double_sigmoid', low = {a}, high = {b}":
        lambda x, a, b: window(x, a, b, 100, 150, 150),
    "type = 'double_sigmoid', low = {a}, high = {b}, coef_div = 7, coef_si = 2, coef_se = 3":
        lambda x, a, b: window(x, a, b, 7, 2, 3),
    "type = 'step', low = {a}, high = {b}": lambda x, a, b: float(a <= x <= b),
    "type = 'right_step', high = {b}": lambda x, _, b: float(x >= b),
    "type = 'leftstep', low = {a}, high = 7": lambda x, a, _: float(x <= a),
    "type = 'exponential_decay', k = 0.7": lambda x, *_: 1 if x < 0 else exp(-0.7 * x),
}  # fmt: skip


def translated(tmp_path, text):
    """Translate a scoring section; return the reward and the notes."""
    path = tmp_path / "run.toml"
    path.write_text("[scoring]\n" + text)
    notes = Notes()
    section = read_config(path, notes).table("scoring")
    return translate_scoring(section, str), notes


def block(name, *endpoints):
    """A component in TOML with its endpoints, each a line of inline tables and values."""
    head = f"[[scoring.component]]\n[scoring.component.{name}]\n"
    return head + "".join(f"[[scoring.component.{name}.endpoint]]\n{e}\n" for e in endpoints)


def scores(reward, column="reward"):
    frame = RewardModel.from_config(reward).score(MOLECULES)
    assert frame["reason"].isna().all() or column == "reward"
    return frame[column].tolist()


@pytest.mark.parametrize("name", sorted(RAW))
def test_each_component_with_each_transform(tmp_path, name):
    assert RAW.keys() == {"TPSA"} | {n for n in RAW if n.lower() in PLAIN}
    values = [RAW[name](mol) for mol in MOLS]
    low, high = np.quantile(values, 0.2), np.quantile(values, 0.8)
    low, high = float(low), float(high) if high > low else float(low) + 1
    texts = [text.format(a=low, b=high) for text in TRANSFORMS]
    lines = [f"name = 't{n}'\ntransform = {{ {text} }}" for n, text in enumerate(texts)]
    text = "type = 'arithmetic_mean'\n" + block(name.upper(), *lines)
    reward, notes = translated(tmp_path, text)
    assert (notes.problems, notes.gaps) == ([], [])
    frame = RewardModel.from_config(reward).score(MOLECULES)
    for n, formula in enumerate(TRANSFORMS.values()):
        expected = [formula(value, low, high) for value in values]
        assert frame[f"raw_t{n}"].tolist() == pytest.approx(values, abs=1e-6)
        assert frame[f"score_t{n}"].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("mean", "formula"),
    [("geometric_mean", geometric), ("custom_product", geometric),
     ("arithmetic_mean", arithmetic), ("custom_sum", arithmetic)],
)  # fmt: skip
def test_a_whole_reward(tmp_path, mean, formula):
    text = f"type = '{mean}'\nparallel = 2\n"
    text += block("custom_alerts", "params.smarts = ['[#7;!n][#7;!n]', 'C#C', 'Br']")
    text += block("QED", "name = 'Drug likeness'\nweight = 0.3")
    text += block("MatchingSubstructure", "params = { smarts = 'c1ccccc1', use_chirality = false }")
    mapping = "{ 0 = 0.2, 1 = 0.9, '2' = 1, '3.0' = 0.5, 4 = 0.4, 5 = 0.3, 6 = 0.1 }"
    transform = f"transform = {{ type = 'value_mapping', mapping = {mapping} }}"
    text += block("GroupCount", f"params.smarts = 'C(=O)N'\n{transform}")
    params = f"params = {{ smiles = ['{CELECOXIB}'], radius"
    text += block(
        "TanimotoSimilarity",
        f"weight = 0.5\n{params} = 3, use_counts = true, use_features = true }}",
        f"weight = 2\n{params} = 2, use_counts = false, use_features = false }}",
    )
    transform = "transform = { type = 'sigmoid', low = 2, high = 14, k = 0.2 }"
    text += block("RDKitDescriptors", f"params.descriptor = 'maxestateindex'\n{transform}")
    reward, notes = translated(tmp_path, text)
    assert (notes.problems, notes.gaps) == ([], [])
    del reward["workers"]
    features, bits = similarity(3, True, True), similarity(2, False, False)
    alerts = [Chem.MolFromSmarts(smarts) for smarts in ("[#7;!n][#7;!n]", "C#C", "Br")]
    amide, benzene = Chem.MolFromSmarts("C(=O)N"), Chem.MolFromSmarts("c1ccccc1")
    values = {0: 0.2, 1: 0.9, 2: 1, 3: 0.5, 4: 0.4, 5: 0.3, 6: 0.1}
    expected = []
    for mol in MOLS:
        amides = values[len(mol.GetSubstructMatches(amide))]
        descriptor = rising(Descriptors.MaxEStateIndex(mol), 2, 14, 0.2)
        parts = [QED.qed(mol), amides, features(mol), bits(mol), descriptor]
        penalty = (1 + mol.HasSubstructMatch(benzene)) / 2
        passes = not any(mol.HasSubstructMatch(alert) for alert in alerts)
        expected.append(passes * penalty * formula(parts, [0.3, 1, 0.5, 2, 1]))
    assert 0 < sum(score > 0 for score in expected) < len(expected)
    assert scores(reward) == pytest.approx(expected, abs=1e-6)


def test_a_penalty_with_a_transform(tmp_path):
    params = "params = { smarts = ['Br', 'Cl'], use_chirality = true }"
    transform = "transform = { type = 'sigmoid', low = 0.5, high = 1, k = 0.5 }"
    text = "type = 'arithmetic_mean'\n" + block("QED", "weight = 1")
    reward, _ = translated(tmp_path, text + block("MatchingSubstructure", f"{params}\n{transform}"))
    halogens = [Chem.MolFromSmarts("Br"), Chem.MolFromSmarts("Cl")]
    raw = [1.0 if any(map(mol.HasSubstructMatch, halogens)) else 0.5 for mol in MOLS]
    expected = [QED.qed(mol) * rising(x, 0.5, 1, 0.5) for mol, x in zip(MOLS, raw, strict=True)]
    assert scores(reward) == pytest.approx(expected, abs=1e-6)


def test_components_with_parameters(tmp_path):
    text = "type = 'geometric_mean'\n"
    decay = "transform = { type = 'exponential_decay', k = 1 }"
    text += block("pmi", "params.property = 'npr1'", "params.property = 'npr2'")
    text += block("MolVolume", f"params = {{ grid_spacing = 0.3 }}\n{decay}")
    text += block(
        "ExternalProcess",
        f"params = {{ executable = 'a.py', args = '-n \"b c\"', property = 'p' }}\n{decay}",
    )
    reward, notes = translated(tmp_path, text)
    assert (notes.problems, notes.gaps) == ([], [])
    npr1, npr2, volume, process = reward["components"]
    assert (npr1, npr2) == ({"kind": "npr1", "name": "pmi"}, {"kind": "npr2", "name": "pmi_2"})
    assert volume["parameters"] == {"grid_spacing": 0.3, "box_margin": 2.0}
    assert process["parameters"] == {"command": ["a.py", "-n", "b c"], "property": "p"}
    # the parameters of an endpoint override those of its component
    text = "type = 'geometric_mean'\n[[scoring.component]]\n[scoring.component.GroupCount]\n"
    text += "params.smarts = 'C'\n" + f"[[scoring.component.GroupCount.endpoint]]\n{decay}\n"
    text += f"[[scoring.component.GroupCount.endpoint]]\nparams.smarts = 'N'\n{decay}\n"
    reward, _ = translated(tmp_path, text)
    assert [p["parameters"]["smarts"] for p in reward["components"]] == [["C"], ["N"]]


TANIMOTO = "params = { smiles = ['C', 'N'], radius = 2, use_counts = true, use_features = false}"
MMP = "transform = { type = 'value_mapping', mapping = { MMP = 1 } }"
STEP = block("SlogP", "transform = { type = 'step', low = 1, high = 3 }")


@pytest.mark.parametrize(
    ("text", "kind", "note"),
    [
        (block("DockStream", "weight = 1") + STEP, "gaps", ":4: scoring.component.0.DockStream"),
        (STEP + block("QEDD", "weight = 1"), "gaps", "'QEDD' has no counterpart"),
        (STEP + block("MolecularWeight", "weight = 1"), "gaps", "transform: its values are not"),
        (STEP + block("TPSA", "params.includeSandP = true"), "gaps", "surface is that of N and O"),
        (STEP + block("Qed", "wieght = 2"), "gaps", "unknown key; did you mean 'weight'?"),
        (STEP + block("Qed", "transform = { type = 'bell' }"), "gaps", "no transform 'bell' in"),
        (STEP + block("Qed", "weight = 'x'"), "problems", "weight: should be a number (got 'x')"),
        (STEP + block("Qed", "weight = true"), "problems", "should be a number (got True)"),
        (STEP + block("Qed", "transform = { type = 'sigmoid' }"), "problems",
         "transform.low: required"),
        (STEP + block("Qed", "transform = { type = 'double_sigmoid', low = 2, high = 1 }"),
         "problems", "low = 2 must be below high = 1"),
        (STEP + block("Qed", MMP), "gaps", "only numbers can be mapped (got MMP)"),
        (STEP + block("TanimotoSimilarity", "params.radius = 2"), "problems", "smiles: required"),
        (STEP + block("custom_alerts", "params.smarts = 1"), "problems", "should be a list"),
        (STEP + block("Qed", "weight = 0"), "differences", "weight 0: left out"),
        (STEP + block("TanimotoSimilarity", TANIMOTO), "differences", "the nearest reference"),
        ("use_pumas = true\n" + STEP, "gaps", "scoring.use_pumas: True: there are no transforms"),
        ("parallell = 2\n" + STEP, "gaps", "scoring.parallell: unknown key"),
        ("filename = 'none.toml'\n" + STEP, "problems", "no such file: "),
    ],
)  # fmt: skip
def test_settings_without_a_counterpart_are_listed_with_their_lines(tmp_path, text, kind, note):
    _, notes = translated(tmp_path, "type = 'geometric_mean'\n" + text)
    lines = getattr(notes, kind)
    assert any(note in line for line in lines), lines
    assert all(f"{tmp_path / 'run.toml'}:" in line for line in lines)


@pytest.mark.parametrize(
    ("mean", "text", "kind", "note"),
    [
        ("median", STEP, "gaps", "scoring.type: no aggregation 'median' of scores in chemkl"),
        (
            "arithmetic_mean",
            block("QEDD", "weight = 1"),
            "problems",
            "no scoring component is left",
        ),
        ("arithmetic_mean", "", "problems", "scoring.component: required, but missing"),
    ],
)
def test_an_unknown_mean_and_a_reward_without_a_scorer(tmp_path, mean, text, kind, note):
    _, notes = translated(tmp_path, f"type = '{mean}'\n{text}")
    assert note in getattr(notes, kind)[0]


def test_components_in_a_separate_file(tmp_path):
    (tmp_path / "parts.toml").write_text(
        "[[component]]\n[component.QED]\n[[component.QED.endpoint]]\nweight = 0.5\nname = 'a b'\n"
    )
    text = "type = 'geometric_mean'\nfilename = 'parts.toml'\nfiletype = 'toml'\n"
    reward, notes = translated(tmp_path, text)
    assert notes == Notes()
    assert reward["components"] == [{"kind": "qed", "name": "a_b", "weight": 0.5}]
    assert not math.isnan(scores(reward)[0])


def test_the_documentation_names_every_component():
    with open("configs/coming_from_reinvent4.md") as page:
        words = set(re.findall(r"`(\w+)`", page.read()))
    assert {*PLAIN, *WITH_PARAMETERS} <= {plain(word) for word in words}
    assert {*PLAIN.values()} <= words
