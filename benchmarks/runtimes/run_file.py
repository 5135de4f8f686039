"""Runs a .tflite file on pictures, one after the other, in a process of its own: here, on a GPU, or on another machine.

python run_file.py FILE PICTURES.npy OUTPUTS.npz cpu|gpu

PICTURES.npy is float32 (n, height, width, 3), normalized. Needs ai-edge-litert and numpy alone. The last line that it prints is JSON.
"""

import importlib.metadata
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np


class RuntimeFailed(RuntimeError):
    """The runtime did not run the file. `rejected` lists the operators that it refuses, each with the reason."""

    def __init__(self, ending, log=""):
        lines = [line for line in log.splitlines() if line.strip() and not line.startswith("INFO:")]
        starts = [number for number, line in enumerate(lines) if "not supported by GPU delegate:" in line]
        ends = [number for number, line in enumerate(lines) if "operations will run on the " in line]
        rejected = lines[starts[0] + 1 : ends[0]] if starts and ends else []
        # Where a name of a tensor follows the reason, one line for each reason is enough.
        self.rejected = list(dict.fromkeys(line.split(". ")[0].rstrip(".") for line in rejected))
        super().__init__("; ".join(self.rejected) or " ".join([ending, *lines[-2:]]))


def run_in_child(file, pictures, accelerator="cpu", command=(sys.executable,), environment=None, timeout=None):
    """Runs a file in a child, for a runtime may crash, and reads its environment as it starts.

    Args:
        file: Path of the .tflite file.
        pictures: float32 array `(n, height, width, 3)`.
        accelerator: `"cpu"` or `"gpu"`.
        command: List. How to start an interpreter of Python.
        environment: Dictionary, or `None` for that of this process.
        timeout: Float. Seconds that the child may take, or `None`.

    Returns:
        A dictionary of the outputs by name, arrays `(n, ...)`, and what the child says of the runtime, another dictionary.

    Raises:
        RuntimeFailed: If the child fails, or takes longer.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = pathlib.Path(folder) / "pictures.npy", pathlib.Path(folder) / "outputs.npz"
        np.save(inputs, pictures)
        arguments = [*command, __file__, file, inputs, outputs, accelerator]
        try:
            child = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise RuntimeFailed(f"did not end within {timeout:g} s") from error
        if child.returncode:
            raise RuntimeFailed(f"ended with code {child.returncode}:", child.stderr)
        with np.load(outputs) as arrays:
            return dict(arrays), json.loads(child.stdout.splitlines()[-1])


def main(file, inputs, outputs, accelerator):
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.interpreter import Interpreter

    compiled = CompiledModel.from_file(file, hardware_accel=HardwareAccelerator[accelerator.upper()])
    # The compiled model tells what is accelerated. On a CPU the interpreter runs the file, as the Python app does.
    interpreter = Interpreter(file).get_signature_runner()
    run = interpreter if accelerator == "cpu" else on_gpu(compiled, interpreter)
    (name,) = interpreter.get_input_details()
    rows = [run(**{name: picture[None]}) for picture in np.load(inputs)]
    np.savez(outputs, **{output: np.concatenate([row[output] for row in rows]) for output in rows[0]})
    print(json.dumps({"fully_accelerated": compiled.is_fully_accelerated(), "version": importlib.metadata.version("ai-edge-litert")}))


def on_gpu(compiled, interpreter):
    """Returns a function that runs a compiled model and is called like the interpreter's."""
    (signature,) = compiled.get_signature_list()
    inputs = {name: compiled.create_input_buffer_by_name(signature, name) for name in interpreter.get_input_details()}
    outputs = {name: compiled.create_output_buffer_by_name(signature, name) for name in interpreter.get_output_details()}
    shapes = {name: details["shape"] for name, details in interpreter.get_output_details().items()}

    def run(**pictures):
        for name, picture in pictures.items():
            inputs[name].write(picture)
        compiled.run_by_name(signature, inputs, outputs)
        return {name: buffer.read(int(np.prod(shapes[name])), np.float32).reshape(shapes[name]) for name, buffer in outputs.items()}

    return run


if __name__ == "__main__":
    main(*sys.argv[1:])
