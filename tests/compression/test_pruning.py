import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from tiny import arrays, build, fit


class Watch(keras.callbacks.Callback):
    """Notes the fraction of zeros after each step."""

    def __init__(self):
        super().__init__()
        self.sparsities = []

    def on_train_batch_end(self, batch, logs=None):
        from swin_keras.compression import sparsity

        self.sparsities.append(sparsity(self.model))


def test_the_kernels_of_all_dense_layers_are_pruned_but_that_of_the_position_bias_network():
    from swin_keras.compression.kernels import kernels

    assert [kernel.path.split("/", 1)[-1] for kernel in kernels(build())] == [
        *(f"attn/{name}/kernel" for name in ("qkv", "proj")),
        *(f"mlp/{name}/kernel" for name in ("fc1", "fc2")),
        "reduction/kernel",
        *(f"attn/{name}/kernel" for name in ("qkv", "proj")),
        *(f"mlp/{name}/kernel" for name in ("fc1", "fc2")),
        "kernel",
    ]
    assert len(kernels(build("swinv2_tiny_patch4_window8_256"))) == 10


def test_sparsity_grows_by_the_schedule_and_the_largest_weights_stay():
    from swin_keras.compression import Pruning

    model, watch = build(), Watch()
    before = arrays(model)
    fit(model, [Pruning(0.7, begin_step=2, end_step=10, frequency=2), watch], epochs=3)
    # Zhu and Gupta's cubic: s * (1 - (1 - t)^3), at the steps of the schedule.
    expected = [0.7 * (1 - (1 - min(max(step - 2, 0), 8) // 2 * 2 / 8) ** 3) for step in range(12)]
    np.testing.assert_allclose(watch.sparsities, expected, atol=2e-3)
    for array, old in zip(arrays(model), before, strict=True):
        assert abs(np.mean(array == 0) - 0.7) < 0.01
        assert np.abs(old[array != 0]).mean() > 2 * np.abs(old[array == 0]).mean()


def test_two_of_four_inputs_of_each_output_are_zeros_in_the_file_too():
    from ai_edge_litert.interpreter import Interpreter
    from swin_keras.export import tflite, to_deploy

    from swin_keras.compression import Pruning

    for name in ("swin_tiny_patch4_window7_224", "swinv2_tiny_patch4_window8_256"):
        model = build(name)
        fit(model, [Pruning("2:4")], epochs=1)
        for array in arrays(model):
            assert np.all((array.reshape(-1, 4, array.shape[1]) == 0).sum(1) == 2)
        interpreter = Interpreter(model_content=tflite.convert(to_deploy(model), ["logits"]))
        shapes = sorted(array.T.shape for array in arrays(model))
        found = [detail for detail in interpreter.get_tensor_details() if "MatMul" in detail["name"] and tuple(detail["shape"]) in shapes]
        stored = []
        for detail in found:
            try:
                stored.append(interpreter.get_tensor(detail["index"]))
            except ValueError:
                continue  # an activation
        pruned = [weight for weight in stored if weight.shape[1] % 4 == 0 and np.mean(weight == 0) >= 0.5]
        assert sorted(weight.shape for weight in pruned) == shapes
        assert all(np.all((weight.reshape(-1, 4) == 0).sum(1) >= 2) for weight in pruned)


@pytest.mark.slow
def test_masks_are_kept_when_training_goes_on_from_the_weights_alone(tmp_path):
    from swin_keras.compression import Pruning

    def pruning():
        return Pruning(0.5, begin_step=0, end_step=6, frequency=3)

    whole = build(drop_path_rate=0.0)
    fit(whole, [pruning()], epochs=4)
    first = build(drop_path_rate=0.0)
    fit(first, [pruning()], epochs=2)
    first.save_weights(tmp_path / "epoch.weights.h5")
    second = build(drop_path_rate=0.0)
    second.optimizer.build(second.trainable_variables)
    second.load_weights(tmp_path / "epoch.weights.h5")
    fit(second, [pruning()], epochs=4, initial_epoch=2)
    for one, other in zip(arrays(whole), arrays(second), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_sparsity_is_reached_at_the_end_whatever_the_frequency_and_the_steps_of_an_execution():
    from swin_keras.compression import Pruning, sparsity

    model = build()
    fit(model, [Pruning(0.5, begin_step=1, end_step=5, frequency=100)])
    assert abs(sparsity(model) - 0.5) < 0.01
    model = build()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), steps_per_execution=3)
    fit(model, [Pruning(0.5, begin_step=1, end_step=5, frequency=3)])
    assert abs(sparsity(model) - 0.5) < 0.01


def test_a_model_that_is_not_pruned_yet_is_pruned_when_fit_begins_at_a_later_epoch():
    from swin_keras.compression import Pruning, sparsity

    for pruning, expected in ((Pruning(0.4), 0.4), (Pruning("2:4"), 0.5)):
        model = build()
        fit(model, [pruning], epochs=4, initial_epoch=3)
        assert abs(sparsity(model) - expected) < 0.01


def test_zeros_of_a_pruned_model_stay_at_any_learning_rate_and_where_less_is_asked():
    from swin_keras.compression import Pruning

    model = build()
    fit(model, [Pruning(0.6)], epochs=1)
    zeros = [array == 0 for array in arrays(model)]
    model.optimizer.learning_rate = 0.1
    for pruning in (Pruning(0.6), Pruning(0.6, end_step=6, frequency=2), Pruning(0.3)):
        fit(model, [pruning])
        for array, old in zip(arrays(model), zeros, strict=True):
            np.testing.assert_array_equal(array == 0, old)


def test_a_kernel_that_begins_as_zeros_learns():
    from swin_keras.compression import Pruning

    model = build()
    head = model.get_layer("head")
    head.kernel.assign(keras.ops.zeros_like(head.kernel))
    fit(model, [Pruning(0.5, begin_step=3, end_step=7, frequency=1)])
    assert abs(np.mean(np.array(head.kernel) == 0) - 0.5) < 0.02


def test_averages_of_an_optimizer_are_pruned_and_clustered_at_the_end():
    from swin_keras.compression import Clustering, Pruning, sparsity

    model = build()
    model.compile(keras.optimizers.Adam(1e-2, use_ema=True), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fit(model, [Pruning(0.5), Clustering(8)])
    assert abs(sparsity(model) - 0.5) < 0.02
    assert all(len(np.unique(array)) <= 8 for array in arrays(model))


def test_data_of_unknown_length_is_counted_as_it_comes():
    from swin_keras.compression import Pruning, sparsity

    def batches():
        for start in range(0, 16, 4):
            yield np.random.default_rng(start).standard_normal((4, 16, 24, 3)).astype("float32"), np.arange(4)

    import tensorflow as tf

    data = tf.data.Dataset.from_generator(batches, output_signature=(tf.TensorSpec((4, 16, 24, 3)), tf.TensorSpec((4,), "int64")))
    model, pruning = build(), Pruning(0.5, begin_step=0, end_step=6, frequency=2)
    model.fit(data, epochs=2, verbose=0, callbacks=[pruning])
    assert abs(sparsity(model) - 0.5) < 0.01
    with pytest.raises(ValueError, match="to go on from epoch 2.*Give `steps_per_epoch`"):
        model.fit(data, epochs=3, initial_epoch=2, verbose=0, callbacks=[pruning])


@pytest.mark.slow
def test_the_mask_holds_on_several_devices():
    """In a process of its own, which begins with two logical CPUs."""
    program = """
import keras, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], 2 * [tf.config.LogicalDeviceConfiguration()])
import swin_keras
from swin_keras.compression import Clustering, Pruning, sparsity, quantization_aware
from swin_keras.compression.kernels import kernels
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
sizes = dict(embed_dim=8, depths=(1,), num_heads=(2,), window_size=2, num_classes=3, input_shape=(8, 8, 3))
x, y = np.random.default_rng(0).standard_normal((16, 8, 8, 3)).astype("float32"), np.arange(16) % 3
with strategy.scope():
    model = swin_keras.create_model("swin_tiny_patch4_window7_224", **sizes)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[Pruning(0.5, 0, 3, 1), Clustering(8, 3)])
assert all(len(np.unique(kernel)) <= 8 for kernel in kernels(model))
copies = [[np.array(value) for value in strategy.experimental_local_results(weight.value)] for weight in model.weights]
assert all(len(values) == 2 and np.array_equal(*values) for values in copies)
print("sparsity", sparsity(model))
rounding = quantization_aware(model, "hybrid_int8", x)
with strategy.scope():
    copy = keras.Model.from_config(rounding.get_config())
    copy.set_weights(rounding.get_weights())
    copy.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
before = np.array(copy.layers[-1].ranges)
copy.fit(x, y, batch_size=8, epochs=2, verbose=0)
ranges = [np.array(value) for value in strategy.experimental_local_results(copy.layers[-1].ranges.value)]
assert np.array_equal(*ranges) and np.any(ranges[0] != before)
print("ranges agree")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert "sparsity 0.5" in done.stdout and "ranges agree" in done.stdout, done.stderr[-2000:]


def test_tensorflow_model_optimization_leaves_keras_and_the_environment_as_they_are():
    program = """
import os, subprocess, sys
before = dict(os.environ)
import tensorflow as tf
import swin_keras
own = dict(os.environ)
import swin_keras.compression
assert not [name for name in sys.modules if name.startswith(("tensorflow_model_optimization", "tf_keras"))], "imported too early"
from swin_keras.compression.model_optimization import pruning_parts
pruning_parts()
assert "tensorflow_model_optimization" in sys.modules
assert dict(os.environ) == own and "TF_USE_LEGACY_KERAS" not in own
child = subprocess.run([sys.executable, "-c", "import os; print('TF_USE_LEGACY_KERAS' in os.environ)"], capture_output=True, text=True)
assert child.stdout.strip() == "False"
import keras
assert tf.keras.layers.Dense is keras.layers.Dense and keras.__version__.startswith("3.")
print("as they were")
"""
    environment = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=300)
    assert done.stdout.strip().endswith("as they were"), done.stderr[-2000:]


def test_what_cannot_be_pruned_is_refused_with_what_to_do():
    from swin_keras.compression import Pruning

    for sparsity in (0, 1, -0.5, "1:4", True, None, float("nan")):
        with pytest.raises(ValueError, match="`sparsity` must be above 0 and below 1, or '2:4'"):
            Pruning(sparsity)
    with pytest.raises(ValueError, match="begin_step=5, end_step=4"):
        Pruning(0.5, begin_step=5, end_step=4)
    with pytest.raises(ValueError, match="multiple of 4. Received: .*kernel.*Give a fraction"):
        fit(build(embed_dim=6, num_heads=(2, 2)), [Pruning("2:4")], epochs=1)
