"""From what the user wrote to a config, or to one message with every problem."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, model_validator

from chemkl.config import Config, InputError, InputPath, load_config
from chemkl.config.base import by_kind
from chemkl.config.evaluate import ForecastConfig
from chemkl.config.loading import Override


class Gibbs(Config):
    kind: Literal["gibbs"]
    beta: float = Field(0.1, gt=0)


class Mara(Config):
    kind: Literal["mara"]
    beta: float = Field(0.1, gt=0)
    tau: float
    """Reward from which on a molecule is a hit. More words."""
    anchor: Literal["batch", "running"] = "batch"

    @model_validator(mode="after")
    def _tau_in_reach(self):
        if self.tau > 1:
            raise InputError("tau is above 1,\nso nothing can be a hit")
        return self


Target = Annotated[Gibbs | Mara, by_kind(Gibbs, Mara)]


class Run(Config):
    seed: int = 0
    prior: InputPath | None = None
    target: Target = Gibbs(kind="gibbs")
    targets: list[Target] = Field(default_factory=list)
    by_name: dict[str, int] = Field(default_factory=dict)
    text: str = ""
    quick: bool = False
    rate: float | Literal["auto"] = "auto"
    reward: InputPath | dict[str, float] = Field(default_factory=dict)
    pair: tuple[int, float] = (1, 2.0)
    inner: Gibbs | None = None


def problems_of(source, *overrides, model=Run, **settings):
    with pytest.raises(InputError) as caught:
        load_config(model, source, overrides, **settings)
    return str(caught.value).splitlines()


@pytest.fixture
def file(tmp_path):
    def write(text, name="run.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_an_instance_a_mapping_and_a_file_give_the_same_config(file):
    data = {"seed": 3, "target": {"kind": "mara", "tau": 0.8}}
    path = file("seed: 3\ntarget: {kind: mara, tau: 0.8}\n")
    config = load_config(Run, data)
    assert config == load_config(Run, path) == load_config(Run, str(path))
    assert load_config(Run, config) is config
    assert config.target == Mara(kind="mara", tau=0.8)


def test_overrides_change_files_mappings_and_instances_alike(file):
    expected = load_config(Run, {"seed": 4, "target": {"kind": "gibbs", "beta": 0.5}})
    overrides = ["seed=4", "target.beta=0.5"]
    data = {"seed": 3, "target": {"kind": "gibbs"}}
    assert load_config(Run, data, overrides) == expected
    assert load_config(Run, load_config(Run, data), overrides) == expected
    assert load_config(Run, file("seed: 3\ntarget: {kind: gibbs}\n"), overrides) == expected


def test_every_problem_of_a_file_comes_at_once_in_the_order_of_its_lines(file):
    path = file(
        "seed: many\n"
        "sed: 1\n"
        "target:\n"
        "  kind: mara\n"
        "  tua: 0.8\n"
        "targets:\n"
        "  - {kind: gibs}\n"
        "  - {beta: 1}\n"
        "  - 7\n"
        "by_name: {a: x}\n"
        "quick: perhaps\n"
        "pair: [1]\n"
        "inner: 5\n"
        "seed: 2.5\n"
    )
    assert problems_of(path, "targets.0.beta=-1", "nothing") == [
        f"{path}:2: sed: not a known key; did you mean 'seed'? Known: by_name, inner, pair, prior, "
        "quick, rate, reward, seed, target, targets, text",
        f"{path}:3: target.tau: required, and not given (Reward from which on a molecule is a hit)",
        f"{path}:5: target.tua: not a known key; did you mean 'tau'? "
        "Known: anchor, beta, kind, tau",
        f"{path}:7: targets.0.kind: 'gibs' is not known; did you mean 'gibbs'? Known: gibbs, mara",
        f"{path}:8: targets.1: required key 'kind' is not given. Known: gibbs, mara",
        f"{path}:9: targets.2: should be a mapping with kind, one of: gibbs, mara (got 7)",
        f"{path}:10: by_name.a: should be a whole number (got 'x')",
        f"{path}:11: quick: should be true or false (got 'perhaps')",
        f"{path}:12: pair.1: required, and not given",
        f"{path}:13: inner: should be a mapping, one 'key: value' a line (got 5)",
        f"{path}:14: seed: given twice, first in line 1; keep one",
        f"{path}:14: seed: should be a whole number (got 2.5)",
        "override 'nothing': expected key=value, for example target.beta=0.1.",
    ]


KNOWN = "Known: by_name, inner, pair, prior, quick, rate, reward, seed, target, targets, text"
TAU = "required, and not given (Reward from which on a molecule is a hit)"
BTA = "not a known key; did you mean 'beta'? Known: beta, kind"
WHOLE = "inner={kind: gibbs, beta: 0}"
PROBLEMS = [
    ("target: {kind: mara, tau: 1, beta: 0, anchor: bach}", [],
     ["PATH:1: target.beta: should be greater than 0 (got 0)",
      "PATH:1: target.anchor: 'bach' is not allowed; did you mean 'batch'? Known: batch, running"]),
    ("seed: 1\ntarget:\n  kind: mara\n  tau: 2\n", [],
     ["PATH:4: target: tau is above 1,", "PATH:4: target: so nothing can be a hit"]),
    ({"target": {"kind": "gibbs"}}, ["target.bta=1", "seed=x"],
     [f"override 'target.bta=1': target.bta: {BTA}",
      "override 'seed=x': seed: should be a whole number (got 'x')"]),
    # a section that an override made is the override's
    ("seed: 1", ["targt.tau=2", "target.kind=mara", "inner.bta=1"],
     [f"override 'targt.tau=2': targt: not a known key; did you mean 'target'? {KNOWN}",
      f"override 'target.kind=mara': target.tau: {TAU}",
      "override 'inner.bta=1': inner.kind: required, and not given",
      f"override 'inner.bta=1': inner.bta: {BTA}"]),
    ("targt: {}\ntargets: [{kind: mara}]\n", ["targets.0.beta=1"],
     [f"PATH:1: targt: not a known key; did you mean 'target'? {KNOWN}",
      f"PATH:2: targets.0.tau: {TAU}"]),
    # one of the kind is named beside what it left over or asks for
    ("target:\n  kind: mara\n  tau: 0.5\n  beta: -1\n", ["target.kind=gibbs", "seed=1"],
     ["PATH:3 with override 'target.kind=gibbs': target.tau: not a known key. Known: beta, kind",
      "PATH:4: target.beta: should be greater than 0 (got -1)"]),
    ("target: {kind: gibbs}", ["target.kind=mara"],
     [f"override 'target.kind=mara': target.tau: {TAU}"]),
    # a wrong one is named without those beside it
    ("seed: 1", ["inner.kind=gibbs", "by_name.a=1", "by_name.b=x", "by_name.c=2"],
     ["override 'by_name.b=x': by_name.b: should be a whole number (got 'x')"]),
    ("seed: 1", [WHOLE, "inner.kind=gibbs"],
     [f"override '{WHOLE}': inner.beta: should be greater than 0 (got 0)"]),
    ({}, [Override(("seed",), "x", "pipeline.yaml:7")],
     ["pipeline.yaml:7: seed: should be a whole number (got 'x')"]),
    ({}, ["seed=1e300"],
     ["override 'seed=1e300': seed: should be a whole number of at most 18 digits (got 1e+300)"]),
    # without a file, and of several types the nearest
    (Gibbs(kind="gibbs"), [], ["these are the settings of another stage."]),
    ({"target": {"kind": "gibbs", "beta": "x"}}, [],
     ["settings: target.beta: should be a number (got 'x')"]),
    ({"rate": "x"}, [], ["settings: rate: should be a number, or 'x' is not allowed. Known: auto"]),
    ({"reward": {"a": "x"}}, [], ["settings: reward.a: should be a number (got 'x')"]),
    ({"reward": 3}, [],
     ["settings: reward: should be a path, or should be a mapping, one 'key: value' a line "
      "(got 3)"]),
    ({"text": ["Na+"]}, [],
     ["settings: text: should be text (text that begins with one of [ { * & ! @ % ` must be "
      "quoted: '[#6]') (got ['Na+'])"]),
    ({"by_name": {1: 2}}, [], ["settings: by_name.1: should be text (got 1)"]),
    ({3: 2}, [], ["settings: 3: Keys should be strings (got 3)"]),
    # a long value, and a long key
    ({"seed": "x" * 500}, [], [f"settings: seed: should be a whole number (got '{'x' * 76}...)"]),
    ({"k" * 500: 1}, [], [f"settings: {'k' * 77}...: not a known key. {KNOWN}"]),
]  # fmt: skip
"""The text of a file or a mapping, overrides, and the lines of the message."""


@pytest.mark.parametrize(("source", "overrides", "lines"), PROBLEMS)
def test_a_problem_has_its_place_and_plain_words(file, source, overrides, lines):
    path = file(source) if isinstance(source, str) else source
    assert problems_of(path, *overrides) == [line.replace("PATH", str(path)) for line in lines]


class Learning(Config):
    steps: int = Field(10, ge=1)
    batch: int = Field(8, ge=1)
    way: Literal["a", "b"] = "a"

    @model_validator(mode="after")
    def _fits(self):
        if self.batch > self.steps:
            raise InputError(f"batch {self.batch} is above steps {self.steps}")
        return self


class Nested(Config):
    learning: Learning = Learning()
    target: Target = Gibbs(kind="gibbs")
    low: float = 0
    high: float = 1
    seed: int = 0
    rate: int = 0
    limit: int = 1

    @model_validator(mode="after")
    def _ordered(self):
        if self.low > self.high:
            raise InputError("low is above high")
        return self

    def problems(self):
        if self.rate > self.limit:
            yield "rate", f"{self.rate} is above limit = {self.limit}"


LEARNING = "seed: 1\nlearning:\n  steps: 4\n"
ABOVE = "learning: batch 5 is above steps"


@pytest.mark.parametrize(
    ("text", "overrides", "begin"),
    [
        # of overrides of one section the one that set the value is named
        ("{}", ["learning.steps=0", "learning.way=b"], "override 'learning.steps=0': learning.st"),
        ("{}", ["learning.steps=1", "learning.way=c"], "override 'learning.way=c': learning.way: "),
        ("{}", ["learning.steps=9", "learning.foo=1"], "override 'learning.foo=1': learning.foo: "),
        ("{}", ["learning={steps: 0}", "learning.batch=3"], "override 'learning={steps: 0}': lear"),
        ("{}", ["learning.steps=0", "learning={steps: -1}"], "override 'learning={steps: -1}': le"),
        # a problem of several settings names the line and the overrides of each, and no others
        (LEARNING, ["seed=2", "learning.batch=5", "learning.way=b"],
         f"PATH:3 with override 'learning.batch=5': {ABOVE} 4"),
        (LEARNING, ["learning.batch=5", "learning.steps=3"],
         f"override 'learning.batch=5' and override 'learning.steps=3': {ABOVE} 3"),
        ("seed: 1\nhigh: 2\n", ["low=3", "seed=2"],
         "PATH:2 with override 'low=3': low is above high"),
        ("seed: 1\nlow: 3\n", ["seed=2"], "PATH:2: low is above high"),
        ("seed: 1\n", ["low=3", "high=2"], "override 'low=3' and override 'high=2': low is above "),
        ("seed: 1\nlimit: 3\n", ["rate=4"],
         "override 'rate=4' with PATH:2: rate: 4 is above limit = 3"),
        ("limit: 3\n", ["rate=4", "limit=2"],
         "override 'rate=4' and override 'limit=2': rate: 4 is above limit = 2"),
    ],
)  # fmt: skip
def test_a_problem_names_the_line_and_the_overrides_it_comes_from(file, text, overrides, begin):
    path = file(text)
    (line,) = problems_of(path, *overrides, model=Nested)
    assert line.startswith(begin.replace("PATH", str(path)))


def test_overrides_that_make_a_section_together_are_named_together():
    outer = Run.with_fields("Outer", {"run": (Run | None, None)})
    (line,) = problems_of({}, "run={}", "run.target.anchor=batch", model=outer)
    assert line.startswith("override 'run={}' and override 'run.target.anchor=batch': run.target: ")


class Bounded(Config):
    numbers: tuple[Annotated[int, Field(gt=0)], ...] = Field((1,), min_length=1)
    pairs: tuple[int, ...] = Field((1, 2), min_length=2)
    few: list[int] = Field([1], min_length=1, max_length=2)
    by_name: dict[str, int] = Field({"a": 1}, min_length=2, validate_default=False)
    word: str = Field("abc", min_length=2, max_length=3)
    code: str = Field("a", pattern="^a")
    """Begins with a. More."""


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        ({"few": []}, ["few: should have at least 1 entry (got [])"]),
        ({"few": [1, 2, 3]}, ["few: should have at most 2 entries (got [1, 2, 3])"]),
        ({"by_name": {}}, ["by_name: should have at least 2 entries (got {})"]),
        ({"word": "a"}, ["word: should have at least 2 characters (got 'a')"]),
        ({"word": "abcd"}, ["word: should have at most 3 characters (got 'abcd')"]),
        ({"code": "b"}, ["code: does not have the required form (Begins with a) (got 'b')"]),
        # wrong items are not counted as missing ones
        ({"numbers": [0]}, ["numbers.0: should be greater than 0 (got 0)"]),
        ({"numbers": []}, ["numbers: should have at least 1 entry (got [])"]),
        ({"pairs": ["x"]}, ["pairs.0: should be a whole number (got 'x')",
                            "pairs: should have at least 2 entries (got ['x'])"]),  # 1 indeed
    ],
)  # fmt: skip
def test_wrong_lengths_and_forms_have_plain_words(data, lines):
    assert problems_of(data, model=Bounded) == [f"settings: {line}" for line in lines]


@pytest.mark.parametrize("value", [True, False])
def test_true_and_false_are_no_numbers(value):
    class Plan(Config):
        n: int = 5
        rate: Annotated[float | None, Field(ge=0)] = None
        switch: bool | int = False

    assert load_config(Plan, {"switch": value}).switch is value
    word = str(value).lower()
    assert problems_of({"n": value, "rate": value}, model=Plan) == [
        f"settings: n: should be a whole number (got '{word}')",
        f"settings: rate: should be a number (got '{word}')",
    ]


# ---- paths


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The folder of the config, and the working directory."""
    folder, working = tmp_path / "configs", tmp_path / "working"
    folder.mkdir()
    working.mkdir()
    monkeypatch.chdir(working)
    return folder, working


def test_a_path_is_looked_up_in_the_folder_of_the_file_then_in_the_working_directory(places):
    folder, working = places
    path = folder / "run.yaml"
    path.write_text("prior: p.txt\n")
    assert problems_of(path) == [
        f"{path}:1: prior: no such file or folder: {folder / 'p.txt'} nor {working / 'p.txt'}"
    ]
    (working / "p.txt").touch()
    assert load_config(Run, path).prior == working / "p.txt"
    (folder / "p.txt").touch()
    assert load_config(Run, path).prior == folder / "p.txt"
    override = load_config(Run, "../configs/run.yaml", ["prior=../working/p.txt"])
    assert override.prior == working / "p.txt"


def test_a_mapping_has_the_folder_it_is_given(places):
    folder, working = places
    (folder / "p.txt").touch()
    assert load_config(Run, {"prior": "p.txt"}, folder=folder).prior == folder / "p.txt"
    assert load_config(Run, {"prior": "p.txt"}, also=[folder]).prior == folder / "p.txt"
    assert problems_of({"prior": "p.txt"}) == [
        f"settings: prior: no such file or folder: {working / 'p.txt'}"
    ]


def test_a_path_with_dots_in_a_file_is_relative_to_that_file(places):
    folder, working = places
    path = folder / "run.yaml"
    path.write_text("prior: ../../runs/p.txt\n")
    missing = folder.parents[1] / "runs/p.txt"
    assert problems_of(path) == [
        f"{path}:1: prior: no such file or folder: {missing} (got '../../runs/p.txt')"
    ]
    deeper = working / "a"
    deeper.mkdir()
    path = deeper / "run.yaml"
    path.write_text("seed: 1\n")
    assert problems_of(path, "prior=../p.txt") == [
        f"override 'prior=../p.txt': prior: no such file or folder: {working / 'p.txt'} nor "
        f"{working.parent / 'p.txt'} (got '../p.txt')"
    ]


def test_the_output_of_an_earlier_job_counts_as_existing(places):
    _, working = places
    folder = working / "runs" / "plain"
    config = load_config(Run, {"prior": "runs/plain/checkpoints/policy"}, promised=[folder])
    assert config.prior == folder / "checkpoints/policy"
    (line,) = problems_of({"prior": "runs/plainer/policy"}, promised=[folder])
    assert "no such file or folder" in line
    earlier = {folder: ("policy.bin", "trace/part-*.parquet"), working / "runs" / "other": ()}
    for name in (
        *("plain", "plain/policy.bin", "plain/trace", "plain/trace/part-1.parquet"),
        "other/anything",  # a job whose output is unknown
    ):
        path = working / "runs" / name
        assert load_config(Run, {"prior": f"runs/{name}"}, earlier=earlier).prior == path
    assert problems_of({"prior": "runs/plain/polcy.bin"}, earlier=earlier) == [
        f"settings: prior: no such file or folder: {folder / 'polcy.bin'}; the job that writes to "
        f"{folder} does not write 'polcy.bin'; did you mean 'policy.bin'? "
        "Known: policy.bin, trace/part-*.parquet"
    ]
    folder.mkdir(parents=True)
    (folder / "notes.txt").touch()  # not written by a job
    assert load_config(Run, {"prior": "runs/plain/notes.txt"}, earlier=earlier).prior.exists()


DEVICE = "a device, not a file or a folder: "
REWARDED = {"reward": {"components": [{"kind": "qed"}]}, "target": "gibbs"}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        *(("x" * 5000, ""), ("~nobody-has-this-name/p", ""), ("a\x00b", "")),
        *((place, DEVICE + place) for place in ("/dev/zero", "/dev/null")),
    ],
)
def test_paths_that_are_no_files_are_problems_like_others(path, message):
    (line,) = problems_of({"prior": path})
    assert line.startswith(f"settings: prior: {message}")
    lines = problems_of(REWARDED | {"prior": path}, model=ForecastConfig)  # may be a prior's name
    assert lines[0].startswith(f"settings: prior: {message}")


def test_relative_files_are_named_as_the_user_wrote_them(places):
    Path("run.yaml").write_text("sede: 1\n")
    assert problems_of("run.yaml")[0].startswith("run.yaml:1: sede: not a known key")


# ---- what the schema cannot see


def test_more_problems_are_added_if_the_schema_finds_some():
    drafts = []

    def look(draft):
        drafts.append(draft)
        return ["a problem", "a problem", "seed: should be a whole number"]

    assert load_config(Run, {"seed": 1}, more_problems=look).seed == 1
    assert drafts == []  # a stage's own check is for settings that fit
    lines = problems_of({"seed": "x"}, more_problems=look)
    assert lines == ["settings: seed: should be a whole number (got 'x')", "a problem"]


def test_a_draft_returns_what_is_valid(places):
    folder, working = places
    (folder / "p.bin").touch()
    (working / "made").mkdir()
    (working / "made" / "q.bin").touch()
    path = folder / "run.yaml"
    path.write_text("sede: 1\nprior: p.bin\nquick: perhaps\nby_name: {a: x}\nreward: p.bin\n")
    parts = {}

    def look(draft):
        parts.update({key: draft.get(key) for key in ("prior", "quick", "seed")})
        parts["by_name"], parts["no"] = draft.mapping("by_name"), draft.mapping("quick")
        parts["reward"], parts["section"] = draft.section("reward"), draft.section("by_name")
        return draft.placed("quick", ["a", "b"]) + draft.placed("seed", ["c"])

    where = {"more_problems": look, "earlier": {working / "made": ()}}
    lines = problems_of(path, "seed=5", **where)
    assert lines[-3:] == [f"{path}:3: a", f"{path}:3: b", "override 'seed=5': c"]
    section = parts.pop("section")
    assert (section.data, section.where(("a",))) == ({"a": "x"}, f"{path}:4")
    assert parts == {
        "prior": folder / "p.bin",
        "quick": None,
        "seed": 5,
        "by_name": {"a": "x"},
        "no": None,
        "reward": folder / "p.bin",
    }
    for place in ("made/q.bin", "made/new.bin", "later/new.bin", "nowhere.bin"):
        problems_of(path, f"prior={working / place}", promised=[working / "later"], **where)
        assert parts["prior"] is None


# ---- overrides


class Anything(BaseModel, extra="allow"):
    """A config of any keys."""


def with_overrides(data, *texts):
    return load_config(Anything, data, texts).model_dump()


@pytest.mark.parametrize(
    ("text", "keys", "value"),
    [
        ("seed=1", ("seed",), 1),
        ("target.beta=1e-4", ("target", "beta"), 1e-4),
        ("estimator=rloo", ("estimator",), "rloo"),
        ("thresholds=[0.8, 0.85]", ("thresholds",), [0.8, 0.85]),
        ("filter={kind: murcko}", ("filter",), {"kind": "murcko"}),
        ("reward.components.0.weight=2", ("reward", "components", 0, "weight"), 2),
        ("a=null", ("a",), None),
        ("a=''", ("a",), ""),
        ("smiles=C=C", ("smiles",), "C=C"),  # only the first equals sign divides
        ("smiles=C#N", ("smiles",), "C#N"),
        ("a." + "9" * 5000 + "=1", ("a", "9" * 5000), 1),  # a name, not a position
    ],
)
def test_keys_and_values_of_an_override(text, keys, value):
    override = Override.parse(text)
    assert (override.keys, override.value) == (keys, value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("seed", "override 'seed': expected key=value"),
        ("seed=", "no value after '='"),
        ("smarts=#6", "no value after '='.*in quotes"),
        ("=1", "'' is not a key"),
        ("a..b=1", r"'a\.\.b' is not a key"),
        ("a=[1", "override 'a=\\[1'.*not valid YAML"),
        ("memory={rows: 3", "override 'memory={rows: 3'.*not valid YAML: .*expected ',' or '}'"),
        ('memory={"rows": 3', "not valid JSON: .*expected ',' or '}'"),
        ("a=!!binary aGVsbG8=", "override 'a=.*unknown tag '!!binary'; leave it out"),
        ("a=&a [*a]", "stands inside the value that it repeats"),
        ("a=" + "9" * 400, "a whole number may have at most 18 digits"),
        ("a=1e400", "numbers go up to 1.7e308"),
        ("a=" + "[" * 60 + "]" * 60, "nested too deeply"),
        ("a=" + "x" * 1_000_000, "larger than 100,000 characters"),
        ("a=\udc80", "character 0xdc80 is not allowed"),
        ("a" + ".a" * 5000 + "=1", "is not a key; expected names joined by dots, at most 50"),
    ],
)
def test_invalid_overrides_are_refused(text, problem):
    with pytest.raises(InputError, match=problem) as caught:
        Override.parse(text)
    assert len(str(caught.value)) < 500


def test_overrides_change_copies_make_sections_and_the_last_one_counts():
    shared = {"weight": 1}
    data = {"parts": [shared, shared]}  # as of an alias in YAML
    assert with_overrides(data, "parts.0.weight=2") == {"parts": [{"weight": 2}, {"weight": 1}]}
    assert data == {"parts": [{"weight": 1}, {"weight": 1}]}
    made = with_overrides({"a": None}, "a.b.c=1", "a.b.c=2", "d=3")
    assert made == {"a": {"b": {"c": 2}}, "d": 3}
    for key in ("10", 10):  # a number is a key unless there is a list
        assert with_overrides({"by_size": {key: 1}}, "by_size.10=2") == {"by_size": {key: 2}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("parts.2=x", r"parts is a list of 2; 2 is not one of its positions 0 to 1"),
        ("parts.first=x", r"parts is a list of 2; 'first' is not one of its positions"),
        ("seed.more=1", r"seed is 5, which has no keys inside it\.$"),
        (
            "estimator.top_k=0.3",
            r"is 'ahc', which has no keys inside it; with keys write estimator='\{kind: ahc, top_k",
        ),
        ("prior.x=1", r"prior is 'a\.prior', which has no keys inside it\.$"),
    ],
)
def test_an_override_below_a_plain_value_or_beyond_a_list_is_refused(text, problem):
    data = {"parts": [1, 2], "seed": 5, "estimator": "ahc", "prior": "a.prior"}
    before = dict(data)
    with pytest.raises(InputError, match=problem):
        with_overrides(data, text)
    assert data == before
