"""Where the weights come from: ties, parametrizations, tensors of one's own; and norms."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from .case import Case, gap, ids, image, net, param, register, tokens, vector

CASES: list[Case] = []
case = register(CASES)


def between(middle=None, norm=None, bias=True):
    """Return fc1 (12 to 16), that norm, that layer (16 to 10) and fc3 (10 to 4)."""

    def forward(self, x):
        x = F.relu(self.norm(self.fc1(x)))
        return self.fc3(F.relu(self.fc2(x)))

    return net(
        forward,
        fc1=nn.Linear(12, 16, bias),
        norm=norm or nn.Identity(),
        fc2=middle or nn.Linear(16, 10),
        fc3=nn.Linear(10, 4, bias),
    )


@case(vector(), cuts="fc1 fc2", frozen="fc3")
def mlp():
    return between(nn.Linear(16, 10))


@case(vector(), cuts="fc1 fc2", frozen="fc3")
def mlp_without_bias():
    return between(nn.Linear(16, 10, bias=False), bias=False)


@case(lambda: torch.randn(2, 12).double(), cuts="fc1 fc2", frozen="fc3")
def mlp_in_double():
    return between(nn.Linear(16, 10)).double()


@case(vector(), cuts="fc1 fc2", frozen="fc3")
def parameters_without_gradient():
    model = between(nn.Linear(16, 10))
    model.fc1.requires_grad_(False)
    model.fc2.bias.requires_grad_(False)
    return model


@case(vector(), cuts="fc1 fc2", frozen="fc3")
def unused_layers():
    model = between(nn.Linear(16, 10))
    model.spare = nn.Linear(16, 10)
    model.scale = param(16)
    return model


@case(vector(), cuts="fc2", frozen="fc3")
def weight_norm():
    return between(parametrizations.weight_norm(nn.Linear(16, 10)))


@case(vector(), cuts="first", frozen="last")
def spectral_norm():
    def forward(self, x):
        x = F.relu(self.middle(F.relu(self.first(x))))
        return self.last(F.relu(self.spectral(x)))

    return net(
        forward,
        first=nn.Linear(12, 16),
        middle=nn.Linear(16, 10),
        spectral=parametrizations.spectral_norm(nn.Linear(10, 8)),
        last=nn.Linear(8, 4),
    )


class Tanh(nn.Module):
    def forward(self, weight):
        return weight.tanh()


class Positive(nn.Module):
    def forward(self, weight):
        return F.softplus(weight)


class Masked(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.register_buffer("mask", (torch.rand_like(weight) > 0.5).to(weight))

    def forward(self, weight):
        return weight * self.mask


@case(vector(), cuts="fc1 fc2", frozen="fc3", tags="hard")
def own_parametrization():
    layer = nn.Linear(16, 10)
    parametrize.register_parametrization(layer, "weight", Tanh())
    return between(layer)


@case(vector(), cuts="fc1 fc2", frozen="fc3", tags="hard")
def mask_by_parametrization():
    layer = nn.Linear(16, 10)
    parametrize.register_parametrization(layer, "weight", Masked(layer.weight.detach()))
    return between(layer)


@case(vector(), cuts="fc1", frozen="fc3", tags="hard")
def positive_weights():  # zeros in fc2's tensor do not silence its units: softplus(0) > 0
    layer = nn.Linear(16, 10)
    parametrize.register_parametrization(layer, "weight", Positive())
    return between(layer)


@case(image(), cuts="conv2", frozen="conv1 fc", tags="hard")
def standardised_weights():
    def standardised(self, x):
        w = self.weight
        w = w - w.mean((1, 2, 3), keepdim=True)
        w = w / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, padding=1)

    def forward(self, x):
        return self.fc(gap(F.relu(self.conv2(F.relu(self.conv1(x))))))

    return net(
        forward,
        conv1=nn.Conv2d(3, 8, 3),
        conv2=net(standardised, weight=param(6, 8, 3, 3), bias=param(6)),
        fc=nn.Linear(6, 4),
    )


@case(vector(), cuts="fc1 fc2", frozen="fc3")
def functional_linear():
    def forward(self, x):
        return F.linear(x, self.weight, self.bias)

    return between(net(forward, weight=param(10, 16), bias=param(10)))


@case(vector(), cuts="fc1 fc2", frozen="fc3")
def matmul_with_a_parameter():
    return between(net(lambda self, x: x @ self.w + self.b, w=param(16, 10), b=param(10)))


@case(vector(), cuts="fc1 fc2", frozen="fc3")
def einsum_with_a_parameter():
    def forward(self, x):
        return torch.einsum("bi,io->bo", x, self.w)

    return between(net(forward, w=param(16, 10)))


@case(vector(), cuts="fc1 fc2", frozen="fc3", tags="hard")
def low_rank_product():
    def forward(self, x):
        return F.linear(x, self.a @ self.b, self.bias)

    return between(net(forward, a=param(10, 4), b=param(4, 16), bias=param(10)))


@case(vector(), cuts="fc1 fc2.base", frozen="fc3", tags="hard")
def low_rank_adapter():
    def forward(self, x):
        return self.base(x) + 0.5 * (x @ self.down.t() @ self.up.t())

    return between(net(forward, base=nn.Linear(16, 10), down=param(3, 16), up=param(10, 3)))


@case(vector(), cuts="fc1 fc2", frozen="fc3")
def scale_and_shift():
    scale = net(lambda self, x: x * self.scale + self.shift, scale=param(16), shift=param(16))
    return between(norm=scale)


@case(vector(), cuts="fc1 fc2", frozen="fc3")
def dynamic_tanh():
    def forward(self, x):
        return torch.tanh(self.alpha * x) * self.weight + self.bias

    return between(norm=net(forward, alpha=param(1), weight=param(16), bias=param(16)))


@case(vector(), cuts="fc1 fc2", frozen="fc3")
def running_constants_in_buffers():
    def forward(self, x):
        return (x - self.centre) / self.spread

    return between(norm=net(forward, centre=torch.randn(16), spread=torch.rand(16) + 0.5))


@case(vector(), cuts="encode")
def tied_autoencoder():
    def forward(self, x):
        return F.linear(F.relu(self.encode(x)), self.encode.weight.t(), self.bias)

    return net(forward, encode=nn.Linear(12, 8), bias=param(12))


@case(ids(), cuts="embed fc1", frozen="head", together="embed fc2")
def tied_embedding_and_head():
    def forward(self, x):
        x = self.embed(x)
        x = x + self.fc2(F.relu(self.fc1(x)))
        return self.head(x)

    embed, head = nn.Embedding(20, 12), nn.Linear(12, 20, bias=False)
    head.weight = embed.weight
    return net(forward, embed=embed, fc1=nn.Linear(12, 16), fc2=nn.Linear(16, 12), head=head)


@case(vector(), cuts="stem", frozen="head", together="stem again")
def layer_used_twice():
    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.again(F.relu(self.again(x))))
        return self.head(x)

    return net(forward, stem=nn.Linear(12, 10), again=nn.Linear(10, 10), head=nn.Linear(10, 4))


@case(vector(), cuts="stem", frozen="head", together="stem one")
def module_at_two_places():
    def forward(self, x):
        return self.head(F.relu(self.two(F.relu(self.one(F.relu(self.stem(x)))))))

    shared = nn.Linear(10, 10)
    return net(forward, stem=nn.Linear(12, 10), one=shared, two=shared, head=nn.Linear(10, 4))


@case(
    lambda: (torch.randn(2, 12), torch.randn(2, 12)), cuts="one", frozen="head", together="one two"
)
def shared_weight_with_two_biases():
    def forward(self, x, y):
        return self.head(torch.cat([F.relu(self.one(x)), F.relu(self.two(y))], -1))

    one, two = nn.Linear(12, 8), nn.Linear(12, 8)
    two.weight = one.weight
    return net(forward, one=one, two=two, head=nn.Linear(16, 4))


@case(lambda: (torch.randn(2, 12), torch.randn(2, 12)), cuts="encode", frozen="head")
def siamese():
    def forward(self, x, y):
        x, y = (F.relu(self.encode(part)) for part in (x, y))
        return self.head((x - y).abs())

    return net(forward, encode=nn.Linear(12, 10), head=nn.Linear(10, 4))


@case(
    lambda: (torch.randn(2, 12), torch.randn(2, 8)),
    cuts="one two generate_hidden",
    frozen="head",
    together="one generate",
    tags="hard",
)
def weights_made_from_data():
    def forward(self, x, y):
        x = F.relu(self.one(x))
        made = self.generate(F.relu(self.generate_hidden(y)))
        made = made.view(x.shape[0], -1, x.shape[1])  # (batch, out, in)
        x = torch.bmm(made, x.unsqueeze(-1)).squeeze(-1)
        return self.head(F.relu(self.two(x)))

    return net(
        forward,
        one=nn.Linear(12, 6),
        generate_hidden=nn.Linear(8, 5),
        generate=nn.Linear(5, 42),
        two=nn.Linear(7, 9),
        head=nn.Linear(9, 4),
    )


@case(vector(), cuts="first second", frozen="head", tags="hard")
def bilinear_layer():
    def forward(self, x):
        x = self.mix(F.relu(self.first(x)), F.relu(self.second(x)))
        return self.head(F.relu(x))

    return net(
        forward,
        first=nn.Linear(12, 6),
        second=nn.Linear(12, 7),
        mix=nn.Bilinear(6, 7, 5),
        head=nn.Linear(5, 4),
    )


def normed(norm, bias=True):
    """Return conv1 (3 to 8), that norm and conv2 (8 to 6)."""

    def forward(self, x):
        x = F.relu(self.norm(self.conv1(x)))
        return self.fc(gap(F.relu(self.conv2(x))))

    return net(
        forward,
        conv1=nn.Conv2d(3, 8, 3, padding=1, bias=bias),
        norm=norm,
        conv2=nn.Conv2d(8, 6, 3, padding=1),
        fc=nn.Linear(6, 4),
    )


@case(image(), cuts="conv2", approximate="conv1", frozen="fc")
def groupnorm_of_one_group():
    return normed(nn.GroupNorm(1, 8))


@case(image(), cuts="conv2", approximate="conv1", frozen="fc")
def groupnorm_of_four_groups():
    return normed(nn.GroupNorm(4, 8))


@case(image(), cuts="conv1 conv2", frozen="fc")
def groupnorm_of_single_channels():
    return normed(nn.GroupNorm(8, 8))


@case(image(), cuts="conv1 conv2", frozen="fc")
def instancenorm():
    return normed(nn.InstanceNorm2d(8))


@case(image(), cuts="conv1 conv2", frozen="fc")
def instancenorm_with_affine():
    return normed(nn.InstanceNorm2d(8, affine=True), bias=False)


@case(image(), cuts="conv1 conv2", frozen="fc")
def instancenorm_with_running_statistics():
    return normed(nn.InstanceNorm2d(8, affine=True, track_running_stats=True))


@case(image(), cuts="conv2", approximate="conv1", frozen="fc")
def layernorm_over_channels_and_space():
    return normed(nn.LayerNorm((8, 8, 8)))


@case(image(), cuts="conv1 conv2", frozen="fc")
def layernorm_over_space():
    return normed(nn.LayerNorm((8, 8), elementwise_affine=False))


@case(image(), cuts="conv2", frozen="fc conv1")
def local_response_norm():
    return normed(nn.LocalResponseNorm(3))


@case(image(), cuts="conv2", approximate="conv1", frozen="fc", tags="may-refuse")
def layernorm_of_channels_by_hand():
    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        var = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(var + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]

    return normed(net(forward, weight=param(8), bias=param(8)))


@case(image(), cuts="conv2", approximate="conv1", frozen="fc")
def layernorm_of_channels_by_permute():
    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    return normed(net(forward, norm=nn.LayerNorm(8)))


@case(image(), cuts="conv2", approximate="conv1", frozen="fc", tags="may-refuse")
def global_response_norm():
    def forward(self, x):
        seen = x.norm(dim=(2, 3), keepdim=True)
        seen = seen / (seen.mean(1, keepdim=True) + 1e-6)
        return x + self.weight[:, None, None] * (x * seen) + self.bias[:, None, None]

    return normed(net(forward, weight=param(8), bias=param(8)))


@case(vector(), cuts="fc2", approximate="fc1", frozen="fc3")
def layernorm():
    return between(norm=nn.LayerNorm(16))


@case(vector(), cuts="fc2", approximate="fc1", frozen="fc3", tags="may-refuse")
def layernorm_without_affine():
    return between(norm=nn.LayerNorm(16, elementwise_affine=False))


@case(vector(), cuts="fc2", approximate="fc1", frozen="fc3", tags="may-refuse")
def standardised_over_the_units():
    def forward(self, x):
        return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)

    return between(norm=net(forward))


@case(vector(), cuts="fc2", approximate="fc1", frozen="fc3")
def rmsnorm():
    return between(norm=nn.RMSNorm(16))


@case(vector(), cuts="fc2", approximate="fc1", frozen="fc3", tags="may-refuse")
def rmsnorm_by_hand():
    def forward(self, x):
        return self.weight * x * torch.rsqrt((x**2).mean(-1, keepdim=True) + 1e-6)

    return between(norm=net(forward, weight=param(16)))


@case(vector(), cuts="fc2", approximate="fc1", frozen="fc3", tags="may-refuse float32")
def rmsnorm_in_float32():
    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * y.to(x.dtype)

    return between(norm=net(forward, weight=param(16)))


@case(vector(), cuts="fc1 fc2", frozen="fc3")
def batchnorm1d():
    return between(norm=nn.BatchNorm1d(16))


@case(tokens(5, 12), cuts="fc1 fc2", frozen="fc3")
def batchnorm1d_of_tokens():
    def forward(self, x):
        return self.bn(x.transpose(1, 2)).transpose(1, 2)

    return between(norm=net(forward, bn=nn.BatchNorm1d(16)))


@case(vector(), cuts="fc1 fc2", frozen="fc3", tags="hard")
def scalenorm():
    def forward(self, x):
        return self.g * x / (x.norm(dim=-1, keepdim=True) + 1e-6)

    return between(norm=net(forward, g=param(1)))
