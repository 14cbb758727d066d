import wave

import cv2
import numpy as np
import pytest
from PIL import Image

from retinalib.datasets import video
from retinalib.datasets.video import Video, write_video


def pictures(count, size=(64, 48)):
    return [np.full((size[1], size[0], 3), (250, 30, 10 * number), np.uint8) for number in range(count)]


def test_what_is_written_is_read(tmp_path):
    write_video(tmp_path / "new" / "a.mp4", pictures(12), 25)
    found = Video(tmp_path / "new" / "a.mp4")
    assert (found.size, found.fps, found.frames, found.camera) == ((64, 48), 25, 12, False)
    times, images = zip(*found.read(), strict=True)
    np.testing.assert_allclose(times, np.arange(12) / 25, atol=1e-3)
    assert np.abs(np.mean(images, (1, 2)) - [[250, 30, 10 * n] for n in range(12)]).max() < 12  # RGB
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.mp4"]
    rest = list(Video(tmp_path / "new" / "a.mp4").read(9))
    assert [t for t, _ in rest] == list(times[9:]) and np.array_equal(rest[0][1], images[9])


def test_times_are_those_of_the_file_where_they_vary(tmp_path):
    shown = [40, 40, 200, 40, 600, 40]  # ms that each picture stays
    first, *others = map(Image.fromarray, pictures(6))
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=shown)
    times = [time for time, _ in Video(tmp_path / "a.gif").read()]
    np.testing.assert_allclose(times, np.cumsum([0, *shown[:-1]]) / 1000, atol=1e-3)


def test_where_times_are_missing_they_follow_from_the_rate(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", pictures(4), 20)
    found = Video(tmp_path / "a.mp4")
    capture = found._capture

    class Timeless:
        grab, retrieve = capture.grab, capture.retrieve

        def get(self, _):
            return 0.0

    monkeypatch.setattr(found, "_capture", Timeless())
    np.testing.assert_allclose([time for time, _ in found.read()], [0, 0.05, 0.1, 0.15])


def test_what_is_no_video_is_said_in_a_sentence(tmp_path, capfd, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"there is no video .*none\.mp4"):
        Video(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 8000, "NONE", ""))
        sound.writeframes(bytes(16000))
    write_video(tmp_path / "cut.mp4", pictures(20), 25)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "cut.mp4").read_bytes()[:-700])  # the index stands at the end
    for name in ("text.mp4", "sound.wav", "cut.mp4"):
        with pytest.raises(ValueError, match=rf"{name} is no video that OpenCV can read: .*audio alone"):
            Video(tmp_path / name)
    with pytest.raises(ValueError, match="there is no camera 63"):
        Video(63)
    monkeypatch.setattr(video, "_MOST_PIXELS", 1000)
    write_video(tmp_path / "a.mp4", pictures(1), 25)
    with pytest.raises(ValueError, match="frames of 64 × 48 pixels, more than 8K"):
        Video(tmp_path / "a.mp4")
    assert capfd.readouterr().err == ""  # nothing of OpenCV's or FFmpeg's


def test_a_file_that_ends_early_gives_what_it_has(tmp_path):
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for picture in pictures(40):
        writer.write(picture)
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match=r"a\.avi ends early: \d+ of 40 frames can be read"):
        frames = list(Video(path).read())
    assert 5 < len(frames) < 30


def test_an_error_leaves_the_old_video(tmp_path):
    write_video(tmp_path / "a.mp4", pictures(3), 25)
    before = (tmp_path / "a.mp4").read_bytes()

    def failing():
        yield pictures(1)[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_video(tmp_path / "a.mp4", failing(), 25)
    with pytest.raises(ValueError, match="could not be written as MP4"):
        write_video(tmp_path / "a.mp4", [], 25)
    assert (tmp_path / "a.mp4").read_bytes() == before
