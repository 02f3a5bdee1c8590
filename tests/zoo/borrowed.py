"""torchvision and timm, from the folder that `make zoo` fills; nothing else looks into it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import torch

FOLDER = Path(__file__).parents[2] / ".venv" / "zoo"
# what torchvision itself registers a shape function for, and only finds if its _C can be loaded
OPERATORS = tuple(
    f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms")
)
_keep: list[torch.library.Library] = []  # a library that is forgotten takes its operators along


def borrow(name: str) -> ModuleType:
    """Import torchvision, timm or a module of theirs.

    The registry's torchvision holds operators (`_C`) built for another torch than the CPU's. No
    classifier needs them, but `import torchvision` does: it gets empty ones.
    """
    if name not in sys.modules:
        sys.path.append(str(FOLDER))
        try:
            _operators()
            importlib.import_module(name)
        finally:
            sys.path.remove(str(FOLDER))
    return sys.modules[name]


def _operators() -> None:
    if _keep or "torchvision" in sys.modules:
        return
    _keep.append(torch.library.Library("torchvision", "FRAGMENT"))
    try:
        torch.ops.load_library(FOLDER / "torchvision" / "_C.so")
    except OSError:
        for schema in OPERATORS:
            _keep[0].define(schema)
