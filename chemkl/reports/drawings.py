"""Structure drawings as SVG text: large ones, and small ones of which a page can hold hundreds."""

import re
from collections import defaultdict
from contextlib import suppress
from itertools import pairwise
from typing import Any

from rdkit.Chem import Mol, rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from chemkl.chem.molecules import MoleculeError, parse, step

LARGE, SMALL = (220, 150), (150, 96)
"""Width and height in pixels."""
SCALE = 10
"""Coordinates of small drawings are written in tenths of a pixel, as whole numbers."""
_REDUNDANT = re.compile(
    r" class='[^']*'|fill-rule:evenodd;|;stroke-linecap:butt|;stroke-linejoin:miter"
    r"|;stroke-opacity:1(?=['\";])"
)
"""Names that nothing uses, and SVG's own defaults spelt out on every path: half of the text."""
_PATH = re.compile(r"<path( class='[^']*')? d='([^']*)' style='([^']*)'")
_TEXT = re.compile(r"<text x='([\d.-]+)' y='([\d.-]+)'[^>]*style='([^']*)'\s*>([^<]*)</text>")
_POINT = re.compile(r"([\d.-]+),([\d.-]+)")


def draw_molecule(smiles: str, width: int = LARGE[0], height: int = LARGE[1]) -> str:
    """Draw a molecule as an svg element; an empty string where RDKit does not read or draw it."""
    look = {"bondLineWidth": 1.3, "fixedBondLength": 24, "padding": 0.04, "minFontSize": 9}
    document = _document(smiles, rdMolDraw2D.MolDraw2DSVG(width, height), **look)
    element = re.sub(r"<!--.*?-->\s*", "", document[document.find("<svg") :])
    return _REDUNDANT.sub("", element).strip()


def draw_thumbnail(smiles: str) -> str:
    """Draw a molecule as a small svg element of 1 to 2 kB; else as `draw_molecule`.

    RDKit draws it. Its bonds are then gathered into one path for each colour and line width, with
    relative whole coordinates, and the patches that it lays over corners give way to round ends.
    """
    width, height = SMALL
    look = {"bondLineWidth": 1.1, "fixedBondLength": 18, "padding": 0.03, "minFontSize": 7}
    drawer = rdMolDraw2D.MolDraw2DSVG(width, height, -1, -1, True)  # letters as text, not as paths
    document = _document(smiles, drawer, maxFontSize=9, **look)
    if not document:
        return ""
    return (
        f'<svg viewBox="0 0 {width * SCALE} {height * SCALE}" width="{width}" height="{height}" '
        'aria-hidden="true" fill="none" stroke-linecap="round">'
        f"{_paths(document)}{_letters(document)}</svg>"
    )


def _document(smiles: str, drawer: rdMolDraw2D.MolDraw2DSVG, **look: float) -> str:
    """RDKit's own SVG of a molecule; empty where it does not read or draw it."""

    @step("drawing")
    def draw(mol: Mol) -> str:
        rdDepictor.Compute2DCoords(mol, canonOrient=True)
        options: Any = drawer.drawOptions()  # RDKit's stubs take its attributes for read-only
        options.clearBackground = False
        options.flagCloseContactsDist = -1  # no red marks where atoms come close
        for name, value in look.items():
            setattr(options, name, value)
        rdMolDraw2D.PrepareAndDrawMolecule(drawer, mol)
        drawer.FinishDrawing()
        return str(drawer.GetDrawingText())

    mol = parse(smiles)
    with suppress(MoleculeError):
        return "" if mol is None else draw(mol)
    return ""


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
