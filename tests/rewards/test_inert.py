import importlib
import io
import os
import pickle
import pickletools

import numpy as np
import pytest

from chemkl.config import InputError
from chemkl.rewards.components.activity import STAND_INS, Inert, as_array, read_model


def read(content):
    return read_model(io.BytesIO(content), "model.pkl")


def as_written_by_numpy_1(content):
    return content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int32).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([1.5, -2], dtype=">f8"),
        np.array([(1, 2.5), (3, -1)], dtype=[("left", "<i8"), ("threshold", "<f8")]),
        np.array([], dtype=np.int64),
    ],
    ids=["int", "fortran", "big-endian", "records", "empty"],
)
def test_an_array_is_read_as_it_was(array):
    found = as_array(read(as_written_by_numpy_1(pickle.dumps(array, 3))))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_protocol_2_needs_more_than_is_allowed():  # its bytes travel as text for a codec
    with pytest.raises(InputError, match=r"asks for _codecs.encode, which is not allowed"):
        read(as_written_by_numpy_1(pickle.dumps(np.arange(3), 2)))


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("how", ["system", "eval", "exec", "getattr", "import", "open"])
def test_a_hostile_pickle_runs_nothing(how, protocol, tmp_path):
    proof = tmp_path / "ran"
    call = {
        "system": Call(os.system, f"touch {proof}"),
        "eval": Call(eval, f"open({str(proof)!r}, 'w')"),
        "exec": Call(exec, f"open({str(proof)!r}, 'w')"),
        "getattr": Call(getattr, proof, "touch"),
        "import": Call(importlib.import_module, "antigravity"),
        "open": Call(open, str(proof), "w"),
    }[how]
    content = pickle.dumps({"model": [call]}, protocol)
    with pytest.raises(InputError, match=r"model\.pkl: .* asks for \S+, which is not allowed"):
        read(content)
    assert not proof.exists()
    if how in ("system", "eval", "exec", "open"):  # so it would have run
        pickle.loads(content)
        assert proof.exists()


def test_names_are_taken_whole():
    for content in [
        b"\x80\x04\x8c\x05numpy\x94\x8c\x0edtype.__init__\x94\x93.",  # through an attribute
        b"cnumpy\nload\n.",
        b"csklearn.svm._classes\nos\n.",
        b"cnumpy.core.multiarray\nos.system\n.",
        b"cbuiltins\ntype\n.",
    ]:
        pickletools.dis(content, io.StringIO())  # well-formed
        with pytest.raises(InputError, match="which is not allowed"):
            read(content)


def test_a_class_is_no_stand_in_and_a_stand_in_calls_nothing():
    with pytest.raises(InputError, match="holds a type, not a model"):
        read(b"csklearn.svm._classes\nSVC\n.")
    # BUILD with a state on the class, not on an object of it
    with pytest.raises(InputError, match="not the pickle of a known model"):
        read(b"csklearn.svm._classes\nSVC\n(dX\x01\x00\x00\x00aK\x01sb.")
    # made with arguments: kept, not used
    made = read(b"csklearn.svm._classes\nSVC\nX\x02\x00\x00\x00hiK\x02\x86R.")
    assert isinstance(made, Inert)
    assert made.arguments == ("hi", 2)
    assert made.state is None


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x80\x02", b"\x80\x02]q\x00.", b"I1\n.", b"P1\n.", b"\x82\x01.", b"R."],
    ids=["empty", "text", "cut", "list", "number", "persistent", "extension", "no stack"],
)
def test_foreign_bytes_are_refused(content):
    with pytest.raises(InputError, match=r"model\.pkl: (not the pickle of a known|holds a)"):
        read(content)


def test_arrays_of_anything_but_numbers_are_refused():
    def content(array):
        return read(as_written_by_numpy_1(pickle.dumps(array, 3)))

    with pytest.raises(ValueError, match="an array of 'O8'"):
        as_array(content(np.array([{}, "x"], dtype=object)))
    with pytest.raises(ValueError, match="an array of 'U1'"):
        as_array(content(np.array(["x"])))
    with pytest.raises(TypeError, match="expected an array, found a SVC"):
        as_array(STAND_INS["sklearn.svm._classes", "SVC"]())
    short = content(np.arange(6))
    short.state = (*short.state[:4], short.state[4][:-1])
    with pytest.raises(ValueError, match="multiple of element size"):
        as_array(short)
