"""Steps of post-training and pre-training, as chemkl makes them and in the usual way.

The usual way is that of most programs: float32, all rows padded to the longest, and the agent
scores again what it has just sampled. It runs on the same network with the same reward, so that a
ratio needs no other program.

Legend: B rows of a batch, T tokens, V vocabulary.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chemkl.bench.measure import Parts, Watch
from chemkl.config.paths import shipped_root
from chemkl.losses import LossInputs, build_objective
from chemkl.policies import freeze, load_policy
from chemkl.policies.base import draw, sequence_logp, stream
from chemkl.policies.tokenizer import END_ID, START_ID
from chemkl.results import TraceWriter
from chemkl.rewards import RewardModel
from chemkl.training.filters import NoFilter
from chemkl.training.ledger import Ledger
from chemkl.training.posttrain import InputBuilder, trace_rows

SIGMA, LEARNING_RATE = 128.0, 1e-4
NEURAL = ("sample", "prior", "agent", "gradient", "adam")
"""The parts of a step that the network computes; the others are chemistry and tables."""


def prior_path() -> Path:
    """Return the path of the embedded prior."""
    return shipped_root() / "data/priors/moses.safetensors"


def reward_model() -> RewardModel:
    """Build the quickstart's reward, computed in this process."""
    return RewardModel.from_config(shipped_root() / "configs/rewards/oral_lead.yaml")


class OurStep:
    """The steps of a run, from the parts of `chemkl.training.posttrain`.

    Args:
        batch: rows a step.
        folder: where the trace is written.
        bfloat16: whether products are computed in bfloat16.
    """

    def __init__(self, batch: int, folder: Path, *, bfloat16: bool = False) -> None:
        self._batch, self._bfloat16, self._step = batch, bfloat16, 0
        self._policy, prior = load_policy(prior_path()), freeze(load_policy(prior_path()))
        self._policy.train()
        reward = reward_model()
        self._ledger = Ledger(reward, NoFilter(), 10**9)
        self._objective = build_objective("gibbs", "rloo", sigma=SIGMA)
        self._builder = InputBuilder(self._policy, prior, self._objective, 0)
        self._trace = TraceWriter(folder, reward.component_names, "bench", "0" * 64)
        self._optimizer = torch.optim.Adam(self._policy.parameters(), LEARNING_RATE, fused=True)
        self.n_tokens = 0

    def __call__(self) -> Parts:
        """Make the next step."""
        watch = Watch()
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            rollout = self._policy.sample_to_learn(self._batch, stream(0, self._step))
            watch.lap("sample")
            rows = self._ledger.enter(self._step, rollout)
            watch.lap("score")
            inputs = self._builder.build(rollout, rows, self._step)
            watch.lap("prior")
            output = self._objective(inputs)
            watch.lap("objective")
        self._optimizer.zero_grad()
        output.loss.backward()  # type: ignore[no-untyped-call]
        watch.lap("gradient")
        self._optimizer.step()
        watch.lap("adam")
        self._trace.append(trace_rows(rows, inputs, output.target))
        if self._step % 10 == 9:
            self._trace.cut()
        watch.lap("trace")
        self._step += 1
        self.n_tokens = int(rollout.n_tokens.sum())
        return watch.parts


class UsualStep:
    """The same steps in the usual way."""

    def __init__(self, batch: int) -> None:
        self._batch, self._step = batch, 0
        self._policy, self._prior = load_policy(prior_path()), freeze(load_policy(prior_path()))
        self._policy.train()
        self._reward = reward_model()
        self._objective = build_objective("gibbs", "rloo", sigma=SIGMA)
        self._optimizer = torch.optim.Adam(self._policy.parameters(), LEARNING_RATE, fused=False)

    def __call__(self) -> Parts:
        """Make the next step."""
        watch = Watch()
        token_BT = padded_sample(self._policy, self._batch, stream(0, self._step))
        smiles = [self._policy.vocabulary.decode(row) for row in token_BT.tolist()]
        watch.lap("sample")
        reward_B = torch.tensor(self._reward.score(smiles)["reward"].to_numpy())
        watch.lap("score")
        logp_B = padded_logp(self._policy, token_BT)
        watch.lap("agent")
        with torch.no_grad():
            logp_ref_B = padded_logp(self._prior, token_BT)
        watch.lap("prior")
        loss = self._objective(LossInputs(logp_B, logp_ref_B, reward_B)).loss
        watch.lap("objective")
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        watch.lap("gradient")
        self._optimizer.step()
        watch.lap("adam")
        self._step += 1
        return watch.parts


@torch.no_grad()
def padded_sample(policy: Any, n: int, generator: torch.Generator) -> Tensor:
    """Draw n rows, token_BT; all continue until the last one has ended."""
    last_B = torch.full((n,), START_ID)
    columns, state = [last_B], None
    ended_B = torch.zeros(n, dtype=torch.bool)
    while not bool(ended_B.all()) and len(columns) <= policy.max_length:
        logits_B1V, state = policy(last_B[:, None], state)
        logp_BV = logits_B1V[:, 0].float().log_softmax(dim=-1)
        last_B = draw(logp_BV, torch.rand(n, generator=generator)).masked_fill_(ended_B, END_ID)
        ended_B |= last_B == END_ID
        columns.append(last_B)
    return torch.stack(columns, dim=1)


def padded_logp(policy: Any, token_BT: Tensor) -> Tensor:
    """Return log p of each row with torch's own layers, padded to the longest row."""
    return sequence_logp(policy(token_BT[:, :-1])[0], token_BT)


def pretrain_step(token_BT: Tensor, logp: Callable[[Any, Tensor], Tensor]) -> Callable[[], None]:
    """Return a step of maximum likelihood on a batch, with log p computed by a function."""
    policy: Any = load_policy(prior_path()).train()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad()
        (-logp(policy, token_BT).mean()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def operations(policy: Any, n_tokens: int) -> dict[str, float]:
    """Return the floating-point operations of the products of a pass over so many tokens.

    `usual` computes embeddings, hidden units and logits; `ours` looks the share of the embedding up
    in a table.
    """
    sizes = policy.architecture
    units, layers = sizes["hidden_size"], sizes["n_layers"]
    recurrent = 4 * units * units * (2 * layers - 1) + units * len(policy.vocabulary)
    embedded = 4 * units * sizes["embedding_size"]
    return {"usual": 2.0 * n_tokens * (recurrent + embedded), "ours": 2.0 * n_tokens * recurrent}
