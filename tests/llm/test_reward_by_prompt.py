"""Rewards of a prompt's own: the same molecule is paid by the prompt that it answers."""

import pandas as pd
import pytest
from rdkit.Chem import MolFromSmiles
from rdkit.Chem.Crippen import MolLogP
from rdkit.Chem.QED import qed

from chemkl.config import InputError, load_config
from chemkl.config.llm import LlmPosttrainConfig, SmilesReward
from chemkl.llm.answers import Completion
from chemkl.llm.rewards import PaidByPrompt, build_reward
from chemkl.rewards.registry import COMPONENTS


def parts(**transform):
    return {
        "components": [{"kind": "qed"}, {"kind": "logp", "transform": transform}],
        "aggregate": "product",
    }


LOW, HIGH = parts(kind="step", high=2), parts(kind="step", low=3)
CONFIG = SmilesReward(kind="smiles", by_prompt=[LOW, HIGH])


@pytest.fixture
def reward():
    with_close = build_reward(CONFIG)
    yield with_close
    with_close.close()


def written(group, text, cut=None):
    return Completion(group, f"<{group}>", text, cut)


def by_hand(smiles):
    """QED and logP of a molecule, by RDKit."""
    mol = MolFromSmiles(smiles)
    return qed(mol), MolLogP(mol)


def test_the_prompt_decides_what_a_molecule_is_paid(reward):
    assert isinstance(reward, PaidByPrompt)
    texts = ["CCO", "CCCCCCCCCC", "C1", "CCO", "CCCCCCCCCC"]
    groups = [1, 0, 0, 0, 1]
    rows = reward.score([written(*each) for each in zip(groups, texts, strict=True)])
    expected = []
    for group, text in zip(groups, texts, strict=True):
        if text == "C1":
            expected.append(0.0)
            continue
        drug_like, logp = by_hand(text)
        expected.append(drug_like * (logp < 2 if group == 0 else logp > 3))
    assert rows["reward"].tolist() == pytest.approx(expected)
    assert rows["reward"].tolist()[1] == 0 < rows["reward"].tolist()[4]
    assert rows["smiles"].tolist() == texts  # in the order in which they were written
    assert rows.index.tolist() == [0, 1, 2, 3, 4]
    assert rows["valid"].tolist() == [True, True, False, True, True]
    assert rows["raw_logp"][0] == pytest.approx(by_hand("CCO")[1])


def test_a_batch_may_leave_prompts_out_and_have_nothing_valid(reward):
    rows = reward.score([written(1, "C1"), written(1, "CC", "truncated: no end")])
    assert rows["reward"].tolist() == [0, 0]
    assert rows["reason"][1] == "truncated: no end"
    assert reward.score([written(1, "C1"), written(0, "CCO")])["valid"].tolist() == [False, True]


def test_a_molecule_is_one_thing_whatever_the_prompt(reward):
    both = [written(0, "OCC"), written(1, "CCO"), written(0, "C1")]
    assert list(reward.identify(both)) == ["CCO", "CCO", None]
    assert list(reward.identities(reward.score(both))) == ["CCO", "CCO", None]


def test_what_a_trace_remembers_is_not_computed_anew(reward, monkeypatch):
    both = [written(0, "CCO"), written(1, "CCCCCCCCCC")]
    rows = reward.score(both).assign(group=[0, 1])
    other = PaidByPrompt(CONFIG)
    other.remember(rows)
    for part in other._parts:
        monkeypatch.setattr(part._reward._engine, "evaluate", lambda _: 1 / 0)
    pd.testing.assert_frame_equal(other.score(both), rows.drop(columns="group"))


def test_failures_are_counted_over_all_prompts(monkeypatch):
    def failing():
        def score(mol):
            raise ValueError("never")

        return score

    logp = COMPONENTS["logp"]
    made = type(logp)("logp", failing, "", logp.range, "made up")
    monkeypatch.setitem(COMPONENTS, "logp", made)
    reward = PaidByPrompt(CONFIG)
    reward.score([written(0, "CCO"), written(1, "CCO"), written(1, "CC")])
    count = reward.failures["logp"]
    assert (count.asked, count.failed) == (3, 3)
    assert sum(count.reasons.values()) == 3
    assert reward.failures["qed"].failed == 0


def test_other_component_names_are_refused():
    with pytest.raises(ValueError, match=r"by_prompt\.0 has qed, logp, by_prompt\.1 qed"):
        SmilesReward(kind="smiles", by_prompt=[LOW, {"components": [{"kind": "qed"}]}])


def like(smiles, **more):
    part = {"kind": "tanimoto", "name": "like", "parameters": {"references": [smiles]}, **more}
    return {"components": [{"kind": "qed"}, part]}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            like("CCN"),
            r"component like is of kind tanimoto with \{'references': \['CCO'\]\} in by_prompt\.0, "
            r"but of kind tanimoto with \{'references': \['CCN'\]\} in by_prompt\.1",
        ),
        (
            {"components": [{"kind": "qed"}, {"kind": "csp3_fraction", "name": "like"}]},
            r"but of kind csp3_fraction with no parameters in by_prompt\.1.*"
            r"A name stands for one oracle in a run.*take two names.*role: penalty",
        ),
    ],
)
def test_a_name_stands_for_one_oracle(other, message):
    with pytest.raises(ValueError, match=message):
        SmilesReward(kind="smiles", by_prompt=[like("CCO"), other])


def test_transforms_roles_and_weights_may_differ():
    penalty = like("CCO", role="penalty", transform={"kind": "step", "low": -1})
    reward = PaidByPrompt(SmilesReward(kind="smiles", by_prompt=[like("CCO", weight=3), penalty]))
    rows = reward.score([written(0, "CCO"), written(1, "CCO")])
    assert rows["raw_like"].tolist() == [1, 1]
    drug_like = by_hand("CCO")[0]
    # the geometric mean of QED and 1, weighed 1 to 3; and QED alone, as the penalty is always 1
    assert rows["reward"].tolist() == pytest.approx([drug_like**0.25, drug_like])


@pytest.mark.parametrize("same", [True, False])
def test_a_file_is_the_same_oracle_by_its_content(tmp_path, same):
    parts = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        value = 0.5 if same or number == 0 else 0.25
        (folder / "own.py").write_text(f"def score(smiles: str):\n    return {value}\n")
        part = {
            "kind": "python_function",
            "name": "mine",
            "parameters": {"function": "own.py:score"},
            "transform": {"kind": "linear_clip", "low": 0, "high": 1},
        }
        parts.append({"components": [part], "folder": folder})
    config = SmilesReward(kind="smiles", by_prompt=parts)
    if same:
        scored = PaidByPrompt(config).score([written(0, "CCO"), written(1, "CCO")])
        assert scored["raw_mine"].tolist() == [0.5, 0.5]
        return
    with pytest.raises(
        InputError, match=r"by_prompt\.1: reward\.mine\.0 is .*other content.*one or"
    ):
        PaidByPrompt(config)


def test_it_is_one_reward_or_one_for_each_prompt():
    for both in ({}, {"reward": LOW, "by_prompt": [LOW]}):
        with pytest.raises(ValueError, match=r"give reward .* or by_prompt, one of the two"):
            SmilesReward(kind="smiles", **both)


def test_problems_of_components_are_told_by_prompt():
    wrong = {"components": [{"kind": "qed"}, {"kind": "logp"}]}
    with pytest.raises(InputError, match=r"by_prompt\.1: .*logp lies between .* a transform"):
        PaidByPrompt(SmilesReward(kind="smiles", by_prompt=[LOW, wrong]))


def test_there_is_one_for_each_prompt(tmp_path):
    config = {
        "model": str(tmp_path), "prompts": ["a", "b", "c"], "template": "none", "batch_size": 6,
        "target": {"kind": "gibbs", "beta": 0.1}, "diversity_filter": "murcko",
        "reward": {"kind": "smiles", "by_prompt": [LOW, HIGH]},
    }  # fmt: skip
    with pytest.raises(InputError, match=r"2 rewards for 3 prompts"):
        load_config(LlmPosttrainConfig, config)
    assert load_config(LlmPosttrainConfig, config | {"prompts": ["a", "b"]}).n_prompts == 2
