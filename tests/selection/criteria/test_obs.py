"""The second-order elimination against brute force, and through `score` on small networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_untouched, refused, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo.case import net, stir

import pruneviz as pv
from pruneviz.selection.criteria import obs
from pruneviz.selection.criteria import obs_units as elimination
from pruneviz.selection.criteria.obs import Elimination, LayerWork, Reader, eliminate

# -- brute force ---------------------------------------------------------------------------------


def reader(units: int, k: int, outputs: int, *, full: bool = True, layer: str = "") -> Reader:
    """Return a random reader of units with k columns each, in a shuffled order."""
    n = units * k
    x, g = torch.randn(3 * n, n).double(), torch.randn(3 * outputs, outputs).double()
    curvature = g.T @ g / len(g)
    index = torch.randperm(n).reshape(units, k)
    return Reader(
        torch.randn(outputs, n).double(),
        x.T @ x / len(x),
        curvature if full else curvature.diagonal(),
        index,
        layer,
    )


def loss(r: Reader, gone: set[int], blind: set[int] = frozenset()) -> float:
    """tr(F ΔW H ΔWᵀ) when units are removed and the others re-fitted by least squares."""
    h = r.covariance + obs.DAMPING * r.covariance.diagonal().mean() * torch.eye(len(r.covariance))
    f = torch.diag(r.curvature) if r.curvature.ndim == 1 else r.curvature.clone()
    for row in blind:
        f[row], f[:, row] = 0, 0
    half = torch.linalg.cholesky(h).T  # ‖half Δ‖² = Δᵀ H Δ
    keep = torch.ones(len(h), dtype=torch.bool)
    keep[r.index[sorted(gone)].flatten()] = False
    new = torch.zeros_like(r.weight)
    new[:, keep] = torch.linalg.lstsq(half[:, keep], half @ r.weight.T).solution.T
    d = r.weight - new
    return float(torch.trace(f @ d @ h @ d.T))


def work(layers: list[LayerWork], left: dict[str, int], units: dict[str, int]) -> float:
    """MACs of all layers for a number of kept units per group."""

    def share(g: str) -> float:
        return left[g] / units[g] if g in left else 1.0

    return sum(x.macs * share(x.makes) * share(x.reads) for x in layers)


def brute(
    readers: dict[str, list[Reader]], layers: list[LayerWork] = ()
) -> list[tuple[str, int, float]]:
    """Try every unit at each step; return which is removed, and its cost."""
    units = {g: len(rs[0].index) for g, rs in readers.items()}
    gone: dict[str, set[int]] = {g: set() for g in readers}
    blind: dict[str, set[int]] = {x.name: set() for x in layers}
    found = []
    for _ in range(sum(units.values()) - len(units)):
        best = None
        left = {g: units[g] - len(gone[g]) for g in units}
        for g, rs in readers.items():
            if left[g] == 1:
                continue
            saved = work(layers, left, units) - work(layers, {**left, g: left[g] - 1}, units)
            for u in set(range(units[g])) - gone[g]:
                cost = sum(
                    loss(r, gone[g] | {u}, blind.get(r.layer, set()))
                    - loss(r, gone[g], blind.get(r.layer, set()))
                    for r in rs
                )
                value = cost / saved if layers else cost
                if best is None or value < best[0]:
                    best = value, g, u, cost
        _, g, u, cost = best
        gone[g].add(u)
        found.append((g, u, cost))
        for x in layers:
            if x.makes == g and x.rows is not None:
                blind[x.name] |= set(x.rows[u].tolist())
    return found


def order(scores: dict[str, Tensor]) -> list[tuple[str, int]]:
    """Groups and units in the order of removal, without the last of each group."""
    all_of = [(float(v), g, u) for g, vs in scores.items() for u, v in enumerate(vs) if v < 1]
    return [(g, u) for _, g, u in sorted(all_of)]


@settings(max_examples=25)
@given(
    st.integers(2, 5), st.integers(1, 3), st.integers(1, 4), st.booleans(), st.integers(0, 2**20)
)
def test_the_costs_are_those_of_brute_force_step_by_step(units, k, outputs, full, seed):
    torch.manual_seed(seed)
    rs = [reader(units, k, outputs, full=full), reader(units, 1, 2)]
    elimination, gone = Elimination(rs), set()
    for _ in range(units - 1):
        left = sorted(set(range(units)) - gone)
        want = [sum(loss(r, gone | {u}) - loss(r, gone) for r in rs) for u in left]
        np.testing.assert_allclose(elimination.cost[left], want, rtol=1e-7, atol=1e-10)
        assert torch.isinf(elimination.cost[sorted(gone)]).all()
        u = left[int(np.argmin(want))]
        elimination.remove(torch.tensor([u]))
        gone.add(u)
    assert elimination.kept == 1


@settings(max_examples=25)
@given(st.integers(2, 6), st.integers(1, 3), st.integers(0, 2**20))
def test_one_group_is_removed_in_the_order_of_brute_force(units, k, seed):
    torch.manual_seed(seed)
    readers = {"a": [reader(units, k, 3), reader(units, 2, 2, full=False)]}
    scores = eliminate(readers)
    assert order(scores) == [(g, u) for g, u, _ in brute(readers)]
    places = sorted(scores["a"].tolist())
    assert places == [*((i + 1) / units for i in range(units - 1)), 1.0]


def chain(seed: int) -> tuple[dict[str, list[Reader]], list[LayerWork]]:
    """fc1 makes a (4), fc2 reads it and makes b (3 of two rows each), fc3 reads that, skip reads a."""
    torch.manual_seed(seed)
    rows_a, rows_b = torch.arange(4).reshape(4, 1), torch.tensor([[0, 3], [1, 4], [2, 5]])
    readers = {
        "a": [reader(4, 1, 6, layer="fc2"), reader(4, 2, 2, layer="skip")],
        "b": [reader(3, 2, 3, layer="fc3")],
    }
    layers = [
        LayerWork("fc1", 70.0, "a", "", rows_a),
        LayerWork("fc2", 24.0, "b", "a", rows_b),
        LayerWork("skip", 9.0, "", "a"),
        LayerWork("fc3", 18.0, "", "b"),
    ]
    return readers, layers


@pytest.mark.parametrize("seed", range(8))
def test_several_groups_are_removed_in_the_order_of_brute_force(seed):
    readers, layers = chain(seed)
    assert order(eliminate(readers, layers)) == [(g, u) for g, u, _ in brute(readers, layers)]


def test_removed_outputs_are_ignored():
    torch.manual_seed(0)
    r = reader(4, 2, 5, layer="fc2")
    elimination = Elimination([r])
    elimination.remove(torch.tensor([1]))
    elimination.drop_outputs("fc2", torch.tensor([0, 3]))
    elimination.drop_outputs("another", torch.tensor([1]))
    want = [loss(r, {1, u}, {0, 3}) - loss(r, {1}, {0, 3}) for u in (0, 2, 3)]
    np.testing.assert_allclose(elimination.cost[[0, 2, 3]], want, rtol=1e-8)
    elimination.drop_outputs("fc2", torch.tensor([1, 2, 4]))  # no output is left
    np.testing.assert_allclose(elimination.cost[[0, 2, 3]], np.zeros(3), atol=1e-12)


# -- by hand -------------------------------------------------------------------------------------


def independent(weight: list[float], variance: list[float]) -> Reader:
    n = len(weight)
    h = torch.diag(torch.tensor(variance)).double()
    return Reader(torch.tensor([weight]).double(), h, torch.ones(1).double(), torch.arange(n)[:, None])  # fmt: skip


def test_units_that_have_nothing_in_common_cost_weight_times_variance():
    elimination = Elimination([independent([2.0, 1.0, 3.0], [1.0, 9.0, 2.0])])
    damped = np.array([1.0, 9.0, 2.0]) + obs.DAMPING * 4.0
    np.testing.assert_allclose(elimination.cost, np.array([4.0, 1.0, 9.0]) * damped)
    scores = eliminate({"a": [independent([2.0, 1.0, 3.0], [1.0, 9.0, 2.0])]})
    assert scores["a"].tolist() == [1 / 3, 2 / 3, 1.0]


@pytest.mark.parametrize(
    ("layer", "left", "saves"),
    [
        (LayerWork("fc", 60.0, "a", ""), {"a": 4}, 60 / 6),
        (LayerWork("fc", 60.0, "", "a"), {"a": 4}, 60 / 6),
        (LayerWork("fc", 60.0, "b", "a"), {"a": 4, "b": 5}, 60 / 6 * 5 / 10),
        (LayerWork("fc", 60.0, "frozen", "a"), {"a": 4}, 60 / 6),
        (LayerWork("fc", 72.0, "a", "a"), {"a": 4}, 72 / 36 * (4 * 4 - 3 * 3)),
        (LayerWork("fc", 60.0, "b", ""), {"a": 4, "b": 5}, 1.0),  # it knows nothing of a
    ],
)
def test_what_a_unit_saves(layer, left, saves):
    groups = {g: Elimination([reader(n, 1, 2)]) for g, n in {"a": 6, "b": 10}.items() if g in left}
    for g, n in left.items():
        groups[g].remove(torch.arange(groups[g].units - n))
    assert obs._saved_macs("a", groups, [layer]) == pytest.approx(saves)


def test_a_unit_that_saves_more_macs_is_removed_first():
    readers = {g: [independent([1.0, 1.0], [1.0, 1.0])] for g in "ab"}
    layers = [LayerWork("fc1", 10.0, "a", ""), LayerWork("fc2", 1000.0, "b", "")]
    assert order(eliminate(readers, layers))[0] == ("b", 0)
    assert order(eliminate(readers, layers[::-1])) == order(eliminate(readers, layers))


# -- what must not matter ------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["weight", "covariance", "curvature", "macs"])
def test_the_order_does_not_depend_on_a_common_scale(what):
    readers, layers = chain(3)
    want = order(eliminate(readers, layers))
    if what == "macs":
        layers = [LayerWork(x.name, 1e6 * x.macs, x.makes, x.reads, x.rows) for x in layers]
    else:
        readers = {
            g: [
                Reader(**{f: getattr(r, f) for f in ("weight", "covariance", "curvature", "index", "layer")}
                       | {what: 1e3 * getattr(r, what)})
                for r in rs
            ]
            for g, rs in readers.items()
        }  # fmt: skip
    assert order(eliminate(readers, layers)) == want


def test_without_damping_the_scale_of_a_unit_does_not_matter(monkeypatch):
    monkeypatch.setattr(obs, "DAMPING", 0.0)
    torch.manual_seed(0)
    r, size = reader(5, 2, 3), torch.rand(10).double() + 0.2
    scaled = Reader(
        r.weight / size, r.covariance * size * size[:, None], r.curvature, r.index, r.layer
    )
    one, other = Elimination([r]), Elimination([scaled])
    torch.testing.assert_close(one.cost, other.cost)
    assert order(eliminate({"a": [r]})) == order(eliminate({"a": [scaled]}))


def test_of_many_units_several_are_removed_at_once(monkeypatch):
    r = independent([float(w) for w in range(1, 12)], [1.0] * 11)
    slow = eliminate({"a": [r]})
    monkeypatch.setattr(obs, "STEPS", 4)  # three at once
    torch.testing.assert_close(eliminate({"a": [r]}), slow)


def test_columns_that_are_gone_are_left_out_of_the_matrices(monkeypatch):
    torch.manual_seed(0)
    rs = [reader(40, 2, 5, layer="fc"), reader(40, 1, 3)]
    layers = [LayerWork("fc", 9.0, "b", "a", torch.arange(5).unsqueeze(1))]
    both = {"a": rs, "b": [reader(5, 1, 2)]}
    small = eliminate(both, layers)
    elimination = Elimination(rs)
    elimination.remove(torch.arange(30))
    assert (
        len(elimination.readers[0].inverse) == 20 and elimination.readers[0].weight.shape[1] == 20
    )
    monkeypatch.setattr(obs, "SHRINK", -1.0)  # never
    whole = eliminate(both, layers)
    assert all(torch.equal(small[g], whole[g]) for g in both)


def test_a_group_of_one_keeps_its_unit():
    assert eliminate({"a": [reader(1, 2, 3)]})["a"].tolist() == [1.0]


def test_a_constant_unit_is_removed_first_whatever_its_weight():
    scores = eliminate({"a": [independent([1.0, 1e3, 0.1], [1.0, 0.0, 1.0])]})
    assert scores["a"].tolist() == [1.0, 1 / 3, 2 / 3]


def test_where_nothing_varies_any_order_will_do():
    scores = eliminate({"a": [independent([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])]})
    assert sorted(scores["a"].tolist()) == [1 / 3, 2 / 3, 1.0]


# -- through `score` -----------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3)
        self.conv1, self.conv2 = nn.Conv2d(6, 5, 1), nn.Conv2d(5, 6, 1)
        self.head = nn.Linear(6 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.conv2(self.conv1(x).relu())).relu().flatten(1))


def normed() -> nn.Module:
    first = nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(
        *first, nn.Conv2d(6, 6, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 4)
    )


def grouped() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1, groups=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(36, 4)),
    )


def mlp() -> nn.Module:
    parts = nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)
    return nn.Sequential(*parts)


def heads() -> nn.Module:
    attention = nn.MultiheadAttention(12, 6, batch_first=True)
    return net(
        lambda self, x: self.fc(self.attn(x, x, x)[0].mean(1)), attn=attention, fc=nn.Linear(12, 4)
    )


NETS = {
    "mlp": (mlp, (6,), "0"),
    "conv, batch norm and flatten": (normed, (2, 9, 9), "0"),
    "what a flatten spreads": (normed, (2, 9, 9), "4"),
    "residual": (Residual, (2, 5, 5), "stem"),
    "within a block": (Residual, (2, 5, 5), "conv1"),
    "grouped": (grouped, (2, 5, 5), "0"),
}


def ready(name: str) -> tuple[nn.Module, Tensor, str]:
    build, shape, layer = NETS[name]
    torch.manual_seed(0)
    return stir(build()).double().eval(), 3 * torch.randn(300, *shape).double(), layer


def seen(model: nn.Module, x: Tensor, **options) -> pv.Evidence:
    batches = [(part, torch.arange(len(part)) % 4) for part in x.split(100)]
    return pv.collect(model, batches, **{"loss": F.cross_entropy, "progress": False, **options})


def plant(model: nn.Module, group: pv.Group) -> None:
    """Make unit 1 dead, and unit 2 the double of unit 0."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for s in group.slices:
            t, at = tensors[s.tensor], torch.from_numpy(s.index)
            if s.role == "out":
                t[at[2]] = t[at[0]]
                t[at[1]] = 0
            elif s.tensor.endswith("running_var"):
                t[at[2]] = t[at[0]]


@pytest.mark.parametrize("name", NETS)
def test_dead_and_redundant_units_are_removed_first(name):
    model, x, layer = ready(name)
    groups = pv.find_groups(model, x[:2])
    (group,) = (g for g in groups if g.name == layer)
    plant(model, group)
    before = snapshot(model)
    scores = pv.score(model, "obs", groups=groups, evidence=seen(model, x))
    assert_untouched(model, before)
    assert set(scores.values) == {g.name for g in groups if not g.frozen}
    lowest = scores.values[layer].argsort()[:2].tolist()
    assert lowest[0] == 1
    assert lowest[1] in (0, 2)
    every = sorted(v for vs in scores.values.values() for v in vs.tolist())
    n, stay = len(every), len(scores.values)
    np.testing.assert_allclose(every, [*((i + 1) / n for i in range(n - stay)), *[1.0] * stay])
    assert scores.values[layer][1] == every[0]


def test_the_costs_of_a_network_by_hand():
    model, x, _ = ready("mlp")
    evidence = seen(model, x)
    (group, *_) = (g for g in pv.find_groups(model, x[:2]) if g.name == "2")
    scores = pv.score(model, "obs", groups=pv.Groups((group,)), evidence=evidence).values["2"]
    h, w = model[:4](x).detach(), model[4].weight.detach()
    assert (h.std(0) > 0.01).all()
    r = Reader(w, torch.cov(h.T, correction=0), evidence.output_grad["4"].double(), torch.arange(5)[:, None])  # fmt: skip
    assert order({"2": scores}) == [(g, u) for g, u, _ in brute({"2": [r]})]


class Cat(nn.Module):
    """`last` reads the units of two groups, and the input itself; only `last` reads the units of `a`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Linear(6, 5), nn.Linear(6, 3), nn.Linear(14, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.a(x).relu(), self.b(x).relu(), x], 1))


def arguments_of(
    monkeypatch, model: nn.Module, x: Tensor
) -> tuple[dict[str, list[Reader]], list[LayerWork]]:
    """Return the arguments of `eliminate` for a network."""
    calls = []
    monkeypatch.setattr(
        elimination, "eliminate", lambda *args: calls.append(args) or eliminate(*args)
    )
    pv.score(model, "obs", groups=pv.find_groups(model, x[:2]), evidence=seen(model, x))
    return calls[0]


def test_a_layer_that_reads_two_groups_is_shared_out(monkeypatch):
    model, x = Cat().double(), torch.randn(50, 6).double()
    readers, layers = arguments_of(monkeypatch, model, x)
    of_last = {k.reads: k.macs for k in layers if k.name == "last"}
    assert of_last == pytest.approx({"a": 5 * 4, "b": 3 * 4, "": 6 * 4})
    assert [(r.layer, r.weight.shape) for r in readers["b"]] == [("last", (4, 3))]
    torch.testing.assert_close(readers["b"][0].weight, model.last.weight.data[:, 5:8])
    of_a = [(k.makes, k.macs, k.rows.tolist()) for k in layers if k.name == "a"]
    assert of_a == [("a", 30.0, [[0], [1], [2], [3], [4]])]


def test_channels_of_a_grouped_convolution_are_read_by_their_block(monkeypatch):
    model, x, _ = ready("grouped")
    readers, _ = arguments_of(monkeypatch, model, x)
    (r,) = readers["0"]
    want = torch.block_diag(*model[2].weight.data.flatten(1).unflatten(0, (2, 2)))
    torch.testing.assert_close(r.weight, want)
    assert not r.covariance[:3, 3:].any()


def strided() -> nn.Module:
    """A depthwise convolution, strides and padding."""
    return nn.Sequential(
        *(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4),
        ),
        *(nn.Conv2d(4, 5, 1, stride=2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(20, 4)),
    )


@pytest.mark.parametrize("build", [Cat, strided, normed, Residual, grouped])
def test_the_layers_have_the_macs_of_the_model(monkeypatch, build):
    shape = {Cat: (6,), Residual: (2, 5, 5), grouped: (2, 5, 5)}.get(
        build, (2, 9, 9) if build is normed else (2, 8, 8)
    )
    model, x = build().double(), torch.randn(20, *shape).double()
    _, layers = arguments_of(monkeypatch, model, x)
    assert sum(k.macs for k in layers) == pytest.approx(pv.measure(model, x[:1]).macs)


def test_heads_have_a_place_too():
    torch.manual_seed(0)
    model, x = stir(heads()).double(), torch.rand(200, 4, 12).double()
    with torch.no_grad():
        for t in (model.attn.in_proj_weight, model.attn.in_proj_bias):
            parts = t.unflatten(0, (3, 6, 2))
            parts[:, 4] = parts[:, 1]
            parts[2, 3] = 0
    groups = pv.find_groups(model, x[:2])
    scores = pv.score(model, "obs", groups=groups, evidence=seen(model, x)).values["attn"]
    first = scores.argsort()[:2].tolist()
    assert first[0] == 3
    assert first[1] in (1, 4)


def test_the_same_from_the_same_seed():
    model, x, _ = ready("mlp")
    groups = pv.find_groups(model, x[:2])
    one = pv.score(model, "obs", groups=groups, evidence=seen(model, x)).values
    other = pv.score(model, "obs", groups=groups, evidence=seen(model, x)).values
    assert all(torch.equal(one[g], other[g]) for g in one)


# -- refused -------------------------------------------------------------------------------------


def test_without_evidence():
    model, x, _ = ready("mlp")
    with refused(
        "criterion 'obs' needs evidence, but none was passed. Collect it: pv.collect(model, batches, "
        "loss=F.cross_entropy)."
    ):
        pv.score(model, "obs", groups=pv.find_groups(model, x[:2]))


def test_without_gradients():
    model, x, _ = ready("mlp")
    evidence = pv.collect(model, [x], progress=False)
    with refused(
        "criterion 'obs' needs gradients, but `evidence` has none. Collect them: "
        "pv.collect(model, batches, loss=F.cross_entropy)."
    ):
        pv.score(model, "obs", groups=pv.find_groups(model, x[:2]), evidence=evidence)


@pytest.mark.parametrize("options", [{"comoment": False}, {"layers": ["2"]}])
def test_without_what_reads_a_group(options):
    model, x, _ = ready("mlp")
    evidence = seen(model, x, **options)
    name, reads = ("0", "2") if "comoment" in options else ("2", "4")
    with refused(
        f"criterion 'obs' needs the co-moment of what reads group {name!r} ({reads}), but `evidence` "
        "has none. Protect the group, or collect with comoment='all'."
    ):
        pv.score(model, "obs", groups=pv.find_groups(model, x[:2]), evidence=evidence, strict=True)


def test_it_does_not_score_single_weights():
    model, x, _ = ready("mlp")
    with pytest.raises(pv.ArgumentError, match=r"^criterion 'obs' scores units, not weights\."):
        pv.score(model, "obs", evidence=seen(model, x))


@pytest.mark.parametrize("full", [True, False])
def test_variances_alone_rank_uncorrelated_columns_as_the_whole_covariance_does(full) -> None:
    torch.manual_seed(0)
    variance, weight, factor = torch.rand(12) + 0.1, torch.randn(5, 12), torch.randn(5, 5)
    curvature = factor @ factor.T if full else torch.rand(5)
    index = torch.arange(12).reshape(6, 2)
    work = [
        obs.LayerWork(
            "made", 1.0, makes="outputs", reads="units", rows=torch.arange(5).reshape(5, 1)
        )
    ]
    after = obs.Reader(
        torch.randn(3, 5), torch.eye(5), torch.ones(3), torch.arange(5).reshape(5, 1), "after"
    )
    found = [
        obs.eliminate(
            {"units": [obs.Reader(weight, c, curvature, index, "made")], "outputs": [after]}, work
        )
        for c in (torch.diag(variance), variance)
    ]
    for g in ("units", "outputs"):
        assert found[0][g].tolist() == found[1][g].tolist()


def test_a_layer_of_many_columns_is_scored_by_its_variances(monkeypatch) -> None:
    """A convolution of 512 channels of 3 × 3 reads 4,608 columns: its group must not be left out."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 6, 3), torch.nn.ReLU(), torch.nn.Conv2d(6, 4, 3), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(4 * 4 * 4, 3),
    ).eval()  # fmt: skip
    x = torch.randn(200, 2, 8, 8)
    with torch.no_grad():
        model[0].weight[2] = 0  # constant: it costs nothing
        model[0].bias[2] = 1.0
        model[2].weight[:, 4] = 0  # read by nobody
    for place in ("evidence.collect", "selection.criteria.obs_units"):
        monkeypatch.setattr(f"pruneviz.{place}.WIDE", 40)
    groups = pv.find_groups(model, x[:2])
    evidence = pv.collect(model, x, loss=torch.nn.functional.cross_entropy, progress=False)
    assert not evidence.columns("2").full and not evidence.columns("5").full
    scores = pv.score(model, "obs", groups=groups, evidence=evidence).values
    assert set(scores) == {"0", "2"}
    assert set(scores["0"].argsort()[:2].tolist()) == {2, 4}
    none = pv.collect(
        model, x, loss=torch.nn.functional.cross_entropy, comoment=False, progress=False
    )
    monkeypatch.setattr("pruneviz.selection.criteria.obs_units.WIDE", 4096)
    with pytest.raises(pv.ArgumentError, match="needs the co-moment"):
        pv.score(model, "obs", groups=groups, evidence=none)
