"""Where a run runs: on one device, on all of a machine, or on many machines; and what Keras 3.15 lacks for the last two."""

import contextlib
import functools
import itertools
import json
import os
import re
import socket
import time

import keras
import tensorflow as tf

STRATEGIES = ("auto", "one", "mirrored", "multiworker", "tpu")

_EXAMPLE = '{"cluster": {"worker": ["host0:12345", "host1:12345"]}, "task": {"type": "worker", "index": 0}}'
_RESUME = "Start all workers again with the same commands: they resume after the last finished epoch."
# A process joins a cluster once: a second strategy would need a second server on the same port.
_joined = {}


class WorkerLost(RuntimeError):
    """Another worker of the run stopped, or never came."""


def make_strategy(name="auto", log=print, patience=600.0):
    """Returns a `tf.distribute` strategy and its name.

    Args:
        name: String. `"one"` device, the first that TensorFlow finds; `"mirrored"`: all GPUs of this machine, or all logical CPUs if
            there are none; `"multiworker"`: this is one of several processes, as the environment variable TF_CONFIG says or else
            SLURM; `"tpu"`; `"auto"`: multiworker where there is more than one worker, else mirrored where there is more than one
            GPU, else one.
        log: Function that is called with a line while other workers are missing.
        patience: Float. Seconds to wait for them.

    Returns:
        A `tf.distribute.Strategy`, under whose scope the model is built, and one of `"one"`, `"mirrored"`, `"multiworker"`, `"tpu"`.
        A strategy for several workers comes before anything else that TensorFlow computes in the process.

    Raises:
        ValueError: If the name is unknown, the environment says nothing or nothing sensible about workers, or there is no TPU.
        WorkerLost: If a worker does not come.
    """
    if name not in STRATEGIES:
        raise ValueError(f"`strategy` must be one of {', '.join(STRATEGIES)}. Received: strategy={name!r}.")
    workers, index = _workers(os.environ) if name in ("auto", "multiworker") else ((), 0)
    gpus = len(tf.config.list_physical_devices("GPU"))
    if name == "auto":
        name = "multiworker" if len(workers) > 1 else "mirrored" if gpus > 1 else "one"
    if name == "multiworker":
        return _join(workers, index, gpus, log, patience), name
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        if len(devices) == 1:
            log(f"strategy 'mirrored' found one device, {devices[0].name.removeprefix('/device:')}: it is as 'one'")
        return tf.distribute.MirroredStrategy([device.name for device in devices]), name
    # With a OneDeviceStrategy Keras would take each data set through tf.distribute; with the default one `fit` is as without.
    return (_tpu() if name == "tpu" else tf.distribute.get_strategy()), name


def worker_count(strategy):
    """Returns the number of processes that train together."""
    return len(_addresses(strategy)) or 1


def worker_index(strategy):
    """Returns which of the workers this process is, from 0."""
    return strategy.cluster_resolver.task_id if _addresses(strategy) else 0


def is_chief(strategy):
    """Returns whether this process is the worker that writes files."""
    return worker_index(strategy) == 0


def distribute(strategy, make_pipeline):
    """Returns the batches of this process, for `fit` and `evaluate`.

    `fit` does not know how many steps a distributed data set has, and warns at its end; say so, with `steps_per_epoch` and
    `validation_steps`. All replicas must have batches of the same size, and as many.

    Args:
        strategy: From `make_strategy`.
        make_pipeline: Function of the numbers of the replicas that this process feeds, a tuple, and of the number of all
            replicas. Returns a `tf.data.Dataset` of batches of one replica: the first for the first of its replicas, the next for
            the next, and so on in turn.

    Returns:
        That `tf.data.Dataset` if there is one replica, else a distributed one.
    """
    count = strategy.num_replicas_in_sync
    if count == 1:
        return make_pipeline((0,), 1)

    def make(context):
        own = count // context.num_input_pipelines
        first = context.input_pipeline_id * own
        return make_pipeline(tuple(range(first, first + own)), count)

    return strategy.distribute_datasets_from_function(make)


def prepare_for_workers(strategy, model, data):
    """Makes plain `fit` and `evaluate` work for a model on several replicas.

    Keras 3.15 lacks some things (https://github.com/keras-team/keras/issues/20585). It builds the metrics from a batch, which with
    several workers is a `PerReplica` that it cannot convert: here they are built from the description of a batch, and no batch is
    read for it any more, which also saves starting the data twice. It takes the mean of the logs of several workers over the axis 0
    that scalars lack: here they have one. XLA, if it was asked for, fails on the variables of several devices, and for some
    collectives ends the process: here it is off. And gradients are added up, for which Keras divides its own losses by the number
    of replicas: here so is what a model computes in a `compute_loss` of its own.

    Args:
        strategy: From `make_strategy`.
        model: `keras.Model`, built and compiled under the scope of the strategy.
        data: From `distribute`. What the model is to be trained on, with the structure that all its data has but for weights.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    batch = tf.nest.map_structure(lambda spec: tf.nest.flatten(spec, expand_composites=True)[0], data.element_spec)
    with strategy.scope():
        model._symbolic_build(data_batch=batch)
    model._maybe_symbolic_build = lambda *args, **kwargs: None
    model.jit_compile = False
    # What follows is taken from the class, so that a second call does not change it twice.
    if type(model).compute_loss is not keras.Model.compute_loss:
        model.compute_loss = functools.partial(_part_of_loss, strategy.num_replicas_in_sync, model)
    if worker_count(strategy) > 1:
        for name in ("train_step", "test_step"):
            setattr(model, name, functools.partial(_with_axis, getattr(type(model), name), model))


def _part_of_loss(count, model, *args, **kwargs):
    return type(model).compute_loss(model, *args, **kwargs) / count


def _with_axis(step, model, data):
    return tf.nest.map_structure(lambda value: tf.convert_to_tensor(value)[None], step(model, data))


@contextlib.contextmanager
def stops_with_the_others(strategy):
    """Raises what TensorFlow does when another worker stopped as one clear error.

    TensorFlow's own coordination service, as it comes, ends a step that waits for a worker: within seconds if its process ended,
    within some 10 seconds if it hangs or its machine is gone. The worker that the error names may have stopped because of another.
    The process itself can take up to a minute more to end, for a thread of tf.data that sleeps; `os._exit` does not wait for it.

    Raises:
        WorkerLost: If another worker stopped.
    """
    with _lost_workers(_addresses(strategy), worker_index(strategy)):
        yield


def agree(strategy, number, what, advice=""):
    """Waits for all workers, and makes sure that they hold the same number.

    Args:
        strategy: From `make_strategy`.
        number: Integer.
        what: String. What it is.
        advice: String. What to do where they differ.

    Raises:
        ValueError: If they differ, on all workers.
        WorkerLost: If another worker stopped.
    """
    count = worker_count(strategy)
    if count == 1:
        return
    own = strategy.num_replicas_in_sync // count

    def total():
        mine = tf.one_hot(worker_index(strategy), count, tf.constant(number, tf.int64), tf.constant(0, tf.int64))
        return tf.distribute.get_replica_context().all_reduce("SUM", mine)

    with stops_with_the_others(strategy):
        results = tf.function(lambda: strategy.run(total))()
        numbers = (strategy.experimental_local_results(results)[0] // own).numpy().tolist()
    if len(set(numbers)) > 1:
        raise ValueError(f"Expected {what} to be the same on all workers. Received: {', '.join(map(str, numbers))}. {advice}".rstrip())


def _addresses(strategy):
    """Returns where the workers are; nothing if there is no more than this process."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return []
    return strategy.cluster_resolver.cluster_spec().job_tasks("worker")


def _workers(environment):
    """Returns the addresses of all workers, and which of them this process is."""
    if text := environment.get("TF_CONFIG", "").strip():
        addresses, index = _read_tf_config(text)
        if addresses:
            return addresses, index
    if environment.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        return _read_slurm(environment)
    return (), 0


def _read_tf_config(text):
    def refuse(what):
        raise ValueError(f"The environment variable TF_CONFIG must be JSON such as {_EXAMPLE}. Received: {text!r}, {what}.")

    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        refuse(f"which is no JSON ({error})")
    if not isinstance(config, dict):
        refuse("which is no dictionary")
    cluster, task = config.get("cluster", {}), config.get("task", {})
    if not cluster:
        return (), 0
    if not isinstance(cluster, dict) or not all(isinstance(addresses, list) for addresses in cluster.values()):
        refuse("whose cluster is no dictionary of lists of addresses")
    if other := sorted(set(cluster) - {"chief", "worker"}):
        refuse(f"with {', '.join(other)}: a run has workers, one of which may be called chief")
    addresses = (*cluster.get("chief", []), *cluster.get("worker", []))
    if not addresses:
        return (), 0
    for address in addresses:
        if not isinstance(address, str) or not re.fullmatch(r"[^\s/]+:\d{1,5}", address) or not 0 < int(address.rpartition(":")[2]) < 2**16:
            refuse(f"where {address!r} is no host:port")
    if len(set(addresses)) < len(addresses):
        refuse("with an address twice")
    kind = task.get("type") if isinstance(task, dict) else None
    if not isinstance(kind, str) or kind not in cluster:
        refuse(f"whose task has not the type of any list in the cluster, {' or '.join(cluster)}")
    number = str(task.get("index"))
    if not number.isdecimal() or int(number) >= len(cluster[kind]):
        refuse(f"whose task has no index from 0 to {len(cluster[kind]) - 1}")
    return addresses, int(number) + (len(cluster.get("chief", [])) if kind == "worker" else 0)


def _read_slurm(environment):
    """Reads the variables of an srun step.

    TensorFlow's `SlurmClusterResolver` needs nvidia-smi, fails without it on machines with CPUs alone, and sets
    CUDA_VISIBLE_DEVICES over what SLURM set; it sorts the hosts by name, n10 before n9, but counts on SLURM's order, and on tasks
    in blocks; and its first port, 8888, is Jupyter's. Here each task finds its own address, whatever the order of the tasks is.
    """
    try:
        hosts = _expand_hosts(environment["SLURM_STEP_NODELIST"])
        tasks = []
        for part in environment["SLURM_STEP_TASKS_PER_NODE"].split(","):
            number, repeats = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part).groups("1")
            tasks += [int(number)] * int(repeats)
        node, local = int(environment["SLURM_NODEID"]), int(environment["SLURM_LOCALID"])
        # Other jobs on a shared machine have other ports; all are below those that systems give to clients.
        port = 10_000 + 64 * ((int(environment["SLURM_JOB_ID"]) + int(environment["SLURM_STEP_ID"])) % 300)
        addresses = tuple(f"{host}:{port + task}" for host, count in zip(hosts, tasks, strict=True) for task in range(count))
        if node >= len(tasks) or local >= tasks[node]:
            raise ValueError("this task is not in the list")
    except (KeyError, ValueError, AttributeError) as error:
        found = {key: value for key, value in sorted(environment.items()) if re.match("SLURM_(STEP|NODEID|LOCALID|JOB_ID)", key)}
        raise ValueError(
            f"Expected the SLURM variables of an srun step. Received: {found} ({type(error).__name__}: {error}). "
            f"Start the run with `srun`, or set TF_CONFIG to JSON such as {_EXAMPLE}."
        ) from error
    return addresses, sum(tasks[:node]) + local


def _expand_hosts(text):
    """Returns the hosts of a SLURM list: `"n[09-10],m1"` is n09, n10 and m1."""
    hosts = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text):
        pieces = [[piece] for piece in re.split(r"\[(.*?)\]", part)]
        for piece in pieces[1::2]:
            ends = [numbers.partition("-")[::2] for numbers in piece.pop().split(",")]
            piece += [str(number).zfill(len(low)) for low, high in ends for number in range(int(low), int(high or low) + 1)]
        hosts += map("".join, itertools.product(*pieces))
    return hosts


def _join(addresses, index, gpus, log, patience):
    if not addresses:
        raise ValueError(
            "Expected the workers of strategy='multiworker' in TF_CONFIG or in SLURM's variables. Received: neither. Set the environment "
            f"variable TF_CONFIG of each worker to JSON such as {_EXAMPLE}, with its own index, or start all with `srun --ntasks-per-node=1`."
        )
    if (addresses, index) not in _joined:
        _await_workers(addresses, index, log, patience)
        cluster = tf.train.ClusterSpec({"worker": list(addresses)})
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            cluster, task_type="worker", task_id=index, rpc_layer="grpc", num_accelerators={"GPU": gpus}
        )
        try:
            with _lost_workers(addresses, index):
                _joined[addresses, index] = tf.distribute.MultiWorkerMirroredStrategy(resolver)
        except RuntimeError as error:
            if "program startup" not in str(error):
                raise
            raise ValueError(
                "Expected strategy='multiworker' before anything else that TensorFlow computes in the process. Received: a TensorFlow that has "
                "computed. Make the strategy first."
            ) from error
    return _joined[addresses, index]


def _await_workers(addresses, index, log, patience):
    """Waits until all workers listen; TensorFlow alone would wait for an hour without a word.

    Each listens at its own address meanwhile. Later TensorFlow does, so that who comes last finds all others too.
    """
    try:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        listener = socket.create_server(("", _host_and_port(addresses[index])[1]), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise ValueError(
            f"Expected a free port of this machine in {addresses[index]!r}, the address of worker {index}. Received: {error.strerror}. "
            "Choose another port, or end what uses it."
        ) from error
    with listener:
        started = time.monotonic()
        said = -30.0
        missing = [number for number in range(len(addresses)) if number != index]
        while missing := [number for number in missing if not _answers(addresses[number])]:
            waited = time.monotonic() - started
            names = ", ".join(f"{number} ({addresses[number]})" for number in missing)
            if waited > patience:
                raise WorkerLost(f"worker {names} did not come within {patience:.0f} s. Start all workers, each with its own index.")
            if waited - said >= 30:
                said = waited
                log(f"worker {index} waits for worker {names}")
            time.sleep(0.5)


def _host_and_port(address):
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _answers(address):
    try:
        socket.create_connection(_host_and_port(address), timeout=2).close()
        return True
    except OSError:
        return False


@contextlib.contextmanager
def _lost_workers(addresses, index):
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError, tf.errors.CancelledError) as error:
        if len(addresses) < 2:
            raise
        # TensorFlow also names the worker that lost the other. Without another number it is the service of worker 0 that did not answer.
        named = [int(number) for number in re.findall(r"/job:worker/(?:replica:0/)?task:(\d+)", str(error))]
        others = [number for number in (*named, 0) if number != index]
        who = f"worker {others[0]} ({addresses[others[0]]})" if others else "another"
        raise WorkerLost(f"a worker stopped: {who} cannot be reached any more. {_RESUME}") from error


def _tpu():
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(os.environ.get("TPU_NAME", "local"))
        if resolver.master():
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, ImportError, OSError, RuntimeError, tf.errors.OpError) as error:
        raise ValueError(
            f"Expected a TPU for strategy='tpu'. Received: none ({' '.join(str(error).split())[:200]}). Run on a TPU machine with TensorFlow's "
            "build for TPUs, or set TPU_NAME."
        ) from error
