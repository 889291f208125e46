"""Changes by fine-tuning: likelihoods and samples of a model before and after."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import RenderableType
from torch import Tensor

from chemkl.config.evaluate import MetricOptions
from chemkl.display import Column, is_missing, table
from chemkl.evaluation.metrics import METRICS, MoleculeSet
from chemkl.evaluation.reference import Comparisons
from chemkl.evaluation.reference import from_smiles as reference_of
from chemkl.evaluation.samples import from_smiles, sample
from chemkl.policies.base import Policy, pad, stream

BATCH = 256
_OF_SAMPLES = ("validity", "uniqueness", "novelty", "int_div_moses_1", "scaf", "snn")
"""Keys of `METRICS` computed on the samples."""
ROWS = (
    Column("nll_set", "NLL of the set", ".2f", "mean -log p of the training molecules, nats"),
    Column("nll_valid", "NLL of validation", ".2f", "of the validation molecules"),
    Column("nll_init", "NLL of init's samples", ".2f", "its increase shows forgetting"),
    Column("validity", "valid", ".1%", "of the samples"),
    Column("uniqueness", "unique", ".1%", "of the valid samples"),
    Column("novelty", "novel", ".1%", "distinct molecules that are not in the set"),
    Column("of_set_scaffolds", "with a scaffold of the set", ".1%", "of the distinct molecules"),
    Column("scaf", "Scaf", ".3f", "cosine to the set, counts of scaffolds with two rings or more"),
    Column("snn", "SNN", ".3f", "mean similarity to the nearest molecule of the set"),
    Column("int_div_moses_1", "IntDiv", ".3f", "of the distinct molecules"),
)
"""The rows of the table: the measures of a model; the set is what it was trained on."""


def movement(
    before: Policy, after: Policy, train: Sequence[str], valid: Sequence[str], n: int, seed: int
) -> dict[str, dict[str, float | None]]:
    """Measure a model before and after fine-tuning.

    Both models score the same molecules and sample with the same random numbers.

    Args:
        before: the initial model, with all tokens of the training set in its vocabulary.
        after: the fine-tuned model.
        train: canonical SMILES of the training set; at most n of them are scored and used as the
            reference.
        valid: canonical SMILES of the validation set; at most n of them are scored.
        n: samples of each model.
        seed: of the samples and of the choice of molecules.

    Returns:
        The values of `ROWS` under `before` and `after`; likelihoods are means in nats.
    """
    chosen, validation = sample(train, n, seed), sample(valid, n, seed)
    train_molecules = from_smiles("set", chosen).molecules
    scaffolds = {molecule.scaffold for molecule in train_molecules if molecule.scaffold}
    train_smiles = [molecule.smiles for molecule in train_molecules]
    references = [reference_of("set", train_smiles, None)] if train_smiles else []
    comparisons = Comparisons(frozenset(train), references)
    measures: dict[str, dict[str, float | None]] = {}
    init_samples: Sequence[Tensor] = ()
    for name, policy in (("before", before), ("after", after)):
        rollout = policy.sample(n, stream(seed, 0, purpose="movement"))
        init_samples = init_samples or torch.split(rollout.tokens, BATCH)
        rows = zip(rollout.smiles, rollout.truncated.tolist(), strict=True)
        samples = from_smiles(name, (None if cut else text for text, cut in rows))
        molecules = samples.molecules
        molecule_set = MoleculeSet(samples, None, molecules, MetricOptions(), comparisons)
        with_scaffold = sum(molecule.scaffold in scaffolds for molecule in molecules)
        measures[name] = {
            "nll_set": _nll(policy, _batches(policy, chosen)),
            "nll_valid": _nll(policy, _batches(policy, validation)),
            "nll_init": _nll(policy, init_samples),
            "of_set_scaffolds": with_scaffold / len(molecules) if molecules else None,
            **{key: METRICS[key].value(molecule_set) for key in _OF_SAMPLES},
        }
    return measures


def movement_table(measures: Mapping[str, Any]) -> RenderableType:
    """Make a table of the result of `movement`, a line for each of `ROWS`."""
    before, after = measures["before"], measures["after"]
    rows = [
        {
            "measure": row.label,
            **{name: row.write(measures[name][row.key]) for name in ("before", "after")},
            "meaning": row.meaning,
        }
        for row in ROWS
        if not (is_missing(before[row.key]) and is_missing(after[row.key]))
    ]
    columns = [Column("measure", ""), *(Column(name, name, str) for name in ("before", "after"))]
    return table("Changes by fine-tuning", [*columns, Column("meaning", "")], rows)


def _batches(policy: Policy, smiles: Sequence[str]) -> Sequence[Tensor]:
    """Encode SMILES into batches token_BT of similar length."""
    ids = sorted(map(policy.vocabulary.encode, smiles), key=len)
    return [pad(ids[start : start + BATCH]) for start in range(0, len(ids), BATCH)]


@torch.no_grad()
def _nll(policy: Policy, batches: Sequence[Tensor]) -> float:
    logp_N = torch.cat([policy.logp_tokens(token_BT.to(policy.device)) for token_BT in batches])
    return -float(logp_N.double().mean())
