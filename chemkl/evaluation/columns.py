"""The columns of the table of metrics: name, type and definition of each."""

from collections.abc import Sequence

import pyarrow as pa

from chemkl.config.evaluate import MetricOptions
from chemkl.results import described_schema

_INT, _FLOAT, _TEXT = pa.int64(), pa.float64(), pa.string()
_SET = "of the set (all distinct valid molecules, or the hits at the threshold)"
_R2_1024 = "Morgan fingerprint, radius 2, 1024 bits, Tanimoto"
_R2_2048 = "Morgan fingerprint, radius 2, 2048 bits, Tanimoto"

_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "run": (_TEXT, "Name of the run or file."),
    "threshold": (_FLOAT, "Hits are molecules with raw reward R >= this. Null: all molecules."),
    "n_sampled": (_INT, "Sampled strings, valid or not; rows from a replay buffer left out."),
    "n_valid": (_INT, "Sampled strings that RDKit parses, repeats included."),
    "n_molecules": (_INT, f"Distinct canonical SMILES {_SET}, in the order first scored."),
    "n_pairwise": (
        _INT,
        "Molecules that IntDiv, FCD, SNN, Scaf, Frag and clusters_sphere were computed on: all of "
        "the set, or a random sample of it where the set is larger than max_molecules.",
    ),
    "n_matrix": (
        _INT,
        "Molecules that Vendi, Hamiltonian and Butina were computed on: all of the set, or a "
        "random sample of it where the set is larger than max_matrix.",
    ),
    "validity": (_FLOAT, "n_valid / n_sampled."),
    "uniqueness": (_FLOAT, "Distinct canonical SMILES among the valid samples / n_valid."),
    "late_uniqueness": (
        _FLOAT,
        "Distinct canonical SMILES among the last {late_samples} valid samples / their number.",
    ),
    "late_scaffolds": (
        _INT,
        "Distinct non-empty Bemis-Murcko scaffolds among the last {late_samples} valid samples.",
    ),
    "late_effective_scaffolds": (
        _FLOAT,
        "exp of the entropy over the scaffolds of the last {late_samples} valid samples, repeats "
        "included, acyclic ones left out.",
    ),
    "late_top_share": (
        _FLOAT,
        "Share of the largest scaffold among the last {late_samples} valid samples, repeats "
        "included, acyclic ones left out.",
    ),
    "collapsed_at_call": (
        _INT,
        "Oracle calls when the run first collapsed: its newest valid samples reached a limit of "
        "its callbacks.collapse (by default half of 1,000 are duplicates, or 30 % share one "
        "scaffold). Null: never, or there were never so many.",
    ),
    "novelty": (_FLOAT, f"Share {_SET} that is not in the corpus. Null without a corpus."),
    "auc_calls": (
        _INT,
        "Oracle calls that AUC top-k is over: {auc_calls}, or the run's budget where that is "
        "smaller (without one, all of its calls). Null where nothing is scored.",
    ),
    **{
        f"auc_top_{k}": (
            _FLOAT,
            f"AUC top-{k} of PMO: area under the mean of the {k} best rewards so far, taken every "
            "{auc_every} calls, over auc_calls calls; an early end holds the last value.",
        )
        for k in (1, 10, 100)
    },
    "yield": (_INT, "Distinct molecules with R >= threshold. Null where nothing is scored."),
    "scaffold_yield": (_INT, "Distinct non-empty Bemis-Murcko scaffolds among the hits."),
    **{
        f"ob{n}": (_INT, f"Call index (1-based) of hit number {n}. Null: fewer hits.")
        for n in (1, 10, 100)
    },
    **{
        f"ob{n}_scaffolds": (
            _INT,
            f"Call index of the hit that brings scaffold number {n}. Null: fewer scaffolds.",
        )
        for n in (1, 10, 100)
    },
    "int_div_moses_1": (
        _FLOAT,
        f"IntDiv_1 of MOSES: 1 - mean_i mean_j T_ij, j includes i; {_R2_1024}.",
    ),
    "int_div_moses_2": (
        _FLOAT,
        f"IntDiv_2 of MOSES: 1 - mean_i (mean_j T_ij^2)^(1/2), j includes i; {_R2_1024}.",
    ),
    "int_div_pairs": (
        _FLOAT,
        "Mean over pairs i < j of 1 - T_ij; Morgan fingerprint, radius 2, 2048 bits, Tanimoto.",
    ),
    "circles": (
        _INT,
        "#Circles: molecules taken by RDKit's LeaderPicker in the order first scored, all "
        f"pairwise distances above {{circles_distance:g}}; {_R2_1024}; the whole set.",
    ),
    "murcko": (_INT, "Distinct non-empty Bemis-Murcko scaffolds (RDKit, no stereochemistry)."),
    "generic": (_INT, "Distinct non-empty generic scaffolds: MakeScaffoldGeneric, Murcko again."),
    "acyclic": (_INT, "Molecules with the empty scaffold; they enter no scaffold metric."),
    "scaffold_entropy": (_FLOAT, "H = -sum p ln p over the molecules per scaffold, in nats."),
    "scaffold_evenness": (_FLOAT, "H / ln(number of scaffolds). Null below two scaffolds."),
    "effective_scaffolds": (
        _FLOAT,
        "exp(H): the number of equally large scaffolds with the same entropy.",
    ),
    "top_share": (_FLOAT, "Share of the largest scaffold among the molecules with a scaffold."),
    "gini": (_FLOAT, "Gini coefficient of the molecules per scaffold: 0 is even."),
    "sediv": (
        _FLOAT,
        "SEDiv@1k: LeaderPicker at distance 0.65 on 1,000 random molecules / 1000; "
        f"{_R2_1024}. Null below 1,000 molecules.",
    ),
    "vendi": (
        _FLOAT,
        "Vendi score: exp of the entropy of the eigenvalues of K / n, K the similarities of "
        f"n_matrix molecules; {_R2_2048}.",
    ),
    "hamiltonian": (
        _FLOAT,
        "Hamiltonian diversity: length of a closed tour over the distances of n_matrix molecules, "
        f"nearest neighbour and 2-opt; {_R2_2048}.",
    ),
    "clusters_butina": (
        _INT,
        "Clusters of Butina among n_matrix molecules, members within {cluster_distance:g} of the "
        f"centre; {_R2_2048}.",
    ),
    "clusters_sphere": (
        _INT,
        "Clusters by sphere exclusion among n_pairwise molecules: LeaderPicker in the order first "
        f"scored, centres further apart than {{cluster_distance:g}}; {_R2_2048}.",
    ),
    "prior_families": (
        _INT,
        "Generic scaffolds of the prior's sample (of its hits at the threshold). Null without a "
        "sample of the prior, or where it is not scored.",
    ),
    "prior_coverage": (_FLOAT, f"Share of these that are also generic scaffolds {_SET}."),
}

_LIKENESS = {
    "fcd": "Frechet ChemNet Distance over n_pairwise molecules (biased in n: compare at equal n)",
    "snn": f"Mean similarity to the nearest reference molecule; {_R2_1024}",
    "scaf": "Cosine of the counts of scaffolds with two rings or more",
    "frag": "Cosine of the counts of BRICS fragments",
}
UNIQUENESS_AT = "uniqueness_at_"
YIELDS = tuple(
    name for name in _COLUMNS if name == "yield" or name.startswith(("scaffold_y", "ob"))
)
"""Columns that a set of hits alone has."""


def metrics_schema(options: MetricOptions, reference_names: Sequence[str] = ()) -> pa.Schema:
    """Schema of `diversity.parquet`, a description in every field."""
    columns = {
        name: (kind, text.format(**options.model_dump())) for name, (kind, text) in _COLUMNS.items()
    }
    names = list(reference_names) or ["a reference set (none was given)"]
    likeness = {
        f"{metric}{suffix(number, name)}": (_FLOAT, f"{text}. Reference: {name}.")
        for number, name in enumerate(names)
        for metric, text in _LIKENESS.items()
    }
    uniqueness = {
        f"{UNIQUENESS_AT}{k}": (
            _FLOAT,
            f"Distinct canonical SMILES among the first {k} valid samples / {k}. Null: fewer.",
        )
        for k in options.uniqueness_at
    }
    return described_schema({**columns, **uniqueness, **likeness})


def suffix(number: int, name: str) -> str:
    """How the columns of the reference of that number end: the first one's are plain."""
    return f"_{name}" if number else ""
