import pytest

from chemkl.reports.summary import describe
from chemkl.reports.view import RunView

NBSP = "\N{NO-BREAK SPACE}"
RINGS = ("c1ccccc1", "C1CCCCC1", "c1ccncc1", "C1CCNCC1", "c1ccoc1", "C1CC1")
BENZENES = [f"{'C' * k}c1ccccc1" for k in range(1, 140)]
VARIED = [f"{'C' * k}{ring}" for k in range(1, 21) for ring in RINGS]  # 120, a sixth per scaffold


@pytest.fixture
def view(make_trace):
    def build(name, molecules, **manifest):
        return RunView(name, make_trace([[each] for each in molecules]), manifest)

    return build


def said(runs, methods=None, threshold=0.8, comparison=()):
    methods = methods or {run.name: [place] for place, run in enumerate(runs)}
    return [s.replace(NBSP, " ") for s in describe(runs, threshold, methods, comparison)]


def the_one(sentences, part):
    """The sentence that holds some words, of which there must be one."""
    found = [each for each in sentences if part in each]
    assert len(found) == 1, sentences
    return found[0]


# ---- collapse


def test_a_collapse_by_repeats_is_told_with_its_numbers(view):
    # 49 molecules, a sixth of them on each of six scaffolds, then one of benzene 61 times; windows
    # of 110 samples, so that it is the last sample that fills the one window
    samples = [(smiles, 0.1) for smiles in VARIED[:49]] + [("CCc1ccccc1", 0.1)] * 61
    n_benzene = 61 + sum("c1ccccc1" in smiles for smiles in VARIED[:49])
    n_distinct = len({smiles for smiles, _ in samples})
    sentences = said([view("plain", samples, beside={"collapse": {"window": 110}})])
    assert the_one(sentences, "plain collapsed") == (
        f"plain collapsed at call {n_distinct}: of the last 110 valid samples "
        f"{100 * n_distinct / 110:.1f} % are "
        f"distinct, and {100 * n_benzene / 110:.1f} % share the scaffold c1ccccc1."
    )
    assert the_one(sentences, "means here") == (
        "Collapsed means here: of the newest 110 valid samples, at some time in the run, at most "
        "50 % are distinct, or at least 30 % of those with a scaffold share one, where at least "
        "50 % have one."
    )


def test_runs_with_other_limits_are_told_apart_and_a_collapse_that_passed_is_over(view):
    samples = [(smiles, 0.1) for smiles in VARIED]
    runs = [
        view("a", samples, beside={"collapse": {"window": 60}}),
        view("b", samples, beside={"collapse": {"window": 50, "top_share": None}}),
    ]
    sentences = said(runs)
    assert "newest 60 valid" in the_one(sentences, "Collapsed means here for a: ")
    assert "share one" not in the_one(sentences, "Collapsed means here for b: of the newest 50")
    passed = [("CCO", 0.1)] * 4 + samples[:9]
    sentences = said([view("plain", passed, beside={"collapse": {"window": 4}})])
    assert the_one(sentences, "plain collapsed").startswith(
        "plain collapsed at call 1; over at the end: of the last 4 valid samples 100 % are"
    )


def test_runs_that_did_not_collapse_share_a_sentence(view):
    samples = [(smiles, 0.1) for smiles in VARIED]
    watched = {"collapse": {"window": 120, "top_share": 0.5}}
    runs = [view("a", samples, beside=watched), view("b", samples, beside=watched)]
    assert said(runs)[0] == (
        "a and b did not collapse: of the last 120 valid samples of each run at least "
        f"100 % are distinct, and no scaffold holds more than {100 / 6:.1f} % of those with one."
    )
    assert said(runs[:1])[0] == (
        "a did not collapse: of the last 120 valid samples 100 % are distinct, and no scaffold "
        f"holds more than {100 / 6:.1f} % of those with one."
    )


def test_seeds_of_a_method_are_counted(view):
    watched = {"collapse": {"window": 100}}
    runs = [
        view("a-0", [(smiles, 0.1) for smiles in VARIED], beside=watched),
        view("a-1", [("CCc1ccccc1", 0.1)] * 100, beside=watched),
        view("a-2", [(smiles, 0.1) for smiles in BENZENES[:110]], beside=watched),
    ]
    sentences = said(runs, {"a": [0, 1, 2]})
    assert the_one(sentences, "a collapsed at") == (
        "2 of 3 runs of a collapsed at call 1 to 100: of the last 100 valid samples 1 % to 100 % "
        "are distinct, and the largest scaffold holds 100 %."
    )
    assert not any("did not collapse" in each for each in sentences)


def test_a_target_that_never_acted_is_told_and_too_few_samples_get_no_verdict(view):
    target = {"config": {"target": {"kind": "mara", "tau": 0.999, "sigma": 128}}}
    sentences = said([view("m", [("CCO", 0.5), ("CCN", 0.75)], **target)])
    assert the_one(sentences, "never acted") == (
        "m: the target mara never acted: no reward reached tau = 0.999; the best reward is 0.75; "
        "the samples are those of the target gibbs."
    )
    assert sentences[0] == (
        "m: too few valid samples (2; 1,000 are needed) to say whether it collapsed."
    )
    assert not any("means here" in each for each in sentences)


# ---- what was found


def test_hits_scaffolds_and_best_molecule(view):
    samples = [("Cc1ccccc1", 0.9), ("CC1CCCCC1", 0.95), ("CCc1ccccc1", 0.81234), ("CCO", 0.1)]
    sentences = said([view("plain", samples)])
    assert the_one(sentences, "found 3") == (
        "plain found 3 hits (R ≥ 0.8) on 2 scaffolds in 4 oracle calls; its best molecule has "
        "R = 0.95."
    )
    assert the_one(sentences, "best molecule is") == (
        "The best molecule is CC1CCCCC1 with R = 0.95, found by plain at call 2."
    )


# every other call is a hit: the hundredth is call 199
ALTERNATING = [
    (f"{'C' * (1 + k // 2)}{'c1ccccc1' if k % 2 == 0 else 'c1ccncc1'}", (k + 1) % 2)
    for k in range(210)
]


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([("Cc1ccccc1", 0.9)], "plain found 1 hit (R ≥ 0.8) on 1 scaffold in 1 oracle calls"),
        (ALTERNATING, "105 hits (R ≥ 0.8) on 1 scaffold in 210 oracle calls, the 100th after 199;"),
        ([("C" * 200, 0.9)], f"best molecule is {'C' * 29}…{'C' * 29} with"),
        ([("CCO", 0.1)], "found no hit (R ≥ 0.8) in 1 oracle calls; its best molecule has R = 0.1"),
    ],
)
def test_what_one_run_found(view, samples, words):
    assert words in " ".join(said([view("plain", samples)]))


def test_methods_are_set_beside_the_first(view):
    first = [("Cc1ccccc1", 0.9), ("CCc1ccccc1", 0.9), ("CCO", 0.1), ("CCN", 0.1)]
    second = [("Cc1ccccc1", 0.9), ("CC1CCCCC1", 0.9), ("Cc1ccncc1", 0.9), ("CCN", 0.1)]
    sentences = said([view("plain", first), view("mara", second)])
    assert the_one(sentences, "mara found").endswith(
        "; that is 1.50 times the hits and 3.00 times the scaffolds of plain."
    )
    assert "times" not in the_one(sentences, "plain found")
    without = said([view("plain", [("CCO", 0.1)]), view("mara", second)])
    assert "times" not in the_one(without, "mara found")


def test_several_runs_are_averaged(view):
    runs = [
        view("a-0", [("Cc1ccccc1", 0.9), ("CC1CCCCC1", 0.91)]),
        view("a-1", [("CCc1ccccc1", 0.9), ("CC1CCCCC1", 0.1)]),
    ]
    assert the_one(said(runs, {"a": [0, 1]}), "mean") == (
        "a found, as a mean over 2 runs, 1.5 hits (1 to 2) (R ≥ 0.8) on 1.5 scaffolds (1 to 2) in "
        "2 oracle calls; its best molecule has R = 0.91."
    )
    assert "a found, as a mean over 2 runs, 2 hits (R ≥ 0.8)" in " ".join(
        said([runs[0], runs[0]], {"a": [0, 1]})
    )


def test_of_many_methods_the_first_and_the_last_are_told(view):
    runs = [view(f"m{k}", [(smiles, 0.9) for smiles in BENZENES[: k + 1]]) for k in (2, 0, 4, 1, 3)]
    sentences = said(runs)
    assert the_one(sentences, "methods m4") == (
        "Of 5 methods m4 has the most hits and m0 the fewest; the tables have them all."
    )
    assert len([each for each in sentences if " found " in each and "hits" in each]) == 2


def test_of_equal_rewards_the_earlier_call_is_the_best_and_an_unknown_one_never(view):
    runs = [view("a", [("CCO", 0.1), ("CCN", 0.9)]), view("b", [("CCC", 0.9)])]
    assert "The best molecule is CCC with R = 0.9, found by b at call 1." in said(runs)
    run = view("a", [("CCO", 0.3), ("CCN", 0.2)])
    run.trace.loc[0, "reward"] = float("nan")
    assert "The best molecule is CCN with R = 0.2, found by a at call 2." in said([run])


# ---- what to hold against it


def test_budgets_that_differ_and_unfinished_runs_are_named(view):
    runs = [view("a", [("CCO", 0.1)], status="running"), view("b", [("CCO", 0.1), ("CCN", 0.1)])]
    sentences = said(runs)
    assert (
        "The runs did not spend the same: from 1 oracle calls (a) to 2 (b); more calls find more "
        "hits."
    ) in sentences
    assert "Not finished: a (running); their numbers are those so far." in sentences
    assert not any("spend" in each for each in said(runs[:1]))
    assert not any("Not finished" in each for each in said(runs[1:]))


def seeds(view, n):
    """Two methods of n runs each, seeds 0 ... n - 1."""
    a = [view(f"a-{k}", [("CCc1ccccc1", 0.1)], seed=k) for k in range(n)]
    b = [view(f"b-{k}", [("CCc1ccccc1", 0.9)], seed=k) for k in range(n)]
    return [*a, *b], {"a": range(n), "b": range(n, 2 * n)}


def row(**changed):
    yields = {"metric": "yield", "threshold": 0.8, "method": "b", "baseline": "a", "n": 5}
    interval = {"difference": 1052.4, "low": 890.0, "high": 1201.0}
    return {**yields, **interval, "p_holm": 0.0123, "verdict": "better"} | changed


@pytest.mark.parametrize("n", [1, 4])
def test_below_five_seeds_no_verdict_is_given_even_if_there_is_one(view, n):
    sentences = said(*seeds(view, n), comparison=[row(n=n)])
    assert sentences[-1] == (
        f"Whether b differs from a by more than chance is not resolved: {n} seed{'s' * (n > 1)} in "
        "common, and at least 5 are needed; then chemkl compare tests it."
    )
    assert "chance explains" not in " ".join(sentences)


def test_runs_of_other_seeds_are_no_pairs_and_five_without_a_comparison_not_tested(view):
    runs = [view("a", [("CCO", 0.1)], seed=1), view("b", [("CCO", 0.1)], seed=2), view("c", [])]
    assert said(runs)[-1].startswith(
        "Whether b and c differ from a by more than chance is not resolved: 0 seeds in common"
    )
    assert said(*seeds(view, 5))[-1] == (
        "Whether b differs from a by more than chance is not tested on this page: 5 seeds in "
        "common; chemkl compare tests it."
    )


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {},
            "Over 5 shared seeds b has 1,052 more hits than a [890, 1,201]: this is more than "
            "chance explains (one-sided Welch test, corrected p 0.012).",
        ),
        (
            {"metric": "scaffold_yield", "p_holm": 0.00001},
            "Over 5 shared seeds b has 1,052 more scaffolds among its hits than a [890, 1,201]: "
            "this is more than chance explains (one-sided Welch test, corrected p below 0.001).",
        ),
        (
            {"difference": -3.0, "low": -5.5, "high": 1.0, "p_holm": 0.9, "verdict": "not shown"},
            "Over 5 shared seeds b has 3 fewer hits than a [-5.5, 1]: that it has more is not "
            "shown (one-sided Welch test, corrected p 0.900).",
        ),
        (
            {"p_holm": None, "verdict": "not resolved", "low": None, "high": None},
            "Over 5 shared seeds b has 1,052 more hits than a: not resolved, nothing varies.",
        ),
    ],
)
def test_a_comparison_is_put_in_words(view, changed, sentence):
    assert said(*seeds(view, 5), comparison=[row(**changed)])[-1] == sentence


@pytest.mark.parametrize(
    "changed", [{"threshold": 0.9}, {"baseline": "c"}, {"metric": "circles"}, {"n": 4}]
)
def test_rows_of_other_questions_are_left_out(view, changed):
    assert "not tested on this page" in said(*seeds(view, 5), comparison=[row(**changed)])[-1]


# ---- little data


def test_no_run_and_no_molecule(view):
    assert describe([], 0.8, {}) == ["There is no run to describe."]
    sentences = said([view("empty", []), view("invalid", [("C1CC", 0.0)])])
    assert "empty has no molecule with a reward." in sentences
    assert "invalid has no molecule with a reward." in sentences
