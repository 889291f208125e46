"""Small structure drawings, of which a page can hold hundreds: 1 to 2 kB each."""

import re
from collections import defaultdict
from contextlib import suppress
from itertools import pairwise
from typing import Any

from rdkit.Chem import Mol, rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from chemkl.chem.molecules import MoleculeError, parse, step

WIDTH, HEIGHT = 150, 96
SCALE = 10
"""Coordinates are written in tenths of a pixel, as whole numbers."""

_PATH = re.compile(r"<path( class='[^']*')? d='([^']*)' style='([^']*)'")
_TEXT = re.compile(r"<text x='([\d.-]+)' y='([\d.-]+)'[^>]*style='([^']*)'\s*>([^<]*)</text>")
_POINT = re.compile(r"([\d.-]+),([\d.-]+)")


def draw_thumbnail(smiles: str) -> str:
    """Draw a molecule as a small svg element; an empty string where RDKit does not read or draw it.

    RDKit draws it. Its bonds are then gathered into one path for each colour and line width, with
    relative whole coordinates, and the patches that it lays over corners give way to round ends.
    """
    mol = parse(smiles)
    with suppress(MoleculeError):
        return "" if mol is None else _drawn(mol)
    return ""


@step("drawing")
def _drawn(mol: Mol) -> str:
    rdDepictor.Compute2DCoords(mol, canonOrient=True)
    drawer = rdMolDraw2D.MolDraw2DSVG(WIDTH, HEIGHT, -1, -1, True)  # letters as text, not as paths
    options: Any = drawer.drawOptions()  # RDKit's stubs take its attributes for read-only
    options.clearBackground = False
    options.bondLineWidth = 1.1
    options.fixedBondLength = 18
    options.padding = 0.03
    options.minFontSize = 7
    options.maxFontSize = 9
    options.flagCloseContactsDist = -1  # no red marks where a large molecule is drawn small
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, mol)
    drawer.FinishDrawing()
    document = drawer.GetDrawingText()
    return (
        f'<svg viewBox="0 0 {WIDTH * SCALE} {HEIGHT * SCALE}" width="{WIDTH}" height="{HEIGHT}" '
        'aria-hidden="true" fill="none" stroke-linecap="round">'
        f"{_paths(document)}{_letters(document)}</svg>"
    )


def _paths(document: str) -> str:
    lines: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for of_bond, path, style in _PATH.findall(document):
        look = _declarations(style)
        if not of_bond and look.get("fill") == "none":
            continue  # a patch over a corner
        fill = "" if look["fill"] == "none" else f' fill="{_hex(look["fill"])}"'
        width = round(SCALE * float(look.get("stroke-width", "1").removesuffix("px")))
        stroke = f' stroke="{_hex(look["stroke"])}" stroke-width="{width}"'
        lines[fill, stroke].append(_relative(path))
    return "".join(
        f'<path d="{"".join(parts)}"{fill}{stroke}/>' for (fill, stroke), parts in lines.items()
    )


def _letters(document: str) -> str:
    letters: defaultdict[str, list[str]] = defaultdict(list)
    for x, y, style, text in _TEXT.findall(document):
        look = _declarations(style)
        size = round(SCALE * float(look["font-size"].removesuffix("px")))
        group = f'fill="{_hex(look["fill"])}" font-size="{size}"'
        letters[group].append(f'<text x="{_whole(x)}" y="{_whole(y)}">{text}</text>')
    return "".join(f"<g {group}>{''.join(parts)}</g>" for group, parts in letters.items())


def _relative(path: str) -> str:
    """A path of straight lines with relative whole coordinates; closed where it was."""
    points = [(_whole(x), _whole(y)) for x, y in _POINT.findall(path)]
    steps = pairwise(points)
    moves = "".join(f"l{x1 - x0} {y1 - y0}" for (x0, y0), (x1, y1) in steps)
    closed = "z" if path.rstrip().endswith("Z") else ""
    return f"M{points[0][0]} {points[0][1]}{moves}{closed}".replace(" -", "-")


def _declarations(style: str) -> dict[str, str]:
    return dict(part.split(":", 1) for part in style.split(";") if ":" in part)


def _whole(coordinate: str) -> int:
    return round(SCALE * float(coordinate))


def _hex(colour: str) -> str:
    """#AABBCC as #abc, where it can be."""
    text = colour.lower()
    short = text[0] + text[1::2]
    return short if text[1::2] == text[2::2] else text
