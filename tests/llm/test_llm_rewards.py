"""Rewards and rows of texts: answers read, failures counted with reasons, calls by what is new."""

import math
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import TypeAdapter
from rdkit import Chem
from rdkit.Chem.Crippen import MolLogP
from rdkit.Chem.QED import qed

from chemkl.config import InputError, load_config
from chemkl.config.llm import LlmPosttrainConfig, SmilesReward, TextRewardConfig
from chemkl.llm.ledger import TextLedger
from chemkl.llm.prompts import Completion, Prompt, build_reader, check_answers
from chemkl.llm.rewards import MoleculeScorer, build_reward
from chemkl.policies.base import Rollout
from chemkl.results import TraceWriter, read_trace, trace_schema
from chemkl.rewards.components.functions import load_function
from chemkl.rewards.registry import COMPONENTS
from chemkl.training.filters import NoFilter

END = 1
QED = {"components": [{"kind": "qed"}]}


def reward_of(**settings):
    return build_reward(TypeAdapter(TextRewardConfig).validate_python(settings))


def rollout(texts, groups=None, truncated=()):
    """Rows as long as their texts have words; the content of the ids plays no part here."""
    lengths = [len(text.split()) for text in texts]
    token_BT = torch.full((len(texts), 2 + max(lengths)), END)
    groups = groups or [0] * len(texts)
    for i, (length, group) in enumerate(zip(lengths, groups, strict=True)):
        token_BT[i, 0] = group
        token_BT[i, 1 : 1 + (token_BT.shape[1] if i in truncated else length)] = 9
    cut = torch.tensor([i in truncated for i in range(len(texts))])
    return Rollout(list(texts), token_BT, torch.zeros(len(texts)), cut, torch.tensor(groups), END)


def plain(column):
    return [None if pd.isna(value) else value for value in column]


def ledger_of(reward, budget=math.inf):
    prompts = [Prompt(0, "pick", "pick", (5,)), Prompt(1, "choose", "choose", (6,))]
    return TextLedger(reward, prompts, NoFilter(), budget)


def write(rows, folder, components):
    """Write rows into a trace, with what post-training adds."""
    extra = {"logp_policy": 0.0, "logp_ref": 0.0, "log_target": 0.0, "hit": False}
    writer = TraceWriter(folder, components, "run", "hash", text=True)
    writer.append(rows.assign(**extra, anchor=False, is_replay=False))
    writer.cut()


@pytest.fixture
def function(tmp_path):
    """Write a user's reward function and return its reference."""

    def write(body, signature="prompt, completion"):
        lines = "\n    ".join(body.splitlines())
        path = tmp_path / "mine.py"
        path.write_text(f"import math\ncalls = []\ndef score({signature}):\n    {lines}\n")
        return f"{path}:score"

    return write


def test_answers_are_read_by_each_kind_of_parse():
    for parse, answers in {
        "strict": {"1": "1", "1\n": "1\n", "": None},
        "lenient": {' "1".\n': "1", "one and 2": "one and 2", " . ": None},
        r"answer: (\d+)": {"My answer: 12!": "12", "12": None},
    }.items():
        read = build_reader(parse)
        assert {text: read(text) for text in answers} == answers


def test_valid_answers_are_paid_and_others_have_a_reason():
    ledger = ledger_of(reward_of(kind="answers", valid=[1, "2"], reward=3, failed=-1))
    rows = ledger.enter(4, rollout(["1", "2", "3", "1", "", "1 1"], truncated={5}))
    assert rows["reward"].tolist() == rows["reward_filtered"].tolist() == [3, 3, -1, 3, -1, -1]
    assert rows["valid"].tolist() == [True, True, False, True, False, False]
    assert plain(rows["answer"]) == ["1", "2", None, "1", None, None]
    assert plain(rows["reason"]) == [
        None, None, "'3' is not a valid answer", None, "no answer in the completion",
        "truncated: no end after 3 tokens",
    ]  # fmt: skip
    assert rows["completion"].tolist() == ["1", "2", "3", "1", "", "1 1"]
    assert rows["step"].tolist() == [4] * 6
    assert rows["n_tokens"].tolist() == [2, 2, 2, 2, 1, 3]


def test_a_call_is_the_first_scoring_of_an_answer_to_its_prompt():
    ledger = ledger_of(reward_of(kind="answers", valid=["1", "2"]))
    rows = ledger.enter(0, rollout(["1", "1", "x", "1", "2"], groups=[0, 0, 0, 1, 1]))
    assert rows["call"].tolist() == [1, pd.NA, pd.NA, 2, 3]
    assert rows["repeat"].tolist() == [False, True, False, False, False]
    assert rows["prompt"].tolist() == ["pick"] * 3 + ["choose"] * 2
    assert rows["group"].tolist() == [0, 0, 0, 1, 1]
    again = ledger.enter(1, rollout(["2", "2"], groups=[0, 1]))
    assert again["call"].tolist() == [4, pd.NA]
    assert (ledger.n_calls, ledger.n_samples) == (4, 7)
    # a budget is spent exactly
    ledger = ledger_of(reward_of(kind="answers", valid=["1", "2", "3"]), budget=2)
    cut = ledger.affordable(rollout(["x", "1", "1", "2", "1", "3", "1"]))
    assert cut.smiles == ["x", "1", "1", "2", "1"]
    assert cut.group.tolist() == [0] * 5
    ledger.enter(0, cut)
    assert ledger.is_exhausted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parse": "stict"}, "'stict' is neither strict nor lenient, .* has 0 groups"),
        ({"parse": r"(\d)(\d)"}, "this one has 2 groups"),
        ({"parse": "("}, "neither strict nor lenient, nor a regular expression"),
        ({"valid": [True, False]}, r'true without quotes .* value, .*quote it .*"true" or "True"'),
        ({"valid": [1.0]}, r"1\.0 is a number that can be written in several ways: quote it"),
        ({"valid": ["1", ""]}, "an empty completion counts as no answer: leave the empty"),
        ({"valid": [None]}, "valid string"),
        ({"valid": [1, "1"]}, "1: given more than once"),
    ],
)
def test_answers_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        reward_of(**{"kind": "answers", "valid": ["1"]} | settings)


@pytest.mark.parametrize(
    ("settings", "texts"),
    [
        ({"valid": ["true", "007"]}, ["true", "True", "007", "7"]),  # quoted, as they stand
        ({"valid": ["12", "3"], "parse": r"answer: (\d+)"},
         ["answer: 12", "12", "an answer: 3", "3"]),
    ],
)  # fmt: skip
def test_answers_are_texts_and_may_want_others_around_them(settings, texts):
    rows = ledger_of(reward_of(kind="answers", **settings)).enter(0, rollout(texts))
    assert rows["valid"].tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("valid", "message"),
    [
        (["1", "2."], r"^valid answer '2\.' is read as '2' with .*lenient.*take parse: strict"),
        (["?", "..."], r"^valid answer '\.\.\.' is read as no answer with parse: lenient"),
    ],
)
def test_an_answer_that_is_read_as_another_is_refused(valid, message):
    with pytest.raises(InputError, match=message):
        reward_of(kind="answers", valid=valid, parse="lenient")
    assert reward_of(kind="answers", valid=valid).bounds == (0, 1)  # strict reads all of them


# a token a word: of 3 tokens the last must be the end token; "May" is no word of this model, and
# Whitespace cuts "(1" in two, which decode joins by a blank, and drops blanks around a text
@pytest.mark.parametrize(
    ("answer", "settings", "problem"),
    [
        ("pick", {}, None),
        ("1 2", {}, None),
        ("1", {"parse": "lenient"}, None),
        ("1", {"parse": r"answer: (\d+)"}, None),
        ("1 2 3", {}, "it has 3 tokens, and with the end token 4: raise max_new_tokens = 3"),
        ("1 2 3", {"max_new_tokens": 4}, None),
        ("1", {"max_new_tokens": 1}, "it has 1 tokens"),
        *(("May", {"parse": parse}, "'<unk>'") for parse in ("strict", "lenient", r"(.*)")),
        *(
            ("(1", {"parse": parse}, "turns it into '( 1'")
            for parse in ("strict", "lenient", r"(.*)")
        ),
        (" 1", {}, "turns it into '1'"),
        (" ", {}, "turns it into ''"),
        ("1 a", {"end_id": 13, "max_new_tokens": 9}, "it has 'a' in it, which ends a completion"),
    ],
)
def test_an_answer_is_one_that_the_model_can_write(tiny, answer, settings, problem):
    assert tiny.vocabulary["a"] == 13
    arguments = {"max_new_tokens": 3, "end_id": END, "parse": "strict"} | settings
    lines = check_answers(
        ["1" if arguments["max_new_tokens"] > 1 else answer, answer], tiny.tokenizer(), **arguments
    )
    if problem is None:
        assert lines == []
    else:
        assert lines[-1].startswith(f"answer {answer!r} can never be given: ")
        assert problem in lines[-1]


def test_a_function_is_asked_once_about_each_completion_of_a_prompt(function, tmp_path):
    place = function("calls.append((prompt, completion))\nreturn len(completion) * factor",
                     "prompt, completion, factor: float = 1.0")  # fmt: skip
    reward = reward_of(kind="function", function=place, parameters={"factor": 0.5})
    ledger = ledger_of(reward)
    rows = ledger.enter(0, rollout(["ab", "abc", "ab", "ab"], groups=[0, 0, 0, 1]))
    assert rows["reward"].tolist() == [1.0, 1.5, 1.0, 1.0]
    assert rows["raw_score"].tolist() == rows["score_score"].tolist() == [1.0, 1.5, 1.0, 1.0]
    assert rows["answer"].tolist() == ["ab", "abc", "ab", "ab"]
    assert reward._function.function.__globals__["calls"] == [
        ("pick", "ab"), ("pick", "abc"), ("choose", "ab"),
    ]  # fmt: skip
    assert reward.component_names == ["score"]
    assert reward.files == {"reward": tmp_path / "mine.py"}
    place = function("return factor * len(texts[1])", "*texts, factor: float")
    reward = reward_of(kind="function", function=place, parameters={"factor": "2"})
    assert ledger_of(reward).enter(0, rollout(["abc"]))["reward"].tolist() == [6.0]


def test_none_nan_text_and_exceptions_are_failures_with_a_reason(function):
    place = function(
        "return {'none': None, 'nan': math.nan, 'inf': math.inf, 'text': 'x', 'half': '0.5',"
        " 'huge': 10**400}[completion]"
    )
    reward = reward_of(kind="function", function=place, failed=-2)
    texts = ["none", "nan", "inf", "text", "half", "huge", "key", "cut"]
    rows = ledger_of(reward).enter(0, rollout(texts, truncated={7}))
    assert rows["reward"].tolist() == [-2] * 8
    assert rows["raw_score"].isna().all()
    assert rows["reason"].tolist() == [
        "score failed: it returned None, not a number",
        "score failed: it returned nan",
        "score failed: it returned inf",
        "score failed: it returned 'x', not a number",
        "score failed: it returned '0.5', not a number",
        f"score failed: it returned 1{'0' * 76}..., not a number",
        "score failed: KeyError: 'key' (mine.py:4)",
        "truncated: no end after 2 tokens",
    ]
    assert rows["valid"].tolist() == [True] * 7 + [False]
    counts = reward.failures["score"]
    assert (counts.attempts, counts.failed) == (7, 7)
    assert counts.reasons["it returned nan"] == 1


def test_a_function_that_always_fails_ends_the_run(function):
    ledger = ledger_of(reward_of(kind="function", function=function("return None")))
    ledger.enter(0, rollout([str(i) for i in range(19)]))
    message = r"^reward function score failed on 20 of 20 completions.*\(20 times\): it returned N"
    with pytest.raises(InputError, match=message):
        ledger.enter(1, rollout(["another"]))


def test_less_than_a_failure_is_paid_ends_the_run(function):
    place = function("return -5.0 if 'bad' in completion else 0.0")
    ledger = ledger_of(reward_of(kind="function", function=place))
    ledger.enter(0, rollout(["fine", "no end"], truncated={1}))  # 0 is what a failure is paid, too
    text, message = "bad " * 30, r"score gave -5 to 'bad .*…[^']*', less than failed = 0"
    with pytest.raises(InputError, match=message) as error:
        ledger.enter(1, rollout(["fine", text]))
    assert "Set reward.failed to the lowest value of the function or below" in str(error.value)
    assert text not in str(error.value)
    assert ledger.n_samples == 2  # nothing of the second batch
    lower = ledger_of(reward_of(kind="function", function=place, failed=-5))
    assert lower.enter(0, rollout(["bad", "x"], truncated={1}))["reward"].tolist() == [-5, -5]


def test_texts_that_are_cut_off_may_be_scored(function):
    place = function("return len(completion)")
    reward = reward_of(kind="function", function=place, score_truncated=True)
    rows = ledger_of(reward).enter(0, rollout(["ab", "abcd"], truncated={1}))
    assert rows["reward"].tolist() == [2, 4]
    assert rows["valid"].all()
    assert rows["reason"].isna().all()  # they count as complete everywhere
    assert ledger_of(reward).describe(rows, np.ones(2, bool))["truncated_rate"] == 0


def test_a_resumed_ledger_asks_nothing_again_and_goes_on_counting(function, tmp_path):
    place = function("calls.append(completion)\nreturn None if completion == 'bad' else 1.0")
    first = ledger_of(reward_of(kind="function", function=place))
    write(first.enter(0, rollout(["a", "bad", "a", ""])), tmp_path / "run", ["score"])
    reward = reward_of(kind="function", function=place)
    calls = reward._function.function.__globals__["calls"]
    calls.clear()
    second = ledger_of(reward)
    second.restore(read_trace(tmp_path / "run"))
    assert (second.n_calls, second.n_samples) == (first.n_calls, first.n_samples) == (2, 4)
    later = second.enter(1, rollout(["bad", "a", "new"]))
    assert calls == ["new"]
    assert later["call"].tolist() == [pd.NA, pd.NA, 3]
    assert plain(later["reason"]) == ["score failed: it returned None, not a number", None, None]
    assert (reward.failures["score"].attempts, reward.failures["score"].failed) == (3, 1)


TUNED = "prompt, completion, factor: float = 1.0"


@pytest.mark.parametrize(
    ("signature", "settings", "message"),
    [
        (TUNED, {"function": "nowhere.py:score"}, "^reward.function: no such file .*nowhere"),
        (TUNED, {"function": "score"}, "^reward.function: 'score' names no function; write"),
        (TUNED, {"parameters": {"faktor": 2}}, r"^reward\.parameters\.faktor: .* mean 'factor'\?"),
        (TUNED, {"parameters": {"factor": "x", "prompt": "y"}},
         r"^reward\.parameters\.factor: should be a number \(got 'x'\)\n"
         r"reward\.parameters\.prompt: not a known key"),
        ("prompt, completion", {"parameters": {"factor": 2}},
         r"^reward\.parameters: .*nothing but the prompt and the completion \(got factor"),
        ("prompt", {}, r"^reward\.function: .* should take a prompt and a completion"),
    ],
)  # fmt: skip
def test_a_function_that_cannot_be_used_is_refused(function, signature, settings, message):
    place = function("return 1.0", signature)
    with pytest.raises(InputError, match=message):
        reward_of(**{"kind": "function", "function": place, **settings})


def test_the_molecule_in_a_text_is_scored_and_counted_by_its_canonical_smiles():
    reward = reward_of(kind="smiles", reward=QED, parse=r"SMILES: (\S+)")
    texts = ["SMILES: CCO", "I say SMILES: OCC !", "SMILES: C1CC", "none", "SMILES: CCN"]
    rows = ledger_of(reward).enter(0, rollout(texts, truncated={4}))
    expected = qed(Chem.MolFromSmiles("CCO"))
    assert rows["reward"].tolist() == pytest.approx([expected, expected, 0, 0, 0])
    assert rows["smiles"].tolist() == ["CCO", "OCC", "C1CC", "", ""]
    assert plain(rows["answer"]) == ["CCO", "OCC", None, None, None]
    assert rows["call"].tolist() == [1, pd.NA, pd.NA, pd.NA, pd.NA]
    assert rows["repeat"].tolist() == [False, True, False, False, False]
    assert rows["reason"][2].startswith("not parsable")
    assert rows["reason"].tolist()[3:] == [
        "no SMILES in the completion", "truncated: no end after 6 tokens",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["answers", "smiles"])
def test_rows_fit_the_schema_of_a_text_run_and_every_column_is_described(kind, tmp_path):
    settings = {"answers": {"valid": ["C"]}, "smiles": {"reward": QED}}[kind]
    reward = reward_of(kind=kind, **settings)
    ledger = ledger_of(reward)
    rows = ledger.enter(0, rollout(["C", "x\ud800", "C"]))  # a lone surrogate fits in no file
    write(rows, tmp_path, reward.component_names)
    actual = read_trace(tmp_path)
    assert actual["completion"].tolist() == ["C", "x\\ud800", "C"]
    assert actual["answer"].isna().tolist() == [False, True, False]
    described = ledger.describe(actual, np.array([True, False, True]))
    assert described["valid_rate"] == pytest.approx(2 / 3)
    assert described["truncated_rate"] == 0
    cut = actual.assign(reason=["truncated: no end after 8 tokens", None, "not an answer"])
    assert ledger.describe(cut, np.zeros(3, bool))["truncated_rate"] == pytest.approx(1 / 3)
    assert described["unique_rate"] == 0.5
    assert described["hits/n_tokens"] == 2
    schema = trace_schema(reward.component_names, text=True)
    assert all(field.metadata[b"description"] for field in schema)
    plain = trace_schema(reward.component_names)
    assert set(schema.names) - set(plain.names) == {"group", "prompt", "completion", "answer"}
    assert [f.nullable for f in plain] == [schema.field(f.name).nullable for f in plain]


def parts(**transform):
    return {
        "components": [{"kind": "qed"}, {"kind": "logp", "transform": transform}],
        "aggregate": "product",
    }


LOW, HIGH = parts(kind="step", high=2), parts(kind="step", low=3)
CONFIG = SmilesReward(kind="smiles", by_prompt=[LOW, HIGH])
CSP3 = {"kind": "csp3_fraction", "name": "like"}


@pytest.fixture
def by_prompt():
    with closing(build_reward(CONFIG)) as reward:
        yield reward


def completion(group, text, cut=None):
    return Completion(group, f"<{group}>", text, cut)


def by_hand(smiles):
    """QED and logP of a molecule, by RDKit."""
    mol = Chem.MolFromSmiles(smiles)
    return qed(mol), MolLogP(mol)


def test_the_prompt_decides_what_a_molecule_is_paid(by_prompt):
    texts = ["CCO", "CCCCCCCCCC", "C1", "CCO", "CCCCCCCCCC"]
    rows = by_prompt.score(list(map(completion, [1, 0, 0, 0, 1], texts)))
    # QED where logP is below 2 (prompt 0) or above 3 (prompt 1): ethanol is below, decane above
    expected = [0, 0, 0, by_hand("CCO")[0], by_hand("CCCCCCCCCC")[0]]
    assert by_hand("CCO")[1] < 2 < 3 < by_hand("CCCCCCCCCC")[1]
    assert rows["reward"].tolist() == pytest.approx(expected)
    assert rows["smiles"].tolist() == texts  # in the order in which they were written
    assert rows.index.tolist() == [0, 1, 2, 3, 4]
    assert rows["valid"].tolist() == [True, True, False, True, True]
    assert rows["raw_logp"][0] == pytest.approx(by_hand("CCO")[1])

    # a batch may leave prompts out, and have nothing valid
    rows = by_prompt.score([completion(1, "C1"), completion(1, "CC", "truncated: no end")])
    assert (rows["reward"].tolist(), rows["reason"][1]) == ([0, 0], "truncated: no end")
    rows = by_prompt.score([completion(1, "C1"), completion(0, "CCO")])
    assert rows["valid"].tolist() == [False, True]
    # a molecule has one identity, whatever the prompt
    both = [completion(0, "OCC"), completion(1, "CCO"), completion(0, "C1")]
    assert list(by_prompt.identify(both)) == ["CCO", "CCO", None]
    assert list(by_prompt.identities(by_prompt.score(both))) == ["CCO", "CCO", None]


def test_what_a_trace_remembers_is_not_computed_anew(by_prompt, monkeypatch):
    both = [completion(0, "CCO"), completion(1, "CCCCCCCCCC")]
    rows = by_prompt.score(both).assign(group=[0, 1])
    other = MoleculeScorer(CONFIG)
    other.remember(rows)
    for model in other._rewards:
        monkeypatch.setattr(model._engine, "evaluate", lambda _: 1 / 0)
    pd.testing.assert_frame_equal(other.score(both), rows.drop(columns="group"))


def like(smiles, **more):
    part = {"kind": "tanimoto", "name": "like", "parameters": {"references": [smiles]}, **more}
    return {"components": [{"kind": "qed"}, part]}


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ({}, "give either reward or by_prompt: neither is given"),
        ({"reward": LOW, "by_prompt": [LOW]}, "give either reward or by_prompt: both are"),
        ({"by_prompt": [LOW, QED]}, r"by_prompt\.0 has qed, logp, by_prompt\.1 qed"),
        (
            {"by_prompt": [like("CCO"), like("CCN")]},
            r"component like is of kind tanimoto with \{'references': \['CCO'\]\} in by_prompt\.0, "
            r"but of kind tanimoto with \{'references': \['CCN'\]\} in by_prompt\.1",
        ),
        (
            {"by_prompt": [like("CCO"), {"components": [{"kind": "qed"}, CSP3]}]},
            r"but of kind csp3_fraction with no parameters in by_prompt\.1.*A name stands "
            r"for one oracle in a run.*use two names.*role: penalty",
        ),
    ],
)
def test_rewards_that_are_no_rewards_of_prompts_are_refused(rewards, message):
    with pytest.raises(ValueError, match=message):
        SmilesReward(kind="smiles", **rewards)


def test_transforms_roles_and_weights_may_differ(monkeypatch):
    penalty = like("CCO", role="penalty", transform={"kind": "step", "low": -1})
    reward = MoleculeScorer(SmilesReward(kind="smiles", by_prompt=[like("CCO", weight=3), penalty]))
    rows = reward.score([completion(0, "CCO"), completion(1, "CCO")])
    assert rows["raw_like"].tolist() == [1, 1]
    drug_like = by_hand("CCO")[0]
    # the geometric mean of QED and 1, weighed 1 to 3; and QED alone, as the penalty is always 1
    assert rows["reward"].tolist() == pytest.approx([drug_like**0.25, drug_like])
    # failures are counted over all prompts
    logp = COMPONENTS["logp"]
    failing = type(logp)("logp", lambda: lambda _mol: 1 / 0, "", logp.range, "made up")
    monkeypatch.setitem(COMPONENTS, "logp", failing)
    reward = MoleculeScorer(CONFIG)
    reward.score([completion(0, "CCO"), completion(1, "CCO"), completion(1, "CC")])
    count = reward.failures["logp"]
    assert (count.attempts, count.failed) == (3, 3)
    assert sum(count.reasons.values()) == 3
    assert reward.failures["qed"].failed == 0


@pytest.mark.parametrize("same", [True, False])
def test_a_file_is_the_same_oracle_by_its_content(tmp_path, same):
    parts = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        value = 0.5 if same or number == 0 else 0.25
        (folder / "own.py").write_text(f"def score(smiles: str):\n    return {value}\n")
        part = {"kind": "python_function", "name": "mine"}
        part["parameters"] = {"function": "own.py:score"}
        part["transform"] = {"kind": "linear_clip", "low": 0, "high": 1}
        parts.append({"components": [part], "folder": folder})
    config = SmilesReward(kind="smiles", by_prompt=parts)
    if same:
        scored = MoleculeScorer(config).score([completion(0, "CCO"), completion(1, "CCO")])
        assert scored["raw_mine"].tolist() == [0.5, 0.5]
        return
    message = r"by_prompt\.1: reward\.mine\.0 is .*other content.*one or"
    with pytest.raises(InputError, match=message):
        MoleculeScorer(config)


def test_there_is_one_reward_for_each_prompt(tmp_path):
    wrong = {"components": [{"kind": "qed"}, {"kind": "logp"}]}
    with pytest.raises(InputError, match=r"by_prompt\.1: .*logp lies between .* a transform"):
        MoleculeScorer(SmilesReward(kind="smiles", by_prompt=[LOW, wrong]))
    config = {
        "model": str(tmp_path), "prompts": ["a", "b", "c"], "template": "none", "batch_size": 6,
        "target": {"kind": "gibbs", "beta": 0.1}, "diversity_filter": "murcko",
        "reward": {"kind": "smiles", "by_prompt": [LOW, HIGH]},
    }  # fmt: skip
    with pytest.raises(InputError, match=r"2 rewards for 3 prompts"):
        load_config(LlmPosttrainConfig, config)
    assert load_config(LlmPosttrainConfig, config | {"prompts": ["a", "b"]}).n_prompts == 2


CREATIVE = Path(__file__).parents[2] / "configs" / "posttrain_llm" / "rewards" / "creative.py"
one_sentence = load_function(f"{CREATIVE}:one_sentence", None).function


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        # the parts: subject, one plain sentence, length within 6 to 16, different words
        ("The curled sun kissed the green sea.", 1),
        ("Gulls, gulls cry over the sea.", (1 + 1 + 1 + 3 / 4) / 4),  # gulls twice of 4, no "the"
        ("The curled sun kissed the green seas.", 3 / 4),
        ("the curled sun kissed the green sea.", 3 / 4),
        ("The curled sun kissed the green sea", 3 / 4),
        ("The curled sun kissed the green sea!", 3 / 4),
        ("The sun rose. Then it kissed the sea.", 3 / 4),
        ("The curled sun kissed the green sea 7.", 3 / 4),
        ("The old sea.", (1 + 1 + 3 / 6 + 1) / 4),
        ("The sea " + "lies bright under a pale moon " * 4 + "now.", None),
        ("", 0),
        ("... 12", 0),
    ],
)
def test_a_sentence_is_paid_for_each_constraint_that_it_meets(text, reward):
    if reward is None:  # 27 words for 16; 5 words but a, 4 times each, and sea, now: 7 of 22
        reward = (1 + 1 + 16 / 27 + 7 / 22) / 4
    assert one_sentence("Write.", text) == pytest.approx(reward)
    assert one_sentence("", "A tree.", word="tree", fewest=1, most=2) == 1
    assert one_sentence("", "A tree.", word="tree", fewest=4, most=8) == (1 + 1 + 0.5 + 1) / 4
