"""Encoding: exact against Fractions, refused beyond capacity, never clipped."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from algorithms.common import encoding, masks
from algorithms.common.encoding import INTEGER, Scale, float_scale
from overlay.errors import MissingValues, OutOfBounds, UsageError

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=64)
SMALL = st.floats(-1e6, 1e6)
INT_TYPES = ("int8", "uint8", "int16", "int32", "uint32", "int64", "uint64", "bool")


def exact(values):
    return sum(map(Fraction, values.tolist()), Fraction(0))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(FINITE | SMALL | st.floats(-1e-300, 1e-300), max_size=40),
    st.sampled_from([Scale(2, 32), Scale(2, 0), Scale(2, 60), Scale(10, 2), Scale(10, 18)]),
)
def test_a_total_is_the_exact_sum_rounded_once(cells, scale):
    values = np.array(cells, dtype=np.float64)
    truth = round(exact(values) * scale.factor)
    if abs(truth) > encoding.capacity(3):
        with pytest.raises(OutOfBounds):
            encoding.encode_total(values, "x", scale, 3)
    else:
        assert encoding.encode_total(values, "x", scale, 3) == truth


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_integers_of_every_type_are_exact(data):
    dtype = np.dtype(data.draw(st.sampled_from(INT_TYPES)))
    values = data.draw(arrays.arrays(dtype, st.integers(0, 30)))
    truth = sum(int(value) for value in values)
    if abs(truth) > encoding.capacity(3):
        with pytest.raises(OutOfBounds):
            encoding.encode_total(values, "x", INTEGER, 3)
    else:
        assert encoding.encode_total(values, "x", INTEGER, 3) == truth
        assert encoding.encode_total(values, "x", Scale(2, 0), 3) == truth


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_of_every_width(dtype):
    values = np.array([0.1, -2.5, 3.25], dtype=dtype)
    total = encoding.encode_total(
        encoding.clean(values, "x", bound=None, missing="refuse"), "x", float_scale(), 3
    )
    assert total == round(exact(values.astype(np.float64)) * 2**32)


def test_ties_and_cancellation():
    scale = Scale(2, 0)
    assert encoding.encode_total(np.array([0.5]), "x", scale, 3) == 0
    assert encoding.encode_total(np.array([1.5]), "x", scale, 3) == 2
    assert encoding.encode_total(np.array([0.5, 1e-300]), "x", scale, 3) == 1
    assert encoding.encode_total(np.array([0.5, -1e-300]), "x", scale, 3) == 0
    assert encoding.encode_total(np.array([1e308, 1e308, -1e308, 1.0, -1e308]), "x", scale, 3) == 1


@pytest.mark.parametrize("stations", [3, 5, 10, 50])
def test_stations_at_capacity_do_not_overflow(stations):
    limit = encoding.capacity(stations)
    values = np.array([limit], dtype=np.int64)
    for sign in (1, -1):
        total = encoding.encode_total(sign * values, "x", INTEGER, stations)
        ring = encoding.ring([total])
        pooled = np.zeros(1, np.uint64)
        for _ in range(stations):
            pooled += ring
        assert encoding.signed(pooled) == [sign * limit * stations]
    with pytest.raises(OutOfBounds) as caught:
        encoding.encode_total(values + 1, "age", INTEGER, stations)
    assert "'age'" in str(caught.value)
    assert str(limit) not in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(st.lists(SMALL, min_size=0, max_size=30), st.integers(0, 40), st.integers(3, 50))
def test_a_vector_stays_within_its_error_bound(cells, bits, stations):
    values = np.array(cells, dtype=np.float64)
    if values.size and np.abs(values).max() * 2.0**bits > encoding.capacity(stations) - 2048:
        return
    scale = Scale(2, bits)
    vector = encoding.encode_vector(values, "x", scale, stations)
    assert encoding.signed(vector) == [round(Fraction(value) * 2**bits) for value in cells]
    back = encoding.decode_vector(vector, scale)
    for value, decoded in zip(cells, back.tolist(), strict=True):
        error = abs(Fraction(value) - Fraction(float(decoded)))
        assert error <= Fraction(encoding.error_bound(float(decoded), scale, 1))


@pytest.mark.parametrize("value", [2.0**31, -(2.0**31), 1e308, 3.1e9])
def test_a_vector_beyond_capacity_is_refused(value):
    with pytest.raises(OutOfBounds, match="'x'"):
        encoding.encode_vector(np.array([0.0, value]), "x", Scale(2, 32), 4)


@pytest.mark.parametrize("dtype", INT_TYPES)
def test_an_integer_vector_is_exact(dtype):
    values = np.array([0, 1, 1], dtype=dtype)
    assert encoding.signed(encoding.encode_vector(values, "x", INTEGER, 3)) == [0, 1, 1]
    with pytest.raises(OutOfBounds):
        encoding.encode_vector(np.array([2**64 - 1], dtype=np.uint64), "x", INTEGER, 3)
    with pytest.raises(OutOfBounds):
        encoding.encode_vector(np.array([-(2**63)], dtype=np.int64), "x", INTEGER, 3)


def test_integers_of_a_float_column_stay_exact():
    vector = encoding.encode_vector(np.array([2**53 + 1, -7]), "x", Scale(2, 4), 3)
    assert encoding.signed(vector) == [(2**53 + 1) * 16, -112]
    with pytest.raises(OutOfBounds):
        encoding.encode_vector(np.array([2**58]), "x", Scale(2, 4), 3)


def test_a_float_column_without_fraction_bits_rounds():
    values, scale = np.array([1.5, 2.75]), float_scale(0)
    assert encoding.encode_vector(values, "x", scale, 3).tolist() == [2, 3]
    assert encoding.error_bound(4.0, scale, 3) == 1.5
    assert isinstance(encoding.decode_total(4, scale), float)


def test_known_faults_of_other_libraries():
    scale = float_scale()
    total = encoding.encode_total(np.array([-131071 / 65536]), "x", scale, 3)
    assert encoding.decode_total(total, scale) == -131071 / 65536
    wide = np.array([393.0, -393.0, 8.5])
    vector = encoding.encode_vector(wide, "x", scale, 10)
    assert encoding.decode_vector(vector, scale).tolist() == wide.tolist()


def test_every_element_has_a_mask_of_its_own():
    mask = masks.expand(bytes(32), 10_000)
    assert len(np.unique(mask)) == 10_000
    assert (masks.expand(bytes(32), 17) == mask[:17]).all()
    assert not (masks.expand(bytes([1]) * 32, 17) == mask[:17]).any()
    assert len(masks.expand(bytes(32), 0)) == 0
    with pytest.raises(ValueError, match="32 bytes"):
        masks.expand(bytes(4), 10)


def test_the_mask_is_aes_256_in_counter_mode():
    """NIST SP 800-38A has no zero key; this is AES-256 of two zero blocks, by ECB."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    ecb = Cipher(algorithms.AES(bytes(32)), modes.ECB()).encryptor()
    blocks = ecb.update(bytes(16)) + ecb.update(bytes(15) + b"\1")
    assert masks.expand(bytes(32), 4).tobytes() == blocks


def test_missing_infinite_and_bounded_cells():
    gaps = np.array([1.0, np.nan])

    def clean(values, bound=None, missing="refuse", **more):
        return encoding.clean(values, "x", bound=bound, missing=missing, **more).tolist()

    with pytest.raises(MissingValues, match="'x'"):
        clean(gaps)
    assert clean(gaps, missing="skip") == [1.0]
    assert clean(gaps, missing="skip", keep_length=True) == [1.0, 0.0]
    nullable = np.array([4, 0])
    marked = np.array([False, True])
    assert clean(nullable, missing="skip", gaps=marked) == [4]
    with pytest.raises(MissingValues):
        clean(nullable, gaps=marked)
    for infinite in (np.inf, -np.inf):
        with pytest.raises(OutOfBounds, match="infinite"):
            clean(np.array([infinite]), missing="skip")
    assert clean(np.array([-5, 5]), bound=5) == [-5, 5]
    for beyond in (np.array([5.1]), np.array([-(2**63)]), np.array([2**64 - 1], np.uint64)):
        with pytest.raises(OutOfBounds) as caught:
            clean(beyond, bound=5)
        assert "|value| <= 5" in str(caught.value)
        assert str(beyond[0].item()) not in str(caught.value)


@pytest.mark.parametrize(
    ("bits", "decimals"), [(-1, None), (61, None), (None, 19), (1, 1), (1.5, None), (True, None)]
)
def test_impossible_scales_are_refused(bits, decimals):
    with pytest.raises(UsageError):
        float_scale(bits, decimals)


def test_a_million_elements_encode_fast():
    values = np.random.default_rng(0).normal(size=1_000_000)
    best = min(timed(lambda: encoding.encode_vector(values, "x", Scale(2, 32), 3))
               for _ in range(5))  # fmt: skip
    assert best < 0.05


def timed(work):
    began = time.process_time()
    work()
    return time.process_time() - began
