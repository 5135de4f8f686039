"""`train --compress`: words, what goes together, and runs."""

import contextlib
import csv
import json

import keras
import pytest
import tiny

RECIPE = {"learning_rate": 1e-3, "warmup_epochs": 0, "jit_compile": False}


@pytest.mark.parametrize(
    "words, expected",
    [
        ("prune:2:4", {"sparsity": "2:4"}),
        (["prune:0.5"], {"sparsity": 0.5}),
        (["cluster:16"], {"clusters": 16}),
        (["qat:full_int8", "prune:0.25"], {"sparsity": 0.25, "quantization": "full_int8"}),
        (["prune:2:4", "cluster:4"], {"sparsity": "2:4", "clusters": 4}),
        ([], {}),
    ],
)
def test_words_say_what_is_done(words, expected):
    from swin_keras.compression import Compression, find_compression

    assert find_compression(words) == Compression(**expected)


@pytest.mark.parametrize(
    "words, message",
    [
        (["prune"], "`prune` takes 2:4 or a fraction"),
        (["prune:1.5"], "above 0 and below 1, as in prune:0.5. Received: 'prune:1.5'"),
        (["prune:4:2"], "`prune` takes 2:4"),
        (["cluster:1"], "from 2 to 256"),
        (["qat:float16"], "`qat` takes one of dynamic_int8"),
        (["shrink:2"], "`compress` takes prune:2:4.*Received: 'shrink:2'"),
        ([5], "Received: 5"),
        (5, "`compress` takes strings: prune:2:4.*Received: 5"),
        (["prune:nan"], "above 0 and below 1, as in prune:0.5. Received: 'prune:nan'"),
        (["prune:0.5", "prune:2:4"], "each kind once"),
        (["cluster:16", "qat:hybrid_int8"], "do not go together: .*clusters would not last"),
    ],
)
def test_other_words_are_refused_with_the_reason(words, message):
    from swin_keras.compression import find_compression

    with pytest.raises(ValueError, match=message):
        find_compression(words)


@pytest.mark.parametrize(
    "words, settings, weights, message",
    [
        (["cluster:16"], {}, False, "begin with a trained model. Received: no `weights`"),
        (["qat:dynamic_int8"], {}, False, "--weights WORKDIR/model.keras"),
        (["prune:0.5"], {"ema_momentum": 0.9}, True, "moving average"),
        (["qat:dynamic_int8"], {"precision": "mixed_bfloat16", "frozen_stages": 1}, True, "Received: precision, frozen_stages"),
        (["prune:0.5"], {"task": "simmim"}, True, "for classification"),
    ],
)
def test_recipes_that_do_not_go_with_it_are_refused(words, settings, weights, message):
    from swin_keras import training
    from swin_keras.compression import find_compression

    with pytest.raises(ValueError, match=message):
        find_compression(words).check(training.find_recipe("small", settings), weights)


def test_a_run_of_few_steps_is_compressed_before_it_ends_and_clusters_what_is_left():
    from swin_keras.compression import find_compression

    both = find_compression(["prune:0.5", "cluster:16"])
    assert [both.last_step(steps, False) for steps in (1, 2, 3, 4, 100)] == [0, 1, 2, 3, 75]
    assert both.last_step(100, True) == 50
    pruning, clustering = both.callbacks(100, True)
    assert clustering._begin == pruning._end == 50
    assert find_compression("cluster:16").callbacks(100, True)[0]._begin == 0


@pytest.fixture
def trained(quick_digits, tmp_path):
    """The path of a model that was trained on the digits for an epoch."""
    from swin_keras import training

    training.train("digits", "swin_nano_patch4_window4_32", tmp_path / "plain", epochs=1, settings=RECIPE, log=lambda line: None)
    return tmp_path / "plain" / "model.keras"


@pytest.mark.slow
def test_a_pruned_run_keeps_an_epoch_that_is_pruned_all_through(trained, tmp_path):
    from swin_keras import compression, training

    lines, again = [], []
    arguments = {"epochs": 4, "settings": RECIPE, "weights": trained, "compress": "prune:0.5"}
    model = training.train("digits", "swin_nano_patch4_window4_32", tmp_path / "run", **arguments, log=lines.append)
    assert abs(compression.sparsity(model) - 0.5) < 0.005
    assert "model.keras is the best of the epochs from 3 on, which are pruned all through" in lines
    training.train("digits", "swin_nano_patch4_window4_32", tmp_path / "run", **arguments, log=again.append)
    for said in (lines, again):
        assert said[-1] == f"{100 * compression.sparsity(model):.1f} % of the weights of dense layers are zeros"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["compress"] == ["prune:0.5"]
    for compress, here in (((), "None"), ("prune:0.4", "prune:0.4")):
        with pytest.raises(ValueError, match=rf"holds another run \(compress \['prune:0.5'\] there, .*{here}"):
            training.train(
                "digits",
                "swin_nano_patch4_window4_32",
                tmp_path / "run",
                epochs=4,
                settings=RECIPE,
                weights=trained,
                compress=compress,
                log=lambda line: None,
            )


@pytest.mark.slow
def test_what_became_of_the_weights_is_said():
    from swin_keras.compression import Clustering, Compression, Pruning

    model = tiny.build()
    tiny.fit(model, [Pruning("2:4")])
    assert Compression("2:4").describe(model) == ["50.0 % of the weights of dense layers are zeros"]
    tiny.fit(model, [Clustering(4)])
    assert Compression(clusters=4).describe(model) == ["a dense layer has at most 4 distinct weights"]
    assert Compression(quantization="dynamic_int8").describe(model) == []


@pytest.mark.parametrize("recipe, said", [("dynamic_int8", "file rounds"), ("hybrid_int8", "and on 6 training pictures in which ranges")])
def test_pictures_are_told_of_where_ranges_come_from_them(monkeypatch, recipe, said):
    from swin_keras.compression import Compression
    from swin_keras.training import run

    class Images:
        reading = contextlib.nullcontext

        def sample(self, split, count):
            return [None] * 6

    monkeypatch.setattr(run, "quantization_aware", lambda *arguments: None)
    lines = []
    run._rounding(None, Compression(quantization=recipe), Images(), lines.append)
    assert len(lines) == 1 and lines[0].startswith(recipe) and lines[0].endswith(said)


@pytest.mark.slow
def test_a_run_for_integers_resumes_to_the_same_weights_and_its_export_rounds_as_it_did(trained, tmp_path, run_command):
    import numpy as np

    from swin_keras import training

    def train(folder, epochs, callbacks=()):
        lines = []
        arguments = {"settings": RECIPE, "weights": trained, "compress": ["prune:2:4", "qat:hybrid_int8"], "log": lines.append}
        training.train("digits", "swin_nano_patch4_window4_32", tmp_path / folder, epochs=epochs, callbacks=callbacks, **arguments)
        return lines

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    train("whole", 2)
    with pytest.raises(KeyboardInterrupt):
        train("cut", 2, [Stop()])
    assert "resumed from epoch 1 of 2" in train("cut", 2)
    whole, cut = (keras.models.load_model(tmp_path / folder / "final.keras") for folder in ("whole", "cut"))
    for one, other in zip(whole.get_weights(), cut.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with (tmp_path / "cut" / "history.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]

    done = run_command("-m", "swin_keras.export", tmp_path / "cut", "--out", tmp_path / "bundle", "--calibration", "digits", "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["recipes"]["hybrid_int8"]
    assert measured["fidelity"]["snr_db"] >= 35 and measured["fidelity"]["top1_agreement"] >= 0.99
