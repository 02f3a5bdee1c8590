"""JupyterLab on 127.0.0.1 and headless Chromium, for the browser tests; both end with the block."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

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
STATUS = (
    "() => window.jupyterapp.shell.currentWidget.context.sessionContext.session?.kernel?.status"
)


@contextmanager
def lab(folder: Path, home: Path) -> Iterator[tuple[str, str]]:
    """Serve a folder; give (address, token). Settings and runtime files go to `home`."""
    for name, value in SETTINGS.items():
        file = home / "settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token, address = secrets.token_hex(16), f"http://127.0.0.1:{port}"
    env = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
        *(f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"),
        *("--LabApp.expose_app_in_browser=True", "--LabApp.news_url="),
    ]
    log = home / "lab.log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
    try:
        _wait(address, token, server, log)
        yield address, token
    finally:
        family = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
        for stop in ("terminate", "kill"):
            for process in family:
                if process.is_running():
                    getattr(process, stop)()
            server.poll()
            _, family = psutil.wait_procs(family, timeout=5)
        server.wait(5)


def _wait(address: str, token: str, server: subprocess.Popen, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + 90
    while time.monotonic() < end and server.poll() is None:
        try:
            opener.open(f"{address}/api/status?token={token}", timeout=3).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not answer:\n{log.read_text()[-3000:]}")


class Page:
    """One notebook, open in one page."""

    def __init__(self, context, address: str, token: str) -> None:
        self.address = address
        self.page = context.new_page()
        self.console: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", lambda m: m.type == "error" and self.console.append(m.text))
        self.page.on("pageerror", lambda e: self.console.append(str(e)))
        self.page.on("request", lambda r: self._asked(r.url))
        self.token = token

    def _asked(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:", "about:")):
            self.elsewhere.append(url)

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

    def wait_idle(self) -> None:
        """Wait until the kernel has nothing to do."""
        self.page.wait_for_function(f"() => ({STATUS})() === 'idle'", timeout=60_000)
        self.page.wait_for_timeout(300)

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
