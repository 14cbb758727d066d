"""Freed memory stays with the process, where the C library can be told so."""

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from retinalib import memory

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")

FAULTS = """
import ctypes, resource, sys
import torch
from retinalib import memory

how, blocks, megabytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: one fault for each small page
getattr(memory, how, lambda: None)()
counts = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(megabytes * 1_000_000, dtype=torch.uint8) for _ in range(blocks)]
    del held
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(counts[0], counts[-1])
"""


@glibc
@pytest.mark.parametrize(("how", "blocks", "megabytes"), [("keep_freed_memory", 3, 40), ("expect_large_blocks", 4, 6)])
def test_memory_is_asked_for_once(how, blocks, megabytes):
    pages = blocks * megabytes * 1_000_000 / 4096
    first, last = _faults(how, blocks, megabytes)
    assert first > pages / 2 and last < pages / 10


@glibc
def test_glibc_keeps_no_larger_blocks_by_itself():
    first, last = _faults("nothing", 3, 40)
    assert last > first / 2, "it does: there is no need to tell it any more"


def test_another_library_is_left_alone(monkeypatch):
    looked, told = [], []
    glibc = SimpleNamespace(mallopt=lambda *option: told.append(option))

    def library(result):
        def load(name):
            looked.append(name)
            if isinstance(result, Exception):
                raise result
            return result

        return load

    for other in (object(), OSError("no such library"), TypeError("a name is needed")):  # musl, none, Windows
        monkeypatch.setattr(memory.ctypes, "CDLL", library(other))
        assert memory.keep_freed_memory() is None
    assert looked == [None] * 3 and told == []
    monkeypatch.setattr(memory.ctypes, "CDLL", library(glibc))
    memory.keep_freed_memory()
    assert told == [(-1, -1), (-4, 0)]  # M_TRIM_THRESHOLD, M_MMAP_MAX


def _faults(how, blocks, megabytes):
    command = [sys.executable, "-c", FAULTS, how, str(blocks), str(megabytes)]
    return map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
