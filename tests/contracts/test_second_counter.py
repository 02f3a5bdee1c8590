"""A second counter of MACs: ultralytics-thop. Where we differ, the reason stands in `DIFFERENCES`.

It counts by module: also what norms, pooling and activations do, which by our convention costs
nothing, so these are set to zero (`FREE`). It is a dependency of the tests alone.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pruneviz as pv
from pruneviz.lessons.models import LeNet5, LeNet300, build

thop = pytest.importorskip("thop", reason="ultralytics-thop is not installed")
transformers = pytest.importorskip("transformers")

T, N = 5, 8  # tokens or steps; width


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.depthwise = (
            nn.ConvTranspose2d(4, 6, 3, stride=2),
            nn.Conv2d(6, 12, 3, groups=6),
        )

    def forward(self, x):
        return self.depthwise(self.up(x))


class Attention(nn.Module):
    """Fewer keys than queries, and products without a layer."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(N, 3 * N)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, N // 2)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k[:, :, :3], v[:, :, :3])
        return out.flatten(1) @ out.flatten(1).T


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.PReLU(), nn.Conv2d(8, 8, 3, groups=4),
        nn.Upsample(scale_factor=2), nn.GroupNorm(2, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip


def bert():
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20,
        vocab_size=30, max_position_embeddings=8,
    )  # fmt: skip
    return transformers.BertModel(config)


def vit():
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20,
        image_size=8, patch_size=4,
    )  # fmt: skip
    return transformers.ViTModel(config)


def gpt2():
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=30, n_positions=8, bos_token_id=1, eos_token_id=1
    )
    return transformers.GPT2Model(config)


TOKENS = torch.arange(6)[None]
STEPS = torch.zeros(1, T, 6)
IMAGE = torch.zeros(1, 1, 28, 28)
MODELS = {
    "LeNet-300-100": (LeNet300, (IMAGE,)),
    "LeNet-5": (LeNet5, (IMAGE,)),
    "residual net": (lambda: build("residual-net"), (IMAGE,)),
    "convolutions": (convolutions, (torch.zeros(1, 3, 12, 12),)),
    "decoder": (Decoder, (torch.zeros(1, 4, 5, 5),)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.Flatten(), nn.Linear(32, 3)),
               (torch.zeros(1, 2, 4, 4, 4),)),
    "products": (Attention, (torch.zeros(1, T, N),)),
    "embedding": (lambda: nn.Sequential(nn.Embedding(20, 6), nn.Linear(6, 4)), (TOKENS,)),
    "BERT": (bert, (TOKENS,)),
    "ViT": (vit, (torch.zeros(1, 3, 8, 8),)),
    "GPT-2": (gpt2, (TOKENS,)),
    "attention": (lambda: nn.MultiheadAttention(N, 2, batch_first=True), (torch.zeros(1, T, N),) * 3),
    "encoder": (lambda: nn.TransformerEncoderLayer(N, 2, 16, batch_first=True), (torch.zeros(1, T, N),)),
    "LSTM": (lambda: nn.LSTM(6, N, 2, bidirectional=True, batch_first=True), (STEPS,)),
    "GRU": (lambda: nn.GRU(6, N, batch_first=True), (STEPS,)),
    "RNN": (lambda: nn.RNN(6, N, batch_first=True), (STEPS,)),
    "LSTM cell": (lambda: nn.LSTMCell(6, N), (STEPS[0],)),
    "bilinear": (lambda: nn.Bilinear(3, 4, 5), (torch.zeros(1, 3), torch.zeros(1, 4))),
}  # fmt: skip

SOFTMAX = 2 * T * (3 * T - 1)  # heads × queries × (exponentials, additions and divisions)
GPT2_LAYER = 16 * (3 * 16 + 16 + 4 * 16 + 4 * 16)  # weights of its four Conv1D
# what thop counts more (or, with a minus sign, less) than we do, for one example
DIFFERENCES = {
    # it counts the softmax of attention; ours is no product
    "attention": SOFTMAX,
    "encoder": SOFTMAX,
    # it does not know transformers' Conv1D, which calls torch.addmm
    "GPT-2": -2 * 6 * GPT2_LAYER,
    # it counts, at each step, the additions of two biases and of the products, and the gates
    "LSTM": 4 * T * 16 * N,  # two layers, two directions
    "LSTM cell": 16 * N,
    "GRU": T * 13 * N,
    "RNN": T * 3 * N,
    # it counts the second contraction as well: 4 more for each of 5 outputs
    "bilinear": 5 * 4,
}


def free(module, x, y):
    """Count nothing."""


FREE = dict.fromkeys(
    (
        nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.PReLU, nn.Upsample,
        nn.AdaptiveAvgPool2d, nn.AvgPool2d,
    ),
    free,
)  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_second_counter_counts_the_same(name):
    make, x = MODELS[name]
    model = make().eval()
    cost = pv.measure(model, x)
    assert cost.uncounted == () and cost.macs > 0
    if name == "LSTM cell":  # its example is a batch of steps, and `measure` counts one of them
        x = (x[0][:1],)
    with torch.no_grad():
        theirs, _ = thop.profile(copy.deepcopy(model), inputs=x, custom_ops=FREE, verbose=False)
    assert theirs - cost.macs == DIFFERENCES.get(name, 0)
    if len(x) == 1:  # and our own count by weight adds up to it
        frame = pv.effective_macs(model, list(x)).set_index("tensor")
        assert frame.loc["whole", "macs"] == cost.macs


def test_ten_models_agree_without_a_difference():
    assert len(MODELS.keys() - DIFFERENCES.keys()) >= 10 and DIFFERENCES.keys() <= MODELS.keys()
