import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import free_ports

NUMBERS = {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "2"}
PORT = 10_000 + 64 * (4713 % 300)


def tf_config(addresses, index, kind="worker"):
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": kind, "index": index}})


@pytest.fixture
def environment(monkeypatch):
    """Sets TF_CONFIG, and takes away what a cluster that runs the tests may have set."""
    for key in os.environ:
        if key.startswith("SLURM_") or key in ("TF_CONFIG", "TPU_NAME"):
            monkeypatch.delenv(key)

    def set_tf_config(text):
        monkeypatch.setenv("TF_CONFIG", text)

    return set_tf_config


@pytest.fixture(scope="module")
def reference():
    """What one replica makes of the same batches: model, painter, and what `fit` and `evaluate` say."""
    import tensorflow as tf
    import worker

    return worker.train(tf.distribute.get_strategy())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder where two replicas of one process, and two workers that the end kills, have left what they learned."""
    folder = tmp_path_factory.mktemp("runs")
    script = pathlib.Path(__file__).with_name("worker.py")
    addresses = [f"localhost:{port}" for port in free_ports(2)]
    processes = {}
    try:
        for name, index in [("mirrored", 0), ("multiworker", 0), ("multiworker", 1)]:
            environment = os.environ | {"TF_CONFIG": tf_config(addresses, index)} if name == "multiworker" else os.environ
            with (folder / f"{name}_{index}.log").open("w") as log:
                command = [sys.executable, script, name, folder]
                processes[name, index] = subprocess.Popen(command, env=environment, cwd="/", stdout=log, stderr=subprocess.STDOUT)
        wait_for(lambda: all((folder / f"{name}_{index}.json").exists() for name, index in processes), processes, folder)
        yield folder, processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def wait_for(done, processes, folder, seconds=600):
    until = time.monotonic() + seconds
    while not done():
        for (name, index), process in processes.items():
            if process.poll() or time.monotonic() > until:
                pytest.fail(f"{name} {index} did not come so far:\n" + (folder / f"{name}_{index}.log").read_text()[-4000:])
        time.sleep(0.2)


def result(runs, name, index=0):
    return json.loads((runs[0] / f"{name}_{index}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "index"), [("mirrored", 0), ("multiworker", 0), ("multiworker", 1)])
def test_replicas_train_to_the_weights_and_the_metrics_of_one_device(runs, reference, name, index):
    import worker

    *expected, said = reference
    for made, initial, what in zip(expected, [worker.classifier(), worker.painter()], ["classifier", "painter"], strict=True):
        assert max(np.abs(a - b).max() for a, b in zip(initial.get_weights(), made.get_weights(), strict=True)) > 0.01
        initial.load_weights(runs[0] / f"{name}_{index}_{what}.weights.h5")
        for value, weight in zip(made.get_weights(), initial.weights, strict=True):
            np.testing.assert_allclose(weight.numpy(), value, atol=1e-5, err_msg=weight.path)
    found = result(runs, name, index)
    for key, values in said["history"].items():
        np.testing.assert_allclose(found["history"][key], values, atol=1e-5, err_msg=key)
    assert found["evaluated"] == pytest.approx(said["evaluated"], abs=1e-5)
    assert found["seen"] == pytest.approx(said["seen"], abs=1e-5)
    assert found["painted"]["loss"] == pytest.approx(said["painted"]["loss"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mirrored", "multiworker"])
def test_the_chief_alone_saves_a_model_that_any_process_loads(runs, reference, name):
    import keras
    import worker

    x, _ = worker.pictures(3, (16, 24, 3), 8)
    model = keras.models.load_model(runs[0] / f"{name}.keras")
    np.testing.assert_allclose(model(x).numpy(), reference[0](x).numpy(), atol=1e-4)


@pytest.mark.slow
def test_replicas_get_the_batches_of_their_process_in_turn(runs):
    assert result(runs, "mirrored")["dealt"] == [[[0], [1]], [[2], [3]], [[4], [5]]]
    assert result(runs, "multiworker", 0)["dealt"] == [[[0]], [[2]], [[4]]]
    assert result(runs, "multiworker", 1)["dealt"] == [[[1]], [[3]], [[5]]]


@pytest.mark.slow
def test_all_workers_learn_that_they_do_not_agree(runs):
    for index in range(2):
        said = result(runs, "multiworker", index)["disagreed"]
        assert said == "Expected the epoch to be the same on all workers. Received: 7, 4. Share the folder."


@pytest.mark.slow
def test_keras_alone_still_fails_with_several_workers(runs):
    # Where it does not any more, `prepare_for_workers` has to do less.
    build, reduction = result(runs, "multiworker")["keras_alone"]
    assert "Attempt to convert a value (PerReplica" in build
    assert "Invalid reduction dimension 0" in reduction


@pytest.mark.slow
def test_a_killed_worker_stops_the_other_with_a_clear_line(runs):
    folder, processes = runs
    workers = {key: process for key, process in processes.items() if key[0] == "multiworker"}
    wait_for(lambda: all((folder / f"training_{index}").exists() for index in range(2)), workers, folder)
    workers["multiworker", 1].send_signal(signal.SIGKILL)
    assert workers["multiworker", 0].wait(timeout=60) == 1
    last = (folder / "multiworker_0.log").read_text().splitlines()[-1]
    assert re.fullmatch(
        r"a worker stopped: worker 1 \(localhost:\d+\) cannot be reached any more\. "
        r"Start all workers again with the same commands: they resume after the last finished epoch\.",
        last,
    )


@pytest.mark.parametrize(
    ("index", "text", "lost"),
    [
        (0, "From /job:worker/replica:0/task:1: Connection reset", "worker 1 (b:2)"),
        (1, "From /job:worker/replica:0/task:1: failed to reach /job:worker/task:2", "worker 2 (c:3)"),
        (1, "From /job:worker/replica:0/task:1: Socket closed", "worker 0 (a:1)"),
        (2, "Connection reset by peer", "worker 0 (a:1)"),
        (0, "From /job:worker/replica:0/task:0: aborted", "another"),
    ],
)
def test_a_worker_never_calls_itself_lost(index, text, lost):
    import tensorflow as tf

    from swin_keras.training.strategy import WorkerLost, _lost_workers

    with pytest.raises(WorkerLost, match="a worker stopped: " + re.escape(lost) + " cannot be reached"), _lost_workers(["a:1", "b:2", "c:3"], index):
        raise tf.errors.UnavailableError(None, None, text)


def test_one_device_is_keras_as_it_is(environment):
    import tensorflow as tf

    from swin_keras.training.strategy import distribute, is_chief, make_strategy, prepare_for_workers, worker_count

    for name in ("auto", "one"):
        strategy, chosen = make_strategy(name)
        assert chosen == "one" and strategy is tf.distribute.get_strategy()
    assert is_chief(strategy) and worker_count(strategy) == 1
    data = tf.data.Dataset.range(3)
    assert distribute(strategy, lambda own, count: data if (own, count) == ((0,), 1) else None) is data
    prepare_for_workers(strategy, model := object(), data)
    assert not hasattr(model, "__dict__")


def test_auto_takes_all_gpus(environment, monkeypatch):
    import tensorflow as tf

    from swin_keras.training.strategy import make_strategy

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0", "GPU:1"])
    assert make_strategy("auto")[1] == "mirrored"


def test_a_worker_says_who_is_missing_and_does_not_wait_for_ever(environment):
    from swin_keras.training.strategy import WorkerLost, make_strategy

    lines, (here, there, elsewhere) = [], free_ports(3)
    environment(tf_config([f"localhost:{port}" for port in (there, here, elsewhere)], 1))
    with pytest.raises(WorkerLost, match=rf"worker 0 \(localhost:{there}\), 2 \(localhost:{elsewhere}\) did not come within 1 s"):
        make_strategy("auto", lines.append, patience=0.6)
    assert lines == [f"worker 1 waits for worker 0 (localhost:{there}), 2 (localhost:{elsewhere})"]


GOOD = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[1]", "no dictionary"),
        (json.dumps({"cluster": ["a:1", "b:2"]}), "no dictionary of lists"),
        (json.dumps({"cluster": {"worker": "a:1"}}), "no dictionary of lists"),
        (json.dumps({"cluster": {"worker": ["a:1"], "ps": ["b:2"]}}), "with ps: a run has workers"),
        (json.dumps({"cluster": {"worker": ["a:1", "b"]}}), "'b' is no host:port"),
        (json.dumps({"cluster": {"worker": ["a:1", "b:65536"]}}), "'b:65536' is no host:port"),
        (json.dumps({"cluster": {"worker": ["a:1", "a:1"]}}), "an address twice"),
        (json.dumps(GOOD | {"task": {}}), "whose task has not the type"),
        (json.dumps(GOOD | {"task": None}), "whose task has not the type"),
        (json.dumps(GOOD | {"task": {"type": ["worker"], "index": 0}}), "whose task has not the type"),
        (json.dumps(GOOD | {"task": {"type": "chief", "index": 0}}), "has not the type of any list in the cluster, worker"),
        (json.dumps(GOOD | {"task": {"type": "worker"}}), "no index from 0 to 1"),
        (json.dumps(GOOD | {"task": {"type": "worker", "index": 2}}), "no index from 0 to 1"),
        (json.dumps(GOOD | {"task": {"type": "worker", "index": -1}}), "no index from 0 to 1"),
    ],
)
def test_a_bad_tf_config_is_refused_in_one_line(environment, text, message):
    from swin_keras.training.strategy import make_strategy

    environment(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        make_strategy("auto")
    assert "\n" not in str(caught.value) and '"task": {"type": "worker", "index": 0}' in str(caught.value)


def test_a_port_in_use_is_refused(environment):
    from swin_keras.training.strategy import make_strategy

    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        environment(tf_config([f"localhost:{port}", "localhost:1"], 0))
        with pytest.raises(ValueError, match=f"free port of this machine in 'localhost:{port}'.*in use"):
            make_strategy("multiworker")


def test_workers_come_before_anything_else(environment):
    import tensorflow as tf

    from swin_keras.training.strategy import make_strategy

    tf.zeros(2)
    environment(tf_config([f"localhost:{free_ports(1)[0]}"], 0))
    with pytest.raises(ValueError, match="before anything else that TensorFlow computes"):
        make_strategy("multiworker")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("multiworker", "Set the environment variable TF_CONFIG of each worker to JSON .* or start all with `srun"),
        ("all", "`strategy` must be one of auto, one, mirrored, multiworker, tpu. Received: strategy='all'."),
    ],
)
def test_a_strategy_that_cannot_be_had_is_refused(environment, name, message):
    from swin_keras.training.strategy import make_strategy

    with pytest.raises(ValueError, match=message) as caught:
        make_strategy(name)
    assert "\n" not in str(caught.value)


def test_a_tpu_that_is_not_there_is_refused(run_command):
    """In a process of its own: TensorFlow first forgets all functions of this one, which takes longer the more there were."""
    program = "from swin_keras.training.strategy import make_strategy\ntry:\n    make_strategy('tpu')\nexcept ValueError as error:\n    print(error)"
    said = run_command("-c", program).stdout
    assert said.startswith("Expected a TPU for strategy='tpu'. Received: none") and said.count("\n") == 1


def test_a_chief_is_the_first_worker():
    from swin_keras.training.strategy import _workers

    cluster = {"chief": ["c:1"], "worker": ["a:2", "b:3"]}
    for kind, index, number in [("chief", 0, 0), ("worker", 0, 1), ("worker", "1", 2)]:
        text = json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})
        assert _workers({"TF_CONFIG": text}) == (("c:1", "a:2", "b:3"), number)


def test_each_task_of_an_srun_step_finds_its_place():
    from swin_keras.training.strategy import _workers

    step = {"SLURM_STEP_NUM_TASKS": "5", "SLURM_STEP_NODELIST": "n[9-10],m07x[1]", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1", **NUMBERS}
    addresses = (f"n9:{PORT}", f"n9:{PORT + 1}", f"n10:{PORT}", f"n10:{PORT + 1}", f"m07x1:{PORT}")
    # In cyclic distribution task 3 is on the first machine again; its number is of no matter here.
    places = {(0, 0): 0, (0, 1): 1, (1, 0): 2, (1, 1): 3, (2, 0): 4}
    for (node, local), index in places.items():
        own = {"SLURM_NODEID": str(node), "SLURM_LOCALID": str(local), "SLURM_PROCID": str(node + 3 * local)}
        assert _workers({**step, **own}) == (addresses, index)
    text = json.dumps(GOOD)
    assert _workers({**step, **own, "TF_CONFIG": text}) == (("a:1", "b:2"), 0)


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # a batch script, which runs once
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NODELIST": "n1"},  # an interactive shell
        {"TF_CONFIG": "{}"},
        {"TF_CONFIG": '{"cluster": {"worker": []}}'},
    ],
)
def test_a_process_alone_is_no_worker(environment):
    from swin_keras.training.strategy import _workers

    assert _workers(environment) == ((), 0)


@pytest.mark.parametrize(
    "change", [{"SLURM_STEP_TASKS_PER_NODE": "2"}, {"SLURM_LOCALID": "2"}, {"SLURM_NODEID": "x"}, {"SLURM_STEP_TASKS_PER_NODE": "(x2)"}]
)
def test_slurm_variables_that_do_not_fit_are_refused(change):
    from swin_keras.training.strategy import _workers

    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_NODEID": "0"}
    with pytest.raises(ValueError, match=r"Expected the SLURM variables of an srun step\. Received: .*SLURM_STEP_NODELIST"):
        _workers({**step, **NUMBERS, "SLURM_LOCALID": "0", **change})


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("n1", ["n1"]),
        ("n[08-10,3]", ["n08", "n09", "n10", "n3"]),
        ("a-b[1-2],c", ["a-b1", "a-b2", "c"]),
        ("r[1-2]n[3,5]", ["r1n3", "r1n5", "r2n3", "r2n5"]),
    ],
)
def test_host_lists_are_written_out_as_slurm_does(text, hosts):
    from swin_keras.training.strategy import _expand_hosts

    assert _expand_hosts(text) == hosts
