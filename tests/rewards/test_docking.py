"""Docking: bad input, the steps with a stand-in for AutoDock Vina, and the real AutoDock Vina."""

import importlib.util
import os
import re
import stat
from pathlib import Path

import pytest
from building import build, mol, reward_of
from rdkit import Chem

from chemkl.config import InputError
from chemkl.rewards.cache import component_key
from chemkl.rewards.components import docking as programs
from chemkl.rewards.components.docking import (
    TARGETS,
    Clock,
    DockingError,
    Tool,
    check_ligand,
    find_obabel,
    prepare_ligand,
    published_receptor,
)


def boxed(receptor):
    return {"receptor": str(receptor), "center": [0, 0, 0], "size": [9, 9, 9]}


RISPERIDONE = "CC1=C(C(=O)N2CCCCC2=N1)CCN3CCC(CC3)C4=NOC5=C4C=CC(=C5)F"
installed = all(importlib.util.find_spec(name) for name in ("dockstring", "openbabel"))
needs_extra = pytest.mark.skipif(not installed, reason="dockstring is not installed")


def reward(**parameters):
    transform = {"kind": "reverse_sigmoid", "low": -12, "high": -6}
    return reward_of({"kind": "vina", "parameters": parameters, "transform": transform})


@pytest.fixture
def fake_vina(tmp_path):
    """A stand-in for AutoDock Vina that writes down its arguments and then runs a shell script."""

    def make(body):
        path = tmp_path / "vina"
        path.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\n'
            'while [ $# -gt 0 ]; do [ "$1" = --out ] && out=$2; shift; done\n' + body + "\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make


ATOM = "ATOM      1  N   ASN U  35      -5.356  -8.698 -16.776  1.00  0.00    -0.057 N \n"


@pytest.fixture
def receptor(tmp_path):
    path = tmp_path / "receptor.pdbqt"
    path.write_text(ATOM)
    return path


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "give either target, .* or receptor"),
        ({"target": "DRD1"}, "target: 'DRD1' is not a known target.*DRD2"),
        ({"target": "DRD2", "center": [0, 0, 0]}, "give either target"),
        ({"target": "DRD2", "exhaustiveness": 0}, r"exhaustiveness: .*equal to 1 \(got 0\)"),
        ({"target": "DRD2", "seed": -1}, r"seed: .*\(got -1\)"),
        ({"target": "DRD2", "ph": 15}, r"ph: .*equal to 14 \(got 15\)"),
        ({"target": "DRD2", "timeout": 0}, r"timeout: .*greater than 0"),
        ({"target": "DRD2", "exhaustivness": 8}, "exhaustivness.*exhaustiveness"),
        (boxed("nowhere.pdbqt"), "nowhere.pdbqt"),
        (boxed("good.pdbqt") | {"size": [9, 0, 9]}, r"size\.1: should be greater than 0 \(got 0\)"),
        (boxed("good.pdbqt") | {"size": None}, r"receptor, .* with center and size"),
        (boxed("good.pdbqt") | {"target": "DRD2"}, "give either target"),
        (boxed("good.pdbqt") | {"program": "good.pdbqt"}, "good.pdbqt is not executable"),
        (boxed("plain.pdb"), r"plain.pdb is not a PDBQT file.*obabel"),
        (boxed("ligand.pdbqt"), r"ROOT or BRANCH.*rigid"),
    ],
)
def test_bad_parameters_are_named(parameters, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("good.pdbqt").write_text(ATOM)
    Path("ligand.pdbqt").write_text(f"ROOT\n{ATOM}ENDROOT\n")
    Path("plain.pdb").write_text(ATOM.replace("    -0.057 N ", "           N"))
    with pytest.raises(InputError, match=message):
        build("vina", **parameters)


def test_missing_packages_are_named(monkeypatch, receptor):
    monkeypatch.setattr("chemkl.rewards.registry.find_spec", lambda _: None)
    monkeypatch.setattr(programs.shutil, "which", lambda _: None)
    with pytest.raises(InputError, match=r"dockstring: install it with pip install 'dockstring>="):
        reward(target="DRD2")
    with pytest.raises(InputError, match=r"Open Babel: install it with pip install 'dockstring>="):
        build("vina", **boxed(receptor), program="/bin/true")
    monkeypatch.setattr(programs.platform, "machine", lambda: "riscv64")
    with pytest.raises(InputError, match=r"no AutoDock Vina for .* riscv64.*`program`"):
        programs.find_vina()


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [("[Na+].[Cl-]", "2 fragments"), ("[CH3]", "radical"), ("[2H]C", "hydrogen atoms")],
)
def test_an_unsuitable_ligand_is_refused(smiles, reason):
    with pytest.raises(DockingError, match=reason):
        check_ligand(mol(smiles))


@needs_extra
def test_every_published_target_has_its_files():
    receptors = {target: published_receptor(target) for target in TARGETS}
    assert len(TARGETS) == len({receptor.identity for receptor in receptors.values()}) == 58
    assert all(receptor.path.stat().st_size > 50_000 for receptor in receptors.values())
    folder = receptors["DRD2"].path.parent
    assert {path.name.split("_conf")[0] for path in folder.glob("*_conf.txt")} == {*TARGETS}
    # from DRD2_conf.txt by hand
    assert receptors["DRD2"].center == (9.25, 6.167, -7.0)
    assert receptors["DRD2"].size == (30.0, 30.0, 32.0)


@needs_extra
@pytest.mark.parametrize(
    ("smiles", "ph", "charge", "polar_hydrogens"),
    [
        ("CC(=O)O", 7.4, -1, 0),  # acetic acid
        ("CC(=O)[O-]", 2.0, 0, 1),
        ("CC(=O)O", None, 0, 1),  # as in the SMILES
        ("CC(=O)[O-]", None, -1, 0),
        ("NCCCC[C@H](N)C(=O)O", 7.4, 1, 6),  # lysine: two NH3+ and a COO-
    ],
)
def test_a_ligand_is_protonated_as_at_its_ph(smiles, ph, charge, polar_hydrogens, tmp_path):
    pdbqt = tmp_path / "ligand.pdbqt"
    prepare_ligand(mol(smiles), pdbqt, find_obabel(), ph, 7, Clock(60))
    embedded = Chem.MolFromMolFile(str(pdbqt.with_suffix(".mol")), removeHs=False)
    assert Chem.GetFormalCharge(embedded) == charge
    lines = [line for line in pdbqt.read_text().splitlines() if line.startswith("ATOM")]
    assert [line[77:].strip() for line in lines].count("HD") == polar_hydrogens


@needs_extra
def test_vina_is_called_with_the_settings_and_its_best_pose_counts(fake_vina, receptor, tmp_path):
    program = fake_vina(
        'echo "REMARK VINA RESULT:      -7.5      0.000      0.000" > $out\n'
        'echo "REMARK VINA RESULT:      -7.1      1.000      2.000" >> $out'
    )
    settings = {"receptor": str(receptor), "center": [1, -2.5, 3], "size": [20, 21, 22]}
    model = reward(**settings, program=str(program), exhaustiveness=3, seed=5, cpu=2)
    row = model.score(["CCO"]).iloc[0]
    assert row["raw_vina"] == -7.5
    words = (tmp_path / "arguments").read_text().split("\n")
    arguments = dict(zip(words[::2], words[1::2], strict=False))
    box = {"--center_x": "1.0", "--center_y": "-2.5", "--center_z": "3.0"}
    box |= {"--size_x": "20.0", "--size_y": "21.0", "--size_z": "22.0"}
    rest = {"--exhaustiveness": "3", "--seed": "5", "--cpu": "2", "--receptor": str(receptor)}
    assert arguments.items() >= (box | rest).items()
    assert not Path(arguments["--ligand"]).exists()


@needs_extra
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo broken receptor >&2; exit 3", r"vina failed \(exit status 3\): broken receptor"),
        (": > $out", "AutoDock Vina found no pose in the box"),
        (":", "AutoDock Vina found no pose in the box"),
        ("exec sleep 30", r"timeout: not docked within 1\.5 s"),
    ],
)
def test_a_failed_docking_costs_its_molecule(body, reason, fake_vina, receptor):
    model = reward(**boxed(receptor), timeout=1.5, program=str(fake_vina(body)))
    frame = model.score(["CCO", "C[Si](C)(C)[Fe]"])  # Open Babel drops the second one
    assert frame["reward"].tolist() == [0, 0]
    assert re.search(f"component vina failed: {reason}", frame["reason"][0])
    assert frame["reason"][1] == "component vina failed: Open Babel could not write it as PDBQT"


def test_a_program_that_hangs_is_killed(tmp_path):
    pid = tmp_path / "pid"
    with pytest.raises(DockingError, match=r"within 0\.5 s"):
        Tool("/bin/sh").run(["-c", f"echo $$ > {pid}; exec sleep 30"], Clock(0.5))
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@needs_extra
def test_the_identity_depends_on_receptor_and_program(fake_vina):
    first, other = build("vina", target="DRD2"), build("vina", target="DRD3")
    third = build("vina", target="DRD2", program=str(fake_vina(":")))
    assert len({first.identity, other.identity, third.identity}) == 3
    assert first.identity == build("vina", target="DRD2").identity
    part = reward(target="DRD2").config.components[0]
    assert component_key(part, first) != component_key(part, third)


@needs_extra
@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "smiles", "published", "tolerance"),
    [
        # dockstring's own tests, with RDKit 2021.03 and Open Babel 3.1.1; values have one digit.
        # The search finds the same pose of a nearly rigid ligand. For ethanol another starting
        # conformation changes the search, by as much as another seed of Vina
        ("CYP3A4", "c1ccncc1", -4.2, 0.05),
        ("CYP3A4", "CC(=O)O", -3.0, 0.05),
        ("CYP3A4", "C[C@H](F)Cl", -3.1, 0.05),
        ("ABL1", "CC", -1.8, 0.05),
        ("ABL1", "CCO", -2.4, 0.35),
    ],
)
def test_scores_are_the_published_ones(target, smiles, published, tolerance):
    assert build("vina", target=target)(mol(smiles)) == pytest.approx(published, abs=tolerance)


@needs_extra
@pytest.mark.slow
def test_a_binder_docks_better_than_a_fragment_and_values_repeat():
    # risperidone is the ligand of the D2 crystal (PDB 6CM4); dockstring's tutorial has -11.9 for it
    frame = reward(target="DRD2", exhaustiveness=8, cpu=2).score([RISPERIDONE, "CCO"])
    bound, fragment = frame["raw_vina"]
    assert bound == pytest.approx(-11.9, abs=0.6)
    assert -4 < fragment < -1
    assert frame["reward"][0] > 0.7 > 0.1 > frame["reward"][1]
    again = reward(target="DRD2", exhaustiveness=8, cpu=1)
    assert again.score(["CCO"])["raw_vina"][0] == fragment
