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


def test_another_configs_instance_is_refused():
    assert problems_of(Gibbs(kind="gibbs")) == ["these are the settings of another stage."]


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


def test_limits_and_literals_show_value_and_what_is_allowed(file):
    path = file("target: {kind: mara, tau: 1, beta: 0, anchor: bach}\n")
    assert problems_of(path) == [
        f"{path}:1: target.beta: should be greater than 0 (got 0)",
        f"{path}:1: target.anchor: 'bach' is not allowed; did you mean 'batch'? "
        "Known: batch, running",
    ]


def test_every_line_of_a_validators_message_has_its_place(file):
    path = file("seed: 1\ntarget:\n  kind: mara\n  tau: 2\n")
    assert problems_of(path) == [
        f"{path}:2: target: tau is above 1,",
        f"{path}:2: target: so nothing can be a hit",
    ]


def test_a_mapping_without_a_file_is_called_by_its_model():
    assert problems_of({"target": {"kind": "gibbs", "beta": "x"}}) == [
        "settings: target.beta: should be a number (got 'x')"
    ]


def test_an_unknown_key_of_an_override_is_reported_like_one_of_a_file():
    assert problems_of({"target": {"kind": "gibbs"}}, "target.bta=1", "seed=x") == [
        "override 'target.bta=1': target.bta: not a known key; did you mean 'beta'? "
        "Known: beta, kind",
        "override 'seed=x': seed: should be a whole number (got 'x')",
    ]


def test_a_section_that_an_override_made_is_the_overrides(file):
    path = file("seed: 1\n")
    known = "by_name, inner, pair, prior, quick, rate, reward, seed, target, targets, text"
    assert problems_of(path, "targt.tau=2", "target.kind=mara", "inner.bta=1") == [
        f"override 'targt.tau=2': targt: not a known key; did you mean 'target'? Known: {known}",
        "override 'target.kind=mara': target.tau: required, and not given "
        "(Reward from which on a molecule is a hit)",
        "override 'inner.bta=1': inner.kind: required, and not given",
        "override 'inner.bta=1': inner.bta: not a known key; did you mean 'beta'? "
        "Known: beta, kind",
    ]
    path = file("targt: {}\ntargets: [{kind: mara}]\n")
    assert problems_of(path, "targets.0.beta=1") == [
        f"{path}:1: targt: not a known key; did you mean 'target'? Known: {known}",
        f"{path}:2: targets.0.tau: required, and not given "
        "(Reward from which on a molecule is a hit)",
    ]


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


def test_of_overrides_of_one_section_the_one_that_set_the_value_is_named():
    lines = problems_of({}, "learning.steps=0", "learning.way=c", "learning.foo=1", model=Nested)
    assert [line.partition(": should")[0].partition(" not ")[0] for line in lines] == [
        "override 'learning.steps=0': learning.steps",
        "override 'learning.way=c': learning.way: 'c' is",
        "override 'learning.foo=1': learning.foo:",
    ]
    (line,) = problems_of({}, "learning={steps: 0}", "learning.batch=3", model=Nested)
    assert line.startswith("override 'learning={steps: 0}': learning.steps: ")
    (line,) = problems_of({}, "learning.steps=0", "learning={steps: -1}", model=Nested)
    assert line.startswith("override 'learning={steps: -1}': learning.steps: ")


def test_a_problem_of_a_section_names_the_overrides_that_it_speaks_of(file):
    path = file("seed: 1\nlearning:\n  steps: 4\n")
    assert problems_of(path, "seed=2", "learning.batch=5", "learning.way=b", model=Nested) == [
        f"{path}:2 with override 'learning.batch=5': learning: batch 5 is above steps 4"
    ]
    path = file("high: 2\n")
    assert problems_of(path, "low=3", "seed=2", model=Nested) == [
        f"{path}:1 with override 'low=3': low is above high"
    ]
    path = file("low: 3\n")
    assert problems_of(path, "seed=2", model=Nested) == [f"{path}:1: low is above high"]


def test_an_override_of_the_kind_is_named_beside_what_it_left_over_or_asks_for(file):
    path = file("target:\n  kind: mara\n  tau: 0.5\n  beta: -1\n")
    assert problems_of(path, "target.kind=gibbs", "seed=1") == [
        f"{path}:3 with override 'target.kind=gibbs': target.tau: not a known key. "
        "Known: beta, kind",
        f"{path}:4: target.beta: should be greater than 0 (got -1)",
    ]
    assert problems_of(file("target: {kind: gibbs}\n"), "target.kind=mara") == [
        "override 'target.kind=mara': target.tau: required, and not given "
        "(Reward from which on a molecule is a hit)"
    ]


class Bounded(Config):
    numbers: tuple[Annotated[int, Field(gt=0)], ...] = Field((1,), min_length=1)
    pairs: tuple[int, ...] = Field((1, 2), min_length=2)
    few: list[int] = Field([1], min_length=1, max_length=2)
    by_name: dict[str, int] = Field({"a": 1}, min_length=2, validate_default=False)
    word: str = Field("abc", min_length=2, max_length=3)
    code: str = Field("a", pattern="^a")
    """Begins with a. More."""


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"few": []}, "few: should have at least 1 entry (got [])"),
        ({"few": [1, 2, 3]}, "few: should have at most 2 entries (got [1, 2, 3])"),
        ({"by_name": {}}, "by_name: should have at least 2 entries (got {})"),
        ({"word": "a"}, "word: should have at least 2 characters (got 'a')"),
        ({"word": "abcd"}, "word: should have at most 3 characters (got 'abcd')"),
        ({"code": "b"}, "code: has not the form that is wanted here (Begins with a) (got 'b')"),
    ],
)
def test_lengths_and_forms_are_told_in_plain_words(data, text):
    assert problems_of(data, model=Bounded) == [f"settings: {text}"]


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


def test_a_long_key_is_cut():
    (problem,) = problems_of({"k" * 500: 1})
    assert len(problem) < 250


def test_wrong_items_are_not_counted_as_missing_ones():
    assert problems_of({"numbers": [0]}, model=Bounded) == [
        "settings: numbers.0: should be greater than 0 (got 0)"
    ]
    assert problems_of({"numbers": []}, model=Bounded) == [
        "settings: numbers: should have at least 1 entry (got [])"
    ]
    assert problems_of({"pairs": ["x"]}, model=Bounded) == [
        "settings: pairs.0: should be a whole number (got 'x')",
        "settings: pairs: should have at least 2 entries (got ['x'])",  # there is one indeed
    ]


def test_a_choice_of_types_reports_only_the_nearest():
    assert problems_of({"rate": "x"}) == [
        "settings: rate: should be a number, or 'x' is not allowed. Known: auto"
    ]
    assert problems_of({"reward": {"a": "x"}}) == [
        "settings: reward.a: should be a number (got 'x')"
    ]
    (line,) = problems_of({"reward": "nowhere.yaml"})
    assert line.startswith("settings: reward: no such file or folder: ")
    assert problems_of({"reward": 3}) == [
        "settings: reward: should be a path, or should be a mapping, one 'key: value' a line "
        "(got 3)"
    ]


def test_an_unquoted_smiles_in_brackets_is_told_to_be_quoted():
    assert problems_of({"text": ["Na+"]}) == [
        "settings: text: should be text (text that begins with one of [ { * & ! @ % ` must be "
        "quoted: "
        "'[#6]') (got ['Na+'])"
    ]


def test_long_values_are_cut():
    (line,) = problems_of({"seed": "x" * 500})
    assert line.endswith("xxx...)")
    assert len(line) < 130


def test_keys_that_are_not_text():
    assert problems_of({"by_name": {1: 2}}) == ["settings: by_name.1: should be text (got 1)"]
    assert problems_of({3: 2}) == ["settings: 3: Keys should be strings (got 3)"]


def test_a_config_that_holds_itself_is_refused(file):
    (line,) = problems_of(file("target: &t {kind: mara, tau: 1, beta: *t}\n"))
    assert "an alias (*name) stands inside of what it repeats" in line


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
        f"settings: prior: no such file or folder: {folder / 'polcy.bin'}; the job that fills "
        f"{folder} "
        "will not write 'polcy.bin'; did you mean 'policy.bin'? "
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


@pytest.mark.parametrize("path", ["x" * 5000, "~nobody-has-this-name/p", "a\x00b"])
def test_paths_that_the_system_refuses_are_problems_like_others(path):
    (line,) = problems_of({"prior": path})
    assert line.startswith("settings: prior: ")


def test_overrides_may_be_given_ready_made():
    change = Override(("seed",), "x", "pipeline.yaml:7")
    assert problems_of({}, change) == ["pipeline.yaml:7: seed: should be a whole number (got 'x')"]
    assert load_config(Run, {}, [Override(("seed",), 9, "here")]).seed == 9


def test_relative_files_are_named_as_the_user_wrote_them(places):
    Path("run.yaml").write_text("sede: 1\n")
    assert problems_of("run.yaml")[0].startswith("run.yaml:1: sede: not a known key")


@pytest.mark.parametrize("place", ["/dev/zero", "/dev/null"])
def test_a_device_is_no_input_file(place, file):
    (line,) = problems_of(file(f"prior: {place}\n"))
    assert line.endswith(f"prior: a device, not a file or a folder: {place}")


def test_a_wrong_override_is_named_without_those_beside_it(file):
    path = file("seed: 1\n")
    assert problems_of(path, "inner.kind=gibbs", "by_name.a=1", "by_name.b=x", "by_name.c=2") == [
        "override 'by_name.b=x': by_name.b: should be a whole number (got 'x')"
    ]
    whole = "inner={kind: gibbs, beta: 0}"
    assert problems_of(path, whole, "inner.kind=gibbs") == [
        f"override '{whole}': inner.beta: should be greater than 0 (got 0)"
    ]
    outer = Run.with_fields("Outer", {"run": (Run | None, None)})
    (line,) = problems_of(path, "run={}", "run.target.anchor=batch", model=outer)
    assert line.startswith("override 'run={}' and override 'run.target.anchor=batch': run.target: ")


def test_a_number_that_is_too_large_is_told_in_plain_words():
    (line,) = problems_of({}, "seed=1e300")
    assert line.endswith("seed: should be a whole number of at most 18 digits (got 1e+300)")
