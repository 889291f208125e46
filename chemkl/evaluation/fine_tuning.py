"""How far fine-tuning has moved a model: its likelihoods and its samples, before and after."""

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
"""Metrics of `METRICS` that are taken of the samples."""
ROWS = (
    Column("nll_set", "NLL of the set", ".2f", "mean -log p of the molecules learnt from, nats"),
    Column("nll_valid", "NLL of validation", ".2f", "of the molecules held back"),
    Column("nll_init", "NLL of init's samples", ".2f", "its rise is what was forgotten"),
    Column("validity", "valid", ".1%", "of the samples"),
    Column("uniqueness", "unique", ".1%", "of the valid samples"),
    Column("novelty", "novel", ".1%", "of the distinct molecules: not in the set"),
    Column("of_set_scaffolds", "with a scaffold of the set", ".1%", "of the distinct molecules"),
    Column("scaf", "Scaf", ".3f", "cosine to the set, counts of scaffolds with two rings or more"),
    Column("snn", "SNN", ".3f", "mean similarity to the nearest molecule of the set"),
    Column("int_div_moses_1", "IntDiv", ".3f", "of the distinct molecules"),
)
"""What is measured; the rows of the table."""


def movement(
    before: Policy, after: Policy, learnt: Sequence[str], valid: Sequence[str], n: int, seed: int
) -> dict[str, dict[str, float | None]]:
    """Measure a model as it was and as it is.

    Both are asked about the same molecules, and draw samples by the same random numbers.

    Args:
        before: the model that the training began with, with all tokens of the set.
        after: the fine-tuned one.
        learnt: canonical SMILES that it learnt from, the set; at most n of them have their
            likelihood taken and are compared with.
        valid: those that were held back; at most n of them.
        n: samples of each model.
        seed: of the samples, and of the choice of molecules.

    Returns:
        The values of `ROWS` under `before` and `after`; likelihoods are the mean, in nats.
    """
    chosen, held = sample(learnt, n, seed), sample(valid, n, seed)
    of_set = from_smiles("set", chosen).molecules
    scaffolds = {molecule.scaffold for molecule in of_set if molecule.scaffold}
    references = [reference_of("set", [m.smiles for m in of_set], None)] if of_set else []
    comparisons = Comparisons(frozenset(learnt), references)
    found: dict[str, dict[str, float | None]] = {}
    of_init: Sequence[Tensor] = ()
    for name, policy in (("before", before), ("after", after)):
        drawn = policy.sample(n, stream(seed, 0, purpose="movement"))
        of_init = of_init or torch.split(drawn.tokens, BATCH)
        rows = zip(drawn.smiles, drawn.truncated.tolist(), strict=True)
        samples = from_smiles(name, (None if cut else text for text, cut in rows))
        molecules = samples.molecules
        made = MoleculeSet(samples, None, molecules, MetricOptions(), comparisons)
        with_scaffold = sum(molecule.scaffold in scaffolds for molecule in molecules)
        found[name] = {
            "nll_set": _nll(policy, _rows(policy, chosen)),
            "nll_valid": _nll(policy, _rows(policy, held)),
            "nll_init": _nll(policy, of_init),
            "of_set_scaffolds": with_scaffold / len(molecules) if molecules else None,
            **{key: METRICS[key].value(made) for key in _OF_SAMPLES},
        }
    return found


def movement_table(found: Mapping[str, Any]) -> RenderableType:
    """What `movement` has found, a line for each of `ROWS`."""
    before, after = found["before"], found["after"]
    rows = [
        {
            "what": row.label,
            **{name: row.write(found[name][row.key]) for name in ("before", "after")},
            "meaning": row.meaning,
        }
        for row in ROWS
        if not (is_missing(before[row.key]) and is_missing(after[row.key]))
    ]
    columns = [Column("what", ""), *(Column(name, name, str) for name in ("before", "after"))]
    return table("How far it moved", [*columns, Column("meaning", "")], rows)


def _rows(policy: Policy, smiles: Sequence[str]) -> Sequence[Tensor]:
    """Their ids, token_BT at a time, of like length."""
    ids = sorted(map(policy.vocabulary.encode, smiles), key=len)
    return [pad(ids[start : start + BATCH]) for start in range(0, len(ids), BATCH)]


@torch.no_grad()
def _nll(policy: Policy, batches: Sequence[Tensor]) -> float:
    logp_N = torch.cat([policy.logp_tokens(token_BT.to(policy.device)) for token_BT in batches])
    return -float(logp_N.double().mean())
