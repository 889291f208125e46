"""Translate the scoring section of REINVENT4 (components, transforms, means) to a reward.

chemkl differs from REINVENT4 4.8 in these points:

1. CustomAlerts of REINVENT4 reads only its first endpoint; in chemkl each endpoint is a filter.
2. TanimotoSimilarity of REINVENT4 compares only with the first reference; chemkl with the nearest.
3. In the geometric mean REINVENT4 replaces a score below 1e-8 by 1e-8; in chemkl a 0 makes it 0.
4. REINVENT4 leaves a component without a value out of the mean; in chemkl the molecule gets 0 and
   a reason.
"""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from chemkl.config.reward import SETTINGS
from chemkl.peers.reading import Section, read_config
from chemkl.rewards.components.descriptors import DESCRIPTORS
from chemkl.rewards.registry import COMPONENTS

Place = Callable[[str], str]
"""Returns a path of the config for the written file."""
Part = tuple[str, dict[str, Any]]
"""Kind and parameters of a component."""

AGGREGATES = {
    "geometricmean": "geometric_mean",
    "customproduct": "geometric_mean",
    "arithmeticmean": "arithmetic_mean",
    "customsum": "arithmetic_mean",
}
PLAIN = {
    "qed": "qed",
    "molecularweight": "mol_wt",
    "graphlength": "graph_length",
    "numatomstereocenters": "stereo_centres",
    "hbondacceptors": "hba",
    "hbonddonors": "hbd",
    "numrotbond": "rotatable_bonds",
    "csp3": "csp3_fraction",
    "numsp": "sp_atoms",
    "numsp2": "sp2_atoms",
    "numsp3": "sp3_atoms",
    "numheavyatoms": "heavy_atoms",
    "numheteroatoms": "hetero_atoms",
    "numrings": "rings",
    "numaromaticrings": "aromatic_rings",
    "numaliphaticrings": "aliphatic_rings",
    "slogp": "logp",
    "largestringsize": "largest_ring",
    "sascore": "sa_score",
}
"""Components without parameters, by their names in REINVENT4."""
ROLES = {"customalerts": "filter", "matchingsubstructure": "penalty"}
"""Roles of components that are not scorers."""


def plain(name: str) -> str:
    """Normalise a name as REINVENT4 does: without case, hyphens and underscores."""
    return re.sub(r"[-_]", "", name.lower())


# ---- components


def _tpsa(params: Section) -> Part:
    params.only("includeSandP", False, "the polar surface is that of N and O only")
    return "tpsa", {}


def _smarts(params: Section) -> list[str]:
    """Take out one pattern or a list of patterns."""
    if isinstance(params.data.get("smarts"), str):
        return [params.take("smarts", str)]
    patterns: list[str] = params.take("smarts", list, [], required=True)
    return patterns


def _matching_substructure(params: Section) -> Part:
    use_chirality = params.take("use_chirality", bool, False)
    chirality = {"use_chirality": True} if use_chirality else {}
    return "required_smarts", {"smarts": _smarts(params), "combine": "any", **chirality}


def _tanimoto(params: Section) -> Part:
    references = params.take("smiles", list, [], required=True)
    if len(references) > 1:
        text = "the nearest reference counts; REINVENT4 4.8 compares only with the first one"
        params.difference("smiles", text)
    features = params.take("use_features", bool, required=True)
    return "tanimoto", {
        "references": references,
        "fingerprint": "feature_morgan" if features else "morgan",
        "radius": params.take("radius", int, required=True),
        "counts": params.take("use_counts", bool, required=True),
        "n_bits": None,
    }


def _descriptor(params: Section) -> Part:
    name = params.take("descriptor", str, "", required=True)
    names = {descriptor.lower(): descriptor for descriptor in DESCRIPTORS}
    return "rdkit_descriptor", {"descriptor": names.get(name.lower(), name)}


def _pmi(params: Section) -> Part:
    name = params.take("property", str, "", required=True)
    if name not in ("npr1", "npr2"):
        params.gap("property", f"{name!r}: expected npr1 or npr2")
    return name, {}


def _volume(params: Section) -> Part:
    sizes = {"grid_spacing": 0.2, "box_margin": 2.0}
    return "molecular_volume", {k: params.take(k, float, v) for k, v in sizes.items()}


def _external_process(params: Section) -> Part:
    executable = params.take("executable", str, "", required=True)
    try:
        arguments = shlex.split(params.take("args", str, ""))
    except ValueError as error:
        params.problem("args", error)
        arguments = []
    answer = params.take("property", str, required=True)
    return "batch_program", {"command": [executable, *arguments], "property": answer}


WITH_PARAMETERS: dict[str, Callable[[Section], Part]] = {
    "tpsa": _tpsa,
    "customalerts": lambda params: ("forbidden_smarts", {"smarts": _smarts(params)}),
    "groupcount": lambda params: ("smarts_count", {"smarts": _smarts(params)}),
    "matchingsubstructure": _matching_substructure,
    "tanimotosimilarity": _tanimoto,
    "tanimotodistance": _tanimoto,  # its name before 4.0, for the same similarity
    "rdkitdescriptors": _descriptor,
    "pmi": _pmi,
    "molvolume": _volume,
    "externalprocess": _external_process,
}
"""The other components, with functions that translate their parameters."""


# ---- transforms


def translate_transform(table: Section) -> dict[str, Any] | None:
    """Translate the transform of an endpoint; None, with a note, if that is impossible."""
    kinds = {plain(kind): kind for kind in SETTINGS} | {"valuemapping": "value_map"}
    name = table.take("type", str, "", required=True)
    kind = kinds.get(plain(name))
    curves = ("sigmoid", "reverse_sigmoid", "double_sigmoid", "step", "left_step", "right_step")
    if kind not in (*curves, "exponential_decay", "value_map"):
        table.gap("type", f"no transform {name!r} in chemkl")
        return None
    settings: dict[str, Any] = {"kind": kind}
    if kind == "value_map":
        mapping = table.take("mapping", dict, {}, required=True)
        try:
            settings["values"] = {float(key): score for key, score in mapping.items()}
        except ValueError:
            table.gap("mapping", f"only numbers can be mapped (got {', '.join(mapping)})")
            return None
    elif kind == "exponential_decay":
        settings["k"] = table.take("k", float, required=True)
    elif "sigmoid" in kind:
        settings |= _sigmoid(table, kind)
    else:
        ends = {"low": table.take("low", float, 0.0), "high": table.take("high", float, 0.0)}
        used = {"left_step": ["low"], "right_step": ["high"]}.get(kind, ["low", "high"])
        settings |= {end: ends[end] for end in used}
    table.end()
    try:
        SETTINGS[settings["kind"]](**settings)
    except ValidationError as error:
        for detail in error.errors():
            table.problem("", detail["msg"])
        return None
    return settings


def _sigmoid(table: Section, kind: str) -> dict[str, Any]:
    low, high = (table.take(end, float, 0.0, required=True) for end in ("low", "high"))
    if kind == "double_sigmoid":
        usual = {"coef_div": 100.0, "coef_si": 150.0, "coef_se": 150.0}
        return {"low": low, "high": high} | {k: table.take(k, float, v) for k, v in usual.items()}
    k = table.take("k", float, 0.25, required=True)
    if low > high:  # which mirrors the curve
        kind = "sigmoid" if kind == "reverse_sigmoid" else "reverse_sigmoid"
        low, high = high, low
    return {"kind": kind, "low": low, "high": high, "k": k}


# ---- the section


def translate_scoring(section: Section, place: Place) -> dict[str, Any]:
    """Translate to the settings of a reward, and note what cannot be translated."""
    _read_file(section)
    name = section.take("type", str, "", required=True)
    aggregate = AGGREGATES.get(plain(name))
    if aggregate is None:
        section.gap("type", f"no aggregation {name!r} of scores in chemkl")
    section.only("use_pumas", False, "there are no transforms of PUMAS")
    if section.data.get("parallel") is False:  # of earlier versions
        del section.data["parallel"]
    workers = section.take("parallel", int, 1)
    parts: list[dict[str, Any]] = []
    if "component" not in section.data:
        section.problem("component", "required, but missing")
    for component in section.tables("component"):
        if len(component.data) != 1:
            got = ", ".join(component.data) or "none"
            component.problem("", f"expected one component, got {got}")
            continue
        kind = next(iter(component.data))
        parts += _endpoints(kind, component.table(kind), place)
    section.end()
    _make_names_unique(parts)
    if not any(part.get("role") is None for part in parts):
        section.problem("", "no scoring component is left; a reward needs one")
    reward = {"components": parts, "aggregate": aggregate or "geometric_mean"}
    return reward | ({"workers": workers} if workers > 1 else {})


def _read_file(section: Section) -> None:
    """Add the content of the file `filename`, in the working directory or next to the config."""
    name = section.take("filename", str, "")
    section.data.pop("filetype", None)
    if not name:
        return
    path = (section.document.folder or Path()) / name
    if not (Path(name).is_file() or path.is_file()):
        section.problem("filename", f"no such file: {path}")
        return
    content = read_config(Path(name) if Path(name).is_file() else path, section.notes)
    section.document, section.keys = content.document, ()
    section.data |= content.data


def _endpoints(name: str, table: Section, place: Place) -> list[dict[str, Any]]:
    """Translate one component to parts of the reward, one for each endpoint."""
    translator = WITH_PARAMETERS.get(plain(name))
    if translator is None and plain(name) not in PLAIN:
        table.gap("", f"the component {name!r} has no counterpart (chemkl show rewards)")
        return []
    table.data.pop("name", None)  # REINVENT4 ignores it
    shared = table.take("params", dict, {})
    parts = []
    endpoints = list(table.tables("endpoint"))
    if not endpoints:
        table.problem("endpoint", "required, but missing")
    for endpoint in endpoints:
        params = endpoint.inner({**shared, **endpoint.take("params", dict, {})}, "params")
        if translator is None:
            params.data.clear()  # REINVENT4 ignores them
        kind, parameters = translator(params) if translator else (PLAIN[plain(name)], {})
        params.end()
        if "command" in parameters:
            parameters["command"] = [place(word) for word in parameters["command"]]
        part = _part(name, kind, parameters, endpoint)
        if part is not None:
            parts.append(part)
    table.end()
    return parts


def _part(
    name: str, kind: str, parameters: dict[str, Any], endpoint: Section
) -> dict[str, Any] | None:
    """Translate one part of a reward; None if that is impossible, or without a weight."""
    part: dict[str, Any] = {"kind": kind, "name": endpoint.take("name", str, name)}
    weight = endpoint.take("weight", float, 1.0)
    role = ROLES.get(plain(name))
    if role == "filter" and "transform" in endpoint.data:
        endpoint.gap("transform", "a filter has no transform")
        del endpoint.data["transform"]
    transform = None
    if "transform" in endpoint.data:
        transform = translate_transform(endpoint.table("transform"))
        if transform is None:
            return None
    endpoint.end()
    if role is not None:
        part["role"] = role
    elif weight == 0:
        endpoint.difference("weight", "weight 0: left out, because it does not count")
        return None
    elif weight != 1:
        part["weight"] = weight
    if parameters:
        part["parameters"] = parameters
    if role == "penalty":  # 0.5 without a match, 1 with one
        rate = SETTINGS[transform["kind"]](**transform).build() if transform else float
        transform = {"kind": "value_map", "values": {0.0: rate(0.5), 1.0: rate(1.0)}}
    low, high = COMPONENTS[kind].range if kind in COMPONENTS else (0, 1)
    if transform is None and not 0 <= low <= high <= 1:
        endpoint.gap("", f"{name} without a transform: its values are not scores between 0 and 1")
        return None
    return part if transform is None else part | {"transform": transform}


def _make_names_unique(parts: list[dict[str, Any]]) -> None:
    """Give parts unique names that are valid in columns."""
    used: set[str] = set()
    for part in parts:
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", part["name"]).strip("_.-") or part["kind"]
        name, n = stem, 1
        while name in used:
            n += 1
            name = f"{stem}_{n}"
        used.add(name)
        part["name"] = name
        if name == part["kind"]:
            del part["name"]
