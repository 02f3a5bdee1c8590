"""One state, two writers; and whether the bundle is what the sources make."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pruneviz.panels.kit import origin
from pruneviz.panels.kit import view as module
from pruneviz.panels.kit.view import BUNDLE, View, bundle

ROOT = Path(__file__).parents[3]
WEB = ROOT / "pruneviz" / "panels" / "web"
NPM = ROOT / ".venv" / "web"  # what `make web` installs
NODE = shutil.which("node", path=f"{os.environ['PATH']}:{Path(sys.executable).parent}")


@pytest.fixture
def view():
    seen = []
    view = View(
        threading.RLock(),
        lambda state: seen.append((state["a"], origin.moved_by_user())),
        lambda message: seen.append((message["do"], origin.moved_by_user())),
        kind="any",
        state={"a": 0},
    )
    view.seen, view.sent = seen, []
    view._send = lambda message, buffers=None: view.sent.append(message)
    yield view
    view.close()


def theirs(a, n, who="browser"):
    return {"state": {"a": a, "n": n, "who": who, "moved": "a", "drag": 0}}


def told(view):
    return [m["state"]["state"]["a"] for m in view.sent if m["method"] == "update"]


def test_a_newer_state_of_the_browser_is_taken(view):
    view.set_state(theirs(1, 1))
    assert view.state["a"] == 1
    assert view.seen == [(1, True)]
    assert told(view) == []
    assert not origin.moved_by_user()


def test_an_older_one_is_answered_with_the_kernels(view):
    view.tell({"a": 5}, {}, shown_is_new=True)
    view.sent.clear()
    view.set_state(theirs(1, 1))  # as old: the kernel's counts
    assert view.state["a"] == 5 and view.seen == []
    assert told(view) == [5]
    view.set_state(theirs(2, 2))
    assert view.state["a"] == 2


def test_what_the_kernel_says_comes_in_one_message(view):
    view.tell({"a": 5}, {"result": 1}, shown_is_new=True)
    (message,) = view.sent
    assert message["state"]["state"]["n"] == message["state"]["shown"]["n"] == 1
    view.sent.clear()
    view.tell({"a": 5}, {"result": 1}, shown_is_new=True)  # nothing new
    assert view.sent == []
    view.tell({"a": 5}, {"result": 1}, shown_is_new=False)
    assert view.shown["n"] == -1


def test_a_button_brings_the_state_with_it(view):
    view._handle_custom_msg({"do": "undo", **theirs(3, 1)}, [])
    assert view.seen == [(3, True), ("undo", True)]
    view._handle_custom_msg({"do": "undo", **theirs(2, 1)}, [])  # overtaken by its own state
    assert view.state["a"] == 3
    view._handle_custom_msg({"kind": "anywidget-command"}, [])
    assert len(view.seen) == 3


def test_the_page_imports_the_bundle_once():
    assert "globalThis" in View._esm and len(View._esm) < 500
    text, version = bundle()
    assert len(text) <= 150_000
    assert text.startswith(f"/* pruneviz panels {version} */")
    assert module.bundle() is bundle()


def test_the_bundle_is_current():
    """`make web` builds it; the hash needs no npm."""
    names = [
        p for p in WEB.iterdir() if p.suffix in (".js", ".css") or p.name.startswith("package")
    ]
    hashed = hashlib.sha256()
    for path in sorted(names, key=lambda p: p.name):
        hashed.update(f"{path.name}\n".encode() + path.read_bytes())
    assert bundle()[1] == hashed.hexdigest()[:12], "the sources have changed: make web"


@pytest.mark.skipif(
    NODE is None or not (NPM / "node_modules" / "esbuild").exists(), reason="needs make web"
)
def test_the_bundle_is_what_esbuild_makes():
    subprocess.run([NODE, str(WEB / "build.js"), str(NPM.resolve()), "--check"], check=True)


def test_nothing_is_loaded_from_elsewhere():
    text = BUNDLE.read_text(encoding="utf-8")
    assert "https://" not in text
    assert "http://" not in text.replace("http://www.w3.org/", "")  # names of XML
    for path in WEB.iterdir():
        assert "npmjs" not in path.read_text(encoding="utf-8"), path
    assert '"resolved"' not in (WEB / "package-lock.json").read_text(encoding="utf-8")
