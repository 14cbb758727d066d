import os
import subprocess
import sys

import pytest

from retinalib.files import only_process, write_text


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "new folder" / "a.txt"
    write_text(path, "één\n")
    write_text(path, "two\n")
    assert path.read_bytes() == b"two\n" and [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_an_interruption_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_whose_owner_was_killed_is_tidied(tmp_path):
    leftover, kept = tmp_path / "pictures" / ".001.jpg.4711", tmp_path / ".hidden"
    for path in (leftover, kept):
        write_text(path, "")
    with only_process(tmp_path):
        assert not leftover.exists() and kept.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", ".lock", "pictures"]


UNGUARDED = """
import multiprocessing
from retinalib.files import only_process

with only_process({folder!r}):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map_async(abs, [-1]).get(timeout=20))
"""


def test_a_program_without_a_guard_is_told_of_it(tmp_path):
    """Where processes are spawned they import the program, which would begin its work again in each."""
    (tmp_path / "script.py").write_text(UNGUARDED.format(folder=str(tmp_path / "run")))
    with subprocess.Popen([sys.executable, tmp_path / "script.py"], stderr=subprocess.PIPE, text=True) as process:
        said = next((line for line in process.stderr if "Error: work in" in line), "")
        process.kill()
    assert "put what the program does below a line \"if __name__ == '__main__':\"" in said
