"""Settings of a policy's network."""

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
    """Numbers that stand for a token, 1 to 65,536."""
    hidden_size: int = Field(512, ge=1, le=65_536)
    """Units of each layer, 1 to 65,536."""
    n_layers: int = Field(3, ge=1, le=64)
    """Stacked layers, 1 to 64."""
    projection_size: int | None = added_later(ge=1, le=65_536)
    """Numbers that the units of a layer are projected to before they go on; fewer than units, and
    LSTM only. null: they go on as they are."""  # left out then: runs from before go on
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping a unit between layers while training, 0 to 1."""
    max_length: MaxLength = 256

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for a projection that torch's layers can make."""
        if self.projection_size is not None and self.cell != "lstm":
            yield "projection_size", "an LSTM alone has one: leave it out, or take cell: lstm"
        elif self.projection_size is not None and self.projection_size >= self.hidden_size:
            yield "projection_size", f"should be less than hidden_size, {self.hidden_size}"


class BlocksConfig(Config):
    """A stack of residual blocks: RMSNorm, what mixes the tokens, RMSNorm, SwiGLU."""

    hidden_size: int = Field(256, ge=2, le=65_536)
    """Numbers that stand for a token within the network, 2 to 65,536."""
    n_layers: int = Field(3, ge=1, le=256)
    """Stacked blocks, 1 to 256."""
    inner_size: int = Field(512, ge=1, le=262_144)
    """Units of a block's SwiGLU layer, 1 to 262,144."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping a number that a block adds while training, 0 to 1."""
    max_length: MaxLength = 256


class TransformerConfig(BlocksConfig):
    """A decoder-only transformer with rotary positions; the defaults have 2 million weights."""

    kind: Literal["transformer"] = "transformer"
    """Causal attention: Llama's layers."""
    n_heads: int = Field(4, ge=1, le=1_024)
    """Attention heads of a block, 1 to 1,024; hidden_size is a multiple of twice so many."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for a size that the heads can share."""
        yield from shared_by_heads(self.hidden_size, self.n_heads)


class MinGruConfig(BlocksConfig):
    """A linear recurrence, minGRU (arXiv 2410.01201); the defaults have 2.4 million weights."""

    kind: Literal["mingru"] = "mingru"
    """A recurrence whose gates look at the tokens alone: parallel over them in training."""
    n_units: int = Field(384, ge=1, le=65_536)
    """Units of a block's recurrence, 1 to 65,536."""


def shared_by_heads(hidden_size: int, n_heads: int) -> Iterator[tuple[str, str]]:
    """Ask for a size that heads can share, as one of the `Config.problems`."""
    if hidden_size % (2 * n_heads):
        wanted = f"hidden_size = {hidden_size} should be a multiple of {2 * n_heads}"
        text = "heads share it, and a head's positions come in pairs"
        yield "", f"{wanted}: n_heads = {n_heads} {text}"


class MaximumLikelihood(Config):
    """What all maximum-likelihood training on a prepared corpus is told."""

    corpus: InputPath
    """Output folder of the prepare stage."""
    train_split: str = "train"
    """Split to learn from."""
    valid_molecules: int = Field(10_000, ge=1)
    """At most so many molecules of the validation split are used."""
    randomise: bool = False
    """Write every training molecule as another random SMILES each time it is read."""
    epochs: int = Field(10, ge=1)
    """Passes over the training split."""
    patience: int | None = added_later(ge=1)
    """Ends the run, with ended_by patience, after so many validations in a row without a lower
    negative log-likelihood; the weights that had the lowest one are written. null: the last are."""
    batch_size: int = Field(128, ge=1)
    """Molecules a step, over all devices together."""
    learning_rate: float = Field(1e-3, gt=0)
    """AdamW's highest rate; reached after the warm-up, then a half cosine down to zero."""
    warmup_steps: int = Field(200, ge=0)
    """Steps over which the rate rises linearly from zero."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay."""
    gradient_clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient; a longer one is scaled down to it."""
    samples_per_epoch: int = Field(1_000, ge=0)
    """Molecules sampled after each epoch for validity, uniqueness and novelty; 0: none."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between two checkpoints; a killed run continues from the last one."""
    n_workers: int = Field(0, ge=0)
    """Processes that read batches; 0: the training process itself. Useful with `randomise`."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Decides weights, order of the molecules, spellings and samples."""
    precision: Precision = "auto"
    trainer: TrainerSettings = Field(default_factory=dict)
    """Further arguments of lightning.Trainer, for example accelerator, devices, max_steps or
    log_every_n_steps (default 10; 0: no logs)."""


class ReplayConfig(Config):
    """Samples of the model that fine-tuning began with, learnt again beside the set."""

    share: float = Field(gt=0, lt=1)
    """Their part of the loss, between 0 and 1; beside a batch of n come n share / (1 - share)."""


class TokensConfig(Config):
    """What the network reads and writes at a step."""

    merges: int = Field(0, ge=0, le=10_000)
    """Fragments, common runs of tokens by byte-pair encoding of the training split, that become
    tokens beside atoms, bonds and brackets: 200 leave a third of a molecule's steps. 0: none."""


def _new_unless_init(model: Any, info: ValidationInfo) -> Any:
    return RnnConfig() if model is None and info.data.get("init") is None else model


class PretrainConfig(MaximumLikelihood):
    """Maximum-likelihood training of a SMILES generator on a prepared corpus."""

    valid_split: str | None = "valid"
    """Split whose negative log-likelihood is reported each epoch; null: a part of train_split is
    held back for it, see valid_share."""
    valid_corpus: InputPath | None = added_later()
    """Output folder of another prepare stage, of which valid_split is taken. null: of corpus."""
    valid_share: float = added_later(0.1, gt=0, lt=1)
    """Share of train_split that is held back where valid_split is null, by seed; at least one
    molecule, whatever the share: for small sets, of which a split by hash may be empty."""
    init: ModelPath | None = added_later()
    """Model file to begin with (.safetensors, or .prior of REINVENT), which is fine-tuned: network
    and tokens are its own, so model and tokens are left out. null: new weights."""
    extend_vocabulary: bool = added_later(False)
    """Gives the network of init the tokens of the corpus that it lacks: rows of embedding and
    output, which begin with less than 1e-4 of the mass. false: such a token is an error."""
    replay: ReplayConfig | None = added_later()
    """Against forgetting: beside each batch come fresh samples of init, which are learnt too, so
    that the model walks to a mixture of both. null: none."""
    report_samples: int = added_later(1_000, ge=0)
    """Molecules sampled of init and of the fine-tuned model, and taken of each set, for the report
    of how far it moved: likelihoods, quality and likeness before and after. 0: no report."""
    tokens: TokensConfig = added_later(TokensConfig())
    """Single tokens of SMILES, or fragments beside them."""  # left out then, as projection_size

    model: Annotated[
        Annotated[
            RnnConfig | TransformerConfig | MinGruConfig,
            by_kind(RnnConfig, TransformerConfig, MinGruConfig, default="rnn"),
        ]
        | None,
        BeforeValidator(_new_unless_init),
    ] = None
    """The network: kind rnn (the default; REINVENT's), transformer or mingru; null: the default, or
    that of init where there is one."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for one network: new, or that of a file."""
        if self.valid_corpus is not None and self.valid_split is None:
            yield "valid_corpus", "name the valid_split of it that is to be taken"
        if self.init is None and self.replay is not None:
            yield "replay", "for init alone: what is replayed are its samples"
        if self.init is None and self.report_samples != 1_000:
            yield "report_samples", "for init alone: a new network has not moved from anywhere"
        if self.init is None and self.extend_vocabulary:
            yield "extend_vocabulary", "for init alone: a new network has all tokens of the corpus"
        if self.init is not None and self.model is not None:
            yield "model", "init has a network of its own: leave model out, or init"
        if self.init is not None and self.tokens.merges:
            yield "tokens.merges", "init has tokens of its own: leave tokens out, or init"


_WORD = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"


class LlamaConfig(Config):
    """A small decoder with Llama's layers, made anew; the defaults have 0.8 million weights."""

    kind: Literal["llama"] = "llama"
    """Llama's layers, in Hugging Face's format."""
    hidden_size: int = Field(128, ge=2, le=65_536)
    """Numbers that stand for a token within the network; a multiple of twice n_heads."""
    n_layers: int = Field(4, ge=1, le=256)
    """Stacked layers, 1 to 256."""
    n_heads: int = Field(4, ge=1, le=1_024)
    """Attention heads of a layer, 1 to 1,024."""
    inner_size: int | None = Field(None, ge=1)
    """Units within a layer's feed-forward part; null: 8/3 of hidden_size, rounded up to a multiple
    of 32."""
    max_length: int = Field(128, ge=4, le=65_536)
    """Tokens that it can read: tags, molecule and end token together."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for a size that the heads can share."""
        yield from shared_by_heads(self.hidden_size, self.n_heads)


class ConditionConfig(Config):
    """A property of the molecule, told as a tag in front of it: <name_level>."""

    kind: str
    """Which property: a reward component, for example logp or tpsa; its raw value counts."""
    name: Annotated[str, Field(pattern=rf"^({_WORD})?$"), NamedByKind] = ""
    """What its tags begin with: letters, digits, _ . + - only; default: its kind."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """What the component takes; empty: its defaults. A relative path is looked up in the
    working directory."""
    cuts: list[FiniteFloat] = Field(min_length=1)
    """Values that divide the levels, in the component's unit, rising; a value at a cut belongs to
    the level above."""
    names: Annotated[list[Annotated[str, Field(pattern=rf"^{_WORD}$")]], Distinct]
    """The levels, from the lowest: one more than there are cuts, for example [low, mid, high]."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for rising cuts, and a name for each level."""
        n, n_names = len(self.cuts), len(self.names)
        if any(low >= high for low, high in pairwise(self.cuts)):
            yield "cuts", f"should rise, but are {self.cuts}"
        if n_names != n + 1:
            yield "", f"{n} cuts make {n + 1} levels, but names has {n_names}"

    @property
    def tags(self) -> list[str]:
        """Its tags, from the lowest level: <logp_low>, <logp_mid>, ..."""
        return [f"<{self.name}_{level}>" for level in self.names]

    def level(self, value: float) -> int:
        """The level of a value, from 0."""
        return sum(value >= cut for cut in self.cuts)

    def band(self, level: int) -> str:
        """What values a level has, in words."""
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
    """Properties that are told in front of the molecule, in this order, one tag each: a prompt is
    one tag of each condition."""
    train_molecules: int | None = Field(None, ge=1)
    """At most so many molecules of the training split, the first ones, are used: the properties of
    each are computed before the training. null: all."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for tags that differ."""
        twice = repeated(tag for condition in self.conditions for tag in condition.tags)
        if twice:
            text = "give one of the conditions another name"
            yield "conditions", f"two levels have the tag {twice}: {text}"
