"""Bytes by encoding: predicted, and found on disk."""

from __future__ import annotations

import gzip
import json
import math
import struct

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import MODELS, Tied, assert_untouched, build, inputs, mlp, plan_for, refused, snapshot
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pruneviz as pv
from pruneviz.lessons import build as lesson
from pruneviz.storage.packing import CSR, ENCODINGS, relative_bits, size_of


def pruned(model, sparsity=0.9):
    return pv.bake(pv.mask(model, plan_for(model, sparsity)))


def whole(frame):
    return frame.iloc[-1]


def payload(path):
    """Bytes of a safetensors file behind its header."""
    data = path.read_bytes()
    return len(data) - 8 - struct.unpack("<Q", data[:8])[0]


NAMES = sorted(set(MODELS) - {"raising", "spectral"})  # of a computed weight the result is stored


@pytest.mark.parametrize("name", NAMES)
def test_dense_is_what_measure_counts(name):
    model = build(name)
    if name == "caching":
        model(inputs())  # fills its table
    frame = pv.encodings(model, gzip=False)
    assert whole(frame)["dense_fp32"] == pv.measure(model, inputs()).bytes
    if name != "masked":
        assert whole(frame)["dense_fp16"] == pv.measure(model.half(), inputs().half()).bytes


@pytest.mark.parametrize("name", MODELS)
def test_it_leaves_no_trace(name):
    model = build(name)
    before = snapshot(model)
    pv.encodings(model)
    assert_untouched(model, before)


@pytest.mark.parametrize("name", ["mlp", "cnn", "masked", "tied"])
def test_the_whole_is_the_sum_of_the_rows(name):
    frame = pv.encodings(build(name), gzip=False)
    for column in ("weights", "nonzero", *ENCODINGS):
        assert whole(frame)[column] == frame[column][:-1].sum()
    assert list(frame["tensor"]) == [*pv.named_weights(build(name)), "rest", "whole"]


def test_columns_and_types():
    frame = pv.encodings(mlp())
    assert list(frame.columns[:5]) == ["tensor", "shape", "weights", "nonzero", "sparsity"]
    assert list(frame.columns[5:]) == [*ENCODINGS, "gzip"]
    assert all(frame[c].dtype == "Int64" for c in frame.columns[5:])
    assert pd.isna(frame["gzip"].iloc[-2])  # the rest is packed with the file only
    assert list(pv.encodings(mlp(), gzip=False).columns[5:]) == list(ENCODINGS)


@pytest.mark.parametrize("encoding", ["dense", *CSR])
@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5", "batchnorm-cnn", "image-transformer"])
def test_on_disk_it_is_what_was_predicted(tmp_path, name, encoding):
    model = pruned(lesson(name), 0.95)
    path = tmp_path / "m.safetensors"
    frame = pv.encodings(model)
    pv.save(model, path, encoding=encoding)
    predicted = whole(frame)["dense_fp32" if encoding == "dense" else encoding]
    assert payload(path) == predicted
    again = pv.load(path, lambda: lesson(name))
    for key, value in model.state_dict().items():
        assert again.state_dict()[key].dtype == value.dtype
        assert torch.equal(again.state_dict()[key], value)
    if encoding == "dense":
        packed = gzip.compress(path.read_bytes(), 6, mtime=0)
        assert whole(frame)["gzip"] == len(packed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_csr_keeps_the_precision(tmp_path, dtype):
    model = pruned(mlp().to(dtype), 0.5)
    pv.save(model, tmp_path / "m", encoding="csr_int16")
    again = pv.load(tmp_path / "m", lambda: mlp().to(dtype))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))  # fmt: skip
    assert {p.dtype for p in again.parameters()} == {dtype}


def test_csr_of_a_smaller_and_of_a_tied_model(tmp_path):
    model = mlp()
    small = pruned(pv.prune(model, inputs(), sparsity=0.5), 0.5)
    pv.save(small, tmp_path / "small", encoding="csr_int32")
    again = pv.load(tmp_path / "small", mlp).eval()
    assert torch.equal(again(inputs()), small(inputs()))
    tied = pruned(Tied())
    pv.save(tied, tmp_path / "tied", encoding="csr_int32")
    assert payload(tmp_path / "tied") == whole(pv.encodings(tied))["csr_int32"]
    back = pv.load(tmp_path / "tied", Tied)
    assert back.fc1.weight is back.fc2.weight and torch.equal(back.fc1.weight, tied.fc1.weight)


def test_a_mask_counts_like_its_zeros():
    model = lesson("lenet-5")
    masked = pv.mask(model, plan_for(model, 0.9))
    pd.testing.assert_frame_equal(pv.encodings(masked), pv.encodings(pv.bake(masked)))


def test_a_mask_over_units_too():
    model = mlp()
    groups = pv.find_groups(model, inputs())
    masked = pv.mask(model, pv.drop(groups, {"1": [0, 3]}))
    frame = pv.encodings(masked)
    assert frame["nonzero"].iloc[0] == 6 * 36 and frame["dense_fp32"].iloc[-2] == 4 * (8 + 3)


def test_int16_where_it_fits():
    frame = pv.encodings(pruned(lesson("lenet-5"), 0.5)).set_index("tensor")
    fits = frame["csr_int16"].notna()
    assert fits.to_dict() == {
        "conv1.weight": True, "conv2.weight": True, "fc1.weight": False, "fc2.weight": True,
        "rest": True, "whole": False,
    }  # fmt: skip


def test_the_figures_of_han_et_al():
    # 36K of 431K weights at 12x: index and value, 37 and 40 bits each, padding aside
    model = lesson("lenet-5")
    shares = {"conv1": 1 - 0.66, "conv2": 1 - 0.12, "fc1": 1 - 0.08, "fc2": 1 - 0.19}
    plan = pv.select(pv.score(model, "magnitude"), sparsity=shares)
    frame = pv.encodings(pv.mask(model, plan), gzip=False).set_index("tensor")
    assert frame["nonzero"].to_dict() == {
        "conv1.weight": 330, "conv2.weight": 3000, "fc1.weight": 32_000, "fc2.weight": 950,
        "rest": 0, "whole": 36_280,
    }  # fmt: skip
    least = {"conv1.weight": 330 * 40, "conv2.weight": 3000 * 40, "fc1.weight": 32_000 * 37,
             "fc2.weight": 950 * 37}  # fmt: skip
    for name, bits in least.items():
        assert bits / 8 <= frame["relative"][name] < bits / 8 * 1.25
    assert frame["relative"]["conv1.weight"] == 330 * 5  # no 256 zeros in a row among 500


SHAPES = st.one_of(
    st.tuples(st.integers(1, 30), st.integers(1, 60)),
    st.tuples(st.integers(1, 8), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)),
)


@given(SHAPES, st.sampled_from(ENCODINGS))
def test_break_even_is_exact(shape, encoding):
    n = math.prod(shape)
    at = pv.bytes_break_even(shape, encoding)
    for zeros in range(n):
        padding = zeros // 2 ** relative_bits(shape)
        size = size_of(encoding, shape, n - zeros, padding)
        smaller = size is not None and size < 4 * n
        assert smaller == (not math.isnan(at) and zeros / n >= at)


@given(SHAPES.filter(lambda s: math.prod(s) > 40), st.integers(0, 9))
def test_the_relative_index_is_smaller_from_there_on_for_any_positions_of_zeros(shape, seed):
    n = math.prod(shape)
    at = pv.bytes_break_even(shape, "relative")
    if math.isnan(at):
        return
    layer = nn.Linear(n, 1, bias=False) if len(shape) == 2 else nn.Conv2d(n, 1, 1, bias=False)
    order = np.random.default_rng(seed).permutation(n) if seed else np.arange(n)
    keep = torch.ones(n, dtype=torch.bool)
    keep[order[: round(at * n)]] = False
    weight = next(iter(pv.named_weights(layer)))
    masked = pv.mask(layer, pv.Plan({weight: keep.view(layer.weight.shape)}))
    assert pv.encodings(masked, gzip=False)["relative"].iloc[0] < 4 * n


def test_break_evens_of_a_layer():
    shape = (300, 784)
    assert abs(pv.bytes_break_even(shape, "csr_int64") - 2 / 3) < 0.001
    assert abs(pv.bytes_break_even(shape, "csr_int32") - 1 / 2) < 0.001
    assert abs(pv.bytes_break_even(shape, "bitmap") - 1 / 32) < 0.001
    assert 5 / 37 < pv.bytes_break_even(shape, "relative") < 0.14
    assert pv.bytes_break_even(shape, "dense_fp16") == 0
    # two bytes an index would pay from 1/3 on, but only from here on do they fit
    assert pv.bytes_break_even(shape, "csr_int16") == (300 * 784 - 32_767) / (300 * 784)
    assert math.isnan(pv.bytes_break_even(shape, "dense_fp32"))
    assert math.isnan(pv.bytes_break_even((2, 40_000), "csr_int16"))
    assert math.isnan(pv.bytes_break_even((1, 1), "csr_int64"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pv.encodings(nn.ReLU()),
            "`model` (ReLU) has no parameters: it needs a Linear, Conv, Embedding, attention or recurrent layer. There is "
            "nothing to prune.",
        ),
        (
            lambda: pv.bytes_break_even((3, 4), "csr"),
            "`encoding` 'csr' is unknown. Known: bitmap, csr_int16, "
            "csr_int32, csr_int64, dense_fp16, dense_fp32, relative.",
        ),
        (
            lambda: pv.bytes_break_even((3, 0), "bitmap"),
            "`shape` must be a whole number ≥ 1, but 0 was passed.",
        ),
        (
            lambda: pv.save(mlp(), "x", encoding="bitmap"),
            "`encoding` 'bitmap' is unknown. Known: csr_int16, csr_int32, csr_int64, dense.",
        ),
        (
            lambda: pv.save(nn.Linear(40_000, 1), "x", encoding="csr_int16"),
            "'weight' cannot be written as csr_int16: a matrix of shape (1, 40000) with 40,000 "
            "nonzero values has indices beyond 32,767: they do not fit int16. Take a wider "
            "type.",
        ),
    ],
)
def test_bad_input(call, message):
    with refused(message):
        call()


def test_damaged_csr_is_refused(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tmp_path / "m"
    pv.save(pruned(mlp()), path, encoding="csr_int32")
    with safe_open(path, framework="pt") as f:
        head = json.loads(f.metadata()["pruneviz"])
        tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    del head["checksum"]  # as early versions wrote it
    metadata = {"pruneviz": json.dumps({**head, "version": 2})}
    for key, bad in (("1.weight.col", 99), ("1.weight.crow", 5)):
        broken = {**tensors, key: torch.full_like(tensors[key], bad)}
        save_file(broken, path, metadata=metadata)
        with refused(
            f"{str(path)!r} is damaged (rows, columns and values do not fit one another). Write it "
            "anew: pv.save(model, path)."
        ):
            pv.load(path, mlp)
    save_file({k: v for k, v in tensors.items() if k != "1.weight.col"}, path, metadata=metadata)
    with pytest.raises(pv.ArgumentError, match="is damaged"):
        pv.load(path, mlp)
