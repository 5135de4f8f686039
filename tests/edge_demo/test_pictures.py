"""Pictures of all kinds: each is either read right or refused in one line."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image
from swin_keras.edge_demo import InputError, open_picture, preprocess

EXACT = {"mode": "exact", "resize": [32, 32], "crop": [32, 32], "interpolation": "bicubic", "mean": [0.0] * 3, "std": [1.0] * 3}


@pytest.fixture
def grey(rng):
    """A picture of 9x14 pixels in grey, so that every mode can hold it."""
    return np.repeat(rng.integers(0, 256, (9, 14, 1)).astype("uint8"), 3, axis=-1)


def save(path, picture, **options):
    picture.save(path, **options)
    return path


def pixels(path):
    return np.asarray(open_picture(path))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "CMYK", "1"])
def test_every_mode_reads_as_rgb(tmp_path, grey, mode):
    picture = Image.fromarray(grey)
    if mode == "1":
        grey = np.where(grey > 127, 255, 0).astype("uint8")
        picture = Image.fromarray(grey[..., 0] > 127)
    elif mode == "P":
        picture = Image.fromarray(grey[..., 0]).convert("P")  # a palette of greys, exact
    elif mode == "RGBA":
        picture.putalpha(255)
    else:
        picture = picture.convert(mode)
    path = save(tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png"), picture)
    np.testing.assert_allclose(pixels(path), grey, atol=1)


def test_transparency_is_ignored_as_in_training(tmp_path, grey, rng):
    picture = Image.fromarray(grey)
    picture.putalpha(Image.fromarray(rng.integers(0, 256, (9, 14)).astype("uint8")))
    np.testing.assert_array_equal(pixels(save(tmp_path / "picture.png", picture)), grey)


def test_sixteen_bit_grey_is_scaled_to_eight(tmp_path, grey):
    wide = Image.fromarray(grey[..., 0].astype("uint16") * 257)
    for name in ("picture.png", "picture.tif"):
        np.testing.assert_array_equal(pixels(save(tmp_path / name, wide)), grey)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, rng, orientation):
    upright = np.kron(rng.integers(0, 2, (4, 6)), np.ones((16, 16))).astype("uint8") * 255
    # How a camera stores an upright picture under each orientation.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    picture = Image.fromarray(np.ascontiguousarray(stored)).convert("RGB")
    exif = picture.getexif()
    exif[0x0112] = orientation
    path = save(tmp_path / "picture.jpg", picture, quality=95, exif=exif)
    np.testing.assert_allclose(pixels(path)[..., 0].astype(int), upright, atol=60)


def test_a_single_pixel_fills_the_input(tmp_path):
    path = save(tmp_path / "dot.png", Image.new("RGB", (1, 1), (255, 51, 0)))
    x = preprocess(open_picture(path), EXACT)
    assert x.shape == (1, 32, 32, 3) and x.dtype == np.float32
    np.testing.assert_allclose(x[0].reshape(-1, 3), np.tile([1.0, 0.2, 0.0], (1024, 1)), atol=1e-6)


def test_an_extreme_shape_is_read_without_making_a_huge_picture(tmp_path):
    path = save(tmp_path / "line.png", Image.new("RGB", (60000, 1), (0, 255, 0)))
    cover = {**EXACT, "mode": "cover", "resize": [36, 36]}
    np.testing.assert_allclose(preprocess(open_picture(path), cover)[0, :, :, 1], 1.0)


def test_resize_straight_to_the_crop_equals_resize_then_crop(rng):
    picture = Image.fromarray(rng.integers(0, 256, (61, 97, 3)).astype("uint8"))
    settings = {**EXACT, "mode": "cover", "resize": [40, 40], "crop": [32, 36]}
    full = np.asarray(picture.resize((40 * 97 // 61, 40), Image.Resampling.BICUBIC), "float32")
    left = round((40 * 97 // 61 - 36) / 2)
    np.testing.assert_allclose(preprocess(picture, settings)[0] * 255, full[4:36, left : left + 36], atol=1.01)


def damaged(kind):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype("uint8")).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0, 1, 10, 0.3, 0.7])
def test_a_truncated_picture_is_refused(tmp_path, kind, kept):
    content = damaged(kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(InputError, match=r"^expected a picture file, received .*Give the path of a PNG, JPEG or WebP file\.$"):
        open_picture(path)


def test_flipped_bytes_never_escape_as_another_error(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "mutated"
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF"):
        content = np.frombuffer(damaged(kind), "uint8")
        for _ in range(40):
            mutated = content.copy()
            where = rng.integers(0, len(mutated), 8)
            mutated[where] = rng.integers(0, 256, 8)
            path.write_bytes(mutated.tobytes())
            with contextlib.suppress(InputError):
                assert open_picture(path).mode == "RGB"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "gone.png", "there is no such file"),
        (lambda folder: folder, "this is a folder"),
        (lambda folder: (folder / "letter.png").write_text("Dear reader") and folder / "letter.png", "not a picture that Pillow can read"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        open_picture(make(tmp_path))


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = save(tmp_path / "bomb.png", Image.new("L", (30, 30)))
    with pytest.raises(InputError, match="too large"):
        open_picture(path)


def test_floating_point_pixels_are_refused(tmp_path, rng):
    path = save(tmp_path / "float.tif", Image.fromarray(rng.random((9, 14)).astype("float32")))
    with pytest.raises(InputError, match="floating-point numbers, whose range is not known"):
        open_picture(path)
