"""Functional models that are saved as the arguments they were made of."""

import keras


class ConfiguredModel(keras.Model):
    """A functional model whose configuration is its arguments, not its graph: it comes back as its own class.

    A subclass makes a graph of its arguments, all layers in `policy_of(dtype)`, and hands on both.
    """

    def __init__(self, inputs, outputs, arguments, policy, name):
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self._arguments = arguments
        self._policy = policy

    def get_config(self):
        return {**self._arguments, "dtype": keras.dtype_policies.serialize(self._policy), "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


def policy_of(dtype):
    """Returns the policy that `dtype` names, or for `None` the global one."""
    return keras.dtype_policies.get(dtype or keras.config.dtype_policy())
