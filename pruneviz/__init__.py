"""pruneviz: prune neural networks, and see what happens.

    import pruneviz as pv

Readers look at a model, return data and change nothing. Writers take a model and a plan and return
a new model. The pipeline:

    find_groups -> collect -> score -> select -> mask | shrink -> measure        `prune` does it all

Every public name, room by room; a room uses only rooms that stand above it:

"""

from pathlib import Path
from textwrap import fill

import lazy_loader

from pruneviz._version import VERSION as __version__  # noqa: F401 (the stub declares it)

# `__init__.pyi` is the one list of public names: each is imported from its file when first used
_imported, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name not in __all__:
        return _imported(name)  # raises
    from pruneviz.core.imports import whole

    with whole():  # half of torch, left by Ctrl-C, could not be completed
        return _imported(name)


def _surface() -> str:
    """Return the stub's blocks as text for `help`: a line for each room, then its names."""
    rooms: dict[str, list[str]] = {}
    for line in Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            names = rooms.setdefault(line[2:], [])
        elif " as " in line:
            names.append(line.split(" as ")[1].rstrip(","))
    pad = " " * 8
    return "\n".join(
        f"    {room}\n{fill(', '.join(names), 96, initial_indent=pad, subsequent_indent=pad)}"
        for room, names in rooms.items()
    )


__doc__ += _surface()
