"""What a camera sees, with a module in the place of OpenCV that stands for a camera."""

import _thread
import json
import sys
import threading
import time
import types

import numpy as np
import pytest
from conftest import randomize
from PIL import Image
from swin_keras.edge_demo import Classifier, camera
from swin_keras.edge_demo.__main__ import main as edge_main


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    from swin_keras.export import export_bundle

    import swin_keras

    folder = tmp_path_factory.mktemp("camera") / "bundle"
    export_bundle(randomize(swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=5)), folder, recipes=["float32"])
    return folder


@pytest.fixture
def opencv(monkeypatch):
    """Puts a module in the place of OpenCV whose camera 3 gives these pictures, and then presses Ctrl-C or is unplugged.

    It gives one when it is asked for one, or when `pace`, a semaphore, lets it.
    """

    def plug(pictures, at_end="ctrl-c", pace=None, seconds=0.0):
        waiting, released = iter(pictures), []
        if pace is None:
            pace, newest = threading.Semaphore(0), camera.Camera.newest

            def ask(self):
                pace.release()
                return newest(self)

            monkeypatch.setattr(camera.Camera, "newest", ask)

        class VideoCapture:
            def __init__(self, number):
                self.number = number

            def isOpened(self):
                return self.number == 3

            def read(self):
                pace.acquire(timeout=60)
                time.sleep(seconds)
                for picture in waiting:
                    if isinstance(picture, Exception):
                        raise picture
                    return True, picture
                if at_end == "ctrl-c":
                    _thread.interrupt_main()
                    pace.acquire(timeout=0.5)
                return False, None

            def release(self):
                released.append(self.number)

        monkeypatch.setitem(sys.modules, "cv2", types.SimpleNamespace(VideoCapture=VideoCapture))
        return released

    return plug


def test_a_line_a_picture_until_ctrl_c_then_median_and_p90_and_code_0(bundle, opencv, rng, capsys):
    pictures = rng.integers(0, 256, (3, 47, 61, 3)).astype("uint8")
    released = opencv(pictures)
    assert edge_main(["--camera", "3", "--bundle", str(bundle), "--top-k", "2"]) == 0
    *lines, summary = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in lines] == ["camera 3, picture 1", "camera 3, picture 2", "camera 3, picture 3"]
    assert all("decode" in line and line.count(" % class ") == 2 for line in lines)
    assert summary.startswith("3 pictures, median ") and ", p90 " in summary and summary.endswith(" ms")
    assert released == [3]


def test_json_is_that_of_the_picture_with_red_first(bundle, opencv, rng, tmp_path, capsys):
    blue_first = rng.integers(0, 256, (47, 61, 3)).astype("uint8")
    opencv([blue_first])
    assert edge_main(["--camera", "3", "--bundle", str(bundle), "--json", "--save-overlay", str(tmp_path / "seen")]) == 0
    captured = capsys.readouterr()
    (line,) = captured.out.splitlines()
    result = json.loads(line)
    Image.fromarray(np.ascontiguousarray(blue_first[..., ::-1])).save(tmp_path / "picture.png")
    assert result["top"] == Classifier(bundle).classify(tmp_path / "picture.png")["top"]
    assert set(result) == {"image", "recipe", "top", "ms", "frame", "overlay"} and (result["image"], result["frame"]) == ("camera 3", 1)
    assert [path.name for path in (tmp_path / "seen").iterdir()] == ["camera 3-overlay.jpg"]
    assert captured.err.startswith("1 pictures, median ")


def test_pictures_that_come_while_one_is_classified_are_passed_over(opencv):
    pictures, pace = [np.full((2, 2, 3), value, "uint8") for value in range(40)], threading.Semaphore(0)
    opencv(pictures, at_end="unplugged", pace=pace)
    source = camera.Camera(3)
    seen, came = [], 0
    for more in (1, 6, 4):
        came += more
        pace.release(more)
        deadline = time.monotonic() + 60
        while (source._frame is None or source._frame[0] < came) and time.monotonic() < deadline:
            time.sleep(0.005)
        seen.append(source.newest())
    pace.release()
    source.close()
    assert [number for number, _ in seen] == [1, 7, 11]
    assert all((picture == number - 1).all() for number, picture in seen)


def test_an_unplugged_camera_is_one_line_after_what_was_seen(bundle, opencv, rng, capsys):
    released = opencv([rng.integers(0, 256, (9, 7, 3)).astype("uint8")], at_end="unplugged")
    assert edge_main(["--camera", "3", "--bundle", str(bundle)]) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    assert captured.err == "error: expected a picture from the camera, received none. Was it unplugged?\n" and released == [3]


def test_a_camera_that_gives_nothing_is_not_waited_for_without_end(bundle, opencv, monkeypatch, capsys):
    opencv([], seconds=1.0, at_end="unplugged")
    monkeypatch.setattr(camera, "_PATIENCE", 0.2)
    assert edge_main(["--camera", "3", "--bundle", str(bundle)]) == 2
    assert "received none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("picture", "problem"),
    [(ValueError("(-215:Assertion failed)\nin function 'read'"), "(-215:Assertion failed) in function"), (np.ones((4, 5)), "(4, 5)")],
)
def test_what_goes_wrong_while_a_camera_is_read_is_one_line(bundle, opencv, capsys, picture, problem):
    released = opencv([picture])
    assert edge_main(["--camera", "3", "--bundle", str(bundle)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: expected a picture from the camera, received ") and problem in error and error.count("\n") == 1
    assert released == [3]


def test_a_camera_is_not_given_back_while_it_is_read(opencv):
    pace = threading.Semaphore(0)
    released = opencv([np.ones((4, 5, 3), "uint8")] * 2, pace=pace)
    source = camera.Camera(3)
    source.close()  # The thread waits for a picture, as it does for a camera that hangs.
    assert released == [] and source._thread.is_alive()
    pace.release()
    source._thread.join(timeout=60)
    assert released == [3]


def test_of_a_long_run_the_last_times_are_kept_and_all_pictures_counted(bundle, opencv, rng, monkeypatch, capsys):
    monkeypatch.setattr(camera, "REMEMBERED", 2)
    opencv(rng.integers(0, 256, (5, 9, 7, 3)).astype("uint8"))
    assert edge_main(["--camera", "3", "--bundle", str(bundle)]) == 0
    summary = capsys.readouterr().out.splitlines()[-1]
    assert summary.startswith("5 pictures, median ") and summary.endswith(" ms of the last 2")


def test_a_camera_that_is_not_there_is_refused(bundle, opencv, capsys):
    opencv([])
    assert edge_main(["--camera", "4", "--bundle", str(bundle)]) == 2
    assert capsys.readouterr().err.startswith("error: expected a camera, received 4, which does not open.")


def test_without_opencv_it_says_how_to_install_it(bundle, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert edge_main(["--camera", "0", "--bundle", str(bundle)]) == 2
    assert "`pip install opencv-python-headless` installs it" in capsys.readouterr().err
