"""The post-training module: one step against the formulas, what it leaves alone, that it learns."""

import math
import shutil
import threading
from itertools import pairwise

import lightning
import numpy as np
import pandas as pd
import pytest
import torch
from rdkit import Chem

from chemkl.config.objective import MurckoFilterConfig
from chemkl.losses import ESTIMATORS as LOSSES
from chemkl.losses import SHAPERS, build_objective
from chemkl.policies import RnnPolicy, Vocabulary, freeze, load_policy
from chemkl.policies.base import stream
from chemkl.results import TraceWriter, read_trace
from chemkl.rewards import RewardModel
from chemkl.training.filters import NoFilter, build_filter
from chemkl.training.ledger import Ledger
from chemkl.training.posttrain import (
    METRICS,
    Phase,
    Posttrain,
    StepLoader,
    move_state_to_parameters,
)
from chemkl.training.trainer import quiet

REWARD = {
    "components": [{"kind": "tpsa", "transform": {"kind": "sigmoid", "low": 0, "high": 60}}],
}
GIBBS = {"target": "gibbs", "sigma": 20.0}
MARA = {"target": "mara", "sigma": 20.0, "tau": 0.5}
ESTIMATORS = ["reinvent", "rloo", "log_variance"]
SIZES = {"embedding_size": 8, "hidden_size": 16, "max_length": 8}


@pytest.fixture
def make_module(tiny_prior, tmp_path):
    """Put a module together from the tiny prior, or from a policy and its prior."""

    def make(
        objective=None, policies=None, diversity_filter=None, budget=100_000, workers=1,
        learning_rate=1e-3, **changes,
    ):  # fmt: skip
        policy, prior = policies or (load_policy(tiny_prior), load_policy(tiny_prior))
        settings = {"batch_size": 16, "most_samples": 100_000, "seed": 0}
        reward = RewardModel.from_config({**REWARD, "workers": workers})
        return Posttrain(
            policy,
            freeze(prior),
            Ledger(reward, diversity_filter or NoFilter(), budget),
            [Phase(build_objective(**objective or GIBBS | {"estimator": "rloo"}), learning_rate)],
            TraceWriter(tmp_path, reward.component_names, "run", "hash"),
            **settings | changes,
        )

    return make


@pytest.fixture
def fit(tmp_path):
    """Train for some steps at most; returns the trace."""

    def run(module, n_steps, updates=1, **settings):
        with quiet():
            trainer = lightning.Trainer(
                max_epochs=1, accelerator="cpu", enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False,
                **{"logger": False, **settings},
            )  # fmt: skip
            trainer.fit(module, StepLoader(n_steps, updates))
        module.trace.cut()
        return read_trace(tmp_path)

    return run


def weights(policy):
    return {name: value.detach().clone() for name, value in policy.state_dict().items()}


def inputs_of(module, monkeypatch):
    """A list that receives the inputs of the objective, batch by batch."""
    inputs, original = [], module._builder.build
    monkeypatch.setattr(
        module._builder, "build", lambda *a, **k: inputs.append(original(*a, **k)) or inputs[-1]
    )
    return inputs


def unchanged(before, policy):
    return [name for name, value in policy.state_dict().items() if torch.equal(before[name], value)]


# ---- steps


def test_a_loader_resumes_where_it_stood():
    loader, other = StepLoader(5), StepLoader(5)
    steps = iter(loader)
    assert [next(steps), next(steps)] == [0, 1]
    other.load_state_dict(loader.state_dict())
    assert list(other) == [2, 3, 4]
    assert list(other) == []
    assert len(loader) == len(other) == 5


@pytest.mark.parametrize(("most", "is_cut"), [(32, False), (24, True)])
def test_a_checkpoint_knows_whether_its_last_step_was_cut_short(make_module, fit, most, is_cut):
    module, saved, again = make_module(most_samples=most), {}, {}
    fit(module, 2)
    module.on_save_checkpoint(saved)
    other = make_module(most_samples=most)
    other.on_load_checkpoint(saved)
    other.on_save_checkpoint(again)
    assert saved["next_step"] == 2
    assert saved["is_cut"] is again["is_cut"] is is_cut


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_step_is_the_gradient_of_the_formula_and_one_update_of_adam(
    make_module, fit, tiny_prior, estimator
):
    module = make_module({**GIBBS, "estimator": estimator}, seed=5)
    trace = fit(module, 1)

    policy, prior = load_policy(tiny_prior), load_policy(tiny_prior)
    drawn = policy.sample(16, stream(5, 0))
    assert trace["smiles"].tolist() == drawn.smiles
    reward = torch.tensor(trace["reward"].to_numpy())
    assert reward.dtype == torch.float64
    lp = policy.logp_tokens(drawn.tokens)
    ratio = (prior.logp_tokens(drawn.tokens) + 20 * reward).detach() - lp
    if estimator == "reinvent":
        loss = (ratio**2).mean()
    elif estimator == "log_variance":
        loss = ratio.var()  # unbiased
    else:
        score = ratio.detach() / 20
        others = (score.sum() - score) / 15
        loss = -((score - others) * lp).mean()
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    loss.backward()
    optimizer.step()
    for name, value in policy.state_dict().items():
        # the prior's pass differs from the policy's in the last bit, and Adam's first step is
        # about rate x sign(gradient): a gradient near 0 may come out a little different
        torch.testing.assert_close(module.policy.state_dict()[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.bf16)]
)
def test_a_step_changes_every_weight_of_the_policy_and_none_of_the_prior(
    make_module, fit, precision
):
    module = make_module()
    before = weights(module.policy)
    trace = fit(module, 1, precision=precision)
    assert unchanged(before, module.policy) == []
    assert len(unchanged(before, module.reference)) == len(before)
    assert not any(p.requires_grad for p in module.reference.parameters())
    assert trace["logp_ref"].dtype == np.float32
    exact = module.reference.logp(trace["smiles"][trace["valid"]].tolist()).numpy()
    assert np.abs(trace["logp_ref"][trace["valid"]] - exact).max() < 0.5  # 8 bits, 16 tokens


@pytest.mark.parametrize(("estimator", "learnt"), [("rloo", []), ("trajectory_balance", [1])])
def test_the_state_is_the_policy_and_a_learned_log_z_is_a_group_of_its_own(
    make_module, estimator, learnt
):
    module = make_module({**GIBBS, "estimator": estimator})
    weights = [*module.policy.parameters()]
    assert len([*module.parameters()]) == len(weights)
    assert all(name.startswith("policy.") for name in module.state_dict())
    groups = module.configure_optimizers().param_groups
    assert [len(group["params"]) for group in groups] == [len(weights), *learnt]


def test_the_state_of_adam_moves_to_the_device_of_its_parameter():
    """As after a resume on a GPU, for a parameter on another device; meta stands for that."""
    cpu, meta = (torch.zeros(3, device=d, requires_grad=True) for d in ("cpu", "meta"))
    optimizer = torch.optim.Adam([{"params": [cpu]}, {"params": [meta]}])
    state = {"step": torch.tensor(1.0), "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
    optimizer.state |= {parameter: dict(state) for parameter in (cpu, meta)}
    move_state_to_parameters(optimizer)
    assert {str(v.device) for v in optimizer.state[cpu].values()} == {"cpu"}
    assert optimizer.state[cpu]["exp_avg"] is state["exp_avg"]
    devices = {name: str(v.device) for name, v in optimizer.state[meta].items()}
    assert devices == {"step": "cpu", "exp_avg": "meta", "exp_avg_sq": "meta"}


def test_dropout_is_switched_off(make_module, fit):
    torch.manual_seed(0)
    policies = [RnnPolicy(Vocabulary.of("CNO"), **SIZES, n_layers=2, dropout=0.5) for _ in "ab"]
    policies[1].load_state_dict(policies[0].state_dict())
    module = make_module(policies=policies)
    trace = fit(module, 1)
    np.testing.assert_allclose(trace["logp_policy"], trace["logp_ref"], rtol=0, atol=1e-5)
    assert module.policy.training  # what recurrent nets on a GPU need for a gradient
    assert module.policy.architecture["dropout"] == 0.5


def test_a_batch_without_a_valid_molecule_is_a_normal_step(make_module, fit):
    policies = [RnnPolicy(Vocabulary.of("C1"), **SIZES, n_layers=1) for _ in "ab"]
    for policy in policies:
        policy.linear.bias.data[:] = torch.tensor([5.0, -30.0, 5.0, -30.0])  # "$" and "1" alone
    before = weights(policies[0])
    module = make_module({**MARA, "estimator": "reinvent"}, policies)
    trace = fit(module, 3)
    assert len(trace) == 48
    assert not trace["valid"].any()
    assert set(trace["reward"]) == {0.0}
    assert trace["call"].isna().all()
    assert not trace["hit"].any()
    assert module.ledger.n_samples == 48
    assert not module.is_finished
    assert set(unchanged(before, policies[0])) != set(before)  # it was an update like any other


# ---- what the target sees


def test_a_molecule_without_filtered_reward_is_neither_hit_nor_anchor(make_module, fit):
    twice = build_filter(MurckoFilterConfig(kind="murcko", bucket=2, min_score=0))
    module = make_module({**MARA, "estimator": "log_variance"}, diversity_filter=twice)
    trace = fit(module, 6)
    withheld = (trace["reward"] >= 0.5) & (trace["reward_filtered"] == 0)
    assert withheld.sum() > 5
    assert trace["hit"].sum() > 5
    assert not trace.loc[withheld, ["hit", "anchor"]].any(axis=None)
    likeliest = trace["logp_ref"].where(trace["reward"] >= 0.5).groupby(trace["step"]).idxmax()
    assert withheld[likeliest].any()  # one would have been the anchor without the filter


def test_rewards_reach_the_objective_in_float64(make_module, fit, monkeypatch):
    module = make_module()
    inputs = inputs_of(module, monkeypatch)
    trace = fit(module, 1)
    assert inputs[0].reward.dtype == torch.float64
    assert inputs[0].reward.tolist() == trace["reward_filtered"].tolist()
    assert inputs[0].duplicate.tolist() == trace["smiles"].duplicated().tolist()


# ---- what only some estimators and shapers need


@pytest.mark.parametrize("estimator", sorted(LOSSES))
def test_every_estimator_trains(make_module, fit, estimator):
    module = make_module({**MARA, "estimator": estimator})
    before = weights(module.policy)
    trace = fit(module, 3)
    assert len(trace) == 3 * 16
    assert unchanged(before, module.policy) == []


def test_log_z_is_learned_beside_the_policy(make_module, fit):
    module = make_module({**GIBBS, "estimator": "trajectory_balance"})
    trace = fit(module, 2)
    first = trace[trace["step"] == 0]
    start = float((first["log_target"] - first["logp_policy"]).mean())
    (log_z,) = module.objective.parameters()
    # the parameter is log Z / 100; Adam's first step leaves it near where it started, its second
    # moves it by about the learning rate
    assert 100 * log_z.item() == pytest.approx(start, abs=0.3)
    assert 100 * log_z.item() != pytest.approx(start, abs=0.01)


def test_msc_carries_one_row_to_the_next_batch(make_module, fit, monkeypatch):
    module = make_module({**MARA, "estimator": "msc"})
    inputs = inputs_of(module, monkeypatch)
    trace = fit(module, 3)
    assert len(trace) == 3 * 16  # the retained row has been recorded where it was sampled
    assert inputs[0].retained is None
    for earlier, later in pairwise(inputs):
        assert later.retained.tolist() == 16 * [False] + [True]
        row = (earlier.logp_ref - later.logp_ref[-1]).abs().argmin()
        # the reference's pass over another batch differs in the last bits
        assert float(earlier.logp_ref[row]) == pytest.approx(float(later.logp_ref[-1]), abs=1e-4)
        assert earlier.reward[row] == later.reward[-1]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_prior_is_evaluated_while_workers_score(make_module, fit, tmp_path, precision):
    passes = []

    def trained(workers):
        module = make_module({**MARA, "estimator": "msc"}, workers=workers)  # rows are carried
        original = module.reference.logp_tokens

        def logp_tokens(token_BT):
            rounds = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
            settings = torch.is_grad_enabled(), torch.get_num_threads(), *rounds
            passes.append((threading.current_thread(), settings))
            return original(token_BT)

        module.reference.logp_tokens = logp_tokens
        trace = fit(module, 3, precision=precision)
        shutil.rmtree(tmp_path / "trace")
        return trace, weights(module.policy)

    (trace, learnt), (parallel, same) = trained(1), trained(2)
    pd.testing.assert_frame_equal(trace, parallel, check_exact=True)
    assert all(torch.equal(value, same[name]) for name, value in learnt.items())
    threads, settings = zip(*passes, strict=True)
    assert {*threads[:3]} == {threading.current_thread()}
    assert threading.current_thread() not in threads[3:]
    assert len({*settings}) == 1


def test_forward_kl_gets_fresh_samples_of_the_prior(make_module, fit, tiny_prior, monkeypatch):
    options = {"estimator": "forward_kl", "estimator_options": {"reference": "prior"}}
    module = make_module({**GIBBS, **options}, seed=3)
    inputs = inputs_of(module, monkeypatch)
    fit(module, 1)
    drawn = load_policy(tiny_prior).sample(16, stream(3, 0, 0, "prior"))
    expected = load_policy(tiny_prior).logp_tokens(drawn.tokens)
    torch.testing.assert_close(inputs[0].logp_policy_of_prior, expected, rtol=0, atol=1e-5)
    assert inputs[0].logp_policy_of_prior.requires_grad


@pytest.mark.parametrize("shaper", list(SHAPERS))
def test_a_shaper_changes_the_step(make_module, fit, tmp_path, shaper):
    plain = make_module({**MARA, "estimator": "rloo"})
    trace = fit(plain, 1)
    assert 2 <= trace["hit"].sum() < 16
    shutil.rmtree(tmp_path / "trace")
    shaped = make_module({**MARA, "estimator": "rloo", "shaper": shaper})
    again = fit(shaped, 1)
    assert again["smiles"].tolist() == trace["smiles"].tolist()
    assert len(unchanged(weights(plain.policy), shaped.policy)) < 3


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_leaves_a_learned_log_z_out(make_module, fit, algorithm, monkeypatch):
    """Its gradient is hundreds of times that of the policy and would take the whole norm."""
    module = make_module({**GIBBS, "estimator": "trajectory_balance", "shaper": None})
    sizes = {}
    original = module.configure_gradient_clipping

    def clip(*arguments, **named):
        (log_z,) = module.objective.parameters()
        log_z.grad.fill_(1e6)
        original(*arguments, **named)
        grads = [p.grad for p in module.policy.parameters()]
        sizes["norm"] = torch.stack([g.norm() for g in grads]).norm().item()
        sizes["largest"] = max(g.abs().max().item() for g in grads)
        sizes["log_z"] = log_z.grad.item()

    monkeypatch.setattr(module, "configure_gradient_clipping", clip)
    fit(module, 1, gradient_clip_val=1e-3, gradient_clip_algorithm=algorithm)
    assert sizes["log_z"] == 1e6
    bounded = {"norm": "norm", "value": "largest"}[algorithm]
    assert sizes[bounded] == pytest.approx(1e-3, rel=1e-3)


# ---- several updates a batch


GRPO = {"estimator": "grpo", "estimator_options": {"clip": 0.02, "normalise": False}}


@pytest.mark.parametrize("estimator", [{"estimator": "log_variance"}, GRPO], ids=["lv", "grpo"])
def test_further_updates_use_the_same_batch_and_the_current_policy(
    make_module, fit, tiny_prior, estimator
):
    module = make_module({**GIBBS, **estimator}, seed=5, updates=3, learning_rate=1e-2)
    trace = fit(module, 1, 3)
    assert len(trace) == 16

    policy, prior = load_policy(tiny_prior), load_policy(tiny_prior)
    drawn = policy.sample(16, stream(5, 0))
    reward = torch.tensor(trace["reward"].to_numpy())
    goal = (prior.logp_tokens(drawn.tokens) + 20 * reward).detach()
    then = policy.logp_tokens(drawn.tokens).detach()
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for _ in range(3):
        lp = policy.logp_tokens(drawn.tokens)
        if estimator is GRPO:
            score = ((goal - lp) / 20).detach()
            score = score - score.mean()
            ratio = (lp - then).exp()
            loss = -torch.minimum(ratio * score, ratio.clamp(0.98, 1.02) * score).mean()
        else:
            loss = (goal - lp).var()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # Adam's first step is rate x sign(gradient), also where that is near 0: see above
    off = [(module.policy.state_dict()[n] - w).abs() for n, w in policy.state_dict().items()]
    assert torch.cat([weight.flatten() for weight in off]).quantile(0.99) < 1e-4


def test_further_updates_may_have_other_spellings_and_one_log_pi_ref_a_molecule(
    make_module, fit, tiny_prior, monkeypatch
):
    policy = load_policy(tiny_prior)

    def spell(smiles):  # it cannot write branches
        return None if {"(", "="} & {*smiles} else policy.vocabulary.encode(smiles)

    module = make_module({**MARA, "estimator": "log_variance"}, updates=2, spell=spell)
    calls = []
    original = module._respelled
    monkeypatch.setattr(
        module, "_respelled", lambda *a: calls.append((a[0], *original(*a))) or calls[-1][1:]
    )
    trace = fit(module, 4, 2)
    assert len(calls) == 4
    assert module.n_unspelled > 0
    assert sum((~kept).sum().item() for _, _, kept in calls) == module.n_unspelled
    others = 0
    for batch, token_BT, kept in calls:
        whole = batch.recorded["canonical_smiles"].astype(object).where(lambda s: s.notna(), None)
        whole = whole[kept.tolist()].tolist()
        for canonical, sampled, ids in zip(
            whole, batch.tokens[kept].tolist(), token_BT.tolist(), strict=True
        ):
            text = policy.vocabulary.decode(ids)
            if canonical is None:  # what is no molecule stays
                assert text == policy.vocabulary.decode(sampled)
            else:
                assert Chem.CanonSmiles(text) == canonical
                others += text != policy.vocabulary.decode(sampled)
    assert others > 2
    valid = trace[trace["valid"]]
    known = [spell(s) is not None for s in valid["canonical_smiles"]]
    assert (valid["smiles"] != valid["canonical_smiles"])[known].any()
    of_molecules = load_policy(tiny_prior).logp(valid["canonical_smiles"][known].tolist())
    np.testing.assert_allclose(valid["logp_ref"][known], of_molecules.detach(), rtol=0, atol=1e-4)


# ---- the end


@pytest.mark.parametrize("limit", [{"budget": 40}, {"most_samples": 40}], ids=str)
def test_a_run_stops_at_its_limit_in_the_middle_of_a_batch(make_module, fit, limit):
    module = make_module(**limit)
    trace = fit(module, 1000)
    assert (trace["call"].max() if "budget" in limit else len(trace)) == 40
    sizes = trace.groupby("step").size().tolist()
    assert set(sizes[:-1]) == {16}
    assert module.is_finished
    assert module.next_step == len(sizes)


def test_a_batch_cut_short_is_recorded_with_its_target_and_not_learnt_from(make_module, fit):
    module = make_module({**MARA, "estimator": "rloo"}, most_samples=9)
    before = weights(module.policy)
    trace = fit(module, 1000)
    assert len(trace) == 9
    assert trace["log_target"].notna().all()
    assert trace["hit"].tolist() == (trace["reward"] >= 0.5).tolist()
    assert len(unchanged(before, module.policy)) == len(before)


# ---- metrics


class Logged(lightning.pytorch.loggers.logger.DummyLogger):
    """Keeps the logged metrics by step."""

    def __init__(self):
        super().__init__()
        self.steps = {}

    def log_metrics(self, metrics, step=None):
        self.steps[step] = metrics


def test_logged_metrics_agree_with_the_trace(make_module, fit):
    logger = Logged()
    module = make_module({**MARA, "estimator": "rloo"})
    trace = fit(module, 5, logger=logger, log_every_n_steps=2)
    assert sorted(logger.steps) == [1, 3]
    for step, named in logger.steps.items():
        rows = trace[trace["step"] == step]
        until = trace[trace["step"] <= step]
        valid, hits = rows[rows["valid"]], rows[rows["hit"]]
        assert set(METRICS) <= set(named)
        expected = {
            "calls": until["call"].max(),
            "samples": 16 * (step + 1),
            "valid_rate": len(valid) / 16,
            "truncated_rate": rows["reason"].str.startswith("truncated").sum() / 16,
            "unique_rate": len(set(valid["canonical_smiles"])) / len(valid),
            "new_rate": rows["call"].count() / 16,
            "canonical_rate": sum(rows["smiles"] == rows["canonical_smiles"]) / 16,
            "reward": rows["reward"].mean(),
            "reward_filtered": rows["reward_filtered"].mean(),
            "objective/hit_rate": len(hits) / 16,
            "objective/logp_ref_mean": rows["logp_ref"].mean(),
            "objective/logp_ref_hits_mean": hits["logp_ref"].mean(),
            "objective/logp_policy_mean": rows["logp_policy"].mean(),
            "hits/n_tokens": hits["n_tokens"].mean(),
        }
        assert {name: named[name] for name in expected} == pytest.approx(expected, rel=1e-5)
        assert 1 <= named["hits/sa_score"] <= 10
        assert named["hits/heavy_atoms"] > 2


@pytest.mark.parametrize("every", [1, 0])
def test_metrics_of_hits_are_nan_without_hits_and_logging_is_optional(make_module, fit, every):
    logger = Logged()
    fit(make_module(), 1, logger=logger, log_every_n_steps=every)  # gibbs has no hit test
    assert len(logger.steps) == every
    for named in logger.steps.values():
        assert math.isnan(named["hits/sa_score"])
        assert named["objective/hit_rate"] == 0


# ---- learning


@pytest.mark.parametrize("target", [GIBBS, MARA], ids=["gibbs", "mara"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_mean_reward_rises(make_module, fit, estimator, target):
    rate = 6e-3 if estimator == "rloo" else 3e-3
    module = make_module({**target, "estimator": estimator}, batch_size=32, learning_rate=rate)
    by_step = fit(module, 35).groupby("step")["reward"].mean()
    before, after = by_step.head(5).mean(), by_step.tail(5).mean()
    assert after > before + 0.2
