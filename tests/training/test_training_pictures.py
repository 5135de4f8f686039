"""The pictures of a run: what stands where, read back from their pixels."""

import numpy as np
import pytest
from PIL import Image

from swin_keras.training import pictures

BLUE, VERMILION, GREY = (0, 114, 178), (213, 94, 0), (240, 240, 240)


def pixels_of(path, colour, box):
    """Returns x and y of the pixels of exactly this colour within `(left, top, right, bottom)`."""
    left, top, right, bottom = box
    y, x = np.nonzero((np.asarray(Image.open(path).convert("RGB"))[top:bottom, left:right] == colour).all(-1))
    return x + left, y + top


# Below the legend.
LEFT, RIGHT = (0, 72, 600, 600), (600, 72, 1200, 600)


def test_curves_stand_where_their_values_are(tmp_path):
    rows = [{"epoch": epoch, "loss": loss, "val_accuracy": accuracy} for epoch, loss, accuracy in [(1, 4.0, 0.2), (2, 1.0, 0.9), (3, 2.0, 0.3)]]
    pictures.draw_curves(rows, tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    assert Image.open(tmp_path / "curves.png").size == (1200, 600)
    x, y = pixels_of(tmp_path / "curves.png", BLUE, LEFT)
    first, second, third = (np.mean(y[np.abs(x - at) <= 1]) for at in (x.min() + 4, (x.min() + x.max()) / 2, x.max() - 4))
    # Pixels go down: a loss of 1 is the lowest, and 4 stands three times as far from it as 2.
    assert second > third > first and (second - first) / (second - third) == pytest.approx(3, abs=0.2)
    x, y = pixels_of(tmp_path / "curves.png", VERMILION, RIGHT)
    assert abs(x[y.argmin()] - (x.min() + x.max()) / 2) < 12  # the best validation accuracy, of epoch 2, is the highest
    assert not len(pixels_of(tmp_path / "curves.png", VERMILION, LEFT)[0]) and not len(pixels_of(tmp_path / "curves.png", BLUE, RIGHT)[0])


def test_values_that_are_no_numbers_leave_a_gap(tmp_path):
    rows = [{"epoch": epoch, "loss": float("nan") if 40 <= epoch <= 60 else 1.0} for epoch in range(1, 101)]
    pictures.draw_curves(rows, tmp_path / "curves.png")
    x, _ = pixels_of(tmp_path / "curves.png", BLUE, (0, 72, 1200, 600))
    steps = np.diff(np.unique(x))
    assert steps.max() / (x.max() - x.min()) == pytest.approx(22 / 99, abs=0.02) and np.sum(steps > 1) == 1
    pictures.draw_curves([{"epoch": 1, "loss": float("inf"), "val_loss": float("nan")}], tmp_path / "curves.png")
    for colour in (BLUE, VERMILION):
        assert not len(pixels_of(tmp_path / "curves.png", colour, (0, 0, 1200, 600))[0])


def test_one_epoch_is_a_dot_for_each_curve(tmp_path):
    pictures.draw_curves([{"epoch": 1, "loss": 2.5, "val_loss": 2.0, "learning_rate": 1e-4}], tmp_path / "curves.png")
    (x, y), (best_x, best_y) = (pixels_of(tmp_path / "curves.png", colour, LEFT) for colour in (BLUE, VERMILION))
    assert 4 < np.ptp(x) < 12 and 4 < np.ptp(y) < 12 and np.mean(x) == pytest.approx(np.mean(best_x), abs=1) and np.mean(y) < np.mean(best_y)
    # Without accuracies, the learning rate takes their place.
    assert len(pixels_of(tmp_path / "curves.png", BLUE, RIGHT)[0])


@pytest.mark.parametrize(
    ("low", "high", "whole", "expected"),
    [
        (0.13, 0.98, False, ["0.2", "0.4", "0.6", "0.8"]),
        (96.2, 98.1, False, ["96.5", "97.0", "97.5", "98.0"]),
        (0, 1.1e-4, False, ["0", "2e-05", "4e-05", "6e-05", "8e-05", "0.0001"]),
        (1, 3, True, ["1", "2", "3"]),
        (1, 300, True, ["50", "100", "150", "200", "250", "300"]),
        (7, 7, True, ["7"]),
    ],
)
def test_ticks_are_round_numbers(low, high, whole, expected):
    assert [text for _, text in pictures._ticks(low, high, 8, whole)] == expected


def heat_map(path):
    """Returns the box of the heat map of a picture whose first and last classes are always right."""
    x, y = pixels_of(path, BLUE, (0, 0, Image.open(path).width, Image.open(path).height - 60))
    return x.min(), y.min(), x.max() + 1, y.max() + 1


@pytest.mark.parametrize("classes", [5, 23, 40, 333])
def test_rows_of_the_heat_map_are_true_classes_and_columns_answers(tmp_path, classes):
    counts = 70 * np.eye(classes, dtype=int)
    counts[1, 3] = 70
    counts[2] = 0
    pictures.draw_confusion(counts, [f"n{index:08d}" for index in range(classes)], tmp_path / "confusion.png")
    left, top, right, bottom = heat_map(tmp_path / "confusion.png")
    assert right - left == bottom - top and (right - left) % classes == 0
    side = (right - left) // classes
    picture = np.asarray(Image.open(tmp_path / "confusion.png"))

    def cell(row, column):  # next to its corner, where there is neither a count nor a line
        return picture[top + row * side + min(2, side - 1), left + column * side + min(2, side - 1)]

    assert tuple(cell(0, 0)) == BLUE and tuple(cell(2, 2)) == tuple(cell(2, 4)) == GREY
    # Half of the pictures of class 1 are right; no class is more often taken for another than it.
    half = 255 - np.sqrt(0.5) * (255 - np.array(BLUE))
    assert tuple(cell(1, 3)) == VERMILION and cell(1, 1) == pytest.approx(half, abs=1)
    assert tuple(cell(3, 1)) == tuple(cell(4, 3)) == (255, 255, 255)


def test_neighbours_share_a_cell_where_classes_are_many(tmp_path):
    counts = np.eye(1000, dtype=int)
    counts[0:3], counts[0:3, 990:992] = 0, 5
    pictures.draw_confusion(counts, [str(index) for index in range(1000)], tmp_path / "confusion.png")
    assert Image.open(tmp_path / "confusion.png").width < 900
    wrong = pixels_of(tmp_path / "confusion.png", VERMILION, (0, 0, 2000, Image.open(tmp_path / "confusion.png").height - 60))
    right = pixels_of(tmp_path / "confusion.png", BLUE, (0, 0, 2000, Image.open(tmp_path / "confusion.png").height - 60))
    # 334 cells of 3 classes, 2 pixels each: all of the first three are wrong, in one cell of the upper right.
    assert len(wrong[0]) == 4 and len(right[0]) == 4 * 333
    assert wrong[1].max() < right[1].min() and right[0].max() - wrong[0].max() == 2 * 3


def test_labels_that_the_font_lacks_are_written_otherwise():
    received = [pictures._writable(label, 4) for label in ("Kätzchen", "漢字", "tench, Tinca tinca, a fish", "two\nlines")]
    assert received == ["Katzchen", "class 4", "tench, Tinca tinca, a…", "class 4"]


def test_a_picture_that_cannot_be_written_leaves_the_older_one(tmp_path, monkeypatch):
    pictures.draw_confusion([[1, 0], [0, 1]], ["a", "b"], tmp_path / "confusion.png")
    before = (tmp_path / "confusion.png").read_bytes()

    def fill_the_disk(self, path, format):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        pictures.draw_confusion([[0, 1], [0, 1]], ["a", "b"], tmp_path / "confusion.png")
    assert [path.name for path in tmp_path.iterdir()] == ["confusion.png"] and (tmp_path / "confusion.png").read_bytes() == before
