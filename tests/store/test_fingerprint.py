import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_tool.store.fingerprint import file_fingerprint, fingerprint

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


def identity(value):
    """What makes two values the same, said in another way than the code under test does."""
    if isinstance(value, dict):
        return ("dict", frozenset((key, identity(inner)) for key, inner in value.items()))
    if isinstance(value, list | tuple):
        return ("list", tuple(map(identity, value)))
    return (type(value), struct.pack(">d", value) if isinstance(value, float) else value)


@given(values, values)
def test_equal_fingerprints_mean_equal_values(a, b):
    assert (fingerprint(a) == fingerprint(b)) == (identity(a) == identity(b))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a", ["b"]), ("a", "b")),
        ((1,), (1.0,)),
        ((1,), (True,)),
        (("1",), (1,)),
        (("a",), (b"a",)),
        ((0.0,), (-0.0,)),
        ((None,), ("",)),
        (([],), ({},)),
        ((), ((),)),
        (({"a": "b"},), (["a", "b"],)),
        ((np.zeros((2, 3)),), (np.zeros((3, 2)),)),
        ((np.zeros(2, np.float32),), (np.zeros(1, np.float64),)),
        ((np.zeros(1, np.int32),), (np.zeros(1, np.uint32),)),
        ((np.arange(4).reshape(2, 2),), (np.arange(4).reshape(2, 2).T,)),
        ((np.zeros(()),), (np.zeros(1),)),
        ((np.zeros((0, 2)),), (np.zeros((2, 0)),)),
    ],
)
def test_what_is_easily_confused_is_told_apart(one, other):
    assert fingerprint(*one) != fingerprint(*other)


def test_what_means_the_same_is_the_same():
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert fingerprint(array) == fingerprint(np.asfortranarray(array)) == fingerprint(array.astype(">i4"))
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint([1, 2]) == fingerprint((1, 2))
    assert fingerprint(np.int64(3)) == fingerprint(3)
    assert fingerprint(np.array(["ab"])) == fingerprint(np.array(["ab"]))


def test_one_bit_of_an_array_counts():
    array = np.zeros(1000, np.float32)
    before = fingerprint(array)
    array.view(np.uint8)[3999] ^= 1
    assert fingerprint(array) != before


def test_it_is_the_same_in_every_process_and_version():
    pinned = "c62fd5b5ae502480b6230263f118539c9fd9410aee8f566d65a65ca387284417"
    assert fingerprint("a", 1, {"b": [2.5, None]}, np.arange(3, dtype=np.int16)) == pinned


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array([object()])])
def test_what_has_no_content_of_its_own_is_refused(value):
    with pytest.raises(TypeError, match="no fingerprint"):
        fingerprint(value)


def test_a_file_is_known_by_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_fingerprint(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
