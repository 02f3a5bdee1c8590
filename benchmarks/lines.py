"""How much code there is: lines that are neither blank, comment nor docstring, by room.

``python benchmarks/lines.py`` counts the working tree, ``python benchmarks/lines.py REV`` a commit,
``python benchmarks/lines.py OLD NEW`` two of them, and what has changed between them.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}


def code_lines(text: str) -> set[int]:
    """Return the numbers of the lines of code in a file of Python."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                lines -= set(range(value.lineno, (value.end_lineno or 0) + 1))
    return lines


def files(rev: str | None) -> dict[str, str]:
    """Return the files of the package by their path below it, in the working tree or in a commit."""
    if rev is None:
        found = sorted((ROOT / "pruneviz").rglob("*.py"))
        return {str(p.relative_to(ROOT / "pruneviz")): p.read_text(encoding="utf-8") for p in found}

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, check=True)
        return done.stdout.decode()

    names = git("ls-tree", "-r", "--name-only", rev, "pruneviz").split()
    return {
        n.removeprefix("pruneviz/"): git("show", f"{rev}:{n}") for n in names if n.endswith(".py")
    }


def by_room(rev: str | None) -> Counter[str]:
    """Return lines of code by room; what lies at the root of the package is "(root)"."""
    lines: Counter[str] = Counter()
    for path, text in files(rev).items():
        lines[path.partition("/")[0] if "/" in path else "(root)"] += len(code_lines(text))
    return lines


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revisions", nargs="*", help="commits; default: the working tree")
    revisions = parser.parse_args().revisions or [None]
    tables = [by_room(rev) for rev in revisions]
    names = [rev or "working tree" for rev in revisions]
    print(f"| room | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for room in sorted(set().union(*tables), key=lambda r: -tables[-1][r]):
        print(f"| {room} | {' | '.join(f'{t[room]:,}' for t in tables)} |")
    print(f"| all | {' | '.join(f'{sum(t.values()):,}' for t in tables)} |")


if __name__ == "__main__":
    main()
