import zipfile

import keras
import numpy as np
import pytest
from tiny import arrays, build, fit

import swin_keras


def test_centroids_are_those_of_k_means(rng):
    from sklearn.cluster import KMeans

    from swin_keras.compression.clustering import find_centroids

    kernel = rng.standard_normal((90, 70)).astype("float32")
    received = find_centroids(kernel, 7)
    expected = KMeans(7, n_init=3, random_state=0).fit(kernel.reshape(-1, 1))

    def loss(centroids):
        return np.square(np.abs(kernel.reshape(-1, 1) - centroids).min(1)).sum()

    assert received.dtype == "float32" and np.all(np.diff(received) > 0)
    assert loss(received) <= 1.01 * expected.inertia_


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_patch4_window8_256"])
def test_each_kernel_holds_few_numbers_which_go_on_learning(name):
    from swin_keras.compression import Clustering

    class First(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.arrays = getattr(self, "arrays", None) or arrays(self.model)

    model, first = build(name), First()
    fit(model, [Clustering(9), first])
    for array, early in zip(arrays(model), first.arrays, strict=True):
        assert len(np.unique(array)) <= 9
        assert np.any(np.unique(array) != np.unique(early))


def test_beginning_changes_the_model_by_the_clusters_alone():
    from swin_keras.compression.clustering import _move_scale, _norms_before

    for name in ("swin_tiny_patch4_window7_224", "swinv2_tiny_patch4_window8_256", "swin_mlp_tiny_c24_patch4_window8_256"):
        if name not in swin_keras.VARIANTS:
            name = next(other for other in swin_keras.VARIANTS if "mlp" in other)
        model = build(name)
        pictures = np.random.default_rng(2).standard_normal((3, 16, 24, 3)).astype("float32")
        before = model.predict(pictures, verbose=0)
        pairs = _norms_before(model)
        for pair in pairs:
            _move_scale(*pair)
        assert pairs and all(np.all(np.array(norm.gamma) == 1) for norm, _ in pairs)
        np.testing.assert_allclose(model.predict(pictures, verbose=0), before, atol=1e-5)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", pytest.param("swinv2_tiny_patch4_window8_256", marks=pytest.mark.slow)])
def test_a_clustered_file_compresses(name, tmp_path):
    from swin_keras import export
    from swin_keras.compression import Clustering

    def zipped(model, folder):
        report = export.export_bundle(model, tmp_path / folder, recipes=["float32", "dynamic_int8"])
        assert report["recipes"]["float32"]["fidelity"]["snr_db"] > 90
        coverage = report["recipes"]["dynamic_int8"]["delegate"]
        assert (coverage["partitions"], coverage["left"]) == (1, {})
        sizes = {}
        for recipe in ("float32", "dynamic_int8"):
            with zipfile.ZipFile(tmp_path / f"{folder}.zip", "w", zipfile.ZIP_DEFLATED) as file:
                file.write(tmp_path / folder / f"{recipe}.tflite", recipe)
            sizes[recipe] = (tmp_path / f"{folder}.zip").stat().st_size
        return sizes

    model = build(name, embed_dim=64, num_heads=(2, 4))
    plain = zipped(model, "plain")
    fit(model, [Clustering(16)], epochs=1)
    clustered = zipped(model, "clustered")
    assert clustered["float32"] < 0.35 * plain["float32"]
    assert clustered["dynamic_int8"] < 0.66 * plain["dynamic_int8"]


@pytest.mark.slow
def test_clusters_stay_clusters_in_int8_and_learn_apart_in_training_for_int8(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    from swin_keras import export
    from swin_keras.compression import Clustering, quantization_aware

    model = build(embed_dim=64, num_heads=(2, 4))
    fit(model, [Clustering(16)], epochs=1)

    def distinct(model, folder):
        export.export_bundle(model, tmp_path / folder, recipes=["dynamic_int8"])
        interpreter = Interpreter(str(tmp_path / folder / "dynamic_int8.tflite"))
        details = [own for own in interpreter.get_tensor_details() if own["dtype"] == np.int8 and len(own["shape"]) == 2]
        return [(own["name"], len(np.unique(interpreter.get_tensor(own["index"])))) for own in details]

    clustered = distinct(model, "clustered")
    assert len(clustered) >= 9 and min(number for _, number in clustered) >= 12
    # Queries hold the numbers of a kernel divided by the root of a head's width.
    assert all(number <= (32 if "qkv" in name else 16) for name, number in clustered)

    rounding = quantization_aware(model, "dynamic_int8")
    rounding.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rounding.optimizer.build(rounding.trainable_variables)
    fit(rounding, [], epochs=1)
    assert min(number for _, number in distinct(rounding, "apart")) > 64


@pytest.mark.slow
def test_pruning_goes_on_to_what_was_asked_where_weights_are_clustered_too():
    from swin_keras.compression import Clustering, Pruning, sparsity

    for callbacks in ([Pruning(0.5), Clustering(8)], [Pruning(0.5, 0, 5, 1), Clustering(8, 5)], [Pruning("2:4"), Clustering(4)]):
        model = build()
        fit(model, callbacks)
        # Where two of four are kept, some of them are nearer to zero than to any other centroid.
        assert 0.49 < sparsity(model) < 0.6
        assert all(len(np.unique(array)) <= callbacks[1]._clusters for array in arrays(model))


def test_a_centroid_stays_where_its_weights_do_not_learn():
    """A sum of many equal numbers in float32 is off, which moved centroids by more than training did."""
    from swin_keras.compression import Clustering

    image = keras.Input((1, 1, 512))
    dense = keras.layers.Dense(2048, trainable=False)
    model = keras.Model(image, keras.layers.Dense(1)(dense(image)))
    model.compile("sgd", "mse")
    seen = []
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(np.unique(np.array(dense.kernel))))
    model.fit(np.ones((12, 1, 1, 512), "float32"), np.ones((12, 1, 1, 1)), batch_size=2, verbose=0, callbacks=[Clustering(4), note])
    assert len(seen[0]) == 4
    np.testing.assert_array_equal(seen[-1], seen[0])


@pytest.mark.slow
def test_clusters_are_kept_when_training_goes_on_from_the_weights_alone(tmp_path):
    from swin_keras.compression import Clustering, Pruning

    def callbacks():
        return [Pruning(0.5, begin_step=0, end_step=6, frequency=2), Clustering(6, 6)]

    whole = build(drop_path_rate=0.0)
    fit(whole, callbacks(), epochs=4)
    for at in (1, 2):
        first = build(drop_path_rate=0.0)
        fit(first, callbacks(), epochs=at)
        first.save_weights(tmp_path / "epoch.weights.h5")
        second = build(drop_path_rate=0.0)
        second.optimizer.build(second.trainable_variables)
        second.load_weights(tmp_path / "epoch.weights.h5")
        fit(second, callbacks(), epochs=4, initial_epoch=at)
        for one, other in zip(whole.get_weights(), second.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_the_zeros_of_a_pruned_kernel_stay_zeros():
    from swin_keras.compression import Clustering, Pruning

    model = build()
    fit(model, [Pruning(0.6)], epochs=1)
    zeros = [array == 0 for array in arrays(model)]
    fit(model, [Pruning(0.6), Clustering(8)], epochs=1)
    for array, old in zip(arrays(model), zeros, strict=True):
        assert len(np.unique(array)) <= 8
        np.testing.assert_array_equal(array == 0, old)


def test_what_cannot_be_clustered_is_refused():
    from swin_keras.compression import Clustering, quantization_aware

    for clusters in (1, 257, 16.5, "16", True):
        with pytest.raises(ValueError, match="`clusters` must be a whole number from 2 to 256"):
            Clustering(clusters)
    with pytest.raises(ValueError, match="`begin_step` must be a whole number.*begin_step=-1"):
        Clustering(8, begin_step=-1)
    rounding = quantization_aware(build(), "dynamic_int8")
    rounding.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="does not round"):
        fit(rounding, [Clustering(16)])
