"""What all tests share. Heavy imports stay in the tests that need them."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
GOLDENS = ROOT / "tests" / "goldens"

# A shell's job in the background ignores Ctrl-C, and would hand that on to each program that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# As swin_keras sets it, which many tests import after Keras.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# JAX compiles every operation for every shape; on models this small that takes most of a test, and optimizing it more than it saves.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def run_command():
    """Runs a command in a process of its own, outside the checkout, and returns it finished."""

    def run(*arguments, cwd="/", env=None, timeout=600):
        return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What `edge_demo` remembers between runs stays in the tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture
def refused(capsys):
    """Runs `swin-keras` in this process, asserts that it refuses in one line with code 2, and returns that line."""

    def run(*arguments):
        from swin_keras.cli import main

        assert main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, error
        return error

    return run


@contextlib.contextmanager
def dtype_policy(policy):
    """Builds what is built inside under another global policy."""
    import keras

    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.fixture
def quick_digits(monkeypatch):
    """The recipe `small` without XLA, whose compilation takes longer than a few steps, and a smaller model of the same kind."""
    import dataclasses

    import swin_keras
    from swin_keras import training

    nano = "swin_nano_patch4_window4_32"
    monkeypatch.setitem(training.RECIPES, "small", dataclasses.replace(training.RECIPES["small"], jit_compile=False, batch_size=256))
    small = dataclasses.replace(swin_keras.VARIANTS[nano], embed_dim=12, depths=(2, 1), num_heads=(2, 3), drop_path_rate=0.2)
    monkeypatch.setitem(swin_keras.VARIANTS, nano, small)


def load_script(path):
    """Imports a file that is in no package."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stored(path):
    """Every array in a .keras or .h5 file, by name."""
    import zipfile

    import h5py

    arrays = {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    with contextlib.ExitStack() as stack:
        source = path
        if path.suffix == ".keras":
            source = stack.enter_context(stack.enter_context(zipfile.ZipFile(path)).open("model.weights.h5"))
        stack.enter_context(h5py.File(source)).visititems(keep)
    return arrays


def edit_description(bundle, change):
    """Lets a function change what model.json of a bundle says."""
    path = bundle / "model.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


def free_ports(count):
    """Numbers of ports of this machine that nothing uses."""
    import socket

    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("localhost", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]


def array(x):
    """A tensor of any backend as a numpy array."""
    import keras

    return keras.ops.convert_to_numpy(x)


def call(model, x):
    """What `model(x)` gives, compiled as a whole on JAX, where an eager call compiles each operation by itself."""
    import keras

    if keras.backend.backend() != "jax":
        return model(x)
    import jax

    variables = [[v.value for v in variables] for variables in (model.trainable_variables, model.non_trainable_variables)]
    return jax.jit(model.stateless_call)(*variables, x)[0]


def randomize(model, seed=0, scale=0.1):
    """Gives every weight a random value, norm scales around 1."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        centre = 1.0 if weight.path.endswith("gamma") else 0.0
        weight.assign(centre + scale * rng.standard_normal(weight.shape))
    return model
