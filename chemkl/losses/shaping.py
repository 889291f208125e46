"""What a shaper is, how it is registered, and how it is bound to its options.

Legend: B rows of a batch; A the advantage. A shaper is a function of tensors, its ordinary
parameters filled by name from ``SHAPER_INPUTS``, its keyword-only ones the options of the user; it
returns the new A (B,), without graph.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from chemkl.losses.registry import Registry, Wanted

F = TypeVar("F", bound=Callable[..., Tensor])

SHAPER_INPUTS = ("advantage_B", "hit_B", "logp_policy_B", "kernel_BB", "outcome_B", "group_B")

_HOW_TO_GIVE = {
    "hit_B": "the target's hits, bool (B,)",
    "logp_policy_B": "log pi_theta of the rows, (B,)",
    "kernel_BB": "a (B, B) similarity of the rows in [0, 1] with ones on the diagonal, such as "
    "Tanimoto's",
    "outcome_B": "an int64 number (B,) for each row's outcome, such as its scaffold; -1 for none",
}


@dataclass(frozen=True)
class Shaper:
    """A shaper and what is declared of it.

    Attributes:
        name: as in a config.
        function: tensors and options to the new advantage.
        wanted: its inputs and options.
        multiplies: it scales A instead of adding to it. Such a rule is meant for hits with A > 0:
            where A is negative, what it favours is pushed down harder.
        at_most: the largest value of each option; every option is a finite number above 0.
    """

    name: str
    function: Callable[..., Tensor]
    wanted: Wanted
    multiplies: bool
    at_most: Mapping[str, float]


@dataclass(frozen=True)
class BoundShaper:
    """A shaper with its options, ready to be called at each batch."""

    shaper: Shaper
    options: Mapping[str, float] = field(default_factory=dict)

    @property
    def needs_hits(self) -> bool:
        """Whether it changes hits alone: under a target without a hit test it would do nothing."""
        return "hit_B" in self.shaper.wanted.required

    @property
    def needs_kernel(self) -> bool:
        """Whether a call needs kernel_BB."""
        return "kernel_BB" in self.shaper.wanted.required

    @property
    def needs_outcome(self) -> bool:
        """Whether a call needs outcome_B."""
        return "outcome_B" in self.shaper.wanted.required

    def __call__(self, advantage_B: Tensor, **available: Tensor | None) -> Tensor:
        """Return the new advantage, without graph.

        Args:
            advantage_B: the estimator's.
            **available: by the names of ``SHAPER_INPUTS``; more than it wants does no harm, and
                None counts as not there.

        Raises:
            ValueError: an input missing, of an unknown name, or not what it should be.
        """
        unknown = [name for name in available if name not in SHAPER_INPUTS]
        if unknown:
            raise ValueError(
                f"shapers take {', '.join(SHAPER_INPUTS)}; {', '.join(unknown)} is none of them"
            )
        given = {name: value for name, value in available.items() if value is not None}
        given["advantage_B"] = advantage_B
        for name in self.shaper.wanted.inputs:
            if name in self.shaper.wanted.required and name not in given:
                raise ValueError(
                    f"shaper {self.shaper.name!r} needs {name} and the batch has none: pass "
                    f"{name}, {_HOW_TO_GIVE[name]}; or take no shaper"
                )
        inputs = {name: given[name] for name in self.shaper.wanted.inputs if name in given}
        return self.shaper.function(**inputs, **self.options)


SHAPERS: Registry[Shaper] = Registry("shaper")


def shaper(name: str, *, multiplies: bool, at_most: Mapping[str, float]) -> Callable[[F], F]:
    """Register a function under ``name``; see ``Shaper`` for what is declared."""

    def decorate(function: F) -> F:
        wanted = Wanted.by(function, f"shaper {name!r}", SHAPER_INPUTS)
        if set(at_most) != set(wanted.options):
            raise ValueError(
                f"shaper {name!r}: at_most must name its options ({', '.join(wanted.options)}), "
                f"got {', '.join(at_most)}"
            )
        SHAPERS.add(name, Shaper(name, function, wanted, multiplies, dict(at_most)))
        return function

    return decorate


def build_shaper(kind: str, **options: Any) -> BoundShaper:
    """Bind a shaper to its options.

    Raises:
        ValueError: a shaper or option that is not known, or a value out of range.
    """
    chosen = SHAPERS[kind]
    what = f"shaper {kind!r}"
    chosen.wanted.check_options(what, options)
    values = {**chosen.wanted.options, **options}
    for option, value in values.items():
        _check_option(what, option, value, chosen.at_most[option], chosen.wanted.options[option])
    return BoundShaper(chosen, {option: float(value) for option, value in values.items()})


def _check_option(what: str, option: str, value: object, at_most: float, default: object) -> None:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not (0 < number < math.inf and number <= at_most):
        bound = "" if math.isinf(at_most) else f" and at most {at_most:g}"
        raise ValueError(
            f"{what}: {option} must be a finite number above 0{bound}, got {value!r}; the default "
            f"is {default}, and to have no shaping leave the shaper out"
        )
