"""From what the user wrote to a config, or to one message with every problem."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from chemkl.config import Config, InputError, InputPath, load_config
from chemkl.config.base import by_kind
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
     ["PATH:2: target: tau is above 1,", "PATH:2: target: so nothing can be a hit"]),
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
"""A file's text or a mapping, overrides, and each line that is said of them."""


@pytest.mark.parametrize(("source", "overrides", "lines"), PROBLEMS)
def test_a_problem_is_told_at_its_place_in_plain_words(file, source, overrides, lines):
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

    @model_validator(mode="after")
    def _ordered(self):
        if self.low > self.high:
            raise InputError("low is above high")
        return self


LEARNING = "seed: 1\nlearning:\n  steps: 4\n"


@pytest.mark.parametrize(
    ("text", "overrides", "begin"),
    [
        # of overrides of one section the one that set the value is named
        ("{}", ["learning.steps=0", "learning.way=b"], "override 'learning.steps=0': learning.st"),
        ("{}", ["learning.steps=1", "learning.way=c"], "override 'learning.way=c': learning.way: "),
        ("{}", ["learning.steps=9", "learning.foo=1"], "override 'learning.foo=1': learning.foo: "),
        ("{}", ["learning={steps: 0}", "learning.batch=3"], "override 'learning={steps: 0}': lear"),
        ("{}", ["learning.steps=0", "learning={steps: -1}"], "override 'learning={steps: -1}': le"),
        # a problem of a section names the overrides that it speaks of
        (LEARNING, ["seed=2", "learning.batch=5", "learning.way=b"],
         "PATH:2 with override 'learning.batch=5': learning: batch 5 is above steps 4"),
        ("high: 2\n", ["low=3", "seed=2"], "PATH:1 with override 'low=3': low is above high"),
        ("low: 3\n", ["seed=2"], "PATH:1: low is above high"),
    ],
)  # fmt: skip
def test_the_overrides_that_a_problem_speaks_of_are_named(file, text, overrides, begin):
    path = file(text)
    (line,) = problems_of(path, *overrides, model=Nested)
    assert line.startswith(begin.replace("PATH", str(path)))


def test_overrides_that_made_a_section_together_are_named_together():
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
def test_lengths_and_forms_are_told_in_plain_words(data, lines):
    assert problems_of(data, model=Bounded) == [f"settings: {line}" for line in lines]


@pytest.mark.parametrize("value", [True, False])
def test_a_switch_is_no_number(value):
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
    """A folder for the config and another one to work in."""
    beside, working = tmp_path / "configs", tmp_path / "working"
    beside.mkdir()
    working.mkdir()
    monkeypatch.chdir(working)
    return beside, working


def test_a_path_is_looked_up_beside_the_file_then_in_the_working_directory(places):
    beside, working = places
    path = beside / "run.yaml"
    path.write_text("prior: p.txt\n")
    (working / "p.txt").touch()
    assert load_config(Run, path).prior == working / "p.txt"
    (beside / "p.txt").touch()
    assert load_config(Run, path).prior == beside / "p.txt"
    assert load_config(Run, "../configs/run.yaml", ["prior=../working/p.txt"]).prior == (
        working / "p.txt"
    )


def test_a_mapping_has_the_folder_it_is_given(places):
    beside, working = places
    (beside / "p.txt").touch()
    assert load_config(Run, {"prior": "p.txt"}, folder=beside).prior == beside / "p.txt"
    assert problems_of({"prior": "p.txt"}) == [
        f"settings: prior: no such file or folder: {working / 'p.txt'}"
    ]
    assert load_config(Run, {"prior": "p.txt"}, also=[beside]).prior == beside / "p.txt"


def test_a_missing_path_names_every_place_where_it_was_looked_for(places):
    beside, working = places
    path = beside / "run.yaml"
    path.write_text("prior: p.txt\n")
    assert problems_of(path) == [
        f"{path}:1: prior: no such file or folder: {beside / 'p.txt'} nor {working / 'p.txt'}"
    ]


def test_a_missing_path_that_climbs_is_looked_for_where_its_writer_meant_it(places):
    beside, working = places
    path = beside / "run.yaml"
    path.write_text("prior: ../../runs/p.txt\n")
    above = beside.parents[1]
    assert problems_of(path) == [
        f"{path}:1: prior: no such file or folder: {above / 'runs/p.txt'} (got '../../runs/p.txt')"
    ]
    deeper = working / "a"
    deeper.mkdir()
    path = deeper / "run.yaml"
    path.write_text("seed: 1\n")
    assert problems_of(path, "prior=../p.txt") == [
        f"override 'prior=../p.txt': prior: no such file or folder: {working / 'p.txt'} nor "
        f"{working.parent / 'p.txt'} (got '../p.txt')"
    ]


def test_what_an_earlier_job_will_write_counts_as_there(places):
    _, working = places
    promised = [working / "runs" / "plain"]
    source = {"prior": "runs/plain/checkpoints/policy.safetensors"}
    config = load_config(Run, source, promised=promised)
    assert config.prior == working / "runs/plain/checkpoints/policy.safetensors"
    (line,) = problems_of({"prior": "runs/plainer/policy"}, promised=promised)
    assert "no such file or folder" in line


def test_a_file_that_an_earlier_job_will_not_write_is_refused(places):
    _, working = places
    folder = working / "runs" / "plain"
    earlier = {folder: ("policy.bin", "trace/part-*.parquet"), working / "runs" / "other": ()}
    for name in (
        "plain",
        "plain/policy.bin",
        "plain/trace",
        "plain/trace/part-1.parquet",
        "other/anything",  # a job of which nobody knows what it writes
    ):
        path = working / "runs" / name
        assert load_config(Run, {"prior": f"runs/{name}"}, earlier=earlier).prior == path
    assert problems_of({"prior": "runs/plain/polcy.bin"}, earlier=earlier) == [
        f"settings: prior: no such file or folder: {folder / 'polcy.bin'}; the job that writes to "
        f"{folder} "
        "does not write 'polcy.bin'; did you mean 'policy.bin'? "
        "Known: policy.bin, trace/part-*.parquet"
    ]
    folder.mkdir(parents=True)
    (folder / "notes.txt").touch()  # somebody put it there
    assert load_config(Run, {"prior": "runs/plain/notes.txt"}, earlier=earlier).prior.exists()


# ---- what the schema cannot see


def test_other_problems_are_added_where_the_schema_finds_some_already():
    drafts = []

    def look(draft):
        drafts.append(draft)
        return ["a problem", "a problem", "seed: should be a whole number"]

    assert load_config(Run, {"seed": 1}, beside=look).seed == 1
    assert drafts == []  # a stage's own check is for settings that fit
    lines = problems_of({"seed": "x"}, beside=look)
    assert lines == ["settings: seed: should be a whole number (got 'x')", "a problem"]


def test_a_draft_tells_what_can_be_read(places):
    beside, working = places
    (beside / "p.bin").touch()
    (working / "made").mkdir()
    (working / "made" / "q.bin").touch()
    path = beside / "run.yaml"
    path.write_text("sede: 1\nprior: p.bin\nquick: perhaps\nby_name: {a: x}\nreward: p.bin\n")
    found = {}

    def look(draft):
        found["prior"] = draft.get("prior")
        found["quick"], found["seed"] = draft.get("quick"), draft.get("seed")
        found["by_name"], found["no"] = draft.mapping("by_name"), draft.mapping("quick")
        found["reward"], found["section"] = draft.section("reward"), draft.section("by_name")
        return draft.placed("quick", ["a", "b"]) + draft.placed("seed", ["c"])

    made = working / "made"
    lines = problems_of(path, "seed=5", beside=look, earlier={made: ()})
    assert lines[-3:] == [f"{path}:3: a", f"{path}:3: b", "override 'seed=5': c"]
    section = found.pop("section")
    assert (section.data, section.where(("a",))) == ({"a": "x"}, f"{path}:4")
    assert found == {
        "prior": beside / "p.bin",
        "quick": None,
        "seed": 5,
        "by_name": {"a": "x"},
        "no": None,
        "reward": beside / "p.bin",
    }
    for awaited in ("made/q.bin", "made/new.bin", "later/new.bin", "nowhere.bin"):
        problems_of(
            path,
            f"prior={working / awaited}",
            beside=look,
            earlier={made: ()},
            promised=[working / "later"],
        )
        assert found["prior"] is None


@pytest.mark.parametrize(
    ("path", "says"),
    [
        *(("x" * 5000, ""), ("~nobody-has-this-name/p", ""), ("a\x00b", "")),
        *(
            (place, f"a device, not a file or a folder: {place}")
            for place in ("/dev/zero", "/dev/null")
        ),
    ],
)
def test_paths_that_are_no_files_are_problems_like_others(path, says):
    (line,) = problems_of({"prior": path})
    assert line.startswith(f"settings: prior: {says}")


def test_relative_files_are_named_as_the_user_wrote_them(places):
    Path("run.yaml").write_text("sede: 1\n")
    assert problems_of("run.yaml")[0].startswith("run.yaml:1: sede: not a known key")
