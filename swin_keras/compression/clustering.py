"""Weight clustering: each kernel holds few distinct numbers, which a compressed download stores as indices."""

import keras
import numpy as np
import tensorflow as tf

from swin_keras.compression.kernels import kernels
from swin_keras.compression.steps import StepCallback
from swin_keras.export.deploy import all_layers, heads_behind_norms
from swin_keras.export.simulation import trained_graph
from swin_keras.layers import PatchMerging, SwinBlock, SwinMLPBlock
from swin_keras.layers.checks import is_count

# Rounds of k-means. The numbers are those of a trained network, whose distribution is smooth: later rounds change the third digit.
_ROUNDS = 30


class Clustering(StepCallback):
    """Lets each kernel of a dense layer hold few distinct numbers during `fit`: its centroids, which go on learning.

    After its first step, the weights of a kernel are gathered into clusters by k-means. After each further one every weight becomes the mean of its
    cluster, so that a centroid moves by the mean of its members' updates. The classes of tensorflow-model-optimization do the same inside the
    forward pass of a layer of Keras 2; a callback reaches every layer of Keras 3, with any optimizer.

    A norm before a product would bring its scale for each input into the file's weights: it is moved into the kernel first, and stays 1. The scale
    of queries by the root of a head's width gives them other numbers than keys and values.

    Args:
        clusters: Integer from 2 to 256. Distinct numbers in each kernel. Zero is one of them where the kernel is pruned.
        begin_step: Integer. The step of `fit`, over all epochs, after which it begins. With `Pruning`, which stands before it among the callbacks,
            the step at which that is complete: among centroids that came before, the smallest would be wasted on what becomes zeros.

    Reference: [Han et al., 2016](https://arxiv.org/abs/1510.00149).
    """

    def __init__(self, clusters, begin_step=0):
        super().__init__()
        if not is_count(clusters) or not 2 <= clusters <= 256:
            raise ValueError(f"`clusters` must be a whole number from 2 to 256. Received: clusters={clusters!r}.")
        if not (is_count(begin_step) or begin_step == 0):
            raise ValueError(f"`begin_step` must be a whole number, the step of `fit`. Received: begin_step={begin_step!r}.")
        self._clusters, self._begin = int(clusters), begin_step

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if trained_graph(self.model) is not None:
            raise ValueError(f"Expected a model that does not round. Received: {self.model.name!r}: {ROUNDS_AND_CLUSTERS}")
        self._kernels = kernels(self.model)
        self._apply = None

    def _gather(self):
        """Gathers weights into clusters. Those of a run that goes on are in clusters, and come into the same."""
        self._scales = []
        for norm, dense in _norms_before(self.model):
            _move_scale(norm, dense)
            self._scales.append(norm.gamma)
        with self.model.distribute_strategy.scope():
            self._indices, self._nonzero = [], []
            for kernel in self._kernels:
                array = keras.ops.convert_to_numpy(kernel)
                centroids = find_centroids(array, self._clusters)
                index = np.searchsorted((centroids[1:].astype("float64") + centroids[:-1]) / 2, array.ravel()).astype("int32")
                self._indices.append(tf.constant(index))
                self._nonzero.append(tf.constant(centroids != 0))
                kernel.assign(centroids[index].reshape(kernel.shape))
        self._apply = tf.function(self._share)

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        if self._apply is None and self.first_step > self._begin:
            self._gather()

    def on_train_batch_end(self, batch, logs=None):
        if self._apply is None:
            if self.step(batch) >= self._begin:
                self._gather()
            return
        with self.model.distribute_strategy.scope():
            self._apply()

    def on_train_end(self, logs=None):
        # An optimizer that averages weights has just put its averages into the model.
        if self._apply is not None:
            with self.model.distribute_strategy.scope():
                self._apply()

    def _share(self):
        for kernel, index, nonzero in zip(self._kernels, self._indices, self._nonzero, strict=True):
            # In float32 a sum of a hundred thousand equal numbers is off by more than a step of training.
            weights = tf.cast(tf.reshape(kernel.value, [-1]), "float64")
            # What was pruned since stays so.
            kept = tf.cast((weights != 0) & tf.gather(nonzero, index), "float64")
            sums, counts = (tf.math.unsorted_segment_sum(x, index, len(nonzero)) for x in (weights * kept, kept))
            means = tf.math.divide_no_nan(sums, counts)
            kernel.assign(tf.cast(tf.reshape(tf.gather(means, index) * kept, kernel.shape), kernel.dtype))
        for scale in self._scales:
            scale.assign(tf.ones(scale.shape, scale.dtype))


# Said where the two are asked for together.
ROUNDS_AND_CLUSTERS = (
    "training for integers moves each weight by itself, and its scale for each output makes other integers of one centroid: clusters would not last. "
    "Cluster, and export with dynamic_int8."
)


def find_centroids(kernel, clusters):
    """Finds the centroids of a kernel by k-means in one dimension.

    Args:
        kernel: Array.
        clusters: Integer.

    Returns:
        float32 array, sorted, of at most so many distinct numbers. Those that the kernel has, if they are no more.
    """
    values, counts = np.unique(kernel, return_counts=True)
    if len(values) <= clusters:
        return values
    zero = bool(np.any(kernel == 0))
    if zero:  # It is one of the numbers, and the zeros stay.
        values, counts, clusters = values[values != 0], counts[values != 0], clusters - 1
    # One dimension is sorted: a cluster is a run of values, and its mean a difference of sums.
    sums, totals = (np.concatenate([[0.0], np.cumsum(x, dtype="float64")]) for x in (values * counts, counts))
    centroids = np.quantile(values, (np.arange(clusters) + 0.5) / clusters)
    for _ in range(_ROUNDS):
        ends = np.concatenate([[0], np.searchsorted(values, (centroids[1:] + centroids[:-1]) / 2), [len(values)]])
        members = np.diff(totals[ends])
        centroids = np.where(members > 0, np.diff(sums[ends]) / np.maximum(members, 1), centroids)
    return np.unique(np.concatenate([centroids, [0.0] * zero]).astype("float32"))


def _norms_before(model):
    """Returns pairs of a norm and the dense layer into which the deploy graph folds its scale."""
    pairs = list(heads_behind_norms(model).items())
    for layer in all_layers(model):
        if isinstance(layer, SwinBlock):
            pairs.append((layer.norm1, layer.attn.qkv))
        if isinstance(layer, PatchMerging):
            pairs.append((layer.norm, layer.reduction))
        if isinstance(layer, (SwinBlock, SwinMLPBlock)):
            pairs.append((layer.norm2, layer.mlp.fc1))
    return pairs


def _move_scale(norm, dense):
    """Moves a norm's scale into the dense layer that follows: `(x * gamma + beta) @ kernel = (x + beta / gamma) @ (gamma * kernel)`."""
    gamma, beta, kernel = (keras.ops.convert_to_numpy(variable) for variable in (norm.gamma, norm.beta, dense.kernel))
    if np.all(gamma == 1):
        return
    gamma = np.where(np.abs(gamma) < 1e-6, 1e-6, gamma)
    norm.gamma.assign(np.ones_like(gamma))
    norm.beta.assign(beta / gamma)
    dense.kernel.assign(gamma[:, None] * kernel)
