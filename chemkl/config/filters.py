"""Settings of the diversity filters: which molecules share a bucket, and what one is paid there."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import Field, SerializationInfo, SerializerFunctionWrapHandler, model_serializer

from chemkl.config.base import Config, by_kind

Penalty = Literal["step", "linear", "sigmoid", "tanh", "erf"]
BitFingerprint = Literal["morgan", "feature_morgan", "atom_pairs", "torsions", "rdkit_path"]
Fingerprint = Annotated[
    BitFingerprint,
    Field(
        description="The fingerprint by which distances are measured, 2048 bits: morgan (ECFP4), "
        "feature_morgan (FCFP4), atom_pairs, torsions or rdkit_path."
    ),
]
Distance = Annotated[
    float,
    Field(
        gt=0,
        le=1,
        description="Tanimoto distance (1 - similarity, no unit, above 0 to 1). A hit nearer than "
        "this to the first one of a bucket belongs to it (of several, to the oldest); any other "
        "begins a bucket.",
    ),
]


class FilterConfig(Config):
    """Pay each bucket of alike molecules a limited number of times, so that the policy moves on."""

    kind: str
    """Which molecules share a bucket."""
    bucket: int = Field(25, ge=1)
    """How many sampled molecules of one bucket are paid; all later ones get 0. Exact, also
    within a batch: rows are taken in order. A molecule that is sampled again counts again, if
    repeats do."""
    min_score: float = Field(0.4, ge=0, le=1)
    """Rewards below this neither fill a bucket nor are touched by it."""
    penalty: Penalty = "step"
    """What share of its reward the n-th molecule of a bucket is paid. step: all up to bucket, then
    none; linear, sigmoid, tanh and erf fall with n / bucket to 0 or nearly so."""
    floor: float = Field(0.0, ge=0, lt=1)
    """Share of the reward that is always paid, however full the bucket; 0 to less than 1."""
    repeats: bool = True
    """Whether a molecule that a call was spent on before counts and is paid as a new one would be;
    false: it gets 0, whatever its reward, min_score and floor, and takes no place in a bucket. A
    memory replays it all the same, as long as its bucket is paid."""

    @model_serializer(mode="wrap")
    def _without_defaults(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """Leave later keys at their defaults out of the JSON that tells runs from each other."""
        values: dict[str, Any] = handler(self)
        later = ("penalty", "floor", "repeats") if info.mode == "json" else ()
        for name in later:
            if values[name] == FilterConfig.model_fields[name].default:
                del values[name]
        return values


class MurckoFilterConfig(FilterConfig):
    """Identical Bemis-Murcko scaffolds share a bucket, all acyclic molecules too."""

    kind: Literal["murcko"]
    """Identical Bemis-Murcko scaffold."""


class GenericFilterConfig(FilterConfig):
    """Identical generic (topological) scaffolds share a bucket: no elements, no bond orders."""

    kind: Literal["generic"]
    """Identical generic scaffold."""


class ScaffoldSimilarityFilterConfig(FilterConfig):
    """Similar Bemis-Murcko scaffolds share a bucket, all acyclic molecules too."""

    kind: Literal["scaffold_similarity"]
    """Bemis-Murcko scaffolds nearer than distance."""
    distance: Distance = 0.5
    fingerprint: Fingerprint = "atom_pairs"


class MoleculeSimilarityFilterConfig(FilterConfig):
    """Similar molecules share a bucket; with bucket 1 a hit near a paid one is worth 0."""

    kind: Literal["molecule_similarity"]
    """Molecules nearer than distance (sphere exclusion)."""
    bucket: int = Field(1, ge=1)
    """How many sampled molecules of one sphere are paid; all later ones get 0. 1 as in Renz et al.,
    J. Chem. Inf. Model. 2024 (PMC11323242)."""
    distance: Distance = 0.7
    fingerprint: Fingerprint = "morgan"


class SameSmilesFilterConfig(FilterConfig):
    """A molecule shares a bucket with itself alone, however its SMILES is written."""

    kind: Literal["same_smiles"]
    """Identical canonical SMILES."""
    bucket: int = Field(1, ge=1)
    """How often a molecule is paid when it is sampled again and again; later it gets 0."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse what would leave the bucket nothing to count."""
        if not self.repeats:
            text = "false pays a molecule once, as bucket: 1 does with this kind: leave it out"
            yield "repeats", text


FILTERS: dict[str, type[FilterConfig]] = {
    "murcko": MurckoFilterConfig,
    "generic": GenericFilterConfig,
    "scaffold_similarity": ScaffoldSimilarityFilterConfig,
    "molecule_similarity": MoleculeSimilarityFilterConfig,
    "same_smiles": SameSmilesFilterConfig,
}
"""The settings of every filter, by kind; `chemkl.training.filters` says what each does."""

if TYPE_CHECKING:
    DiversityFilter = FilterConfig
else:
    DiversityFilter = Annotated[Union[*FILTERS.values()], by_kind(*FILTERS.values())]
"""The settings of any filter, told apart by its kind."""
