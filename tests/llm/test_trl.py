"""The trainer on a tiny random Llama: rewards to the digit, guards, and that it flattens."""

import json
import math
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("trl")

from datasets import Dataset
from scipy.stats import entropy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, RLOOConfig, RLOOTrainer

from chemkl.config import InputError
from chemkl.llm.trl import METRICS, MaraRLOOTrainer, build_target

README = Path(__file__).parents[2] / "chemkl" / "llm" / "README.md"
BETA = 0.1
END = 0
PROMPT = "1 or 2: "
SHARES = {"1": 0.9, "2": 0.1}
"""Answers of the reference."""


def one_or_two(completions, **_columns):
    return [float(completion in SHARES) for completion in completions]


def byte_tokenizer():
    """A token a byte, and one for the end."""
    tokens = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    plain = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    plain.add_special_tokens(["<end>"])
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>", pad_token="<end>")


def answer_logp(model, answer):
    """log p(answer, end | prompt) in nats."""
    tokenizer = byte_tokenizer()
    prompt, reply = (tokenizer(text)["input_ids"] for text in (PROMPT, answer))
    tokens = torch.tensor([[*prompt, *reply, END]])
    logits = model(input_ids=tokens).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(dim=-1).gather(1, tokens[0, len(prompt) :, None]).sum()


@torch.no_grad()
def answer_shares(model):
    return {answer: float(answer_logp(model, answer).exp()) for answer in SHARES}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A random Llama of two layers that has been taught its answers."""
    folder = tmp_path_factory.mktemp("reference")
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    ids = {"bos_token_id": None, "eos_token_id": END, "pad_token_id": END}
    config = LlamaForCausalLM.config_class(
        vocab_size=len(tokenizer), num_attention_heads=4, max_position_embeddings=32, **sizes, **ids
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        logp = torch.stack([answer_logp(model, answer) for answer in SHARES])
        optimizer.zero_grad()
        (-(logp * torch.tensor(list(SHARES.values()))).sum()).backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_args(folder, **changes):
    sizes = {"num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 4}
    plain = {"bf16": False, "use_cpu": True, "gradient_checkpointing": False, "disable_tqdm": True}
    settings = sizes | plain | {"beta": BETA, "max_steps": 2, "logging_steps": 1} | changes
    return RLOOConfig(output_dir=str(folder), save_strategy="no", report_to="none", **settings)


def make_trainer(model, folder, rewards=one_or_two, tau=1.0, args=None, **options):
    data = Dataset.from_dict({"prompt": [PROMPT] * 8})
    args = args or make_args(folder)
    return MaraRLOOTrainer(model, rewards, args, train_dataset=data, tau=tau, **options)


def in_place_of_a_model(rows):
    """Methods of a trainer that give completions: (tokens, log pi_theta, log pi_ref) a row."""

    def generate(self, prompts):
        return [[5]] * len(rows), [list(row[0]) for row in rows], ["text"] * len(rows)

    def logps(self, model, input_ids, attention_mask, logits_to_keep, *_, **__):
        mask = attention_mask[:, -logits_to_keep:]
        which = 2 if model is self.ref_model else 1
        per_token = torch.zeros(mask.shape)
        per_token[:, 0] = torch.tensor([row[which] for row in rows])
        return torch.where(mask.bool(), per_token, 0.0), None, None

    return {"_generate": generate, "_get_per_token_logps_and_entropies": logps}


@pytest.fixture
def scripted(reference, tmp_path, monkeypatch):
    """Score given completions and given rewards."""

    def score(rows, *columns, weights=None, mask_truncated=False, **options):
        functions = [lambda _column=column, **_: list(_column) for column in columns]
        for i, function in enumerate(functions):
            function.__name__ = f"paid_{i}"
        changes = {"reward_weights": weights, "mask_truncated_completions": mask_truncated}
        args = make_args(tmp_path, **changes)
        trainer = make_trainer(reference, tmp_path, functions, args=args, **options)
        trainer.model.train()
        saved = {}

        def rewards(self, *given):
            saved["columns"] = calculate(self, *given)
            return saved["columns"]

        calculate = MaraRLOOTrainer._calculate_rewards
        for name, method in in_place_of_a_model(rows).items():
            monkeypatch.setattr(RLOOTrainer, name, method)
        monkeypatch.setattr(MaraRLOOTrainer, "_calculate_rewards", rewards)
        out = trainer._generate_and_score_completions([{"prompt": "q"}] * len(rows))
        metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
        return SimpleNamespace(**saved, advantages=out["advantages"], metrics=metrics)

    return score


# two prompts of four completions; the last token of a whole completion is END
ROWS = [
    ((7, END), -1.0, -2.0), ((8, END), -2.0, -5.0), ((9, END), -3.0, -1.0),
    ((7, 7, END), -1.5, -3.0), ((6, END), -1.0, -7.0), ((6, END), -1.0, -7.0),
    ((5, END), -2.0, -1.0), ((4, END), -2.0, -9.0),
]  # fmt: skip
REWARD = [1.0, 1.0, 0.0, 2.0, 1.0, 1.0, 0.5, 1.5]
# a hit gets R(z) - R + beta (lr(z) - lr); the anchors have R 1, and lr -2 in the first prompt and
# -7 in the second
BONUS = [0.0, 0.3, 0.0, -1.0 + 0.1, 0.0, 0.0, 0.0, -0.5 + 0.2]


def leave_one_out(scores):
    advantages = []
    for start in range(0, len(scores), 4):
        group = scores[start : start + 4]
        present = [score for score in group if score is not None]
        for score in group:
            baseline = (sum(present) - score) / (len(present) - 1) if score is not None else 0.0
            advantages.append(0.0 if score is None else score - baseline)
    return advantages


def test_rewards_and_advantages_by_hand(scripted):
    scored = scripted(ROWS, REWARD)
    torch.testing.assert_close(scored.columns, torch.tensor([REWARD, BONUS]).T)
    total = [
        reward + bonus - BETA * (logp - logp_ref)
        for reward, bonus, (_, logp, logp_ref) in zip(REWARD, BONUS, ROWS, strict=True)
    ]
    torch.testing.assert_close(scored.advantages, torch.tensor(leave_one_out(total)))
    # the metrics
    metrics = scored.metrics
    assert {name for name in metrics if name.startswith("mara/")} == METRICS.keys()
    hits = [0.0, 0.3, -0.9, 0.0, 0.0, -0.3]
    mean = sum(hits) / 6
    expected = {
        "reward_mean": 1.0, "hit_rate": 6 / 8, "groups_without_hits": 0.0, "anchor_rate": 3 / 6,
        "anchor_logp_ref": -4.5, "bonus_mean": mean, "bonus_max": 0.3,
        "bonus_std": math.sqrt(sum((bonus - mean) ** 2 for bonus in hits) / 6),
        "unique_rate": (1 + 3 / 4) / 2, "truncated_rate": 0.0, "unscored_rate": 0.0,
        # the hits of the first prompt are three completions, those of the second two and one
        "hit_entropy": (math.log(3) + math.log(3) - 2 / 3 * math.log(2)) / 2,
    }  # fmt: skip
    actual = {name: metrics[f"mara/{name}"] for name in expected}
    assert actual == pytest.approx(expected, abs=1e-6)
    assert metrics["rewards/paid_0/mean"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["rewards/mara_bonus/mean"] == pytest.approx(sum(BONUS) / 8, abs=1e-6)


# .5 a + 2 b: 1.0, 1.0, 0, 2.0, ... as above; None in one function leaves the other's part
A = [2.0, None, 0.0, 2.0, None, 2.0, 1.0, 3.0]
B = [None, 0.5, 0.0, 0.5, 0.5, None, 0.0, None]


def test_the_weighted_sum_is_what_counts_and_a_quantile_is_of_each_prompt(scripted):
    weighted = scripted(ROWS, A, B, weights=[0.5, 2.0])
    # of each prompt, rewards 1, 1, 0, 2: .6-quantile 1.0 (hits 0, 1, 3); 1, 1, .5, 1.5: 1.0 (hits
    # 4, 5, 7)
    quantile = scripted(ROWS, REWARD, tau=None, tau_quantile=0.6, tau_floor=0.2)
    for scored in (weighted, quantile):
        torch.testing.assert_close(scored.columns[:, -1], torch.tensor(BONUS))


@pytest.mark.parametrize("mask_truncated", [False, True])
def test_a_truncated_completion_is_neither_hit_nor_anchor(scripted, mask_truncated):
    # the first row would be the anchor of the first prompt; masked, its log pi_ref is even 0
    rows = [((7, 7), -1.0, -2.0), *ROWS[1:]]
    scored = scripted(rows, REWARD, mask_truncated=mask_truncated)
    bonus = [0.0, 0.0 + 1.0 + 0.2, 0.0, 0.0, *BONUS[4:]]  # the anchor is row 3 now: R 2, lr -3
    torch.testing.assert_close(scored.columns[:, -1], torch.tensor(bonus))
    assert scored.metrics["mara/truncated_rate"] == pytest.approx(1 / 8)
    assert scored.metrics["mara/hit_rate"] == pytest.approx(5 / 8)


def test_none_and_nan_are_no_hits_and_teach_nothing(scripted):
    reward = [None, 1.0, 0.0, float("nan"), *REWARD[4:]]
    scored = scripted(ROWS, reward)
    assert scored.columns[:, -1].isnan().tolist() == [True, False, False, True, *[False] * 4]
    # row 1 is the only hit of its prompt, so nothing is added to it
    assert scored.columns[1:3, -1].tolist() == [0.0, 0.0]
    total = [None, 1.0 - BETA * 3.0, 0.0 + BETA * 2.0, None]
    torch.testing.assert_close(scored.advantages[:4], torch.tensor(leave_one_out(total)))
    assert scored.metrics["mara/unscored_rate"] == pytest.approx(2 / 8)
    assert scored.metrics["mara/reward_mean"] == pytest.approx(5.0 / 6)
    # a batch without any reward is skipped
    scored = scripted(ROWS, [None] * 8)
    assert scored.advantages.tolist() == [0.0] * 8
    names = ("mara/unscored_rate", "mara/groups_without_hits")
    assert [scored.metrics[name] for name in names] == [1.0, 1.0]
    # an infinite reward is refused
    with pytest.raises(InputError, match="reward function paid_1 returned an infinite reward"):
        scripted(ROWS, REWARD, [float("inf"), *REWARD[1:]])


def test_a_bonus_beyond_the_reward_warns(scripted):
    rows = [((7, END), -1.0, -2.0), ((8, END), -1.0, -90.0), *ROWS[2:]]
    with pytest.warns(UserWarning, match=r"mara/bonus_std = .*cap or alpha"):
        scripted(rows, REWARD)
    # a batch of truncated completions warns too
    cut = [((tokens[0], 7), policy, reference) for tokens, policy, reference in ROWS]
    with pytest.warns(UserWarning, match="no completion of the batch has an end token"):
        scored = scripted(cut, REWARD)
    assert scored.metrics["mara/truncated_rate"] == 1
    assert scored.columns[:, -1].tolist() == [0.0] * 8


def test_another_order_of_calls_is_noticed(reference, tmp_path, monkeypatch):
    trainer = make_trainer(reference, tmp_path)
    with pytest.raises(RuntimeError, match="written for another version of trl"):
        trainer._reference_logps()
    trainer._logps = [(trainer.ref_model, torch.zeros(8)), (trainer.model, torch.zeros(8))]
    with pytest.raises(RuntimeError, match="written for another version of trl"):
        trainer._reference_logps()


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"beta": 0.0}, {}, "beta is 0.0: it must be a finite number above 0"),
        ({"beta": None}, {}, "beta is None"),
        ({"sync_ref_model": True}, {}, "sync_ref_model is True: the reference would follow"),
        ({"normalize_advantages": True}, {}, "normalize_advantages is True"),
        ({"reward_clip_range": (0, 1)}, {}, r"reward_clip_range is \(0, 1\): trl would cut off"),
        ({"num_generations": 2}, {}, "num_generations is 2: MARA needs 4 or more"),
        ({}, {"tau": "1"}, "tau must be a finite number, or be None, got '1'"),
        ({"beta": 0.0}, {"cap": [2]}, r"beta is 0\.0(.|\n)*cap must be .*got \[2\]"),
        ({"top_p": 0.9}, {}, r"top_p is 0\.9: the rare completions.*Take top_p=1\.0"),
        ({"top_k": 50}, {}, "top_k is 50.*Take top_k=0"),
        ({"min_p": 0.1}, {}, "min_p is 0.1.*Take min_p=None"),
        ({"generation_kwargs": {"do_sample": False}}, {}, "do_sample is False"),
        (
            {"vllm_structured_outputs_regex": "[12]"},
            {},
            r"_regex is \[12\].*Take vllm_.*_regex=None",
        ),
        (
            {"generation_kwargs": {"temperature": 0.5}},
            {},
            r"temperature is 0\.5 in generation_kwargs",
        ),
        ({}, {"tau": None}, "give tau .* or tau_quantile"),
        ({"num_generations": 8}, {"tau": None, "tau_quantile": 0.9, "tau_floor": 0.1},
         r"num_generations is 8: with tau_quantile 0\.9 only the best of 8.*Take 11 or more"),
    ],
)  # fmt: skip
def test_what_goes_wrong_under_mara_is_refused(tmp_path, changes, options, message):
    args = make_args(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        MaraRLOOTrainer("no model is looked for", None, args, **{"tau": 1.0} | options)


def test_every_problem_is_told_at_once(tmp_path, monkeypatch):
    args = make_args(tmp_path, beta=0.0, num_generations=2, normalize_advantages=True)
    with pytest.raises(InputError) as refused:
        build_target(args)
    problems = [line.split()[0] for line in str(refused.value).splitlines()]
    assert problems == ["beta", "normalize_advantages", "num_generations", "tau"]
    # other trainers' configs are refused
    grpo = GRPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True)
    with pytest.raises(InputError, match=r"given a GRPOConfig.*GRPO divides.*collapses"):
        MaraRLOOTrainer("no model is looked for", None, grpo, tau=1.0)
    with pytest.raises(InputError, match=r"given no config: it needs args=trl\.RLOOConfig"):
        MaraRLOOTrainer("no model is looked for", None, None, tau=1.0)
    # without trl the extra is named
    monkeypatch.setitem(sys.modules, "trl", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "chemkl.llm.trl")
    with pytest.raises(InputError, match="language models need trl, not installed here: pip"):
        import_module("chemkl.llm.trl")


def test_a_quantile_that_two_rewards_can_reach_is_accepted(tmp_path):
    args = make_args(tmp_path, num_generations=11, per_device_train_batch_size=11)
    target = build_target(args, tau_quantile=0.9, tau_floor=0.1)
    # the .9-quantile of 11 different rewards is the second best: two hits
    hits = target(torch.zeros(11), torch.linspace(0.5, 1.0, 11)).hit
    assert int(hits.sum()) == 2
    fewer = target(torch.zeros(10), torch.linspace(0.5, 1.0, 10)).hit
    assert int(fewer.sum()) == 0


DROPPED = r"the model has dropout \({}\): trl computes log-probabilities in training mode.* {}"


def test_dropout_of_an_adapter_is_refused_unless_trl_switches_it_off(reference, tmp_path):
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.1)
    message = r"lora_dropout is 0\.1 in peft_config: .*Take lora_dropout=0\.0, or disable_dropout="
    with pytest.raises(InputError, match=message):
        make_trainer("no model is looked for", tmp_path, peft_config=lora)
    plain = AutoModelForCausalLM.from_pretrained(reference)
    adapted = peft.get_peft_model(plain, lora)  # an adapter that is there already
    where = r"a layer 0\.1 in base_model\.model.*\.q_proj\.lora_dropout\.default"
    with pytest.raises(InputError, match=DROPPED.format(where, "Take disable_dropout=True")):
        make_trainer(adapted, tmp_path, processing_class=byte_tokenizer())
    off = make_args(tmp_path, disable_dropout=True)
    trainer = make_trainer(reference, tmp_path, args=off, peft_config=lora)
    dropped = [m.p for m in trainer.model.modules() if isinstance(m, torch.nn.Dropout)]
    assert dropped == [0, 0]
    # dropout of the model
    # a Llama drops attention weights without a layer of its own for it
    drops = {"model_init_kwargs": {"attention_dropout": 0.1}}
    where = r"attention_dropout 0\.1 in model\.layers\.0\.self_attn"
    message = DROPPED.format(where, r".*load it with attention_dropout=0\.0")
    for also in ({}, {"disable_dropout": True}):
        with pytest.raises(InputError, match=message):
            make_trainer(reference, tmp_path, args=make_args(tmp_path, **drops, **also))


def test_an_adapter_has_the_model_without_it_for_its_reference(reference, tmp_path):
    peft = pytest.importorskip("peft")
    args = make_args(tmp_path, learning_rate=0.02, max_steps=3, per_device_train_batch_size=16)
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"])
    trainer = make_trainer(reference, tmp_path, args=args, peft_config=lora)
    trainer.train()
    # the anchor of each group is the answer 1, exact log-probability under the reference
    plain = AutoModelForCausalLM.from_pretrained(reference)
    logp = math.log(answer_shares(plain)["1"])
    history = [row["mara/anchor_logp_ref"] for row in trainer.state.log_history[:-1]]
    assert history == pytest.approx([logp] * 3, abs=1e-4)  # fp32, in batches of 16


def paid_by_first_token(completion_ids, **_columns):
    """Rewards of several heights, so that it matters which hit is the anchor."""
    return [1.0 + 0.25 * (ids[0] % 3) if ids[0] % 4 else 0.25 for ids in completion_ids]


@pytest.fixture
def watched(reference, tmp_path, monkeypatch):
    """A trainer whose batches are kept: what was written, its log-probabilities, its columns.

    The log-probabilities are those of plain passes over the model as it is then, and over the
    reference, row by row, at the temperature.
    """

    def make(temperature, prompts, **changes):
        batches = []
        plain = AutoModelForCausalLM.from_pretrained(reference).eval()
        frozen = {name: value.clone() for name, value in plain.state_dict().items()}
        tokenizer = byte_tokenizer()

        @torch.no_grad()
        def logps_under(state, rows):
            plain.load_state_dict(state)
            actual = []
            for prompt, ids in rows:
                read = tokenizer(prompt)["input_ids"]
                logits = plain(torch.tensor([[*read, *ids]])).logits[0, len(read) - 1 : -1]
                logp = (logits.double() / temperature).log_softmax(dim=-1)
                actual.append(float(logp.gather(1, torch.tensor(ids)[:, None]).sum()))
            return actual

        def rewards(self, inputs, prompts, completions, ids):
            rows = list(zip(prompts, map(tuple, ids), strict=True))
            columns = calculate(self, inputs, prompts, completions, ids)
            batch = SimpleNamespace(rows=rows, reward=paid_by_first_token(ids))
            batch.training, batch.bonus = self.model.training, columns[:, -1].tolist()
            batch.logp = logps_under(self.model.state_dict(), rows)
            batch.logp_ref = logps_under(frozen, rows)
            batches.append(batch)
            return columns

        calculate = MaraRLOOTrainer._calculate_rewards
        monkeypatch.setattr(MaraRLOOTrainer, "_calculate_rewards", rewards)
        rate = {"learning_rate": 0.01, "lr_scheduler_type": "constant"}
        args = make_args(tmp_path, temperature=temperature, **rate, **changes)
        data = Dataset.from_dict({"prompt": prompts})
        trainer = MaraRLOOTrainer(
            reference, paid_by_first_token, args, train_dataset=data, eval_dataset=data, tau=1.0
        )
        return trainer, batches

    return make


def bonus_by_hand(batch, group_size):
    """Algorithm 1, prompt by prompt: R(z) + beta (lr(z) - lr) - R of the hits, 0 of the others."""
    by_prompt = {}
    for row, (prompt, _) in enumerate(batch.rows):
        by_prompt.setdefault(prompt, []).append(row)
    assert {len(rows) for rows in by_prompt.values()} == {group_size}
    bonus = [0.0] * len(batch.rows)
    n_lifted = 0
    for rows in by_prompt.values():
        hits = [row for row in rows if batch.reward[row] >= 1 and batch.rows[row][1][-1] == END]
        anchor = max(hits, key=lambda row: batch.logp_ref[row], default=None)
        for row in hits:
            lift = batch.logp_ref[anchor] - batch.logp_ref[row]
            bonus[row] = batch.reward[anchor] + BETA * lift - batch.reward[row]
            n_lifted += lift > 0.1
    assert n_lifted >= 2  # else there is nothing to compare
    return bonus


QUESTIONS = [f"{a} or {b}: " for a in "1357" for b in "2468"]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_group_may_be_spread_over_the_steps_that_share_a_generation(watched, temperature):
    # an update is 4 passes of 4 rows, half of a group each; two updates are made of what is written
    # at one time, 4 prompts with 8 completions each. At a temperature both log-probabilities, and
    # so the anchors, are those at the temperature
    sizes = {"num_generations": 8, "per_device_train_batch_size": 4, "max_steps": 4}
    steps = {"gradient_accumulation_steps": 4, "steps_per_generation": 8}
    trainer, batches = watched(temperature, QUESTIONS, **sizes, **steps)
    trainer.train()
    assert [len(batch.rows) for batch in batches] == [32, 32]
    for batch in batches:
        assert batch.bonus == pytest.approx(bonus_by_hand(batch, 8), abs=1e-5)
    # the policy had moved when the second batch was written
    assert batches[0].logp == pytest.approx(batches[0].logp_ref, abs=1e-4)
    assert batches[1].logp != pytest.approx(batches[1].logp_ref, abs=1e-2)


def test_an_evaluation_has_groups_of_its_own_size(watched):
    trainer, batches = watched(
        3.0, QUESTIONS[:2], num_generations=4, num_generations_eval=8, per_device_eval_batch_size=16
    )
    metrics = trainer.evaluate()
    assert {f"eval_{name}" for name in METRICS} <= metrics.keys()
    (batch,) = batches
    assert not batch.training
    bonus = bonus_by_hand(batch, 8)
    assert batch.bonus == pytest.approx(bonus, abs=1e-5)
    unique = [len(set(batch.rows[start : start + 8])) / 8 for start in (0, 8)]
    assert metrics["eval_mara/unique_rate"] == pytest.approx(sum(unique) / 2)
    assert metrics["eval_rewards/mara_bonus/mean"] == pytest.approx(sum(bonus) / 16, abs=1e-5)


@pytest.mark.parametrize(("mara", "low", "high"), [(False, 0.2, 0.45), (True, 0.65, 0.6932)])
def test_mara_flattens_and_rloo_does_not(reference, tmp_path, mara, low, high):
    # the reference's entropy is -.9 ln .9 - .1 ln .1 = .325; that of two equal answers ln 2
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_pretrained(reference)
    assert entropy(list(answer_shares(plain).values())) == pytest.approx(0.325, abs=0.03)
    sizes = {"num_generations": 16, "per_device_train_batch_size": 64, "max_steps": 25}
    rate = {"learning_rate": 2e-3, "lr_scheduler_type": "constant", "logging_strategy": "no"}
    args = make_args(tmp_path, **sizes, **rate, mask_truncated_completions=True)
    data = Dataset.from_dict({"prompt": [PROMPT] * 64})
    if mara:
        trainer = MaraRLOOTrainer(reference, one_or_two, args, train_dataset=data, tau=1.0)
    else:
        trainer = RLOOTrainer(reference, one_or_two, args, train_dataset=data)
    trainer.train()
    shares = answer_shares(trainer.model)
    assert sum(shares.values()) > 0.95
    assert low < entropy(list(shares.values())) <= high


def test_the_example_of_the_readme_runs(reference, tmp_path):
    (example,) = re.findall(
        r"```python\n((?:(?!```).)*MaraRLOOTrainer\(.*?)```", README.read_text(), re.DOTALL
    )
    small = "max_steps=1, max_completion_length=4, use_cpu=True, bf16=False, save_strategy='no', "
    example = example.replace("Qwen/Qwen2.5-0.5B-Instruct", reference)
    example = example.replace("runs/trl", str(tmp_path)).replace("beta=", f"{small}beta=")
    world = {}
    exec(example, world)
    assert world["trainer"].state.global_step == 1


TWO_RANKS = """
import json, sys
import torch
sys.path.insert(0, sys.argv[1])
import test_trl as t

model, folder = sys.argv[2:4]
paid = {(7, t.END): 1.0, (8, t.END): 1.0, (9, t.END): 0.0, (7, 7, t.END): 2.0}
reward = lambda completion_ids, **_: [paid[tuple(ids)] for ids in completion_ids]
args = t.make_args(folder, per_device_train_batch_size=2)
trainer = t.make_trainer(model, folder, reward, args=args)
trainer.model.train()
rank = trainer.accelerator.process_index
for name, method in t.in_place_of_a_model(t.ROWS[2 * rank : 2 * rank + 2]).items():
    setattr(t.RLOOTrainer, name, method)
out = trainer._generate_and_score_completions([{"prompt": "q"}] * 2)
metrics = {name: trainer._metrics["train"][name][-1] for name in t.METRICS}
told = {"advantages": out["advantages"].tolist(), "metrics": metrics}
open(f"{folder}/rank{rank}.json", "w").write(json.dumps(told))
torch.distributed.destroy_process_group()  # else its threads may abort the process at its end
"""


@pytest.mark.slow
def test_the_anchor_is_chosen_over_all_ranks(reference, tmp_path):
    # one prompt, its four completions on two ranks; the likeliest hit is on the first
    script = tmp_path / "two_ranks.py"
    script.write_text(TWO_RANKS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = [str(Path(__file__).parent), reference, str(tmp_path)]
    subprocess.run([*launch, str(script), *arguments], check=True, timeout=300)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    total = [
        reward + bonus - BETA * (logp - logp_ref)
        for reward, bonus, (_, logp, logp_ref) in zip(REWARD, BONUS, ROWS, strict=True)
    ]
    advantages = ranks[0]["advantages"] + ranks[1]["advantages"]
    assert advantages == pytest.approx(leave_one_out(total[:4]), abs=1e-6)
    assert ranks[0]["metrics"] == ranks[1]["metrics"]
    assert ranks[0]["metrics"]["mara/hit_rate"] == 0.75
    assert ranks[0]["metrics"]["mara/unique_rate"] == 1.0
