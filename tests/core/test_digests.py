"""Digests are over canonical bytes, so equal values give equal digests."""

import hashlib

import numpy as np
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.digests import canonical_json, digest_bytes, digest_file, digest_json, hex_of


def test_a_digest_is_sha256_of_the_bytes():
    assert digest_bytes(b"abc") == "sha256:" + hashlib.sha256(b"abc").hexdigest()


def test_key_order_does_not_matter_but_values_do():
    assert digest_json({"b": 1, "a": [2.0]}) == digest_json({"a": [2], "b": 1})
    assert digest_json({"a": 1}) != digest_json({"a": 2})


def test_canonical_json_is_rfc_8785():
    assert canonical_json({"€": 1, "a": 1e21, "b": "\n"}) == '{"a":1e+21,"b":"\\n","€":1}'.encode()


def test_a_file_digest_covers_every_block(tmp_path):
    data = bytes(range(256)) * 10_000
    (tmp_path / "x").write_bytes(data)
    assert digest_file(tmp_path / "x") == digest_bytes(data)


@pytest.mark.parametrize("wrong", ["", "sha256:", "ab" * 32, "sha256:" + "g" * 64, "sha256:" + "A" * 64])
def test_what_is_no_digest_is_refused(wrong):
    with pytest.raises(ValueError, match="not a digest"):
        hex_of(wrong)


TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)
FLOATS = st.floats() | st.floats(1e-9, 1e-3) | st.floats(1e14, 1e23) | st.integers(-9, 9).map(float)
LEAVES = st.none() | st.booleans() | st.integers() | st.integers(-9, 9) | FLOATS | TEXTS | st.just({1})
VALUES = st.recursive(
    LEAVES | FLOATS.map(np.float64),
    lambda each: st.lists(each) | st.lists(each).map(tuple) | st.dictionaries(TEXTS | st.integers(1, 3), each),
    max_leaves=12,
)


def outcome(act, value):
    try:
        return act(value)
    except ValueError:
        return "refused"


@settings(max_examples=200)
@given(VALUES)
def test_the_bytes_are_those_of_the_library(value):
    assert outcome(canonical_json, value) == outcome(rfc8785.dumps, value)


def test_names_are_in_the_order_of_their_utf_16_units():
    assert canonical_json({"\uffff": 1, "\U00010000": 2, "a": 3}) == '{"a":3,"\U00010000":2,"\uffff":1}'.encode()


@pytest.mark.parametrize("value", ["\ud800", {"\ud800": 1}, {1: 1}, {1}, 2**53, float("nan"), float("inf")])
def test_what_is_no_json_is_refused_by_name(value):
    with pytest.raises(rfc8785.CanonicalizationError):
        canonical_json([value])
