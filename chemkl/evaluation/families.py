"""Scaffold families of the prior and the policy: which grew, which shrank, and which are lost.

A family is a generic scaffold. Molecules without one (acyclic, or a ring atom that cannot become
a carbon) are in no family and enter no share.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from chemkl.evaluation.samples import Molecule, Samples
from chemkl.results import described_schema

_INT, _FLOAT, _TEXT = pa.int64(), pa.float64(), pa.string()


def families_schema(late_samples: int) -> pa.Schema:
    """Schema of `families.parquet`, a description in every field."""
    policy = f"the last {late_samples} valid samples of the run"
    return described_schema(
        {
            "run": (_TEXT, "Name of the run or file."),
            "family": (_TEXT, "Generic scaffold: all atoms carbon, all bonds single."),
            "prior_samples": (_INT, "Valid samples of the prior in this family, with repeats."),
            "prior_share": (_FLOAT, "The same / valid samples of the prior in any family."),
            "policy_samples": (_INT, f"Samples of this family among {policy}, with repeats."),
            "policy_share": (_FLOAT, "The same / those of them in any family."),
            "share_change": (_FLOAT, "policy_share - prior_share."),
            "prior_reward": (
                _FLOAT,
                "Largest raw reward R of the prior's samples in this family. Null: none is scored.",
            ),
            "n_molecules": (_INT, "Distinct molecules of this family in the whole run."),
            "best_reward": (_FLOAT, "Largest raw reward R among them. Null: none is scored."),
            "first_call": (
                _INT,
                "Oracle call of the first of them (in a file of samples, its number among the "
                "distinct molecules). Null: the run never made one.",
            ),
        }
    )


def family_rows(samples: Samples, prior: Samples, late_samples: int) -> list[dict[str, Any]]:
    """Compute the share of each family under the prior and under the policy at the end.

    The last `late_samples` valid samples of the run stand for the policy. A row for every family of
    either, that with the largest share first.
    """
    before, after = _counts(prior, len(prior.valid)), _counts(samples, late_samples)
    of_prior, of_run = _members(prior), _members(samples)
    rows: list[dict[str, Any]] = []
    for family in of_prior.keys() | of_run.keys():
        prior_share = before[family] / max(before.total(), 1)
        policy_share = after[family] / max(after.total(), 1)
        members = of_run.get(family, [])
        rows.append(
            {
                "run": samples.name,
                "family": family,
                "prior_samples": before[family],
                "prior_share": prior_share,
                "policy_samples": after[family],
                "policy_share": policy_share,
                "share_change": policy_share - prior_share,
                "prior_reward": _best_reward(of_prior.get(family, [])),
                "n_molecules": len(members),
                "best_reward": _best_reward(members),
                "first_call": members[0].call if members else None,
            }
        )
    rows.sort(key=lambda row: (-max(row["prior_share"], row["policy_share"]), row["family"]))
    return rows


def _counts(samples: Samples, last: int) -> Counter[str]:
    """How many of the last valid samples are in each family, repeats included."""
    family_of = {molecule.smiles: molecule.generic for molecule in samples.molecules}
    valid = samples.valid[-last:] if last else ()
    return Counter(family for smiles in valid if (family := family_of[smiles]))


def _members(samples: Samples) -> dict[str, list[Molecule]]:
    """The distinct molecules of each family, in the order first scored."""
    members: dict[str, list[Molecule]] = {}
    for molecule in samples.molecules:
        if molecule.generic:
            members.setdefault(molecule.generic, []).append(molecule)
    return members


def _best_reward(molecules: Sequence[Molecule]) -> float | None:
    """The largest reward that is known; None: nothing is scored, or every score failed."""
    rewards = [m.reward for m in molecules if m.reward is not None and not math.isnan(m.reward)]
    return max(rewards, default=None)
