"""A folder of pictures becomes a table; damaged ones are told in their rows. And what is drawn under a picture."""

import csv
import errno
import io
import json
import os
import pathlib

import numpy as np
import pytest
from conftest import randomize
from PIL import Image
from swin_keras.edge_demo import Classifier, InputError, folder, overlay
from swin_keras.edge_demo.__main__ import main as edge_main

LABELS = ["nought", "one, two", '"three"', "four", "=five"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    from swin_keras.export import export_bundle

    import swin_keras

    folder = tmp_path_factory.mktemp("folder") / "bundle"
    model = randomize(swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=5))
    export_bundle(model, folder, recipes=["float32"], labels=LABELS)
    return folder


@pytest.fixture
def pictures(tmp_path, rng, monkeypatch):
    """b.png, a/c.JPG and a/d.png, beside what is none; the current folder is an empty one."""
    (tmp_path / "pictures" / "a").mkdir(parents=True)
    for name in ("b.png", "a/c.JPG", "a/d.png", ".hidden.png"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3)).astype("uint8")).save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    (tmp_path / "pictures" / "a" / "loop").symlink_to(tmp_path / "pictures")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "pictures"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_becomes_a_table_in_the_order_of_names(bundle, pictures, tmp_path, capsys):
    assert edge_main(["--folder", str(pictures), "--bundle", str(bundle), "--top-k", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and captured.out.startswith("3 pictures, median ") and captured.out.endswith(", in results.csv\n")
    assert names(tmp_path / "here") == ["results.csv"]
    rows = table("results.csv")
    assert [row["image"] for row in rows] == [str(pictures / name) for name in ("a/c.JPG", "a/d.png", "b.png")]
    classifier = Classifier(bundle)
    for row in rows:
        top = classifier.classify(row["image"], top_k=2)["top"]
        for rank, entry in enumerate(top, 1):
            assert (row[f"label_{rank}"], int(row[f"index_{rank}"])) == (entry["label"], entry["index"])
            assert float(row[f"probability_{rank}"]) == pytest.approx(entry["probability"], abs=1e-6)
        assert row["error"] == "" and all(float(row[f"{part}_ms"]) >= 0 for part in ("decode", "preprocess", "inference"))


def test_damaged_pictures_are_rows_and_the_rest_is_classified_with_code_1(bundle, pictures, capsys):
    (pictures / "a" / "d.png").write_bytes((pictures / "a" / "d.png").read_bytes()[:300])
    os.mkfifo(pictures / "pipe.png")
    arguments = ["--folder", str(pictures), "--bundle", str(bundle)]
    assert edge_main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err == "error: 2 of 4 pictures could not be classified; their `error` says why\n"
    assert captured.out.startswith("2 of 4 pictures, median ")
    rows = table("results.csv")
    assert [bool(row["error"]) for row in rows] == [False, True, False, True] and all(bool(row["label_1"]) != bool(row["error"]) for row in rows)
    assert "this picture is damaged" in rows[1]["error"] and "no regular file" in rows[3]["error"]
    from swin_keras.cli import main

    assert main(["classify", *arguments]) == 1


def test_json_is_a_line_a_picture_and_no_table_unless_asked_for(bundle, pictures, tmp_path, capsys):
    (pictures / "b.png").write_bytes(b"nonsense")
    arguments = ["--folder", str(pictures), "--bundle", str(bundle), "--json", "--threshold", "0.2"]
    assert edge_main(arguments) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(line) for line in lines] == [{"image", "recipe", "top", "ms"}] * 2 + [{"image", "error"}]
    assert all(entry["probability"] >= 0.2 for line in lines[:2] for entry in line["top"]) and names(tmp_path / "here") == []
    assert edge_main([*arguments, "--csv", "table.csv"]) == 1
    rows = table("table.csv")
    assert len(rows) == 3 and list(rows[0])[-4:] == ["decode_ms", "preprocess_ms", "inference_ms", "error"] and "label_5" in rows[0]


def test_a_table_that_is_not_ours_stays_and_ours_is_replaced(bundle, pictures, tmp_path, capsys):
    (tmp_path / "here" / "results.csv").write_text("my,own\n")
    assert edge_main(["--folder", str(pictures), "--bundle", str(bundle)]) == 2
    assert "expected a new file for --csv" in capsys.readouterr().err and (tmp_path / "here" / "results.csv").read_text() == "my,own\n"
    for _ in range(2):
        assert edge_main(["--folder", str(pictures), "--bundle", str(bundle), "--csv", "other.csv"]) == 0
    assert names(tmp_path / "here") == ["other.csv", "results.csv"]


def test_a_file_of_the_users_under_the_name_of_the_unfinished_table_stays(bundle, pictures, tmp_path, capsys):
    partial = tmp_path / "here" / "mine.csv.partial"
    partial.write_text("my,own\n")
    arguments = ["--folder", str(pictures), "--bundle", str(bundle), "--csv", "mine.csv"]
    assert edge_main(arguments) == 2
    assert "mine.csv.partial', which this program did not write. Name another one." in capsys.readouterr().err and partial.read_text() == "my,own\n"
    partial.write_text("image,label_1\n")  # what an interruption leaves
    assert edge_main(arguments) == 0 and names(tmp_path / "here") == ["mine.csv"]


def test_a_table_that_cannot_be_written_says_what_to_do(bundle, pictures, capsys):
    assert edge_main(["--folder", str(pictures), "--bundle", str(bundle), "--csv", "no/such/x.csv"]) == 2
    expected = "error: expected to write the table of --csv, received 'no/such/x.csv': No such file or directory. Check that its folder is there"
    assert capsys.readouterr().err.startswith(expected)


def test_a_link_to_a_table_stays_a_link(tmp_path):
    (tmp_path / "link.csv").symlink_to("table.csv")
    for _ in range(2):
        with folder.open_table(tmp_path / "link.csv", 1):
            pass
    assert names(tmp_path) == ["link.csv", "table.csv"] and (tmp_path / "link.csv").is_symlink()


def test_what_turns_the_direction_of_writing_is_written_out_in_a_table():
    result = {"image": "a\u202egnp.exe", "top": [{"label": "سبعة\u200d\u2066", "index": 0, "probability": 1.0}]}
    assert folder.row(result, 1)[:2] == ["a\\u202egnp.exe", "سبعة\u200d\\u2066"]


def test_an_interruption_leaves_the_rows_so_far_under_another_name(bundle, pictures, tmp_path, monkeypatch, capsys):
    classify, asked = Classifier.classify_and_keep, []

    def interrupted(self, path, *arguments):
        asked.append(path)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return classify(self, path, *arguments)

    monkeypatch.setattr(Classifier, "classify_and_keep", interrupted)
    assert edge_main(["--folder", str(pictures), "--bundle", str(bundle)]) == 130
    assert names(tmp_path / "here") == ["results.csv.partial"]
    assert [row["image"] for row in table("results.csv.partial")] == [str(pictures / "a/c.JPG"), str(pictures / "a/d.png")]


def test_names_and_labels_that_are_no_text_fit_into_the_table(tmp_path):
    with folder.open_table(tmp_path / "table.csv", 1) as write:
        write(folder.row({"image": "\udcff.png", "top": [{"label": "\ud800,\n", "index": 2, "probability": 0.25}], "ms": {}}, 1))
    (row,) = table(tmp_path / "table.csv")
    assert (row["image"], row["label_1"], row["probability_1"]) == ("\\udcff.png", "\\ud800,\n", "0.250000")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "which does not exist"),
        (lambda path: path.mkdir(), "received none that ends with"),
        (lambda path: path.write_text(""), "which is a file. Give single pictures without --folder"),
    ],
)
def test_a_folder_without_pictures_is_refused(bundle, tmp_path, capsys, make, message):
    make(tmp_path / "empty")
    assert edge_main(["--folder", str(tmp_path / "empty"), "--bundle", str(bundle)]) == 2
    assert message in capsys.readouterr().err


def test_a_bar_is_drawn_on_a_terminal_only(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    class Silent:
        def classify_and_keep(self, path, *_):
            return {"image": path, "ms": {"inference": 2.0}}, None

    for error, bar, drawn in ((Terminal(), True, True), (Terminal(), False, False), (io.StringIO(), True, False), (None, True, False)):
        monkeypatch.setattr("sys.stderr", error)
        assert folder.classify_folder(Silent(), ["a", "b", "c", "d"], lambda result, picture: None, bar=bar) == [2.0] * 4
        if error:
            assert ("\r[" + "#" * 30 + "] 4/4" in error.getvalue()) == drawn and error.getvalue().endswith("\r" if drawn else "")


def test_overlays_are_written_beside_each_other_and_over_no_picture(bundle, pictures, tmp_path, capsys):
    (pictures / "a" / "b.png").write_bytes((pictures / "b.png").read_bytes())
    drawn = tmp_path / "here" / "drawn"
    drawn.mkdir()
    (drawn / "d-overlay.jpg").write_bytes((pictures / "a" / "d.png").read_bytes())
    inputs = [pictures / "b.png", pictures / "a" / "b.png", pictures / "a" / "d.png", drawn / "d-overlay.jpg"]
    before = (drawn / "d-overlay.jpg").read_bytes()
    assert edge_main([*map(str, inputs), "--bundle", str(bundle), "--json", "--save-overlay", str(drawn)]) == 0
    written = [json.loads(line)["overlay"] for line in capsys.readouterr().out.splitlines()]
    expected = ["b-overlay.jpg", "b-2-overlay.jpg", "d-2-overlay.jpg", "d-overlay-overlay.jpg"]
    assert written == [str(drawn / name) for name in expected]
    assert names(drawn) == sorted([*expected, "d-overlay.jpg"]) and (drawn / "d-overlay.jpg").read_bytes() == before
    with Image.open(drawn / "b-overlay.jpg") as image:
        assert image.size == (640, 512 + 5 * 26)


def test_a_picture_is_decoded_once_and_drawn_as_it_was_decoded(bundle, pictures, tmp_path, monkeypatch):
    decode, decoded = Image.open, []

    def count(path, **options):
        decoded.append(str(path))
        return decode(path, **options)

    monkeypatch.setattr(Image, "open", count)
    assert edge_main([str(pictures / "b.png"), "--bundle", str(bundle), "--save-overlay", str(tmp_path / "drawn")]) == 0
    assert edge_main(["--folder", str(pictures), "--bundle", str(bundle), "--save-overlay", str(tmp_path / "drawn")]) == 0
    assert decoded == [str(pictures / name) for name in ("b.png", "a/c.JPG", "a/d.png", "b.png")]


def test_a_drawing_that_cannot_be_written_is_the_error_of_its_picture_and_the_others_are_drawn(bundle, pictures, tmp_path, monkeypatch, capsys):
    save, drawn = Image.Image.save, tmp_path / "drawn"

    def full(self, path, *arguments, **options):
        if "c-overlay" in str(path):
            pathlib.Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(self, path, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    assert edge_main(["--folder", str(pictures), "--bundle", str(bundle), "--save-overlay", str(drawn)]) == 1
    assert capsys.readouterr().err == "error: 1 of 3 pictures could not be classified or drawn; their `error` says why\n"
    rows = table("results.csv")
    assert all(row["label_1"] for row in rows) and [bool(row["error"]) for row in rows] == [True, False, False]
    assert rows[0]["error"].startswith(f"expected to write {str(drawn / 'c-overlay.jpg')!r}: No space left on device.")
    assert names(drawn) == ["b-overlay.jpg", "d-overlay.jpg"]
    # A single picture's classes are known all the same.
    for options, shown in (([], " (float32: "), (["--json"], '"top"')):
        assert edge_main([str(pictures / "a/c.JPG"), "--bundle", str(bundle), "--save-overlay", str(drawn), *options]) == 2
        captured = capsys.readouterr()
        assert shown in captured.out and captured.err.startswith("error: expected to write ") and captured.err.count("\n") == 1


def test_names_that_some_disks_take_for_one_are_drawn_into_two_files(tmp_path):
    drawings = overlay.Overlays(tmp_path, [tmp_path / "B-OVERLAY.JPG"])
    found = [
        drawings.write(name, Image.new("RGB", (8, 8)), {"top": []}).name for name in ("A.png", "a.png", "caf\u00e9.png", "cafe\u0301.png", "b.png")
    ]
    assert found == ["A-overlay.jpg", "a-2-overlay.jpg", "caf\u00e9-overlay.jpg", "cafe\u0301-2-overlay.jpg", "b-2-overlay.jpg"]


def test_a_drawing_takes_the_place_of_one_of_ours_and_of_no_other_file(tmp_path):
    mine = {"a-overlay.jpg": b"\xff\xd8my own", "b-overlay.jpg": b""}
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "c-overlay.jpg").symlink_to("a-overlay.jpg")
    for _ in range(2):
        drawings = overlay.Overlays(tmp_path, [])
        found = [drawings.write(f"{name}.png", Image.new("RGB", (8, 8)), {"top": []}, again=name == "b").name for name in "abbcd"]
        assert found == ["a-2-overlay.jpg", *["b-2-overlay.jpg"] * 2, "c-2-overlay.jpg", "d-overlay.jpg"]
    assert all((tmp_path / name).read_bytes() == content for name, content in mine.items()) and (tmp_path / "c-overlay.jpg").is_symlink()
    assert names(tmp_path) == sorted([*mine, *found[:2], *found[3:], "c-overlay.jpg"])


def test_a_label_is_drawn_in_a_font_that_has_its_letters_or_as_a_number(monkeypatch):
    def pixels(label):
        return np.asarray(overlay.draw(Image.new("RGB", (8, 8)), {"top": [{"label": label, "index": 17, "probability": 0.5}]}))

    if overlay._load_font("DejaVuSans.ttf") is not None:
        assert (pixels("Kätzchen Ж") != pixels("Katzchen X")).any() and (pixels("Kätzchen Ж") != pixels("class 17")).any()
    monkeypatch.setattr(overlay, "_FONTS", ("no such font.ttf",))
    for label in ("Kätzchen", "Ж", "日本語", "😀"):
        np.testing.assert_array_equal(pixels(label), pixels("class 17"))
    assert (pixels("a") != pixels("class 17")).any()


def test_overlays_inside_the_folder_that_is_read_are_refused(bundle, pictures, capsys):
    for place in (pictures, pictures / "drawn", pictures / "a" / ".." / "drawn"):
        assert edge_main(["--folder", str(pictures), "--bundle", str(bundle), "--save-overlay", str(place)]) == 2
        error = capsys.readouterr().err
        assert "outside of --folder" in error and f"received {str(place)!r}. Name another one." in error
    assert edge_main(["--folder", str(pictures), "--bundle", str(bundle), "--save-overlay", f"{pictures}-drawn"]) == 0
    assert names(pictures.with_name("pictures-drawn")) == ["b-overlay.jpg", "c-overlay.jpg", "d-overlay.jpg"]


def test_a_bar_is_as_long_as_its_probability(rng):
    picture = Image.fromarray(rng.integers(0, 256, (20, 80, 3)).astype("uint8"))
    top = [{"label": "a", "probability": 0.75}, {"label": "\ud800\x1b" + "é" * 500, "probability": 0.25}, {"label": "b", "probability": 0.0}]
    sheet = np.asarray(overlay.draw(picture, {"top": top})).astype(int)
    assert sheet.shape == (160 + 3 * 26, 640, 3)
    np.testing.assert_array_equal(sheet[:160], np.kron(np.asarray(picture), np.ones((8, 8, 1))))
    blue = (abs(sheet - (0x9E, 0xCB, 0xFF)).sum(axis=-1) < 9)[160:]
    assert [blue[row * 26 + 3].sum() for row in range(3)] == [480, 160, 0]


@pytest.mark.parametrize("size", [(1, 1), (3000, 1), (1, 3000), (2000, 1500)])
def test_a_picture_of_any_size_is_drawn(size):
    sheet = overlay.draw(Image.new("RGB", size, "red"), {"top": [{"label": "a", "probability": 1.0}]})
    assert sheet.width == 640 and 27 <= sheet.height <= 666


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="which is a file"):
        overlay.Overlays(tmp_path / "file", [])
    with pytest.raises(InputError, match="which cannot be made: Not a directory"):
        overlay.Overlays(tmp_path / "file" / "drawn", [])
