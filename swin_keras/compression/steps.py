"""Which step of `fit` it is, over all epochs: what schedules of compression go by."""

import keras


class StepCallback(keras.callbacks.Callback):
    """A callback that knows the number of a step, also where `fit` goes on from a later epoch or takes several steps in one execution."""

    def on_train_begin(self, logs=None):
        self.first_step = self._next = 0
        self._begun = False

    def on_epoch_begin(self, epoch, logs=None):
        steps = self.params.get("steps")
        if steps is None and epoch and not self._begun:
            raise ValueError(
                f"Expected data of a known number of steps, to go on from epoch {epoch}. Received: data that does not say. Give `steps_per_epoch`."
            )
        self.first_step = self._next if steps is None else epoch * steps
        self._begun = True

    def step(self, batch):
        """Returns the number of a step, from 0, of which `batch` is the number in this epoch."""
        self._next = self.first_step + batch + 1
        return self.first_step + batch
