"""Fine-tuning starts from published checkpoints, on pictures of one's own."""

import json

import numpy as np
import pytest
from conftest import randomize
from PIL import Image
from safetensors.numpy import load_file, save_file

import swin_keras
from swin_keras import training
from swin_keras.cli import main

NANO = "swin_nano_patch4_window4_32"
FLOWERS = ["daisy", "dandelion", "rose", "sunflower", "tulip"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 5 classes, of pictures of all sizes."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("flowers")
    for flower in FLOWERS:
        (folder / flower).mkdir()
        for index in range(7):
            pixels = rng.integers(0, 256, (rng.integers(33, 60), rng.integers(33, 60), 3), "uint8")
            Image.fromarray(pixels).save(folder / flower / f"{index}.png")
    return folder


@pytest.fixture(params=[1000, pytest.param(21841, marks=pytest.mark.slow)])
def checkpoint(request, tmp_path):
    """Weights with the head of ImageNet-1K or 22K, as timm keeps them."""
    model = randomize(swin_keras.create_model(NANO, num_classes=request.param))
    swin_keras.save_weights(model, tmp_path / "weights.safetensors", layout="timm")
    return tmp_path / "weights.safetensors", request.param


def test_train_starts_from_a_checkpoint_of_other_classes_and_says_what_stays_initial(pictures, checkpoint, tmp_path, capsys):
    path, classes = checkpoint
    arguments = ["train", "--data", f"folder:{pictures}", "--variant", NANO, "--workdir", tmp_path / "run", "--weights", path]
    assert main([str(argument) for argument in [*arguments, "--epochs", 1, "--batch-size", 4, "--set", "jit_compile=false"]]) == 0
    printed = capsys.readouterr()
    assert f"weights.safetensors has a head for {classes} classes; the head for 5 stays initial." in printed.out
    assert "Warning" not in printed.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["labels"] == FLOWERS and config["weights"] == str(path)


def test_before_the_first_step_the_model_is_the_checkpoint_but_for_its_head(pictures, checkpoint, tmp_path):
    import keras

    path, _ = checkpoint

    class Stop(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.found = {layer.name: layer.get_weights() for layer in self.model.layers}
            raise InterruptedError

    stop = Stop()
    with pytest.raises(InterruptedError):
        training.train(f"folder:{pictures}", NANO, tmp_path / "run", epochs=1, batch_size=4, weights=path, callbacks=[stop], log=print)
    tensors = load_file(path)
    np.testing.assert_array_equal(stop.found["norm"][0], tensors["norm.weight"])
    np.testing.assert_array_equal(stop.found["layers_1_blocks_1"][0], tensors["layers.1.blocks.1.norm1.weight"])
    kernel, bias = stop.found["head"]
    assert kernel.shape == (96, 5) and np.all(bias == 0) and 0.01 < kernel.std() < 0.03


def test_a_checkpoint_that_does_not_fit_stops_before_a_workdir_is_made(pictures, checkpoint, tmp_path, refused):
    path, _ = checkpoint
    tensors = load_file(path)
    tensors["layers.0.blocks.0.mlp.fc1.weight"] = np.full_like(tensors["layers.0.blocks.0.mlp.fc1.weight"], np.nan)
    save_file(tensors, tmp_path / "nan.safetensors")
    arguments = ["train", "--data", f"folder:{pictures}", "--variant", NANO, "--workdir", tmp_path / "run", "--epochs", 1, "--batch-size", 4]
    assert "values that are not finite" in refused(*arguments, "--weights", tmp_path / "nan.safetensors")
    assert "there are no weights 'ms_in1k'" in refused(*arguments, "--weights", "ms_in1k")
    assert not (tmp_path / "run").exists()
