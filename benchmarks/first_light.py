"""What a newcomer waits for: the import, the data, a slider's answer. Ratios in one run.

Run it by `make bench`; the machine's name and its threads are printed with the table.
"""

from __future__ import annotations

import io
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from matplotlib.figure import Figure

import pruneviz as pv
from pruneviz import lessons


def median_ms(run: Callable[[int], object], repeat: int = 15) -> float:
    """Median milliseconds of `run(i)`, the first two left out."""
    times = []
    for i in range(repeat + 2):
        start = time.perf_counter()
        run(i)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def import_ms(code: str, *, bytecode: bool = True) -> float:
    """CPU milliseconds of one import in a fresh Python that has imported torch already.

    Without bytecode every file that `code` reads is compiled anew, as on a first start from a folder
    that cannot be written.
    """
    cold = "" if bytecode else "sys.dont_write_bytecode = True; sys.pycache_prefix = '/nowhere'; "
    text = f"import sys, time, torch; {cold}t = time.process_time(); {code}; print(time.process_time() - t)"
    done = [subprocess.run([sys.executable, "-c", text], capture_output=True) for _ in range(9)]
    return 1000 * statistics.median(float(d.stdout) for d in done[2:])


def naive(model: torch.nn.Module) -> Callable[[int], object]:
    """Draw the way a first notebook does: all weights, a new figure, at every move."""
    weights = torch.cat([w.flatten() for w in pv.named_weights(model).values()]).numpy()

    def draw(i: int) -> bytes:
        figure = Figure()
        ax = figure.subplots()
        ax.hist(weights, bins=120)
        ax.axvline(i / 1000)
        file = io.BytesIO()
        figure.savefig(file, format="png")
        return file.getvalue()

    return draw


def main() -> None:
    """Print the table."""
    model = lessons.load("lenet-300-100")
    panel = pv.panel_weights(model)
    handle = panel.controls["threshold"]
    data = lessons.fashion_mnist()
    batches = list(data.validation.batches())
    ten = data.test.one_of_each()
    strip = pv.panel_strip(model, ten.x, ten.labels, batches=batches)
    slider = strip.controls["sparsity"]

    drawn = median_ms(naive(model))
    moved = median_ms(lambda i: setattr(handle, "value", 0.002 * (i + 1)))
    judged = median_ms(lambda i: setattr(slider, "value", 0.05 * (i + 1)))
    read = median_ms(lambda i: lessons.fashion_mnist().train, repeat=3)

    print(f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| what | ms |\n|---|---|")
    for how, bytecode in (("", True), (", without bytecode", False)):
        once = import_ms("import pruneviz", bytecode=bytecode)
        used = import_ms("import pruneviz as pv; pv.prune", bytecode=bytecode)
        print(f"| `import pruneviz` beyond `import torch`{how}, CPU | {once:.1f} |")
        print(f"| the same, then `pv.prune` is touched{how}, CPU | {used:.0f} |")
    print(f"| read, unpack and check 60,000 images | {read:.0f} |")
    print(f"| `panel_weights`, 266,200 weights: one move, in the kernel | {moved:.1f} |")
    print(f"| the same histogram by `ax.hist` into a new figure | {drawn:.0f} |")
    print(f"| `panel_strip`: one move, accuracy on 10,000 images | {judged:.0f} |")


if __name__ == "__main__":
    main()
