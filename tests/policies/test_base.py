"""Names of devices."""

import pytest

from chemkl.config import InputError
from chemkl.policies import check_device


def test_the_cpu_is_always_there():
    check_device("cpu")


@pytest.mark.parametrize(
    ("device", "near"),
    [
        ("gpu", "cuda"),
        ("GPU:0", "cuda"),
        ("nvidia", "cuda"),
        ("cdua:1", "cuda"),
        ("CPU", "cpu"),
        ("metal", "mps"),
    ],
)
def test_an_unknown_device_is_answered_with_the_few_that_are_common(device, near):
    with pytest.raises(InputError) as caught:
        check_device(device)
    assert str(caught.value) == (
        f"device: {device!r} cannot be used here: no such device; did you mean {near!r}? "
        "Known: cpu, cuda, mps"
    )


def test_a_device_that_cannot_be_used_says_why():
    with pytest.raises(InputError, match=r"^device: 'meta' cannot be used here: [^\n]*meta"):
        check_device("meta")
