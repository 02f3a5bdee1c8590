"""What an exact search for redundant units costs, beside the product of all rows alone. Ratios in one run."""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pruneviz.redundancy.similarity import similar_pairs

TOP = 100


def product(rows: Tensor) -> object:
    """All products, and nothing else."""
    return rows @ rows.T


def sort(rows: Tensor) -> object:
    """Find the pairs as one would write it down."""
    unit = rows / rows.norm(dim=1, keepdim=True)
    s = (unit @ unit.T).triu_(1)
    return s.flatten().argsort(descending=True)[:TOP]


def search(rows: Tensor) -> object:
    """Find the pairs block by block."""
    return similar_pairs(rows, top=TOP)


WAYS: dict[str, Callable[[Tensor], object]] = {"product": product, "sort": sort, "search": search}


def matrix(n: int, d: int) -> Tensor:
    """Return random rows, one of them the multiple of another."""
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    rows[-1] = 3 * rows[0]
    return rows


def ratios(n: int, d: int, ways: list[str], rounds: int) -> dict[str, float]:
    """Return median seconds of each way, measured in turn."""
    rows = matrix(n, d)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            start = time.perf_counter()
            WAYS[way](rows)
            seconds[way].append(time.perf_counter() - start)
    return {way: statistics.median(s) for way, s in seconds.items()}


def grown(n: int, d: int, way: str) -> float:
    """Megabytes by which the peak of a fresh process grows; torch's memory is not Python's."""
    command = [sys.executable, __file__, "--memory", str(n), str(d), way]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(out.stdout)


def peak() -> float:
    """Megabytes of memory that this process has held at most, since the peak was last forgotten."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def memory(n: int, d: int, way: str) -> None:
    """Print what `grown` asks for. Linux only."""
    WAYS[way](matrix(600, d))  # the libraries' own buffers, and what is imported on the way
    rows = matrix(n, d)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = peak()
    WAYS[way](rows)
    print(peak() - before)


def main() -> None:
    """Print the table."""
    print(f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(
        "| n rows of d numbers | W·Wᵀ alone, s | search ÷ W·Wᵀ | matrix and argsort ÷ W·Wᵀ | "
        "search, MB | W·Wᵀ, MB | matrix and argsort, MB |\n|---|---|---|---|---|---|---|"
    )
    sizes = [(4096, 1024), (4096, 4096), (8192, 1024), (8192, 8192), (16384, 1024), (16384, 16384)]
    for n, d in sizes:
        # sorting takes as long however long the rows are: of the largest, once is enough
        ways = [way for way in WAYS if way != "sort" or (n, d) != sizes[-1]]
        # the long ones are their own average
        took = ratios(n, d, ways, 9 if n * d <= 2**24 else 3 if n < 16384 else 1)
        share = [
            f"{took[w] / took['product']:.2f}" if w in took else "–" for w in ("search", "sort")
        ]
        size = [
            f"{grown(n, d, w):,.0f}" if w in ways else "–" for w in ("search", "product", "sort")
        ]
        print(
            "|",
            " | ".join([f"{n:,} × {d:,}", f"{took['product']:.2f}", *share, *size]),
            "|",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        torch.set_grad_enabled(False)
        memory(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        main()
