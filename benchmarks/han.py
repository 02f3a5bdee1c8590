"""Han et al. 2015 on Fashion-MNIST: twelve times fewer weights, with tuning and without; schedules.

    python benchmarks/han.py lenet-300-100 lenet-5            the tables
    python benchmarks/han.py --schedules --out data/curves    schedules.csv and schedules.json

Seed 0 starts from the stored network, the others from networks that are trained first (not counted in
the seconds). The recipes were chosen on the validation images; the test images judge at the end. Tuned
towards the mean of the labels and the answers of the whole network (Hinton et al. 2015, "Distilling the
Knowledge in a Neural Network"); with --labels towards the labels alone. Without training: LAMP's balance,
then each row's weights that stay are fitted by least squares, layer by layer, on 5,000 images.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from record import record
from torch import Tensor, nn

import pruneviz as pv
from pruneviz import lessons
from pruneviz.lessons.checkpoints import checkpoint, load_into, save
from pruneviz.lessons.data import Split
from pruneviz.lessons.train import RECIPES as TRAINED
from pruneviz.lessons.train import train

TWELVE = 1 - 1 / 12
# rounds of a cubic schedule, epochs a round, learning rate: with LAMP's balance and batches of 100
RECIPES = {"lenet-300-100": (10, 3, 3e-3), "lenet-5": (6, 2, 1e-3)}
SCHEDULES = (("one-shot", 1), ("linear", 5), ("cubic", 5), ("geometric", 5))
EPOCHS = 5  # in all, whatever the schedule
ENDS = (TWELVE, 0.98)


def started(name: str, seed: int, data: lessons.Dataset, folder: Path) -> nn.Module:
    """Return a trained network: the stored one, or one of another seed, trained now or before."""
    if seed == 0:
        return _fast(lessons.load(name))
    path = checkpoint(name, seed, folder)
    if not path.is_file():
        model, notes = train(name, data, seed=seed, progress=False)
        save(model, path, notes)
    model = lessons.build(name)
    load_into(model, path)
    return _fast(model.eval())


def _fast(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Answers:
    """Shuffled batches with the mean of the label and of what a network says in the place of labels."""

    def __init__(self, split: Split, size: int, teacher: nn.Module) -> None:
        self.split, self.size = split, size
        with pv.evaluating(teacher):
            said = torch.cat([teacher(x).softmax(1) for x, _ in split.batches(500)])
        self.answers = (said + F.one_hot(split.labels, said.shape[1])) / 2

    def __len__(self) -> int:
        return -(-len(self.split) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.randperm(len(self.split)).split(self.size):
            yield self.split[index].x, self.answers[index]


def twelve(name: str, seeds: int, data: lessons.Dataset, folder: Path, labels: bool) -> None:
    """Print one row a seed and their mean."""
    rounds, epochs, lr = RECIPES[name]
    optimizer = partial(torch.optim.AdamW, weight_decay=TRAINED[name].weight_decay)
    test, batches = list(data.test.batches(500)), data.train.batches(100, shuffle=True)
    what = "labels" if labels else "labels and answers of the whole network"
    print(f"\n**{name}**: cubic, {rounds} rounds, {epochs * rounds} epochs in all, {what}\n")
    print(
        "| seed | dense | pruned, tuned | lost | seconds | of the processor | least squares alone | lost | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    rows = []
    for seed in range(seeds):
        model = started(name, seed, data, folder)
        dense = pv.accuracy(model, test)
        start, cpu = time.perf_counter(), time.process_time()
        answers = batches if labels else Answers(data.train, 100, model)
        tune = partial(
            pv.fit, batches=answers, epochs=epochs, lr=lr,
            optimizer=optimizer, seed=seed, progress=False,
        )  # fmt: skip
        result = pv.prune_iteratively(
            model, None, sparsity=TWELVE, schedule="cubic", rounds=rounds, criterion="lamp",
            tune=tune, progress=False,
        )  # fmt: skip
        took, cpu = time.perf_counter() - start, time.process_time() - cpu
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
        images = [x for x, _ in data.train[order[:5000]].batches(100)]
        start = time.perf_counter()
        plan = pv.select(pv.score(model, "lamp"), sparsity=TWELVE)
        fitted = pv.mask(model, plan, repair="lstsq", batches=images)
        seconds = time.perf_counter() - start
        tuned, alone = (pv.accuracy(m, test) for m in (result.model, fitted))
        rows.append((dense, tuned, dense - tuned, took, cpu, alone, dense - alone, seconds))
        _print(str(seed), rows[-1])
    _print("mean", tuple(sum(c) / len(c) for c in zip(*rows, strict=True)))
    print(f"\n{result.plan.total:,} weights → {result.plan.kept:,}", flush=True)


def _print(name: str, row: tuple[float, ...]) -> None:
    dense, tuned, lost, took, cpu, alone, lost_alone, seconds = row
    print(
        f"| {name} | {dense:.4f} | {tuned:.4f} | {100 * lost:+.2f} | {took:.0f} | {cpu:.0f} | {alone:.4f} | "
        f"{100 * lost_alone:+.2f} | {seconds:.1f} |",
        flush=True,
    )


def schedules(seeds: int, data: lessons.Dataset, folder: Path, out: Path | None) -> None:
    """Run each schedule to each end with each seed, all with as many epochs; record the rounds."""
    name, frames, start = "lenet-300-100", [], time.perf_counter()
    test, batches = list(data.test.batches(500)), data.train.batches(100, shuffle=True)
    for seed in range(seeds):
        model = started(name, seed, data, folder)
        for end in ENDS:
            for kind, rounds in SCHEDULES:
                result = pv.prune_iteratively(
                    model, batches, sparsity=end, schedule=kind, rounds=rounds, criterion="lamp",
                    epochs=EPOCHS // rounds, seed=100 * seed, progress=False,
                    evaluate=lambda m: pv.accuracy(m, test),
                )  # fmt: skip
                print(seed, kind, result, flush=True)
                keys = {"seed": seed, "schedule": kind, "end": round(end, 4)}
                frames.append(result.frame.assign(**keys))
    frame = pd.concat(frames)
    if out:
        notes = {
            "network": name, "data": data.name, "judged_on": "10,000 test images",
            "criterion": "lamp", "seeds": seeds, "epochs_in_all": EPOCHS, "lr": 1e-3,
            "batch_size": 100, "seconds": round(time.perf_counter() - start),
        }  # fmt: skip
        columns = frame[[*keys, *result.frame.columns]].round(4)
        what = f"--schedules --seeds {seeds} --out data/curves"
        record("schedules", columns, what, folder=out, **notes)
    last = frame[frame["round"] == frame.groupby(["schedule"])["round"].transform("max")]
    means = last.groupby(["end", "schedule"], sort=False)["metric"]
    print(pd.DataFrame({"mean": means.mean(), "low": means.min(), "high": means.max()}).round(4))


def main() -> None:
    """Print the tables; with --out keep the schedules, too."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labels", action="store_true", help="tune towards the labels alone")
    parser.add_argument("--schedules", action="store_true")
    parser.add_argument("--out", type=Path)
    starts = Path(tempfile.gettempdir()) / "pruneviz-starts"
    parser.add_argument("--starts", type=Path, default=starts, help="where networks are kept")
    options = parser.parse_args()
    data = lessons.fashion_mnist()
    print(f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in options.names or (() if options.schedules else tuple(RECIPES)):
        twelve(name, options.seeds, data, options.starts, options.labels)
    if options.schedules:
        schedules(options.seeds, data, options.starts, options.out)


if __name__ == "__main__":
    main()
