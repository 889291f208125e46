"""The columns of a forecast's tables, each with its meaning."""

import pyarrow as pa

from chemkl.results.columns import described_schema

_SEEN = {
    "top_scaffold": (
        pa.string(),
        "Bemis-Murcko scaffold with the largest mass; null where no sample has a scaffold.",
    ),
    "top_share": (pa.float64(), "Its share of the mass of molecules with a scaffold."),
    "top_share_error": (
        pa.float64(),
        "Standard error of top_share from the finite sample; null where ess is below min_ess: so "
        "few points do not tell it.",
    ),
    "effective_scaffolds": (pa.float64(), "exp of the entropy (nats) of the mass over scaffolds."),
    "acyclic_share": (pa.float64(), "Mass of valid molecules without a scaffold, 0 to 1."),
    "invalid_share": (pa.float64(), "Mass of strings that are no molecules, 0 to 1."),
    "hit_share": (pa.float64(), "Mass of hits (R >= tau), 0 to 1."),
    "mean_reward": (pa.float64(), "Expected reward under the target."),
    "kl_to_prior": (
        pa.float64(),
        "KL(target || prior), nats; n samples cannot show more than log n.",
    ),
}

FORECAST_SCHEMA = described_schema(
    {
        "target": (pa.string(), "prior, gibbs, mara or filter."),
        "beta": (pa.float64(), "KL coefficient, reward units per nat; null for the prior."),
        "sigma": (pa.float64(), "1/beta."),
        "tau": (pa.float64(), "Reward from which on a molecule is a hit."),
        "own": (pa.bool_(), "Whether this is the target of the config that is forecast."),
        "hit_rate": (pa.float64(), "Share of the prior's samples with R >= tau."),
        "hit_rate_low": (pa.float64(), "Lower end of its 95 % interval (Wilson)."),
        "hit_rate_high": (pa.float64(), "Upper end of its 95 % interval (Wilson)."),
        "ess": (pa.float64(), "Effective sample size of the weights, (sum w)^2 / sum w^2."),
        "ess_share": (pa.float64(), "The same as a share of all samples, 0 to 1."),
        "trusted": (pa.bool_(), "Whether ess is at least min_ess; else shares are unreliable."),
        **_SEEN,
        "bonus_mean": (
            pa.float64(),
            "Mean over the prior's hits of MARA's bonus beta (log mara - log gibbs), reward units; "
            "null for other targets and without hits.",
        ),
        "bonus_std": (pa.float64(), "Standard deviation of that bonus."),
        "bonus_largest": (pa.float64(), "Largest such bonus."),
        "reward_std": (pa.float64(), "Standard deviation of R over all samples of the prior."),
        "reward_range": (pa.float64(), "Largest minus smallest R among them."),
        "sentence": (pa.string(), "The row in plain words."),
    }
)

SAMPLES_SCHEMA = described_schema(
    {
        "smiles": (pa.string(), "SMILES as sampled from the prior."),
        "canonical_smiles": (pa.string(), "RDKit canonical SMILES; null: invalid."),
        "valid": (pa.bool_(), "Whether RDKit parses and sanitises the string."),
        "scaffold": (
            pa.string(),
            "Bemis-Murcko scaffold; empty: acyclic; null: invalid.",
        ),
        "logp_ref": (pa.float64(), "log pi_ref of the sequence, nats, end token included."),
        "reward": (pa.float64(), "Raw reward R; 0 when invalid or failed."),
    }
)
