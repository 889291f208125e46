"""The chemical space that each method went to: its hits over a sample of the prior, on one map."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
from rdkit.DataStructs import ExplicitBitVect

from chemkl.chem.fingerprints import morgan_fingerprint, tanimoto, tanimoto_matrix
from chemkl.chem.molecules import MoleculeError, parse, read_molecule
from chemkl.display import counted, percent, short
from chemkl.reports.figures import INK, SOFT, Panel, colour
from chemkl.reports.view import RunView
from chemkl.results.inspection import first_scorings

RADIUS, BITS = 2, 1024
LANDMARKS = 600
"""Molecules that the axes are computed from: half of them the background, half hits, each method
with as many. All others are placed by their similarities to these."""
FIRST = 500
"""First molecules of the runs, at most, where they stand for the prior: later ones are trained."""
PALE = "#d3d8e0"
"""Of the background where hits lie over it."""
WIDTH, HEIGHT, MARGIN = 360, 300, 10
"""Pixels of a panel, and what is left free at its edge."""


@dataclass(frozen=True)
class Cloud:
    """Distinct molecules that are drawn in one panel, of n that there were to choose from.

    The largest scaffold of the method (None: no molecule has one), whether each drawn one has it,
    and how many of the n do, also as a share of those with a scaffold.
    """

    smiles: list[str]
    of_top: list[bool]
    n: int
    scaffold: str | None = None
    n_top: int = 0
    top_share: float = 0.0


def space_panels(
    runs: Sequence[RunView],
    threshold: float,
    methods: Mapping[str, Sequence[int]],
    prior: Sequence[str] | None,
    n: int,
    seed: int,
) -> list[Panel]:
    """Draw the map, a panel of the background, then one for the hits of each method.

    The background are SMILES sampled from the prior; None: the first molecules of the runs stand
    for it. Of it and of each method at most n molecules are drawn; without any there is no panel.
    """
    rng = np.random.default_rng(seed)
    background = _background(runs, prior, n, rng)
    clouds = {
        name: _hits([runs[place].trace for place in places], threshold, n, rng)
        for name, places in methods.items()
    }
    every = [background, *clouds.values()]
    if not any(cloud.smiles for cloud in every):
        return []
    prints = [[_fingerprint(smiles) for smiles in cloud.smiles] for cloud in every]
    half = LANDMARKS // 2
    parts = [(prints[0], half), *((cloud, half // max(1, len(clouds))) for cloud in prints[1:])]
    axes = find_axes([some[i] for some, size in parts for i in _choose(len(some), size, rng)])
    # pixels count downwards; all panels have one scale, the cloud of all points in the middle
    points = [axes.place(cloud) * [1, -1] for cloud in prints]
    whole = np.concatenate(points)
    low, high = whole.min(axis=0), whole.max(axis=0)
    free = np.array([WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN])
    scale = float(np.min(free / np.maximum(high - low, 1e-9)))
    centre = np.array([WIDTH, HEIGHT]) / 2
    placed = [centre + (one - (low + high) / 2) * scale for one in points]
    title = "First molecules of the runs" if prior is None else "The prior"
    note = _how_to_read(background, axes.explained, from_prior=prior is not None)
    panels = [Panel(title, note, _svg("background of the map", _dots(placed[0], SOFT)))]
    for number, (name, cloud) in enumerate(clouds.items()):
        drawn = _dots(placed[0], PALE) + _points(placed[number + 1], cloud.of_top, colour(number))
        panels.append(Panel(name, _note(cloud, threshold), _svg(f"hits of {name}", drawn)))
    return panels


def _background(
    runs: Sequence[RunView], prior: Sequence[str] | None, n: int, rng: np.random.Generator
) -> Cloud:
    if prior is None:
        columns = ["call", "canonical_smiles"]
        scored = [first_scorings(run.trace)[columns] for run in runs]
        whole = pd.concat([pd.DataFrame(columns=columns), *scored])
        early = whole.sort_values("call", kind="stable").drop_duplicates("canonical_smiles")
        distinct = early["canonical_smiles"].head(min(n, FIRST)).tolist()
    else:
        read = (read_molecule(smiles).canonical_smiles for smiles in prior)
        distinct = list(dict.fromkeys(smiles for smiles in read if smiles is not None))
    chosen = _choose(len(distinct), n, rng)
    return Cloud([distinct[i] for i in chosen], [False] * len(chosen), len(distinct))


def _hits(
    traces: Sequence[pd.DataFrame], threshold: float, n: int, rng: np.random.Generator
) -> Cloud:
    rows = [first_scorings(trace, threshold)[["canonical_smiles", "scaffold"]] for trace in traces]
    scaffold_of = {
        str(smiles): str(scaffold)
        for one in rows
        for smiles, scaffold in zip(one["canonical_smiles"], one["scaffold"], strict=True)
    }
    sizes = Counter(scaffold for scaffold in scaffold_of.values() if scaffold)
    top, size = sizes.most_common(1)[0] if sizes else (None, 0)
    smiles = list(scaffold_of)
    chosen = [smiles[i] for i in _choose(len(smiles), n, rng)]
    share = size / sizes.total() if sizes else 0.0
    return Cloud(chosen, [scaffold_of[one] == top for one in chosen], len(smiles), top, size, share)


def _choose(size: int, n: int, rng: np.random.Generator) -> list[int]:
    """Positions of at most n of so many things, at random, in order."""
    if size <= n:
        return list(range(size))
    return sorted(rng.choice(size, n, replace=False).tolist())


def _fingerprint(smiles: str) -> ExplicitBitVect:
    """The fingerprint of a molecule; without any bit, so like no other, where RDKit has none."""
    mol = parse(smiles)
    with suppress(MoleculeError):
        if mol is not None:
            return morgan_fingerprint(mol, radius=RADIUS, n_bits=BITS)
    return ExplicitBitVect(BITS)


def _dots(points: np.ndarray, ink: str) -> str:
    """Many points as one path of strokes without length, whose round ends are dots."""
    moves = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
    return f'<path d="{moves}" stroke="{ink}" stroke-width="3" stroke-linecap="round"/>'


def _points(points: np.ndarray, of_top: Sequence[bool], ink: str) -> str:
    """Points that darken where they lie over each other; those of the largest scaffold ringed."""
    places = [f'cx="{x:.1f}" cy="{y:.1f}"' for x, y in points]
    dots = "".join(f'<circle {place} r="2"/>' for place in places)
    rings = "".join(
        f'<circle {place} r="3.2"/>' for place, top in zip(places, of_top, strict=True) if top
    )
    return (
        f'<g fill="{ink}" fill-opacity=".35">{dots}</g>'
        f'<g fill="none" stroke="{INK}" stroke-width=".8" stroke-opacity=".6">{rings}</g>'
    )


def _svg(label: str, drawn: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{drawn}</svg>'
    )


def _how_to_read(background: Cloud, explained: float | None, *, from_prior: bool) -> str:
    what = "samples of the prior" if from_prior else "molecules, the first that the runs scored"
    n, n_drawn = background.n, len(background.smiles)
    chosen = f", drawn at random of {n:,}" if n_drawn < n else ""
    held = f"; the two axes hold {percent(explained)} of their variance" if explained else ""
    return (
        f"{n_drawn:,} {what}{chosen}. All panels have the same axes. Classical "
        f"scaling of Tanimoto similarities (Morgan, radius {RADIUS}, {BITS} bits){held}, so "
        "distances are approximate: alike molecules are close, but close points need not be alike."
    )


def _note(cloud: Cloud, threshold: float) -> str:
    n_drawn = len(cloud.smiles)
    chosen = f", {n_drawn:,} of them drawn at random" if n_drawn < cloud.n else ""
    said = f"{counted(cloud.n, 'hit')} (R ≥ {threshold:g}){chosen}."
    if not cloud.n:
        return f"No hit (R ≥ {threshold:g})."
    if cloud.scaffold is None:
        return f"{said} None has a scaffold."
    return (
        f"{said} Ringed: those with the largest scaffold, {short(cloud.scaffold)}, which holds "
        f"{cloud.n_top:,} ({percent(cloud.top_share)})."
    )


# ---- the axes


@dataclass(frozen=True)
class Axes2D:
    """Two axes of a map."""

    landmarks: Sequence[ExplicitBitVect]
    means: tuple[np.ndarray, float]  # mean similarity of each landmark to all, and of all to all
    weights: np.ndarray  # from centred similarities to coordinates, (landmarks, 2)
    explained: float | None  # share of the variance of the landmarks; None where there is none

    def place(self, fingerprints: Sequence[ExplicitBitVect]) -> np.ndarray:
        """Coordinates of molecules, (n, 2)."""
        if not fingerprints:
            return np.empty((0, 2))
        of_landmarks, of_all = self.means
        similar = np.array([tanimoto(bits, self.landmarks) for bits in fingerprints])
        centred = similar - similar.mean(axis=1, keepdims=True) - of_landmarks + of_all
        placed: np.ndarray = centred @ self.weights
        return placed


def find_axes(landmarks: Sequence[ExplicitBitVect]) -> Axes2D:
    """Find the two axes along which molecules differ most.

    Classical scaling (Torgerson) of the distances d_ij = sqrt(2 - 2 T_ij), which is the same as
    kernel PCA with the Tanimoto similarity T: that is positive definite, so that there are points
    with these distances, and a share of their variance that two axes hold. Other molecules are
    placed as in landmark MDS (de Silva and Tenenbaum, 2004). Each axis points to where its largest
    coordinate is positive.
    """
    similar = tanimoto_matrix(landmarks)
    means, mean = similar.mean(axis=0), float(similar.mean())
    centred = similar - means - means[:, None] + mean
    values, vectors = np.linalg.eigh(centred)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    weights = np.zeros((len(landmarks), 2))
    for axis in range(min(2, len(landmarks))):
        if values[axis] > 1e-9:
            vector = vectors[:, axis]
            sign = 1 if vector[np.abs(vector).argmax()] > 0 else -1
            weights[:, axis] = sign * vector / np.sqrt(values[axis])
    total = float(values.sum())
    explained = float(values[:2].sum()) / total if total > 1e-9 else None
    return Axes2D(landmarks, (means, mean), weights, explained)
