"""From which sparsity on sparse beats dense, on this machine; what lesson 01 reads. `--record` stores it.

Two tables, one thread: `crossover` times one linear layer dense, with zeros, in CSR and smaller, over
widths, batches and sparsities; `compare_costs` two of the lessons' networks, as many weights gone in each
way, and with half of the units of every layer gone. About three minutes; an idle machine, please.
"""

from __future__ import annotations

import argparse
import os
import platform
import time

import pandas as pd
import torch
from record import processor, record

import pruneviz as pv
from pruneviz import lessons
from pruneviz.model.batches import first_n
from pruneviz.study.costs import ReductionWays, compare_models

WIDTHS, BATCHES = (256, 512, 1024), (1, 8, 64)
NETWORKS = {"lenet-300-100": (0.5, 0.75, 0.9, 0.95, 0.99), "batchnorm-cnn": (0.9,)}


def costs(seconds: float) -> pd.DataFrame:
    """Return a row for each network, batch, sparsity and way; `half`: half of the units gone."""
    images = torch.cat([x for x, _ in lessons.fashion_mnist().test[:64].batches(64)])
    frames = []
    for name, sparsities in NETWORKS.items():
        model = lessons.load(name)
        ways = ReductionWays(model, images[:2])
        half = {"dense": model, "half": pv.prune(model, images[:2], sparsity=0.5)}
        for batch in (1, 64):
            x = first_n(images, batch)
            for target in sparsities:
                frame = compare_models(ways.at(target), x, seconds=seconds, threads=1)
                frames.append(frame.assign(network=name, target_sparsity=target))
            frame = compare_models(half, x, seconds=seconds, threads=1)
            frames.append(frame[1:].assign(network=name, target_sparsity=0.5))
    return pd.concat(frames, ignore_index=True)


def main() -> None:
    """Print both tables; with `--record` store them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, busy = time.perf_counter(), os.getloadavg()[0]
    frame = pv.crossover(widths=WIDTHS, batches=BATCHES, seconds=options.seconds, threads=1)
    tables = {"crossover": frame, "costs": costs(options.seconds)}
    took = round(time.perf_counter() - start)
    print(f"{platform.platform()}, {processor()}, load before {busy:.2f}, {took} s\n")
    print(pv.speed_break_evens(frame).to_string(float_format="%.3f", index=False), "\n")
    print(tables["costs"].to_string(float_format="%.3g", index=False))
    if options.record:
        what = f"--record --seconds {options.seconds:g}"
        for name, table in tables.items():
            record(name, table, what, seconds=took, load_before=round(busy, 2))


if __name__ == "__main__":
    main()
