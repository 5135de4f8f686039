"""Pictures of all kinds: each is either read right or refused in one line."""

import contextlib
import io
import os
import time

import numpy as np
import pytest
from PIL import Image
from swin_keras.edge_demo import InputError, open_picture, preprocess
from swin_keras.edge_demo.preprocess import open_reduced, prepare

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


@pytest.mark.skipif("AVIF" not in Image.SAVE, reason="Pillow before 11.3 knows no AVIF")
def test_an_avif_whose_pixels_are_damaged_is_refused(tmp_path):
    content = damaged("AVIF")
    start = content.index(b"mdat") + 4
    (tmp_path / "damaged.avif").write_bytes(content[:start] + bytes(10) + content[start + 10 :])
    with pytest.raises(InputError, match=r"this picture is damaged \(Failed to decode frame 0"):
        open_picture(tmp_path / "damaged.avif")


def test_flipped_bytes_never_escape_as_another_error(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "mutated"
    for kind in [kind for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF") if kind in Image.SAVE]:
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


def photo(rng, height, width):
    """A picture with what photos have: structure of every size, sharp edges, and noise."""
    picture = np.zeros((height, width, 3), "float32")
    for side in (4, 8, 16, 32, 64, 128, 256):
        noise = Image.fromarray(rng.integers(0, 256, (side, side, 3)).astype("uint8")).resize((width, height), Image.Resampling.BICUBIC)
        picture += (np.asarray(noise, "float32") - 128) / side**0.8
    picture *= 55 / picture.std()
    for _ in range(40):
        top, left = rng.integers(0, height), rng.integers(0, width)
        picture[top : top + rng.integers(9, height // 3), left : left + rng.integers(9, width // 3)] = rng.integers(-128, 128, 3)
    return Image.fromarray(np.clip(128 + picture + rng.normal(0, 5, picture.shape), 0, 255).astype("uint8"))


PHOTO = {**EXACT, "mode": "cover", "resize": [256, 256], "crop": [224, 224], "std": [1 / 255] * 3}


# The first four are decoded at a half or a quarter, and 2.75 times 256 is 704: the last is not.
@pytest.mark.parametrize(("size", "factor"), [((1409, 1883), 2), ((2051, 1543), 2), ((2817, 3761), 4), ((4032, 3024), 4), ((1407, 1883), 1)])
def test_a_large_jpeg_decoded_smaller_gives_nearly_the_same_input(tmp_path, rng, size, factor):
    path = save(tmp_path / "photo.jpg", photo(rng, *size), quality=92)
    reduced = open_reduced(path, PHOTO)
    assert reduced.factor == factor and reduced.size == size[::-1]
    assert reduced.picture.size == tuple(-(-side // factor) for side in size[::-1])
    levels = np.abs(prepare(reduced, PHOTO) - preprocess(open_picture(path), PHOTO))
    assert levels.max() <= 12 and levels.mean() <= 0.5, (levels.max(), levels.mean())
    assert (levels.max() > 0) == (factor > 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["exact", "cover"])
def test_a_turned_jpeg_decoded_smaller_keeps_its_geometry(tmp_path, rng, orientation, mode):
    settings = {**PHOTO, "mode": mode, "resize": [31, 43], "crop": [31, 43]}
    picture = photo(rng, 421, 563)
    exif = picture.getexif()
    exif[0x0112] = orientation
    # 421 and 563 leave the last row and column of pixels filled in part.
    path = save(tmp_path / "photo.jpg", picture, quality=95, exif=exif)
    reduced = open_reduced(path, settings)
    assert reduced.factor in (2, 4)
    levels = np.abs(prepare(reduced, settings) - preprocess(open_picture(path), settings))
    assert levels.max() <= 12 and levels.mean() <= 1, (levels.max(), levels.mean())


def test_a_photo_with_a_second_one_behind_it_is_decoded_smaller_too(tmp_path, rng):
    picture = photo(rng, 801, 1203)
    path = save(tmp_path / "photo.jpg", picture, format="MPO", save_all=True, append_images=[picture.resize((90, 60))], quality=92)
    settings = {**PHOTO, "resize": [64, 64], "crop": [64, 48]}
    with Image.open(path) as opened:
        assert opened.format == "MPO"
    assert open_reduced(path, settings).factor == 4
    assert np.abs(prepare(open_reduced(path, settings), settings) - preprocess(open_picture(path), settings)).max() <= 12


def test_an_orientation_that_stands_behind_the_pixels_is_followed(tmp_path, rng):
    picture = photo(rng, 41, 67)
    exif = picture.getexif()
    exif[0x0112] = 6
    content = save(tmp_path / "photo.png", picture, exif=exif).read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    before_end = content.index(b"IEND") - 4
    (tmp_path / "photo.png").write_bytes(content[:start] + content[end:before_end] + content[start:end] + content[before_end:])
    settings = {**PHOTO, "resize": [16, 16], "crop": [16, 16]}
    reduced = open_reduced(tmp_path / "photo.png", settings)
    assert reduced.picture.size == reduced.size == (41, 67)
    np.testing.assert_array_equal(prepare(reduced, settings), preprocess(picture.transpose(Image.Transpose.ROTATE_270), settings))


def test_what_is_no_jpeg_is_decoded_whole_and_alike(tmp_path, rng):
    for name in ("photo.png", "photo.webp", "photo.tif"):
        path = save(tmp_path / name, photo(rng, 900, 1100))
        settings = {**PHOTO, "resize": [64, 48], "crop": [64, 48]}
        reduced = open_reduced(path, settings)
        assert reduced.factor == 1
        np.testing.assert_array_equal(prepare(reduced, settings), preprocess(open_picture(path), settings))


@pytest.mark.alone
def test_twelve_megapixels_are_ready_within_150_ms(tmp_path, rng):
    path = save(tmp_path / "photo.jpg", photo(rng, 3024, 4032), quality=90)
    assert path.stat().st_size > 2e6
    times = [1.0]
    while min(times) > 0.15 and len(times) < 20:  # Other work on the machine only ever adds.
        started = time.perf_counter()
        assert prepare(open_reduced(path, PHOTO), PHOTO).shape == (1, 224, 224, 3)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.15, times


def test_what_has_to_be_decoded_is_limited_and_not_what_a_jpeg_is(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    settings = {**EXACT, "resize": [16, 16], "crop": [16, 16]}
    picture = Image.new("RGB", (250, 200), (9, 99, 199))
    reduced = open_reduced(save(tmp_path / "photo.jpg", picture), settings)
    np.testing.assert_allclose(prepare(reduced, settings)[0, 5, 5] * 255, (9, 99, 199), atol=2)
    for name, options in (("photo.png", {}), ("progressive.jpg", {"progressive": True})):
        path = save(tmp_path / name, picture, **options)
        with pytest.raises(InputError, match=r"too large \(250x200 pixels\)"):
            open_reduced(path, settings)
    assert open_picture(path).size == (250, 200)


def test_a_format_for_which_pillow_starts_a_program_is_no_picture(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("it was started"))
    path = save(tmp_path / "photo.eps", Image.new("RGB", (30, 20)))
    for name in (path, path.rename(tmp_path / "photo.jpg")):
        with pytest.raises(InputError):
            open_picture(name)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(InputError, match="it is no regular file"):
        open_picture(tmp_path / "pipe.jpg")


def test_what_a_decoder_thinks_of_a_file_stays_off_standard_error(tmp_path, rng, capfd):
    content = bytearray(save(tmp_path / "photo.tif", photo(rng, 40, 50).convert("1"), compression="group4").read_bytes())
    for where in rng.integers(8, len(content) // 2, 40):
        content[where] ^= 255
    (tmp_path / "photo.tif").write_bytes(content)
    with contextlib.suppress(InputError):
        open_picture(tmp_path / "photo.tif")
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg", "tiff"])
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0II*\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\xff\xff\xff\xff", b"Exif\0\0"], ids=["cut", "wild", "empty"]
)
def test_damaged_exif_leaves_a_picture_as_it_stands(kind, exif, tmp_path, rng):
    grey = np.repeat(np.repeat(rng.integers(0, 256, (5, 7)).astype("uint8"), 8, 0), 8, 1)
    path = tmp_path / f"picture.{kind}"
    options = {} if kind == "tiff" else {"exif": exif}
    Image.fromarray(grey).convert("RGB").save(path, **options, **({"lossless": True} if kind == "webp" else {}))
    for opened in (open_picture(path), open_reduced(path, EXACT).picture):
        assert np.abs(np.asarray(opened).astype(int)[..., 0] - grey).max() < 30


def test_a_large_png_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    from PIL import PngImagePlugin

    path = tmp_path / "large.png"
    Image.new("1", (9600, 9400)).save(path)

    def load(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(InputError, match="this picture is too large .9600x9400 pixels"):
        open_reduced(path, EXACT)
