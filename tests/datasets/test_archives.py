import io
import tarfile
import zipfile

import numpy as np
import pytest

from retinalib.datasets import archives, wflw


def make_tar(path, members):
    with tarfile.open(path, "w:gz") as file:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content)
            info.linkname = "/etc/passwd" if kind != tarfile.REGTYPE else ""
            file.addfile(info, io.BytesIO(content))


def lists(faces):
    rng = np.random.default_rng(0)
    row = " ".join(f"{v:.3f}" for v in rng.uniform(0, 99, 196)) + " 1 2 30 40 0 0 0 0 0 0 a/b.jpg\n"
    return [(wflw.LISTS.format(split=s), (row * n).encode(), tarfile.REGTYPE) for s, n in faces.items()]


def test_wflw_is_extracted_and_counted(tmp_path, monkeypatch):
    monkeypatch.setitem(archives.EXPECTED, "wflw", {"train": 3, "test": 2})
    make_tar(tmp_path / "WFLW_images.tar.gz", [("WFLW_images/a/b.jpg", b"x", tarfile.REGTYPE)])
    make_tar(tmp_path / "WFLW_annotations.tar.gz", lists({"train": 3, "test": 2}))
    assert archives.prepare("wflw", tmp_path) == {"train": 3, "test": 2}
    assert archives.prepare("wflw", tmp_path) == {"train": 3, "test": 2}  # nothing to do
    assert not list(tmp_path.glob(".extracting*"))


def test_another_number_of_faces_is_refused(tmp_path):
    make_tar(tmp_path / "WFLW_images.tar.gz", [("WFLW_images/a/b.jpg", b"x", tarfile.REGTYPE)])
    make_tar(tmp_path / "WFLW_annotations.tar.gz", lists({"train": 3, "test": 2}))
    with pytest.raises(ValueError, match="train: 3 instead of 7,500; test: 2 instead of 2,500 faces"):
        archives.prepare("wflw", tmp_path)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_hostile_archives_write_nothing(tmp_path, kind):
    name = "../out.txt" if kind == tarfile.REGTYPE else "a/odd"
    make_tar(tmp_path / "bad.tar.gz", [("good.txt", b"fine", tarfile.REGTYPE), (name, b"", kind)])
    with pytest.raises(ValueError, match=r"bad\.tar\.gz is damaged or can't be unpacked \("):
        archives.extract(tmp_path / "bad.tar.gz", tmp_path / "to")
    assert [p.name for p in (tmp_path / "to").iterdir()] == [".lock"] and not (tmp_path / "out.txt").exists()


def test_paths_that_lead_out_stay_in_the_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        file.writestr("../a.txt", "x")
        file.writestr("/b.txt", "x")
    make_tar(tmp_path / "bad.tar.gz", [("/c.txt", b"x", tarfile.REGTYPE)])
    for name in ("bad.zip", "bad.tar.gz"):
        archives.extract(tmp_path / name, tmp_path / "to")
    assert sorted(p.name for p in (tmp_path / "to").iterdir()) == [".lock", "a.txt", "b.txt", "c.txt"]


@pytest.mark.parametrize("at", [60, 5_000, 150_000, -6])
def test_one_wrong_byte_in_an_archive_is_noticed(tmp_path, at):
    """Photos are packed as they are, so that a wrong byte unpacks without a complaint: the checksum tells."""
    rng = np.random.default_rng(0)
    members = [(f"photos/{n}.jpg", rng.bytes(90_000), tarfile.REGTYPE) for n in range(2)]
    make_tar(tmp_path / "bad.tar.gz", members)
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        for name, content, _ in members:
            file.writestr(name, content)
    for name in ("bad.tar.gz", "bad.zip") if at > 0 else ("bad.tar.gz",):
        data = bytearray((tmp_path / name).read_bytes())
        data[at] ^= 255
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name} is damaged .*: download it again$"):
            archives.extract(tmp_path / name, tmp_path / "to")
        assert [p.name for p in (tmp_path / "to").iterdir()] == [".lock"]


def test_archives_that_can_not_be_unpacked_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as file:
        for number in range(5):
            file.writestr(str(number), b"hello")
    plain = (tmp_path / "many.zip").read_bytes()
    locked = bytearray(plain)
    locked[6] |= 1
    locked[plain.index(b"PK\x01\x02") + 8] |= 1
    cut = {"half.zip": (b"PK\x03\x04 cut off", ".*: download it again$"), "half.tar.gz": (b"\x1f\x8b cut off", "")}
    for name, (data, said) in {**cut, "locked.zip": (locked, r"or can't be unpacked \(File .* is encrypted")}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name} is damaged {said}"):
            archives.extract(tmp_path / name, tmp_path / "to")
    assert [p.name for p in (tmp_path / "to").iterdir()] == [".lock"]


def test_what_a_killed_extraction_left_is_removed_and_two_mac_archives_get_on(tmp_path):
    (tmp_path / "to" / ".extracting-abc").mkdir(parents=True)
    for name in ("one", "two"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as file:
            file.writestr(f"{name}/a.txt", "x")
            file.writestr("__MACOSX/._a.txt", "x")
        archives.extract(tmp_path / f"{name}.zip", tmp_path / "to")
    assert sorted(p.name for p in (tmp_path / "to").iterdir()) == [".lock", "one", "two"]
