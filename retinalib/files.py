"""What no interruption breaks: a file is there whole or not at all, a folder has one process, and none outlives its parent."""

import multiprocessing
import os
import re
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path``, which takes its place at the end: an interruption leaves the old file or the new one.
    Makes the folder. Raises OSError, naming the file, where it can't be written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"{path} could not be written and is as it was before: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # a name too long can't be removed either, and the first error says why
            temporary.unlink()


def write_bytes(path: str | Path, data: bytes | memoryview) -> None:
    """Writes a file, see :func:`replacing`; a power cut leaves no empty file either."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text, see :func:`write_bytes`."""
    write_bytes(path, text.encode())


@contextmanager
def only_process(folder: str | Path, wait: bool = False) -> Iterator[None]:
    """Keeps a folder for this process, and removes what killed ones left half written in it. Makes the folder. wait: until
    another process has finished; else, raises ValueError where one has the folder. Raises RuntimeError in a process that
    another one started and that is still importing the program: there, the work would be begun a second time."""
    folder = Path(folder)
    frames = (frame for frame, _ in traceback.walk_stack(None))
    if any(f.f_code.co_name == "<module>" and f.f_globals.get("__name__") == "__mp_main__" for f in frames):
        remedy = "put what the program does below a line \"if __name__ == '__main__':\""
        raise RuntimeError(f"work in {folder} was started while a process imported the program, to help another one: {remedy}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=-1 if wait else 0):
            for path in folder.rglob(".*"):
                if re.fullmatch(r"\..+\.\d+", path.name):  # a temporary name of replacing
                    path.unlink()
            yield
    except Timeout:
        raise ValueError(f"another process is at work in {folder}: wait for it, or end it first") from None


def end_with_parent() -> None:
    """In a process of a pool: lets it end as soon as the one that started it is gone, even if that was killed."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
