"""What takes longer than a hand waits: one thread does it, and only what is still wanted."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from pruneviz.model.hooks import beside

Part = TypeVar("Part")
REST = 0.12  # seconds without a move: the hand rests
IDLE = 5.0  # seconds without work, and the thread ends
LEAVE = 30.0  # seconds that Python waits at its end for what is under way

# what was dropped may still be under way in the thread, with the panel's own models
_at_work = threading.RLock()


class Dropped(Exception):
    """Nobody wants the answer any more."""


class GoOn:
    """Asked now and then by work under way: raises `Dropped` if nobody wants the answer any more."""

    def __init__(self, told: Callable[[Any], None] | None = None) -> None:
        self.dropped = False
        self._told = told

    def __call__(self) -> None:
        if self.dropped:
            raise Dropped

    def tell(self, part: Any) -> None:
        """Give a part of the answer that is there already."""
        self()
        if self._told is not None:
            self._told(part)

    def through(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Yield the parts of the work, as long as the answer is wanted."""
        for part in parts:
            self()
            yield part


class Job:
    """Work that may be dropped, done by whoever takes it first: the thread, or one who cannot wait.

    Parameters
    ----------
    work : callable
        ``work(go_on)``, with a `GoOn`.
    done : callable
        ``done(job, result, error)``: told what came of it, unless it was dropped.
    told : callable, optional
        ``told(job, part)``: told of parts of the answer as they come.

    Examples
    --------
    >>> job = Job(lambda go_on: 6 * 7, lambda job, result, error: print(result))
    >>> job.finish()
    42
    """

    def __init__(
        self,
        work: Callable[[GoOn], Any],
        done: Callable[[Job, Any, Exception | None], None],
        told: Callable[[Job, Any], None] | None = None,
    ) -> None:
        self.due = time.monotonic() + REST
        self._work, self._done = work, done
        self._go_on = GoOn(None if told is None else lambda part: told(self, part))
        self._over = threading.Event()
        self._taken = threading.Lock()  # never released: only one does the work

    @property
    def waiting(self) -> bool:
        """Whether somebody still has to do it."""
        return not (self._go_on.dropped or self._taken.locked())

    def drop(self) -> None:
        """Let it be: what is under way stops at its next step."""
        self._go_on.dropped = True

    def finish(self) -> None:
        """Do it here, or wait for the thread that does it already."""
        if self._go_on.dropped:
            return
        if not self._taken.acquire(blocking=False):
            self._over.wait()
            return
        result, error = None, None
        try:
            with _at_work:
                self._go_on()
                result = self._work(self._go_on)
        except Dropped:
            self._go_on.dropped = True
        except Exception as e:
            error = e
        try:
            if not self._go_on.dropped:
                self._done(self, result, error)
        finally:
            self._over.set()


_libc = ctypes.CDLL(None) if os.name == "posix" else None
_jobs: list[Job] = []
_bell = threading.Condition()
_thread: threading.Thread | None = None
_last: threading.Thread | None = None  # the same, also when it has nothing more to do
_now: Job | None = None  # what the thread does
_over = False  # whether Python is about to end


def later(job: Job) -> None:
    """Do a job in the background, once the hand rests; one after the other, whoever asks.

    Where there are no threads, as in a browser's own Python, it is done at once.
    """
    global _thread, _last
    with _bell:
        _jobs.append(job)
        if _thread is None:
            _thread = _last = threading.Thread(target=_run, name="pruneviz-panels", daemon=True)
            try:
                _thread.start()
            except RuntimeError:
                _thread = _last = None
                _jobs.remove(job)
        _bell.notify()
        alone = _thread is None
    if alone:
        job.finish()


def _run() -> None:
    global _now
    while (job := _next()) is not None:
        with beside():
            job.finish()
        _now = None
        del job
        give_back()
    gc.collect()  # models are full of circles, and the hand has left: nobody waits now
    give_back()


@atexit.register
def _leave() -> None:
    """Let the thread come to an end before Python does: torch aborts where it is cut off."""
    global _over
    with _bell:
        thread, _over = _last, True
        if _now is not None:
            _now.drop()
        _bell.notify_all()
    if thread is not None:
        thread.join(LEAVE)


def give_back() -> None:
    """Let the C library give freed memory back to the system, if it can.

    Models come and go here by the hundred, in another thread than most; glibc keeps what they leave
    behind for later: 158 MB after 100 of them.
    """
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def _next() -> Job | None:
    """Wait for the next job that is due; None after a while without any."""
    global _thread, _now
    with _bell:
        while True:
            _jobs[:] = [job for job in _jobs if job.waiting]
            if _over or not (_jobs or _bell.wait(IDLE) or _jobs):
                _thread = None
                return None
            if not _jobs:
                continue
            job = min(_jobs, key=lambda j: j.due)
            left = job.due - time.monotonic()
            if left <= 0:
                _jobs.remove(job)
                _now = job
                return job
            _bell.wait(left)
