"""One process of a run on several replicas, for test_strategy.py: `worker.py STRATEGY FOLDER`."""

import json
import os
import pathlib
import sys
import time

import numpy as np

NANO = "swin_nano_patch4_window4_32"
BATCH, STEPS, VALIDATION = 12, 6, 11


def classifier(jit_compile=False):
    import keras

    import swin_keras

    keras.utils.set_random_seed(3)
    model = swin_keras.create_model(NANO, input_shape=(16, 24, 3), num_classes=5, embed_dim=6, depths=(2, 1), num_heads=(2, 3), drop_path_rate=0.0)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True), weighted_metrics=["accuracy"], jit_compile=jit_compile)
    return model


def painter():
    import keras

    from swin_keras.models import create_simmim

    keras.utils.set_random_seed(4)
    model = create_simmim(NANO, (16, 32, 3), embed_dim=6, depths=(1,), num_heads=(3,), window_size=2, drop_path_rate=0.0)
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer)
    return model


def pictures(count, shape, seed):
    rng = np.random.default_rng(seed)
    classes = np.arange(count) * 7 % 5
    return (rng.standard_normal((count, *shape)) + classes[:, None, None, None] / 2).astype("float32"), np.eye(5, dtype="float32")[classes]


def dealt(arrays, size, own, count):
    """Returns the batches of a worker: batches of `size` go to the replicas in turn."""
    import tensorflow as tf

    def mine(rows):
        batches = rows.reshape(-1, size, *rows.shape[1:])
        return batches[[number % count in own for number in range(len(batches))]]

    return tf.data.Dataset.from_tensor_slices(tf.nest.map_structure(mine, arrays))


def training_batches(own, count):
    return dealt(pictures(BATCH * STEPS, (16, 24, 3), 0), BATCH // count, own, count)


def validation_batches(own, count):
    """As many of one size for each replica; what fills them up has no weight."""
    import tensorflow as tf

    x, y = pictures(VALIDATION, (16, 24, 3), 1)
    if count == 1:
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    weights = np.float32([12 / 11] * 11 + [0])
    return dealt((np.pad(x, [(0, 1), *[(0, 0)] * 3]), np.pad(y, [(0, 1), (0, 0)]), weights), 2, own, count)


def masked_batches(own, count):
    from swin_keras.models import random_mask

    x, _ = pictures(8, (16, 32, 3), 2)
    masks = np.stack([random_mask(np.random.default_rng(n), (16, 32), mask_patch_size=8) for n in range(8)])
    return dealt({"image": x, "mask": masks}, 4 // count, own, count)


def train(strategy, jit_compile=False):
    """Returns the classifier and the painter, and what `fit` and `evaluate` say of them."""
    import keras

    from swin_keras.training.strategy import distribute, prepare_for_workers

    training, validation, masked = (distribute(strategy, make) for make in (training_batches, validation_batches, masked_batches))
    with strategy.scope():
        model, simmim = classifier(jit_compile), painter()
    seen = []
    prepare_for_workers(strategy, model, training)
    history = model.fit(
        training,
        steps_per_epoch=STEPS // 2,
        epochs=2,
        validation_data=validation,
        validation_steps=3,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(float(logs["loss"])))],
        verbose=0,
    )
    evaluated = model.evaluate(validation, steps=3, return_dict=True, verbose=0)
    prepare_for_workers(strategy, simmim, masked)
    painted = simmim.fit(masked, steps_per_epoch=2, verbose=0)
    return model, simmim, {"history": history.history, "evaluated": evaluated, "seen": seen, "painted": painted.history}


def keras_alone(strategy):
    """Returns the errors of `fit` as Keras has it, and with one of its defects left."""
    import keras

    from swin_keras.training.strategy import distribute, prepare_for_workers

    def fit(repair):
        with strategy.scope():
            model = keras.Sequential([keras.Input((16, 24, 3)), keras.layers.Flatten(), keras.layers.Dense(5)])
            model.compile("sgd", "mse", metrics=["mae"])
        data = distribute(strategy, training_batches)
        if repair:
            prepare_for_workers(strategy, model, data)
            del model.train_step
        try:
            model.fit(data, steps_per_epoch=2, verbose=0)
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:60]
        return ""

    return [fit(False), fit(True)]


def main(name, folder):
    import keras
    import tensorflow as tf

    from swin_keras.training.strategy import WorkerLost, agree, distribute, make_strategy, prepare_for_workers, stops_with_the_others, worker_index

    if name == "mirrored":
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy, chosen = make_strategy("auto" if name == "multiworker" else name)
    assert (chosen, strategy.num_replicas_in_sync) == (name, 2)
    if name == "multiworker":
        assert make_strategy(name)[0] is strategy
    index = worker_index(strategy)

    numbers = distribute(strategy, lambda own, count: dealt(np.arange(6), 1, own, count))
    seen = [[x.numpy().tolist() for x in strategy.experimental_local_results(batch)] for batch in numbers]
    # XLA cannot compile a step over several replicas: asked for here, to be turned off.
    model, simmim, result = train(strategy, jit_compile=True)
    result["dealt"] = seen
    if index == 0:
        model.save(folder / f"{name}.keras")
    for made, what in [(model, "classifier"), (simmim, "painter")]:
        made.save_weights(folder / f"{name}_{index}_{what}.weights.h5")
    if name == "multiworker":
        agree(strategy, 7, "the epoch")
        try:
            agree(strategy, 7 - 3 * index, "the epoch", "Share the folder.")
        except ValueError as error:
            result["disagreed"] = str(error)
        result["keras_alone"] = keras_alone(strategy)
    partial = folder / f"{name}_{index}.partial"
    partial.write_text(json.dumps(result))
    partial.rename(folder / f"{name}_{index}.json")
    if name != "multiworker":
        return 0

    def step(batch, logs):
        time.sleep(0.05)
        (folder / f"training_{index}").touch()

    try:
        with stops_with_the_others(strategy):
            with strategy.scope():
                model = keras.Sequential([keras.Input((16, 24, 3)), keras.layers.Flatten(), keras.layers.Dense(5)])
                model.compile("sgd", "mse")
            data = distribute(strategy, lambda own, count: training_batches(own, count).repeat())
            prepare_for_workers(strategy, model, data)
            # Until this worker, or another, is killed.
            model.fit(data, steps_per_epoch=10_000, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=step)])
    except WorkerLost as error:
        print(error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Without leave-taking: at its end, tf.data may wait up to a minute for a thread that sleeps.
    os._exit(main(sys.argv[1], pathlib.Path(sys.argv[2])))
