import csv
import json
import shutil

import keras
import numpy as np
import pytest

from swin_keras import training

NANO = "swin_nano_patch4_window4_32"


def run(workdir, **arguments):
    lines = []
    model = training.train("digits", NANO, workdir, **{"epochs": 3, "seed": 5, "log": lines.append, **arguments})
    return model, lines


def rows(workdir):
    with (workdir / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class StopAt(keras.callbacks.Callback):
    """Ends the process, as a person or a power cut would: before or after the keeper has written the epoch."""

    def __init__(self, epoch, step):
        super().__init__()
        self.stop_epoch, self.stop_step = epoch, step

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (self.stop_epoch, self.stop_step):
            raise KeyboardInterrupt


def test_workdir_holds_what_the_contract_lists(quick_digits, tmp_path):
    model, _ = run(tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.json", "model.keras", "final.keras", "history.csv", "checkpoints", "tensorboard", "curves.png"}
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["variant"] == NANO and config["recipe"]["name"] == "small" and config["replicas"] == 1
    assert config["labels"] == list("0123456789") and set(config["versions"]) == {"swin-keras", "tensorflow", "keras", "python"}
    history = rows(tmp_path / "run")
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    best = max(history, key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))
    images = training.load_data("digits", (32, 32, 3))
    assert training.evaluate(model, images.inputs("validation"))["top1"] == pytest.approx(float(best["val_accuracy"]))
    final = keras.models.load_model(tmp_path / "run" / "final.keras")
    assert training.evaluate(final, images.inputs("validation"))["top1"] == pytest.approx(float(history[-1]["val_accuracy"]))


@pytest.mark.parametrize("stop", [(1, 2), pytest.param((2, 0), marks=pytest.mark.slow)], ids=["within the second epoch", "at the start of the third"])
def test_an_interrupted_run_takes_the_same_steps_when_resumed(quick_digits, tmp_path, stop):
    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", callbacks=[StopAt(*stop)])
    assert not (tmp_path / "cut" / "final.keras").exists()
    _, lines = run(tmp_path / "cut")
    assert f"resumed from epoch {stop[0]} of 3" in lines
    assert_same_history(tmp_path / "cut", tmp_path / "whole")
    for name in ("final.keras", "model.keras"):
        whole, cut = (keras.models.load_model(tmp_path / folder / name) for folder in ("whole", "cut"))
        for a, b in zip(whole.weights, cut.weights, strict=True):
            np.testing.assert_array_equal(a, b)


def assert_same_history(one, other):
    assert [row["epoch"] for row in rows(one)] == [row["epoch"] for row in rows(other)]
    for a, b in zip(rows(one), rows(other), strict=True):
        np.testing.assert_allclose([float(v) for v in a.values()], [float(v) for v in b.values()], atol=1e-4)


@pytest.mark.slow
def test_an_epoch_written_before_its_checkpoint_is_not_counted_twice(quick_digits, tmp_path, monkeypatch):
    run(tmp_path / "whole")
    save = keras.Model.save_weights

    def fail_in_the_second_epoch(self, path, **kwargs):
        if (path.parent / "epoch_00001.weights.h5").exists():
            raise OSError("No space left on device")
        save(self, path, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "save_weights", fail_in_the_second_epoch)
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path / "full")
    assert len(rows(tmp_path / "full")) == 2  # the history is ahead of the checkpoint
    run(tmp_path / "full")
    assert_same_history(tmp_path / "full", tmp_path / "whole")


def test_a_step_is_traced_once(quick_digits, tmp_path, monkeypatch):
    traced = []
    step = keras.Model.train_step

    def counted(self, data):
        traced.append(self)
        return step(self, data)

    monkeypatch.setattr(keras.Model, "train_step", counted)
    run(tmp_path / "run", epochs=1)
    assert len(traced) == 1


def test_a_finished_run_returns_at_once_with_the_best_model(quick_digits, tmp_path):
    first, _ = run(tmp_path / "run", epochs=1)
    again, lines = run(tmp_path / "run", epochs=1, callbacks=[StopAt(0, 0)])
    assert any("finished run" in line for line in lines)
    for a, b in zip(first.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_seeds_decide_the_result(quick_digits, tmp_path):
    same = [run(tmp_path / str(i), epochs=1, seed=seed)[0].get_weights()[0] for i, seed in enumerate((1, 1, 2))]
    np.testing.assert_array_equal(same[0], same[1])
    assert np.abs(same[0] - same[2]).max() > 0.01


def test_another_run_in_the_folder_is_refused_and_kept(quick_digits, tmp_path):
    run(tmp_path / "run", epochs=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(ValueError, match=r"holds another run \(seed 5 there, 6 here; recipe.epochs 1 there, 2 here; .*Choose another workdir"):
        run(tmp_path / "run", epochs=2, seed=6)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="which holds other files"):
        run(tmp_path)
    with pytest.raises(ValueError, match="which is a file"):
        run(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": "cats"}, "Expected data='digits'"),
        ({"variant": "swin_nano"}, "Did you mean one of: swin_nano_patch4_window4_32"),
        ({"recipe": "large"}, "`recipe` must be one of small, imagenet_300, .*Received: recipe='large'"),
        ({"settings": {"lr": 1}}, "The settings of a recipe are epochs, .*Received: lr"),
        ({"settings": {"learning_rat": 1}}, r"Received: learning_rat\. Did you mean learning_rate\?"),
        ({"settings": [("epochs", 1)]}, "`settings` must be a dictionary"),
        ({"settings": {1: 2}}, "`settings` must be a dictionary"),
        ({"settings": {"affine": {"rotation": "abc"}}}, "`affine` must be a dictionary of numbers, rotation up to 180, "),
        ({"settings": {"affine": {"zoom": float("nan")}}}, "`affine` must be a dictionary of numbers"),
        ({"workdir": ""}, "Expected the path of a folder as workdir"),
        ({"settings": {"learning_rate": "fast"}}, "`learning_rate` must be a number from 0 to 10. Received: learning_rate='fast'"),
        ({"settings": {"mixup": 0.8}, "batch_size": 33}, "`batch_size` must be even for mixup and cutmix"),
        ({"settings": {"flip": 0.5}}, "belong to the crops of `crop_scale`"),
        ({"settings": {"rand_augment": "rand-n100", "crop_scale": (0.5, 1)}}, "`rand_augment` must be 'rand'"),
        ({"settings": {"rand_augment": "auto", "crop_scale": (0.5, 1)}}, "`rand_augment` must be 'rand'"),
        ({"settings": {"accumulation_steps": 99}}, "`accumulation_steps` must be at most the 16 steps of an epoch"),
        ({"settings": {"frozen_stages": 3}}, "`frozen_stages` must be an integer from 0 to 2"),
        ({"epochs": 0}, "`epochs` must be a whole number from 1 to 99,999. Received: epochs=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"batch_size": 2000}, "at most the 1078 training pictures. Received: batch_size=2000"),
        ({"seed": -1}, "seed=-1"),
        ({"strategy": "horovod"}, "`strategy` must be"),
        ({"weights": "gone.safetensors"}, "does not exist"),
    ],
)
def test_train_refuses_what_does_not_fit_before_it_writes(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        training.train(**{"data": "digits", "variant": NANO, "workdir": tmp_path / "run", **arguments})
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(quick_digits, tmp_path):
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.get_layer("head").kernel.assign(np.full((24, 10), np.nan))

    with pytest.raises(FloatingPointError, match="loss became nan in epoch 2; lower the learning rate"):
        run(tmp_path / "run", callbacks=[Poison()])
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["epoch_00001.weights.h5"]
    assert len(rows(tmp_path / "run")) == 1


DAMAGES = {
    "cut history": lambda run: (run / "history.csv").write_text((run / "history.csv").read_text()[:-30]),
    "no model": lambda run: (run / "model.keras").unlink(),
    "cut checkpoint": lambda run: next((run / "checkpoints").iterdir()).write_bytes(b"nothing"),
}
MORE_DAMAGES = {
    "empty history": lambda run: (run / "history.csv").write_text(""),
    "no history": lambda run: (run / "history.csv").unlink(),
    "other columns": lambda run: (run / "history.csv").write_text("epoch,loss\n1,2\n"),
    "cut model": lambda run: (run / "model.keras").write_bytes((run / "model.keras").read_bytes()[:1000]),
}


@pytest.mark.parametrize(
    "damage",
    [
        *(pytest.param(damage, id=name) for name, damage in DAMAGES.items()),
        *(pytest.param(damage, id=name, marks=pytest.mark.slow) for name, damage in MORE_DAMAGES.items()),
    ],
)
def test_a_damaged_interrupted_run_is_refused_and_not_called_finished(quick_digits, tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", callbacks=[StopAt(1, 0)])
    damage(tmp_path / "run")
    with pytest.raises(ValueError, match="cannot be resumed: a file of the interrupted run is damaged"):
        run(tmp_path / "run")
    assert not (tmp_path / "run" / "final.keras").exists()


def test_a_run_whose_checkpoints_are_gone_is_refused_and_kept(quick_digits, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", callbacks=[StopAt(2, 0)])
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(ValueError, match="history.csv has epochs, but checkpoints/ has none"):
        run(tmp_path / "run")
    assert len(rows(tmp_path / "run")) == 2


def test_a_checkpoint_that_h5py_cannot_follow_is_passed_over(quick_digits, tmp_path, monkeypatch):
    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", callbacks=[StopAt(2, 0)])
    load = keras.Model.load_weights

    def fail_once(self, path, *args, **kwargs):
        if path.name == "epoch_00002.weights.h5":
            raise RuntimeError("Unable to synchronously check link existence")
        load(self, path, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "load_weights", fail_once)
    _, lines = run(tmp_path / "cut")
    assert any("epoch_00002.weights.h5' is damaged (Unable to" in line and "going back to epoch_00001" in line for line in lines)
    assert_same_history(tmp_path / "cut", tmp_path / "whole")


def test_a_full_disk_on_resumption_is_not_called_damage(quick_digits, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", callbacks=[StopAt(1, 0)])

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("swin_keras.training.callbacks.written", full)
    with pytest.raises(OSError, match="No space left on device. What was there is intact: make room"):
        run(tmp_path / "run")


def test_a_damaged_model_of_a_finished_run_is_refused(quick_digits, tmp_path):
    run(tmp_path / "run", epochs=1)
    model = tmp_path / "run" / "model.keras"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 255
    model.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.keras' is damaged .*Take final.keras"):
        run(tmp_path / "run", epochs=1)


@pytest.mark.parametrize("text", ["[]", "null", "3", "", "{", "[" * 100000])
def test_a_damaged_config_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json' is damaged"):
        run(tmp_path)


def test_pictures_repaired_before_the_first_epoch_ended_are_no_other_run(tmp_path):
    from PIL import Image

    for index in range(20):
        (tmp_path / "pictures" / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (33, 35, 3), "uint8")).save(
            tmp_path / "pictures" / "ab"[index % 2] / f"{index}.png"
        )
    broken = [tmp_path / "pictures" / "a" / f"{index}.png" for index in (0, 2, 4)]
    whole = [path.read_bytes() for path in broken]
    for path in broken:
        path.write_bytes(b"no picture")
    settings = {"jit_compile": False, "crop_scale": [0.5, 1]}  # read one after the other, in the first epoch

    def go(**arguments):
        arguments = {"epochs": 1, "batch_size": 4, "settings": settings, "log": lambda line: None, **arguments}
        training.train(f"folder:{tmp_path / 'pictures'}", NANO, tmp_path / "run", **arguments)

    with pytest.raises(ValueError, match="Repair or remove them"):
        go()
    for path, content in zip(broken, whole, strict=True):
        path.write_bytes(content)
    with pytest.raises(ValueError, match="holds another run"):
        go(seed=1)
    go(callbacks=None)
    assert len(rows(tmp_path / "run")) == 1
    broken[0].write_bytes(b"no picture")
    with pytest.raises(ValueError, match="holds another run"):
        go()
