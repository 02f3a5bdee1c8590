"""Every criterion beside the loss measured without each unit."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_untouched, batches, build, inputs, labels, refused, snapshot
from helpers.scored import Sigmoids
from torch import nn

import pruneviz as pv
from pruneviz.study.ablation import Ablation
from pruneviz.study.criterion_card import TRUTH
from pruneviz.study.criterion_card_intervals import (
    WHOLE_NETWORK,
    ceiling,
    correlation,
    rank_correlations,
)

SIZES = torch.tensor([3.0, 1.0, 5.0, 2.0, 8.0, 4.0])
UNITS = len(SIZES)


def separate():
    """Units that have nothing to do with each other: without unit u the error is (size of u)²."""
    model = nn.Sequential(nn.Linear(UNITS, UNITS), nn.ReLU(), nn.Linear(UNITS, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(UNITS))
        model[0].bias.zero_()
        model[2].weight.copy_(SIZES[None])
        model[2].bias.zero_()
    return model


def seen(n=30):
    """Images in which one unit is awake at a time, each as often."""
    x = torch.eye(UNITS).repeat(n, 1)
    return x, x @ SIZES[:, None]


@pytest.fixture
def backwards():
    @pv.register("backwards", source="mine", formula="-‖w‖", granularity="unit")
    def backwards(matrix):
        return -torch.linalg.vector_norm(matrix, dim=1)

    yield "backwards"
    del pv.CRITERIA["backwards"]


def carded(model, data, **options):
    options = {"loss": F.mse_loss, "progress": False, "seeds": range(5), **options}
    return pv.criterion_card(model, data, groups=pv.find_groups(model, data[0][0][:2]), **options)


def value(card, criterion, group=WHOLE_NETWORK, column="spearman"):
    rows = card.correlation.set_index(["criterion", "group"])
    return rows.loc[(criterion, group), column].item()


def test_where_the_truth_is_known(backwards):
    model, data = separate(), [seen()]
    card = carded(model, data, criteria=["l2", "wanda", "apoz", backwards])
    assert card.truth.values["0"].tolist() == pytest.approx((SIZES**2 / UNITS).tolist())
    assert value(card, "l2") == value(card, "wanda") == 1
    assert value(card, backwards) == -1
    assert np.isnan(value(card, "apoz"))  # all units are awake as often
    assert value(card, "l2", column="units") == UNITS
    assert card.correlation["criterion"].tolist()[:5] == [
        "l2",
        "wanda",
        "apoz",
        backwards,
        "random",
    ]
    assert card.correlation["group"].tolist() == [WHOLE_NETWORK] * 5 + ["0"] * 5
    assert card.examples == 30 * UNITS
    assert card.values("ablation").tolist() == card.values(TRUTH, "0").tolist()
    assert card.agreement.loc["l2", backwards] == -1
    assert card.agreement.loc["ablation", "l2"] == 1
    assert "nan" not in repr(card) and "  l2             1.00; notices" in repr(card)
    assert np.isnan(card.agreement.loc["apoz", "apoz"])


def test_the_agreement_is_square_and_symmetric():
    model = build("cnn")
    card = pv.criterion_card(model, batches(9, 2), groups=pv.find_groups(model, inputs()),
                             progress=False, seeds=range(4))  # fmt: skip
    names = sorted(n for n, c in pv.CRITERIA.items() if "unit" in c.granularity)
    assert list(card.scores) == [TRUTH, *(n for n in names if n != "random"), "random"] or list(
        card.scores
    ) == [TRUTH, *names]
    a = card.agreement
    assert a.index.tolist() == a.columns.tolist() == list(card.scores)
    assert np.allclose(a, a.T, equal_nan=True)
    assert np.allclose(np.diag(a)[~np.isnan(np.diag(a))], 1)
    assert set(card.to_frame().columns) == {*card.correlation.columns, "notices", "rescaled"}


def test_which_criteria_notice_a_rescaling():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 3))
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(2))
    card = carded(model, [(x, torch.arange(200) % 3)], loss=F.cross_entropy)
    notices = card.rescaling.set_index("criterion")["notices"]
    assert not notices[["taylor", "fisher", "apoz", "random"]].any()
    assert notices[["l1", "l2", "lamp", "activation", "wanda"]].all()
    assert "does not notice a rescaling" in repr(card)


def test_a_network_that_cannot_be_rescaled():
    model = Sigmoids()
    card = carded(model, [(inputs(9), labels(9))], loss=F.cross_entropy, criteria="l2")
    assert card.rescaling.empty and card.rescaling.columns.tolist() == [
        "criterion",
        "spearman",
        "notices",
    ]
    assert "notices" not in card.to_frame() and "rescaling" not in repr(card)


def test_learning_and_judging_on_other_examples():
    model = build("mlp")
    groups = pv.find_groups(model, inputs())
    judge, learn = [(inputs(20), labels(20))], [(inputs(15) + 1, labels(15))]
    evidence = pv.collect(model, learn, loss=F.cross_entropy, progress=False)
    card = pv.criterion_card(
        model, judge, groups=groups, learn=learn, progress=False, seeds=range(3)
    )
    given = pv.criterion_card(model, judge, groups=groups, evidence=evidence, progress=False,
                              seeds=range(3))  # fmt: skip
    want = pv.score(model, "taylor", groups=groups, evidence=evidence).values[
        "net.1" if False else "1"
    ]
    for c in (card, given):
        assert torch.equal(c.scores["taylor"].values["1"], want)
        assert torch.equal(
            c.truth.values["1"], pv.ablate(model, judge, groups=groups, progress=False).values["1"]
        )


def test_the_same_seeds_the_same_card_and_no_trace():
    model, data = build("cnn"), batches(9, 2)
    groups = pv.find_groups(model, inputs())
    before = snapshot(model)
    loader = torch.utils.data.DataLoader(
        list(zip(*data[0], strict=True)), batch_size=4, shuffle=True
    )
    first, again = (
        pv.criterion_card(model, data, groups=groups, progress=False, seeds=[3, 4])
        for _ in range(2)
    )
    pv.criterion_card(model, loader, groups=groups, criteria=["l1"], progress=False, seeds=[3, 4])
    assert_untouched(model, before)
    pd.testing.assert_frame_equal(first.correlation, again.correlation)
    pd.testing.assert_frame_equal(first.rescaling, again.rescaling)


def noisy(examples, units=40, seed=0):
    """Losses whose mean rises by u without unit u, and which differ from example to example."""
    noise = np.random.default_rng(seed).normal(scale=40, size=(units, examples))
    return Ablation(np.zeros(examples), {"g": np.arange(units)[:, None] + noise}, np.ones(examples))


def test_the_spread_over_examples_and_over_draws():
    scores = {
        "right": pv.Scores({"g": torch.arange(40.0)}, "right"),
        "random": pv.Scores({"g": torch.rand(40)}, "random"),
    }
    draws = [{"random": pv.Scores({"g": torch.rand(40)}, "random")} for _ in range(300)]
    found = [
        correlation(noisy(n, seed=s), scores, draws, list(range(60))).set_index(
            ["criterion", "group"]
        )
        for s in (1, 2)
        for n in (30, 3000)
    ]
    widths = [f.loc[("right", "g"), "high"] - f.loc[("right", "g"), "low"] for f in found]
    assert widths[1] < widths[0] / 3 and widths[3] < widths[2] / 3
    for f in found:
        assert ((f["low"] <= f["spearman"]) & (f["spearman"] <= f["high"])).all()
        # 1.96 ÷ √(n − 1) is what theory says of random scores
        assert f.loc[("random", WHOLE_NETWORK), "high"] == pytest.approx(1.96 / 39**0.5, abs=0.08)
        assert abs(f.loc[("random", WHOLE_NETWORK), "spearman"]) < 0.05


def test_the_ceiling_is_what_the_right_order_reaches():
    truth, seeds = noisy(60), list(range(40))
    right = {"right": pv.Scores({"g": torch.arange(40.0)}, "right")}
    reached = np.mean(
        [correlation(noisy(60, seed=s), right, [{}], [0, 1])["spearman"].iloc[0] for s in range(20)]
    )
    mean = np.mean([ceiling(noisy(60, seed=s), seeds) for s in range(10)])
    assert mean == pytest.approx(reached, abs=0.05) and 0 < ceiling(truth, seeds) < 1
    assert np.isnan(ceiling(Ablation(np.zeros(1), {"g": np.zeros((3, 1))}, np.ones(1)), seeds))


def test_one_number_a_batch_leaves_no_spread():
    model, (x, y) = separate(), seen(10)
    card = carded(model, [(x, y)], criteria="l2")
    assert value(card, "l2") == 1 and np.isnan(value(card, "l2", column="low"))
    assert np.isnan(card.ceiling)


def test_rank_correlations_by_hand():
    columns = np.array([[1.0, 1, 7, 3], [2, 2, 7, 1], [3, 2, 7, 2]])
    found = rank_correlations(columns)
    assert found[0, 1] == pytest.approx(0.5 * 3**0.5)  # ranks 1, 2, 3 and 1, 2.5, 2.5
    assert found[0, 3] == pytest.approx(-0.5)
    assert np.isnan(found[2]).all() and found[0, 0] == 1
    assert rank_correlations(columns[:2, [0, 3, 2]])[0, :2].tolist() == [1, -1]
    assert rank_correlations(columns[:, [2, 0]])[1, 1] == 1
    assert np.isnan(rank_correlations(columns[:1])).all()
    assert np.isnan(rank_correlations(np.full((3, 2), 7.0))).all()


DATA = [(inputs(9), labels(9))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"criteria": ["l3"]},
            "criterion 'l3' is unknown. Known: activation, apoz, fisher, l1, l2, "
            "lamp, obs, random, taylor, wanda.",
        ),
        (
            {"criteria": ["magnitude"]},
            "criterion 'magnitude' scores single weights, not units. For units: activation, apoz, "
            "fisher, l1, l2, lamp, obs, random, taylor, wanda.",
        ),
        (
            {"seeds": [1]},
            "`seeds` must hold at least two seeds, for an interval, but 1 was passed. Leave it out, or pass "
            "range(50).",
        ),
        ({"seeds": [0, 1.5]}, "`seeds` must be a whole number ≥ 0, but 1.5 was passed."),
        ({"factor": 0}, "`factor` must be greater than 0, but 0 was passed."),
    ],
)
def test_bad_input(options, message):
    model = build("mlp")
    with refused(message):
        pv.criterion_card(model, DATA, groups=pv.find_groups(model, inputs()),
                          **{"progress": False, "seeds": range(3), **options})  # fmt: skip


def frame():
    rows = [
        ("best", 0.8, 0.7, 0.9, False),
        ("random", 0.0, -0.2, 0.2, False),
        ("lost", -0.6, -0.7, -0.5, True),
        ("none", np.nan, np.nan, np.nan, True),
        ("idle", 0.1, 0.0, 0.2, True),
    ]
    data = pd.DataFrame(rows, columns=["criterion", "spearman", "low", "high", "notices"])
    return data.assign(group=WHOLE_NETWORK, units=7)


def test_the_plot_of_the_card():
    ax = pv.plot_card(frame(), mark="best")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["none", "lost", "idle", "▸ best"]
    assert [b.get_width() for b in ax.patches[:4]] == pytest.approx([0, -0.6, 0.1, 0.8])
    assert [b.get_hatch() for b in ax.patches[:4]] == [None, None, "////", None]
    assert ax.patches[4].get_label() == "random scores"
    assert [t.get_text() for t in ax.texts[1:]] == ["✗ other order"] * 3 + ["✓ same order"]
    again = ax.figure.subplots()
    assert pv.plot_card(frame().drop(columns="notices"), ax=again) is again and not again.texts


def test_the_plot_of_the_card_with_numbers_a_ceiling_and_random_chosen():
    data = frame().assign(rescaled=[1.0, 1.0, -0.3, np.nan, 0.94])
    ax = pv.plot_card(data, mark="random", ceiling=0.8)
    assert [t.get_text() for t in ax.texts[1:]] == [
        *("✗ other order", "✗ other order, -0.30", "✗ other order, 0.94", "✓ same order"),
    ]
    said = [t.get_text() for t in ax.get_legend().get_texts()]
    assert said == ["▸ random scores", "a perfect criterion (estimate)"]
    assert list(ax.lines[-1].get_xdata()) == [0.8, 0.8]
    only = pv.plot_card(data[data["criterion"] != "random"], ceiling=float("nan"))
    assert only.get_legend() is None


def test_the_points_have_a_colour_a_layer_unless_there_are_too_many():
    points = pv.plots.card.plot_ranks
    ax = points([3, 1, 2], [0.1, 0.2, 0.3], layers=["a", "b", "a"])
    assert [c.get_label() for c in ax.collections] == ["a", "b"]
    assert ax.collections[0].get_offsets().tolist() == [[2, 0.1], [1, 0.3]]
    many = [str(i) for i in range(8)]
    for layers in ([], ["a"] * 8, many):
        assert len(points(range(8), range(8), layers=layers).collections) == 1


def test_the_plot_of_the_agreement():
    data = pd.DataFrame(
        [[1.0, -0.9, np.nan], [-0.9, 1, 0], [np.nan, 0, 1]], list("abc"), list("abc")
    )
    ax = pv.plot_agreement(data)
    assert [t.get_text() for t in ax.texts] == ["1.0", "-0.9", "-0.9", "1.0", "0.0", "0.0", "1.0"]
    white, black = "#FFFFFF", "#101010"  # white only on the full blue
    assert [t.get_color() for t in ax.texts] == [white, black, black, white, black, black, white]
    assert ax.images[0].get_array().tolist()[0] == [1.0, -0.9, None]
    again = ax.figure.subplots()
    assert pv.plot_agreement(data, ax=again) is again


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pv.plot_card(frame().drop(columns="spearman")),
            "plot_card needs a column 'spearman', but the frame has: criterion, low, high, notices, "
            "group, units. Make it with pv.criterion_card(model, batches, groups=groups).to_frame().",
        ),
        (
            lambda: pv.plot_card(frame(), group="fc9"),
            "group 'fc9' is unknown. Known: whole network.",
        ),
        (
            lambda: pv.plot_agreement(frame()),
            "plot_agreement draws a square frame with the criteria as rows and as columns. Make it with "
            "pv.criterion_card(model, batches, groups=groups).agreement.",
        ),
    ],
)
def test_what_cannot_be_drawn(call, message):
    with refused(message):
        call()


@pytest.fixture(scope="module")
def card():
    model = build("cnn")
    return pv.criterion_card(model, batches(9, 2), groups=pv.find_groups(model, inputs()),
                             criteria=["l1", "l2", "wanda"], progress=False, seeds=range(3))  # fmt: skip


def test_the_panel_follows_its_controls(card):
    panel = pv.panel_card(card)
    assert panel.result["group"] == WHOLE_NETWORK
    best = panel.result["best"]
    assert panel.result["criterion"] == best
    first = panel._view.value
    panel.controls["criterion"].value = "random"
    panel.controls["group"].value = "0"
    rows = card.correlation.set_index(["criterion", "group"])
    assert panel.result["spearman"] == rows.loc[("random", "0"), "spearman"]
    assert panel.result["units"] == 4 and panel._view.value != first
    assert panel.sentence.startswith("0, 4 units: by random the rank correlation")
    assert f'alt="{panel.sentence}"' in panel._view.value
    above, below = panel.figure().axes
    assert [t.get_text() for t in above.get_yticklabels()][-1] == panel.result[
        "best"
    ] or best == "random"
    assert (
        below.collections[0].get_offsets()[:, 1].tolist() == card.values("ablation", "0").tolist()
    )
    assert below.collections[0].get_offsets()[:, 0].tolist() == pytest.approx(
        np.argsort(np.argsort(card.values("random", "0"), kind="stable")).tolist()
    )
    panel.close()


def test_the_panel_undoes_and_shows_its_code(card):
    panel = pv.panel_card(card, criterion="l1")
    panel.controls["group"].set_state({"index": 1 if panel.controls["group"].index == 0 else 0})
    group = panel._result["group"]
    assert group != WHOLE_NETWORK and "measuring" not in panel._view.value
    names = {"card": card}
    exec(panel.to_python(), names)
    row = names["rows"].iloc[0]
    assert row[["units", "spearman", "low", "high"]].tolist() == [
        panel.result[n] for n in ("units", "spearman", "low", "high")
    ]
    assert "▸ l1" in [t.get_text() for t in names["ax"].get_yticklabels()]
    plt.close("all")
    panel.undo()
    assert panel.result["group"] == WHOLE_NETWORK
    panel.close()


def test_the_panel_shows_names_as_text():
    model = nn.Sequential()
    for i, layer in enumerate((nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))):
        model.add_module("<img src=x onerror=alert(1)>" if i == 0 else str(i), layer)
    x, y = torch.randn(30, 4), torch.arange(30) % 3
    card = pv.criterion_card(model, [(x, y)], groups=pv.find_groups(model, x), criteria=["l1"],
                             progress=False, seeds=range(3))  # fmt: skip
    panel = pv.panel_card(card, group="<img src=x onerror=alert(1)>")
    assert "<img src=x" not in panel._view.value
    panel.close()


def test_the_panel_shows_the_layers_of_the_whole_network_and_gives_no_surprise_away():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    x, y = torch.randn(30, 4), torch.arange(30) % 3
    card = pv.criterion_card(model, [(x, y)], groups=pv.find_groups(model, x), criteria=["l1"],
                             progress=False, seeds=range(3))  # fmt: skip
    panel = pv.panel_card(card)
    above, below = panel.figure().axes
    assert [c.get_label() for c in below.collections] == ["0", "2"]
    assert [len(c.get_offsets()) for c in below.collections] == [5, 6]
    assert not above.texts  # what a rescaling does stands in plot_card only
    panel.controls["group"].value = "2"
    assert len(panel.figure().axes[1].collections) == 1
    panel.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "fc9"}, "group 'fc9' is unknown. Known: 0, whole network."),
        (
            {"criterion": "l3"},
            "criterion 'l3' is unknown. Known: l1, l2, random, wanda.",
        ),
    ],
)
def test_a_panel_of_nothing(card, options, message):
    with refused(message):
        pv.panel_card(card, **options)
    with refused(
        "`card` must be a Card, but a DataFrame was passed. Make it: pv.criterion_card(model, batches, "
        "groups=groups)."
    ):
        pv.panel_card(card.to_frame())
