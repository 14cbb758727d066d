import os

import pytest

from retinalib.files import replacing, write_text


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


def test_the_old_file_can_be_kept_under_another_name(tmp_path):
    for text in ("one", "two", "three"):
        with replacing(tmp_path / "a.txt", before=tmp_path / "b.txt") as temporary:
            temporary.write_text(text)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "three", "b.txt": "two"}
