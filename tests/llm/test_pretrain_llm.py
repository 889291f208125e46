"""A language model made anew: conditions against RDKit, tokenizer, rows, log-probabilities."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from rdkit.Chem import MolFromSmiles
from rdkit.Chem.Crippen import MolLogP
from rdkit.Chem.rdMolDescriptors import CalcTPSA
from transformers import AutoTokenizer

from chemkl.config import InputError
from chemkl.config.pretrain import ConditionConfig, LlamaConfig, PretrainLlmConfig
from chemkl.llm.policy import HfPolicy
from chemkl.llm.pretrain import NO_PROMPT, Conditions, TaggedDataset, build_tagged, build_tokenizer
from chemkl.policies.base import pad
from chemkl.policies.tokenizer import Vocabulary
from chemkl.rewards.registry import COMPONENTS, Component, Failure

LOGP = {"kind": "logp", "cuts": [2, 3], "names": ["low", "mid", "high"]}
TPSA = {"kind": "tpsa", "name": "polar", "cuts": [60], "names": ["no", "yes"]}
VOCABULARY = Vocabulary.of(["C", "Cl", "O", "c", "1", "(", ")", "=", "[nH]"])
SIZES = LlamaConfig(hidden_size=16, n_layers=2, n_heads=2, max_length=24)


def conditions_of(*conditions):
    return Conditions([ConditionConfig(**condition) for condition in conditions])


def tiny_policy(*conditions):
    torch.manual_seed(0)
    policy = build_tagged(SIZES, VOCABULARY, conditions_of(*(conditions or (LOGP,))))
    with torch.no_grad():
        policy.model.lm_head.weight *= 20  # so that tokens differ in probability
    return policy


def test_a_prompt_is_one_tag_of_each_condition():
    assert conditions_of(LOGP).prompts == ["<logp_low>", "<logp_mid>", "<logp_high>"]
    assert conditions_of(LOGP, TPSA).prompts == [
        "<logp_low> <polar_no>", "<logp_low> <polar_yes>", "<logp_mid> <polar_no>",
        "<logp_mid> <polar_yes>", "<logp_high> <polar_no>", "<logp_high> <polar_yes>",
    ]  # fmt: skip
    # a value at a cut belongs to the level above
    exact = CalcTPSA(MolFromSmiles("CO"))
    for cut, level in ((exact, 1), (exact + 1e-9, 0)):
        assert conditions_of(TPSA | {"cuts": [cut]}).prompts_of(["CO"]).tolist() == [level]


def test_molecules_get_the_prompt_that_rdkit_says(real_smiles, monkeypatch):
    actual = conditions_of(LOGP, TPSA)
    numbers = actual.prompts_of(real_smiles[:120])
    for smiles, number in zip(real_smiles[:120], numbers, strict=True):
        mol = MolFromSmiles(smiles)
        logp, tpsa = MolLogP(mol), CalcTPSA(mol)
        level = "low" if logp < 2 else "mid" if logp < 3 else "high"
        assert actual.prompts[number] == f"<logp_{level}> <polar_{'no' if tpsa < 60 else 'yes'}>"
    assert len(set(numbers)) == 6
    # in chunks
    actual = conditions_of(LOGP)
    whole = actual.prompts_of(real_smiles[:25])
    monkeypatch.setattr("chemkl.llm.pretrain.CHUNK", 7)
    assert actual.prompts_of(real_smiles[:25]).tolist() == whole.tolist()


def test_what_is_no_molecule_or_has_no_value_has_no_prompt(monkeypatch):
    def picky():
        def score(mol):
            if mol.GetNumAtoms() == 1:
                raise ValueError("too small")
            return math.inf if mol.GetNumAtoms() == 2 else 1.0

        return score

    def many():
        return lambda mols: [Failure("no") if m.GetNumAtoms() == 3 else 0.0 for m in mols]

    for kind, factory, batched in (("picky", picky, False), ("many", many, True)):
        component = Component(kind, factory, "", (0, 1), "made up", batched)
        monkeypatch.setitem(COMPONENTS, kind, component)
    one = {"kind": "picky", "cuts": [0.5], "names": ["a", "b"]}
    actual = conditions_of(one, one | {"kind": "many"})
    numbers = actual.prompts_of(["C1", "", "C", "CC", "CCC", "CCCC"])
    # picky: b of CCC and CCCC; many: a of all but CCC
    assert numbers.tolist() == [*[NO_PROMPT] * 5, 2]
    assert actual.prompts[2] == "<picky_b> <many_a>"


def test_levels_without_a_molecule_are_named():
    actual = conditions_of(LOGP | {"cuts": [1, 50]}, TPSA)
    # 2 * level of logp + level of tpsa: logp low and mid, tpsa no
    assert actual.empty_levels(np.array([0, 2, NO_PROMPT])) == [
        "conditions.0: no molecule is <logp_high> (50 <= logp)",
        "conditions.1: no molecule is <polar_yes> (60 <= tpsa)",
    ]
    assert actual.empty_levels(np.array([0, 3]))[0].endswith("<logp_high> (50 <= logp)")
    # components that do not exist are all named
    wrong = (LOGP | {"kind": "logg"}, TPSA | {"parameters": {"x": 1}})
    with pytest.raises(InputError) as caught:
        conditions_of(*wrong)
    first, second = str(caught.value).splitlines()
    assert first.startswith("conditions.0.kind: unknown component 'logg'; did you mean 'logp'?")
    assert second.startswith("conditions.1.parameters: tpsa takes no parameters")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cuts": [3, 2]}, r"should rise, but are \[3.0, 2.0\]"),
        ({"cuts": [2, 2]}, "should rise"),
        ({"names": ["low", "high"]}, "2 cuts make 3 levels, but names has 2"),
        ({"names": ["low", "low", "high"]}, "given more than once"),
        ({"cuts": []}, "cuts"),
        ({"names": ["l>w", "mid", "high"]}, "names.0"),
        ({"name": "my logp"}, "name"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        ConditionConfig(**LOGP | change)


def test_two_tags_of_one_text_are_refused(tmp_path):
    one = {"kind": "logp", "name": "a", "cuts": [2], "names": ["b_c", "d"]}
    other = {"kind": "tpsa", "name": "a_b", "cuts": [2], "names": ["c", "d"]}
    with pytest.raises(ValidationError, match=r"two levels have the tag <a_b_c>"):
        PretrainLlmConfig(corpus=tmp_path, conditions=[one, other])


def test_the_tokenizer_cuts_smiles_as_the_vocabulary_does(tmp_path):
    tokenizer = build_tokenizer(VOCABULARY, ["<logp_low>", "<logp_high>"])
    smiles = "Clc1cc(=O)c[nH]1"
    ids = tokenizer(f"<logp_high> {smiles}")["input_ids"]
    assert ids == [len(VOCABULARY) + 1, *VOCABULARY.encode(smiles)[1:-1]]
    assert tokenizer(f"<logp_high>{smiles}")["input_ids"] == ids
    assert tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False) == smiles
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0)
    assert len(tokenizer) == len(VOCABULARY) + 2
    # what is neither tag nor token is unknown
    tokenizer = build_tokenizer(VOCABULARY, ["<logp_low>"])
    assert tokenizer("^")["input_ids"] == [tokenizer.unk_token_id] == [1]
    assert set(tokenizer("<logp_lwo>")["input_ids"]) >= {1}
    # a saved tokenizer is the same
    tokenizer = build_tokenizer(VOCABULARY, ["<logp_low>", "<logp_high>"])
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "<logp_low> Clc1cc(=O)c[nH]1"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.decode(again(text)["input_ids"]) == "<logp_low>Clc1cc(=O)c[nH]1"
    assert again.eos_token == "<end>"


MOLECULES = ["Clc1cc(=O)c[nH]1", "CC", "C", "CO", "ClC(Cl)Cl"]
NUMBERS = np.array([2, 0, 1, 0, 2])


def test_a_row_is_the_prompts_number_and_the_molecule():
    rows = TaggedDataset(MOLECULES, VOCABULARY, NUMBERS)
    assert rows[1, 0] == [0, *VOCABULARY.encode("CC")[1:]]
    assert rows[0, 0] == [2, *VOCABULARY.encode(MOLECULES[0])[1:]]
    assert rows.lengths.tolist() == [len(rows[i, 0]) for i in range(5)]
    # another spelling keeps its prompt
    rows = TaggedDataset(["CC(=O)CCl"], VOCABULARY, np.array([2]), randomise_seed=0)
    spelled = [rows[0, n] for n in range(8)]
    assert {row[0] for row in spelled} == {2}
    texts = {VOCABULARY.decode(row[1:]) for row in spelled}
    assert len(texts) > 1
    atoms = {MolFromSmiles(text).GetNumAtoms() for text in texts}
    assert atoms == {5}


@pytest.mark.parametrize("conditions", [(LOGP,), (LOGP, TPSA)])
def test_log_probabilities_are_those_of_plain_passes_over_the_text(conditions):
    policy = tiny_policy(*conditions)
    rows = TaggedDataset(MOLECULES, VOCABULARY, NUMBERS)
    actual = policy.logp_tokens(pad([rows[i, 0] for i in range(5)]))
    for logp, smiles, number in zip(actual, MOLECULES, NUMBERS, strict=True):
        # the whole of it as text, through the tokenizer, one molecule at a time
        ids = policy.tokenizer(f"{policy.prompts[number].text} {smiles}<end>")["input_ids"]
        logits_BV = policy.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        n = len(policy.prompts[number].token_ids)
        by_hand = sum(logits_BV[t - 1, ids[t]] for t in range(n, len(ids)))
        torch.testing.assert_close(logp, by_hand, rtol=0, atol=1e-5)


def test_they_and_their_gradients_are_those_of_the_policy_that_is_post_trained():
    policy = tiny_policy()
    other = HfPolicy(
        policy.model, policy.tokenizer, policy.prompts, end_id=0, max_new_tokens=20, micro_batch=2
    )
    rows = TaggedDataset(MOLECULES, VOCABULARY, NUMBERS)
    token_BT = pad([rows[i, 0] for i in range(5)])
    weight_B = torch.linspace(-1, 1, 5)
    gradients = []
    for model in (policy, other):
        policy.zero_grad()
        logp_B = model.logp_tokens(token_BT)
        (logp_B * weight_B).sum().backward()
        gradients.append((logp_B.detach(), [w.grad.clone() for w in policy.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)
    # samples are of each prompt in turn
    policy = tiny_policy()
    drawn = policy.sample(12, torch.Generator().manual_seed(0))
    assert drawn.group.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    torch.testing.assert_close(policy.logp_tokens(drawn.tokens), drawn.logp, rtol=0, atol=1e-4)


def test_sizes_that_do_not_fit_are_refused():
    for sizes in ({"hidden_size": 12, "n_heads": 4}, {"hidden_size": 6}):
        with pytest.raises(ValidationError, match=r"hidden_size = \d+ should be a multiple of 8"):
            LlamaConfig(**sizes)
    conditions = conditions_of(LOGP, TPSA, TPSA | {"name": "b"})
    with pytest.raises(InputError, match=r"max_length = 4: 3 tags, a token and the end token"):
        build_tagged(LlamaConfig(max_length=4), VOCABULARY, conditions)
