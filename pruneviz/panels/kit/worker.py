"""How slow work runs beside the controls: one background thread, and work can be cancelled."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from pruneviz.model.hooks import in_background

Part = TypeVar("Part")
CONTROL_IDLE = 0.12  # seconds without a move, after which a control is idle and slow work starts
THREAD_IDLE = 5.0  # seconds without work, after which the thread ends
EXIT_WAIT = 30.0  # seconds for which Python waits, at its exit, for running work

# Cancelled work may still be running in the thread, and it uses the panel's own models. The lock
# lets only one piece of work run at a time.
_at_work = threading.RLock()


class Cancelled(Exception):
    """The result of the work is no longer needed."""


class CancelToken:
    """What running work calls now and then: it raises `Cancelled` if the result is not needed."""

    def __init__(self, on_part: Callable[[Any], None] | None = None) -> None:
        self.cancelled = False
        self._on_part = on_part

    def __call__(self) -> None:
        if self.cancelled:
            raise Cancelled

    def report(self, part: Any) -> None:
        """Hand over a part of the result that is ready."""
        self()
        if self._on_part is not None:
            self._on_part(part)

    def through(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Yield the parts of the work, until it is cancelled."""
        for part in parts:
            self()
            yield part


class Job:
    """Work that can be cancelled. It is done once: by the thread, or by a caller that cannot wait.

    Parameters
    ----------
    work : callable
        ``work(token)``, with a `CancelToken`.
    on_done : callable
        ``on_done(job, result, error)``: called at the end, unless the job was cancelled.
    on_part : callable, optional
        ``on_part(job, part)``: called with each part of the result as soon as it is ready.

    Examples
    --------
    >>> job = Job(lambda token: 6 * 7, lambda job, result, error: print(result))
    >>> job.finish()
    42
    """

    def __init__(
        self,
        work: Callable[[CancelToken], Any],
        on_done: Callable[[Job, Any, Exception | None], None],
        on_part: Callable[[Job, Any], None] | None = None,
    ) -> None:
        self.due = time.monotonic() + CONTROL_IDLE
        self._work, self._on_done = work, on_done
        self._token = CancelToken(None if on_part is None else lambda part: on_part(self, part))
        self._finished = threading.Event()
        self._taken = threading.Lock()  # never released: only one thread does the work

    @property
    def waiting(self) -> bool:
        """Whether the work is still needed and nothing has started it."""
        return not (self._token.cancelled or self._taken.locked())

    def cancel(self) -> None:
        """Cancel the job: running work stops at its next call of the token."""
        self._token.cancelled = True

    def finish(self) -> None:
        """Do the work here, or wait for the thread that does it already."""
        if self._token.cancelled:
            return
        if not self._taken.acquire(blocking=False):
            self._finished.wait()
            return
        result, error = None, None
        try:
            with _at_work:
                self._token()
                result = self._work(self._token)
        except Cancelled:
            self._token.cancelled = True
        except Exception as e:
            error = e
        try:
            if not self._token.cancelled:
                self._on_done(self, result, error)
        finally:
            self._finished.set()


_libc = ctypes.CDLL(None) if os.name == "posix" else None
_jobs: list[Job] = []
_changed = threading.Condition()  # guards the names below; notified when one of them changes
_thread: threading.Thread | None = None  # the thread that takes jobs; None when it is about to end
_last_thread: threading.Thread | None = None  # the same thread, also when it is about to end
_running: Job | None = None  # the job that the thread does now
_exiting = False  # whether Python is about to exit


def run_later(job: Job) -> None:
    """Do a job in the background as soon as it is due; the jobs of all panels run one by one.

    Where there are no threads, as in Python inside a browser, it is done at once.
    """
    global _thread, _last_thread
    with _changed:
        _jobs.append(job)
        if _thread is None:
            _thread = _last_thread = threading.Thread(
                target=_run, name="pruneviz-panels", daemon=True
            )
            try:
                _thread.start()
            except RuntimeError:
                _thread = _last_thread = None
                _jobs.remove(job)
        _changed.notify()
        no_thread = _thread is None
    if no_thread:
        job.finish()


def _run() -> None:
    global _running
    while (job := _next_job()) is not None:
        with in_background():
            job.finish()
        _running = None
        del job
        release_memory()
    gc.collect()  # models are full of reference cycles; nothing waits for the thread now
    release_memory()


@atexit.register
def _stop_at_exit() -> None:
    """Wait for the thread before Python exits: torch aborts if it is stopped at any point."""
    global _exiting
    with _changed:
        thread, _exiting = _last_thread, True
        if _running is not None:
            _running.cancel()
        _changed.notify_all()
    if thread is not None:
        thread.join(EXIT_WAIT)


def release_memory() -> None:
    """Let the C library return freed memory to the system, if it can.

    This thread makes and frees hundreds of models. glibc keeps the freed memory of a thread for
    later use: 158 MB after 100 models.
    """
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def _next_job() -> Job | None:
    """Wait for the next job that is due; return None after `THREAD_IDLE` seconds without a job."""
    global _thread, _running
    with _changed:
        while True:
            _jobs[:] = [job for job in _jobs if job.waiting]
            if _exiting or not (_jobs or _changed.wait(THREAD_IDLE) or _jobs):
                _thread = None
                return None
            if not _jobs:
                continue
            job = min(_jobs, key=lambda j: j.due)
            left = job.due - time.monotonic()
            if left <= 0:
                _jobs.remove(job)
                _running = job
                return job
            _changed.wait(left)
