"""The metrics by prompt: by hand, and the same as those of the run where there is one prompt."""

import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from chemkl.config.evaluate import MetricOptions
from chemkl.evaluation import evaluate, from_trace
from chemkl.evaluation.by_prompt import by_prompt_schema, prompt_rows
from chemkl.results import description_of

OPTIONS = MetricOptions(late_samples=3, uniqueness_at=[2])
TOLUENE, ETHANOL, RING = "Cc1ccccc1", "CCO", "CC1CCCCC1"
STEPS = [
    [
        ("low", "it is Cc1ccccc1", "Cc1ccccc1", 0.9),  # call 1
        ("low", "CCO", "CCO", 0.3),  # call 2
        ("high", "OCC", "OCC", 0.85),  # ethanol again, no call, but `high` pays more for it
        ("high", "CC1CCCCC1", "CC1CCCCC1", 0.95),  # call 3
    ],
    [
        ("low", "c1ccccc1C", "c1ccccc1C", 0.9),
        ("low", "none", None, 0.0),
        ("high", "CCO", "CCO", 0.85),
        ("high", "Cc1ccccc1", "Cc1ccccc1", 0.1),
    ],
]


def rows_of(trace, thresholds=(0.8,), options=OPTIONS, corpus=None):
    return prompt_rows(from_trace("x", trace), trace, thresholds, options, corpus)


def of(row, *names):
    return tuple(row[name] for name in names)


@pytest.fixture
def rows(make_text_trace):
    return rows_of(make_text_trace(STEPS, molecules=True), corpus={ETHANOL})


def test_a_molecule_counts_for_every_prompt_that_made_it(make_text_trace, rows):
    about = [of(row, "run", "group", "prompt", "threshold") for row in rows]
    assert about == [("x", *p, tau) for p in ((0, "low"), (1, "high")) for tau in (None, 0.8)]
    low, _, high, _ = rows
    # low: toluene, ethanol; high: ethanol, methylcyclohexane, toluene
    assert of(low, "n_sampled", "n_valid", "n_molecules", "n_calls") == (4, 3, 2, 2)
    assert of(high, "n_sampled", "n_valid", "n_molecules", "n_calls") == (4, 4, 3, 1)
    assert of(low, "validity", "uniqueness", "uniqueness_at_2") == (3 / 4, 2 / 3, 1)
    assert of(high, "validity", "uniqueness", "novelty") == (1, 3 / 4, 2 / 3)
    assert of(low, "murcko", "acyclic", "novelty") == (1, 1, 1 / 2)
    assert of(high, "murcko", "acyclic", "top_share") == (2, 1, 1 / 2)
    trace = make_text_trace(STEPS, molecules=True)
    assert len(from_trace("x", trace).molecules) == 3 == low["n_calls"] + high["n_calls"]


def test_calls_are_numbered_anew_and_rewards_are_those_of_the_prompt(rows):
    _, low, _, high = rows
    assert of(low, "yield", "scaffold_yield", "ob1", "ob1_scaffolds", "ob10") == (1, 1, 1, 1, None)
    # ethanol is the first molecule of `high` and a hit there; the ring, the second, is a scaffold
    assert of(high, "yield", "scaffold_yield", "ob1", "ob1_scaffolds") == (2, 1, 1, 2)
    assert of(high, "n_molecules", "murcko", "acyclic") == (2, 1, 1)


def test_diversity_is_that_of_the_molecules_of_the_prompt(rows):
    make = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048).GetFingerprint
    bits = {s: make(Chem.MolFromSmiles(s)) for s in (TOLUENE, ETHANOL, RING)}

    def distance(one, other):
        return 1 - DataStructs.TanimotoSimilarity(bits[one], bits[other])

    assert rows[0]["int_div_pairs"] == pytest.approx(distance(TOLUENE, ETHANOL))
    assert rows[3]["int_div_pairs"] == pytest.approx(distance(RING, ETHANOL))


def test_late_samples_are_the_prompts_share_of_the_runs_last_ones(rows):
    # the last three valid ones: toluene of `low`, ethanol and toluene of `high`
    late = ("n_late", "late_uniqueness", "late_scaffolds", "late_top_share")
    assert of(rows[0], *late) == (1, 1, 1, 1)
    assert of(rows[2], *late) == (2, 1, 1, 1)


def test_a_prompt_that_came_late_or_never_late_is_still_there(make_text_trace):
    steps = [[("a", "CCO", "CCO", 0.1)], [("b", "CCN", "CCN", 0.2)], [("b", "CCN", "CCN", 0.2)]]
    trace = make_text_trace(steps, molecules=True)
    first, second = rows_of(trace, (), MetricOptions(late_samples=2))
    assert of(first, "n_late", "late_uniqueness", "late_scaffolds") == (0, None, 0)
    assert of(second, "n_late", "late_uniqueness", "n_calls") == (2, 1 / 2, 1)


def test_a_prompt_without_a_molecule(make_text_trace):
    steps = [[("a", "CCO", "CCO", 0.9), ("b", "no", None, 0.0)]]
    *_, whole, hits = rows_of(make_text_trace(steps, molecules=True))
    assert of(whole, "n_sampled", "n_valid", "n_molecules", "n_calls") == (1, 0, 0, 0)
    assert of(whole, "validity", "uniqueness", "int_div_moses_1", "circles") == (0, None, None, 0)
    assert of(hits, "yield", "ob1") == (0, None)


def test_replayed_rows_are_left_out(make_text_trace):
    trace = make_text_trace(STEPS, molecules=True)
    trace.loc[trace["step"] == 1, "is_replay"] = True
    low, _, high, _ = rows_of(trace)
    assert of(low, "n_sampled", "n_valid", "n_molecules") == (2, 2, 2)
    assert of(high, "n_sampled", "n_valid", "n_molecules", "n_late") == (2, 2, 2, 2)


def test_with_one_prompt_the_numbers_are_those_of_the_run(make_text_trace, real_smiles):
    texts = real_smiles[:60] + real_smiles[:20]
    scored = [(s, (i % 10) / 10) for i, s in enumerate(texts[:60])]
    scored += scored[:20]
    steps = [[("p", s, s, r) for s, r in scored[i : i + 16]] for i in range(0, 80, 16)]
    trace = make_text_trace(steps, molecules=True)
    options = MetricOptions(late_samples=30, uniqueness_at=[50])
    whole = evaluate(from_trace("x", trace), [0.5, 0.8], options)
    mine = rows_of(trace, (0.5, 0.8), options)
    own = {"group", "prompt", "n_calls", "n_late"}
    assert [{k: v for k, v in row.items() if k not in own} for row in mine] == [
        {name: row[name] for name in mine[0] if name not in own} for row in whole
    ]
    assert of(mine[0], "n_calls", "n_late") == (whole[0]["n_molecules"], 30)


def test_columns_are_described_and_hold_nothing_of_the_run_alone(rows):
    schema = by_prompt_schema(OPTIONS)
    assert {tuple(row) for row in rows} == {tuple(schema.names)}
    assert all(len(description_of(field)) > 5 for field in schema)
    assert "last 3 valid samples" in description_of(schema.field("n_late"))
    assert "alone would have needed" in description_of(schema.field("ob10"))
    of_the_run = ("auc_", "collapsed", "prior_", "snn", "fcd", "frag")
    assert not [name for name in schema.names if name.startswith(of_the_run)]
    assert schema.names[:3] == ["run", "group", "prompt"]
    assert {"scaffold_yield", "vendi", "circles", "sediv"} <= {*schema.names}
    assert "scaf" not in schema.names
