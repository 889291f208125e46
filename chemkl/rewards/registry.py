"""The registry of reward components, with the types of their parameters and the printed tables."""

import inspect
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from rdkit.Chem import Mol
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from chemkl.chem.molecules import MoleculeError
from chemkl.config import Config, InputError, InputPath, did_you_mean
from chemkl.config.base import Keys, install_command
from chemkl.config.loading import Document, render
from chemkl.config.reward import SETTINGS, documented, fields_of, is_group
from chemkl.config.schema import keys_of

MANY = (0, math.inf)  # the range of counts and of other numbers from 0
REAL = (-math.inf, math.inf)  # the range of any number

MOST_PROBLEMS = 10
"""Limit on the bad values of a list that a message names; it says how many more there are."""

Score = Callable[[Mol], float]  # score function of a component: one molecule to one number


class TransientError(RuntimeError):
    """Raised by a component for a failure that may not occur again.

    Examples are a licence in use or a server that does not answer. The molecule is scored again, up
    to `retries` times (a setting of the reward). Any other exception is final.
    """


@dataclass(frozen=True, slots=True)
class Failure:
    """A batched component's result for a molecule that it cannot score."""

    reason: str
    transient: bool = False


BatchScore = Callable[[Sequence[Mol]], Sequence[float | Failure]]
"""Score function of a batched component: molecules to as many numbers, in order."""


@dataclass(frozen=True)
class Identified:
    """A score function with the identity of what its values depend on besides the parameters."""

    score: Callable[[Sequence[Mol]], Sequence[float | Failure]]
    identity: str

    def __call__(self, mols: Sequence[Mol]) -> Sequence[float | Failure]:
        """Score molecules."""
        return self.score(mols)


# ---- types of parameters, and checks of what components need

ONE_FOR_MANY = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
OneOrMore = Annotated[list[str], ONE_FOR_MANY, Field(min_length=1)]
"""Type of a parameter: a non-empty list of strings; a single string is a list of one."""


def one_of(names: Collection[str], what: str) -> AfterValidator:
    """Return a validator that accepts only these names and suggests similar ones."""

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"{value!r} is not {what}{did_you_mean(value, names)}")
        return value

    return AfterValidator(check)


def _file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    return path


InputFile = Annotated[InputPath, AfterValidator(_file)]
"""Type of a parameter: an existing file, looked up like `InputPath`."""


def package_folder(package: str) -> Path | None:
    """Return the folder of an installed package without importing it, or None."""
    spec = find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def needed_package(package: str, user: str, extra: str) -> Path:
    """Return the folder of a package; an InputError says how to install a missing one."""
    folder = package_folder(package)
    if folder is None:
        raise InputError(
            f"{user} needs the package {package}: install it with {install_command(extra)}"
        )
    return folder


def refuse(problems: Sequence[str]) -> None:
    """Raise an InputError with a line for each of the first problems, if there are any."""
    lines = list(problems[:MOST_PROBLEMS])
    if len(problems) > MOST_PROBLEMS:
        lines.append(f"and {len(problems) - MOST_PROBLEMS} more like these")
    InputError.refuse(lines)


def placed(document: Document, keys: Keys, problem: object) -> str:
    """Prefix a problem with its place: ``file:line: key.path: problem``."""
    path = ".".join(str(key) for key in (*document.prefix, *keys))
    return ": ".join(filter(None, [document.where(keys), path, str(problem)]))


# ---- components


class _Parameters(Config):
    model_config = ConfigDict(allow_inf_nan=True, validate_default=False, protected_namespaces=())


@dataclass(frozen=True)
class Component:
    """A kind of reward component.

    Attributes:
        kind: Its name in configs.
        factory: Takes the parameters, does all costly set-up once, returns the score function.
        unit: Unit of the raw value; empty for a pure number.
        range: Smallest and largest possible raw value.
        source: Paper or program that defines it.
        batched: Its score function takes a list of molecules (BatchScore), not one (Score).
        costly: It scores only molecules that passed every filter, after all other components.
        version: Version of its values, from 1; cached values of another version are not used.
    """

    kind: str
    factory: Callable[..., Score | BatchScore]
    unit: str
    range: tuple[float, float]
    source: str
    batched: bool = False
    costly: bool = False
    version: int = 1

    @cached_property
    def parameter_model(self) -> type[BaseModel]:
        """The schema of the parameters, derived from the factory's signature."""
        return _Parameters.with_fields(self.kind, fields_of(self.factory))

    def build(self, parameters: Mapping[str, Any], document: Document | None = None) -> Any:
        """Check the parameters, which come from `document`, and return the score function.

        Raises:
            InputError: Unknown, missing or invalid parameters; one line each.
        """
        document = document or Document(parameters, self.kind)
        if parameters and not self.parameter_model.model_fields:
            names = ", ".join(map(str, parameters))
            refuse([placed(document, (), f"{self.kind} takes no parameters (got {names})")])
        try:
            checked = self.parameter_model.model_validate(
                dict(parameters), context={"folder": document.folder}
            )
            values = {}
            for name, kind in get_type_hints(self.factory).items():
                if is_group(kind):
                    values[name] = kind(*(getattr(checked, key) for key in kind._fields))
                elif name != "return":
                    values[name] = getattr(checked, name)
            return self.factory(**values)
        except ValidationError as error:
            lines = [text for _, text in render(error, replace(document, data=parameters))]
        except (InputError, MoleculeError) as error:  # a MoleculeError of a reference molecule
            lines = [placed(document, (), line) for line in str(error).splitlines()]
        raise InputError("\n".join(lines))


COMPONENTS: dict[str, Component] = {}  # all components by kind

Factory = TypeVar("Factory", bound=Callable[..., Score | BatchScore])


def component(
    kind: str,
    *,
    unit: str = "",
    range: tuple[float, float],
    source: str,
    batched: bool = False,
    costly: bool = False,
    version: int = 1,
) -> Callable[[Factory], Factory]:
    """Register a component: decorate a factory whose typed signature is its parameter schema.

    For example::

        @component("heavy_atoms", unit="atoms", range=(0, math.inf), source="RDKit")
        def heavy_atoms() -> Score:
            return lambda mol: mol.GetNumHeavyAtoms()

    Settings shared by several components are one parameter whose type is a NamedTuple of them. If
    the score function raises for a molecule, the molecule gets NaN, the exception's text as its
    reason, and reward 0. An InputError from the factory is a mistake in the config. With
    ``batched=True`` the score function takes a list of molecules and returns as many numbers, or a
    Failure for a molecule that it cannot score. With ``costly=True`` it is called last, and only
    for molecules that passed every filter. ``version`` is part of the key in a cache: raise it when
    the value of any molecule changes, through the component or through code of chemkl that it uses,
    but not for changes of text or speed.

    Raises:
        ValueError: The kind is taken or not a lower-case name, or a parameter has no type.
    """

    def register(factory: Factory) -> Factory:
        existing = COMPONENTS[kind].factory if kind in COMPONENTS else None
        problems = []
        if not re.fullmatch(r"[a-z][a-z0-9_]*", kind):
            problems.append("use lower-case letters, digits and _")
        if existing is not None:
            problems.append(f"is registered already, by {existing.__module__}.{existing.__name__}")
        for name, parameter in inspect.signature(factory).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                problems.append(f"parameter *{name} has no schema")
            if parameter.annotation is parameter.empty:
                problems.append(f"parameter {name!r} needs a type")
        if problems:
            raise ValueError(f"component {kind!r}: {'; '.join(problems)}")
        COMPONENTS[kind] = Component(kind, factory, unit, range, source, batched, costly, version)
        return factory

    return register


def register_table(
    module: str,
    rows: Iterable[tuple[Any, ...]],
    factory_of: Callable[[Score], Callable[..., Score]] = lambda function: lambda: function,
    *,
    costly: bool = False,
) -> None:
    """Register components from rows of kind, function, unit, range, source and meaning.

    In a source {} stands for the function's name; an empty source is "RDKit {}". `factory_of` makes
    the factory of a function, by default one without parameters.
    """
    for kind, function, unit, limits, source, meaning in rows:
        factory = factory_of(function)
        factory.__name__ = factory.__qualname__ = kind
        factory.__doc__, factory.__module__ = meaning, module
        source = (source or "RDKit {}").format(function.__name__)
        component(kind, unit=unit, range=limits, source=source, costly=costly)(factory)


def find_component(kind: str, part: Document | None = None) -> Component:
    """Look up a component, named in `part` of a config; an InputError suggests similar kinds."""
    if kind not in COMPONENTS:
        meanings = {name: paragraphs(entry.factory)[0] for name, entry in COMPONENTS.items()}
        hint = did_you_mean(
            kind, COMPONENTS, also=SYNONYMS, meanings=meanings, listed="chemkl show rewards"
        )
        problem = f"unknown component {kind!r}{hint}"
        raise InputError(problem if part is None else placed(part, ("kind",), problem))
    return COMPONENTS[kind]


_NAMES = {
    "activity": "qsar classifier bioactivity PredictiveProperty DRD2 GSK3B JNK3",
    "admet": "ADMETAI toxicity solubility hERG ChemProp BBB clearance",
    "alert_count": "alerts structural_alerts PAINS BRENK",
    "batch_program": "ExternalProcess external subprocess command",
    "contains_scaffold": "core scaffold ScaffoldPresence",
    "csp3_fraction": "Csp3 FractionCSP3 fsp3",
    "dice": "DiceSimilarity",
    "element_count": "AtomCount AtomCounter halogens",
    "exact_mass": "ExactMolWt MonoisotopicMass mass",
    "external_program": "ExternalProcess external subprocess command Maize Icolos",
    "forbidden_smarts": "CustomAlerts unwanted_smarts SubstructureFilters blacklist",
    "formal_charge": "charge NetCharge FormalCharge",
    "functional_group_count": "GroupCount FragmentCount",
    "hba": "HBondAcceptors NumHBA NumHAcceptors num_hba_lipinski acceptors",
    "hbd": "HBondDonors NumHBD NumHDonors num_hbd_lipinski donors",
    "heavy_atoms": "NumHeavyAtoms HeavyAtomCount NumAtoms size",
    "isomer_score": "Isomer IsomerScoringFunction molecular_formula",
    "largest_ring": "LargestRingSize RingSize",
    "logp": "SlogP MolLogP cLogP ALogP WLogP CrippenLogP lipophilicity",
    "mol_wt": "MolecularWeight MW MolWt MWt weight ExactMW",
    "molar_refractivity": "MolMR MR",
    "molecular_volume": "MolVolume volume",
    "no_alerts": "CustomAlerts alerts structural_alerts PAINS BRENK",
    "npr1": "NPR PMI",
    "npr2": "NPR PMI",
    "onnx_model": "ONNX qsar QSARModel Qptuna",
    "penalized_logp": "plogp",
    "python_function": "function custom own lambda",
    "qed": "QEDScore drug_likeness druglikeness QuantitativeEstimateOfDrugLikeness",
    "rdkit_descriptor": "RDKitDescriptors descriptor RdkitScoringFunction",
    "reaction_filter": "ReactionFilter reaction",
    "required_smarts": "substructure smarts MatchingSubstructure substructure_match "
    "SMARTSScoringFunction pattern",
    "rings": "RingCount NumRings",
    "rotatable_bonds": "NumRotBond NumRotatableBonds RotatableBondCount nrotb",
    "sa_score": "SAScore SA SyntheticAccessibility synthesizability synthesisability",
    "scaffold_match": "scaffold MurckoScaffold",
    "scaffold_similarity": "ScaffoldSimilarity ScaffoldTanimoto",
    "sklearn_model": "sklearn scikit_learn RandomForest svm pickle",
    "smarts_count": "SubstructureCount MatchCount",
    "sp_atoms": "numsp",
    "sp2_atoms": "numsp2",
    "sp3_atoms": "numsp3",
    "spherocity": "shape globularity",
    "stereo_centres": "chirality NumAtomStereoCenters number_of_stereo_centers NumStereocenters "
    "chiral_centers stereocenters",
    "tanimoto": "TanimotoSimilarity TanimotoDistance similarity JaccardDistance "
    "MolecularSimilarity ROCSSimilarity fingerprint rediscovery",
    "tpsa": "PSA TopologicalPolarSurfaceArea PolarSurfaceArea",
    "tversky": "TverskySimilarity",
    "vina": "docking dock DockStream AutoDock QuickVina2 Glide smina",
}

SYNONYMS = {kind: tuple(names.split()) for kind, names in _NAMES.items()}
"""Other names by kind: those of REINVENT, Saturn, MolScore, GuacaMol and RDKit, and common ones.

A name may belong to two kinds; case, blanks and punctuation do not matter.
"""

# ---- tables of components and transforms

_COSTLY = "computed last, and only for molecules that passed every filter"


def reward_tables(kind: str | None = None) -> Iterator[RenderableType]:
    """Yield a table of all components by family, or the details of one."""
    if kind is not None:
        yield from _details(find_component(kind))
        return

    by_family = sorted(COMPONENTS.values(), key=attrgetter("factory.__module__", "kind"))
    for module, members in groupby(by_family, key=attrgetter("factory.__module__")):
        headings = ("kind", "what it is", "parameters", "unit", "range", "source")
        title = module.rpartition(".")[2]
        table = Table(*headings, title=title, title_justify="left", expand=True, show_lines=True)
        for entry in members:
            table.add_row(
                entry.kind + (" *" if entry.costly else ""),
                escape(paragraphs(entry.factory)[0]),
                "\n".join(escape(key.brief) for key in keys_of(entry.parameter_model)) or "-",
                escape(entry.unit) or "-",
                "{:g} to {:g}".format(*entry.range),
                escape(entry.source),
            )
        yield table
    yield f"* costly: {_COSTLY}."
    yield "Details of one component: chemkl show rewards KIND"


def _details(entry: Component) -> Iterator[RenderableType]:
    facts = Table(show_header=False, box=None)
    limits = "{:g} to {:g}".format(*entry.range)
    rows = {"kind": entry.kind, "unit": entry.unit or "-", "range": limits, "source": entry.source}
    for name, text in (rows | ({"costly": _COSTLY} if entry.costly else {})).items():
        facts.add_row(name, escape(text))
    yield facts
    for paragraph in paragraphs(entry.factory):
        yield f"\n{escape(paragraph)}"
    table = Table("parameter", "type", "default", "meaning", show_lines=True)
    for key in keys_of(entry.parameter_model):
        table.add_row(*map(escape, key._replace(default=key.default or "required")))
    yield ""
    yield table if table.row_count else "It takes no parameters."


def transform_tables(kind: str | None = None) -> Iterator[RenderableType]:
    """Yield a table of all transforms, or of one."""
    if kind is not None and kind not in SETTINGS:
        raise InputError(f"unknown transform {kind!r}{did_you_mean(kind, SETTINGS)}")
    table = Table("kind", "what it is", "parameters", show_lines=True, expand=True)
    for name, model in SETTINGS.items():
        if kind in (None, name):
            keys = "\n".join(escape(key.brief) for key in keys_of(model) if key.name != "kind")
            table.add_row(name, escape(paragraphs(model)[0]), keys or "-")
    yield table


def paragraphs(function: Callable[..., Any]) -> list[str]:
    """Return the paragraphs of a docstring before its sections; the first is the summary."""
    return [" ".join(paragraph.split()) for paragraph in documented(function)[0].split("\n\n")]
