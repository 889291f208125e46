import pytest

from chemkl.config.evaluate import MetricOptions
from chemkl.evaluation import Comparisons, evaluate, from_smiles, from_trace
from chemkl.evaluation.metrics import families
from chemkl.evaluation.over_time import families_schema, family_rows
from chemkl.results import description_of

SIX, FIVE = "C1CCCCC1", "C1CCCC1"  # generic scaffolds of benzene and of cyclopentane
NAPHTHALENE, SPIRO = "c1ccc2ccccc2c1", "C1CCC2(CC1)CCCC2"
# six-ring twice, five-ring once (and once more as a repeat), one bicycle, one acyclic
PRIOR = ["Cc1ccccc1", "Oc1ccccc1", "CC1CCCC1", "CC1CCCC1", NAPHTHALENE, "CCO"]
PRIOR_REWARDS = [0.1, 0.9, 0.95, 0.0, 0.3, 1.0]
# calls 1 to 4: two six-rings, the bicycle, a spiro compound; then the first again
RUN = [
    [("Cc1ccccc1", 0.2), ("CC1CCCCC1", 0.85), (NAPHTHALENE, 0.4)],
    [(SPIRO, 0.99), ("Cc1ccccc1", 0.2), ("C1CC", 0.0)],
]


@pytest.fixture
def prior():
    return from_smiles("prior", PRIOR, PRIOR_REWARDS)


@pytest.fixture
def run(make_trace):
    return from_trace("x", make_trace(RUN))


def test_families_forget_elements_and_bonds(prior, run):
    bicycle, spiro = "C1CCC2CCCCC2C1", SPIRO
    # cyclohexanone: the oxygen would be an exocyclic carbon of the generic scaffold
    assert families(from_smiles("x", ["O=C1CCCCC1"]).molecules) == {SIX}
    assert families(prior.molecules) == {SIX, FIVE, bicycle}
    assert families(run.molecules) == {SIX, bicycle, spiro}


def test_the_table_of_metrics_has_the_coverage(prior, run):
    options = MetricOptions()
    whole, hits = evaluate(run, [0.8], options, Comparisons(prior=prior))
    # of six-ring, five-ring and bicycle the run lost the five-ring; the new spiro adds nothing
    # hits at 0.8: of the prior six-ring (0.9) and five-ring (0.95); of the run six-ring, spiro
    assert (whole["prior_families"], whole["prior_coverage"]) == (3, pytest.approx(2 / 3))
    assert (hits["prior_families"], hits["prior_coverage"]) == (2, 0.5)
    unscored = Comparisons(prior=from_smiles("prior", PRIOR))
    whole, hits = evaluate(run, [0.8], options, unscored)
    assert whole["prior_families"] == 3
    assert hits["prior_families"] is hits["prior_coverage"] is None
    nothing = from_smiles("nothing", [])
    (empty,) = evaluate(nothing, [], options, Comparisons(prior=prior))
    assert (empty["prior_families"], empty["prior_coverage"]) == (3, 0)
    (none,) = evaluate(from_smiles("x", PRIOR), [], options, Comparisons(prior=nothing))
    assert (none["prior_families"], none["prior_coverage"]) == (0, None)
    (without, *_) = evaluate(run, [0.8], options)
    assert without["prior_coverage"] is None


def test_shares_by_hand(prior, run):
    rows = {row["family"]: row for row in family_rows(run, prior, late_samples=3)}
    # the largest share at either end first, then by name: 2/5 twice, 1/3 twice
    assert list(rows) == [FIVE, SIX, SPIRO, "C1CCC2CCCCC2C1"]
    # the prior: 5 samples in families; the policy: naphthalene, spiro, toluene are the last three
    assert (rows[SIX]["prior_samples"], rows[SIX]["prior_share"]) == (2, 2 / 5)
    assert (rows[SIX]["policy_samples"], rows[SIX]["policy_share"]) == (1, 1 / 3)
    assert rows[SIX]["share_change"] == pytest.approx(1 / 3 - 2 / 5)
    assert (rows[SIX]["prior_reward"], rows[SIX]["best_reward"]) == (0.9, 0.85)
    assert (rows[SIX]["n_molecules"], rows[SIX]["first_call"]) == (2, 1)
    assert (rows[FIVE]["prior_samples"], rows[FIVE]["policy_samples"]) == (2, 0)
    assert rows[FIVE]["prior_reward"] == 0.95  # the repeat's reward does not count
    assert rows[FIVE]["best_reward"] is rows[FIVE]["first_call"] is None
    assert rows[SPIRO]["prior_share"] == 0
    assert rows[SPIRO]["first_call"] == 4


def test_rewards_below_zero_and_failed_ones(make_trace):
    steps = [[("Cc1ccccc1", -2.0), ("Oc1ccccc1", -1.0), ("Nc1ccccc1", float("nan"))]]
    (row,) = family_rows(from_trace("x", make_trace(steps)), from_smiles("p", []), 10)
    assert row["best_reward"] == -1


def test_columns_are_described_and_complete(prior, run):
    schema = families_schema(7)
    assert all(len(description_of(field)) > 5 for field in schema)
    assert "last 7 valid samples" in description_of(schema.field("policy_samples"))
    assert {tuple(row) for row in family_rows(run, prior, 10)} == {tuple(schema.names)}


def test_a_policy_that_makes_nothing_has_no_share(prior):
    rows = family_rows(from_smiles("x", ["nonsense"]), prior, late_samples=10)
    assert {row["policy_share"] for row in rows} == {0.0}
    assert [row["share_change"] for row in rows] == [-row["prior_share"] for row in rows]
    assert family_rows(from_smiles("x", ["CCO"]), from_smiles("p", []), 10) == []
