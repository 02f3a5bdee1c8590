"""How is a file written? Completely or not at all, by one writer at a time; the reasons in words."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError

try:
    import fcntl
except ImportError:  # Windows: there an open file cannot be removed, which says the same
    fcntl = None  # type: ignore[assignment]

KINDS = {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe",
         stat.S_IFSOCK: "a socket"}  # fmt: skip
REASONS = {
    errno.ENOSPC: "the disk is full. Free some space, or name a file on another disk",
    errno.EDQUOT: "your share of the disk is used up. Free some space, or name a file on another disk",
    errno.EFBIG: "it would be larger than a file may be here. Raise the limit (ulimit -f), or name a "
    "file on another disk",
    errno.EROFS: "this disk is read-only. Name a file on another one",
    errno.EACCES: "you may not write in this folder. Name a file in another one",
    errno.EPERM: "you may not write in this folder. Name a file in another one",
    errno.ENAMETOOLONG: "its name is too long. Shorten it",
    errno.ENOTDIR: "a part of it that should be a folder is a file. Name a file in a folder",
    errno.ELOOP: "it is a link that leads to itself. Name a file",
}


def checked_path(path: Any, example: str) -> Path:
    """Return `path` as a Path if it can be the name of a file, or raise.

    >>> checked_path(None, "small.safetensors")
    Traceback (most recent call last):
    ...
    pruneviz.ArgumentError: `path` must be the name of a file, such as 'small.safetensors', but None was passed.
    """
    text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else None
    if text is None:
        got = "None" if path is None else checks.described(path)
    elif not text.strip():
        got = "an empty text"
    elif "\0" in text:
        got = f"{text!r} with a NUL in it"
    else:
        return Path(text)
    raise ArgumentError(
        f"`path` must be the name of a file, such as {example!r}, but {got} was passed."
    )


def write_whole(path: Path, data: bytes) -> None:
    """Write a file completely or not at all: beside it, to the disk, and then in its place.

    A link stays a link: the file that it names is replaced. What a killed writer of this file left
    beside it is removed.

    Raises
    ------
    ArgumentError
        If the file cannot be written, or is no regular file.
    """
    target = _replaceable(path)
    try:
        _remove_leftovers(target)
        fd, part = _open_part(target)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                if target.exists():
                    _take_over(target, part)
                if fcntl is None:
                    file.close()  # Windows renames no open file
                part.replace(target)  # while it is locked: else it could look left behind
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)
    except OSError as e:
        raise _unwritable(path, e) from e


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Keep all others from writing the same file inside `with`; raise if another one is at it.

    The others are those who ask in the same way, in this process or another one.
    """
    target = _replaceable(path)
    try:
        fd, lock = _claim(target)
    except BlockingIOError:
        raise ArgumentError(
            f"`path` {str(path)!r} is being written by another call. Wait until it has finished, or "
            "name another file."
        ) from None
    except OSError as e:
        raise _unwritable(path, e) from e
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()  # before it is unlocked, so that nobody locks a file that has no name
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)  # also for processes that were forked meanwhile
        os.close(fd)
        if fcntl is None:
            lock.unlink(missing_ok=True)  # Windows removes no open file


def _replaceable(path: Path) -> Path:
    """Return the file that `path` names, links followed; raise unless it may be replaced."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG | stat.S_IWUSR  # it will be
    except OSError as e:
        raise _unwritable(path, e) from e
    target = Path(os.path.realpath(path))
    if stat.S_ISDIR(mode):
        problem = f"it is a folder. Name a file in it, such as {str(path / 'name')!r}"
    elif not stat.S_ISREG(mode):
        problem = f"it is {KINDS.get(stat.S_IFMT(mode), 'no file')}. Name a file"
    elif not mode & 0o222 or (target.exists() and not os.access(target, os.W_OK)):
        # said by its mode, too: root may write everything, but somebody meant it
        problem = "it is read-only. Make it writable (chmod u+w), or name another file"
    else:
        return target
    raise ArgumentError(f"`path` {str(path)!r} cannot be written: {problem}.")


def _unwritable(path: Path, e: OSError) -> ArgumentError:
    reason = REASONS.get(e.errno or 0, e.strerror or str(e))
    if e.errno == errno.ENOENT:
        folder = str(path.parent)
        reason = f"there is no folder {folder!r}. Make it: os.makedirs({folder!r})"
    return ArgumentError(f"`path` {str(path)!r} cannot be written: {reason}.")


def _prefix(target: Path) -> str:
    # short, whatever the name of the target is, and without letters that a pattern would read
    return f".pruneviz-{hashlib.blake2b(os.fsencode(target.name), digest_size=6).hexdigest()}-"


def _open_part(target: Path) -> tuple[int, Path]:
    """Return a new file beside the target, which is locked as long as its writer lives."""
    while True:
        part = target.with_name(f"{_prefix(target)}{secrets.token_hex(4)}.part")
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if fcntl is not None:
            with suppress(OSError):  # some disks know no locks
                fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return fd, part
        os.close(fd)  # removed as left behind, in the moment before it was locked


def _remove_leftovers(target: Path) -> None:
    """Remove what killed writers of this file left behind; their locks died with them."""
    for part in target.parent.glob(f"{_prefix(target)}*.part"):
        with suppress(OSError):  # locked: its writer lives; or another one removes it, too
            if fcntl is None:
                part.unlink()
                continue
            fd = os.open(part, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
            finally:
                os.close(fd)


def _claim(target: Path) -> tuple[int, Path]:
    """Return a locked file that says that somebody writes the target; or raise BlockingIOError."""
    lock = target.with_name(f"{_prefix(target)}lock")
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), lock.stat()):
                    return fd, lock
        except BlockingIOError:
            os.close(fd)
            raise
        except OSError:  # this disk knows no locks: then only changes are seen
            return fd, lock
        os.close(fd)  # the one before us has just removed it


def _take_over(target: Path, part: Path) -> None:
    """Give a file the owner and the permissions of another one, where the disk knows them."""
    old = target.stat()
    with suppress(OSError, AttributeError):  # only root gives files away
        os.chown(part, old.st_uid, old.st_gid)
    with suppress(OSError):
        part.chmod(stat.S_IMODE(old.st_mode))


def _sync_folder(folder: Path) -> None:
    """Write the new name to the disk, too, where folders can be opened."""
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
