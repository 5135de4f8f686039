"""What a run keeps and shows while it trains."""

import csv
import itertools
import math
import sys
import time
import warnings
import zipfile

import keras
import numpy as np
import tensorflow as tf

from swin_keras.training.files import written

_KEPT_CHECKPOINTS = 2


class Keeper(keras.callbacks.Callback):
    """Keeps a workdir true after each epoch: best model, history, checkpoint, in this order, each renamed into place.

    Keras' ModelCheckpoint, CSVLogger and BackupAndRestore write in place, each at its own time: cut off between two of them,
    they disagree. Whatever is interrupted here, the newest checkpoint decides: later rows of the history are dropped, and
    the epochs after it are trained again, to the same result.

    Args:
        workdir: `pathlib.Path`.
        seed: Integer.
        save: Function that writes a model to a path, for use, not to go on training.
        averages: Pairs of a weight and its moving average. Validation and the best model take the average.
        writes: Boolean. Whether this process does; of several workers, one does.
        log: Function that is called with each line of progress.
        first: Integer. The first epoch, from 1, that counts as better than those before whatever its accuracy: whose weights are compressed.
    """

    def __init__(self, workdir, seed, save, averages=(), writes=True, log=print, first=1):
        super().__init__()
        self._first = first
        self._workdir, self._seed, self._save, self._averages, self._writes, self._log = workdir, seed, save, averages, writes, log
        self.rows = []

    def restore(self, model):
        """Loads the newest checkpoint that can be read, if there is one, and returns the number of finished epochs."""
        found = sorted((self._workdir / "checkpoints").glob("epoch_" + 5 * "[0-9]" + ".weights.h5"), reverse=True)
        # An epoch's row comes before its checkpoint.
        if not found and len(self._history_lines()) > 2:
            raise ValueError(
                f"{str(self._workdir)!r} cannot be resumed: history.csv has epochs, but checkpoints/ has none. "
                "Put the checkpoints back, choose another workdir, or delete this one to start again."
            )
        for number, checkpoint in enumerate(found):
            epochs = int(checkpoint.name.removeprefix("epoch_").removesuffix(".weights.h5"))
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("error", "Skipping variable loading", UserWarning)
                    model.load_weights(checkpoint)
                self._read_history(epochs)
            except PermissionError:
                raise
            # Of a damaged file h5py raises RuntimeErrors too.
            except (OSError, ValueError, KeyError, TypeError, RuntimeError, UserWarning, csv.Error) as error:
                older = found[number + 1 :]
                # A history that lacks the epochs of this checkpoint has those of an older one.
                if not older:
                    raise ValueError(
                        f"{str(self._workdir)!r} cannot be resumed: a file of the interrupted run is damaged ({error}). "
                        "Choose another workdir, or delete this one to start again."
                    ) from error
                self._log(f"{str(checkpoint)!r} is damaged ({error}); going back to {older[0].name}")
            else:
                if self._writes:
                    write(self._write_history, self._workdir)
                return epochs
        return 0

    def _history_lines(self):
        path = self._workdir / "history.csv"
        return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []

    def _read_history(self, epochs):
        with (self._workdir / "history.csv").open(newline="", encoding="utf-8") as file:
            self.rows = [{key: float(value) for key, value in row.items()} for row in itertools.islice(csv.DictReader(file), epochs)]
        if [row["epoch"] for row in self.rows] != list(range(1, epochs + 1)) or not self.best_row():
            raise ValueError("history.csv lacks epochs")
        if not zipfile.is_zipfile(self._workdir / "model.keras"):
            raise ValueError("model.keras is missing or cut off")
        for row in self.rows:
            row["epoch"] = int(row["epoch"])

    def best_row(self):
        """Returns the row with the highest validation accuracy, of equals and without any the one with the lowest loss."""
        return max(self.rows, key=lambda row: (row["epoch"] >= self._first, row.get("val_accuracy", 0.0), -row["val_loss"]))

    def on_epoch_begin(self, epoch, logs=None):
        # Checkpoints do not hold the state of dropout's random numbers: it starts anew from seed and epoch.
        for number, variable in enumerate(self.model.non_trainable_variables):
            if variable.path.endswith("seed_generator_state"):
                variable.assign(np.random.default_rng((self._seed, epoch, number)).integers(0, 2**31, variable.shape))

    def on_test_begin(self, logs=None):
        self._swap()

    def on_test_end(self, logs=None):
        self._swap()

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(f"the loss became {logs['loss']} in epoch {epoch + 1}; lower the learning rate")
        if "val_loss" not in logs:
            raise ValueError("Expected validation pictures that can be opened. Received: none. Repair or add some.")
        self.rows.append({"epoch": epoch + 1, **{key: float(value) for key, value in logs.items()}})
        if self._writes:
            write(self._write_epoch, self._workdir)

    def _write_epoch(self):
        if self.best_row() is self.rows[-1]:
            self._swap()
            self._save(self.model, self._workdir / "model.keras")
            self._swap()
        self._write_history()
        checkpoints = self._workdir / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        with written(checkpoints / f"epoch_{len(self.rows):05d}.weights.h5") as partial:
            self.model.save_weights(partial, overwrite=True)
        for old in sorted(checkpoints.glob("epoch_*.weights.h5"))[:-_KEPT_CHECKPOINTS]:
            old.unlink()

    def _swap(self):
        # Keras' SwapEMAWeights swaps by adding and subtracting, which changes the last bits of the weights in training.
        for weight, average in self._averages:
            value = weight.numpy()
            weight.assign(average)
            average.assign(value)

    def _write_history(self):
        if not self.rows:
            return
        with written(self._workdir / "history.csv") as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)


def write(action, workdir):
    """Calls a function that writes into a workdir, and says what a failure means for the run.

    Raises:
        OSError: If a file cannot be written, as on a full disk.
    """
    try:
        action()
    # h5py raises a RuntimeError where a file cannot be extended while it is closed.
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"Expected to write into {str(workdir)!r}. Received: {' '.join(str(error).split())}. What was there is intact: make room, and the "
            "same command resumes after the last finished epoch."
        ) from error


class LearningRate(keras.callbacks.Callback):
    """Adds the learning rate at the end of each epoch to what is logged of it."""

    def on_epoch_end(self, epoch, logs=None):
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)


class Progress(keras.callbacks.Callback):
    """Shows pictures a second and the time left: on a terminal a line that redraws itself, and a line for each epoch.

    Args:
        steps: Integer. Steps of an epoch.
        batch_size: Integer. Pictures of a step.
        log: Function that is called with the line of each epoch.
    """

    def __init__(self, steps, batch_size, log):
        super().__init__()
        self._steps, self._batch_size, self._log = steps, batch_size, log
        self._bar, self._shown = sys.stdout.isatty(), 0.0
        self._epoch_seconds = None

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._started, self._done = epoch, time.monotonic(), 0

    def on_train_batch_end(self, batch, logs=None):
        self._done, self._trained = batch + 1, time.monotonic()
        if self._bar and self._trained - self._shown > 0.5:
            self._shown = self._trained
            bar = "=" * (24 * self._done // self._steps)
            line = f"epoch {self._epoch + 1}/{self.params['epochs']} [{bar:24}] {self._done}/{self._steps}"
            print(f"\r{line}  {self._rate()}  loss {logs['loss']:.4f}  {self._left()} left\x1b[K", end="", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        self._epoch_seconds = time.monotonic() - self._started
        values = "  ".join(f"{key} {value:.3g}" if key == "learning_rate" else f"{key} {value:.4f}" for key, value in logs.items())
        left = f"  {self._left()} left" if epoch + 1 < self.params["epochs"] else ""
        self._log(f"{chr(13) if self._bar else ''}epoch {epoch + 1}/{self.params['epochs']}  {values}  {self._rate()}{left}")

    def _rate(self):
        return f"{self._done * self._batch_size / (self._trained - self._started):,.0f} images/s"

    def _left(self):
        """Returns the time left, by the last whole epoch, which holds validation too, or else by this one so far."""
        share = self._done / self._steps
        seconds = self._epoch_seconds or (self._trained - self._started) / share
        seconds = round(seconds * (self.params["epochs"] - self._epoch - share))
        hours, minutes = divmod(seconds // 60, 60)
        return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds % 60:02d} s" if minutes else f"{seconds} s"


class TensorBoardLog(keras.callbacks.Callback):
    """Writes the values of each epoch for TensorBoard, under the number of the epoch, also of a run that was resumed.

    Keras' own counts the steps of a resumed run from 0 again.

    Args:
        folder: Path.
    """

    def __init__(self, folder):
        super().__init__()
        self._writers = {name: tf.summary.create_file_writer(str(folder / name)) for name in ("train", "validation")}

    def on_epoch_end(self, epoch, logs=None):
        for name, writer in self._writers.items():
            own = {key.removeprefix("val_"): value for key, value in logs.items() if key.startswith("val_") == (name == "validation")}
            # `tf.summary.scalar` is TensorBoard's own, which TensorFlow does not install any more.
            summary = tf.compat.v1.Summary(value=[tf.compat.v1.Summary.Value(tag=key, simple_value=value) for key, value in own.items()])
            with writer.as_default():
                tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=epoch + 1)
            writer.flush()
