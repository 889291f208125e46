"""Components that predict absorption, distribution, metabolism, excretion and toxicity.

ADMET-AI's networks (Swanson et al., Bioinformatics 40, btae416 (2024)), message passing along bonds
as chemprop 2 computes it, in NumPy: h0 = W_i [x_v, e_vw]; twice h = relu(h0 + W_h sum over u of
h_uv, u not w); the atom's sum goes through W_o with x_v; atoms are added up over a fixed norm; two
layers follow (Heid et al., JCIM 64, 9 (2024), BondMessagePassing). One molecule at a time: its
values do not depend, to the last bit, on what else is scored.

Legend: M members of the ensemble, A atoms, E directed bonds (each bond twice, once each way), V
features of an atom (72), W features of a bond (14), H width of the hidden layers, T endpoints.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field
from rdkit.Chem import BondType, HybridizationType, Mol, MolToSmiles

from chemkl.results.external import (
    AllowedUnpickler,
    StandIn,
    Wheel,
    fetch_wheel,
    open_member,
    read_pickled,
)
from chemkl.rewards.components.activity import stand_ins
from chemkl.rewards.registry import REAL, BatchScore, component, one_of

ADMET_AI = Wheel(
    "admet_ai", "2.0.1", "fef3527f637abb00d272cf824e8eef0136fe31ebde6c56881f1a8c02c0417806"
)
"""Where the weights come from; it is read, never installed."""

Kind = Literal["classification", "regression"]
"""Of the networks: those that predict the probabilities, and those that predict the values."""
N_MEMBERS = 5
MOST_KEPT = 10_000
"""So many molecules' values are kept, for the other endpoints of the same networks."""

_PROBABILITIES = """
    HIA_Hou Bioavailability_Ma PAMPA_NCATS Pgp_Broccatelli BBB_Martins CYP1A2_Veith
    CYP2C19_Veith CYP2C9_Veith CYP2D6_Veith CYP3A4_Veith CYP2C9_Substrate_CarbonMangels
    CYP2D6_Substrate_CarbonMangels CYP3A4_Substrate_CarbonMangels hERG ClinTox AMES DILI
    Carcinogens_Lagunin Skin_Reaction NR-AR NR-AR-LBD NR-AhR NR-Aromatase NR-ER NR-ER-LBD
    NR-PPAR-gamma SR-ARE SR-ATAD5 SR-HSE SR-MMP SR-p53
"""
PROBABILITIES = tuple(_PROBABILITIES.split())  # the endpoints that are probabilities, by TDC's name
VALUES = {
    "Solubility_AqSolDB": "log(mol/L)",
    "Lipophilicity_AstraZeneca": "log-ratio",
    "HydrationFreeEnergy_FreeSolv": "kcal/mol",
    "Caco2_Wang": "log(10^-6 cm/s)",
    "PPBR_AZ": "%",
    "VDss_Lombardo": "L/kg",
    "Half_Life_Obach": "hr",
    "Clearance_Hepatocyte_AZ": "uL/min/10^6 cells",
    "Clearance_Microsome_AZ": "uL/min/mg",
    "LD50_Zhu": "log(1/(mol/kg))",
}
"""The endpoints that have a unit, and which."""


@component(
    "admet",
    unit="of the endpoint",
    range=REAL,
    source=(
        "ADMET-AI 2.0.1: Swanson et al., Bioinformatics 40, btae416 (2024); networks of chemprop: "
        "Heid et al., J. Chem. Inf. Model. 64, 9 (2024); data: TDC"
    ),
    batched=True,
    costly=True,
)
def admet(
    endpoint: Annotated[
        str,
        one_of((*PROBABILITIES, *VALUES), "a known endpoint"),
        Field(
            description=f"What to predict. Probabilities: {', '.join(PROBABILITIES)}. "
            f"Values: {', '.join(f'{name} ({unit})' for name, unit in VALUES.items())}."
        ),
    ],
    *,
    cache: Annotated[
        Path, Field(description="Folder for the wheel that the models come from.")
    ] = Path("~/.cache/chemkl"),
) -> BatchScore:
    """A property that ADMET-AI predicts: a probability between 0 and 1, or a value with a unit.

    A probability is that of the thing named: hERG blocking, mutagenicity in the Ames test, being a
    substrate or an inhibitor of an enzyme, crossing the blood-brain barrier; so for toxicity and
    inhibition low is good. The mean of five networks, computed in NumPy from the weights in the
    wheel admet-ai (14 MB, MIT), which pip fetches at the first molecule; it is not installed, and
    nothing in it is run.

    Cost: 2 ms of one core for a molecule; further probabilities, or values, of the same molecule
    cost next to nothing.
    """
    kind: Kind = "classification" if endpoint in PROBABILITIES else "regression"

    def score(mols: Sequence[Mol]) -> list[float]:
        # here, not above: checking a config must not download anything
        ensemble = load_ensemble(kind, cache)
        column = ensemble.endpoints.index(endpoint)
        return [float(ensemble.predict(mol)[column]) for mol in mols]

    return score


# ---- molecules as graphs, with the features that chemprop 2 gives atoms and bonds

_KINDS = HybridizationType
_CHOICES: tuple[Sequence[Any], ...] = (
    [*range(1, 37), 53],  # atomic number
    range(6),  # degree, with hydrogens
    [-1, -2, 1, 2, 0],  # formal charge
    range(4),  # chiral tag
    range(5),  # hydrogens
    [_KINDS.S, _KINDS.SP, _KINDS.SP2, _KINDS.SP2D, _KINDS.SP3, _KINDS.SP3D, _KINDS.SP3D2],
)
"""Values that have a place of their own; each list has one more place, for all others."""

_BOND_TYPES = (BondType.SINGLE, BondType.DOUBLE, BondType.TRIPLE, BondType.AROMATIC)
_STEREO = range(6)

N_ATOM_FEATURES = sum(len(choices) + 1 for choices in _CHOICES) + 2
N_BOND_FEATURES = 1 + len(_BOND_TYPES) + 2 + len(_STEREO) + 1


class Graph(NamedTuple):
    """Features of atoms and directed bonds (2k and 2k + 1 are one bond), and the bonds' ends."""

    atoms_AV: np.ndarray
    bonds_EW: np.ndarray
    start_E: np.ndarray
    end_E: np.ndarray


def graph_of(mol: Mol) -> Graph:
    """Give a molecule as a graph."""
    atoms_AV = np.zeros((mol.GetNumAtoms(), N_ATOM_FEATURES), dtype=np.float32)
    for row, atom in zip(atoms_AV, mol.GetAtoms(), strict=True):
        values = (
            atom.GetAtomicNum(),
            atom.GetTotalDegree(),
            atom.GetFormalCharge(),
            int(atom.GetChiralTag()),
            atom.GetTotalNumHs(),
            atom.GetHybridization(),
        )
        at = 0
        for value, choices in zip(values, _CHOICES, strict=True):
            row[at + (choices.index(value) if value in choices else len(choices))] = 1
            at += len(choices) + 1
        row[at], row[at + 1] = atom.GetIsAromatic(), 0.01 * atom.GetMass()
    bonds_BW = np.zeros((mol.GetNumBonds(), N_BOND_FEATURES), dtype=np.float32)
    ends: list[int] = []
    for row, bond in zip(bonds_BW, mol.GetBonds(), strict=True):
        kind, stereo = bond.GetBondType(), int(bond.GetStereo())
        if kind in _BOND_TYPES:  # place 0 is for no bond at all; another type has no place
            row[1 + _BOND_TYPES.index(kind)] = 1
        at = 1 + len(_BOND_TYPES)
        row[at], row[at + 1] = bond.GetIsConjugated(), bond.IsInRing()
        row[at + 2 + (stereo if stereo in _STEREO else len(_STEREO))] = 1
        ends += [bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]
    start_E = np.array(ends, dtype=np.intp)
    end_E = start_E.reshape(-1, 2)[:, ::-1].reshape(-1)
    return Graph(atoms_AV, bonds_BW.repeat(2, axis=0), start_E, end_E)


# ---- the networks

_WEIGHTS = {
    "bond": "message_passing.W_i.weight",
    "hidden": "message_passing.W_h.weight",
    "atom": "message_passing.W_o.weight",
    "atom_bias": "message_passing.W_o.bias",
    "first": "predictor.ffn.0.0.weight",
    "first_bias": "predictor.ffn.0.0.bias",
    "last": "predictor.ffn.1.2.weight",
    "last_bias": "predictor.ffn.1.2.bias",
}


@dataclass(frozen=True)
class Ensemble:
    """Networks that predict the same endpoints; their mean counts."""

    endpoints: tuple[str, ...]  # names of the endpoints, in order
    weights: Mapping[str, np.ndarray]  # members along the first axis; (M, in, out)
    mean_MT: np.ndarray | None  # added to what a regression gives, once scaled
    scale_MT: np.ndarray | None  # of a regression; None for probabilities, as the mean
    depth: int  # steps of message passing, the first included
    norm: float  # by which the sum over atoms is divided
    _kept: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def predict(self, mol: Mol) -> np.ndarray:
        """Give the value of every endpoint for one molecule, (T,)."""
        smiles = MolToSmiles(mol)
        if smiles not in self._kept:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[smiles] = self._values(graph_of(mol))
        return self._kept[smiles]

    def _values(self, graph: Graph) -> np.ndarray:
        w = self.weights
        # message passing along bonds
        starts_EV = graph.atoms_AV[graph.start_E]
        first_MEH = np.concatenate([starts_EV, graph.bonds_EW], axis=1) @ w["bond"]
        into_AE = np.zeros((len(graph.atoms_AV), len(graph.end_E)), dtype=np.float32)
        into_AE[graph.end_E, np.arange(len(graph.end_E))] = 1
        back_E = np.arange(len(graph.end_E)) ^ 1  # the same bond, the other way
        state_MEH = np.maximum(first_MEH, 0)
        for _ in range(1, self.depth):
            message_MEH = (into_AE @ state_MEH)[:, graph.start_E] - state_MEH[:, back_E]
            state_MEH = np.maximum(first_MEH + message_MEH @ w["hidden"], 0)
        # atoms, then the molecule
        summed_MAH = (into_AE @ state_MEH) @ w["atom"][:, N_ATOM_FEATURES:]
        atoms_MAH = graph.atoms_AV @ w["atom"][:, :N_ATOM_FEATURES] + summed_MAH
        atoms_MAH = np.maximum(atoms_MAH + w["atom_bias"][:, None], 0)
        pooled_MH = atoms_MAH.sum(axis=1) / np.float32(self.norm)
        # two layers
        hidden_MH = np.maximum(pooled_MH[:, None] @ w["first"] + w["first_bias"][:, None], 0)
        out_MT = (hidden_MH @ w["last"] + w["last_bias"][:, None])[:, 0]
        if self.mean_MT is None or self.scale_MT is None:
            out_MT = 1 / (1 + np.exp(-out_MT.astype(np.float64)))
        else:
            out_MT = out_MT * self.scale_MT + self.mean_MT
        mean_T: np.ndarray = out_MT.mean(axis=0, dtype=np.float64)
        return mean_T


@cache
def load_ensemble(kind: Kind, folder: Path) -> Ensemble:
    """Give an ensemble, read out of the wheel of ADMET-AI, which pip may fetch."""
    wheel = fetch_wheel(ADMET_AI, folder)
    members = []
    for index in range(N_MEMBERS):
        member = f"admet_ai/resources/models/admet_{kind}/model_{index}.pt"
        with open_member(wheel, member) as stream:
            members.append(read_checkpoint(stream, f"{wheel}:{member}"))
    states = [member["state_dict"] for member in members]  # as the hash of the wheel has them

    def stacked(name: str) -> np.ndarray:
        arrays = np.stack([state[name] for state in states])
        return np.ascontiguousarray(arrays.swapaxes(1, 2)) if name.endswith("weight") else arrays

    transformed = "predictor.output_transform.mean" in states[0]
    settings = members[0]["hyper_parameters"]
    return Ensemble(
        endpoints=tuple(members[0]["output_columns"]),
        weights={name: stacked(full) for name, full in _WEIGHTS.items()},
        mean_MT=stacked("predictor.output_transform.mean")[:, 0] if transformed else None,
        scale_MT=stacked("predictor.output_transform.scale")[:, 0] if transformed else None,
        depth=int(settings["message_passing"]["depth"]),
        norm=float(settings["agg"]["norm"]),
    )


# ---- checkpoints

NAMES = {
    "__builtin__": "set",
    "chemprop.nn.agg": "NormAggregation",
    "chemprop.nn.message_passing.base": "BondMessagePassing",
    "chemprop.nn.metrics": "BinaryAUPRC BinaryAUROC MAE R2Score",
    "chemprop.nn.predictors": "BinaryClassificationFFN RegressionFFN",
    "chemprop.nn.transforms": "GraphTransform UnscaleTransform",
    "collections": "OrderedDict",
    "lightning.fabric.utilities.data": "AttributeDict",
    "torch": "device float32",
    "torch.nn.modules.activation": "ReLU",
    "torch.nn.modules.linear": "Identity",
    "torchmetrics.metric": "jit_distributed_available",
    "torchmetrics.utilities.data": "dim_zero_cat dim_zero_sum",
}
"""All that a checkpoint may name beside its arrays, by module; nothing is imported for it."""


def _tensor(data: np.ndarray, offset: int, shape: tuple[int, ...], *_: Any) -> np.ndarray:
    """Cut an array out of a storage."""
    return data[offset : offset + int(np.prod(shape, dtype=int))].reshape(shape)


STAND_INS: dict[tuple[str, str], Any] = {
    **stand_ins(NAMES),
    ("torch", "FloatStorage"): np.float32,
    ("torch", "LongStorage"): np.int64,
    ("torch._utils", "_rebuild_tensor_v2"): StandIn(_tensor),
}


class CheckpointUnpickler(AllowedUnpickler):
    """Builds arrays, dictionaries and stand-ins out of an archive."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(archive.open(name), STAND_INS, "checkpoint")
        self._archive, self._folder = archive, name.rpartition("/")[0]

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Read an array of numbers out of the archive."""
        _, dtype, key, _, size = pid
        data = self._archive.read(f"{self._folder}/data/{key}")
        return np.frombuffer(data, dtype=dtype, count=size)


def read_checkpoint(stream: IO[bytes], name: str) -> Mapping[str, Any]:
    """Read a PyTorch checkpoint: arrays, dictionaries, stand-ins; without PyTorch."""

    def load() -> Any:
        with zipfile.ZipFile(stream) as archive:
            pickled = next(path for path in archive.namelist() if path.endswith("/data.pkl"))
            return CheckpointUnpickler(archive, pickled).load()

    read: Mapping[str, Any] = read_pickled(load, dict, name, "a PyTorch checkpoint")
    return read
