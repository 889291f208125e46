"""Scaffold families of the prior and the policy: which grew, which shrank, and which are lost.

A family is a generic scaffold. Molecules without one (acyclic, or a ring atom that cannot become
a carbon) are in no family and enter no share.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
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


def families(molecules: Iterable[Molecule]) -> set[str]:
    """The families that molecules are in."""
    return {molecule.generic for molecule in molecules if molecule.generic}


def coverage(prior: Iterable[Molecule], found: Iterable[Molecule]) -> dict[str, Any]:
    """How many families the prior's molecules reach, and which share of them was found again.

    Returns:
        `prior_families` and `prior_coverage`, which is None where the prior reaches none.
    """
    reachable = families(prior)
    again = len(reachable & families(found))
    return {
        "prior_families": len(reachable),
        "prior_coverage": again / len(reachable) if reachable else None,
    }


def family_rows(samples: Samples, prior: Samples, late_samples: int) -> list[dict[str, Any]]:
    """Compute the share of each family under the prior and under the policy at the end.

    Args:
        samples: of the run.
        prior: of the prior.
        late_samples: the last so many valid samples of the run stand for the policy.

    Returns:
        A row for every family of either, that with the largest share first.
    """
    before = _counts(prior, prior.valid)
    after = _counts(samples, samples.valid[-late_samples:])
    of_prior, of_run = _members(prior), _members(samples)
    none = _Members()
    rows = []
    for family in of_prior.keys() | of_run.keys():
        prior_share = before[family] / max(before.total(), 1)
        policy_share = after[family] / max(after.total(), 1)
        found = of_run.get(family, none)
        rows.append(
            {
                "run": samples.name,
                "family": family,
                "prior_samples": before[family],
                "prior_share": prior_share,
                "policy_samples": after[family],
                "policy_share": policy_share,
                "share_change": policy_share - prior_share,
                "prior_reward": of_prior.get(family, none).best_reward,
                "n_molecules": found.n,
                "best_reward": found.best_reward,
                "first_call": found.first_call,
            }
        )
    return sorted(rows, key=_largest_share_first)


def _largest_share_first(row: dict[str, Any]) -> tuple[float, str]:
    return -max(row["prior_share"], row["policy_share"]), row["family"]


def _counts(samples: Samples, valid: Iterable[str]) -> Counter[str]:
    """Samples in each family, repeats included."""
    family_of = {molecule.smiles: molecule.generic for molecule in samples.molecules}
    return Counter(family for smiles in valid if (family := family_of[smiles]))


@dataclass
class _Members:
    """The distinct molecules of a family."""

    n: int = 0
    best_reward: float | None = None
    first_call: int | None = None

    def add(self, molecule: Molecule) -> None:
        self.n += 1
        if self.first_call is None:
            self.first_call = molecule.call
        reward = molecule.reward
        if reward is None or math.isnan(reward):  # nothing is scored, or the score failed
            return
        best = self.best_reward
        self.best_reward = reward if best is None else max(best, reward)


def _members(samples: Samples) -> dict[str, _Members]:
    found: dict[str, _Members] = {}
    for molecule in samples.molecules:
        if molecule.generic:
            found.setdefault(molecule.generic, _Members()).add(molecule)
    return found
