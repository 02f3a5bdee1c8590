"""The network picture: two renderers, one layout; and in which order the layers stand."""

import re
import xml.etree.ElementTree as ET

import pytest
import torch
from helpers import refused
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import nn

import pruneviz as pv
from pruneviz import lessons
from pruneviz.model.layout import fast_batches
from pruneviz.plots import network
from pruneviz.plots.groups import layer_rows
from pruneviz.plots.network import MAX_UNITS, UNITS_A_LINE, Row, Side

EVIL = "<img src=x onerror=alert(1)>"
SVG = "{http://www.w3.org/2000/svg}"


def some(*units):
    return frozenset(units)


TWO = [
    Row("fc1", "fc1", Side(0), Side(300, removed=some(0, 2, 299), picked=some(299))),
    Row(EVIL, EVIL, Side(300, removed=some(0, 2, 299), picked=some(299)), Side(10, frozen=some(*range(10)))),
]  # fmt: skip


@example(65, {63, 64})
@given(st.integers(0, 200), st.sets(st.integers(0, 199), max_size=100))
def test_at_most_64_units_are_drawn_and_picked_units_always(total, picked):
    picked = {u for u in picked if u < total}
    side = Side(total, picked=frozenset(picked))
    assert len(side.drawn) == len(set(side.drawn)) == min(total, MAX_UNITS)
    assert len(picked) > UNITS_A_LINE or picked <= set(side.drawn)
    assert side.drawn == sorted(side.drawn)
    assert side.lines == max(1, -(-len(side.drawn) // UNITS_A_LINE))


def test_the_svg_says_how_many_are_not_drawn_and_escapes_names():
    text = network.svg(TWO, label="a & b")
    tree = ET.fromstring(text)
    assert tree.get("role") == "img" and tree.get("aria-label") == "a & b"
    assert "<img" not in text
    words = ["".join(t.itertext()) for t in tree.iter(f"{SVG}text")]
    assert words.count("+236") == 2
    assert "297 of 300" in words and "10, frozen" in words and "the input" in words
    picked = [
        (g.get("data-layer"), g.get("data-side")) for g in tree.iter(f"{SVG}g") if g.get("class")
    ]
    assert picked == [("fc1", "makes"), (EVIL, "reads")]


def test_both_renderers_draw_the_same_signs():
    text = network.svg(TWO, label="x")
    drawn = re.sub("<g>.*</g>", "", text)  # without the key
    paths = dict(re.findall('<path class="(.*?)" d="(.*?)"', drawn))
    ax = Figure().subplots()
    network.draw(TWO, ax)
    marks = {c.get_label(): len(c.get_offsets()) for c in ax.collections}
    for kind, path in paths.items():
        assert marks[kind] == len(re.findall("M", path))
    assert marks["lit"] == 2
    assert (
        marks["makes"] + marks["makes, gone"] == marks["reads"] + marks["reads, gone"] == MAX_UNITS
    )
    assert marks["makes, frozen"] == 10


def test_kinds_differ_in_more_than_colour():
    signs = {kind: sign for kind, (_, sign) in network.KINDS.items()}
    assert len({signs["makes"], signs["reads"], signs["makes, gone"]}) == 3


def test_rows_are_in_the_order_of_the_forward_with_norms_beside_their_layer():
    model = lessons.load("residual-net")
    found = layer_rows(pv.find_groups(model, torch.zeros(2, 1, 28, 28)).to_frame())
    assert found[:3] == [
        ("stem", "bn"),
        ("stage1.0.conv1", "stage1.0.bn1"),
        ("stage1.0.conv2", "stage1.0.bn2"),
    ]
    assert [names[0] for names in found] == [
        n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))
    ]


def test_a_tied_weight_closes_a_circle_and_every_layer_has_its_row():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.c(torch.relu(self.a(torch.relu(self.b(torch.relu(self.a(x)))))))

    frame = pv.find_groups(Tied(), torch.zeros(2, 4)).to_frame()
    names = [n for layers in layer_rows(frame) for n in layers]
    assert sorted(names) == sorted(set(frame["layer"]))
    assert pv.plot_groups(frame).get_yticklabels()


def test_read_by_gives_the_columns_in_their_order():
    class Cat(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 2), nn.Linear(4, 3), nn.Linear(5, 1)

        def forward(self, x):
            return self.c(torch.cat([torch.relu(self.b(x)), torch.relu(self.a(x))], 1))

    groups = pv.find_groups(Cat(), torch.zeros(2, 4))
    read = [(g.name, u) for g, u in groups.read_by("c")]
    assert read == [("b", 0), ("b", 1), ("b", 2), ("a", 0), ("a", 1)]
    assert groups.read_by("a") == groups.read_by("nothing like it") == []


@pytest.mark.parametrize("n", [1, 100, 250])
def test_ready_batches_are_the_same_examples(n):
    x, y = torch.randn(n, 2, 3, 3), torch.arange(n)
    parts = fast_batches([(x, y)])
    assert torch.equal(torch.cat([p for p, _ in parts]), x)
    assert torch.equal(torch.cat([p for _, p in parts]), y)
    assert max(len(p) for p, _ in parts) <= 100
    assert fast_batches([({"x": x}, y)]) == [({"x": x}, y)]
    with refused(
        "the labels of batch 1 of `batches` must be one class per example, whole numbers of shape (3,), but int64[2] was passed. There must be as many labels as examples in every batch."
    ):
        pv.accuracy(nn.Flatten(), fast_batches([(torch.zeros(3, 2, 1, 1), torch.zeros(2).long())]))
