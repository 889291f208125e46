"""Settings of the stages pretrain and pretrain_llm: networks, data and training."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, ValidationInfo

from chemkl.config.base import Config, Distinct, NamedByKind, added_later, by_kind, repeated
from chemkl.config.paths import InputPath, ModelPath
from chemkl.config.posttrain import Precision, TrainerSettings

MaxLength = Annotated[
    int,
    Field(
        ge=2,
        le=65_536,
        description="Most tokens of a sampled sequence, end token included; a longer one is "
        "truncated and counts as invalid.",
    ),
]


class RnnConfig(Config):
    """A recurrent generator; the defaults are REINVENT's architecture (5.8 million weights)."""

    kind: Literal["rnn"] = "rnn"
    """A stack of recurrent layers."""
    cell: Literal["lstm", "gru"] = "lstm"
    """The recurrent cell."""
    embedding_size: int = Field(256, ge=1, le=65_536)
    """Size of a token embedding, 1 to 65,536."""
    hidden_size: int = Field(512, ge=1, le=65_536)
    """Units of each layer, 1 to 65,536."""
    n_layers: int = Field(3, ge=1, le=64)
    """Stacked layers, 1 to 64."""
    projection_size: int | None = added_later(ge=1, le=65_536)
    """Size to which the output of a layer is projected; less than hidden_size, LSTM only. null: no
    projection."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping a unit between layers while training, 0 to 1."""
    max_length: MaxLength = 256

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require a projection that the layers of torch support."""
        if self.projection_size is not None and self.cell != "lstm":
            yield "projection_size", "only an LSTM has one: leave it out, or take cell: lstm"
        elif self.projection_size is not None and self.projection_size >= self.hidden_size:
            yield "projection_size", f"should be less than hidden_size, {self.hidden_size}"


class BlocksConfig(Config):
    """A stack of residual blocks: RMSNorm, token mixing, RMSNorm, SwiGLU."""

    hidden_size: int = Field(256, ge=2, le=65_536)
    """Size of a token within the network, 2 to 65,536."""
    n_layers: int = Field(3, ge=1, le=256)
    """Stacked blocks, 1 to 256."""
    inner_size: int = Field(512, ge=1, le=262_144)
    """Units of a block's SwiGLU layer, 1 to 262,144."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping an output of a block while training, 0 to 1."""
    max_length: MaxLength = 256


class TransformerConfig(BlocksConfig):
    """A decoder-only transformer with rotary positions; the defaults have 2 million weights."""

    kind: Literal["transformer"] = "transformer"
    """Causal attention: Llama's layers."""
    n_heads: int = Field(4, ge=1, le=1_024)
    """Attention heads of a block, 1 to 1,024; hidden_size is a multiple of twice this."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require a size that the heads can share."""
        yield from shared_by_heads(self.hidden_size, self.n_heads)


class MinGruConfig(BlocksConfig):
    """A linear recurrence, minGRU (arXiv 2410.01201); the defaults have 2.4 million weights."""

    kind: Literal["mingru"] = "mingru"
    """A recurrence whose gates depend on the tokens only: parallel over them in training."""
    n_units: int = Field(384, ge=1, le=65_536)
    """Units of a block's recurrence, 1 to 65,536."""


def shared_by_heads(hidden_size: int, n_heads: int) -> Iterator[tuple[str, str]]:
    """Require a size that heads can share, for `Config.problems`."""
    if hidden_size % (2 * n_heads):
        text = f"hidden_size = {hidden_size} should be a multiple of {2 * n_heads}"
        yield "", f"{text}: n_heads = {n_heads} heads share it, and their positions come in pairs"


class MaximumLikelihood(Config):
    """Base of maximum-likelihood training on a prepared corpus."""

    corpus: InputPath
    """Output folder of the prepare stage."""
    train_split: str = "train"
    """Split to train on."""
    valid_molecules: int = Field(10_000, ge=1)
    """Most molecules of the validation split to use."""
    randomise: bool = False
    """Write every training molecule as a new random SMILES each time it is read."""
    epochs: int = Field(10, ge=1)
    """Passes over the training split."""
    patience: int | None = added_later(ge=1)
    """Ends the run, with ended_by patience, after this many validations in a row without a lower
    negative log-likelihood, and writes the best weights. null: off; the last weights are
    written."""
    batch_size: int = Field(128, ge=1)
    """Molecules per step, over all devices together."""
    learning_rate: float = Field(1e-3, gt=0)
    """Highest learning rate of AdamW, after the warm-up; then a half cosine down to zero."""
    warmup_steps: int = Field(200, ge=0)
    """Steps over which the learning rate rises linearly from zero."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of AdamW."""
    gradient_clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient; larger ones are scaled down to it."""
    samples_per_epoch: int = Field(1_000, ge=0)
    """Molecules sampled after each epoch for validity, uniqueness and novelty; 0: none."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between two checkpoints; a killed run continues from the last one."""
    n_workers: int = Field(0, ge=0)
    """Processes that read batches; 0: the training process itself. Useful with `randomise`."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of weights, order of the molecules, spellings and samples."""
    precision: Precision = "auto"
    trainer: TrainerSettings = Field(default_factory=dict)
    """Further arguments of lightning.Trainer, for example accelerator, devices, max_steps or
    log_every_n_steps (default 10; 0: no logs)."""


class ReplayConfig(Config):
    """Trains on samples of the initial model in addition to the fine-tuning set."""

    share: float = Field(gt=0, lt=1)
    """Their share of the loss, between 0 and 1; a batch of n gets n share / (1 - share) of them."""


class TokensConfig(Config):
    """Tokens of the network."""

    merges: int = Field(0, ge=0, le=10_000)
    """Number of fragments (common token sequences by byte-pair encoding of the training split) that
    become tokens in addition to atoms, bonds and brackets: 200 shorten a molecule to a third. 0:
    none."""


def _default_without_init(model: Any, info: ValidationInfo) -> Any:
    return RnnConfig() if model is None and info.data.get("init") is None else model


class PretrainConfig(MaximumLikelihood):
    """Maximum-likelihood training of a SMILES generator on a prepared corpus."""

    valid_split: str | None = "valid"
    """Split whose negative log-likelihood is reported each epoch; null: a part of train_split is
    held out instead, see valid_share."""
    valid_corpus: InputPath | None = added_later()
    """Output folder of another prepare stage that has valid_split. null: corpus."""
    valid_share: float = added_later(0.1, gt=0, lt=1)
    """Share of train_split that is held out if valid_split is null, by seed, and at least one
    molecule: for small sets, where a split by hash may be empty."""
    init: ModelPath | None = added_later()
    """Model file to fine-tune (.safetensors, or .prior of REINVENT): network and tokens come from
    it, so leave out model and tokens. null: new weights."""
    extend_vocabulary: bool = added_later(False)
    """Adds the tokens of the corpus that init lacks to its network: rows of embedding and output,
    which start with less than 1e-4 of the probability. false: such a token is an error."""
    replay: ReplayConfig | None = added_later()
    """Against forgetting: each batch also gets new samples of init, so that the model is trained
    towards a mixture of both. null: none."""
    report_samples: int = added_later(1_000, ge=0)
    """Molecules sampled from init and from the fine-tuned model, and taken from each set, for the
    report on how far the model moved: likelihoods, quality and similarity before and after. 0: no
    report."""
    tokens: TokensConfig = added_later(TokensConfig())
    """Single tokens of SMILES, or also fragments."""

    model: Annotated[
        Annotated[
            RnnConfig | TransformerConfig | MinGruConfig,
            by_kind(RnnConfig, TransformerConfig, MinGruConfig, default="rnn"),
        ]
        | None,
        BeforeValidator(_default_without_init),
    ] = None
    """The network: kind rnn (the default; REINVENT's), transformer or mingru; null: the network of
    init if it is given, otherwise the default."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse settings that have no effect with, or without, init."""
        if self.valid_corpus is not None and self.valid_split is None:
            yield "valid_corpus", "give the valid_split to use from it"
        if self.init is None and self.replay is not None:
            yield "replay", "needs init: its samples are replayed"
        if self.init is None and self.report_samples != 1_000:
            yield "report_samples", "needs init: the report compares with it"
        if self.init is None and self.extend_vocabulary:
            yield "extend_vocabulary", "needs init: a new network has all tokens of the corpus"
        if self.init is not None and self.model is not None:
            yield "model", "init has its own network: leave out model or init"
        if self.init is not None and self.tokens.merges:
            yield "tokens.merges", "init has its own tokens: leave out tokens or init"


_WORD = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"


class LlamaConfig(Config):
    """A small decoder with Llama's layers; the defaults have 0.8 million weights."""

    kind: Literal["llama"] = "llama"
    """Llama's layers, in Hugging Face's format."""
    hidden_size: int = Field(128, ge=2, le=65_536)
    """Size of a token within the network; a multiple of twice n_heads."""
    n_layers: int = Field(4, ge=1, le=256)
    """Stacked layers, 1 to 256."""
    n_heads: int = Field(4, ge=1, le=1_024)
    """Attention heads of a layer, 1 to 1,024."""
    inner_size: int | None = Field(None, ge=1)
    """Units of the feed-forward part of a layer; null: 8/3 of hidden_size, rounded up to a multiple
    of 32."""
    max_length: int = Field(128, ge=4, le=65_536)
    """Most tokens that it can read: tags, molecule and end token together."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require a size that the heads can share."""
        yield from shared_by_heads(self.hidden_size, self.n_heads)


class ConditionConfig(Config):
    """A property of the molecule as a tag in front of it: <name_level>."""

    kind: str
    """The property: the raw value of a reward component, for example logp or tpsa."""
    name: Annotated[str, Field(pattern=rf"^({_WORD})?$"), NamedByKind] = ""
    """First part of its tags: letters, digits, _ . + - only; default: its kind."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the component; empty: its defaults. A relative path is looked up in the working
    directory."""
    cuts: list[FiniteFloat] = Field(min_length=1)
    """Values between the levels, in the component's unit and rising order; a value at a cut belongs
    to the level above."""
    names: Annotated[list[Annotated[str, Field(pattern=rf"^{_WORD}$")]], Distinct]
    """Names of the levels from the lowest: one more than there are cuts, for example [low, mid,
    high]."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require rising cuts, and a name for each level."""
        n, n_names = len(self.cuts), len(self.names)
        if any(low >= high for low, high in pairwise(self.cuts)):
            yield "cuts", f"should rise, but are {self.cuts}"
        if n_names != n + 1:
            yield "", f"{n} cuts make {n + 1} levels, but names has {n_names}"

    @property
    def tags(self) -> list[str]:
        """Its tags from the lowest level: <logp_low>, <logp_mid>, ..."""
        return [f"<{self.name}_{level}>" for level in self.names]

    def level(self, value: float) -> int:
        """Return the level of a value, from 0."""
        return sum(value >= cut for cut in self.cuts)

    def band(self, level: int) -> str:
        """Describe the values of a level."""
        ends = ["", *(f"{cut:g}" for cut in self.cuts), ""]
        low, high = ends[level], ends[level + 1]
        parts = [f"{low} <=" if low else "", self.kind, f"< {high}" if high else ""]
        return " ".join(filter(None, parts))


class PretrainLlmConfig(MaximumLikelihood):
    """Maximum-likelihood training of a small language model on "<tag> SMILES"."""

    valid_split: str = "valid"
    """Split whose negative log-likelihood is reported each epoch."""
    model: LlamaConfig = LlamaConfig()
    """The network."""
    conditions: list[ConditionConfig] = Field(min_length=1)
    """Properties in front of the molecule, in this order, one tag each: a prompt is one tag of each
    condition."""
    train_molecules: int | None = Field(None, ge=1)
    """Number of first molecules of the training split to use: their properties are computed before
    training. null: all."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require distinct tags."""
        if tags := repeated(tag for condition in self.conditions for tag in condition.tags):
            text = "give one of the conditions another name"
            yield "conditions", f"two levels have the tag {tags}: {text}"
