"""Trains the digits model as `python replicas.py DEVICES WORKDIR STRATEGY`, without anything random in the model."""

import sys

import tensorflow as tf

devices, workdir, strategy = sys.argv[1:4]
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(devices))

from swin_keras import training  # noqa: E402

# 1,078 pictures in batches of 52: twenty steps.
settings = {"drop_path_rate": 0.0, "jit_compile": False, "learning_rate": 1e-3, **({"mixup": 0.8, "cutmix": 1.0} if "mixed" in sys.argv else {})}
training.train("digits", "swin_nano_patch4_window4_32", workdir, epochs=1, batch_size=52, strategy=strategy, settings=settings)
