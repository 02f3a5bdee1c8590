"""Networks of seven tasks, with data: one function makes each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Task:
    """A model in eval mode, batches of (inputs, targets), its loss, and what judges it."""

    model: nn.Module
    batches: list[tuple[Any, Any]]
    loss: Callable[[Any, Any], Tensor]
    evaluate: Callable[[nn.Module], float]
    better: str
    build: Callable[[], nn.Module]
    approximate: bool = False

    @property
    def example(self) -> Any:
        return self.batches[0][0]

    @property
    def inputs(self) -> list[Any]:
        return [x for x, _ in self.batches]


class Block(nn.Sequential):
    def __init__(self, i: int, o: int) -> None:
        super().__init__(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())


class UNet(nn.Module):
    """Three levels, transposed convolutions, cat: a class for each pixel."""

    def __init__(self, width: int = 6, classes: int = 3) -> None:
        super().__init__()
        w = width
        self.down1, self.down2, self.middle = Block(1, w), Block(w, 2 * w), Block(2 * w, 4 * w)
        self.up2, self.merge2 = nn.ConvTranspose2d(4 * w, 2 * w, 2, stride=2), Block(4 * w, 2 * w)
        self.up1, self.merge1 = nn.ConvTranspose2d(2 * w, w, 2, stride=2), Block(2 * w, w)
        self.out = nn.Conv2d(w, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        m = self.middle(F.max_pool2d(b, 2))
        y = self.merge2(torch.cat([self.up2(m), b], 1))
        return self.out(self.merge1(torch.cat([self.up1(y), a], 1)))


class Regressor(nn.Sequential):
    """BatchNorm, SiLU and dropout; one number."""

    def __init__(self) -> None:
        parts: list[nn.Module] = []
        for i, o in ((10, 32), (32, 32)):
            parts += [nn.Linear(i, o), nn.BatchNorm1d(o), nn.SiLU(), nn.Dropout(0.1)]
        super().__init__(*parts, nn.Linear(32, 1))


class Waves(nn.Module):
    """Residual 1-D convolutions; six classes of waves."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv1d(1, width, 5, padding=2), nn.BatchNorm1d(width), nn.ReLU()
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv1d(width, width, 3, padding=1), nn.BatchNorm1d(width), nn.ReLU(),
                          nn.Conv1d(width, width, 3, padding=1), nn.BatchNorm1d(width))
            for _ in range(2)
        )  # fmt: skip
        self.out = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.out(x.mean(-1))


class Recurrent(nn.Module):
    """A GRU that is read at its last step, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.hidden, self.out = (
            nn.GRU(3, 8, batch_first=True),
            nn.Linear(8, 16),
            nn.Linear(16, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(x)
        return self.out(torch.relu(self.hidden(y[:, -1])))


class GPT(nn.Module):
    """nanoGPT in small: sizes written into Python, a head tied to the embedding."""

    def __init__(
        self, vocabulary: int = 12, width: int = 16, heads: int = 2, layers: int = 2
    ) -> None:
        super().__init__()
        self.n_embd = width
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(16, width)
        self.blocks = nn.ModuleList(GPTBlock(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class GPTBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.n_embd = heads, width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(self.n_embd, dim=2)
        q, k, v = (p.view(n, t, self.heads, c // self.heads).transpose(1, 2) for p in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).contiguous().view(n, t, c))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Several(nn.Module):
    """An image and numbers by name; two outputs by name, a class and a size."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Sequential(Block(1, 6), nn.Conv2d(6, 8, 3), nn.ReLU())
        self.read = nn.Sequential(nn.Linear(5, 12), nn.ReLU())
        self.both = nn.Linear(8 + 12, 16)
        self.kind, self.size = nn.Linear(16, 3), nn.Linear(16, 1)

    def forward(self, image: Tensor, numbers: Tensor) -> dict[str, Tensor]:
        x = torch.cat([self.see(image).mean((2, 3)), self.read(numbers)], 1)
        x = torch.relu(self.both(x))
        return {"kind": self.kind(x), "size": self.size(x)}


class SentenceEncoder(nn.Module):
    """Two layers of a transformer, and the mean over the tokens that are no padding."""

    def __init__(self, vocabulary: int = 20, width: int = 16, out: int = 8) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.layers = nn.ModuleList(EncoderLayer(width) for _ in range(2))
        self.out = nn.Linear(width, out)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x, mask = self.tokens(input_ids), attention_mask[:, :, None].to(torch.float32)
        for layer in self.layers:
            x = layer(x, attention_mask)
        return F.normalize(self.out((x * mask).sum(1) / mask.sum(1)), dim=-1)


class EncoderLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.att = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        y, _ = self.att(x, x, x, key_padding_mask=attention_mask == 0, need_weights=False)
        x = self.norm1(x + y)
        return self.norm2(x + self.down(F.gelu(self.up(x))))


def run(model: nn.Module, x: Any) -> Any:
    """Return the outputs of a model: inputs by name are passed by name."""
    return model(**x) if isinstance(x, dict) else model(x)


def trained(model: nn.Module, batches: list, loss: Callable, steps: int = 60) -> nn.Module:
    """Return the model after a few steps: its weights mean something."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    for step in range(steps):
        x, y = batches[step % len(batches)]
        optimizer.zero_grad()
        loss(run(model, x), y).backward()
        optimizer.step()
    return model.eval()


def of_tokens(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def of_both(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    off = F.mse_loss(outputs["size"], targets["size"])
    return F.cross_entropy(outputs["kind"], targets["kind"]) + off


def of_directions(found: Tensor, wanted: Tensor) -> Tensor:
    return (1 - (found * wanted).sum(-1)).mean()


def mean_loss(batches: list, loss: Callable) -> Callable[[nn.Module], float]:
    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            return float(sum(loss(run(model, x), y) for x, y in batches) / len(batches))

    return evaluate


def quarters(data: Any) -> list[Any]:
    if isinstance(data, dict):
        parts = zip(*map(quarters, data.values()), strict=True)
        return [dict(zip(data, part, strict=True)) for part in parts]
    return list(data.split(len(data) // 4))


def task(name: str) -> Task:
    """Return a task by its name."""
    g = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    if name == "segmentation":
        x = torch.randn(48, 1, 8, 8, generator=g)
        y = (F.avg_pool2d(x, 3, 1, 1)[:, 0] * 3).clamp(-1, 1).round().long() + 1
        build, loss = UNet, F.cross_entropy
    elif name == "regression":
        x = torch.rand(200, 10, generator=g)
        y = (10 * torch.sin(torch.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
             + 10 * x[:, 3] + 5 * x[:, 4])[:, None] / 5  # fmt: skip
        build, loss = Regressor, F.mse_loss
    elif name == "waves":
        y = torch.arange(96) % 6
        t = torch.linspace(0, 6.28, 32)
        x = torch.sin(t * (y[:, None] + 1)) + 0.3 * torch.randn(96, 32, generator=g)
        x = x[:, None]
        build, loss = Waves, F.cross_entropy
    elif name == "recurrent":
        x = torch.randn(96, 6, 3, generator=g)
        y = x.sum((1, 2)).mul(0.5).clamp(-1.5, 1.49).add(2).long()
        build, loss = Recurrent, F.cross_entropy
    elif name == "several":
        numbers = torch.randn(160, 5, generator=g)
        x = {"image": torch.randn(160, 1, 8, 8, generator=g) + numbers[:, :1, None, None],
             "numbers": numbers}  # fmt: skip
        y = {"kind": (numbers[:, 0] > 0).long() + (numbers[:, 1] > 0).long(),
             "size": numbers[:, 2:].abs().sum(1, keepdim=True)}  # fmt: skip
        build, loss = Several, of_both
    elif name == "embedding":  # of another encoder, as in distillation: there are no labels
        ids = torch.randint(1, 20, (160, 7), generator=g)
        ids = ids * (torch.arange(7) < torch.randint(3, 8, (160, 1), generator=g))
        x = {"input_ids": ids, "attention_mask": (ids > 0).long()}
        table = torch.randn(20, 8, generator=g)
        y = F.normalize((table[ids] * (ids > 0)[:, :, None]).sum(1), dim=-1)
        build, loss = SentenceEncoder, of_directions
    else:
        ids = torch.randint(0, 12, (64, 9), generator=g)
        ids[:, 1::2] = (ids[:, 0::2][:, :4] * 5 + 3) % 12
        x, y = ids[:, :-1], ids[:, 1:]
        build, loss = GPT, of_tokens
    batches = list(zip(quarters(x), quarters(y), strict=True))
    model = trained(build(), batches, loss)
    return Task(model, batches, loss, mean_loss(batches, loss), "lower", build,
                name in ("language", "embedding"))  # fmt: skip


NAMES = ["segmentation", "regression", "waves", "recurrent", "language", "several", "embedding"]
LABELS = ["segmentation", "waves", "recurrent", "language"]  # of classes: an accuracy is known
