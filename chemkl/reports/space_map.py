"""Map of chemical space: the hits of each method over a sample of the prior."""

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
"""Molecules that define the axes: half from the background, half hits, equally many per method. The
others are placed by their similarities to these."""
FIRST = 500
"""Maximum first molecules of the runs that replace a sample of the prior; later ones are biased."""
PALE = "#d3d8e0"
"""Colour of the background behind hits."""
WIDTH, HEIGHT, MARGIN = 360, 300, 10
"""Pixels of a panel and of its margin."""


@dataclass(frozen=True)
class Cloud:
    """Distinct molecules of one panel, chosen from n."""

    smiles: list[str]
    of_top: list[bool]  # whether each of them has the method's largest scaffold
    n: int
    scaffold: str | None = None  # the largest scaffold; None if no molecule has a scaffold
    n_top: int = 0  # how many of the n have it
    top_share: float = 0.0  # as a share of those with a scaffold


def space_panels(
    runs: Sequence[RunView],
    threshold: float,
    methods: Mapping[str, Sequence[int]],
    prior: Sequence[str] | None,
    n: int,
    seed: int,
) -> list[Panel]:
    """Draw the map: a panel of the background, then one for the hits of each method.

    The background consists of SMILES sampled from the prior, or of the first molecules of the runs
    if `prior` is None. At most n molecules are drawn of the background and of each method. Without
    any molecule there are no panels.
    """
    rng = np.random.default_rng(seed)
    background = _background(runs, prior, n, rng)
    clouds = {
        name: _hits([runs[place].trace for place in places], threshold, n, rng)
        for name, places in methods.items()
    }
    all_clouds = [background, *clouds.values()]
    if not any(cloud.smiles for cloud in all_clouds):
        return []
    prints = [[_fingerprint(smiles) for smiles in cloud.smiles] for cloud in all_clouds]
    half, landmarks = LANDMARKS // 2, list[ExplicitBitVect]()
    for number, group in enumerate(prints):
        size = half // len(clouds) if number else half
        landmarks += [group[i] for i in _choose(len(group), size, rng)]
    axes = find_axes(landmarks)
    # pixels count downwards; all panels have the same scale, with all points centred
    points = [axes.place(group) * [1, -1] for group in prints]
    all_points = np.concatenate(points)
    low, high = all_points.min(axis=0), all_points.max(axis=0)
    inner = np.array([WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN])
    scale = float(np.min(inner / np.maximum(high - low, 1e-9)))
    centre = np.array([WIDTH, HEIGHT]) / 2
    placed = [centre + (group - (low + high) / 2) * scale for group in points]
    title = "First molecules of the runs" if prior is None else "The prior"
    note = _how_to_read(background, axes.explained, from_prior=prior is not None)
    panels = [Panel(title, note, _svg("background of the map", _dots(placed[0], SOFT)))]
    for number, (name, cloud) in enumerate(clouds.items()):
        drawing = _dots(placed[0], PALE) + _points(placed[number + 1], cloud.of_top, colour(number))
        panels.append(Panel(name, _note(cloud, threshold), _svg(f"hits of {name}", drawing)))
    return panels


def _background(
    runs: Sequence[RunView], prior: Sequence[str] | None, n: int, rng: np.random.Generator
) -> Cloud:
    if prior is None:
        columns = ["call", "canonical_smiles"]
        scored = [first_scorings(run.trace)[columns] for run in runs]
        molecules = pd.concat([pd.DataFrame(columns=columns), *scored])
        early = molecules.sort_values("call", kind="stable").drop_duplicates("canonical_smiles")
        distinct = early["canonical_smiles"].head(min(n, FIRST)).tolist()
    else:
        canonical = (read_molecule(smiles).canonical_smiles for smiles in prior)
        distinct = list(dict.fromkeys(smiles for smiles in canonical if smiles is not None))
    chosen = _choose(len(distinct), n, rng)
    return Cloud([distinct[i] for i in chosen], [False] * len(chosen), len(distinct))


def _hits(
    traces: Sequence[pd.DataFrame], threshold: float, n: int, rng: np.random.Generator
) -> Cloud:
    scaffold_of = {
        str(smiles): str(scaffold)
        for hits in (first_scorings(trace, threshold) for trace in traces)
        for smiles, scaffold in zip(hits["canonical_smiles"], hits["scaffold"], strict=True)
    }
    sizes = Counter(scaffold for scaffold in scaffold_of.values() if scaffold)
    top, size = sizes.most_common(1)[0] if sizes else (None, 0)
    smiles = list(scaffold_of)
    chosen = [smiles[i] for i in _choose(len(smiles), n, rng)]
    share = size / sizes.total() if sizes else 0.0
    of_top = [scaffold_of[text] == top for text in chosen]
    return Cloud(chosen, of_top, len(smiles), top, size, share)


def _choose(size: int, n: int, rng: np.random.Generator) -> list[int]:
    """Choose at most n of `size` positions at random, in ascending order."""
    if size <= n:
        return list(range(size))
    return sorted(rng.choice(size, n, replace=False).tolist())


def _fingerprint(smiles: str) -> ExplicitBitVect:
    """Compute the fingerprint of a molecule; an empty one, similar to nothing, if RDKit fails."""
    mol = parse(smiles)
    with suppress(MoleculeError):
        if mol is not None:
            return morgan_fingerprint(mol, radius=RADIUS, n_bits=BITS)
    return ExplicitBitVect(BITS)


def _dots(points: np.ndarray, ink: str) -> str:
    """Draw points as one path of zero-length strokes with round ends."""
    moves = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
    return f'<path d="{moves}" stroke="{ink}" stroke-width="3" stroke-linecap="round"/>'


def _points(points: np.ndarray, of_top: Sequence[bool], ink: str) -> str:
    """Draw translucent points, with rings around those of the largest scaffold."""
    places = [f'cx="{x:.1f}" cy="{y:.1f}"' for x, y in points]
    dots = "".join(f'<circle {place} r="2"/>' for place in places)
    rings = "".join(
        f'<circle {place} r="3.2"/>' for place, top in zip(places, of_top, strict=True) if top
    )
    return (
        f'<g fill="{ink}" fill-opacity=".35">{dots}</g>'
        f'<g fill="none" stroke="{INK}" stroke-width=".8" stroke-opacity=".6">{rings}</g>'
    )


def _svg(label: str, content: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{content}</svg>'
    )


def _how_to_read(background: Cloud, explained: float | None, *, from_prior: bool) -> str:
    source = "samples of the prior" if from_prior else "first molecules scored by the runs"
    n, n_drawn = background.n, len(background.smiles)
    chosen = f", chosen at random from {n:,}" if n_drawn < n else ""
    variance = f"; the axes explain {percent(explained)} of their variance" if explained else ""
    return (
        f"{n_drawn:,} {source}{chosen}. All panels have the same axes. Classical scaling of "
        f"Tanimoto similarities (Morgan, radius {RADIUS}, {BITS} bits){variance}. Distances are "
        "approximate: similar molecules are close, but close points need not be similar."
    )


def _note(cloud: Cloud, threshold: float) -> str:
    n_drawn = len(cloud.smiles)
    chosen = f", {n_drawn:,} of them chosen at random" if n_drawn < cloud.n else ""
    count = f"{counted(cloud.n, 'hit')} (R ≥ {threshold:g}){chosen}."
    if not cloud.n:
        return f"No hit (R ≥ {threshold:g})."
    if cloud.scaffold is None:
        return f"{count} None has a scaffold."
    return (
        f"{count} Rings mark those with the largest scaffold, {short(cloud.scaffold)}, which "
        f"{cloud.n_top:,} of all hits have ({percent(cloud.top_share)})."
    )


# ---- the axes


@dataclass(frozen=True)
class Axes2D:
    """Two axes of a map, defined by landmark molecules."""

    landmarks: Sequence[ExplicitBitVect]
    means: tuple[np.ndarray, float]  # mean similarity of each landmark to all, and of all to all
    weights: np.ndarray  # from centred similarities to coordinates, (landmarks, 2)
    explained: float | None  # share of the landmarks' variance; None if that is 0

    def place(self, fingerprints: Sequence[ExplicitBitVect]) -> np.ndarray:
        """Compute the coordinates of molecules, (n, 2)."""
        if not fingerprints:
            return np.empty((0, 2))
        of_landmarks, of_all = self.means
        similar = np.array([tanimoto(bits, self.landmarks) for bits in fingerprints])
        centred = similar - similar.mean(axis=1, keepdims=True) - of_landmarks + of_all
        placed: np.ndarray = centred @ self.weights
        return placed


def find_axes(landmarks: Sequence[ExplicitBitVect]) -> Axes2D:
    """Find the two axes along which molecules differ most.

    Classical scaling (Torgerson) of the distances d_ij = sqrt(2 - 2 T_ij), which equals kernel PCA
    with the Tanimoto similarity T. T is positive definite, so points with these distances exist,
    and the share of variance explained by the axes is defined. Other molecules are placed as in
    landmark MDS (de Silva and Tenenbaum, 2004). The sign of an axis makes the coordinate with the
    largest absolute value positive.
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
