import pytest

from chemkl.reports.summary import describe
from chemkl.reports.view import RunView

NBSP = "\N{NO-BREAK SPACE}"
RINGS = ("c1ccccc1", "C1CCCCC1", "c1ccncc1", "C1CCNCC1", "c1ccoc1", "C1CC1")
BENZENES = [f"{'C' * k}c1ccccc1" for k in range(1, 140)]
VARIED = [f"{'C' * k}{ring}" for k in range(1, 21) for ring in RINGS]  # 120, a sixth per scaffold


@pytest.fixture
def view(make_trace):
    def build(name, molecules, reward=0.1, collapse=None, **manifest):
        """A run of (SMILES, reward), or of SMILES with one reward."""
        rows = [row if isinstance(row, tuple) else (row, reward) for row in molecules]
        if collapse:
            manifest["beside"] = {"collapse": collapse}
        return RunView(name, make_trace([[row] for row in rows]), manifest)

    return build


def summary(runs, methods=None, comparison=()):
    methods = methods or {run.name: [place] for place, run in enumerate(runs)}
    return [s.replace(NBSP, " ") for s in describe(runs, 0.8, methods, comparison)]


def sentence_with(sentences, part):
    """The only sentence that contains some text."""
    (sentence,) = [sentence for sentence in sentences if part in sentence]
    return sentence


# ---- collapse


def test_collapse_by_repeats_is_reported_with_its_numbers(view):
    # 49 molecules, a sixth of them on each of six scaffolds, then one of benzene 61 times; windows
    # of 110 samples, so that it is the last sample that fills the one window
    samples = VARIED[:49] + ["CCc1ccccc1"] * 61
    n_benzene = sum("c1ccccc1" in smiles for smiles in samples)
    n_distinct = len(set(samples))
    sentences = summary([view("plain", samples, collapse={"window": 110})])
    assert sentence_with(sentences, "plain collapsed") == (
        f"plain collapsed at call {n_distinct}: of the last 110 valid samples "
        f"{100 * n_distinct / 110:.1f} % are "
        f"distinct, and {100 * n_benzene / 110:.1f} % share the scaffold c1ccccc1."
    )
    assert sentence_with(sentences, "Collapsed means") == (
        "Collapsed means: of the newest 110 valid samples, at some time in the run, at most "
        "50 % are distinct, or at least 30 % of those with a scaffold share one, where at least "
        "50 % have one."
    )


def test_different_limits_and_recovery_are_reported(view):
    runs = [
        view("a", VARIED, collapse={"window": 60}),
        view("b", VARIED, collapse={"window": 50, "top_share": None}),
    ]
    sentences = summary(runs)
    assert "newest 60 valid" in sentence_with(sentences, "Collapsed means for a: ")
    limits = sentence_with(sentences, "Collapsed means for b: of the newest 50")
    assert "share one" not in limits
    recovered = view("plain", ["CCO"] * 4 + VARIED[:9], collapse={"window": 4})
    assert sentence_with(summary([recovered]), "plain collapsed").startswith(
        "plain collapsed at call 1 and recovered: of the last 4 valid samples 100 % are"
    )


def test_runs_without_a_collapse_share_a_sentence(view):
    runs = [view(name, VARIED, collapse={"window": 120, "top_share": 0.5}) for name in "ab"]
    top = f"are distinct, and no scaffold holds more than {100 / 6:.1f} % of those with one."
    assert summary(runs)[0] == (
        f"a and b did not collapse: of the last 120 valid samples of each run at least 100 % {top}"
    )
    assert summary(runs[:1])[0] == (
        f"a did not collapse: of the last 120 valid samples 100 % {top}"
    )


def test_collapsed_seeds_of_a_method_are_counted(view):
    molecules = VARIED, ["CCc1ccccc1"] * 100, BENZENES[:110]
    runs = [view(f"a-{n}", m, collapse={"window": 100}) for n, m in enumerate(molecules)]
    sentences = summary(runs, {"a": [0, 1, 2]})
    assert sentence_with(sentences, "a collapsed at") == (
        "2 of 3 runs of a collapsed at call 1 to 100: of the last 100 valid samples 1 % to 100 % "
        "are distinct, and the largest scaffold holds 100 %."
    )
    assert not any("did not collapse" in sentence for sentence in sentences)


def test_idle_target_and_too_few_samples_are_reported(view):
    config = {"target": {"kind": "mara", "tau": 0.999, "sigma": 128}}
    sentences = summary([view("m", [("CCO", 0.5), ("CCN", 0.75)], config=config)])
    assert sentence_with(sentences, "never acted") == (
        "m: the target mara never acted: no reward reached tau = 0.999; the best reward is 0.75; "
        "the samples are those of the target gibbs."
    )
    assert sentences[0] == ("m: too few valid samples to detect a collapse (2; 1,000 are needed).")
    assert not any("Collapsed means" in sentence for sentence in sentences)


# ---- hits


# every other call is a hit: the hundredth is call 199
ALTERNATING = [
    (f"{'C' * (1 + k // 2)}{'c1ccccc1' if k % 2 == 0 else 'c1ccncc1'}", (k + 1) % 2)
    for k in range(210)
]


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        (
            [("Cc1ccccc1", 0.9), ("CC1CCCCC1", 0.95), ("CCc1ccccc1", 0.81234), ("CCO", 0.1)],
            "plain found 3 hits (R ≥ 0.8) on 2 scaffolds in 4 oracle calls; its best molecule has "
            "R = 0.95. The best molecule is CC1CCCCC1 with R = 0.95, found by plain at call 2.",
        ),
        ([("Cc1ccccc1", 0.9)], "plain found 1 hit (R ≥ 0.8) on 1 scaffold in 1 oracle calls"),
        (ALTERNATING, "105 hits (R ≥ 0.8) on 1 scaffold in 210 oracle calls, the 100th after 199;"),
        ([("C" * 200, 0.9)], f"best molecule is {'C' * 29}…{'C' * 29} with"),
        ([("CCO", 0.1)], "found no hit (R ≥ 0.8) in 1 oracle calls; its best molecule has R = 0.1"),
    ],
)
def test_hits_of_one_run(view, samples, text):
    assert text in " ".join(summary([view("plain", samples)]))


def test_methods_are_compared_with_the_first(view):
    first = [("Cc1ccccc1", 0.9), ("CCc1ccccc1", 0.9), "CCO", "CCN"]
    second = [("Cc1ccccc1", 0.9), ("CC1CCCCC1", 0.9), ("Cc1ccncc1", 0.9), "CCN"]
    sentences = summary([view("plain", first), view("mara", second)])
    assert sentence_with(sentences, "mara found").endswith(
        "; that is 1.50 times the hits and 3.00 times the scaffolds of plain."
    )
    assert "times" not in sentence_with(sentences, "plain found")
    without = summary([view("plain", ["CCO"]), view("mara", second)])
    assert "times" not in sentence_with(without, "mara found")


def test_several_runs_are_averaged(view):
    runs = [
        view("a-0", [("Cc1ccccc1", 0.9), ("CC1CCCCC1", 0.91)]),
        view("a-1", [("CCc1ccccc1", 0.9), "CC1CCCCC1"]),
    ]
    assert sentence_with(summary(runs, {"a": [0, 1]}), "mean") == (
        "a found, as a mean over 2 runs, 1.5 hits (1 to 2) (R ≥ 0.8) on 1.5 scaffolds (1 to 2) in "
        "2 oracle calls; its best molecule has R = 0.91."
    )
    equal = " ".join(summary([runs[0], runs[0]], {"a": [0, 1]}))
    assert "a found, as a mean over 2 runs, 2 hits (R ≥ 0.8)" in equal


def test_of_many_methods_only_two_are_described(view):
    runs = [view(f"m{k}", BENZENES[: k + 1], reward=0.9) for k in (2, 0, 4, 1, 3)]
    sentences = summary(runs)
    assert sentence_with(sentences, "methods m4") == (
        "Of 5 methods m4 has the most hits and m0 the fewest; the tables show all methods."
    )
    assert len([s for s in sentences if " found " in s and "hits" in s]) == 2


def test_best_molecule_has_the_lowest_call_and_a_known_reward(view):
    runs = [view("a", ["CCO", ("CCN", 0.9)]), view("b", [("CCC", 0.9)])]
    assert "The best molecule is CCC with R = 0.9, found by b at call 1." in summary(runs)
    run = view("a", [("CCO", 0.3), ("CCN", 0.2)])
    run.trace.loc[0, "reward"] = float("nan")
    assert "The best molecule is CCN with R = 0.2, found by a at call 2." in summary([run])


# ---- differences


def test_unequal_calls_and_unfinished_runs_are_reported(view):
    runs = [view("a", ["CCO"], status="running"), view("b", ["CCO", "CCN"])]
    calls = (
        "The runs have different numbers of oracle calls: from 1 (a) to 2 (b); more calls find "
        "more hits."
    )
    unfinished = "Not finished: a (running); their numbers are those so far."
    assert {calls, unfinished} <= {*summary(runs)}
    assert calls not in summary(runs[:1])
    assert not any("Not finished" in sentence for sentence in summary(runs[1:]))


def with_seeds(view, n):
    """Two methods of n runs each, seeds 0 ... n - 1."""
    a = [view(f"a-{k}", ["CCc1ccccc1"], seed=k) for k in range(n)]
    b = [view(f"b-{k}", ["CCc1ccccc1"], 0.9, seed=k) for k in range(n)]
    return [*a, *b], {"a": range(n), "b": range(n, 2 * n)}


def row(**changed):
    yields = {"metric": "yield", "threshold": 0.8, "method": "b", "baseline": "a", "n": 5}
    interval = {"difference": 1052.4, "low": 890.0, "high": 1201.0}
    return {**yields, **interval, "p_holm": 0.0123, "verdict": "better"} | changed


@pytest.mark.parametrize("n", [1, 4])
def test_below_five_seeds_there_is_no_verdict(view, n):
    sentences = summary(*with_seeds(view, n), comparison=[row(n=n)])
    assert sentences[-1] == (
        f"Whether b differs from a by more than chance is not resolved: {n} seed{'s' * (n > 1)} in "
        "common; chemkl compare tests this with at least 5."
    )
    assert "chance explains" not in " ".join(sentences)


def test_different_seeds_are_no_pairs_and_five_pairs_need_a_comparison(view):
    runs = [view("a", ["CCO"], seed=1), view("b", ["CCO"], seed=2), view("c", [])]
    assert summary(runs)[-1].startswith(
        "Whether b and c differ from a by more than chance is not resolved: 0 seeds in common"
    )
    assert summary(*with_seeds(view, 5))[-1] == (
        "Whether b differs from a by more than chance is not tested on this page: 5 seeds in "
        "common; chemkl compare tests this."
    )


MORE = "1,052 more hits than a [890, 1,201]: this is more than chance explains"


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, f"{MORE} (one-sided Welch test, corrected p 0.012)."),
        (
            {"metric": "scaffold_yield", "p_holm": 0.00001},
            f"{MORE} (one-sided Welch test, corrected p below 0.001).".replace(
                "hits", "scaffolds among its hits"
            ),
        ),
        (
            {"difference": -3.0, "low": -5.5, "high": 1.0, "p_holm": 0.9, "verdict": "not shown"},
            "3 fewer hits than a [-5.5, 1]: the test does not show that it has more (one-sided "
            "Welch test, corrected p 0.900).",
        ),
        (
            {"p_holm": None, "verdict": "not resolved", "low": None, "high": None},
            "1,052 more hits than a: not resolved, as there is no variance.",
        ),
    ],
)
def test_rows_of_a_comparison_become_sentences(view, changed, text):
    sentences = summary(*with_seeds(view, 5), comparison=[row(**changed)])
    assert sentences[-1] == f"Over 5 shared seeds b has {text}"


@pytest.mark.parametrize(
    "changed", [{"threshold": 0.9}, {"baseline": "c"}, {"metric": "circles"}, {"n": 4}]
)
def test_other_rows_of_a_comparison_are_ignored(view, changed):
    sentences = summary(*with_seeds(view, 5), comparison=[row(**changed)])
    assert "not tested on this page" in sentences[-1]


def test_no_run_and_no_molecule(view):
    assert describe([], 0.8, {}) == ["There are no runs."]
    sentences = summary([view("empty", []), view("invalid", [("C1CC", 0.0)])])
    assert {f"{name} has no molecule with a reward." for name in ("empty", "invalid")} <= {
        *sentences
    }
