"""The codes of sparse matrices: sizes by hand, scipy's CSR as oracle, decode what was encoded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import refused
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_array

from pruneviz.storage.packing import (
    CSR,
    ENCODINGS,
    compressed,
    decompressed,
    relative_bits,
    size_of,
    to_relative,
)

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")  # torch's
NUMBERS = st.sampled_from([0.0, 0.0, 0.0, 1.5, -2.0])
MATRICES = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=NUMBERS)  # fmt: skip


@given(MATRICES, st.sampled_from(sorted(CSR)))
def test_csr_is_scipys_and_comes_back(a, encoding):
    crow, col, value = c = compressed(torch.from_numpy(a), CSR[encoding])
    theirs = csr_array(a)
    assert crow.tolist() == theirs.indptr.tolist()
    assert col.tolist() == theirs.indices.tolist()
    assert value.tolist() == theirs.data.tolist()
    assert sum(t.nbytes for t in c) == size_of(encoding, a.shape, int(np.count_nonzero(a)))
    assert np.array_equal(decompressed(*c, a.shape[1]), a)


@given(MATRICES)
def test_int64_csr_takes_what_torchs_tensors_take(a):
    t = torch.from_numpy(a).to_sparse_csr()
    parts = (t.crow_indices(), t.col_indices(), t.values())
    assert size_of("csr_int64", a.shape, t._nnz()) == sum(p.nbytes for p in parts)


def from_relative(gaps, values, size):
    flat = np.zeros(size, values.dtype)
    flat[np.cumsum(gaps + 1) - 1] = values
    return flat


@given(
    hnp.arrays(np.float32, st.integers(1, 2000), elements=NUMBERS),
    st.sampled_from([1, 2, 5, 8]),
    st.integers(1, 700),
)
def test_the_relative_index_comes_back(flat, bits, every):
    flat[np.arange(len(flat)) % every != 0] = 0  # long runs of zeros
    gaps, values = to_relative(flat, bits)
    assert gaps.min(initial=0) >= 0 and gaps.max(initial=0) < 2**bits
    assert np.array_equal(from_relative(gaps, values, len(flat)), flat)
    zeros = np.count_nonzero(flat == 0)
    assert len(gaps) - np.count_nonzero(flat) <= zeros // 2**bits


@pytest.mark.parametrize(
    ("zeros_before", "padding"), [(0, 0), (31, 0), (32, 1), (63, 1), (64, 2), (320, 10)]
)
def test_padding_is_written_where_five_bits_do_not_say_it(zeros_before, padding):
    flat = np.r_[np.zeros(zeros_before), 7.0, np.zeros(100)]  # zeros at the end cost nothing
    gaps, values = to_relative(flat, 5)
    assert len(gaps) == padding + 1
    assert values.tolist() == [0.0] * padding + [7.0]


def test_nothing_but_zeros():
    gaps, values = to_relative(np.zeros(100), 5)
    assert len(gaps) == len(values) == 0
    assert decompressed(*compressed(torch.zeros(2, 3), torch.int32), 3).tolist() == [
        [0, 0, 0],
        [0, 0, 0],
    ]


def test_sizes_by_hand():
    # LeNet-300-100's fc1, 8 % left as in Han et al. 2015
    shape, nonzero = (300, 784), 18_816
    assert size_of("dense_fp32", shape, nonzero) == 940_800
    assert size_of("dense_fp16", shape, nonzero) == 470_400
    assert size_of("csr_int64", shape, nonzero) == 301 * 8 + 18_816 * 12
    assert size_of("csr_int32", shape, nonzero) == 301 * 4 + 18_816 * 8
    assert size_of("csr_int16", shape, nonzero) == 301 * 2 + 18_816 * 6
    assert size_of("bitmap", shape, nonzero) == 29_400 + 18_816 * 4
    assert size_of("relative", shape, nonzero, padding=2) == (18_818 * 37 + 7) // 8
    assert size_of("relative", (20, 1, 5, 5), 100) == 100 * 40 // 8
    # their index of five bits beside a value of 32: 15.6 % more
    assert round(relative_bits(shape) / 32, 3) == 0.156


@pytest.mark.parametrize(
    ("shape", "nonzero", "there"),
    [
        ((2, 32_768), 10, True),
        ((2, 32_769), 10, False),  # the last column is number 32,768
        ((300, 784), 32_767, True),
        ((300, 784), 32_768, False),  # where the last row ends
    ],
)
def test_int16_is_not_always_enough(shape, nonzero, there):
    assert (size_of("csr_int16", shape, nonzero) is not None) == there
    assert size_of("csr_int32", shape, nonzero) is not None


def test_what_does_not_fit_is_refused():
    a = torch.ones(2, 20_000)
    with refused(
        "a matrix of shape (2, 20000) with 40,000 nonzero values has indices beyond 32,767: "
        "they do not fit int16. Take a wider type."
    ):
        compressed(a, torch.int16)


def test_minus_zero_is_zero():
    a = np.array([[-0.0, 1.0]], np.float32)
    assert compressed(torch.from_numpy(a), torch.int32)[2].tolist() == [1.0]
    assert len(to_relative(a.ravel(), 5)[0]) == 1


@pytest.mark.parametrize(
    "c",
    [
        ([0, 1], [3], [1.0]),  # a column too many
        ([0, 1], [-1], [1.0]),
        ([0, 2], [0], [1.0]),
        ([1, 1], [0], [1.0]),
        ([0, 2, 1], [0], [1.0]),
        ([0, 1], [0], [1.0, 2.0]),
    ],
)
def test_damaged_csr_is_noticed(c):
    with pytest.raises(ValueError, match="do not fit one another"):
        decompressed(*(torch.tensor(part) for part in c), 3)


def test_every_encoding_has_a_size():
    assert all(size_of(e, (3, 4), 5) for e in ENCODINGS)
