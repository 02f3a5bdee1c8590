"""A file may come from anybody: each damaged or hostile one gives a clear error, and does nothing.

Four kinds of files: models, plans, evidence, tables. Files with a checksum are damaged blindly; what
a checksum would hide is written as early versions of pruneviz wrote it, without one.
"""

from __future__ import annotations

import base64
import json
import resource
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import by_units, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import nn

import pruneviz as pv
from pruneviz.core.plan_json import deflated
from pruneviz.core.strict_json import parsed
from pruneviz.evidence.evidence import Evidence

X = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(1))
LIMIT = 256 * 2**20  # bytes that a damaged file may make us take


class Net(nn.Module):
    """Its Python holds sizes in attributes, of which a cut changes `heads`."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.scale, self.on, self.pair = 3, 7, True, (5, 9)
        self.qkv, self.norm, self.out = (
            nn.Linear(8, 36),
            nn.LayerNorm(12, eps=1e-5),
            nn.Linear(12, 4),
        )
        self.written = []

    @property
    def report(self):
        return ""

    @report.setter
    def report(self, value):
        self.written.append(value)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, 4).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(self.norm_off(y.transpose(1, 2).reshape(b, n, 4 * self.heads)))

    def norm_off(self, y):
        return y


def parts_of(data: bytes) -> tuple[dict, bytes]:
    """Return the header of a safetensors file and the numbers."""
    (n,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + n]), data[8 + n :]


def with_header(header, numbers: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def saved(write) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write(f"{folder}/f")
        return Path(f"{folder}/f").read_bytes()


@cache
def model_file(encoding: str = "dense") -> bytes:
    torch.manual_seed(0)
    model = Net().eval()
    groups = pv.find_groups(model, X)
    plan = pv.drop(groups, by_units(groups, {"qkv": [1]}))
    small = pv.shrink(model, plan, example_input=X)
    assert small.heads == 2
    return saved(lambda path: pv.save(small, path, encoding=encoding))


@cache
def evidence_file() -> bytes:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    data = [(torch.randn(9, 4), torch.randint(0, 3, (9,)))]
    evidence = pv.collect(net, data, loss=nn.functional.cross_entropy, progress=False)
    return saved(evidence.save)


def early(data: bytes, key: str, change=None, drop=(), **tensors) -> bytes:
    """Return a file as early versions wrote it, without checksum, in which something is changed."""
    header, _ = parts_of(data)
    head = json.loads(header["__metadata__"][key])
    del head["checksum"]
    head["version"] = 1
    if change is not None:
        change(head)
    numbers_of = {name: t.clone() for name, t in from_bytes(data).items() if name not in drop}
    text = head if isinstance(head, str) else json.dumps(head)
    return to_bytes({**numbers_of, **tensors}, {key: text})


def model(change=None, encoding="dense", drop=(), **tensors):
    named = {k.replace("__", "."): t for k, t in tensors.items()}
    return lambda: early(model_file(encoding), "pruneviz", change, drop, **named)


def cut(**entry):
    """Change the first entry of the first cut."""
    return model(lambda head: head["cuts"][0]["keep"][0].update(entry))


def size(*entry):
    """Set one attribute more."""
    return model(lambda head: head["cuts"][0]["attributes"].append(list(entry)))


def update(head=None, **entries):
    return model(lambda h: h.update(entries))


def raw(change):
    return lambda: change(model_file())


def flipped(at, bit=0):
    def flip(data):
        i = at if at >= 0 else len(data) + at
        return data[:i] + bytes([data[i] ^ 1 << bit]) + data[i + 1 :]

    return flip


def header(change):
    """Change the header of a file with a checksum."""

    def changed(data):
        head, numbers = parts_of(data)
        return with_header(change(head) or head, numbers)

    return raw(changed)


def entry(name, **values):
    def change(head):
        head[name].update(values)
        return head

    return header(change)


@cache
def bomb(n: int) -> str:
    """Return so many zeros, deflated: a text of a few hundred kilobytes, or much less."""
    writer = zlib.compressobj(1)
    parts = [writer.compress(bytes(2**20)) for _ in range(n // 2**20)]
    return base64.b64encode(b"".join(parts) + writer.flush()).decode()


DAMAGED = "{path!r} is damaged ({why}). Write it anew: pv.save(model, path)."
OTHER = "`build` makes another model than the saved one: {why}."
PLAN_DAMAGED = "the plan is damaged: {why}. Write it again: plan.to_json()."
NO_PLAN = (
    "`text` must be JSON written by Plan.to_json(), but it could not be read ({why}). Pass what "
    "plan.to_json() returned."
)
NO_EVIDENCE = "{path!r} could not be read as evidence ({why}). Write it with evidence.save(path)."
NO_TABLE = (
    "`path` {path!r} holds no table of pv.sweep, or is damaged ({why}). Name another file, or delete "
    "this one."
)
DATA = len(model_file()) - len(parts_of(model_file())[1])


def packed(index):
    places = np.array(index, "<i4")
    return deflated(np.diff(places, prepend=np.int32(0)).astype("<i4"))


NET = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
GROUPS = pv.find_groups(NET, torch.zeros(1, 4))
PLAN = pv.drop(GROUPS, {"0": [1, 2]})
ROTATED = packed([1, 2, 3, 4, 5, 0])


def plan(change=None):
    """Return the text of a plan as early versions wrote it, without checksum, changed."""

    def text():
        data = json.loads(PLAN.to_json())
        del data["checksum"]
        data["version"] = 1
        if change is not None:
            change(data)
        return json.dumps(data)

    return text


def unit(group, part, **entry):
    return plan(lambda p: p["groups"][group]["slices"][part].update(entry))


def evidence(change=None, drop=(), **tensors):
    return lambda: early(evidence_file(), "head", change, drop, **tensors)


def judge():
    return pv.Accuracy([(torch.eye(4), torch.arange(4) % 3)])


def swept(path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    return pv.sweep(model, torch.zeros(1, 4), criteria=["magnitude"], sparsities=[0.0, 0.5],
                    evaluate=judge(), path=path, progress=False)  # fmt: skip


@cache
def table_file() -> bytes:
    return saved(swept)


NAMES = table_file().split(b"\n")[1]


def lines(change):
    def changed():
        head, names, *rows = table_file().decode().splitlines()
        return "\n".join([head, names, *change(rows), ""]).encode()

    return changed


def table(column, value):
    """Return the file of a sweep in which one number is another."""
    at = NAMES.decode().split(",").index(column)

    def change(rows):
        cells = rows[0].split(",")
        return [",".join([*cells[:at], str(value), *cells[at + 1 :]]), *rows[1:]]

    return lines(change)


MODELS = {
    "nothing": (raw(lambda data: b""), DAMAGED, "header too small"),
    "a few bytes": (raw(lambda data: data[:5]), DAMAGED, "header too small"),
    "half of the header": (raw(lambda data: data[:400]), DAMAGED, "invalid header length"),
    "the header only": (raw(lambda data: data[:DATA]), DAMAGED, "incomplete metadata, file not fully covered"),
    "one byte too few": (raw(lambda data: data[:-1]), DAMAGED, "incomplete metadata, file not fully covered"),
    "one byte too many": (raw(lambda data: data + b"0"), DAMAGED, "incomplete metadata, file not fully covered"),
    "something else": (raw(lambda data: b"hello, world " * 40), DAMAGED, "header too large"),
    "zeros": (raw(lambda data: bytes(len(data))), DAMAGED, "invalid JSON in header: EOF while parsing a value at line 1 column 0"),
    "the length of the header flipped": (raw(flipped(0)), DAMAGED, "invalid JSON in header: trailing characters at line 1 column 961"),
    "a header of exabytes": (raw(lambda data: struct.pack("<Q", 2**62) + data[8:]), DAMAGED, "header too large"),
    "a header of 99 MB that is not there": (raw(lambda data: struct.pack("<Q", 99_000_000) + data[8:]), DAMAGED, "invalid header length"),
    "the first number flipped": (raw(flipped(DATA)), DAMAGED, "its checksum is that of other numbers"),
    "a number in the middle flipped": (raw(flipped(DATA + 500, 3)), DAMAGED, "its checksum is that of other numbers"),
    "the last number flipped": (raw(flipped(-1, 7)), DAMAGED, "its checksum is that of other numbers"),
    "two numbers exchanged": (raw(lambda data: data[:-8] + data[-4:] + data[-8:-4]), DAMAGED, "its checksum is that of other numbers"),
    "all numbers NaN": (raw(lambda data: data[:DATA] + b"\xff" * (len(data) - DATA)), DAMAGED, "its checksum is that of other numbers"),
    "a kept bit flipped": (header(lambda head: head["__metadata__"].update(pruneviz=head["__metadata__"]["pruneviz"].replace("eNr78J", "eNr78I"))), DAMAGED, "its checksum is that of another head"),
    "a size of the head changed": (header(lambda head: head["__metadata__"].update(pruneviz=head["__metadata__"]["pruneviz"].replace("heads", "scale"))), DAMAGED, "its checksum is that of another head"),
    "the checksum changed": (header(lambda head: head["__metadata__"].update(pruneviz=head["__metadata__"]["pruneviz"][:-6] + "0000\"}")), DAMAGED, "its checksum is that of other numbers"),
    "the checksum missing": (header(lambda head: head["__metadata__"].update(pruneviz=head["__metadata__"]["pruneviz"].replace("checksum", "checksun"))), DAMAGED, "its checksum is missing"),
    "half a checksum": (header(lambda head: head["__metadata__"].update(pruneviz=head["__metadata__"]["pruneviz"][:-35] + "\"}")), DAMAGED, "its checksum is missing"),
    "two tensors exchange names": (header(lambda head: head | {"norm.bias": head["norm.weight"], "norm.weight": head["norm.bias"]}), DAMAGED, "its checksum is that of other numbers"),
    "another dtype of the same width": (entry("out.bias", dtype="I32"), OTHER, "'out.bias' is int32[4] in the file and float32[4] in the model"),
    "a dtype of no numbers": (entry("out.bias", dtype="F128"), DAMAGED, "invalid JSON in header: unknown variant `F128`, expected one of `BOOL`, `F4`, `F6_E2M3`, `F6_E3M2`, `U8`, `I8`, `F8_E5M2`, `F8_E4M3`, `F8_E8M0`, `F8_E4M3FNUZ`, `F8_E5M2FNUZ`, `I16`, `U16`, `F16`, `BF1"),
    "a negative shape": (entry("out.bias", shape=[-4]), DAMAGED, "invalid JSON in header: invalid value: integer `-4`, expected usize at line 1 column 1007"),
    "another shape of as many numbers": (entry("out.weight", shape=[8, 4]), DAMAGED, "its checksum is that of another head"),
    "a shape of terabytes": (entry("out.bias", shape=[2**42]), DAMAGED, "invalid shape, data type, or offset for tensor"),
    "offsets beyond the end": (entry("qkv.weight", data_offsets=[336, 2**40]), DAMAGED, "invalid shape, data type, or offset for tensor"),
    "offsets that overlap": (entry("qkv.weight", data_offsets=[0, 768]), DAMAGED, "invalid offset for tensor `qkv.weight`"),
    "a header that is a list": (raw(lambda data: with_header([], data[DATA:])), DAMAGED, "invalid JSON in header: invalid type: sequence, expected struct HashMetadata at line 1 column 0"),
    "a header in which a key stands twice": (raw(lambda data: with_header(data[8:DATA].rstrip()[:-1] + b", \"a\": 1, \"a\": 1}", data[DATA:])), DAMAGED, "invalid JSON in header: invalid type: integer `1`, expected struct TensorInfo at line 1 column 970"),
    "no head": (header(lambda head: {k: v for k, v in head.items() if k != "__metadata__"}), '{path!r} was not written by pv.save: it holds no cuts.', ""),
    "a head that is no JSON": (header(lambda head: head["__metadata__"].update(pruneviz="keep all")), DAMAGED, "Expecting value: line 1 column 1 (char 0)"),
    "a head that is a list": (header(lambda head: head["__metadata__"].update(pruneviz="[1]")), DAMAGED, "its head is no mapping"),
    "a head of 100,000 brackets": (header(lambda head: head["__metadata__"].update(pruneviz="[" * 100_000)), DAMAGED, "it is nested too deeply"),
    "a head with NaN": (header(lambda head: head["__metadata__"].update(pruneviz="{\"version\": NaN}")), DAMAGED, "it holds NaN"),
    "a head in which a key stands twice": (header(lambda head: head["__metadata__"].update(pruneviz="{\"a\": 1, \"a\": 2}")), DAMAGED, "it holds 'a' twice"),
    "a later version": (update(version=4), '{path!r} was written by a newer pruneviz (0.1.0): update this one.', ""),
    "no version": (update(version=None), DAMAGED, "None is no whole number ≥ 1"),
    "a version that is a fraction": (update(version=1.0), DAMAGED, "1.0 is no whole number ≥ 1"),
    "a version below 1": (update(version=0), DAMAGED, "0 is no whole number ≥ 1"),
    "no cuts": (model(lambda head: head.pop("cuts")), DAMAGED, "it lacks 'cuts'"),
    "cuts that are a number": (update(cuts=7), DAMAGED, "its head is not of the form that is written"),
    "cuts that are texts": (update(cuts=["qkv"]), DAMAGED, "its head is not of the form that is written"),
    "a cut without attributes": (model(lambda head: head["cuts"][0].pop("attributes")), DAMAGED, "it lacks 'attributes'"),
    "the cut left out": (update(cuts=[]), OTHER, "'qkv.weight' is float32[24, 8] in the file and float32[36, 8] in the model. If another tool made it smaller, let `build` return the smaller model"),
    "the cut done twice": (model(lambda head: head["cuts"].append(head["cuts"][0])), OTHER, "'qkv.weight' has 24 places along dimension 0, not 36"),
    "a tensor that is not there": (cut(tensor="qkw.weight"), OTHER, "it has no tensor 'qkw.weight'"),
    "a tensor that is a list": (cut(tensor=["qkv.weight"]), DAMAGED, "its head is not of the form that is written"),
    "a dimension below 0": (cut(dim=-2), DAMAGED, "-2 is no whole number ≥ 0"),
    "a dimension too high": (cut(dim=2), OTHER, "'qkv.weight' has the shape (36, 8)"),
    "a dimension that is true": (cut(dim=True), DAMAGED, "True is no whole number ≥ 0"),
    "a dimension of words": (cut(dim="0"), DAMAGED, "'0' is no whole number ≥ 0"),
    "no blocks": (cut(blocks=0), DAMAGED, "0 is no whole number ≥ 1"),
    "blocks where there are none": (cut(blocks=5, size=180), OTHER, "'qkv.weight' has the shape (36, 8)"),
    "blocks of terabytes": (cut(blocks=2**45, size=2**45 * 36), OTHER, "'qkv.weight' has the shape (36, 8)"),
    "a size of another model": (cut(size=37), OTHER, "'qkv.weight' has 36 places along dimension 0, not 37"),
    "a size of 29 TiB": (cut(size=2**48), OTHER, "'qkv.weight' has 36 places along dimension 0, not 281474976710656"),
    "a size below 0": (cut(size=-36), DAMAGED, "-36 is no whole number ≥ 1"),
    "a size that is a fraction": (cut(size=36.0), DAMAGED, "36.0 is no whole number ≥ 1"),
    "bits that are none": (cut(bits=None), DAMAGED, "its head is not of the form that is written"),
    "bits that are no base64": (cut(bits="§"), DAMAGED, "string argument should contain only ASCII characters"),
    "bits that are not deflated": (cut(bits="AAAA"), DAMAGED, "Error -3 while decompressing data: unknown compression method"),
    "bits that are too few": (cut(bits=deflated(np.ones(4, np.uint8))), DAMAGED, "other than 5 bytes are packed"),
    "bits that inflate to half a gigabyte": (cut(bits=bomb(2**29)), DAMAGED, "other than 5 bytes are packed"),
    "bits that keep nothing": (cut(bits=deflated(np.zeros(5, np.uint8))), DAMAGED, "nothing is left of 'qkv.weight'"),
    "bits that keep all": (cut(bits=deflated(np.full(5, 255, np.uint8))), DAMAGED, "'qkv.weight' loses nothing"),
    "a size of a norm that has tensors": (size("norm", "normalized_shape", [11], "tuple"), DAMAGED, "it sets 'normalized_shape' of layer 'norm', which is no size"),
    "a layer that is not there": (size("attention", "heads", 1, "int"), OTHER, "it has no layer 'attention'"),
    "a layer that is a number": (size(3, "heads", 1, "int"), OTHER, "it has no layer '3'"),
    "an attribute that is not there": (size("", "width", 1, "int"), DAMAGED, "it sets 'width' of layer '', which is no size"),
    "an attribute with a setter": (size("", "report", 1, "int"), DAMAGED, "it sets 'report' of layer '', which is no size"),
    "an attribute that is a layer": (size("", "qkv", 1, "int"), DAMAGED, "it sets 'qkv' of layer '', which is no size"),
    "a method": (size("", "forward", 1, "int"), DAMAGED, "it sets 'forward' of layer '', which is no size"),
    "a private attribute": (size("", "_buffers", 1, "int"), DAMAGED, "it sets '_buffers' of layer '', which is no size"),
    "the class of a layer": (size("", "__class__", 1, "int"), DAMAGED, "it sets '__class__' of layer '', which is no size"),
    "a switch": (size("", "on", 0, "int"), DAMAGED, "it sets 'on' of layer '', which is no size"),
    "the mode": (size("", "training", 1, "int"), DAMAGED, "it sets 'training' of layer '', which is no size"),
    "eps": (size("norm", "eps", 1, "int"), DAMAGED, "it sets 'eps' of layer 'norm', which is no size"),
    "a size that follows from tensors": (size("out", "in_features", 4, "int"), DAMAGED, "it sets 'in_features' of layer 'out', which is no size"),
    "a size that grows": (size("", "scale", 70_000, "int"), DAMAGED, "it sets 'scale' of layer '' from 7 to 70000"),
    "a size below 1": (size("", "scale", 0, "int"), DAMAGED, "0 is no whole number ≥ 1"),
    "a size that is a text": (size("", "scale", "7", "str"), DAMAGED, "it sets 'scale' of layer '', which is 7, to something else"),
    "a size that is true": (size("", "scale", True, "bool"), DAMAGED, "True is no whole number ≥ 1"),
    "a size that becomes a tuple": (size("", "scale", [7], "tuple"), DAMAGED, "it sets 'scale' of layer '', which is 7, to something else"),
    "a tuple that becomes longer": (size("", "pair", [5, 9, 1], "tuple"), DAMAGED, "it sets 'pair' of layer '', which is (5, 9), to something else"),
    "a tuple that grows": (size("", "pair", [5, 10], "tuple"), DAMAGED, "it sets 'pair' of layer '' from 9 to 10"),
    "a tuple with a text": (size("", "pair", [5, "9"], "tuple"), DAMAGED, "'9' is no whole number ≥ 1"),
    "an attribute with too few parts": (size("", "scale"), DAMAGED, "an attribute of a cut is no list of four"),
    "a tensor too many": (model(extra=torch.zeros(2)), OTHER, "'extra' is float32[2] in the file and missing in the model"),
    "a tensor too few": (model(drop=["out.bias"]), OTHER, "'out.bias' is missing in the file and float32[4] in the model"),
    "a tensor of another shape": (model(out__bias=torch.zeros(5)), OTHER, "'out.bias' is float32[5] in the file and float32[4] in the model"),
    "a tensor of another dtype": (model(out__bias=torch.zeros(4, dtype=torch.float64)), OTHER, "'out.bias' is float64[4] in the file and float32[4] in the model"),
    "an alias that is not there": (update(aliases={"in.weight": "out.weight"}), OTHER, "it has no tensor 'in.weight' that is also 'out.weight'"),
    "an alias of nothing": (update(aliases={"out.bias": "in.bias"}), OTHER, "it has no tensor 'out.bias' that is also 'in.bias'"),
    "aliases that are a list": (update(aliases=["out.bias"]), DAMAGED, "its head is not of the form that is written"),
    "no sparse rows": (model(lambda head: head["csr"].pop("qkv.weight"), "csr_int32"), OTHER, "'qkv.weight' is missing in the file and float32[24, 8] in the model"),
    "sparse rows of another shape": (model(lambda head: head["csr"].update({"qkv.weight": [8, 24]}), "csr_int32"), OTHER, "'qkv.weight' is [8, 24] in the file and [24, 8] in the model"),
    "sparse rows of terabytes": (model(lambda head: head["csr"].update({"qkv.weight": [2**21, 2**21]}), "csr_int32"), OTHER, "'qkv.weight' is [2097152, 2097152] in the file and [24, 8] in the model"),
    "sparse rows of a bias": (model(lambda head: head["csr"].update({"out.bias": [4]}), "csr_int32"), DAMAGED, "'out.bias' is no matrix that could have sparse rows"),
    "sparse rows without columns": (model(None, "csr_int32", ["out.weight.col"]), DAMAGED, "it lacks 'out.weight.col'"),
    "columns beyond the end": (model(None, "csr_int32", out__weight__col=torch.full((32,), 99, dtype=torch.int32)), DAMAGED, "rows, columns and values do not fit one another"),
    "columns below 0": (model(None, "csr_int32", out__weight__col=torch.full((32,), -1, dtype=torch.int32)), DAMAGED, "rows, columns and values do not fit one another"),
    "columns that are fractions": (model(None, "csr_int32", out__weight__col=torch.zeros(32)), DAMAGED, "the columns of 'out.weight' are no indices, or too many"),
    "too few columns": (model(None, "csr_int32", out__weight__col=torch.zeros(3, dtype=torch.int32)), DAMAGED, "rows, columns and values of 'out.weight' do not fit one another"),
    "rows that run backwards": (model(None, "csr_int32", out__weight__crow=torch.tensor([0, 32, 0, 32, 32], dtype=torch.int32)), DAMAGED, "rows, columns and values do not fit one another"),
    "too many rows": (model(None, "csr_int32", out__weight__crow=torch.arange(9, dtype=torch.int32)), DAMAGED, "rows, columns and values of 'out.weight' do not fit one another"),
}  # fmt: skip
PLANS = {
    "a group that cannot be cut": (plan(lambda p: p["keep"].update({"2": {"shape": [3], "bits": deflated(np.zeros(1, np.uint8))}})), PLAN_DAMAGED, "it names group '2', which cannot be cut"),
    "a rotated row": (unit(0, 0, index=ROTATED), PLAN_DAMAGED, "the units of group '0' are out of order in '0.weight'"),
    "rotated rows of all that make the units": (plan(lambda p: [s.update(index=ROTATED) for s in p["groups"][0]["slices"] if s["role"] == "out"]), PLAN_DAMAGED, "the units of group '0' are out of order in '0.weight'"),
    "no places": (unit(0, 0, index=packed([])), PLAN_DAMAGED, "the units of '0.weight' have no, negative or equal places"),
    "negative places": (unit(0, 0, index=packed([-1, 0, 1, 2, 3, 4])), PLAN_DAMAGED, "the units of '0.weight' have no, negative or equal places"),
    "equal places": (unit(0, 0, index=packed([0, 0, 1, 2, 3, 4])), PLAN_DAMAGED, "the units of '0.weight' have no, negative or equal places"),
    "places that do not fit the units": (unit(0, 0, index=packed([0, 1, 2, 3])), PLAN_DAMAGED, "16 bytes of places for 6 units"),
    "half a number": (unit(0, 0, index=base64.b64encode(zlib.compress(b"123")).decode()), PLAN_DAMAGED, "3 bytes of places for 6 units"),
    "a place of a list": (unit(0, 0, index=[0, 1]), NO_PLAN, 'TypeError("argument should be a bytes-like object or ASCII string, not \'list\'")'),
    "a dimension below 0": (unit(0, 0, dim=-1), PLAN_DAMAGED, "-1 is no whole number ≥ 0"),
    "a dimension that is a fraction": (unit(0, 0, dim=0.0), PLAN_DAMAGED, "0.0 is no whole number ≥ 0"),
    "no blocks": (unit(0, 0, blocks=0), PLAN_DAMAGED, "0 is no whole number ≥ 1"),
    "another role": (unit(0, 0, role="both"), PLAN_DAMAGED, "'both' is no role of a slice"),
    "a group of no units": (plan(lambda p: p["groups"][0].update(size=0)), PLAN_DAMAGED, "0 is no whole number ≥ 1"),
    "a group of minus units": (plan(lambda p: p["groups"][0].update(size=-6)), PLAN_DAMAGED, "-6 is no whole number ≥ 1"),
    "two groups of a name": (plan(lambda p: p["groups"].append(p["groups"][0])), PLAN_DAMAGED, "two groups have the name '0'. Give each group a name of its own"),
    "a group that is not there": (plan(lambda p: p["keep"].update(fc9=p["keep"]["0"])), PLAN_DAMAGED, "group 'fc9' is unknown. Known: 0, 2"),
    "bits of another size": (plan(lambda p: p["keep"]["0"].update(shape=[7])), PLAN_DAMAGED, "(7,) is not the shape of group '0'"),
    "a shape below 0": (plan(lambda p: p["keep"]["0"].update(shape=[-6])), PLAN_DAMAGED, "-6 is no whole number ≥ 0"),
    "a shape of exabytes": (plan(lambda p: p["keep"]["0"].update(shape=[2**62])), PLAN_DAMAGED, "other than 576,460,752,303,423,488 bytes are packed"),
    "bits that inflate to half a gigabyte": (plan(lambda p: p["keep"]["0"].update(bits=bomb(2**29))), PLAN_DAMAGED, "other than 1 bytes are packed"),
    "100,000 brackets": (lambda: "[" * 100_000, PLAN_DAMAGED, "it is nested too deeply"),
    "100,000 brackets as groups": (lambda: plan()().replace("\"groups\": [", "\"groups\": [" + "[" * 100_000), PLAN_DAMAGED, "it is nested too deeply"),
    "NaN": (plan(lambda p: p.update(version=float("nan"))), PLAN_DAMAGED, "it holds NaN"),
    "a key twice": (lambda: plan()().replace("{", "{\"version\": 1, ", 1), PLAN_DAMAGED, "it holds 'version' twice"),
    "a later version": (plan(lambda p: p.update(version=3)), NO_PLAN, "KeyError('version')"),
    "the checksum of another": (lambda: PLAN.to_json().replace("\"dim\": 0", "\"dim\": 1", 1), PLAN_DAMAGED, "its checksum is that of another plan"),
    "the checksum cut off": (lambda: json.dumps({k: v for k, v in json.loads(PLAN.to_json()).items() if k != "checksum"}), PLAN_DAMAGED, "its checksum is that of another plan"),
    "nothing": (lambda: "", NO_PLAN, "JSONDecodeError('Expecting value: line 1 column 1 (char 0)')"),
}  # fmt: skip
EVIDENCE = {
    "nothing": (lambda: b"", NO_EVIDENCE, "header too small"),
    "half": (lambda: evidence_file()[:900], NO_EVIDENCE, "invalid header length"),
    "a flipped number": (lambda: flipped(-9)(evidence_file()), NO_EVIDENCE, "its checksum is that of other numbers"),
    "a flipped head": (lambda: evidence_file().replace(b"examples\\\": 9", b"examples\\\": 8"), NO_EVIDENCE, "its checksum is that of another head"),
    "a model": (lambda: model_file(), NO_EVIDENCE, "it holds something else"),
    "counts below 0": (evidence(lambda head: head["counts"].update({"inputs/0": -9})), NO_EVIDENCE, "-9 is no whole number ≥ 1"),
    "counts that are fractions": (evidence(lambda head: head["counts"].update({"inputs/0": 9.5})), NO_EVIDENCE, "9.5 is no whole number ≥ 1"),
    "examples below 0": (evidence(lambda head: head.update(examples=-9)), NO_EVIDENCE, "-9 is no whole number ≥ 1"),
    "no examples": (evidence(lambda head: head.update(examples=0)), NO_EVIDENCE, "0 is no whole number ≥ 1"),
    "a later version": (evidence(lambda head: head.update(version=9)), NO_EVIDENCE, "it was written by a newer pruneviz: update this one"),
    "100,000 brackets": (lambda: to_bytes({}, {"head": "[" * 100_000}), NO_EVIDENCE, "it is nested too deeply"),
    "shapes below 0": (evidence(lambda head: head["shapes"].update({"0": [-6, 4]})), NO_EVIDENCE, "-6 is no whole number ≥ 1"),
    "shapes of another model": (evidence(lambda head: head["shapes"].update({"0": [6, 5]})), NO_EVIDENCE, "'fisher/0.weight' is [6, 4], and the weight [6, 5]"),
    "a layer that is not there": (evidence(lambda head: head["shapes"].pop("0")), NO_EVIDENCE, "'inputs/0' belongs to no layer"),
    "moments of another kind": (evidence(lambda head: head["counts"].update({"outputs/0": 9})), NO_EVIDENCE, "it lacks 'outputs/0/mean'"),
    "a missing field": (evidence(drop=["inputs/0/mean"]), NO_EVIDENCE, "it lacks 'inputs/0/mean'"),
    "NaN": (evidence(**{"inputs/0/mean": torch.full((4,), torch.nan).double()}), NO_EVIDENCE, "the moments of layer '0' hold NaN or infinity"),
    "infinity": (evidence(**{"inputs/0/high": torch.full((4,), torch.inf).double()}), NO_EVIDENCE, "the moments of layer '0' hold NaN or infinity"),
    "half precision": (evidence(**{"inputs/0/mean": torch.zeros(4)}), NO_EVIDENCE, "mean of 'inputs/0' is torch.float32[4]"),
    "another width": (evidence(**{"inputs/0/mean": torch.zeros(5).double()}), NO_EVIDENCE, "comoment of 'inputs/0' is torch.float64[4, 4]"),
    "zeros below 0": (evidence(**{"inputs/0/zeros": -torch.ones(4).double()}), NO_EVIDENCE, "zeros of layer '0' cannot be"),
    "more zeros than rows": (evidence(**{"inputs/0/zeros": torch.full((4,), 10.0).double()}), NO_EVIDENCE, "zeros of layer '0' cannot be"),
    "half a zero": (evidence(**{"inputs/0/zeros": torch.full((4,), 0.5).double()}), NO_EVIDENCE, "zeros of layer '0' cannot be"),
    "a mean above the highest": (evidence(**{"inputs/0/mean": torch.full((4,), 99.0).double()}), NO_EVIDENCE, "low, mean and high of layer '0' cannot be"),
    "a negative variance": (evidence(**{"inputs/0/comoment": -torch.eye(4).double()}), NO_EVIDENCE, "comoment of layer '0' cannot be"),
    "a co-moment of another width": (evidence(**{"inputs/0/comoment": torch.eye(5).double()}), NO_EVIDENCE, "comoment of 'inputs/0' is torch.float64[5, 5]"),
    "squares below 0": (evidence(**{"grad_sq/0.weight": -torch.ones(6, 4).double()}), NO_EVIDENCE, "'grad_sq/0.weight' holds NaN, infinity, or a square below 0"),
    "squares that are NaN": (evidence(**{"fisher/0.weight": torch.full((6, 4), torch.nan).double()}), NO_EVIDENCE, "'fisher/0.weight' holds NaN, infinity, or a square below 0"),
    "squares of another shape": (evidence(**{"fisher/0.weight": torch.ones(4, 4).double()}), NO_EVIDENCE, "'fisher/0.weight' is [4, 4], and the weight [6, 4]"),
    "gradients that are no square": (evidence(**{"output_grad/0": torch.ones(3, 4).double()}), NO_EVIDENCE, "'output_grad/0' is [3, 4]"),
    "gradients below 0": (evidence(**{"output_grad/0": -torch.eye(6).double()}), NO_EVIDENCE, "'output_grad/0' holds NaN, infinity, or a square below 0"),
    "whole numbers for squares": (evidence(**{"fisher/0.weight": torch.ones(6, 4).int()}), NO_EVIDENCE, "'fisher/0.weight' is torch.int32"),
    "something more": (evidence(extra=torch.ones(2)), NO_EVIDENCE, "'extra' belongs to no layer"),
}  # fmt: skip
TABLES = {
    "a sparsity above 1": (table("sparsity", 1.7), NO_TABLE, "sparsity is 1.7, not between 0 and 1"),
    "a sparsity below 0": (table("sparsity", -0.1), NO_TABLE, "sparsity is -0.1, not between 0 and 1"),
    "a target above 1": (table("target_sparsity", 50.0), NO_TABLE, "target_sparsity is 50.0, not between 0 and 1"),
    "an accuracy below 0": (table("metric", -3), NO_TABLE, "metric is -3.0, not between 0 and 1"),
    "an accuracy above 1": (table("metric", 97.5), NO_TABLE, "metric is 97.5, not between 0 and 1"),
    "an accuracy that is NaN": (table("metric", "nan"), NO_TABLE, "metric is nan, not between 0 and 1"),
    "an infinite accuracy": (table("metric", "inf"), NO_TABLE, "metric is inf, not between 0 and 1"),
    "an accuracy outside its interval": (table("low", 0.999999), NO_TABLE, "metric is 0.25, not between 0.999999 and 0.6993581574175981"),
    "an interval beyond 1": (table("high", 1.5), NO_TABLE, "high is 1.5, not between 0 and 1"),
    "no examples": (table("examples", -1), NO_TABLE, "examples is -1, not 0 or more"),
    "half an example": (table("examples", 2.5), NO_TABLE, "examples is '2.5', not a whole number"),
    "params below 0": (table("params", -7), NO_TABLE, "params is -7, not 0 or more"),
    "MACs that are NaN": (table("macs", "nan"), NO_TABLE, "macs is 'nan', not a whole number"),
    "a seed below 0": (table("seed", -1), NO_TABLE, "seed is -1, not 0 or more"),
    "a word for a number": (table("bytes", "many"), NO_TABLE, "bytes is 'many', not a whole number"),
    "a cell too few": (lines(lambda rows: [rows[0].rpartition(",")[0], *rows[1:]]), NO_TABLE, "a row has 15 cells, not 16"),
    "a cell too many": (lines(lambda rows: [rows[0] + ",1", *rows[1:]]), NO_TABLE, "a row has 17 cells, not 16"),
    "a row twice": (lines(lambda rows: [*rows, rows[0]]), NO_TABLE, "it holds a row twice"),
    "NUL": (lines(lambda rows: [rows[0].replace(",", ",\0", 1), *rows[1:]]), "`path` {path!r} holds a row that this call does not ask for, ('magnitude', '\\x00weight', 'layer', 'none', 0, 0.0). Name another file, or delete this one.", ""),
    "no text": (lambda: b"# pruneviz \xff\xfe\n\n\n", NO_TABLE, "'utf-8' codec can't decode byte 0xff in position 11: invalid start byte"),
    "another table": (lambda: b"layer,metric\nfc1,0.5\n", NO_TABLE, "its first two lines are not those of such a table"),
    "a head of 100,000 brackets": (lambda: b"# pruneviz " + b"[" * 100_000 + b"\n" + NAMES + b"\n", NO_TABLE, "it is nested too deeply"),
    "a head with NaN": (lambda: b"# pruneviz {\"verb\": NaN}\n" + NAMES + b"\n", NO_TABLE, "it holds NaN"),
    "the table of another verb": (lambda: table_file().replace(b"\"sweep\"", b"\"sensitivity\""), NO_TABLE, "it holds a table of pv.sensitivity"),
    "a head without arguments": (lambda: b"# pruneviz {\"verb\": \"sweep\"}\n" + NAMES + b"\n", NO_TABLE, "it lacks 'arguments'"),
}  # fmt: skip


def judged(model):
    return 0.5


def pruned(path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    data = [(torch.eye(4), torch.arange(4) % 3)]
    return pv.prune_iteratively(
        net, data, sparsity=0.5, rounds=2, evaluate=judged, path=path, progress=False
    )


@cache
def rounds_file() -> bytes:
    return saved(pruned)


def rounds(change=None, drop=(), **tensors):
    """Return a file of rounds as early versions wrote it, changed."""
    return lambda: early(rounds_file(), "pruneviz.rounds", change, drop, **tensors)


NO_ROUNDS = (
    "`path` {path!r} holds no rounds, or is damaged ({why}). Name another file, or delete this one."
)
ROUNDS = {
    "half": (lambda: rounds_file()[:999], NO_ROUNDS, "invalid header length"),
    "a flipped number": (lambda: flipped(-9)(rounds_file()), NO_ROUNDS, "its checksum is that of other numbers"),
    "a model": (lambda: model_file(), NO_ROUNDS, "it holds something else"),
    "no plans": (rounds(lambda head: head.pop("plans")), NO_ROUNDS, "it lacks 'plans'"),
    "a plan too few": (rounds(lambda head: head["plans"].pop()), NO_ROUNDS, "it holds 1 plans and 3 values of round"),
    "a plan of another model": (rounds(lambda head: head["plans"].__setitem__(1, PLAN.to_json())), NO_ROUNDS, "its tensors are not those of the model"),
    "a damaged plan": (rounds(lambda head: head["plans"].__setitem__(1, "[" * 100_000)), NO_ROUNDS, "the plan is damaged: it is nested too deeply. Write it again: plan.to_json()"),
    "a sparsity above 1": (rounds(lambda head: head["frame"]["sparsity"].__setitem__(1, 1.7)), NO_ROUNDS, "sparsity is 1.7, not between 0 and 1"),
    "a metric that is a text": (rounds(lambda head: head["frame"]["metric"].__setitem__(1, "high")), NO_ROUNDS, "metric is 'high', not a number"),
    "a tensor of another shape": (rounds(**{"2.bias": torch.zeros(5)}), NO_ROUNDS, "its tensors are not those of the model"),
    "a tensor too few": (rounds(drop=["2.bias"]), NO_ROUNDS, "its tensors are not those of the model"),
}  # fmt: skip


def read_model(path):
    return pv.load(path, lambda: Net().eval())


def check(read, make, message, why, path):
    data = make()
    path.write_bytes(data)
    with refused(message.replace("{why}", why).replace("{path!r}", repr(str(path)))):
        read(path)
    assert path.read_bytes() == data
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.fixture(autouse=True)
def memory():
    """Whoever asks for more memory than a small file may need, gets none."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_there_are_ninety_and_more():
    assert len(MODELS) >= 90 and len(PLANS) + len(EVIDENCE) + len(TABLES) >= 80


@pytest.mark.parametrize("name", MODELS)
def test_a_damaged_model_is_refused(tmp_path, name):
    check(read_model, *MODELS[name], tmp_path / "f")


@pytest.mark.parametrize("name", PLANS)
def test_a_damaged_plan_is_refused(name):
    make, message, why = PLANS[name]
    with refused(message.replace("{why}", why)):
        pv.Plan.from_json(make())


@pytest.mark.parametrize("name", EVIDENCE)
def test_damaged_evidence_is_refused(tmp_path, name):
    check(Evidence.load, *EVIDENCE[name], tmp_path / "f")


@pytest.mark.parametrize("name", TABLES)
def test_a_damaged_table_is_refused(tmp_path, name):
    check(swept, *TABLES[name], tmp_path / "f")


@pytest.mark.parametrize("name", ROUNDS)
def test_damaged_rounds_are_refused(tmp_path, name):
    check(pruned, *ROUNDS[name], tmp_path / "f")


def test_undamaged_files_are_read(tmp_path):
    """Those of now, and those of early versions, which have no checksum."""
    for make in (
        lambda: model_file(),
        lambda: model_file("csr_int32"),
        model(),
        model(encoding="csr_int32"),
    ):
        (tmp_path / "f").write_bytes(make())
        again = read_model(tmp_path / "f")
        assert (again.heads, again.pair, again.norm.eps, again.written) == (2, (5, 9), 1e-5, [])
    for text in (PLAN.to_json(), plan()()):
        again = pv.Plan.from_json(text)
        assert torch.equal(again.keep["0"], PLAN.keep["0"]) and again.to_json() == PLAN.to_json()
    for data in (evidence_file(), evidence()()):
        (tmp_path / "f").write_bytes(data)
        assert Evidence.load(tmp_path / "f").examples == 9
    (tmp_path / "f").write_bytes(table_file())
    assert len(swept(tmp_path / "f")) == 2
    for data in (rounds_file(), rounds()()):
        (tmp_path / "f").write_bytes(data)
        assert len(pruned(tmp_path / "f").plans) == 2


def same_model(a, b):
    return (
        all(torch.equal(t, b.state_dict()[k]) for k, t in a.state_dict().items())
        and a.heads == b.heads
    )


@given(st.data())
def test_any_flip_of_a_model_is_found(tmp_path_factory, data):
    """A flipped bit gives an error, or stands where it changes nothing; also several, and cuts."""
    path, whole = tmp_path_factory.mktemp("flips") / "f", model_file()
    path.write_bytes(whole)
    good = read_model(path)
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1) | st.integers(0, DATA - 1))
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    end = data.draw(st.just(len(whole)) | st.integers(0, len(whole)))
    path.write_bytes(damaged[:end])
    try:
        again = read_model(path)
    except pv.ArgumentError as e:
        assert str(e).endswith(".") and len(str(e)) < 600
    else:
        assert same_model(again, good)


@given(st.data())
def test_any_flip_of_evidence_or_a_plan_is_found(tmp_path_factory, data):
    path, whole = tmp_path_factory.mktemp("flips") / "f", evidence_file()
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(flipped(at, bit)(whole))
    with pytest.raises(pv.ArgumentError):
        Evidence.load(path)
    text = PLAN.to_json()
    at, char = data.draw(st.integers(0, len(text) - 1)), data.draw(st.characters(codec="ascii"))
    try:
        again = pv.Plan.from_json(text[:at] + char + text[at + 1 :])
    except pv.ArgumentError:
        return
    assert parsed(again.to_json()) == parsed(text)


@settings(max_examples=20)
@given(st.data())
def test_a_damaged_table_gives_rows_or_an_error(tmp_path_factory, data):
    """Numbers in it have no checksum, because people read it; but impossible ones are refused."""
    path, damaged = tmp_path_factory.mktemp("flips") / "f", bytearray(table_file())
    start = len(damaged) - len(damaged.split(b"\n", 2)[2])  # of the rows
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1) | st.integers(start, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        frame = swept(path)
    except pv.ArgumentError:
        assert path.read_bytes() == damaged
    else:
        assert len(frame) == 2 and frame["metric"].between(0, 1).all()
        assert frame["sparsity"].between(0, 1).all() and (frame["nonzero"] >= 0).all()
