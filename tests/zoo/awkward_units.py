"""What happens to the units between the layer that makes them and the layer that reads them."""

import torch
import torch.nn.functional as F
from torch import nn

from .case import Case, gap, image, net, param, register, vector

CASES: list[Case] = []
case = register(CASES)


def linear_pair(function, width=16, bias=True):
    """Return a maker of fc1 (12 to 16), the function, fc2 (width to 4)."""

    def forward(self, x):
        return self.fc2(function(self.fc1(x)))

    return lambda: net(forward, fc1=nn.Linear(12, 16), fc2=nn.Linear(width, 4, bias=bias))


def conv_pair(function, second=None):
    """Return a maker of conv1 (3 to 8), the function, conv2 (8 to 6) without padding, fc."""

    def forward(self, x):
        return self.fc(gap(F.relu(self.conv2(function(self.conv1(x))))))

    def build():
        conv2 = second() if second else nn.Conv2d(8, 6, 3)
        return net(forward, conv1=nn.Conv2d(3, 8, 3, padding=1), conv2=conv2, fc=nn.Linear(6, 4))

    return build


def clear_half(x):
    x = F.relu(x)
    x[:, :8] = 0
    return x


def without_gradient(x):
    with torch.no_grad():
        return x.relu()


def by_scores(x):
    return x.relu().gather(1, x[:, :1].gt(0).long() * 3)


def over_space(x):
    return x.flatten(2).softmax(-1).view_as(x)


def sampled(x):
    theta = torch.tensor([[0.9, 0.1, 0.0], [-0.1, 0.9, 0.1]], dtype=x.dtype, device=x.device)
    grid = F.affine_grid(theta.expand(len(x), 2, 3), x.shape, align_corners=False)
    return F.grid_sample(x.relu(), grid, align_corners=False)


EXACT = {  # f(0) = 0
    "relu-in-place": lambda x: x.relu_(),
    "add-in-place": lambda x: x.relu_().add_(x).mul_(0.5),
    "gelu": F.gelu,
    "mish": F.mish,
    "leaky-by-where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "clamp": lambda x: x.clamp(-0.5, 2),
    "double-and-back": lambda x: x.relu().to(torch.float64).to(x.dtype),
    "no-grad-inside": without_gradient,
    "detach-and-clone": lambda x: x.relu().detach().clone().contiguous(),
    "powers": lambda x: x**3 - x.square() * 0.5,
    "unsqueeze-and-squeeze": lambda x: x.relu()[:, None, :, None].squeeze(3).squeeze(1),
    "dropout": lambda x: F.alpha_dropout(F.dropout(x.relu(), 0.5, False), 0.5, False),
}
CONSTANT = {  # f(0) != 0, folded into the bias
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "cosine": torch.cos,
    "exponential": lambda x: torch.exp(-x.abs()),
    "affine": lambda x: 2 * x.relu() + 1,
    "comparison": lambda x: (x >= 0).to(x.dtype),
}
MOVED = {  # the units stay apart, elsewhere or more than once; with the width that fc2 reads
    "repeat": (lambda x: x.relu().repeat(1, 2), 32, ""),
    "tile": (lambda x: x.relu().tile(2), 32, ""),
    "repeat-interleave": (lambda x: x.relu().repeat_interleave(2, 1), 32, ""),
    "expand-and-flatten": (lambda x: x.relu().unsqueeze(1).expand(-1, 3, -1).flatten(1), 48, ""),
    "stack-interleaved": (lambda x: torch.stack([x.relu(), x.sin()], -1).flatten(1), 32, ""),
    "concatenated-relu": (lambda x: torch.cat([x.relu(), (-x).relu()], 1), 32, ""),
    "glu": (F.glu, 8, ""),
    "glu-by-chunk": (lambda x: x.chunk(2, 1)[0] * torch.sigmoid(x.chunk(2, 1)[1]), 8, ""),
    "max-of-halves": (lambda x: torch.maximum(*x.chunk(2, 1)), 8, ""),
    "sum-of-halves": (lambda x: x.relu().view(x.shape[0], 2, -1).sum(1), 8, ""),
    "sum-over-units": (lambda x: x.relu().sum(1, keepdim=True), 1, ""),
    "maxout": (lambda x: x.view(x.shape[0], -1, 2).amax(2), 8, "hard"),
    "flip": (lambda x: x.relu().flip(1), 16, "hard"),
    "l2-normalised": (lambda x: F.normalize(x.relu(), dim=1), 16, "hard"),
    "complex-absolute": (lambda x: torch.complex(*x.chunk(2, 1)).abs(), 8, "hard"),
    "outer-with-itself": (lambda x: (x.unsqueeze(2) * x.unsqueeze(1)).flatten(1), 256, "hard"),
}
OVER = {  # something runs over the units for which a missing one is not a silent one
    "softmax-over-units": (lambda x: x.softmax(1), 16),
    "log-softmax-over-units": (lambda x: F.log_softmax(x, 1), 16),
    "largest-unit-only": (lambda x: (x == x.amax(1, keepdim=True)).to(x.dtype), 16),
    "maximum-over-units": (lambda x: x.amax(1, keepdim=True), 1),
    "mean-over-units": (lambda x: x.relu().mean(1, keepdim=True), 1),
    "logsumexp-over-units": (lambda x: x.logsumexp(1, keepdim=True), 1),
    "product-over-units": (lambda x: x.prod(1, keepdim=True), 1),
    "variance-over-units": (lambda x: x.var(1, keepdim=True), 1),
    "sort-over-units": (lambda x: x.sort(1).values, 16),
    "topk-over-units": (lambda x: x.topk(4, 1).values, 4),
    "cumsum-over-units": (lambda x: x.relu().cumsum(1), 16),
    "differences-of-units": (lambda x: x.relu().diff(dim=1), 15),
    "fft-over-units": (lambda x: torch.fft.fft(x, dim=1).real, 16),
    "pool-over-units": (lambda x: F.max_pool1d(x.unsqueeze(1), 3, 1).squeeze(1), 14),
}
OPEN = {  # exact for some units only, or for a clever tool only: no word about fc1
    "roll-over-units": (lambda x: x.relu().roll(1, 1), 16),
    "first-units-cleared": (clear_half, 16),
    "second-half-read": (lambda x: x.relu()[:, 8:], 8),
    "every-second-read": (lambda x: x.relu()[:, ::2], 8),
    "permuted-by-index": (lambda x: x.relu()[:, torch.arange(15, -1, -1)], 16),
    "gather-of-units": (by_scores, 1),
    "pool-over-pairs": (lambda x: F.max_pool1d(x.unsqueeze(1), 2).squeeze(1), 8),
}
for name, function in EXACT.items():
    case(vector(), name=name, cuts="fc1", frozen="fc2")(linear_pair(function))
for name, function in CONSTANT.items():
    case(vector(), name=f"{name}-constant", cuts="fc1", frozen="fc2")(linear_pair(function))
for name, (function, width, tags) in MOVED.items():
    build = linear_pair(function, width)
    case(vector(), name=name, cuts="fc1", frozen="fc2", tags=tags)(build)
for name, (function, width) in OVER.items():
    case(vector(), name=name, frozen="fc1 fc2")(linear_pair(function, width))
for name, (function, width) in OPEN.items():
    case(vector(), name=name, frozen="fc2")(linear_pair(function, width))
build = linear_pair(torch.sigmoid, bias=False)
case(vector(), name="constant-without-bias", frozen="fc1 fc2")(build)
build = linear_pair(lambda x: x.relu().reshape(-1, 4, 4).transpose(1, 2).flatten(1))
says = {"cuts": "fc1", "frozen": "fc2", "program": True, "tags": "hard"}
case(vector(), name="units-as-an-image", **says)(build)
build = linear_pair(lambda x: (x + torch.randn_like(x)).relu())
case(vector(), name="noise-on-the-units", frozen="fc1 fc2", tags="random")(build)


def second(**options):
    return lambda: nn.Conv2d(8, 6, 3, **options)


SPACE = {  # conv1 is cut
    "sigmoid-before-unpadded": (torch.sigmoid, None, ""),
    "sigmoid-before-circular": (torch.sigmoid, second(padding=1, padding_mode="circular"), "hard"),
    "sigmoid-before-reflect": (torch.sigmoid, second(padding=1, padding_mode="reflect"), "hard"),
    "sigmoid-replicated": (lambda x: F.pad(x.sigmoid(), (1,) * 4, "replicate"), None, "hard"),
    "sigmoid-max-pool": (lambda x: F.max_pool2d(x.sigmoid(), 3, 1, 1), None, ""),
    "sigmoid-average-pool": (lambda x: F.avg_pool2d(x.sigmoid(), 2), None, ""),
    "sigmoid-nearest": (lambda x: F.interpolate(x.sigmoid(), scale_factor=2.0), None, ""),
    "sigmoid-everywhere-equal": (
        lambda x: x.sigmoid().mean((2, 3), keepdim=True),
        lambda: nn.Conv2d(8, 6, 1),
        "",
    ),
    "softmax-over-space": (over_space, None, "hard"),
    "relu-padded-by-hand": (lambda x: F.pad(x.relu(), (1, 1, 1, 1)), None, ""),
    "roll-over-space": (lambda x: x.relu().roll((1, 2), (2, 3)), second(padding=1), ""),
    "fft-over-space": (
        lambda x: torch.fft.irfft2(torch.fft.rfft2(x.relu()) * 0.5, s=(8, 8)),
        second(padding=1),
        "hard",
    ),
    "adaptive-max-pool": (lambda x: F.adaptive_max_pool2d(x.relu(), 3), second(padding=1), ""),
    "lp-pool": (lambda x: F.lp_pool2d(x.relu(), 2, 2), second(padding=1), "hard"),
    "grid-sample": (sampled, second(padding=1), "hard"),
}
BORDER = {  # conv1 is frozen: its constant is not the same everywhere, or finds no bias
    "sigmoid-before-padded": (torch.sigmoid, second(padding=1)),
    "sigmoid-before-same": (torch.sigmoid, second(padding="same")),
    "sigmoid-before-no-bias": (torch.sigmoid, second(bias=False)),
    "sigmoid-before-transposed": (torch.sigmoid, lambda: nn.ConvTranspose2d(8, 6, 3, stride=2)),
    "sigmoid-padded-pool": (lambda x: F.avg_pool2d(x.sigmoid(), 3, 1, 1), None),
    "padded-with-ones": (lambda x: F.pad(x.relu(), (1, 1, 1, 1), value=1.0), None),
    "softmax-over-channels": (lambda x: x.softmax(1), None),
}
for name, (function, layer, tags) in SPACE.items():
    build = conv_pair(function, layer)
    case(image(), name=name, cuts="conv1 conv2", frozen="fc", tags=tags)(build)
for name, (function, layer) in BORDER.items():
    case(image(), name=name, cuts="conv2", frozen="conv1 fc")(conv_pair(function, layer))


@case(image(), cuts="conv1", frozen="fc")
def sigmoid_then_batchnorm():  # the norm's shift goes with the unit, and so its constant
    def forward(self, x):
        x = self.conv2(self.bn(torch.sigmoid(self.conv1(x))))
        return self.fc(gap(F.relu(x)))

    return net(
        forward,
        conv1=nn.Conv2d(3, 8, 3),
        bn=nn.BatchNorm2d(8),
        conv2=nn.Conv2d(8, 6, 3, padding=1),
        fc=nn.Linear(6, 4),
    )


@case(image(), cuts="conv1", frozen="fc", together="conv1 depthwise")
def sigmoid_then_depthwise():
    def forward(self, x):
        x = self.depthwise(torch.sigmoid(self.conv1(x)))
        return self.fc(gap(F.relu(x)))

    return net(
        forward,
        conv1=nn.Conv2d(3, 8, 3),
        depthwise=nn.Conv2d(8, 8, 3, padding=1, groups=8),
        fc=nn.Linear(8, 4),
    )


@case(image(), cuts="conv1", frozen="fc")
def sigmoid_then_flatten():
    def forward(self, x):
        return self.fc(torch.sigmoid(self.conv1(x)).flatten(1))

    return net(forward, conv1=nn.Conv2d(3, 8, 3, stride=2), fc=nn.Linear(72, 4))


@case(vector(), cuts="fc1", frozen="fc2")
def prelu():
    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))

    return net(forward, fc1=nn.Linear(12, 16), act=nn.PReLU(16), fc2=nn.Linear(16, 4))


@case(image(), cuts="conv1 conv2", frozen="fc")
def prelu_of_channels():
    def forward(self, x):
        return self.fc(gap(self.act2(self.conv2(self.act1(self.conv1(x))))))

    return net(
        forward,
        conv1=nn.Conv2d(3, 8, 3),
        act1=nn.PReLU(8),
        conv2=nn.Conv2d(8, 6, 3, padding=1),
        act2=nn.PReLU(),
        fc=nn.Linear(6, 4),
    )


@case(vector(), cuts="fc1", frozen="fc2")
def noise_in_training_only():
    def forward(self, x):
        x = F.relu(self.fc1(x))
        if self.training:
            x = x + 0.1 * torch.randn_like(x)
        return self.fc2(self.drop(x))

    return net(forward, fc1=nn.Linear(12, 16), drop=nn.FeatureAlphaDropout(), fc2=nn.Linear(16, 4))


@case(vector(), frozen="fc1 fc2")
def product_with_the_input():
    return net(
        lambda self, x: self.fc2(F.relu(self.fc1(x)) * x),
        fc1=nn.Linear(12, 12),
        fc2=nn.Linear(12, 4),
    )


@case(vector(), cuts="fc1", frozen="fc2")
def units_times_a_number_from_data():
    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x)) * x.sum(1, keepdim=True))

    return net(forward, fc1=nn.Linear(12, 16), fc2=nn.Linear(16, 4))


@case(vector(), frozen="fc1 fc2")
def constant_times_a_number_from_data():
    def forward(self, x):
        return self.fc2(torch.sigmoid(self.fc1(x)) * x.sum(1, keepdim=True))

    return net(forward, fc1=nn.Linear(12, 16), fc2=nn.Linear(16, 4))


@case(vector(), cuts="fc1", frozen="fc2 fc3")
def constant_for_two_readers():
    def forward(self, x):
        x = torch.sigmoid(self.fc1(x))
        return self.fc2(x), self.fc3(x)

    return net(forward, fc1=nn.Linear(12, 16), fc2=nn.Linear(16, 4), fc3=nn.Linear(16, 5))


@case(vector(), frozen="fc1 fc2 fc3")
def constant_for_a_reader_without_bias():
    def forward(self, x):
        x = torch.sigmoid(self.fc1(x))
        return self.fc2(x), self.fc3(x)

    return net(
        forward, fc1=nn.Linear(12, 16), fc2=nn.Linear(16, 4), fc3=nn.Linear(16, 5, bias=False)
    )


def marked(*marks):
    """Return a maker of inputs whose first features are these."""

    def inputs():
        x = torch.randn(len(marks), 12)
        x[:, 0] = torch.tensor(marks)
        return x

    return inputs


def by_mark(function):
    """Return a maker of fc1, a function of its units and of the mark, and fc2."""

    def forward(self, x):
        return self.fc2(function(self.fc1(x), x[:, :1]))

    return lambda: net(forward, fc1=nn.Linear(12, 16), fc2=nn.Linear(16, 4))


def fill(value):
    return by_mark(lambda x, mark: x.relu().masked_fill(mark > 0, value))


gated = by_mark(lambda x, mark: x.sigmoid() * mark.relu())
case(marked(1.0, -1.0), name="masked-fill-zero", cuts="fc1", frozen="fc2")(fill(0.0))
case(marked(1.0, -1.0), name="masked-fill-one", frozen="fc1 fc2")(fill(1.0))
case(marked(1.0, 1.0), name="masked-fill-always", frozen="fc1 fc2", tags="unseen")(fill(1.0))
case(marked(1.0, -1.0), name="gate-from-data", frozen="fc1 fc2")(gated)
case(marked(-1.0, -1.0), name="gate-shut-by-the-example", frozen="fc1 fc2", tags="unseen")(gated)


def two_branches(join, width=10):
    """Return a maker of two Linears of ten units, joined, and a head."""

    def forward(self, x):
        return self.head(join(self.a(x), self.b(x)))

    layers = {"a": (12, 10), "b": (12, 10), "head": (width, 4)}
    return lambda: net(forward, **{name: nn.Linear(*size) for name, size in layers.items()})


JOINED = {  # a and b are cut together
    "sum-of-branches": lambda a, b: F.relu(a + b),
    "difference-of-branches": lambda a, b: (a.relu() - b.relu()).abs(),
    "product-of-branches": lambda a, b: a.tanh() * b,
    "gated-branch": lambda a, b: a * b.sigmoid(),
    "swiglu": lambda a, b: F.silu(a) * b,
    "highway": lambda a, b: a.relu() * b.sigmoid() + b.relu() * (1 - b.sigmoid()),
    "larger-of-branches": torch.maximum,
    "where-of-branches": lambda a, b: torch.where(a > b, a.relu(), b),
    "stack-and-sum": lambda a, b: torch.stack([a.relu(), b.relu()]).sum(0),
    "stack-and-maximum": lambda a, b: torch.stack([a, b], 1).amax(1),
    "stack-and-mean": lambda a, b: torch.stack([a.relu(), b.relu()], -1).mean(-1),
    "constant-plus-branch": lambda a, b: a.sigmoid() + b,
    "constant-times-constant": lambda a, b: a.sigmoid() * b.exp(),
    "softmax-of-two-branches": lambda a, b: torch.stack([a, b], 1).softmax(1)[:, 0],
    "branches-lerp": lambda a, b: torch.lerp(a.relu(), b, 0.3),
    "hypot-of-branches": torch.hypot,
}
for name, join in JOINED.items():
    build = two_branches(join)
    case(vector(), name=name, cuts="a b", frozen="head", together="a b")(build)
build = two_branches(lambda a, b: (a.relu().unsqueeze(2) * b.unsqueeze(1)).flatten(1), 100)
case(vector(), name="outer-product-of-branches", cuts="a b", frozen="head", tags="hard")(build)
build = two_branches(lambda a, b: torch.cat([a.sigmoid(), b.relu()], 1), 20)
case(vector(), name="branches-side-by-side", cuts="a b", frozen="head")(build)


def two_towers(compare):
    def forward(self, x, y):
        return compare(self.a(x), self.b(y))

    return lambda: net(forward, a=nn.Linear(12, 10), b=nn.Linear(7, 10))


COMPARED = {
    "dot-product-of-towers": (lambda a, b: (a * b).sum(-1), ""),
    "squared-distance-of-towers": (lambda a, b: (a - b).square().sum(-1), ""),
    "similarity-matrix-of-towers": (lambda a, b: a @ b.t() * 0.3, ""),
    "cosine-of-towers": (F.cosine_similarity, "hard"),
    "cosine-of-towers-by-hand": (lambda a, b: F.normalize(a) @ F.normalize(b).t(), "hard"),
    "distance-matrix-of-towers": (torch.cdist, "hard"),
}
for name, (compare, tags) in COMPARED.items():
    case(
        lambda: (torch.randn(2, 12), torch.randn(2, 7)),
        name=name,
        cuts="a b",
        together="a b",
        tags=tags,
    )(two_towers(compare))


@case(
    lambda: (torch.randn(2, 12), torch.randn(2, 5)),
    cuts="fc1",
    frozen="fc2",
    together="fc1 scale shift",
)
def feature_wise_modulation():
    def forward(self, x, y):
        return self.fc2(F.relu(self.fc1(x) * self.scale(y) + self.shift(y)))

    return net(
        forward,
        fc1=nn.Linear(12, 16),
        scale=nn.Linear(5, 16),
        shift=nn.Linear(5, 16),
        fc2=nn.Linear(16, 4),
    )


@case(vector(), cuts="experts.0", frozen="gate head", together="experts.0 experts.1 experts.2")
def mixture_of_experts():
    def forward(self, x):
        gate = self.gate(x).softmax(1)
        seen = torch.stack([F.relu(expert(x)) for expert in self.experts], 1)
        return self.head((gate.unsqueeze(2) * seen).sum(1))

    return net(
        forward,
        gate=nn.Linear(12, 3),
        experts=nn.ModuleList(nn.Linear(12, 10) for _ in range(3)),
        head=nn.Linear(10, 4),
    )


@case(vector(), frozen="gate head")
def experts_in_one_tensor():
    def forward(self, x):
        gate = self.gate(x).softmax(1)
        x = torch.einsum("bi,eih->beh", x, self.up).relu()
        return self.head(torch.einsum("be,beh,eho->bo", gate, x, self.down).relu())

    return net(
        forward,
        gate=nn.Linear(12, 3),
        up=param(3, 12, 8),
        down=param(3, 8, 10),
        head=nn.Linear(10, 4),
    )


@case(vector(), cuts="fc1", frozen="fc2")
def one_gate_for_all_units():
    def forward(self, x):
        x = F.relu(self.fc1(x))
        return self.fc2(x * torch.sigmoid(self.gate(x)))

    return net(forward, fc1=nn.Linear(12, 16), gate=nn.Linear(16, 1), fc2=nn.Linear(16, 4))
