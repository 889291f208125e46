"""Which weights of a network are its state: those that are trained, and no frozen one."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn


def keep_trained_alone(module: nn.Module) -> None:
    """Leave frozen weights out of a module's state, and do not ask for them on loading."""
    module.register_state_dict_post_hook(_drop_frozen)  # type: ignore[no-untyped-call]  # torch's
    module.register_load_state_dict_post_hook(_forgive_frozen)  # type: ignore[no-untyped-call]  # torch's


def _frozen(module: nn.Module) -> Iterator[str]:
    """Names of the weights that are not trained, and of buffers."""
    weights = list(module.named_parameters(remove_duplicate=False))
    yield from (name for name, weight in weights if not weight.requires_grad)
    yield from (name for name, _ in module.named_buffers())


def _drop_frozen(
    module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Mapping[str, Any]
) -> None:
    for name in _frozen(module):
        state.pop(prefix + name, None)


def _forgive_frozen(module: nn.Module, incompatible: Any) -> None:
    frozen = {*_frozen(module)}
    tails = tuple(f".{name}" for name in frozen)  # the module may be part of another one
    incompatible.missing_keys[:] = [
        key for key in incompatible.missing_keys if key not in frozen and not key.endswith(tails)
    ]
