"""Where reward components are known by name: one decorated function each, checked before use."""

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

MANY = (0, math.inf)  # the range of what is counted or measured from 0 on
REAL = (-math.inf, math.inf)  # the range of any number

MOST_PROBLEMS = 10
"""As many bad values of a list are named; of the rest the message says how many they are."""

Score = Callable[[Mol], float]  # what a component's factory returns: one molecule to one number


class TransientError(RuntimeError):
    """What a component raises where the same question may be answered another time.

    A licence that is taken, a server that does not answer: the molecule is asked about again, as
    often as `retries` of the reward allows. Any other exception is final.
    """


@dataclass(frozen=True, slots=True)
class Failure:
    """What a batched component gives for a molecule that it cannot score, with the reason."""

    reason: str
    transient: bool = False


BatchScore = Callable[[Sequence[Mol]], Sequence[float | Failure]]
"""What a batched component's factory returns: molecules to as many numbers, in their order."""


@dataclass(frozen=True)
class Identified:
    """A score function, and what decides its values beside the settings: a cache's key has it."""

    score: Callable[[Sequence[Mol]], Sequence[float | Failure]]
    identity: str

    def __call__(self, mols: Sequence[Mol]) -> Sequence[float | Failure]:
        """Score molecules."""
        return self.score(mols)


# ---- types of parameters, and what components check of what they need

ONE_FOR_MANY = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
OneOrMore = Annotated[list[str], ONE_FOR_MANY, Field(min_length=1)]
"""The type of a parameter: a list of strings that is not empty; one string stands for itself."""


def one_of(names: Collection[str], what: str) -> AfterValidator:
    """Refuse a text that is none of some names, and say which are near."""

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
"""The type of a parameter: a file that must exist, looked up as `InputPath` says."""


def package_folder(package: str) -> Path | None:
    """Where an installed package lies, without importing it; None where there is none."""
    spec = find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def needed_package(package: str, user: str, extra: str) -> Path:
    """Give the folder of a package that a component needs; an InputError says what installs it."""
    folder = package_folder(package)
    if folder is None:
        raise InputError(
            f"{user} needs the package {package}: install it with {install_command(extra)}"
        )
    return folder


def refuse(problems: Sequence[str]) -> None:
    """Raise an InputError with one line for each problem, the first ones in full; none: pass."""
    lines = list(problems[:MOST_PROBLEMS])
    if len(problems) > MOST_PROBLEMS:
        lines.append(f"and {len(problems) - MOST_PROBLEMS} more like these")
    InputError.refuse(lines)


def placed(document: Document, keys: Keys, problem: object) -> str:
    """Say where a problem stands: ``file:line: key.path: problem``."""
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
        unit: Of the raw value; empty for a pure number.
        range: Smallest and largest raw value possible.
        source: Paper or program that defines it.
        batched: Its score function takes a list of molecules (BatchScore), not one (Score).
        costly: It is asked only about molecules that passed every filter, after all others.
        version: Of its values, from 1; kept values of another version are not read.
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
        """The schema of the parameters, read off the factory's signature."""
        return _Parameters.with_fields(self.kind, fields_of(self.factory))

    def build(self, parameters: Mapping[str, Any], document: Document | None = None) -> Any:
        """Check the parameters and give the score function; `document` is where they stand.

        Raises:
            InputError: unknown, missing or unfit parameters; one line each.
        """
        document = document or Document(parameters, self.kind)
        if parameters and not self.parameter_model.model_fields:
            given = ", ".join(map(str, parameters))
            refuse([placed(document, (), f"{self.kind} takes no parameters (got {given})")])
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
        except (InputError, MoleculeError) as error:  # the latter of a reference
            lines = [placed(document, (), line) for line in str(error).splitlines()]
        raise InputError("\n".join(lines))


COMPONENTS: dict[str, Component] = {}  # every component, by kind

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

    Settings that several components share are one parameter, whose type is a NamedTuple of them.
    The score function may raise for a molecule: that molecule gets NaN, the exception's text as
    its reason, and reward 0. An InputError from the factory is a mistake in the config. With
    ``batched=True`` the score function takes a list of molecules and gives as many numbers, a
    Failure in place of a number that it cannot give. With ``costly=True`` it is asked last, and
    only about molecules that passed every filter. ``version`` is part of the key under which a
    cache keeps the values: raise it when the value of any molecule changes, be it by the component
    itself or by what it uses of chemkl, and leave it when only text or speed does.

    Raises:
        ValueError: the kind is taken or no lower-case name, or a parameter has no type.
    """

    def register(factory: Factory) -> Factory:
        taken = COMPONENTS[kind].factory if kind in COMPONENTS else None
        problems = []
        if not re.fullmatch(r"[a-z][a-z0-9_]*", kind):
            problems.append("use lower-case letters, digits and _")
        if taken is not None:
            problems.append(f"is registered already, by {taken.__module__}.{taken.__name__}")
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
    """Register a module's components that are functions of the molecule, or of what it becomes.

    A row has kind, function, unit, range, source and meaning. In a source {} stands for the
    function's name; an empty one is "RDKit {}". `factory_of` makes the factory of a function, by
    default one without parameters.
    """
    for kind, function, unit, limits, source, meaning in rows:
        factory = factory_of(function)
        factory.__name__ = factory.__qualname__ = kind
        factory.__doc__, factory.__module__ = meaning, module
        source = (source or "RDKit {}").format(function.__name__)
        component(kind, unit=unit, range=limits, source=source, costly=costly)(factory)


def find_component(kind: str, part: Document | None = None) -> Component:
    """Look a component up; an InputError has the nearest names, and how to list all.

    `part` is where the kind stands.
    """
    if kind not in COMPONENTS:
        meanings = {name: paragraphs(one.factory)[0] for name, one in COMPONENTS.items()}
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
"""By kind, the names of REINVENT, Saturn, MolScore, GuacaMol and RDKit, and everyday ones.

A name may stand under two kinds; case, blanks and signs do not matter.
"""

# ---- tables of components and transforms


def reward_tables(kind: str | None = None) -> Iterator[RenderableType]:
    """Give a table of all components by family, or everything about one."""
    if kind is not None:
        yield from _details(find_component(kind))
        return

    by_family = sorted(COMPONENTS.values(), key=attrgetter("factory.__module__", "kind"))
    for module, members in groupby(by_family, key=attrgetter("factory.__module__")):
        headings = ("kind", "what it is", "parameters", "unit", "range", "source")
        title = module.rpartition(".")[2]
        table = Table(*headings, title=title, title_justify="left", expand=True, show_lines=True)
        for one in members:
            table.add_row(
                one.kind + (" *" if one.costly else ""),
                escape(paragraphs(one.factory)[0]),
                "\n".join(escape(key.brief) for key in keys_of(one.parameter_model)) or "-",
                escape(one.unit) or "-",
                "{:g} to {:g}".format(*one.range),
                escape(one.source),
            )
        yield table
    yield "* costly: asked last, and only about molecules that passed every filter."
    yield "One of them in detail: chemkl show rewards KIND"


def _details(one: Component) -> Iterator[RenderableType]:
    facts = Table(show_header=False, box=None)
    limits = "{:g} to {:g}".format(*one.range)
    rows = {"kind": one.kind, "unit": one.unit or "-", "range": limits, "source": one.source}
    for name, text in rows.items():
        facts.add_row(name, escape(text))
    if one.costly:
        facts.add_row("costly", "asked last, and only about molecules that passed every filter")
    yield facts
    for paragraph in paragraphs(one.factory):
        yield f"\n{escape(paragraph)}"
    table = Table("parameter", "type", "default", "meaning", show_lines=True)
    for key in keys_of(one.parameter_model):
        table.add_row(*map(escape, key._replace(default=key.default or "required")))
    yield ""
    yield table if table.row_count else "It takes no parameters."


def transform_tables(kind: str | None = None) -> Iterator[RenderableType]:
    """Give a table of all transforms, or of one."""
    if kind is not None and kind not in SETTINGS:
        raise InputError(f"unknown transform {kind!r}{did_you_mean(kind, SETTINGS)}")
    table = Table("kind", "what it is", "parameters", show_lines=True, expand=True)
    for name, model in SETTINGS.items():
        if kind in (None, name):
            keys = "\n".join(escape(key.brief) for key in keys_of(model) if key.name != "kind")
            table.add_row(name, escape(paragraphs(model)[0]), keys or "-")
    yield table


def paragraphs(function: Callable[..., Any]) -> list[str]:
    """What a docstring says before its sections; the first one is the whole in short."""
    return [" ".join(paragraph.split()) for paragraph in documented(function)[0].split("\n\n")]
