"""The networks of ADMET-AI: message passing along bonds, as chemprop 2 computes it.

Legend: M members of the ensemble, A atoms, E directed bonds, V features of an atom, W features of
a bond, H width of the hidden layers, T endpoints.

chemprop (Heid et al., JCIM 64, 9 (2024)), equations of BondMessagePassing: h0 = W_i [x_v, e_vw];
twice h = relu(h0 + W_h sum over u of h_uv, u not w); the atom's sum goes through W_o with x_v;
atoms are added up over a fixed norm; two layers follow. One molecule at a time: its values do not
depend, to the last bit, on what else is scored.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rdkit.Chem import Mol, MolToSmiles

from chemkl.config import InputError
from chemkl.results.wheels import Wheel, fetch_wheel, open_member
from chemkl.rewards.admet.checkpoints import read_checkpoint
from chemkl.rewards.admet.endpoints import Kind
from chemkl.rewards.admet.graphs import N_ATOM_FEATURES, Graph, graph_of

ADMET_AI = Wheel(
    "admet_ai", "2.0.1", "fef3527f637abb00d272cf824e8eef0136fe31ebde6c56881f1a8c02c0417806"
)
"""Where the weights come from; it is read, never installed."""

N_MEMBERS = 5
MOST_KEPT = 10_000
"""So many molecules' values are kept, for the other endpoints of the same networks."""

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
    """Networks that predict the same endpoints; their mean counts.

    Attributes:
        endpoints: Names of the endpoints, in order.
        weights: By name, each with the members along its first axis; matrices (M, in, out).
        mean_MT: Added to what a regression gives; None for probabilities.
        scale_MT: What a regression gives is multiplied by it; None for probabilities.
        depth: Steps of message passing, the first included.
        norm: By which the sum over atoms is divided.
    """

    endpoints: tuple[str, ...]
    weights: Mapping[str, np.ndarray]
    mean_MT: np.ndarray | None
    scale_MT: np.ndarray | None
    depth: int
    norm: float
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
        pooled_MH = self._atoms(graph).sum(axis=1) / np.float32(self.norm)
        hidden_MH = _relu(_linear(pooled_MH[:, None], w["first"], w["first_bias"]))
        out_MT = _linear(hidden_MH, w["last"], w["last_bias"])[:, 0]
        if self.mean_MT is None or self.scale_MT is None:
            out_MT = 1 / (1 + np.exp(-out_MT.astype(np.float64)))
        else:
            out_MT = out_MT * self.scale_MT + self.mean_MT
        mean_T: np.ndarray = out_MT.mean(axis=0, dtype=np.float64)
        return mean_T

    def _atoms(self, graph: Graph) -> np.ndarray:
        """What each member knows of each atom after message passing, (M, A, H)."""
        w = self.weights
        starts_EV = graph.atoms_AV[graph.start_E]
        first_MEH = np.concatenate([starts_EV, graph.bonds_EW], axis=1) @ w["bond"]
        into_AE = np.zeros((len(graph.atoms_AV), len(graph.end_E)), dtype=np.float32)
        into_AE[graph.end_E, np.arange(len(graph.end_E))] = 1
        back_E = np.arange(len(graph.end_E)) ^ 1  # the same bond, the other way
        state_MEH = _relu(first_MEH)
        for _ in range(1, self.depth):
            message_MEH = (into_AE @ state_MEH)[:, graph.start_E] - state_MEH[:, back_E]
            state_MEH = _relu(first_MEH + message_MEH @ w["hidden"])
        summed_MAH = into_AE @ state_MEH
        own_MAH = graph.atoms_AV @ w["atom"][:, :N_ATOM_FEATURES]
        return _relu(
            own_MAH + summed_MAH @ w["atom"][:, N_ATOM_FEATURES:] + w["atom_bias"][:, None]
        )


def _linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    result: np.ndarray = x @ weight + bias[:, None]
    return result


def _relu(x: np.ndarray) -> np.ndarray:
    positive: np.ndarray = np.maximum(x, 0)
    return positive


@cache
def load_ensemble(kind: Kind, folder: Path) -> Ensemble:
    """Give an ensemble, read out of the wheel of ADMET-AI, which pip may fetch.

    Raises:
        InputError: the wheel cannot be had, or is not what is expected.
    """
    wheel = fetch_wheel(ADMET_AI, folder)
    members = []
    for index in range(N_MEMBERS):
        member = f"admet_ai/resources/models/admet_{kind}/model_{index}.pt"
        with open_member(wheel, member) as stream:
            members.append(read_checkpoint(stream, f"{wheel}:{member}"))
    try:
        return _joined(members)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{wheel}: not networks of the known form ({error}).") from error


def _joined(members: Sequence[Mapping[str, Any]]) -> Ensemble:
    """Stack the members' weights."""
    first = members[0]
    states = [member["state_dict"] for member in members]

    def stacked(name: str) -> np.ndarray:
        each = np.stack([state[name] for state in states])
        return np.ascontiguousarray(each.swapaxes(1, 2)) if name.endswith("weight") else each

    transformed = "predictor.output_transform.mean" in states[0]
    settings = first["hyper_parameters"]
    norm = float(settings["agg"]["norm"])
    if not math.isfinite(norm) or norm <= 0:
        raise ValueError(f"norm {norm}")
    return Ensemble(
        endpoints=tuple(first["output_columns"]),
        weights={name: stacked(full) for name, full in _WEIGHTS.items()},
        mean_MT=stacked("predictor.output_transform.mean")[:, 0] if transformed else None,
        scale_MT=stacked("predictor.output_transform.scale")[:, 0] if transformed else None,
        depth=int(settings["message_passing"]["depth"]),
        norm=norm,
    )
