"""Operators that the zoo has not: cut rightly, or frozen for the right reason."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.case import Case, gap, net, param, stir
from zoo.judge import judge

C = torch.linspace(0.5, 2, 16)
INDEX = torch.tensor([1, 0])


def vectors(function, bias: bool = True):
    """fc1 (12 to 16), the function, fc2, for examples of shape (batch, 12)."""
    width = function(torch.rand(2, 16)).shape[-1]

    def forward(self, x):
        return self.fc2(function(self.fc1(x)))

    return net(forward, fc1=nn.Linear(12, 16), fc2=nn.Linear(width, 4, bias))


def tokens(function):
    """fc1 (12 to 16), the function, fc2, mean, for examples of shape (batch, 6, 12)."""
    width = function(torch.rand(2, 6, 16)).shape[-1]

    def forward(self, x):
        y = self.fc2(function(self.fc1(x)))
        return y.reshape(y.shape[0], -1, 4).mean(1)

    return net(forward, fc1=nn.Linear(12, 16), fc2=nn.Linear(width, 4))


def images(function):
    """fc1 (a convolution of 3 to 8 channels), the function, a convolution, mean, fc2."""
    y = function(torch.rand(2, 8, 8, 8))

    def forward(self, x):
        return self.fc2(gap(F.relu(self.conv(function(self.fc1(x))))))

    return net(
        forward, fc1=nn.Conv2d(3, 8, 1), conv=nn.Conv2d(y.shape[1], 6, 1), fc2=nn.Linear(6, 4)
    )


def halves(x):
    a, b = torch.hsplit(x, 2)
    return a * b.sigmoid()


def with_max(x):
    values, _ = x.max(1)
    return values


def scattered(x):
    return torch.slice_scatter(torch.zeros_like(x), x[:, :8].relu(), 1, 0, 8)


def complex_pairs(x):
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * 2).flatten(-2)


def complex_numbers(x):
    return torch.view_as_real(torch.complex(x.relu(), x.relu() * 2))[..., 1]


CUT = ""  # by all means
RIGHT = None  # cut or frozen, but right
V, T, I = vectors, tokens, images  # noqa: E741
TABLE = {
    # pointwise
    "where": (V, lambda x: torch.where(x > 0, x, 0.5 * x), CUT),
    "masked fill": (V, lambda x: x.masked_fill(x < 0, 0.0), CUT),
    "clamp": (V, lambda x: x.clamp(-1, 1), CUT),
    "lerp": (V, lambda x: torch.lerp(x, x.relu(), 0.5), CUT),
    "addcmul": (V, lambda x: torch.addcmul(x, x, x.sigmoid()), CUT),
    "addcdiv": (V, lambda x: torch.addcdiv(x, x, x.cosh()), CUT),
    "larger of two": (V, lambda x: torch.max(x, -x), CUT),
    "in place": (V, lambda x: x.clone().relu_().mul_(2), CUT),
    "like": (V, lambda x: x.relu() + torch.zeros_like(x) * 3, CUT),
    "half and back": (V, lambda x: x.relu().to(torch.float64).type_as(x), CUT),
    "power of a weight": (V, lambda x: x.relu() ** 2, CUT),
    "quantised": (V, lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127), RIGHT),
    "reciprocal": (V, lambda x: 1 / (x.abs() + 1), CUT),
    "sign bit": (V, lambda x: x.view(torch.int32 if x.dtype == torch.float32 else torch.int64).float() * 0 + x,
                 "has no rule"),
    "random drop": (V, lambda x: F.dropout(x, 0.3, training=True), "draws random numbers"),
    # moves
    "hsplit": (V, halves, RIGHT),
    "tensor_split": (V, lambda x: torch.cat(torch.tensor_split(x.relu(), 4, 1)[1:], 1), RIGHT),
    "narrow": (V, lambda x: x.relu().narrow(1, 4, 8), RIGHT),
    "unbind": (V, lambda x: torch.stack(x.relu().unbind(1)[:3], 1), "one by one"),
    "movedim": (T, lambda x: x.relu().movedim(-1, 1).movedim(1, -1), CUT),
    "moveaxis of two": (T, lambda x: torch.moveaxis(x.relu(), (0, 2), (2, 0)).permute(2, 1, 0), CUT),
    "swapaxes": (T, lambda x: x.relu().swapaxes(1, 2).swapdims(1, 2), CUT),
    "transposed twice": (V, lambda x: x.relu().t().t(), CUT),
    "T": (V, lambda x: x.relu().T.T, CUT),
    "mT": (T, lambda x: x.relu().mT.adjoint(), CUT),
    "repeated": (V, lambda x: x.relu().repeat(1, 2), RIGHT),
    "tiled": (V, lambda x: torch.tile(x.relu(), (2,)), RIGHT),
    "interleaved": (V, lambda x: x.relu().repeat_interleave(2, 1), RIGHT),
    "interleaved by a tensor": (V, lambda x: x.relu().repeat_interleave(torch.tensor([2] * 16), 1), RIGHT),
    "expanded": (T, lambda x: x[:, :1].relu().expand_as(x) + x, CUT),
    "broadcast": (T, lambda x: torch.broadcast_to(x[:, :1].relu(), x.shape), CUT),
    "flipped": (V, lambda x: x.relu().flip(1), CUT),
    "flipped left and right": (V, lambda x: x.relu().fliplr(), CUT),
    "rolled tokens": (T, lambda x: x.relu().roll(2, 1), CUT),
    "index_select of tokens": (T, lambda x: x.relu().index_select(1, INDEX), CUT),
    "index_select of units": (V, lambda x: x.index_select(1, torch.arange(16)), "looked up by number"),
    "index of tokens": (T, lambda x: x.relu()[:, INDEX], CUT),
    "index of two dims": (T, lambda x: x.relu()[INDEX, INDEX], RIGHT),
    "index of both": (T, lambda x: x.relu()[INDEX, :, INDEX], "looked up by number"),
    "index by a table": (T, lambda x: x.relu()[:, torch.tensor([[0, 1], [2, 3]])], RIGHT),
    "index by a mask": (V, lambda x: x.relu()[:, C > 1], "looked up by number"),
    "gather of tokens": (T, lambda x: x.relu().gather(1, torch.zeros(len(x), 1, 16, dtype=torch.int64)), RIGHT),
    "take along": (T, lambda x: x.relu().take_along_dim(x.argmax(1, keepdim=True), 1), RIGHT),
    "diagonal": (T, lambda x: x[..., :6].relu().diagonal(dim1=1, dim2=2), RIGHT),
    "lower triangle": (T, lambda x: x.relu().tril(), "a triangle of it is taken"),
    "strided": (V, lambda x: x.relu()[:, 1::2], RIGHT),
    "from the end": (V, lambda x: x.relu()[:, -8:], RIGHT),
    "slice_scatter": (V, scattered, RIGHT),
    "written into": (V, lambda x: torch.cat([x.relu(), x.new_zeros(len(x), 2)], 1), RIGHT),
    "stacked": (V, lambda x: torch.stack([x.relu(), x.sin()], 1).sum(1), CUT),
    "stacked behind": (V, lambda x: torch.stack([x.relu(), x.sin()], -1).flatten(1), CUT),
    "joined tokens": (T, lambda x: torch.cat([x.relu(), torch.zeros(len(x), 1, 16).to(x)], 1), RIGHT),
    "complex pairs": (V, complex_pairs, RIGHT),
    "complex numbers": (V, complex_numbers, RIGHT),
    "one hot": (V, lambda x: x.relu() + F.one_hot(x.argmax(1), 16), RIGHT),
    "identity": (V, lambda x: x.relu() @ torch.eye(16).to(x), RIGHT),
    # reductions
    "std": (V, lambda x: x / x.std(), "std runs over these units"),
    "std and mean": (T, lambda x: torch.cat(torch.std_mean(x, 1), -1), RIGHT),
    "largest token": (T, lambda x: x.relu().max(1).values, CUT),
    "largest unit": (V, lambda x: with_max(x)[:, None], "max runs over these units"),
    "length": (V, lambda x: x / x.norm(dim=1, keepdim=True), CUT),
    "length by ones": (V, lambda x: x / (1 + torch.linalg.vector_norm(x, 1, dim=1, keepdim=True)), CUT),
    "length by cubes": (V, lambda x: x / torch.linalg.vector_norm(x, 3, dim=1, keepdim=True), "linalg_vector_norm runs"),
    "normalised": (V, lambda x: F.normalize(x, dim=1), CUT),
    "share": (V, lambda x: x.relu() / (1 + x.relu().sum(1, keepdim=True)), CUT),
    "sum of all": (V, lambda x: x.relu() * x.relu().sum().tanh(), RIGHT),
    "median": (V, lambda x: x - x.median(1, keepdim=True).values, "median runs over these units"),
    "count": (V, lambda x: x.relu() * x.count_nonzero(1)[:, None], "count_nonzero runs"),
    "any": (V, lambda x: x.relu() * (x > 0).any(1, keepdim=True), "any runs over these units"),
    "log_softmax of tokens": (T, lambda x: x.log_softmax(1), RIGHT),
    "running sum of tokens": (T, lambda x: x.relu().cumsum(1), CUT),
    "running maximum": (T, lambda x: x.relu().cummax(1).values, CUT),
    "sorted tokens": (T, lambda x: x.relu().sort(1).values, CUT),
    "differences of tokens": (T, lambda x: x.relu().diff(dim=1), CUT),
    # products
    "einsum with dots": (T, lambda x: torch.einsum("...i,ij->...j", x.relu(), torch.eye(16).to(x)), RIGHT),
    "einsum without an arrow": (T, lambda x: torch.einsum("bti,bi->bt", x, x[:, 0])[..., None] * x, RIGHT),
    "einsum over tokens": (T, lambda x: torch.einsum("bti,bsi->bts", x, x).softmax(-1) @ x, CUT),
    "einsum of a diagonal": (V, lambda x: torch.einsum("bii->bi", x.unsqueeze(1) * x.unsqueeze(2)), "has no rule"),
    "outer product": (V, lambda x: torch.einsum("bi,bj->bij", x, x).sum(2), RIGHT),
    "bmm": (T, lambda x: torch.bmm(x.relu(), x.mT).softmax(-1).bmm(x), CUT),
    "baddbmm": (T, lambda x: torch.baddbmm(x, x @ x.mT, x), RIGHT),
    "dot": (V, lambda x: x * torch.dot(x[0], x[0]).tanh(), CUT),
    "mv": (V, lambda x: torch.mv(x.relu(), x[0].relu())[:, None] * x, CUT),
    "distances": (T, lambda x: torch.cdist(x, x) @ x, RIGHT),
    "kron": (V, lambda x: torch.kron(x[:, :4], torch.ones(1, 4).to(x)), RIGHT),
    # space
    "channel_shuffle": (I, lambda x: F.channel_shuffle(x.relu(), 2), RIGHT),
    "pixel_unshuffle": (I, lambda x: F.pixel_unshuffle(x.relu(), 2), CUT),
    "unfolded": (I, lambda x: F.unfold(x.relu(), 2).unflatten(-1, (7, 7)), RIGHT),
    "bilinear": (I, lambda x: F.interpolate(x.relu(), scale_factor=2, mode="bilinear"), CUT),
    "nearest": (I, lambda x: F.interpolate(x.relu(), size=(5, 5)), CUT),
    "grid": (I, lambda x: F.grid_sample(x.relu(), torch.zeros(len(x), 4, 4, 2).to(x), align_corners=False), CUT),
    "pools": (I, lambda x: F.adaptive_max_pool2d(x, 2) + F.adaptive_avg_pool2d(x, 2), CUT),
    "lp_pool": (I, lambda x: F.lp_pool2d(x.abs() + 0.1, 2, 2), RIGHT),
    "pool with places": (I, lambda x: F.max_pool2d(x.relu(), 2, return_indices=True)[0], CUT),
    "reflected": (I, lambda x: F.pad(x.relu(), (1, 1, 1, 1), "reflect"), CUT),
    "padded with ones": (I, lambda x: F.pad(x.relu(), (1, 1), value=1.0), RIGHT),
    "padded channels": (I, lambda x: F.pad(x.relu(), (0, 0, 0, 0, 2, 1)), CUT),
    "cropped": (I, lambda x: F.pad(x.relu(), (-1, -1, -1, -1)), CUT),
    "fewer channels by padding": (I, lambda x: F.pad(x.relu(), (0, 0, 0, 0, 0, -2)), "padded with its own values"),
    "fft over space": (I, lambda x: torch.fft.fft2(x).real, RIGHT),
}  # fmt: skip
INPUTS = {V: (2, 12), T: (2, 6, 12), I: (2, 3, 8, 8)}


@pytest.mark.parametrize("name", TABLE)
def test_between_two_layers(name):
    make, function, reason = TABLE[name]
    case = Case(name, lambda: stir(make(function)), lambda: torch.randn(INPUTS[make]))
    v = judge(case)
    assert not v.trouble, v.trouble
    if reason == CUT:
        assert any(n.startswith("fc1") for n in v.cut), {**v.frozen, **v.refused}
    elif reason:
        assert any(n.startswith("fc1") and reason in why for n, why in v.frozen.items()), v.frozen


def of(forward, **parts):
    return lambda: stir(net(forward, **{name: make() for name, make in parts.items()}))


def linear(a, b):
    return lambda: nn.Linear(a, b)


MODELS = {
    "addmm": (
        of(
            lambda self, x: torch.addmm(self.b, F.relu(self.fc(x)), self.w),
            fc=linear(12, 8),
            w=lambda: param(8, 4),
            b=lambda: param(4),
        ),
        (2, 12),
        True,
    ),
    "mv": (
        of(
            lambda self, x: torch.addmv(self.b.expand(len(x)), F.relu(self.fc(x)), self.w),
            fc=linear(12, 8),
            w=lambda: param(8),
            b=lambda: param(1),
        ),
        (2, 12),
        True,
    ),
    "vector times matrix": (
        of(lambda self, x: F.relu(self.fc(x))[0] @ self.w, fc=linear(12, 8), w=lambda: param(8, 4)),
        (2, 12),
        True,
    ),
    "a linear of one row": (
        of(lambda self, x: F.linear(F.relu(self.fc(x)), self.w), fc=linear(12, 8), w=lambda: param(8)),
        (2, 12),
        False,
    ),
    "prelu": (
        of(
            lambda self, x: self.out(self.act(self.fc(x))),
            fc=linear(12, 8),
            act=lambda: nn.PReLU(8),
            out=linear(8, 4),
        ),
        (2, 12),
        True,
    ),
    "weight_norm over all": (
        of(
            lambda self, x: self.out(F.relu(self.fc(x))),
            fc=lambda: nn.utils.parametrizations.weight_norm(nn.Linear(12, 8), dim=None),
            out=linear(8, 4),
        ),
        (2, 12),
        False,
    ),
    "weight_norm": (
        of(
            lambda self, x: self.out(F.relu(self.fc(x))),
            fc=lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
            out=lambda: nn.Conv2d(8, 4, 1),
        ),
        (2, 3, 6, 6),
        True,
    ),
    "a grouped convolution of a computed weight": (
        of(
            lambda self, x: self.out(F.relu(F.conv2d(self.fc(x), self.w.tanh(), groups=2))),
            fc=lambda: nn.Conv2d(3, 8, 1),
            w=lambda: param(6, 4, 1, 1),
            out=lambda: nn.Conv2d(6, 4, 1),
        ),
        (2, 3, 6, 6),
        None,
    ),
    "a grouped transposed convolution of a computed weight": (
        of(
            lambda self, x: self.out(F.relu(F.conv_transpose2d(self.fc(x), self.w.tanh(), groups=2))),
            fc=lambda: nn.Conv2d(3, 8, 1),
            w=lambda: param(8, 3, 1, 1),
            out=lambda: nn.Conv2d(6, 4, 1),
        ),
        (2, 3, 6, 6),
        None,
    ),
    "a grouped transposed convolution": (
        of(
            lambda self, x: self.out(F.relu(self.up(F.relu(self.fc(x))))),
            fc=lambda: nn.Conv2d(3, 8, 1),
            up=lambda: nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2),
            out=lambda: nn.Conv2d(6, 4, 1),
        ),
        (2, 3, 6, 6),
        True,
    ),
    "a transposed depthwise convolution with a multiplier": (
        of(
            lambda self, x: self.out(F.relu(self.up(self.fc(x)))),
            fc=lambda: nn.Conv2d(3, 4, 1),
            up=lambda: nn.ConvTranspose2d(4, 8, 2, groups=4),
            out=lambda: nn.Conv2d(8, 4, 1),
        ),
        (2, 3, 6, 6),
        None,
    ),
    "a depthwise convolution of the input": (
        of(
            lambda self, x: self.out(F.relu(self.fc(x))),
            fc=lambda: nn.Conv2d(3, 6, 3, groups=3),
            out=lambda: nn.Conv2d(6, 4, 1),
        ),
        (2, 3, 6, 6),
        None,
    ),
    "bilinear": (
        of(
            lambda self, x: self.out(self.mix(F.relu(self.fc(x)), self.other(x).relu())),
            fc=linear(12, 8),
            other=linear(12, 6),
            mix=lambda: nn.Bilinear(8, 6, 5),
            out=linear(5, 4),
        ),
        (2, 12),
        True,
    ),
    "three dimensions": (
        of(
            lambda self, x: self.out(F.relu(self.norm(self.fc(x)))).mean((2, 3, 4)),
            fc=lambda: nn.Conv3d(2, 6, 2),
            norm=lambda: nn.BatchNorm3d(6),
            out=lambda: nn.Conv3d(6, 4, 1),
        ),
        (2, 2, 4, 4, 4),
        True,
    ),
    "one example without a batch": (
        of(
            lambda self, x: self.out(F.relu(self.fc(x))),
            fc=lambda: nn.Conv2d(3, 6, 3),
            out=lambda: nn.Conv2d(6, 4, 1),
        ),
        (3, 6, 6),
        True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    build, shape, cut = MODELS[name]
    v = judge(Case(name, build, lambda: torch.randn(shape)))
    assert not v.trouble, v.trouble
    if cut is not None:
        assert any(n.startswith("fc") for n in v.cut) == cut, {**v.frozen, **v.refused}


def test_a_bag_of_embeddings():
    def forward(self, i):
        return self.out(F.relu(self.fc(i)))

    model = of(forward, fc=lambda: nn.EmbeddingBag(9, 8, mode="sum"), out=linear(8, 4))
    v = judge(Case("bag", model, lambda: torch.randint(9, (2, 5))))
    assert not v.trouble, v.trouble
    assert any(n.startswith("fc") for n in v.cut), {**v.frozen, **v.refused}


def test_attention_with_a_scale_of_its_own():
    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=0.3)
        return self.out(y[:, 0])

    parts = {n: linear(12, 8) for n in ("q", "k", "v")}
    v = judge(Case("scaled", of(forward, **parts, out=linear(8, 4)), lambda: torch.randn(2, 6, 12)))
    assert not v.trouble, v.trouble
    assert {"q", "v"} <= set(v.cut)  # single columns of q and k, and of v
