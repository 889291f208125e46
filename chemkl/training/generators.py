"""Constraints that keep a part of each molecule fixed, built from `chemkl.config.posttrain`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chemkl.chem.parts import Lead, Pair, Scaffold
from chemkl.config import InputError
from chemkl.config.posttrain import AnaloguesConfig, DecorateConfig, LinkConfig
from chemkl.files.molecules import MoleculeFile
from chemkl.policies import Constraint, Policy, Vocabulary, read_header
from chemkl.policies.constrained import NO_SPELLING, encode_ways

AnyGenerator = DecorateConfig | LinkConfig | AnaloguesConfig


def read_parts(config: AnyGenerator) -> list[Scaffold | Pair | Lead]:
    """Read the parts that molecules must contain.

    Raises:
        InputError: a line for each invalid or repeated part.
    """
    raw_parts: list[tuple[str, Any]]
    if isinstance(config.parts, Path):
        place = f"generator.{config.key}: {config.parts}"
        try:
            lines = list(MoleculeFile(config.parts))
        except InputError as error:
            raise InputError(f"generator.{config.key}: {error}") from error
        raw_parts = [(f"{place}:{line.number}", line.smiles or "") for line in lines]
    else:
        raw_parts = [(f"generator.{config.key}.{i}", part) for i, part in enumerate(config.parts)]
    parts: list[Scaffold | Pair | Lead] = []
    problems: list[str] = []
    for key, raw_part in raw_parts:
        try:
            parts.append(_parse(config, raw_part, key))
        except InputError as error:
            problems.append(f"{key}: {error}")
    names = [part.name for part in parts]
    problems += [
        f"{part.key}: {part.name} is given twice; its rows would be two groups"
        for i, part in enumerate(parts)
        if part.name in names[:i]
    ]
    if not raw_parts:
        problems.append(f"generator.{config.key}: {config.parts} is empty; give one part or more")
    if config.per_step and config.per_step > len(raw_parts):
        text = f"{config.per_step} is more than there are parts: {len(raw_parts)}"
        problems.append(f"generator.per_step: {text}")
    InputError.refuse(problems)
    return parts


def _parse(config: AnyGenerator, part: Any, key: str) -> Scaffold | Pair | Lead:
    if isinstance(config, DecorateConfig):
        return Scaffold(part, key)
    if isinstance(config, AnaloguesConfig):
        return Lead(part, key, config.keep, config.mutants)
    fragments = part.split("|") if isinstance(part, str) else part
    if len(fragments) != 2:
        raise InputError(
            f"{'|'.join(fragments)}: {len(fragments)} fragment{'s' * (len(fragments) > 1)}, not a "
            "pair; give two, as in [*c1ccccc1, *C1CCNC1]"
        )
    return Pair(fragments, key)


def build_constraint(config: AnyGenerator, chooser: Policy, seed: int) -> Constraint:
    """Build the constraint of a run.

    Args:
        config: the settings.
        chooser: the frozen model that chooses between spellings.
        seed: seed of the run.
    """
    return Constraint(
        read_parts(config),
        chooser,
        choices=config.choices,
        per_step=config.per_step,
        seed=seed,
    )


def files_of(config: AnyGenerator | None) -> dict[str, Path]:
    """Return the file of the parts by its role in the manifest, if there is one."""
    return {config.key: config.parts} if config and isinstance(config.parts, Path) else {}


def check_generator(
    config: AnyGenerator, prior: Path | None, batch_size: int | None, estimators: Sequence[str]
) -> None:
    """Check that the parts can be read, fit the batch, and can be written by the prior.

    Args:
        config: the settings.
        prior: file of the prior; None: not checked.
        batch_size: rows of a step; None: not checked.
        estimators: names of the estimators of all stages.

    Raises:
        InputError: a line for each problem.
    """
    parts = read_parts(config)
    n = min(config.per_step or len(parts), len(parts))
    problems: list[str] = []
    if batch_size is not None and batch_size < 2 * n:
        text = f"{batch_size} rows for {n} parts of a step: a baseline needs two rows of each"
        problems.append(f"batch_size: {text}. Take {2 * n} or more, or set generator.per_step")
    if "trajectory_balance" in estimators and len(parts) > 1:
        text = f"learns one log Z, but {len(parts)} parts have one each; take log_variance"
        problems.append(f"estimator: trajectory_balance {text}")
    if "msc" in estimators and n < len(parts):
        problems.append("estimator: msc keeps a row of each part: leave out generator.per_step")
    if prior is not None:
        header = read_header(prior)
        vocabulary = Vocabulary(tuple(header["vocabulary"]))
        for part in parts:
            try:
                ways = [way for seed in range(4) for way in part.begin(seed, config.choices)]
                if not encode_ways(ways, vocabulary, header["architecture"]["max_length"]):
                    problems.append(f"{part.key}: {part.name}: {NO_SPELLING}")
            except InputError as error:
                problems.append(f"{part.key}: {part.name}: {error}")
    InputError.refuse(problems)
