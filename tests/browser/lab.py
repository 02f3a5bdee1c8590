"""JupyterLab or Voila on 127.0.0.1 and headless Chromium; all of it ends with its block."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
QUIET = [  # no sandbox as root; nothing that looks for other hosts
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
]
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
}
HANDLE = ".noUi-handle, input[type=range]"  # of a slider, in the first engine and in the second
needs_a_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(
        shutil.which(CHROMIUM) is None and not os.environ.get("CI"),
        reason=f"needs a browser at {CHROMIUM} (Debian: apt-get install chromium), or $CHROMIUM",
    ),
]
STATUS = (
    "() => window.jupyterapp.shell.currentWidget.context.sessionContext.session?.kernel?.status"
)
ASK = """async code => {
    const kernel = jupyterapp.shell.currentWidget.context.sessionContext.session.kernel;
    const asked = kernel.requestExecute({code, store_history: false, stop_on_error: false});
    const out = {text: ''};
    asked.onIOPub = m => {
        if (m.header.msg_type === 'stream') out.text += m.content.text;
        if (m.header.msg_type === 'error') out.error = m.content.ename + ': ' + m.content.evalue;
    };
    await asked.done;
    return out; }"""


@contextmanager
def lab(
    folder: Path,
    home: Path,
    *,
    subshells: bool = True,
    theme: str = "Light",
    echo: bool = True,
    policy: str = "",
) -> Iterator[tuple[str, str]]:
    """Serve a folder; give (address, token). Settings and runtime files go to `home`.

    Without subshells widgets' callbacks run in the kernel's main thread, as before ipykernel 7.
    Without `echo` ipywidgets tells no page what a page has said. `policy` is the content policy of
    the pages.
    """
    settings = SETTINGS | {
        "@jupyterlab/apputils-extension/kernels-settings": {
            "commsOverSubshells": "perCommTarget" if subshells else "disabled"
        },
        "@jupyterlab/apputils-extension/themes": {"theme": f"JupyterLab {theme}"},
    }
    for name, value in settings.items():
        file = home / "settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
    token = secrets.token_hex(16)
    options = [
        *("--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0"),
        *(f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"),
        *("--LabApp.expose_app_in_browser=True", "--LabApp.news_url="),
    ]
    if policy:
        headers = {"Content-Security-Policy": policy}
        options.append(f"--ServerApp.tornado_settings={ {'headers': headers} }")
    env = {} if echo else {"JUPYTER_WIDGETS_ECHO": "0"}
    with _served("jupyterlab", options, "--ServerApp.port", home, **env) as address:
        yield address, token


@contextmanager
def voila(notebook: Path, home: Path) -> Iterator[str]:
    """Serve one notebook as an app; give the address."""
    options = [str(notebook), "--no-browser", "--Voila.ip=127.0.0.1", "--Voila.port_retries=0"]
    with _served("voila", options, "--Voila.port", home) as address:
        yield address


@contextmanager
def chromium(home: Path, width: int = 1280, height: int = 1000, **how: Any) -> Iterator[Any]:
    """A headless browser with a profile of its own in `home`."""
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(home / "chrome"),
            executable_path=CHROMIUM,
            args=QUIET,
            viewport={"width": width, "height": height},
            **how,
        )
        try:
            yield context
        finally:
            context.close()


@contextmanager
def nothing_left() -> Iterator[None]:
    """Insist that the block ends every process that it starts."""
    before = set(psutil.Process().children(recursive=True))
    yield
    left = {p for p in psutil.Process().children(recursive=True) if p.is_running()} - before
    assert not left, "a process that the test started is still there"


@contextmanager
def _served(
    module: str, options: list[str], port_option: str, home: Path, **more: str
) -> Iterator[str]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    env = (
        os.environ
        | more
        | {
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "IPYTHONDIR": str(home / "ipython"),
        }
    )
    command = [sys.executable, "-m", module, *options, f"{port_option}={port}"]
    log = home / f"{module}.log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
    try:
        _wait(port, server, log)
        yield address
    finally:
        family = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
        for stop in ("terminate", "kill"):
            for process in family:
                if process.is_running():
                    getattr(process, stop)()
            server.poll()
            _, family = psutil.wait_procs(family, timeout=5)
        server.wait(5)


def _wait(port: int, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=3).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{server.args[2]} did not answer:\n{log.read_text()[-3000:]}")


class Page:
    """One notebook, open in one page."""

    def __init__(self, context: Any, address: str, token: str = "") -> None:
        self.address, self.token = address, token
        self.page = context.new_page()
        self.console: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", lambda m: m.type == "error" and self.console.append(m.text))
        self.page.on("pageerror", lambda e: self.console.append(str(e)))
        self.dialogs: list[str] = []
        self.page.on("request", lambda r: self._asked(r.url))
        self.page.on("dialog", self._warned)

    def _asked(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:", "about:")):
            self.elsewhere.append(url)

    def _warned(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def open(self, name: str) -> None:
        """Open a notebook and wait for its kernel."""
        self.page.goto(f"{self.address}/doc/tree/{name}?token={self.token}&reset")
        self.page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.context")
        self.page.evaluate(
            "async () => { await jupyterapp.restored;"
            " await jupyterapp.shell.currentWidget.context.ready; }"
        )
        self.wait_idle()

    def run_all(self) -> None:
        """Run all cells to the end."""
        self.page.evaluate(
            "() => { window.__ran = ''; jupyterapp.commands.execute('notebook:run-all-cells')"
            ".then(() => window.__ran = 'done', e => window.__ran = 'failed: ' + e); }"
        )
        self.page.wait_for_function("() => window.__ran", timeout=180_000)
        self.wait_idle()

    def wait_idle(self, more: int = 300) -> None:
        """Wait until the kernel has nothing to do, and some milliseconds more."""
        self.page.wait_for_function(f"() => ({STATUS})() === 'idle'", timeout=60_000)
        self.page.wait_for_timeout(more)

    def ask(self, code: str) -> str:
        """Run code in the kernel, in no cell; return what it printed."""
        done = self.page.evaluate(ASK, code)
        assert "error" not in done, done["error"]
        return done["text"]

    def until(self, look: Callable[[], Any], old: Any, seconds: float = 20) -> Any:
        """Look until it is not the old value any more, at most so long; return what is seen."""
        end = time.monotonic() + seconds
        while (now := look()) == old and time.monotonic() < end:
            time.sleep(0.02)
        return now

    def errors(self) -> list[str]:
        """Error outputs of cells, panels' alerts, and widgets that did not render."""
        cells = self.page.evaluate(
            "() => jupyterapp.shell.currentWidget.context.model.toJSON().cells"
        )
        outputs = [o for c in cells for o in c.get("outputs", [])]
        found = [o["evalue"] for o in outputs if o["output_type"] == "error"]
        found += self.page.locator("[role=alert]:visible").all_inner_texts()
        found += self.page.locator(".jupyter-widgets-error-widget").all_inner_texts()
        return [text for text in found if text.strip()]
