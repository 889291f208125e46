"""Pickles read by an allow-list: arrays come out as they were, and nothing on the list changes."""

import io
import pickle

import numpy as np
import pytest

from chemkl.config import InputError
from chemkl.results.pickles import ARRAYS, AllowedUnpickler, read_pickled


def read(content, kind=np.ndarray):
    return read_pickled(AllowedUnpickler(io.BytesIO(content), ARRAYS).load, kind, "a.pkl", "arrays")


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("core", [b"numpy.core.", b"numpy._core."])  # of numpy 1, of numpy 2
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int32).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([1.5, -2], dtype=">f8"),
        np.array([(1, 2.5), (3, -1)], dtype=[("left", "<i8"), ("threshold", "<f8")]),
    ],
    ids=["int", "fortran", "big-endian", "records"],
)
def test_an_array_is_read_as_it_was(array, core, protocol):
    found = read(pickle.dumps(array, protocol).replace(b"numpy._core.", core))
    assert found.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("name", ["numpy._core.multiarray\n_reconstruct", "_codecs\nencode"])
def test_what_stands_in_cannot_be_changed(name):
    # BUILD with (None, {"a": 1}) sets attributes of what stands on the stack
    pickled = b"\x80\x02c" + name.encode() + b"\nN}X\x01\x00\x00\x00aI1\ns\x86b."
    stand_in = read(pickled, object)
    assert stand_in is ARRAYS[tuple(name.split("\n"))]
    assert not hasattr(stand_in, "a")


def test_what_is_not_wanted_is_named():
    with pytest.raises(InputError, match=r"^a\.pkl: not arrays \(a list\)\.$"):
        read(pickle.dumps([1]))
    with pytest.raises(
        InputError, match=r"a\.pkl: not arrays \(the pickle asks for builtins\.eval, wh"
    ):
        read(b"cbuiltins\neval\n.")
