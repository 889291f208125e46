"""REINVENT4's scoring, translated: the same score to 1e-6 as by its published formulas.

The formulas are written down here once more, from reinvent/scoring in its version 4.8.
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
    wanted = getattr(Chem.HybridizationType, kind)
    return lambda mol: sum(atom.GetHybridization() == wanted for atom in mol.GetAtoms())


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
"""Components without parameters, by REINVENT4's names, and what they are there."""

TRANSFORMS = {
    "type = 'sigmoid', low = {a}, high = {b}, k = 0.4": lambda x, a, b: rising(x, a, b, 0.4),
    "type = 'sigmoid', low = {b}, high = {a}, k = 0.4": lambda x, a, b: rising(x, b, a, 0.4),
    "type = 'reverse_sigmoid', low = {a}, high = {b}, k = 0.25": (
        lambda x, a, b: 1 - rising(x, a, b, 0.25)
    ),
    "type = 'Reverse-Sigmoid', low = {b}, high = {a}, k = 0.25": (
        lambda x, a, b: 1 - rising(x, b, a, 0.25)
    ),
    "type = 'double_sigmoid', low = {a}, high = {b}": (
        lambda x, a, b: window(x, a, b, 100, 150, 150)
    ),
    "type = 'double_sigmoid', low = {a}, high = {b}, coef_div = 7, coef_si = 2, coef_se = 3": (
        lambda x, a, b: window(x, a, b, 7, 2, 3)
    ),
    "type = 'step', low = {a}, high = {b}": lambda x, a, b: float(a <= x <= b),
    "type = 'right_step', high = {b}": lambda x, _, b: float(x >= b),
    "type = 'leftstep', low = {a}, high = 7": lambda x, a, _: float(x <= a),
    "type = 'exponential_decay', k = 0.7": lambda x, *_: 1 if x < 0 else exp(-0.7 * x),
}


def translated(tmp_path, text):
    """The reward of a scoring section, and the notes on it."""
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
        wanted = [formula(value, low, high) for value in values]
        assert frame[f"raw_t{n}"].tolist() == pytest.approx(values, abs=1e-6)
        assert frame[f"score_t{n}"].tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("mean", "formula"),
    [
        ("geometric_mean", geometric),
        ("custom_product", geometric),
        ("arithmetic_mean", arithmetic),
        ("custom_sum", arithmetic),
    ],
)
def test_a_whole_reward(tmp_path, mean, formula):
    text = f"type = '{mean}'\nparallel = 2\n"
    text += block("custom_alerts", "params.smarts = ['[#7;!n][#7;!n]', 'C#C', 'Br']")
    text += block("QED", "name = 'Drug likeness'\nweight = 0.3")
    text += block("MatchingSubstructure", "params = { smarts = 'c1ccccc1', use_chirality = false }")
    text += block(
        "GroupCount",
        "params.smarts = 'C(=O)N'\ntransform = "
        "{ type = 'value_mapping', "
        "mapping = { 0 = 0.2, 1 = 0.9, '2' = 1, '3.0' = 0.5, 4 = 0.4, 5 = 0.3, 6 = 0.1 } }",
    )
    text += block(
        "TanimotoSimilarity",
        f"weight = 0.5\nparams = {{ smiles = ['{CELECOXIB}'], radius = 3, use_counts = true, "
        "use_features = true }",
        f"weight = 2\nparams = {{ smiles = ['{CELECOXIB}'], radius = 2, use_counts = false, "
        "use_features = false }",
    )
    text += block(
        "RDKitDescriptors",
        "params.descriptor = 'maxestateindex'\n"
        "transform = { type = 'sigmoid', low = 2, high = 14, k = 0.2 }",
    )
    reward, notes = translated(tmp_path, text)
    assert (notes.problems, notes.gaps) == ([], [])
    del reward["workers"]
    features, bits = similarity(3, True, True), similarity(2, False, False)
    alerts = [Chem.MolFromSmarts(smarts) for smarts in ("[#7;!n][#7;!n]", "C#C", "Br")]
    amide, benzene = Chem.MolFromSmarts("C(=O)N"), Chem.MolFromSmarts("c1ccccc1")
    wanted = []
    for mol in MOLS:
        parts = [
            QED.qed(mol),
            {0: 0.2, 1: 0.9, 2: 1, 3: 0.5, 4: 0.4, 5: 0.3, 6: 0.1}[
                len(mol.GetSubstructMatches(amide))
            ],
            features(mol),
            bits(mol),
            rising(Descriptors.MaxEStateIndex(mol), 2, 14, 0.2),
        ]
        penalty = (1 + mol.HasSubstructMatch(benzene)) / 2
        passes = not any(mol.HasSubstructMatch(alert) for alert in alerts)
        wanted.append(passes * penalty * formula(parts, [0.3, 1, 0.5, 2, 1]))
    assert 0 < sum(score > 0 for score in wanted) < len(wanted)
    assert scores(reward) == pytest.approx(wanted, abs=1e-6)


def test_a_penalty_with_a_transform(tmp_path):
    text = (
        "type = 'arithmetic_mean'\n"
        + block("QED", "weight = 1")
        + block(
            "MatchingSubstructure",
            "params = { smarts = ['Br', 'Cl'], use_chirality = true }\n"
            "transform = { type = 'sigmoid', low = 0.5, high = 1, k = 0.5 }",
        )
    )
    reward, _ = translated(tmp_path, text)
    halogens = [Chem.MolFromSmarts("Br"), Chem.MolFromSmarts("Cl")]
    wanted = [
        QED.qed(mol)
        * rising(1.0 if any(map(mol.HasSubstructMatch, halogens)) else 0.5, 0.5, 1, 0.5)
        for mol in MOLS
    ]
    assert scores(reward) == pytest.approx(wanted, abs=1e-6)


def test_components_with_parameters_alone(tmp_path):
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
    # parameters of the component hold for its endpoints, whose own come first
    text = "type = 'geometric_mean'\n[[scoring.component]]\n[scoring.component.GroupCount]\n"
    text += "params.smarts = 'C'\n" + f"[[scoring.component.GroupCount.endpoint]]\n{decay}\n"
    text += f"[[scoring.component.GroupCount.endpoint]]\nparams.smarts = 'N'\n{decay}\n"
    reward, _ = translated(tmp_path, text)
    assert [p["parameters"]["smarts"] for p in reward["components"]] == [["C"], ["N"]]


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        (block("DockStream", "weight = 1"), "gaps", ":4: scoring.component.1.DockStream"),
        (block("QEDD", "weight = 1"), "gaps", "'QEDD' has no counterpart"),
        (block("MolecularWeight", "weight = 1"), "gaps", "transform: its values are no"),
        (block("TPSA", "params.includeSandP = true"), "gaps", "here is that of N and O"),
        (block("Qed", "wieght = 2"), "gaps", "here; did you mean 'weight'?"),
        (block("Qed", "transform = { type = 'bell' }"), "gaps", "no transform 'bell' here"),
        (block("Qed", "weight = 'x'"), "problems", "0.weight: should be a number (got 'x')"),
        (block("Qed", "weight = true"), "problems", "should be a number (got True)"),
        (block("Qed", "transform = { type = 'sigmoid' }"), "problems", "transform.low: required"),
        (
            block("Qed", "transform = { type = 'double_sigmoid', low = 2, high = 1 }"),
            "problems",
            "low = 2 must be below high = 1",
        ),
        (
            block("Qed", "transform = { type = 'value_mapping', mapping = { MMP = 1 } }"),
            "gaps",
            "only numbers are mapped here (got MMP)",
        ),
        (block("TanimotoSimilarity", "params.radius = 2"), "problems", "params.smiles: required"),
        (block("custom_alerts", "params.smarts = 1"), "problems", "smarts: should be a list"),
        (block("Qed", "weight = 0"), "differences", "weight 0: has no part in the reward"),
        (
            block("TanimotoSimilarity", "params = { smiles = ['C', 'N'], radius = 2, use_counts = "
                  "true, use_features = false}"),
            "differences",
            "the nearest of the references counts",
        ),
        ("use_pumas = true\n", "gaps", "scoring.use_pumas: True: the transforms of PUMAS"),
        ("parallell = 2\n", "gaps", "scoring.parallell: no key that is known here"),
        ("filename = 'none.toml'\n", "problems", "no such file: "),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_told_with_its_line(tmp_path, text, kind, says):
    first = "" if text.startswith("[[") else text
    rest = "" if first else text
    whole = "type = 'geometric_mean'\n" + first + block("SlogP", "transform = { type = "
            "'step', low = 1, high = 3 }") + rest  # fmt: skip
    if says.startswith(":4:"):
        whole, says = "type = 'geometric_mean'\n" + text, says.replace("component.1", "component.0")
    _, notes = translated(tmp_path, whole)
    found = getattr(notes, kind)
    assert any(says in line for line in found), found
    assert all(f"{tmp_path / 'run.toml'}:" in line for line in found)


def test_an_unknown_mean_and_a_reward_without_a_scorer(tmp_path):
    _, notes = translated(tmp_path, "type = 'median'\n" + block("Qed", "weight = 1"))
    assert "scoring.type: there is no aggregation 'median' of scores here" in notes.gaps[0]
    _, notes = translated(tmp_path, "type = 'arithmetic_mean'\n" + block("QEDD", "weight = 1"))
    assert "no component is left that makes a score" in notes.problems[0]
    _, notes = translated(tmp_path, "type = 'arithmetic_mean'\n")
    assert "scoring.component: required, and not given" in notes.problems[0]


def test_components_in_a_file_of_their_own(tmp_path):
    (tmp_path / "parts.toml").write_text(
        "[[component]]\n[component.QED]\n[[component.QED.endpoint]]\nweight = 0.5\nname = 'a b'\n"
    )
    text = "type = 'geometric_mean'\nfilename = 'parts.toml'\nfiletype = 'toml'\n"
    reward, notes = translated(tmp_path, text)
    assert notes == Notes()
    assert reward["components"] == [{"kind": "qed", "name": "a_b", "weight": 0.5}]
    assert not math.isnan(scores(reward)[0])


def test_the_page_for_who_comes_from_there_names_every_component():
    with open("configs/coming_from_reinvent4.md") as page:
        words = set(re.findall(r"`(\w+)`", page.read()))
    assert {*PLAIN, *WITH_PARAMETERS} <= {plain(word) for word in words}
    assert {*PLAIN.values()} <= words
