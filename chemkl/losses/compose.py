"""Objectives from names and plain values, with the combinations refused that go wrong."""

import inspect
import math
from collections.abc import Mapping
from typing import Any, get_args

from chemkl.losses.estimators import ESTIMATORS, Estimator
from chemkl.losses.objective import Duplicates, Objective
from chemkl.losses.registry import nearest_names
from chemkl.losses.shapers import SHAPERS, BoundShaper, build_shaper
from chemkl.losses.targets import TARGETS, Target, resolve_beta

Options = Mapping[str, Any]


def build_objective(
    target: Target | str,
    estimator: str = "rloo",
    *,
    beta: float | None = None,
    sigma: float | None = None,
    duplicates: Duplicates = "keep",
    estimator_options: Options | None = None,
    shaper: BoundShaper | str | Options | None = None,
    reward_range: tuple[float, float] = (-math.inf, math.inf),
    **target_options: Any,
) -> Objective:
    """Put an objective together.

    Args:
        target: a target, or the name of one: "gibbs", "mara", "filter".
        estimator: the name of one of ``ESTIMATORS``.
        beta: the KL coefficient; not needed with a target that has one, and then the same.
        sigma: 1/beta, in place of beta.
        duplicates: "keep" or "drop", see ``Objective``.
        estimator_options: for example ``{"divergence": "js"}`` of "f_dpg".
        shaper: a shaper, its name, or ``{"kind": name, **options}``.
        reward_range: the reward of a failure, and the highest that there can be, if known.
        **target_options: of the target given by name, for example ``tau=0.8``.

    Raises:
        ValueError: an unknown name or option, two different betas; or, a line each, a target that
            the estimator cannot walk to, a shaper with nothing to shape, a tau that no reward or
            every reward reaches.
    """
    chosen = ESTIMATORS[estimator]
    if isinstance(target, str):
        built = _build_target(target, {"beta": beta, "sigma": sigma, **target_options})
    else:
        built = target
        _check_instance(built, beta, sigma, target_options)
    options = dict(estimator_options or {})
    chosen.wanted.check_options(f"estimator {estimator!r}", options)
    if duplicates not in get_args(Duplicates):
        raise ValueError(f"duplicates must be 'keep' or 'drop', got {duplicates!r}")
    shape = _build_shaper(shaper)
    problems = [
        *_pair_problems(chosen, built, options),
        *_tau_problems(built, reward_range),
        *([] if shape is None else _shaper_problems(chosen, built, shape)),
    ]
    if problems:
        raise ValueError("\n".join(problems))
    return Objective(built, chosen, options, shape, duplicates)


def objective_from_config(
    config: Mapping[str, Any], reward_range: tuple[float, float] = (-math.inf, math.inf)
) -> Objective:
    """Put an objective together from plain values, as a config file has them.

    Args:
        config: ``{"target": {"kind": "mara", "tau": 0.8, "beta": 0.1}, "estimator": "rloo"}``; the
            estimator may also be a mapping with its options, ``{"kind": "f_dpg", "divergence":
            "js", "duplicates": "drop"}``, and so may a "shaper". Options that are None count as
            not given.
        reward_range: the reward of a failure, and the highest that there can be, if known.

    Raises:
        ValueError: a key or a kind that is missing or not known, and what ``build_objective``
            refuses.
    """
    unknown = sorted(config.keys() - {"target", "estimator", "shaper"})
    if unknown or "target" not in config:
        raise ValueError(
            f"an objective has the keys target, estimator and shaper, got {sorted(config)}"
        )
    target = _options(config["target"])
    estimator = _options(config.get("estimator", {"kind": "rloo"}))
    name, duplicates = estimator.pop("kind"), estimator.pop("duplicates", "keep")
    shaper = config.get("shaper")
    return build_objective(
        target.pop("kind"),
        name,
        duplicates=duplicates,
        estimator_options=estimator,
        shaper=None if shaper is None else _options(shaper),
        reward_range=reward_range,
        **target,
    )


def _options(section: Mapping[str, Any] | str) -> dict[str, Any]:
    """Read a section of a config, or a bare kind, without the options left open."""
    given = {"kind": section} if isinstance(section, str) else section
    if "kind" not in given:
        raise ValueError(f"kind is missing beside {', '.join(given)}")
    return {name: value for name, value in given.items() if value is not None}


def _build_target(name: str, options: dict[str, Any]) -> Target:
    """Make the target of that name, with a message of ours for an option that it does not have."""
    kind = TARGETS[name]
    allowed = inspect.signature(kind).parameters
    for option in options:
        if option not in allowed:
            tail = nearest_names(option, allowed)
            raise ValueError(f"target {name!r} has no option {option!r}{tail}")
    missing = [
        option
        for option, parameter in allowed.items()
        if parameter.default is inspect.Parameter.empty and option not in options
    ]
    if missing:
        raise ValueError(f"target {name!r} needs {', '.join(missing)}")
    return kind(**options)


def _check_instance(
    target: Target, beta: float | None, sigma: float | None, options: dict[str, Any]
) -> None:
    """Refuse a second beta, or options, beside a target that has been made already."""
    if options:
        raise ValueError(
            f"{', '.join(sorted(options))}: options go with a target's name; give them to "
            f"{type(target).__name__}(...) instead"
        )
    if beta is None and sigma is None:
        return
    stated = resolve_beta(beta, sigma)
    if not math.isclose(stated, target.beta, rel_tol=1e-9):
        raise ValueError(
            f"two betas: the target has {target.beta}, build_objective was given {stated}. "
            "The hits are flat only when target and score share one beta: leave it out here"
        )


def _name(target: Target) -> str:
    """The registered name of a target; that of its class for one's own."""
    return next((name for name in TARGETS if TARGETS[name] is type(target)), type(target).__name__)


def _pair_problems(estimator: Estimator, target: Target, options: Options) -> list[str]:
    """Say so when the estimator cannot walk to the target."""
    why = estimator.refuses(target, **options)
    if why is None:
        return []
    able = [
        name
        for name in ESTIMATORS
        if name != estimator.name and ESTIMATORS[name].refuses(target) is None
    ]
    others = f", or one of these estimators: {', '.join(able)}" if able else ""
    return [
        f"estimator {estimator.name!r} cannot walk to the target {_name(target)!r}, {why}{others}"
    ]


def _tau_problems(target: Target, reward_range: tuple[float, float]) -> list[str]:
    """Say so when no sequence, or every sequence, would be a hit."""
    failure, most = reward_range
    problems = []
    for name in ("tau", "tau_floor"):
        tau = getattr(target, name, None)
        if tau is not None and tau > most:
            problems.append(
                f"{name} is {tau}, but no reward is above {most:g}: there would never be a hit. "
                "Take one within the range of the reward"
            )
        if tau is not None and tau <= failure:
            problems.append(
                f"{name} is {tau}, but what could not be scored has the reward {failure:g} and "
                f"would be a hit: take one above {failure:g}"
            )
    return problems


def _build_shaper(shaper: BoundShaper | str | Options | None) -> BoundShaper | None:
    """Make the shaper from its name, or from its name and options."""
    if shaper is None or isinstance(shaper, BoundShaper):
        return shaper
    options = {"kind": shaper} if isinstance(shaper, str) else dict(shaper)
    kind = options.pop("kind", None)
    if kind is None:
        raise ValueError(f"shaper: kind is missing. Known: {', '.join(SHAPERS)}")
    return build_shaper(kind, **options)


def _shaper_problems(estimator: Estimator, target: Target, shaper: BoundShaper) -> list[str]:
    """Say so when there is no advantage, or no hit, for the shaper to change."""
    problems = []
    if not estimator.takes_shaper:
        able = [name for name in ESTIMATORS if ESTIMATORS[name].takes_shaper]
        problems.append(
            f"estimator {estimator.name!r} has no advantage that a shaper could change; estimators "
            f"that have: {', '.join(able)}"
        )
    if shaper.needs_hits and not target.has_hits:
        problems.append(
            f"shaper {shaper.shaper.name!r} changes hits only, and the target {_name(target)!r} "
            "has none: use the target mara or filter, or no shaper"
        )
    return problems
