"""The language model as a policy, against plain passes of the same network."""

import math
from collections import Counter
from itertools import product

import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model

from chemkl.llm.policy import HfPolicy, Reference
from chemkl.losses import build_objective
from chemkl.policies.base import Rollout, stream
from chemkl.training.posttrain import InputBuilder

END = 1
PROMPTS = ("pick 1 2", "0 1 2 3 4", "a b")
ROWS = torch.tensor([
    [0, 5, 6, END, END], [1, 5, 6, 7, 8], [0, 5, 6, END, END], [0, END, END, END, END],
    [1, 7, END, END, END], [0, 9, 9, 9, 9], [1, 5, 6, 7, END], [2, 5, END, END, END],
])  # fmt: skip
WEIGHT = torch.linspace(-1, 1, len(ROWS))


def generator(seed):
    return torch.Generator().manual_seed(seed)


def plain_logp(policy, token_BT=ROWS):
    """Each row alone: prompt and completion in one pass, without a cache."""
    logps = []
    for number, *ids in token_BT.tolist():
        prompt = [*policy.prompts[number].token_ids]
        completion = ids[: ids.index(END) + 1] if END in ids else ids
        logits_T = policy.model(torch.tensor([[*prompt, *completion]]), use_cache=False).logits[0]
        logp_T = logits_T.float().log_softmax(-1)[len(prompt) - 1 : -1]
        logps.append(logp_T.gather(1, torch.tensor(completion)[:, None]).double().sum())
    return torch.stack(logps).float()


def gradients_of(policy, logp_B):
    policy.zero_grad()
    (logp_B * WEIGHT).sum().backward()
    weights = policy.named_parameters()
    return {name: weight.grad.clone() for name, weight in weights if weight.requires_grad}


def assert_same_gradients(policy, logp_B, other, other_logp_B, atol=1e-6):
    actual, expected = gradients_of(policy, logp_B), gradients_of(other, other_logp_B)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-6, atol=atol)


def assert_plain(policy, logp_atol=1e-6, atol=1e-6):
    """Values and gradients are those of plain passes."""
    logp_B, expected = policy.logp_tokens(ROWS), plain_logp(policy)
    assert logp_B.dtype == torch.float32
    torch.testing.assert_close(logp_B, expected, rtol=0, atol=logp_atol)
    assert_same_gradients(policy, logp_B, policy, expected, atol)


@pytest.fixture
def with_adapter(make_policy, tiny):
    """A policy with adapters that are no longer zero."""
    torch.manual_seed(3)
    settings = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(tiny.llama(), settings)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return make_policy(*PROMPTS, model=model)


def test_log_probabilities_and_gradients_are_those_of_plain_passes(make_policy, with_adapter):
    assert_plain(make_policy(*PROMPTS, dtype=torch.float64))
    assert_plain(with_adapter, logp_atol=1e-5, atol=1e-4)  # float32
    assert all("lora" in name for name in gradients_of(with_adapter, plain_logp(with_adapter)))


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 100])
def test_neither_value_nor_gradient_depends_on_the_micro_batch(make_policy, micro_batch):
    whole = make_policy(*PROMPTS, dtype=torch.float64, micro_batch=16)
    parts = make_policy(*PROMPTS, dtype=torch.float64, micro_batch=micro_batch)
    actual, expected = parts.logp_tokens(ROWS), whole.logp_tokens(ROWS)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    assert_same_gradients(parts, actual, whole, expected)


def test_a_model_with_a_sliding_window_is_read_with_its_prompt_and_gives_the_same(make_policy):
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=3,
    ))  # fmt: skip
    policy = make_policy(*PROMPTS, model=model, dtype=torch.float64)
    assert not policy.rewinds
    assert_plain(policy)
    drawn = policy.sample(6, generator(0))
    torch.testing.assert_close(drawn.logp, plain_logp(policy, drawn.tokens), rtol=0, atol=1e-5)


def test_under_autocast_the_sum_is_float32_and_gradients_flow_after_a_pass_without_any(make_policy):
    policy = make_policy(*PROMPTS)
    exact = policy.logp_tokens(ROWS)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            policy.sample(6, generator(0))
        torch.clear_autocast_cache()
        rough = policy.logp_tokens(ROWS)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.5)  # 8 bits, 4 tokens
    assert all(bool(grad.abs().sum() > 0) for grad in gradients_of(policy, rough).values())


@pytest.fixture
def calls(monkeypatch):
    """The calls of the network: shapes read, prompts read, rows that are scored."""
    recorded = {"read": [], "read_prompt": [], "logp_after": []}

    def record(name, summary):
        original = getattr(HfPolicy, name)

        def recording(self, *arguments, **options):
            recorded[name].append(summary(*arguments))
            return original(self, *arguments, **options)

        monkeypatch.setattr(HfPolicy, name, recording)

    record("read", lambda token_UT, *_: tuple(token_UT.shape))
    record("read_prompt", lambda ids, _device: tuple(ids))
    record("logp_after", lambda _ids, row_UT, *_: [tuple(row) for row in row_UT.tolist()])
    return recorded


def test_each_prompt_is_read_once_and_each_different_completion_once(make_policy, calls):
    policy = make_policy(*PROMPTS)
    again = torch.tensor([0, 3, 2, 6, 6, 1, 7, 4, 5])  # several rows twice, out of order
    logp_B = policy.logp_tokens(torch.cat([ROWS, ROWS[again]]))
    assert calls["read_prompt"] == [prompt.token_ids for prompt in policy.prompts]
    # different rows of the prompts: 0 569.., 0 end, 0 9999; 1 5678, 1 7, 1 567; 2 5
    assert [len(rows) for rows in calls["logp_after"]] == [3, 3, 1]
    assert all(len({*rows}) == len(rows) for rows in calls["logp_after"])
    # the prompts, and after each its rows up to the token before the last
    assert calls["read"] == [(1, 3), (3, 3), (1, 5), (3, 3), (1, 2), (1, 1)]
    assert logp_B[8:].tolist() == logp_B[again].tolist()


def test_several_micro_batches_are_read_once_more_for_the_gradient_alone(make_policy, calls):
    policy = make_policy(*PROMPTS, micro_batch=2)
    logp_B = policy.logp_tokens(torch.cat([ROWS, ROWS]))
    assert len(calls["read_prompt"]) == 3
    assert [len(rows) for rows in calls["logp_after"]] == [2, 1, 2, 1, 1]
    # the shortest first, so that little of a micro-batch is padding
    assert calls["read"][:3] == [(1, 3), (2, 2), (1, 3)]
    logp_B.sum().backward()
    assert (len(calls["read_prompt"]), sum(map(len, calls["logp_after"]))) == (6, 14)
    row_BT = torch.tensor([[0, 5, END], [0, 6, END], [0, 5, END]])
    policy.logp_tokens(row_BT).sum().backward()  # a single micro-batch
    assert (len(calls["read_prompt"]), sum(map(len, calls["logp_after"]))) == (7, 16)


def test_frequencies_are_the_exact_distribution(make_policy, tiny):
    # all completions of at most two tokens over a vocabulary of 24, against 20,000 draws
    policy = make_policy("pick 1 2", model=tiny.llama(sharpness=30.0), max_new_tokens=2)
    drawn = policy.sample(20_000, generator(0))
    ids = range(len(tiny.vocabulary))
    rows = [[0, END, END]] + [[0, a, b] for a, b in product(ids, ids) if a != END]
    with torch.no_grad():
        p_B = plain_logp(policy, torch.tensor(rows)).exp()
    exact = dict(zip(map(tuple, rows), p_B.tolist(), strict=True))
    assert sum(exact.values()) == pytest.approx(1, abs=1e-5)
    counts = Counter(map(tuple, drawn.tokens.tolist()))
    assert counts.keys() <= exact.keys()
    for row, p in exact.items():  # five standard deviations
        assert abs(counts[row] / 20_000 - p) < 5 * math.sqrt(p * (1 - p) / 20_000) + 1e-4
    assert drawn.truncated.tolist() == [END not in row for row in drawn.tokens[:, 1:].tolist()]


def test_what_is_sampled_has_the_log_probability_that_it_is_scored_with(make_policy, tiny):
    policy = make_policy(*PROMPTS, max_new_tokens=6)
    drawn = policy.sample(30, generator(1))
    torch.testing.assert_close(drawn.logp, policy.logp_tokens(drawn.tokens), rtol=0, atol=1e-5)
    torch.testing.assert_close(drawn.logp, plain_logp(policy, drawn.tokens), rtol=0, atol=1e-5)
    # rows are in the order of the prompts, and padded with the end token
    assert drawn.group.tolist() == drawn.tokens[:, 0].tolist() == [0] * 10 + [1] * 10 + [2] * 10
    word = {i: name for name, i in tiny.vocabulary.items()}
    columns = (drawn.tokens[:, 1:].tolist(), drawn.n_tokens, drawn.smiles, drawn.truncated.tolist())
    for ids, n, text, truncated in zip(*columns, strict=True):
        assert set(ids[n:]) <= {END}
        assert text == " ".join(word[i] for i in (ids[:n] if truncated else ids[: n - 1]))
        assert truncated == (END not in ids)
    # a text is scored as the tokenizer splits it
    texts = ["1 2", "", "C O N"]
    rows = [[1, *(tiny.vocabulary[w] for w in text.split()), END] for text in texts]
    expected = torch.cat([plain_logp(policy, torch.tensor([row])) for row in rows])
    torch.testing.assert_close(policy.logp(texts, prompt=1), expected, rtol=0, atol=1e-5)
    assert policy.decode(policy.encode(["1 2", ""], 1)) == ["1 2", ""]


def test_rows_of_a_prompt_depend_on_its_number_and_not_on_how_many_there_are(make_policy):
    three = make_policy(*PROMPTS).sample(30, generator(5))
    more = make_policy(*PROMPTS).sample(60, generator(5))  # the first rows of a prompt stay
    assert more.smiles[20:30] == three.smiles[10:20]
    assert make_policy(PROMPTS[0]).sample(10, generator(5)).smiles == three.smiles[:10]
    # the prompts of a step are drawn at random
    policy = make_policy(*PROMPTS, prompts_per_step=2)
    groups = {tuple(policy.sample(4, generator(seed)).group.tolist()) for seed in range(20)}
    assert groups == {(0, 0, 1, 1), (0, 0, 2, 2), (1, 1, 2, 2)}


@pytest.mark.parametrize("size", [2, 3, 8])
def test_the_parts_of_a_batch_are_its_rows(make_policy, size):
    policy = make_policy()
    n = 12 * len(policy.prompts)
    whole = policy.sample(n, stream(1, 2))
    parts = [policy.sample(n, stream(1, 2), slice(at, at + size)) for at in range(0, n, size)]
    assert [text for part in parts for text in part.texts] == whole.texts
    assert torch.equal(torch.cat([part.group for part in parts]), whole.group)
    torch.testing.assert_close(torch.cat([p.logp for p in parts]), whole.logp, rtol=0, atol=1e-4)


def test_prompts_in_one_batch_give_the_rows_that_each_gives_alone(make_policy, calls):
    draws = [
        make_policy(*PROMPTS, dtype=torch.float64, max_new_tokens=6, sample_batch=n_rows).sample(
            30, generator(7)
        )
        for n_rows in (1, 20, 256)
    ]
    for drawn in draws[1:]:  # two of unequal length at a time; all three
        assert drawn.tokens.tolist() == draws[0].tokens.tolist()
        assert drawn.truncated.tolist() == draws[0].truncated.tolist()
        torch.testing.assert_close(drawn.logp, draws[0].logp, rtol=0, atol=1e-6)
    # the model is called once a token
    calls["read"].clear()
    make_policy(*PROMPTS, max_new_tokens=4).sample(30, generator(7))
    first, *later = calls["read"]
    assert first == (3, 5)  # three prompts, the longest of five tokens
    assert [width for _, width in later] == [1] * 3


def test_the_reference_is_the_model_without_its_adapters(with_adapter, make_policy):
    base, reference = make_policy(*PROMPTS), Reference(with_adapter)
    expected, changed = base.logp_tokens(ROWS).detach(), with_adapter.logp_tokens(ROWS)
    assert not torch.allclose(changed, expected, atol=1e-2)
    for _ in range(2):  # the second time from its cache
        logp_B = reference.logp_tokens(ROWS)
        assert not logp_B.requires_grad
        torch.testing.assert_close(logp_B, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(with_adapter.logp_tokens(ROWS), changed)  # they are on again
    drawn = [model.sample(30, generator(2)) for model in (reference, base)]
    assert drawn[0].smiles == drawn[1].smiles
    # without adapters it is a frozen copy
    copy = Reference(base)
    assert not any(weight.requires_grad for weight in copy.parameters())
    torch.testing.assert_close(copy.logp_tokens(ROWS), plain_logp(base), rtol=0, atol=1e-5)


def test_the_reference_remembers_each_row_until_it_is_the_oldest(with_adapter, monkeypatch):
    reference, n_rows, original = Reference(with_adapter), [], HfPolicy.logp_tokens

    def counting(self, token_BT):
        n_rows.append(len(token_BT))
        return original(self, token_BT)

    monkeypatch.setattr(HfPolicy, "logp_tokens", counting)
    first = reference.logp_tokens(ROWS)
    wide = torch.cat([ROWS, torch.full((len(ROWS), 2), END)], dim=1)[[0, 2, 3, 4, 6, 7]]
    assert reference.logp_tokens(wide).tolist() == first[[0, 2, 3, 4, 6, 7]].tolist()
    assert n_rows == [7]  # two rows are equal
    second = Reference(with_adapter)  # a restored memory gives the same values to the bit
    second.restore_memory(reference.memory())
    assert second.logp_tokens(ROWS).tolist() == first.tolist()
    assert second.memory().keys() == reference.memory().keys()
    assert n_rows == [7]
    small = Reference(with_adapter, cache_size=2)
    small.logp_tokens(ROWS[[0, 1]])
    small.logp_tokens(ROWS[[0, 4]])
    assert small.memory()["length"].tolist() == [4, 3]
    assert small.memory()["tokens"].tolist() == [0, 5, 6, END, 1, 7, END]
    assert Reference(with_adapter, cache_size=0).logp_tokens(ROWS).shape == (len(ROWS),)


def test_the_state_is_what_is_trained_and_loads_strictly(with_adapter, make_policy, tiny):
    state = with_adapter.state_dict()
    assert state
    assert all("lora" in name for name in state)
    container = torch.nn.ModuleDict({"policy": with_adapter})
    container.load_state_dict(container.state_dict())
    with pytest.raises(RuntimeError, match="lora_A"):
        with_adapter.load_state_dict(dict(list(state.items())[1:]))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        with_adapter.load_state_dict({**state, "other": torch.zeros(1)})
    names = {f"model.{name}" for name, _ in tiny.llama().named_parameters()}
    assert make_policy().state_dict().keys() == names
    # dropout stays off in training mode
    policy = make_policy(*PROMPTS, model=tiny.llama(attention_dropout=0.9))
    expected = policy.logp_tokens(ROWS)
    assert torch.equal(policy.train().logp_tokens(ROWS), expected)
    assert policy.training


def test_no_completions_are_a_rollout_without_rows(make_policy):
    policy = make_policy(*PROMPTS, max_new_tokens=6)
    drawn, full = policy.sample(0, generator(0)), policy.sample(3, generator(0))
    assert (len(drawn), drawn.texts, drawn.tokens.shape) == (0, [], (0, 2))
    assert drawn.logp.shape == drawn.truncated.shape == drawn.group.shape == drawn.n_tokens.shape
    dtypes = {"tokens": torch.int64, "logp": torch.float32, "truncated": torch.bool}
    for name, dtype in (dtypes | {"group": torch.int64}).items():
        assert getattr(drawn, name).dtype == getattr(full, name).dtype == dtype
    assert policy.logp_tokens(drawn.tokens).tolist() == []


DEALT = "completions cannot be dealt evenly to 3 prompts; give a multiple of 3$"


@pytest.mark.parametrize(
    ("method", "arguments", "error", "message"),
    [
        ("sample", [-3], ValueError, f"^-3 {DEALT}"),
        ("sample", [7], ValueError, f"^7 {DEALT}"),
        ("logp", [["1"], 3], ValueError, "^prompt = 3, but .* from 0 to 2"),
        ("logp", [["1"], -1], ValueError, "^prompt = -1, but prompts are"),
        # one string is not taken for its characters
        ("logp", ["12"], TypeError, r"^expected several texts: write \['12'\]$"),
    ],
)
def test_impossible_arguments_are_refused(make_policy, method, arguments, error, message):
    with pytest.raises(error, match=message):
        getattr(make_policy(*PROMPTS), method)(*arguments)


def test_one_text_in_other_tokens_or_to_another_prompt_is_another_sequence(make_policy):
    policy = make_policy("pick", "a b")
    token_BT = torch.tensor([[0, 5, 6, END], [0, 7, END, END], [0, 5, 6, END], [1, 5, 6, END]])
    zero_B = torch.zeros(4)
    rollout = Rollout(["12"] * 4, token_BT, zero_B, zero_B.bool(), token_BT[:, 0], END)
    objective = build_objective(target="gibbs", beta=0.1, estimator="rloo", duplicates="drop")
    rows = pd.DataFrame({"reward_filtered": [1.0, 0.0, 1.0, 0.5]})
    inputs = InputBuilder(policy, policy, objective, 0).build(rollout, rows, 0)
    assert inputs.duplicate.tolist() == [False, False, True, False]
