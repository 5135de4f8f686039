"""Classifies what a camera sees, until Ctrl-C."""

import collections
import threading
import time

import numpy as np
from PIL import Image

from .errors import InputError
from .preprocess import Opened
from .quiet import quietly

_PATIENCE = 10  # seconds without a picture
REMEMBERED = 1000  # times


class Camera:
    """The newest picture of a camera; those that come while it is classified are passed over.

    Args:
        number: Integer, as OpenCV counts cameras.

    Raises:
        InputError: If OpenCV is not installed, or there is no such camera.
    """

    def __init__(self, number):
        try:
            import cv2
        except ImportError as error:
            raise InputError(f"expected OpenCV for --camera: {error}. `pip install opencv-python-headless` installs it.") from error
        try:
            self._capture = quietly(lambda: cv2.VideoCapture(number))
            opened = self._capture.isOpened()
        except Exception:  # OpenCV's own is no subclass of anything more telling.
            opened = False
        if not opened:
            raise InputError(f"expected a camera, received {number}, which does not open. Is it plugged in, and does no other program use it?")
        self._news, self._frame, self._ended, self._problem = threading.Condition(), None, False, "none. Was it unplugged?"
        # OpenCV hands out pictures in order; who does not fetch them sees the past.
        self._thread = threading.Thread(target=self._fetch, daemon=True)
        self._thread.start()

    def _fetch(self):
        number = 0
        try:
            while not self._ended:
                arrived, frame = self._capture.read()
                number += 1
                if arrived and (frame.ndim, frame.shape[-1]) != (3, 3):
                    raise ValueError(f"an array of shape {frame.shape}")
                with self._news:
                    self._frame, self._ended = (number, frame) if arrived else None, self._ended or not arrived
                    self._news.notify()
        except Exception as error:
            with self._news:
                self._frame, self._ended, self._problem = None, True, f"{error}. Try another camera, or plug it in again."
                self._news.notify()
        finally:
            # Here, since OpenCV does not survive that a camera is given back while it is read.
            self._capture.release()

    def newest(self):
        """Waits for a picture that was not returned yet.

        Returns:
            How many pictures had come with it, and the picture: uint8 `(height, width, 3)`, blue first.

        Raises:
            InputError: If the camera gives no more.
        """
        with self._news:
            if not self._news.wait_for(lambda: self._frame is not None or self._ended, _PATIENCE) or self._frame is None:
                raise InputError(f"expected a picture from the camera, received {self._problem}")
            frame, self._frame = self._frame, None
            return frame

    def close(self):
        """Gives the camera back, unless it does not answer: then it is given back with the end of the process."""
        with self._news:
            self._ended = True
        self._thread.join(timeout=1)


def watch(classifier, number, show, top_k=None, threshold=None):
    """Classifies the newest picture of a camera again and again, until Ctrl-C.

    Args:
        classifier: `BundleModel`.
        number: Integer. Which camera.
        show: Function of a result, as `BundleModel.classify` returns it with `frame`, the number of the picture, and of the picture.
        top_k, threshold: As in `BundleModel.classify`.

    Returns:
        How many pictures were classified, and the milliseconds from a picture's arrival here to its result, of the last thousand.

    Raises:
        InputError: As `Camera`.
    """
    camera, times, count = Camera(number), collections.deque(maxlen=REMEMBERED), 0
    try:
        while True:
            frame, pixels = camera.newest()
            started = time.perf_counter()
            picture = Image.fromarray(np.ascontiguousarray(pixels[:, :, ::-1]))
            decode_ms = round(1000 * (time.perf_counter() - started), 3)
            result = classifier.classify_opened(f"camera {number}", Opened(picture, picture.size), decode_ms, top_k, threshold)
            times.append(1000 * (time.perf_counter() - started))
            count += 1
            show({**result, "frame": frame}, picture)
    except KeyboardInterrupt:
        return count, list(times)
    finally:
        camera.close()
