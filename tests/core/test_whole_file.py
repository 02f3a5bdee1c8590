"""A file is written completely or not at all, whoever writes it, and what prevents it is said."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from helpers import batches, inputs, mlp, refused

import pruneviz as pv
from pruneviz.core.whole_file import checked_path, sole_writer, write_whole

EVIDENCE = pv.collect(mlp(), [inputs()], progress=False)


def a_sweep(path):
    pv.sweep(mlp(), inputs(), criteria=["magnitude"], sparsities=[0.5], evaluate=judge, path=path,
             progress=False)  # fmt: skip


def a_sensitivity(path):
    pv.sensitivity(mlp(), inputs(), sparsities=[0.5], evaluate=judge, path=path, progress=False)


def some_rounds(path):
    pv.prune_iteratively(mlp(), batches(), sparsity=0.5, rounds=1, path=path, progress=False)


def judge(model):
    return 0.5


WRITERS = {
    "save": (lambda path: pv.save(mlp(), path), "small.safetensors"),
    "Evidence.save": (EVIDENCE.save, "evidence.safetensors"),
    "sweep": (a_sweep, "rows.csv"),
    "sensitivity": (a_sensitivity, "rows.csv"),
    "prune_iteratively": (some_rounds, "rounds.safetensors"),
}
every_writer = pytest.mark.parametrize("name", WRITERS)

NO_NAMES = [
    ("", "an empty text"),
    ("  ", "an empty text"),
    (b"", "an empty text"),
    ("a\0b", r"'a\x00b' with a NUL in it"),
    (3, "an int"),
    (["a"], "a list"),
    (Path, "the class Path"),
]


@every_writer
@pytest.mark.parametrize(("path", "got"), NO_NAMES, ids=[g for _, g in NO_NAMES])
def test_what_is_no_name_is_told_in_words(name, path, got):
    write, example = WRITERS[name]
    with refused(f"`path` must be the name of a file, such as {example!r}, but {got} was passed."):
        write(path)


@pytest.mark.parametrize("write", [WRITERS["save"][0], pv.load, EVIDENCE.save, type(EVIDENCE).load])
def test_none_is_no_name_either(write):
    call = (lambda: write(None, mlp)) if write is pv.load else (lambda: write(None))
    with pytest.raises(
        pv.ArgumentError, match=r"must be the name of a file, .* but None was passed\.$"
    ):
        call()


def no_folder(tmp_path):
    return tmp_path / "no" / "x"


def folder(tmp_path):
    return tmp_path


def pipe(tmp_path):
    os.mkfifo(tmp_path / "x")
    return tmp_path / "x"


def device(tmp_path):
    return Path("/dev/null")


def link_to_a_device(tmp_path):
    (tmp_path / "x").symlink_to("/dev/full")
    return tmp_path / "x"


def a_socket(tmp_path):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "x"))
    return tmp_path / "x"


def loop(tmp_path):
    (tmp_path / "x").symlink_to(tmp_path / "x")
    return tmp_path / "x"


def in_a_file(tmp_path):
    (tmp_path / "x").write_text("")
    return tmp_path / "x" / "y"


def read_only(tmp_path):
    (tmp_path / "x").write_text("")
    (tmp_path / "x").chmod(0o444)
    return tmp_path / "x"


def long_name(tmp_path):
    return tmp_path / ("x" * 300)


PLACES = {
    no_folder: "there is no folder {parent!r}. Make it: os.makedirs({parent!r})",
    folder: "it is a folder. Name a file in it, such as {inside!r}",
    pipe: "it is a pipe. Name a file",
    device: "it is a device. Name a file",
    link_to_a_device: "it is a device. Name a file",
    a_socket: "it is a socket. Name a file",
    loop: "it is a link that leads to itself. Name a file",
    in_a_file: "a part of it that should be a folder is a file. Name a file in a folder",
    read_only: "it is read-only. Make it writable (chmod u+w), or name another file",
    long_name: "its name is too long. Shorten it",
}


@every_writer
@pytest.mark.parametrize("place", PLACES, ids=lambda f: f.__name__)
def test_what_cannot_be_written_says_why_and_is_left_alone(tmp_path, name, place):
    path = place(tmp_path)
    before = sorted(os.listdir(tmp_path))
    reason = PLACES[place].format(parent=str(path.parent), inside=str(path / "name"))
    with refused(f"`path` {str(path)!r} cannot be written: {reason}."):
        WRITERS[name][0](path)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("name", ["save", "sweep"])
def test_the_advice_helps(tmp_path, name):
    write = WRITERS[name][0]
    os.makedirs(no_folder(tmp_path).parent)
    write(no_folder(tmp_path))
    read_only(tmp_path).chmod(0o644)
    write(tmp_path / "x")
    write(tmp_path / "name")
    write(tmp_path / ("x" * 255))  # as long as a name may be
    assert sorted(map(len, os.listdir(tmp_path))) == [1, 2, 4, 255]


ERRORS = {
    errno.ENOSPC: "the disk is full. Free some space, or name a file on another disk",
    errno.EDQUOT: "your share of the disk is used up. Free some space, or name a file on another disk",
    errno.EROFS: "this disk is read-only. Name a file on another one",
    errno.EACCES: "you may not write in this folder. Name a file in another one",
    errno.EIO: "Input/output error",
}


@every_writer
@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_an_error_of_the_disk_leaves_the_old_file(tmp_path, name, number, monkeypatch):
    def full(fd):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "x"
    if name in ("save", "Evidence.save"):
        path.write_text("old")
    there = path.exists()
    monkeypatch.setattr(os, "fsync", full)
    with refused(f"`path` {str(path)!r} cannot be written: {ERRORS[number]}."):
        WRITERS[name][0](path)
    assert os.listdir(tmp_path) == ["x"] * there
    assert not there or path.read_text() == "old"
    monkeypatch.undo()
    WRITERS[name][0](path)
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("when", ["open", "replace"])
def test_a_folder_that_nobody_may_write_in(tmp_path, when, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, when, refuse)
    with pytest.raises(
        pv.ArgumentError, match=r"cannot be written: you may not write in this folder\."
    ):
        write_whole(tmp_path / "x", b"new")
    assert os.listdir(tmp_path) == []


CHILD = """
import resource, signal, sys, os, torch, pruneviz as pv
torch.manual_seed(0)
what, path = sys.argv[1:]
model = torch.nn.Linear(100, 100)
if what == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    try:
        pv.save(model, path)
    except pv.ArgumentError as e:
        print(e)
else:
    os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
    pv.save(model, path)
"""


def child(what, path):
    env = {**os.environ, "PYTHONPATH": str(Path(pv.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-c", CHILD, what, path], capture_output=True, text=True, env=env
    )


def test_a_file_that_would_be_too_large_leaves_the_old_one(tmp_path):
    """Also root is held to RLIMIT_FSIZE."""
    path = tmp_path / "x"
    path.write_text("old")
    assert child("limit", path).stdout == (
        f"`path` {str(path)!r} cannot be written: it would be larger than a file may be here. Raise "
        "the limit (ulimit -f), or name a file on another disk.\n"
    )
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["x"])


def test_what_a_kill_left_behind_the_next_save_removes(tmp_path):
    path, other = tmp_path / "x", tmp_path / "y"
    path.write_text("old")
    assert child("kill", path).returncode == -signal.SIGKILL
    assert path.read_text() == "old" and len(os.listdir(tmp_path)) == 2
    pv.save(mlp(), other)  # of another file: not its own to remove
    (left,) = {*os.listdir(tmp_path)} - {"x", "y"}
    assert left.startswith(".pruneviz-") and left.endswith(".part")
    pv.save(mlp(), path)
    assert sorted(os.listdir(tmp_path)) == ["x", "y"]
    assert torch.equal(pv.load(path, mlp)[1].bias, pv.load(path, mlp)[1].bias)


def test_what_a_living_writer_writes_is_left_alone(tmp_path, monkeypatch):
    path, seen = tmp_path / "x", []
    sync = os.fsync

    def meanwhile(fd):
        if not seen:
            seen.append(1)
            write_whole(path, b"second")
            assert len(os.listdir(tmp_path)) == 2
        sync(fd)

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_whole(path, b"first")
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"first", ["x"])


@every_writer
def test_a_link_stays_a_link(tmp_path, name):
    (tmp_path / "far").mkdir()
    link = tmp_path / "link"
    link.symlink_to(Path("far") / "x")  # not there yet
    for _ in range(2):
        WRITERS[name][0](link)
        assert link.is_symlink() and (tmp_path / "far" / "x").is_file()
        if name in ("sweep", "sensitivity", "prune_iteratively"):
            break  # the second call would be another one: other weights
    assert sorted(os.listdir(tmp_path)) == ["far", "link"]
    assert os.listdir(tmp_path / "far") == ["x"]


def test_permissions_stay(tmp_path):
    path = tmp_path / "x"
    write_whole(path, b"1")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    path.chmod(0o640)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        os.chown(path, 1234, 1234)
    write_whole(path, b"2")
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert not root or (found.st_uid, found.st_gid) == (1234, 1234)


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def stop(fd):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "x", b"new")
    assert os.listdir(tmp_path) == []


def test_a_relative_name_and_one_of_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pv.save(mlp(), "x")
    pv.save(mlp(), b"y")
    assert sorted(os.listdir(tmp_path)) == ["x", "y"]
    assert checked_path(Path("a"), "b") == Path("a")


def test_many_threads_write_one_file(tmp_path):
    path = tmp_path / "x"
    contents = [bytes([i]) * 10_000 for i in range(8)]
    threads = [threading.Thread(target=write_whole, args=(path, c)) for c in contents]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert path.read_bytes() in contents and os.listdir(tmp_path) == ["x"]


def test_there_is_one_writer_at_a_time(tmp_path):
    path = tmp_path / "x"
    link = tmp_path / "link"
    link.symlink_to(path)
    for other in (path, link):
        with sole_writer(path):
            with (
                refused(
                    f"`path` {str(other)!r} is being written by another call. Wait until it has finished, "
                    "or name another file."
                ),
                sole_writer(other),
            ):
                pass
            with sole_writer(tmp_path / "y"):
                pass
    with sole_writer(path):  # it has finished
        pass
    assert os.listdir(tmp_path) == ["link"]


def test_only_one_of_many_threads_gets_in(tmp_path):
    inside, most, refusals = [], [], []

    def enter():
        for _ in range(50):
            try:
                with sole_writer(tmp_path / "x"):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            except pv.ArgumentError as e:
                refusals.append(e)

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert set(most) == {1} and os.listdir(tmp_path) == []
