"""Components of published models: activity on proteins, and ADMET properties.

The models come from pinned wheels, which pip fetches at the first molecule and which are never
installed. They are read behind an allow-list, so nothing in them runs, and computed with NumPy one
molecule at a time, so a value does not depend on the other molecules.
"""

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import IO, Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field
from rdkit.Chem import (
    BondType,
    HybridizationType,
    Mol,
    MolToSmiles,
    rdFingerprintGenerator,
)

from chemkl.chem.fingerprints import morgan_generator
from chemkl.config import InputError
from chemkl.config.paths import expand_home
from chemkl.results.atomic import write_bytes
from chemkl.results.external import (
    ARRAYS,
    MOLSCORE,
    AllowedUnpickler,
    StandIn,
    Wheel,
    fetch_wheel,
    open_member,
    read_pickled,
)
from chemkl.rewards.registry import REAL, BatchScore, component, one_of


class Inert(dict[Any, Any]):
    """Stand-in for a pickled object that only holds its items and its state."""

    state: Any = None

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Store the state."""
        self.state = state


def stand_ins(names: Mapping[str, str]) -> dict[tuple[str, str], type[Inert]]:
    """Return an allow-list for an unpickler from names by module, with `Inert` for each of them."""
    return {(module, name): Inert for module, text in names.items() for name in text.split()}


# ---- activity

N_FEATURES = 2048
ACTIVE = 1  # index of the class of actives
MEMBER = "molscore/data/models/molopt/{}_current.pkl"


@component(
    "activity",
    range=(0, 1),
    source=(
        "DRD2: Olivecrona et al., J. Cheminform. 9, 48 (2017); GSK3B, JNK3: Li et al., "
        "J. Cheminform. 10, 33 (2018); the files of PyTDC, read from the molscore wheel"
    ),
    batched=True,
)
def activity(
    target: Literal["drd2", "gsk3b", "jnk3"], *, cache: Path = Path("~/.cache/chemkl")
) -> BatchScore:
    """Probability of being active on a protein, from 0 to 1; high means active.

    DRD2 is a support vector machine with Platt's probabilities, computed exactly; scikit-learn
    couples two classes by an iteration that stops early and is off by up to .005, most near one
    half (haloperidol .99954 here, .9999994 there). GSK3B and JNK3 are random forests of 100 trees.

    Args:
        target: Protein: dopamine receptor D2, glycogen synthase kinase 3 beta, or c-Jun N-terminal
            kinase 3.
        cache: Folder for the classifiers and the wheel they come from.
    """

    def score(mols: Sequence[Mol]) -> list[float]:
        # loaded here because checking a config must not download 70 MB
        probabilities: list[float] = load_classifier(target, cache).probability(mols).tolist()
        return probabilities

    return score


SKLEARN_NAMES = {
    "numpy.core.multiarray": "scalar",
    "sklearn.ensemble._forest": "RandomForestClassifier",
    "sklearn.svm._classes": "SVC",
    "sklearn.tree._classes": "DecisionTreeClassifier",
    "sklearn.tree._tree": "Tree",
}
"""The names that a pickle may contain besides those of arrays."""


def read_model(stream: IO[bytes], name: str) -> Inert:
    """Read a pickled model with stand-ins for its objects; nothing is imported or called."""
    load = AllowedUnpickler(stream, ARRAYS | stand_ins(SKLEARN_NAMES)).load
    model: Inert = read_pickled(load, Inert, name, "the pickle of a known model")
    return model


@dataclass(frozen=True)
class Forest:
    """A random forest on the 2048 bits of the Morgan fingerprint of radius 2 (ECFP4).

    The nodes of all trees are in one list. Both children of a leaf are the leaf itself.
    """

    roots: np.ndarray  # root node of each tree
    feature: np.ndarray  # by node, the bit it tests
    children: np.ndarray  # by node, the next node if the bit is not set, and if it is
    active: np.ndarray  # by node, the share of actives among the training molecules
    depth: np.ndarray  # most steps from a root to a leaf

    @classmethod
    def from_pickle(cls, model: Inert) -> Self:
        """Extract the arrays of a RandomForestClassifier with two classes."""
        trees = [tree.state["tree_"].state for tree in model.state["estimators_"]]
        features, children, actives, roots, n = [], [], [], [], 0
        for tree in trees:
            nodes, counts = tree["nodes"], tree["values"][:, 0, :]
            leaf = nodes["left_child"] < 0
            itself = np.arange(len(nodes))
            sides = [np.where(leaf, itself, nodes[side]) for side in ("left_child", "right_child")]
            roots.append(n)
            features.append(np.where(leaf, 0, nodes["feature"]))
            children.append(np.stack(sides, axis=1) + n)
            actives.append(counts[:, ACTIVE] / counts.sum(axis=1))
            n += len(nodes)
        return cls(
            roots=np.array(roots, np.int32),
            feature=np.concatenate(features).astype(np.int32),
            children=np.concatenate(children).astype(np.int32),
            active=np.concatenate(actives),
            depth=np.array(max(tree["max_depth"] for tree in trees)),
        )

    def probability(self, mols: Sequence[Mol]) -> np.ndarray:
        """Return the mean over the trees of the share of actives in a molecule's leaf."""
        generator = morgan_generator(2, N_FEATURES)
        bits = np.zeros((len(mols), N_FEATURES), np.uint8)
        for row, mol in enumerate(mols):
            bits[row] = generator.GetFingerprintAsNumPy(mol)
        rows = np.arange(len(mols))[:, None]
        nodes = np.repeat(self.roots[None], len(mols), axis=0)
        for _ in range(int(self.depth)):
            nodes = self.children[nodes, bits[rows, self.feature[nodes]]]
        share: np.ndarray = self.active[nodes].mean(axis=1)
        return share


@dataclass(frozen=True)
class SupportVectors:
    """A support vector machine with RBF kernel on counts of Morgan features of radius 3 (FCFP6)."""

    vectors: np.ndarray  # feature counts of the support vectors, one column each
    weights: np.ndarray  # dual coefficients of the support vectors, positive for inactives
    intercept: np.ndarray  # added to the weighted sum of kernels
    gamma: np.ndarray  # of the kernel exp(-gamma |x - y|^2)
    platt: np.ndarray  # A and B of Platt's probability 1 / (1 + exp(A f + B)) of being inactive

    @classmethod
    def from_pickle(cls, model: Inert) -> Self:
        """Extract the arrays of an SVC with two classes and probabilities."""
        state: dict[str, Any] = model.state
        vectors = state["support_vectors_"].astype(np.uint8)  # counts, all below 256
        return cls(
            vectors=np.ascontiguousarray(vectors.T),
            weights=state["_dual_coef_"][0],
            intercept=state["_intercept_"][0],
            gamma=np.array(state["_gamma"]),
            platt=np.concatenate([state["_probA"], state["_probB"]]),
        )

    @cached_property
    def _prepared(self) -> tuple[Any, np.ndarray, np.ndarray]:
        """The fingerprint generator, the support vectors as columns, and their squared norms.

        Features are environments of pharmacophoric atom features, folded by remainder. float32
        holds integers below 2^24 exactly, so sums do not depend on their order.
        """
        features = rdFingerprintGenerator.GetMorganFeatureAtomInvGen()
        generator = rdFingerprintGenerator.GetMorganGenerator(
            radius=3, fpSize=N_FEATURES, atomInvariantsGenerator=features
        )
        columns = self.vectors.astype(np.float32)
        return generator, columns, np.square(columns).sum(axis=0, dtype=np.float64)

    def probability(self, mols: Sequence[Mol]) -> np.ndarray:
        """Return one minus Platt's probability (Adv. Large Margin Classif. 1999) of an inactive."""
        generator, columns, squares = self._prepared
        probabilities = np.empty(len(mols))
        for row, mol in enumerate(mols):
            counts = generator.GetCountFingerprintAsNumPy(mol).astype(np.float32)
            (nonzero,) = counts.nonzero()
            counts = counts[nonzero]
            distances = squares + float(counts @ counts) - 2.0 * (counts @ columns[nonzero])
            f = (np.exp(-self.gamma * distances) * self.weights).sum() + self.intercept
            x = float(self.platt[0] * f + self.platt[1])
            odds = math.exp(-abs(x))  # 1 / (1 + exp(-x)) without overflow
            probabilities[row] = (1 if x >= 0 else odds) / (1 + odds)
        return probabilities


CLASSIFIERS: dict[str, tuple[type[Forest | SupportVectors], str]] = {
    "drd2": (SupportVectors, "ef1f00e47d5e4670a45b0a4178db3c41b2e1aa9dad7113ac9d0f58e3f9d67532"),
    "gsk3b": (Forest, "d3a20701b80e5179c88c3ad4dc3483dd7ab35c50dc055c6773a7f5b63e89b6d5"),
    "jnk3": (Forest, "cde8576fb4fa3f60b9f258ff9cf1b9ff346eb50d196d5cbbe25965efc1864889"),
}
"""By target, the class of the classifier and the sha256 of its pickle in the wheel."""


@cache
def load_classifier(target: str, folder: Path) -> Forest | SupportVectors:
    """Load a classifier from its npz in a folder, or else convert it from the wheel.

    A damaged npz, or one of another source, is replaced; concurrent processes write the same file.
    """
    kind, sha256 = CLASSIFIERS[target]
    names = [field.name for field in fields(kind)]
    path = expand_home(folder) / f"activity-{target}-{sha256[:16]}.npz"
    with (
        suppress(OSError, EOFError, LookupError, ValueError, zipfile.BadZipFile),
        np.load(path, allow_pickle=False) as arrays,
    ):
        if arrays["sha256"] == sha256:
            return kind(**{name: arrays[name] for name in names})
    wheel, member = fetch_wheel(MOLSCORE, folder), MEMBER.format(target)
    with open_member(wheel, member) as stream:
        pickled = stream.read()
    digest = hashlib.sha256(pickled).hexdigest()
    if digest != sha256:
        raise InputError(f"{wheel}:{member}: sha256 is {digest}, expected {sha256}.")
    classifier = kind.from_pickle(read_model(io.BytesIO(pickled), f"{wheel}:{member}"))
    packed = io.BytesIO()
    members: dict[str, Any] = {name: getattr(classifier, name) for name in names}
    np.savez_compressed(packed, sha256=np.array(sha256), **members)
    try:
        write_bytes(path, packed.getvalue(), parents=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot write the classifier ({error}). Set `cache` to another folder."
        ) from None
    return classifier


# ---- ADMET
#
# ADMET-AI's networks (Swanson et al., Bioinformatics 40, btae416 (2024)) pass messages along bonds
# as chemprop 2 does: h0 = W_i [x_v, e_vw]; twice h = relu(h0 + W_h sum over u of h_uv, u not w);
# the atom's sum goes through W_o with x_v; atoms are summed over a fixed norm; two layers follow
# (Heid et al., JCIM 64, 9 (2024), BondMessagePassing).
#
# Legend: M members of the ensemble, A atoms, E directed bonds (each bond twice, once each way), V
# features of an atom (72), W features of a bond (14), H width of the hidden layers, T endpoints.
ADMET_AI = Wheel(
    "admet_ai", "2.0.1", "fef3527f637abb00d272cf824e8eef0136fe31ebde6c56881f1a8c02c0417806"
)
"""The wheel with the weights."""

Kind = Literal["classification", "regression"]
"""The networks that predict probabilities, and those that predict values."""
N_MEMBERS = 5
CACHE_SIZE = 10_000
"""Molecules whose values are cached for the other endpoints of the same networks."""

_PROBABILITIES = """
    HIA_Hou Bioavailability_Ma PAMPA_NCATS Pgp_Broccatelli BBB_Martins CYP1A2_Veith
    CYP2C19_Veith CYP2C9_Veith CYP2D6_Veith CYP3A4_Veith CYP2C9_Substrate_CarbonMangels
    CYP2D6_Substrate_CarbonMangels CYP3A4_Substrate_CarbonMangels hERG ClinTox AMES DILI
    Carcinogens_Lagunin Skin_Reaction NR-AR NR-AR-LBD NR-AhR NR-Aromatase NR-ER NR-ER-LBD
    NR-PPAR-gamma SR-ARE SR-ATAD5 SR-HSE SR-MMP SR-p53
"""
PROBABILITIES = tuple(_PROBABILITIES.split())  # endpoints that are probabilities, by TDC's names
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
"""The other endpoints, with their units."""


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
    cache: Annotated[Path, Field(description="Folder for the wheel with the models.")] = Path(
        "~/.cache/chemkl"
    ),
) -> BatchScore:
    """A property predicted by ADMET-AI: a probability between 0 and 1, or a value with a unit.

    A probability is that of the named property: hERG blocking, mutagenicity in the Ames test, being
    a substrate or an inhibitor of an enzyme, crossing the blood-brain barrier; so for toxicity and
    inhibition low is good. It is the mean of five networks, computed in NumPy from the weights in
    the wheel admet-ai (14 MB, MIT), which pip fetches at the first molecule; the wheel is not
    installed, and nothing in it is run.

    Cost: 2 ms of one core per molecule; further probabilities, or values, of the same molecule are
    almost free.
    """
    kind: Kind = "classification" if endpoint in PROBABILITIES else "regression"

    def score(mols: Sequence[Mol]) -> list[float]:
        # loaded here because checking a config must not download anything
        ensemble = load_ensemble(kind, cache)
        column = ensemble.endpoints.index(endpoint)
        return [float(ensemble.predict(mol)[column]) for mol in mols]

    return score


# features of atoms and bonds as in chemprop 2
_KINDS = HybridizationType
_CHOICES: tuple[Sequence[Any], ...] = (
    [*range(1, 37), 53],  # atomic number
    range(6),  # degree, with hydrogens
    [-1, -2, 1, 2, 0],  # formal charge
    range(4),  # chiral tag
    range(5),  # hydrogens
    [_KINDS.S, _KINDS.SP, _KINDS.SP2, _KINDS.SP2D, _KINDS.SP3, _KINDS.SP3D, _KINDS.SP3D2],
)
"""One-hot encoded values; each list has one more place for all other values."""

_BOND_TYPES = (BondType.SINGLE, BondType.DOUBLE, BondType.TRIPLE, BondType.AROMATIC)
_STEREO = range(6)

N_ATOM_FEATURES = sum(len(choices) + 1 for choices in _CHOICES) + 2
N_BOND_FEATURES = 1 + len(_BOND_TYPES) + 2 + len(_STEREO) + 1


class Graph(NamedTuple):
    """Features of atoms and of directed bonds (2k and 2k + 1 are one bond), and the bonds' ends."""

    atoms_AV: np.ndarray
    bonds_EW: np.ndarray
    start_E: np.ndarray
    end_E: np.ndarray


def graph_of(mol: Mol) -> Graph:
    """Compute the features of a molecule."""
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
    """Networks that predict the same endpoints; the prediction is their mean."""

    endpoints: tuple[str, ...]  # names of the endpoints, in order
    weights: Mapping[str, np.ndarray]  # (M, in, out)
    mean_MT: np.ndarray | None  # of a regression's targets; None for probabilities
    scale_MT: np.ndarray | None  # of a regression's targets; None for probabilities
    depth: int  # steps of message passing, including the first
    norm: float  # divisor of the sum over atoms
    _cache: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def predict(self, mol: Mol) -> np.ndarray:
        """Return the value of every endpoint for one molecule, (T,)."""
        smiles = MolToSmiles(mol)
        if smiles not in self._cache:
            if len(self._cache) >= CACHE_SIZE:
                self._cache.clear()
            self._cache[smiles] = self._values(graph_of(mol))
        return self._cache[smiles]

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
    """Load an ensemble from the wheel of ADMET-AI, which pip may fetch."""
    wheel = fetch_wheel(ADMET_AI, folder)
    members = []
    for index in range(N_MEMBERS):
        member = f"admet_ai/resources/models/admet_{kind}/model_{index}.pt"
        with open_member(wheel, member) as stream:
            members.append(read_checkpoint(stream, f"{wheel}:{member}"))
    states = [member["state_dict"] for member in members]

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


CHEMPROP_NAMES = {
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
"""The names that a checkpoint may contain besides arrays, by module; none of them is imported."""


def _tensor(data: np.ndarray, offset: int, shape: tuple[int, ...], *_: Any) -> np.ndarray:
    """Return an array that is a part of a storage."""
    return data[offset : offset + int(np.prod(shape, dtype=int))].reshape(shape)


STAND_INS: dict[tuple[str, str], Any] = {
    **stand_ins(CHEMPROP_NAMES),
    ("torch", "FloatStorage"): np.float32,
    ("torch", "LongStorage"): np.int64,
    ("torch._utils", "_rebuild_tensor_v2"): StandIn(_tensor),
}


class CheckpointUnpickler(AllowedUnpickler):
    """Builds arrays, dictionaries and stand-ins from an archive."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(archive.open(name), STAND_INS, "checkpoint")
        self._archive, self._folder = archive, name.rpartition("/")[0]

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Read an array of numbers from the archive."""
        _, dtype, key, _, size = pid
        data = self._archive.read(f"{self._folder}/data/{key}")
        return np.frombuffer(data, dtype=dtype, count=size)


def read_checkpoint(stream: IO[bytes], name: str) -> Mapping[str, Any]:
    """Read a PyTorch checkpoint without PyTorch, as arrays, dictionaries and stand-ins."""

    def load() -> Any:
        with zipfile.ZipFile(stream) as archive:
            pickled = next(path for path in archive.namelist() if path.endswith("/data.pkl"))
            return CheckpointUnpickler(archive, pickled).load()

    checkpoint: Mapping[str, Any] = read_pickled(load, dict, name, "a PyTorch checkpoint")
    return checkpoint
