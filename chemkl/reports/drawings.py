"""Structure drawings as SVG text."""

import re
from contextlib import suppress
from typing import Any

from rdkit.Chem import Mol, rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from chemkl.chem.molecules import MoleculeError, parse, step

WIDTH, HEIGHT = 220, 150
_REDUNDANT = re.compile(
    r" class='[^']*'|fill-rule:evenodd;|;stroke-linecap:butt|;stroke-linejoin:miter"
    r"|;stroke-opacity:1(?=['\";])"
)
"""Names that nothing uses, and SVG's own defaults spelt out on every path: half of the text."""


def draw_molecule(smiles: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    """Draw a molecule as an svg element; an empty string where RDKit does not read or draw it."""
    mol = parse(smiles)
    with suppress(MoleculeError):
        return "" if mol is None else _drawn(mol, width, height)
    return ""


@step("drawing")
def _drawn(mol: Mol, width: int, height: int) -> str:
    rdDepictor.Compute2DCoords(mol, canonOrient=True)
    drawer = rdMolDraw2D.MolDraw2DSVG(width, height)
    options: Any = drawer.drawOptions()  # RDKit's stubs take its attributes for read-only
    options.clearBackground = False
    options.bondLineWidth = 1.3
    options.fixedBondLength = 24
    options.padding = 0.04
    options.minFontSize = 9
    options.flagCloseContactsDist = -1  # no red marks where atoms of a flat drawing come close
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, mol)
    drawer.FinishDrawing()
    document = drawer.GetDrawingText()
    element = document[document.index("<svg") :]
    element = re.sub(r"<!--.*?-->\s*", "", element)
    return _REDUNDANT.sub("", element).strip()
