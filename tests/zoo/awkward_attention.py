"""Attention, its relatives and token mixing, each awkward in one way."""

import torch
import torch.nn.functional as F
from torch import nn

from .case import Case, gap, ids, image, net, param, register, tokens

CASES: list[Case] = []
case = register(CASES)


def split(x, dim=4):
    """(batch, tokens, heads * dim) to (batch, heads, tokens, dim)."""
    return x.unflatten(-1, (-1, dim)).transpose(1, 2)


def attend(q, k, v):
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def attention(forward, q=16, k=16, v=16, **parts):
    """Return q, k, v (each reads 16), proj (back to 16) and a head; `forward` mixes the tokens."""

    def whole(self, x):
        return self.head(F.relu(self.proj(forward(self, self.q(x), self.k(x), self.v(x)))).mean(1))

    widths = {"q": q, "k": k, "v": v}
    layers = {name: nn.Linear(16, width) for name, width in widths.items()}
    return net(whole, **layers, proj=nn.Linear(q, 16), head=nn.Linear(16, 4), **parts)


QKV = {"cuts": "q k v proj", "frozen": "head", "together": "q k v"}


@case(tokens(), **QKV)
def attention_by_hand():
    return attention(lambda self, q, k, v: attend(split(q), split(k), split(v)))


@case(tokens(), cuts="q k v", frozen="head", together="q k v", program=True)
def attention_with_literal_heads():  # two heads of eight would run, and be wrong
    def forward(self, q, k, v):
        b, n, _ = q.shape
        q, k, v = (x.view(b, n, 4, -1).transpose(1, 2) for x in (q, k, v))
        return attend(q, k, v)

    return attention(forward)


@case(tokens(), **QKV, tags="attribute")
def attention_with_heads_attribute():
    def forward(self, q, k, v):
        b, n, _ = q.shape
        q, k, v = (x.view(b, n, self.heads, -1).transpose(1, 2) for x in (q, k, v))
        return attend(q, k, v)

    return attention(forward, heads=4)


@case(tokens(), **QKV, tags="attribute")
def attention_with_width_attribute():
    def forward(self, q, k, v):
        b, n, _ = q.shape
        q, k, v = (x.view(b, n, -1, self.dim).transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).contiguous().view(b, n, self.width)

    return attention(forward, dim=4, width=16)


@case(tokens(), **QKV)
def attention_sdpa():
    def forward(self, q, k, v):
        y = F.scaled_dot_product_attention(split(q), split(k), split(v), is_causal=True)
        return y.transpose(1, 2).flatten(2)

    return attention(forward)


@case(tokens(), **QKV, tags="hard")
def attention_merged_into_the_batch():  # (batch * heads, tokens, dim), as in BERT's elders
    def forward(self, q, k, v):
        b, n, _ = q.shape
        q, k, v = (split(x).reshape(-1, n, 4) for x in (q, k, v))
        y = torch.bmm((torch.bmm(q, k.transpose(1, 2)) * 0.5).softmax(-1), v)
        return y.view(b, -1, n, 4).transpose(1, 2).reshape(b, n, -1)

    return attention(forward)


@case(tokens(), **QKV)
def attention_by_einsum():
    def forward(self, q, k, v):
        q, k, v = (x.unflatten(-1, (-1, 4)) for x in (q, k, v))
        weights = (torch.einsum("bnhd,bmhd->bhnm", q, k) / 2).softmax(-1)
        return torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2)

    return attention(forward)


@case(tokens(), **QKV)
def attention_causal():
    def forward(self, q, k, v):
        q, k, v = split(q), split(k), split(v)
        n = q.shape[2]
        weights = q @ k.transpose(-2, -1) / 2
        weights = weights.masked_fill(~self.seen[:n, :n], float("-inf")).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    return attention(forward, seen=torch.ones(8, 8).tril().bool())


@case(tokens(), **QKV)
def attention_temperature_of_each_head():
    def forward(self, q, k, v):
        q, k = F.normalize(split(q), dim=-1), F.normalize(split(k), dim=-1)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return (weights @ split(v)).transpose(1, 2).flatten(2)

    return attention(forward, scale=nn.Parameter(torch.rand(4, 1, 1) * 5))


@case(tokens(), **QKV)
def attention_slope_of_each_head():
    def forward(self, q, k, v):
        place = torch.arange(q.shape[1], device=q.device, dtype=q.dtype)
        bias = -(place[:, None] - place).abs() * self.slopes[:, None, None]
        weights = split(q) @ split(k).transpose(-2, -1) / 2 + bias
        return (weights.softmax(-1) @ split(v)).transpose(1, 2).flatten(2)

    return attention(forward, slopes=0.5 ** torch.arange(4.0))


@case(tokens(), **QKV)
def attention_table_of_distances():
    def forward(self, q, k, v):
        n = q.shape[1]
        bias = self.table[self.index[:n, :n]].permute(2, 0, 1)
        weights = split(q) @ split(k).transpose(-2, -1) / 2 + bias
        return (weights.softmax(-1) @ split(v)).transpose(1, 2).flatten(2)

    place = torch.arange(6)
    return attention(forward, table=param(11, 4), index=place[:, None] - place + 5)


@case(tokens(), **QKV)
def attention_normed_queries():
    def forward(self, q, k, v):
        return attend(self.q_norm(split(q)), self.k_norm(split(k)), split(v))

    return attention(forward, q_norm=nn.LayerNorm(4), k_norm=nn.RMSNorm(4))


def turn(x):
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)


@case(tokens(), **QKV)
def attention_rotary():
    def forward(self, q, k, v):
        n = q.shape[1]
        cos, sin = self.angles[:n].cos(), self.angles[:n].sin()
        q, k = (x * cos + turn(x) * sin for x in (split(q), split(k)))
        return attend(q, k, split(v))

    angles = torch.outer(torch.arange(8.0), torch.tensor([1.0, 0.1]))
    return attention(forward, angles=torch.cat([angles, angles], -1))


@case(tokens(), cuts="q k v proj", frozen="head", together=("q k", "v talk"), tags="hard")
def attention_talking_heads():
    def forward(self, q, k, v):
        weights = split(q) @ split(k).transpose(-2, -1) / 2
        weights = self.talk(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return (weights.softmax(-1) @ split(v)).transpose(1, 2).flatten(2)

    return attention(forward, talk=nn.Linear(4, 4))


@case(tokens(), **QKV)
def attention_linear():
    def forward(self, q, k, v):
        q, k, v = F.elu(split(q)) + 1, F.elu(split(k)) + 1, split(v)
        seen = k.transpose(-2, -1) @ v
        total = q @ k.sum(2).unsqueeze(-1)
        return (q @ seen / total).transpose(1, 2).flatten(2)

    return attention(forward)


@case(tokens(), **QKV)
def attention_over_channels():  # of each head (XCiT): the softmax runs within a head
    def forward(self, q, k, v):
        q, k, v = (split(x).transpose(-2, -1) for x in (q, k, v))  # (batch, heads, dim, tokens)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
        return (weights @ v).permute(0, 3, 1, 2).flatten(2)

    return attention(forward)


@case(tokens(), cuts="proj", frozen="head")
def attention_of_one_head():  # one unit, which cannot go
    return attention(lambda self, q, k, v: F.scaled_dot_product_attention(q, k, v))


@case(tokens(), cuts="proj", frozen="head")
def attention_of_one_key():
    def forward(self, q, k, v):
        return attend(split(q), split(k), split(v))

    return attention(forward, k=4, v=4)


@case(tokens(), **QKV)
def grouped_query_by_interleave():
    def forward(self, q, k, v):
        k, v = (split(x).repeat_interleave(2, 1) for x in (k, v))
        return attend(split(q), k, v)

    return attention(forward, k=8, v=8)


@case(tokens(), **QKV)
def grouped_query_by_expand():
    def forward(self, q, k, v):
        b, n, _ = q.shape
        k, v = (split(x)[:, :, None].expand(-1, -1, 2, -1, -1).reshape(b, -1, n, 4) for x in (k, v))
        return attend(split(q), k, v)

    return attention(forward, k=8, v=8)


@case(tokens(), **QKV)
def grouped_query_by_broadcast():
    def forward(self, q, k, v):
        q = split(q).unflatten(1, (-1, 2))  # (batch, groups, 2, tokens, dim)
        k, v = split(k).unsqueeze(2), split(v).unsqueeze(2)
        y = (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v
        return y.flatten(1, 2).transpose(1, 2).flatten(2)

    return attention(forward, k=8, v=8)


@case(tokens(), **QKV, tags="hard")
def grouped_query_by_sdpa():
    def forward(self, q, k, v):
        y = F.scaled_dot_product_attention(split(q), split(k), split(v), enable_gqa=True)
        return y.transpose(1, 2).flatten(2)

    return attention(forward, k=8, v=8)


def fused(forward, **parts):
    """Return qkv (16 to 48), proj and a head; `forward` mixes the tokens."""

    def whole(self, x):
        return self.head(F.relu(self.proj(forward(self, self.qkv(x), x))).mean(1))

    layers = {"qkv": nn.Linear(16, 48), "proj": nn.Linear(16, 16), "head": nn.Linear(16, 4)}
    return net(whole, **layers, **parts)


@case(tokens(), cuts="qkv proj", frozen="head", tags="attribute")
def fused_by_reshape():
    def forward(self, y, x):
        b, n, _ = x.shape
        q, k, v = y.reshape(b, n, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1)

    return fused(forward, heads=4, dim=4)


@case(tokens(), cuts="qkv", frozen="head", program=True)
def fused_with_one_size_from_another():
    def forward(self, y, x):
        b, n, c = x.shape
        q, k, v = y.reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q * self.scale @ k.transpose(-2, -1)).softmax(-1)
        return (weights @ v).transpose(1, 2).reshape(b, n, c)

    return fused(forward, heads=4, scale=0.5)


@case(tokens(), cuts="qkv proj", frozen="head")
def fused_by_chunk():
    def forward(self, y, x):
        return attend(*(split(part) for part in y.chunk(3, -1)))

    return fused(forward)


@case(tokens(), cuts="qkv proj", frozen="head", tags="attribute")
def fused_by_split():
    def forward(self, y, x):
        return attend(*(split(part) for part in y.split(self.width, -1)))

    return fused(forward, width=16)


@case(tokens(), cuts="qkv proj", frozen="head")
def fused_head_first():  # (heads, 3, dim), as in GPT-NeoX and BLOOM
    def forward(self, y, x):
        q, k, v = y.unflatten(-1, (-1, 12)).transpose(1, 2).chunk(3, -1)
        return attend(q, k, v)

    return fused(forward)


@case(tokens(), cuts="qkv proj", frozen="head")
def fused_dim_first():  # (3, dim, heads): a head's rows lie apart
    def forward(self, y, x):
        b, n, _ = x.shape
        q, k, v = y.view(b, n, 3, 4, -1).permute(2, 0, 4, 1, 3).unbind(0)
        return (((q @ k.transpose(-2, -1)) / 2).softmax(-1) @ v).permute(0, 2, 3, 1).flatten(2)

    return fused(forward)


@case(tokens(), cuts="attend proj", frozen="head", tags="hard")
def attention_in_tensors_of_heads():
    def heads(self, x):
        q, k, v = (torch.einsum("bnc,hdc->bhnd", x, w) for w in (self.q, self.k, self.v))
        weights = (torch.einsum("bhnd,bhmd->bhnm", q, k) / 2).softmax(-1)
        return torch.einsum("bhnm,bhmd->bnhd", weights, v).flatten(2)

    def forward(self, x):
        return self.head(F.relu(self.proj(self.attend(x))).mean(1))

    parts = {name: param(4, 4, 16) for name in ("q", "k", "v")}
    return net(
        forward,
        attend=net(heads, **parts),
        proj=nn.Linear(16, 12),
        head=nn.Linear(12, 4),
    )


@case(lambda: (tokens()(), tokens(5, 10)()), **QKV)
def attention_across():
    def forward(self, x, y):
        y = attend(split(self.q(x)), split(self.k(y)), split(self.v(y)))
        return self.head(F.relu(self.proj(y)).mean(1))

    layers = {"q": (16, 16), "k": (10, 16), "v": (10, 16), "proj": (16, 12), "head": (12, 4)}
    return net(forward, **{name: nn.Linear(*size) for name, size in layers.items()})


@case(tokens(), **QKV)
def attention_with_learned_queries():
    def forward(self, x):
        q = self.q(self.latents).expand(x.shape[0], -1, -1)
        y = attend(split(q), split(self.k(x)), split(self.v(x)))
        return self.head(F.relu(self.proj(y)).mean(1))

    layers = {"q": (9, 16), "k": (16, 16), "v": (16, 16), "proj": (16, 12), "head": (12, 4)}
    layers = {name: nn.Linear(*size) for name, size in layers.items()}
    return net(forward, **layers, latents=param(3, 9))


@case(tokens(), cuts="fc1 hidden", frozen="head")
def attention_pooling():
    def forward(self, x):
        x = F.relu(self.fc1(x))
        weights = self.score(torch.tanh(self.hidden(x))).softmax(1)
        return self.head((weights * x).sum(1))

    return net(
        forward,
        fc1=nn.Linear(16, 12),
        hidden=nn.Linear(12, 6),
        score=nn.Linear(6, 1),
        head=nn.Linear(12, 4),
    )


@case(image(), cuts="conv value", frozen="fc", together="conv out")
def non_local_block():
    def forward(self, x):
        x = F.relu(self.conv(x))
        q, k, v = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        weights = (q.transpose(1, 2) @ k * 0.5).softmax(-1)
        y = (v @ weights.transpose(1, 2)).view(x.shape[0], -1, *x.shape[2:])
        return self.fc(gap(F.relu(x + self.out(y))))

    return net(
        forward,
        conv=nn.Conv2d(3, 8, 3, stride=2),
        query=nn.Conv2d(8, 4, 1),
        key=nn.Conv2d(8, 4, 1),
        value=nn.Conv2d(8, 6, 1),
        out=nn.Conv2d(6, 8, 1),
        fc=nn.Linear(8, 4),
    )


def library(forward, **parts):
    return net(forward, stem=nn.Linear(16, 16), head=nn.Linear(16, 4), **parts)


def self_attention(**options):
    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.head(F.relu(self.attn(x, x, x, need_weights=False)[0]).mean(1))

    return library(forward, attn=nn.MultiheadAttention(16, 4, batch_first=True, **options))


@case(tokens(), cuts="attn", frozen="head", program=True)
def multihead_attention():
    return self_attention()


@case(tokens(), frozen="head")
def multihead_attention_with_extra_tokens():
    return self_attention(add_bias_kv=True, add_zero_attn=True)


@case(tokens(), cuts="attn", frozen="head", program=True)
def multihead_attention_tokens_first():
    def forward(self, x):
        x = F.relu(self.stem(x)).transpose(0, 1)
        return self.head(F.relu(self.attn(x, x, x)[0]).mean(0))

    return library(forward, attn=nn.MultiheadAttention(16, 4, bias=False))


@case(lambda: (tokens()(), tokens(5, 10)()), cuts="attn", frozen="head", program=True)
def multihead_attention_across():
    def forward(self, x, y):
        x, y = F.relu(self.stem(x)), F.relu(self.memory(y))
        return self.head(F.relu(self.attn(x, y, y)[0]).mean(1))

    attn = nn.MultiheadAttention(16, 4, kdim=12, vdim=12, batch_first=True)
    return library(forward, attn=attn, memory=nn.Linear(10, 12))


def encoder(**options):
    def forward(self, x):
        return self.head(self.layer(self.stem(x)).mean(1))

    options = {"batch_first": True, **options}
    return library(forward, layer=nn.TransformerEncoderLayer(16, 4, 24, 0.1, **options))


@case(tokens(), cuts="layer.linear1", frozen="head")
def encoder_layer_norm_last():
    return encoder()


@case(tokens(), cuts="layer.linear1", frozen="head")
def encoder_layer_norm_first():
    return encoder(norm_first=True, activation="gelu")


@case(tokens(), cuts="layer.self_attn", frozen="head", program=True)
def encoder_layer_heads():
    return encoder(norm_first=True)


@case(tokens(), cuts="layer.layers.0.linear1 layer.layers.1.linear1", frozen="head")
def encoder_of_two_layers():
    def forward(self, x):
        seen = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.head(self.layer(self.stem(x), mask=seen, is_causal=True).mean(1))

    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
    layer = nn.TransformerEncoder(layer, 2, nn.LayerNorm(16), enable_nested_tensor=False)
    return library(forward, layer=layer)


@case(lambda: (tokens()(), tokens(5)()), cuts="layer.linear1", frozen="head")
def decoder_layer():
    def forward(self, x, memory):
        return self.head(self.layer(self.stem(x), memory).mean(1))

    return library(forward, layer=nn.TransformerDecoderLayer(16, 4, 24, batch_first=True))


def block(width=16, hidden=24):
    """Return a transformer's block; heads of four."""

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.proj(attend(*(split(part) for part in self.qkv(y).chunk(3, -1))))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    return net(
        forward,
        norm1=nn.LayerNorm(width),
        qkv=nn.Linear(width, 3 * width),
        proj=nn.Linear(width, width),
        norm2=nn.LayerNorm(width),
        fc1=nn.Linear(width, hidden),
        fc2=nn.Linear(hidden, width),
    )


@case(
    image(),
    cuts="blocks.0.qkv blocks.0.fc1 blocks.1.qkv blocks.1.fc1",
    approximate="patch blocks.0.proj blocks.1.fc2",
    frozen="head",
    together="patch blocks.0.proj blocks.0.fc2 blocks.1.proj blocks.1.fc2",
)
def vision_transformer():
    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.place
        for layer in self.blocks:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])

    return net(
        forward,
        patch=nn.Conv2d(3, 16, 4, stride=4),
        cls=param(1, 1, 16),
        place=param(1, 5, 16),
        blocks=nn.ModuleList([block(), block()]),
        norm=nn.LayerNorm(16),
        head=nn.Linear(16, 4),
    )


@case(
    ids(),
    cuts="block.qkv block.fc1",
    approximate="words",
    frozen="head",
    together="words places block.proj block.fc2",
)
def language_model_with_tied_head():
    def forward(self, x):
        places = torch.arange(x.shape[1], device=x.device)
        x = self.block(self.words(x) + self.places(places))
        return self.head(self.norm(x))

    words, head = nn.Embedding(20, 16), nn.Linear(16, 20, bias=False)
    head.weight = words.weight
    return net(
        forward,
        words=words,
        places=nn.Embedding(8, 16),
        block=block(),
        norm=nn.LayerNorm(16),
        head=head,
    )


@case(
    ids(),
    cuts="q gate",
    approximate="words",
    frozen="head",
    together=("words proj down", "q k v", "gate up"),
)
def llama_block():
    def forward(self, x):
        x = self.words(x)
        y = self.norm1(x)
        k, v = (split(layer(y)).repeat_interleave(2, 1) for layer in (self.k, self.v))
        x = x + self.proj(attend(split(self.q(y)), k, v))
        y = self.norm2(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.head(self.norm(x))

    layers = {"q": 16, "k": 8, "v": 8, "proj": 16, "gate": 24, "up": 24, "head": 20}
    layers = {name: nn.Linear(16, width, bias=False) for name, width in layers.items()}
    norms = {name: nn.RMSNorm(16) for name in ("norm1", "norm2", "norm")}
    down = nn.Linear(24, 16, bias=False)
    return net(forward, words=nn.Embedding(20, 16), down=down, **layers, **norms)


@case(tokens(), cuts="stem qkv fc1", frozen="head", together="stem proj fc2")
def parallel_block_without_norm():
    def forward(self, x):
        x = self.stem(x)
        y = attend(*(split(part) for part in self.qkv(x).chunk(3, -1)))
        x = x + self.proj(y) + self.fc2(F.gelu(self.fc1(x)))
        return self.head(x.mean(1))

    layers = {"stem": (16, 12), "qkv": (12, 48), "proj": (16, 12), "fc1": (12, 20)}
    layers |= {"fc2": (20, 12), "head": (12, 4)}
    return net(forward, **{name: nn.Linear(*size) for name, size in layers.items()})


def windows(x, size):
    b, h, w, c = x.shape
    x = x.view(b, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)


@case(image(), cuts="qkv", approximate="patch", frozen="head", together="patch proj")
def shifted_windows():
    def forward(self, x):
        x = self.patch(x).permute(0, 2, 3, 1)  # (batch, 4, 4, 16)
        b, h, w, _ = x.shape
        y = windows(torch.roll(self.norm(x), (-1, -1), (1, 2)), 2)
        q, k, v = (split(part) for part in self.qkv(y).chunk(3, -1))
        bias = self.table[self.index.flatten()].view(4, 4, -1).permute(2, 0, 1)
        y = self.proj(
            ((q @ k.transpose(-2, -1) / 2 + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)
        )
        y = y.view(b, h // 2, w // 2, 2, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, -1)
        return self.head((x + torch.roll(y, (1, 1), (1, 2))).mean((1, 2)))

    return net(
        forward,
        patch=nn.Conv2d(3, 16, 2, stride=2),
        norm=nn.LayerNorm(16),
        qkv=nn.Linear(16, 48),
        table=param(9, 4),
        index=torch.randint(9, (4, 4)),
        proj=nn.Linear(16, 16),
        head=nn.Linear(16, 4),
    )


@case(image(), cuts="reduce", approximate="patch", frozen="head", tags="may-refuse")
def patch_merging():
    def forward(self, x):
        x = self.patch(x).permute(0, 2, 3, 1)
        x = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        x = self.reduce(self.norm(torch.cat(x, -1)))
        return self.head(F.gelu(x).mean((1, 2)))

    return net(
        forward,
        patch=nn.Conv2d(3, 8, 2, stride=2),
        norm=nn.LayerNorm(32),
        reduce=nn.Linear(32, 14, bias=False),
        head=nn.Linear(14, 4),
    )


@case(
    image(),
    cuts="fc1",
    approximate="stem depthwise fc2",
    frozen="head",
    together="stem depthwise fc2",
)
def convnext_block():
    def forward(self, x):
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.fc2(F.gelu(self.fc1(y)))
        return self.head(gap(x + y.permute(0, 3, 1, 2)))

    return net(
        forward,
        stem=nn.Conv2d(3, 12, 2, stride=2),
        depthwise=nn.Conv2d(12, 12, 3, padding=1, groups=12),
        norm=nn.LayerNorm(12),
        fc1=nn.Linear(12, 20),
        fc2=nn.Linear(20, 12),
        gamma=nn.Parameter(torch.full((12,), 0.5)),
        head=nn.Linear(12, 4),
    )


@case(tokens(), cuts="token1 fc1", approximate="stem", frozen="head token2", tags="may-refuse")
def mlp_mixer():
    def forward(self, x):
        x = self.stem(x)
        y = self.token2(F.gelu(self.token1(self.norm1(x).transpose(1, 2))))
        x = x + y.transpose(1, 2)
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(self.norm(x).mean(1))

    norms = {name: nn.LayerNorm(12) for name in ("norm1", "norm2", "norm")}
    layers = {"stem": (16, 12), "token1": (6, 8), "token2": (8, 6), "fc1": (12, 20)}
    layers |= {"fc2": (20, 12), "head": (12, 4)}
    return net(forward, **norms, **{name: nn.Linear(*size) for name, size in layers.items()})


def gated_mlp(norm):
    def forward(self, x):
        u, v = F.gelu(self.fc1(x)).chunk(2, -1)
        v = self.mix(self.norm(v).transpose(1, 2)).transpose(1, 2)
        return self.head((self.fc2(u * v)).mean(1))

    return net(
        forward,
        fc1=nn.Linear(16, 24),
        norm=norm,
        mix=nn.Linear(6, 6),
        fc2=nn.Linear(12, 10),
        head=nn.Linear(10, 4),
    )


@case(tokens(), cuts="fc1 fc2", frozen="head mix")
def gated_mlp_without_norm():
    return gated_mlp(nn.Identity())


@case(tokens(), cuts="fc2", approximate="fc1", frozen="head mix")
def gated_mlp_with_norm():
    return gated_mlp(nn.LayerNorm(12))


@case(tokens(), cuts="enter leave", frozen="head", together="enter conv step")
def selective_scan():
    def forward(self, x):
        x, gate = self.enter(x).chunk(2, -1)
        n = x.shape[1]
        x = F.silu(self.conv(x.transpose(1, 2))[..., :n].transpose(1, 2))
        rank, b, c = self.select(x).split([2, 3, 3], -1)
        step = F.softplus(self.step(rank)).unsqueeze(-1)  # (batch, tokens, width, 1)
        keep, put = torch.exp(-step * self.decay.exp()), step * b.unsqueeze(2) * x.unsqueeze(-1)
        state, seen = torch.zeros_like(put[:, 0]), []
        for t in range(n):
            state = keep[:, t] * state + put[:, t]
            seen.append((state * c[:, t, None]).sum(-1))
        y = torch.stack(seen, 1) + x * self.skip
        return self.head(F.relu(self.leave(y * F.silu(gate))).mean(1))

    return net(
        forward,
        enter=nn.Linear(16, 20),
        conv=nn.Conv1d(10, 10, 3, padding=2, groups=10),
        select=nn.Linear(10, 8, bias=False),
        step=nn.Linear(2, 10),
        decay=param(10, 3),
        skip=param(10),
        leave=nn.Linear(10, 12),
        head=nn.Linear(12, 4),
    )


@case(tokens(), cuts="stem key receive", frozen="head", together="receive value")
def time_mix():  # RWKV's channel mixing: a shift in time and a squared relu
    def forward(self, x):
        x = torch.tanh(self.stem(x))
        last = F.pad(x, (0, 0, 1, -1))
        k = self.key(x * self.mix_k + last * (1 - self.mix_k)).relu().square()
        r = torch.sigmoid(self.receive(x * self.mix_r + last * (1 - self.mix_r)))
        return self.head((r * self.value(k)).mean(1))

    return net(
        forward,
        stem=nn.Linear(16, 12),
        mix_k=nn.Parameter(torch.rand(12)),
        mix_r=nn.Parameter(torch.rand(12)),
        key=nn.Linear(12, 20),
        value=nn.Linear(20, 12),
        receive=nn.Linear(12, 12),
        head=nn.Linear(12, 4),
    )


@case(tokens(), cuts="fc1", frozen="head", tags="hard")
def fourier_mixing_of_tokens():
    def forward(self, x):
        x = torch.fft.fft(F.relu(self.fc1(x)), dim=1).real
        return self.head(x.square().mean(1))

    return net(forward, fc1=nn.Linear(16, 12), head=nn.Linear(12, 4))
