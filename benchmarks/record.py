"""Keep a table for the lessons, and beside it what made it: command, machine, versions."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import pruneviz as pv

FOLDER = Path(__file__).parents[1] / "data" / "curves"


def record(
    name: str, frame: pd.DataFrame, what: str, *, folder: Path = FOLDER, **notes: Any
) -> None:
    """Write `name`.csv and `name`.json; `what`: the options that make them again."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    notes |= {
        "command": f"python benchmarks/{Path(sys.argv[0]).name} {what}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.platform()}, {processor()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[2], 1),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pruneviz": pv.__version__,
        },
    }
    text = json.dumps(notes, indent=2, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def processor() -> str:
    """Return the processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((n.partition(":")[2].strip() for n in lines if n.startswith("model name")), "")
