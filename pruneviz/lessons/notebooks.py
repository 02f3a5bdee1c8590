"""How notebooks are opened, copied, refreshed: ``python -m pruneviz.lessons.notebooks COMMAND``.

The commands: ``lab`` opens JupyterLab at the first lesson in a working copy, ``copy`` only makes
that copy, and ``refresh`` runs the notebooks of the repository and stores their outputs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nbformat

from pruneviz.core.whole_file import write_whole

ROOT = Path(__file__).parents[2]
FIRST = "00_start_here.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"


def working_copy(source: Path, target: Path) -> list[Path]:
    """Copy the notebooks without outputs; existing files are never overwritten.

    Parameters
    ----------
    source, target : Path
        Folders; the target is created.

    Returns
    -------
    list of Path
        The new copies.
    """
    made = []
    for path in notebooks(source):
        copy = target / path.relative_to(source)
        if copy.exists():
            continue
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_whole(copy, f"{nbformat.writes(notebook)}\n".encode())
        made.append(copy)
    return made


def notebooks(folder: Path) -> list[Path]:
    """Return the notebooks below a folder, in order, without Jupyter's own checkpoints."""
    return [p for p in sorted(folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]


def refresh(paths: Iterable[Path]) -> None:
    """Run notebooks and store their outputs, except for what changes from run to run."""
    for path in paths:
        print(path, flush=True)
        notebook = nbformat.read(path, as_version=4)
        run(notebook, path.parent)
        tidy(notebook)
        write_whole(path, f"{nbformat.writes(notebook)}\n".encode())


def run(notebook: Any, folder: Path) -> None:
    """Run all cells in a kernel that starts in this folder; a cell that fails raises."""
    from nbclient import NotebookClient

    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        store_widget_state=False,
        record_timing=False,
    ).execute()


def tidy(notebook: Any) -> None:
    """Remove from a notebook what changes from run to run: versions, times, model ids."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = [o for o in cell.outputs if not _is_progress(o)]
        for output in cell.outputs:
            output.get("data", {}).pop(WIDGET, None)


def lab(source: Path, target: Path, arguments: Sequence[str] = ()) -> int:
    """Open JupyterLab on this machine only, at the first lesson of the working copy."""
    working_copy(source, target)
    _switch_off_news()
    command = [
        *(sys.executable, "-m", "jupyterlab"),
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={target.resolve()}",
        f"--LabApp.default_url=/lab/tree/{FIRST}",
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        *arguments,
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    # with two open lessons on two cores, spinning threads made one lesson 17 times slower
    env = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ
    try:
        return subprocess.call(command, env=env)
    except KeyboardInterrupt:
        return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pruneviz.lessons.notebooks",
        description="Open, copy or refresh the notebooks.",
        epilog="Arguments after `lab --` are passed to JupyterLab, such as --no-browser.",
    )
    parser.add_argument("what", choices=["lab", "copy", "refresh"])
    parser.add_argument("rest", nargs="*", help="refresh: the notebooks")
    parser.add_argument("--source", type=Path, default=ROOT / "notebooks")
    parser.add_argument("--target", type=Path, default=ROOT / "work")
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:end])
    if args.what == "lab":
        return lab(args.source, args.target, words[end + 1 :])
    if args.what == "copy":
        for path in working_copy(args.source, args.target):
            print(path)
        return 0
    refresh([Path(p) for p in args.rest] or notebooks(args.source))
    return 0


def _is_progress(output: Any) -> bool:
    """Tell whether an output is a progress bar: text on stderr, or a widget without a picture."""
    if output.output_type == "stream":
        return output.name == "stderr"
    data = output.get("data", {})
    return WIDGET in data and "image/png" not in data


def _switch_off_news() -> None:
    """Switch off JupyterLab's question about news, in the virtual environment only."""
    if sys.prefix == sys.base_prefix:
        return
    path = Path(sys.prefix) / "share/jupyter/lab/settings/overrides.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        settings = {"fetchNews": "false", "checkForUpdates": False}
        text = json.dumps({"@jupyterlab/apputils-extension:notification": settings})
        write_whole(path, text.encode())


if __name__ == "__main__":
    sys.exit(main())
