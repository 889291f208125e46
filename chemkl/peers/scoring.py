"""The scoring section of REINVENT4: its components, transforms and means, as a reward of ours.

Where the two differ (REINVENT4 4.8):

1. CustomAlerts there looks at its first endpoint only; here each endpoint is a filter.
2. TanimotoSimilarity there compares with the first reference only; here the nearest one counts.
3. A score below 1e-8 counts as 1e-8 in the geometric mean there; here a score of 0 makes it 0.
4. A component without a value is left out of the mean there; here the molecule gets 0 and a reason.
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
"""Gives a path of the config as it is to stand in the written file."""
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
"""Components without parameters, by their names there."""
ROLES = {"customalerts": "filter", "matchingsubstructure": "penalty"}
"""What is no scorer."""


def plain(name: str) -> str:
    """A name as REINVENT4 compares it: without case, hyphens and underscores."""
    return re.sub(r"[-_]", "", name.lower())


# ---- components


def _tpsa(params: Section) -> Part:
    params.only("includeSandP", False, "the polar surface here is that of N and O alone")
    return "tpsa", {}


def _smarts(params: Section) -> list[str]:
    """One pattern, or a list of such."""
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
        text = "the nearest of the references counts"
        params.difference("smiles", f"{text}; REINVENT4 4.8 compares with the first one only")
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
    names = {known.lower(): known for known in DESCRIPTORS}
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
"""The others, each with what turns its parameters into ours."""


# ---- transforms


def translate_transform(table: Section) -> dict[str, Any] | None:
    """The transform of an endpoint; None where it cannot be translated, which is noted."""
    kinds = {plain(kind): kind for kind in SETTINGS} | {"valuemapping": "value_map"}
    name = table.take("type", str, "", required=True)
    kind = kinds.get(plain(name))
    theirs = ("sigmoid", "reverse_sigmoid", "double_sigmoid", "step", "left_step", "right_step")
    if kind not in (*theirs, "exponential_decay", "value_map"):
        table.gap("type", f"there is no transform {name!r} here")
        return None
    settings: dict[str, Any] = {"kind": kind}
    if kind == "value_map":
        mapping = table.take("mapping", dict, {}, required=True)
        try:
            settings["values"] = {float(key): score for key, score in mapping.items()}
        except ValueError:
            table.gap("mapping", f"only numbers are mapped here (got {', '.join(mapping)})")
            return None
    elif kind == "exponential_decay":
        settings["k"] = table.take("k", float, required=True)
    elif "sigmoid" in kind:
        settings |= _sigmoid(table, kind)
    else:
        ends = {"low": table.take("low", float, 0.0), "high": table.take("high", float, 0.0)}
        looked_at = {"left_step": ["low"], "right_step": ["high"]}.get(kind, ["low", "high"])
        settings |= {end: ends[end] for end in looked_at}
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
    if low > high:  # the curve falls where it rose
        kind = "sigmoid" if kind == "reverse_sigmoid" else "reverse_sigmoid"
        low, high = high, low
    return {"kind": kind, "low": low, "high": high, "k": k}


# ---- the section


def translate_scoring(section: Section, place: Place) -> dict[str, Any]:
    """A reward as plain settings; what cannot be translated is noted."""
    _read_file(section)
    name = section.take("type", str, "", required=True)
    aggregate = AGGREGATES.get(plain(name))
    if aggregate is None:
        section.gap("type", f"there is no aggregation {name!r} of scores here")
    section.only("use_pumas", False, "the transforms of PUMAS are not offered here")
    if section.data.get("parallel") is False:  # of earlier versions
        del section.data["parallel"]
    workers = section.take("parallel", int, 1)
    parts: list[dict[str, Any]] = []
    if "component" not in section.data:
        section.problem("component", "required, and not given")
    for component in section.tables("component"):
        if len(component.data) != 1:
            got = ", ".join(component.data) or "none"
            component.problem("", f"expected one component, got {got}")
            continue
        kind = next(iter(component.data))
        parts += _endpoints(kind, component.table(kind), place)
    section.end()
    _name_apart(parts)
    if not any(part.get("role") is None for part in parts):
        section.problem("", "no component is left that makes a score; a reward needs a scorer")
    reward = {"components": parts, "aggregate": aggregate or "geometric_mean"}
    return reward | ({"workers": workers} if workers > 1 else {})


def _read_file(section: Section) -> None:
    """Add what the file holds that `filename` names, beside the config or where we work."""
    name = section.take("filename", str, "")
    section.data.pop("filetype", None)
    if not name:
        return
    beside = (section.document.folder or Path()) / name
    if not (Path(name).is_file() or beside.is_file()):
        section.problem("filename", f"no such file: {beside}")
        return
    read = read_config(Path(name) if Path(name).is_file() else beside, section.notes)
    section.document, section.keys = read.document, ()
    section.data |= read.data


def _endpoints(name: str, table: Section, place: Place) -> list[dict[str, Any]]:
    """The parts of one component, one for each endpoint."""
    translator = WITH_PARAMETERS.get(plain(name))
    if translator is None and plain(name) not in PLAIN:
        table.gap("", f"the component {name!r} has no counterpart here (chemkl show rewards)")
        return []
    table.data.pop("name", None)  # looked at by nobody
    shared = table.take("params", dict, {})
    parts = []
    endpoints = list(table.tables("endpoint"))
    if not endpoints:
        table.problem("endpoint", "required, and not given")
    for endpoint in endpoints:
        given = endpoint.take("params", dict, {})
        params = endpoint.inner({**shared, **given}, "params")
        if translator is None:
            params.data.clear()  # REINVENT4 looks at none of them
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
    """One part of a reward; None where it cannot be translated, or has no weight."""
    part: dict[str, Any] = {"kind": kind, "name": endpoint.take("name", str, name)}
    weight = endpoint.take("weight", float, 1.0)
    role = ROLES.get(plain(name))
    if role == "filter" and "transform" in endpoint.data:
        endpoint.gap("transform", "a filter is passed or not, and has no transform here")
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
        endpoint.difference("weight", "weight 0: has no part in the reward, and is left out")
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
        endpoint.gap("", f"{name} without a transform: its values are no scores between 0 and 1")
        return None
    return part if transform is None else part | {"transform": transform}


def _name_apart(parts: list[dict[str, Any]]) -> None:
    """Give parts names that columns may have, each once."""
    taken: set[str] = set()
    for part in parts:
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", part["name"]).strip("_.-") or part["kind"]
        name, n = stem, 1
        while name in taken:
            n += 1
            name = f"{stem}_{n}"
        taken.add(name)
        part["name"] = name
        if name == part["kind"]:
            del part["name"]
