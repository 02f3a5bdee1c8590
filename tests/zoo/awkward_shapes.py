"""What comes in, what goes out, containers, tables, recurrence and Python in between."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from .case import Case, gap, ids, image, net, param, register, tokens, vector

CASES: list[Case] = []
case = register(CASES)


def body(forward):
    """Return a net with fc1 (12 to 16), fc2 (16 to 10) and head (10 to 4)."""
    layers = {"fc1": (12, 16), "fc2": (16, 10), "head": (10, 4)}
    return net(forward, **{name: nn.Linear(*size) for name, size in layers.items()})


@dataclass
class Answer:
    logits: torch.Tensor
    score: torch.Tensor


class Pair(NamedTuple):
    logits: torch.Tensor
    score: torch.Tensor


def answering(wrap):
    def forward(self, x):
        x = F.relu(self.fc2(F.relu(self.fc1(x))))
        logits = self.head(x)
        return wrap(logits, logits.softmax(-1))

    return lambda: body(forward)


ANSWERS = {
    "output-tuple": lambda a, b: (a, b),
    "output-list-and-none": lambda a, b: [a, None, b],
    "output-dict": lambda a, b: {"logits": a, "score": b},
    "output-nested": lambda a, b: {"main": (a, {"deep": [b]})},
    "output-named-tuple": Pair,
    "output-argmax": lambda a, b: (a.argmax(-1), b.amax(-1)),
}
for name, wrap in ANSWERS.items():
    case(vector(), name=name, cuts="fc1 fc2", frozen="head")(answering(wrap))
says = {"cuts": "fc1 fc2", "frozen": "head", "tags": "no-export"}
case(vector(), name="output-dataclass", **says)(answering(Answer))


@case(vector(), cuts="fc1", frozen="fc2 head")
def hidden_layer_returned():
    def forward(self, x):
        x = self.fc2(F.relu(self.fc1(x)))
        return self.head(F.relu(x)), x

    return body(forward)


@case(vector(), cuts="fc1 fc2", frozen="head")
def sum_of_a_hidden_layer_returned():
    def forward(self, x):
        x = F.relu(self.fc2(F.relu(self.fc1(x))))
        return self.head(x), x.square().sum(-1)

    return body(forward)


@case(vector(), cuts="fc1 fc2", frozen="head exit1 exit2")
def early_exits():
    def forward(self, x):
        x = F.relu(self.fc1(x))
        first = self.exit1(x)
        x = F.relu(self.fc2(x))
        return first, self.exit2(x), self.head(x)

    model = body(forward)
    model.exit1, model.exit2 = nn.Linear(16, 4), nn.Linear(10, 4)
    return model


@case(lambda: (torch.randn(2, 12), torch.tensor([1, 3])), cuts="fc1 fc2", frozen="head")
def loss_inside():
    def forward(self, x, target):
        x = F.relu(self.fc2(F.relu(self.fc1(x))))
        return F.cross_entropy(self.head(x), target)

    return body(forward)


@case(
    lambda: {"left": torch.randn(2, 12), "right": torch.randn(2, 16)}, cuts="fc2", frozen="fc1 head"
)
def keyword_inputs():
    def forward(self, *, right, left):
        return self.head(F.relu(self.fc2(F.relu(self.fc1(left)) + right)))

    return body(forward)


@case(lambda: {"x": torch.randn(2, 12), "double": True}, cuts="fc1 fc2", frozen="head")
def keyword_flag():
    def forward(self, x, mask=None, double=False):
        x = F.relu(self.fc1(x))
        if mask is not None:
            x = x * mask
        if double:
            x = 2 * x
        return self.head(F.relu(self.fc2(x)))

    return body(forward)


@case(
    lambda: ([torch.randn(2, 12), torch.randn(2, 12)], 0.5),
    cuts="fc1 fc2",
    frozen="head",
    tags="nested-input",
)
def list_and_number_as_inputs():
    def forward(self, parts, weight):
        x, y = (F.relu(self.fc1(part)) for part in parts)
        return self.head(F.relu(self.fc2(weight * x + (1 - weight) * y)))

    return body(forward)


@case(
    lambda: {"batch": {"x": torch.randn(2, 12)}}, cuts="fc1 fc2", frozen="head", tags="nested-input"
)
def dictionary_as_input():
    def forward(self, batch):
        return self.head(F.relu(self.fc2(F.relu(self.fc1(batch["x"])))))

    return body(forward)


@case(vector(), cuts="fc1 fc2", frozen="head")
def python_in_between():
    def forward(self, x):
        if x.shape[0] > 100 or x.dim() != 2:
            raise ValueError(f"expected (batch, 12), got {tuple(x.shape)}")
        for i, layer in enumerate([self.fc1, self.fc2]):
            x = layer(x)
            x = x.relu() if i % 2 == 0 else x.tanh()
        assert x.dtype.is_floating_point
        return getattr(self, "head")(x)  # noqa: B009

    return body(forward)


@case(vector(), cuts="fc1 fc2", frozen="head")
def hook_that_scales():
    def forward(self, x):
        return self.head(F.relu(self.fc2(F.relu(self.fc1(x)))))

    model = body(forward)
    model.fc1.register_forward_hook(lambda module, args, output: output * 0.5)
    model.fc2.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    return model


@case(vector(), cuts="fc1 fc2", frozen="head", tags="hard")
def result_thrown_away():  # not in the graph, but the Python still runs it
    def forward(self, x):
        x = F.relu(self.fc1(x))
        self.extra(x)
        return self.head(F.relu(self.fc2(x)))

    model = body(forward)
    model.extra = nn.Linear(16, 4)
    return model


@case(vector(), cuts="fc1 fc2", frozen="head", tags="hard")
def gradient_checkpoint():
    def forward(self, x):
        x = checkpoint(lambda x: F.relu(self.fc1(x)), x, use_reentrant=False)
        return self.head(F.relu(self.fc2(x)))

    return body(forward)


@case(vector(), cuts="fc1 fc2", frozen="head")
def buffers_around():
    def forward(self, x):
        x = F.relu(self.fc1((x - self.centre) / self.spread)) * self.gain
        return self.head(F.relu(self.fc2(x))) + self.shift

    model = body(forward)
    model.register_buffer("centre", torch.randn(12))
    model.register_buffer("spread", torch.rand(12) + 0.5)
    model.register_buffer("gain", torch.tensor(1.5), persistent=False)
    model.register_buffer("shift", torch.randn(4))
    model.register_buffer("steps", torch.tensor(3))
    return model


@case(vector(), cuts="stages.wide.0.1 stages.narrow.1.1", frozen="heads.main")
def nested_containers():
    def forward(self, x):
        for name in ("wide", "narrow"):
            for block in self.stages[name]:
                for layer in block:
                    x = layer(x)
        return self.heads["main"](x)

    def block(inputs, outputs):
        return nn.ModuleList([nn.Identity(), nn.Linear(inputs, outputs), nn.ReLU()])

    stages = {
        "wide": nn.ModuleList([block(12, 16), block(16, 14)]),
        "narrow": nn.ModuleList([block(14, 10), block(10, 8)]),
    }
    heads = nn.ModuleDict({"main": nn.Linear(8, 4), "spare": nn.Linear(8, 3)})
    return net(forward, stages=nn.ModuleDict(stages), heads=heads)


@case(vector(), cuts="fc1", frozen="fc2")
def parameters_in_containers():
    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = F.relu(x @ self.weights[0] + self.biases["first"])
        return self.fc2(F.relu(x @ self.weights[1]))

    return net(
        forward,
        fc1=nn.Linear(12, 8),
        weights=nn.ParameterList([param(8, 9), param(9, 10)]),
        biases=nn.ParameterDict({"first": param(9)}),
        fc2=nn.Linear(10, 4),
    )


@case(vector(), cuts="first rest.0 rest.1", frozen="last")
def skip_cat_with_the_input():
    def forward(self, x):
        y = F.relu(self.first(x))
        for layer in self.rest:
            y = F.relu(layer(torch.cat([y, x], -1)))
        return self.last(y)

    return net(
        forward,
        first=nn.Linear(12, 8),
        rest=nn.ModuleList([nn.Linear(20, 9), nn.Linear(21, 10)]),
        last=nn.Linear(10, 4),
    )


@case(vector(), cuts="frequencies fc1", frozen="head")
def fourier_features():
    def forward(self, x):
        x = self.frequencies(x)
        return self.head(F.relu(self.fc1(torch.cat([x.sin(), x.cos()], -1))))

    return net(
        forward,
        frequencies=nn.Linear(12, 8, bias=False),
        fc1=nn.Linear(16, 10),
        head=nn.Linear(10, 4),
    )


@case(vector(), cuts="stem fc1", frozen="head", together="stem fc2")
def residual_loop_with_shared_layers():
    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = x + 0.3 * self.fc2(torch.tanh(self.fc1(x)))
        return self.head(x)

    return net(
        forward,
        stem=nn.Linear(12, 10),
        fc1=nn.Linear(10, 14),
        fc2=nn.Linear(14, 10),
        head=nn.Linear(10, 4),
    )


@case(vector(), cuts="decode", frozen="last")
def variational_autoencoder():  # what only training reads is not in the graph
    def forward(self, x):
        x = F.relu(self.encode(x))
        z = self.mean(x)
        if self.training:
            z = z + torch.randn_like(z) * (0.5 * self.spread(x)).exp()
        return torch.sigmoid(self.last(F.relu(self.decode(z))))

    return net(
        forward,
        encode=nn.Linear(12, 10),
        mean=nn.Linear(10, 5),
        spread=nn.Linear(10, 5),
        decode=nn.Linear(5, 9),
        last=nn.Linear(9, 12),
    )


@case(vector(), cuts="fc1", frozen="head", tags="hard")
def capsules():
    def forward(self, x):
        x = self.fc1(x).view(x.shape[0], -1, 4)
        square = x.square().sum(-1, keepdim=True)
        x = x * square / (1 + square) / torch.sqrt(square + 1e-9)
        return self.head(x.flatten(1))

    return net(forward, fc1=nn.Linear(12, 24), head=nn.Linear(24, 4))


@case(tokens(5, 12), cuts="fc1 fc2", frozen="head")
def tokens_merged_into_the_batch():
    def forward(self, x):
        b, n, c = x.shape
        x = F.relu(self.fc1(x.view(b * n, c)))
        x = F.relu(self.fc2(x.view(b, n, -1)))
        return self.head(x.mean(1))

    return body(forward)


@case(lambda: torch.randn(2, 3, 2, 6, 6), cuts="conv fc1", frozen="head")
def frames_merged_into_the_batch():
    def forward(self, x):
        b, t = x.shape[:2]
        x = gap(F.relu(self.conv(x.flatten(0, 1)))).unflatten(0, (b, t))
        return self.head(F.relu(self.fc1(x)).amax(1))

    return net(forward, conv=nn.Conv2d(2, 8, 3), fc1=nn.Linear(8, 10), head=nn.Linear(10, 4))


@case(image(), cuts="conv fc1", frozen="head")
def linear_on_channels_last():
    def forward(self, x):
        x = F.relu(self.conv(x)).movedim(1, -1)
        return self.head(F.relu(self.fc1(x))).mean((1, 2))

    return net(forward, conv=nn.Conv2d(3, 8, 3), fc1=nn.Linear(8, 10), head=nn.Linear(10, 4))


@case(tokens(5, 12), cuts="mix fc1", frozen="head fc2")
def mixing_along_the_input():  # fc2 gives back the five tokens that the residual adds to
    def forward(self, x):
        x = x + self.fc2(F.relu(self.mix(x.transpose(1, 2)))).transpose(1, 2)
        return self.head(F.relu(self.fc1(x)).mean(1))

    return net(
        forward,
        mix=nn.Linear(5, 7),
        fc2=nn.Linear(7, 5),
        fc1=nn.Linear(12, 9),
        head=nn.Linear(9, 4),
    )


@case(tokens(5, 12), cuts="mix", frozen="head stem")
def bias_after_mixing_of_tokens():  # a silent unit of stem comes back as the bias of each token
    def forward(self, x):
        x = F.relu(self.stem(x)).transpose(1, 2)
        x = self.back(F.relu(self.mix(x))).transpose(1, 2)
        return self.head(x).square().mean(1)

    return net(
        forward,
        stem=nn.Linear(12, 10),
        mix=nn.Linear(5, 7),
        back=nn.Linear(7, 6),
        head=nn.Linear(10, 4),
    )


@case(tokens(5, 12), cuts="stem mix", frozen="head")
def mixing_of_tokens_without_bias():
    def forward(self, x):
        x = F.relu(self.stem(x)).transpose(1, 2)
        x = self.back(F.relu(self.mix(x))).transpose(1, 2)
        return self.head(x.mean(1))

    return net(
        forward,
        stem=nn.Linear(12, 10),
        mix=nn.Linear(5, 7, bias=False),
        back=nn.Linear(7, 6, bias=False),
        head=nn.Linear(10, 4),
    )


@case(lambda: (torch.randn(2, 5, 12), torch.rand(2, 5, 5)), cuts="fc1 fc2", frozen="head")
def graph_convolution():
    def forward(self, x, edges):
        edges = edges / edges.sum(-1, keepdim=True)
        x = F.relu(edges @ self.fc1(x))
        x = F.relu(self.fc2(edges @ x))
        return self.head(x.sum(1))

    return body(forward)


@case(
    lambda: (torch.randn(5, 12), torch.randint(5, (2, 9))),
    cuts="fc1 fc2",
    frozen="head",
    tags="hard",
)
def message_passing():
    def forward(self, x, edges):
        source, target = edges
        x = F.relu(self.fc1(x))
        x = x + torch.zeros_like(x).index_add_(0, target, x[source])
        return self.head(F.relu(self.fc2(x)))

    return body(forward)


@case(lambda: (torch.randn(2, 5, 12), torch.ones(2, 5)), cuts="fc1 fc2", frozen="head")
def masked_mean_of_tokens():
    def forward(self, x, mask):
        x = F.relu(self.fc1(x)) * mask.unsqueeze(-1)
        x = x.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return self.head(F.relu(self.fc2(x)))

    return body(forward)


@case(ids(), cuts="embed fc1", frozen="head")
def embedding():
    def forward(self, x):
        return self.head(F.relu(self.fc1(self.embed(x).mean(1))))

    return net(
        forward,
        embed=nn.Embedding(20, 12, padding_idx=0),
        fc1=nn.Linear(12, 10),
        head=nn.Linear(10, 4),
    )


@case(ids(), cuts="embed fc1", frozen="head", tags="hard")
def embedding_bag():
    def forward(self, x):
        return self.head(F.relu(self.fc1(self.embed(x))))

    return net(
        forward,
        embed=nn.EmbeddingBag(20, 12, mode="sum"),
        fc1=nn.Linear(12, 10),
        head=nn.Linear(10, 4),
    )


@case(ids(), cuts="embed fc1", frozen="head", tags="hard")
def one_hot_times_a_table():
    def forward(self, x):
        x = F.one_hot(x, 20).to(self.embed.weight.dtype)
        return self.head(F.relu(self.fc1(self.embed(x).mean(1))))

    return net(
        forward,
        embed=nn.Linear(20, 12, bias=False),
        fc1=nn.Linear(12, 10),
        head=nn.Linear(10, 4),
    )


@case(lambda: (ids()(), ids(6, 2)()), cuts="word fc1", frozen="head", together="word place kind")
def tables_summed():
    def forward(self, x, kind):
        place = torch.arange(x.shape[1], device=x.device)
        x = self.word(x) + self.place(place) + self.kind(kind)
        return self.head(F.relu(self.fc1(x)).mean(1))

    return net(
        forward,
        word=nn.Embedding(20, 12),
        place=nn.Embedding(8, 12),
        kind=nn.Embedding(2, 12),
        fc1=nn.Linear(12, 10),
        head=nn.Linear(10, 4),
    )


@case(ids(), cuts="fc1", frozen="head")
def table_of_places_as_a_parameter():  # one's own tensor: may count as a producer, or not
    def forward(self, x):
        x = self.embed(x) + self.place[: x.shape[1]]
        return self.head(F.relu(self.fc1(x)).mean(1))

    return net(
        forward,
        embed=nn.Embedding(20, 12),
        place=param(8, 12),
        fc1=nn.Linear(12, 10),
        head=nn.Linear(10, 4),
    )


@case(
    lambda: torch.randint(9, (2, 3)),
    cuts="bottom top",
    frozen="head",
    together="bottom tables.1 tables.2",
    tags="hard",
)
def interaction_of_tables():
    def forward(self, x):
        parts = [table(x[:, i]) for i, table in enumerate(self.tables)]
        dense = F.relu(self.bottom(parts[0]))
        x = torch.stack([dense, *parts[1:]], 1)  # (batch, 3, width)
        pairs = (x @ x.transpose(1, 2)).flatten(1)
        return self.head(F.relu(self.top(torch.cat([pairs, dense], 1))))

    return net(
        forward,
        tables=nn.ModuleList(nn.Embedding(9, 8) for _ in range(3)),
        bottom=nn.Linear(8, 8),
        top=nn.Linear(17, 10),
        head=nn.Linear(10, 4),
    )


@case(tokens(5, 12), cuts="fc1 fc2", frozen="head", tags="hard")
def lstm():
    def forward(self, x):
        x, _ = self.lstm(F.relu(self.fc1(x)))
        return self.head(F.relu(self.fc2(x[:, -1])))

    return net(
        forward,
        fc1=nn.Linear(12, 10),
        lstm=nn.LSTM(10, 8, batch_first=True),
        fc2=nn.Linear(8, 9),
        head=nn.Linear(9, 4),
    )


@case(tokens(5, 12), cuts="fc1 fc2", frozen="head", tags="hard")
def gru_both_ways():
    def forward(self, x):
        _, last = self.gru(F.relu(self.fc1(x)))
        return self.head(F.relu(self.fc2(last.transpose(0, 1).flatten(1))))

    return net(
        forward,
        fc1=nn.Linear(12, 10),
        gru=nn.GRU(10, 6, num_layers=2, bidirectional=True, batch_first=True),
        fc2=nn.Linear(24, 9),
        head=nn.Linear(9, 4),
    )


@case(tokens(5, 12), cuts="fc1", frozen="head", tags="hard")
def rnn_cell_in_a_loop():
    def forward(self, x):
        x = F.relu(self.fc1(x))
        state = x.new_zeros(x.shape[0], self.cell.hidden_size)
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.head(state)

    return net(forward, fc1=nn.Linear(12, 10), cell=nn.RNNCell(10, 8), head=nn.Linear(8, 4))


def recurrent(size):
    def forward(self, x):
        state = x.new_zeros(x.shape[0], size(self))
        for part in x.unbind(1):
            state = torch.tanh(self.enter(part) + self.again(state))
        return self.head(state)

    return net(
        forward,
        enter=nn.Linear(12, 10),
        again=nn.Linear(10, 10, bias=False),
        head=nn.Linear(10, 4),
        width=10,
    )


@case(tokens(5, 12), cuts="enter", frozen="head", together="enter again")
def recurrence_by_hand():
    return recurrent(lambda self: self.again.in_features)


@case(tokens(5, 12), cuts="enter", frozen="head", together="enter again", tags="attribute")
def recurrence_with_a_width():
    return recurrent(lambda self: self.width)


@case(tokens(5, 12), cuts="enter", frozen="head", together="enter again", program=True)
def recurrence_with_a_literal():
    return recurrent(lambda self: 10)


@case(tokens(5, 12), cuts="enter", frozen="head", together="enter again")
def gated_recurrence_by_hand():  # three gates in one layer
    def forward(self, x):
        state = x.new_zeros(x.shape[0], self.again.in_features)
        for part in x.unbind(1):
            a, b, c = self.enter(part).chunk(3, -1)
            d, e, f = self.again(state).chunk(3, -1)
            keep = torch.sigmoid(a + d)
            new = torch.tanh(c + torch.sigmoid(b + e) * f)
            state = keep * state + (1 - keep) * new
        return self.head(state)

    return net(forward, enter=nn.Linear(12, 24), again=nn.Linear(8, 24), head=nn.Linear(8, 4))


@case(
    lambda: torch.randn(2, 3, 12),
    cuts="stem filter0 filter1 skip.0",
    frozen="head",
    together=("stem residual", "filter0 gate0", "filter1 gate1", "skip.0 skip.1"),
)
def wavenet():
    def forward(self, x):
        x, total = self.stem(x), 0
        for i, layers in enumerate(((self.filter0, self.gate0), (self.filter1, self.gate1))):
            y = F.pad(x, (2**i, 0))
            y = torch.tanh(layers[0](y)) * torch.sigmoid(layers[1](y))
            total = total + self.skip[i](y)
            if i == 0:
                x = x + self.residual(y)
        return self.head(F.relu(total)).mean(-1)

    def dilated(step):
        return nn.Conv1d(6, 7, 2, dilation=step)

    return net(
        forward,
        stem=nn.Conv1d(3, 6, 1),
        filter0=dilated(1),
        gate0=dilated(1),
        filter1=dilated(2),
        gate1=dilated(2),
        skip=nn.ModuleList(nn.Conv1d(7, 9, 1) for _ in range(2)),
        residual=nn.Conv1d(7, 6, 1),
        head=nn.Conv1d(9, 4, 1),
    )
