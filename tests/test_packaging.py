"""What is installed: `swin_keras/` and nothing beside it, with every source file."""

import pathlib
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    source = folder / "source"
    for name in tracked.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", folder, source]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_every_source_file_under_swin_keras_and_nothing_else(wheel):
    expected = {f"swin_keras/{path.relative_to(ROOT / 'swin_keras')}" for path in (ROOT / "swin_keras").rglob("*.py")}
    for folder in ("export", "edge_demo"):
        expected |= {f"swin_keras/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.py")}
    web = [path.name for path in (ROOT / "edge_demo" / "web").iterdir() if path.is_file() and not path.name.startswith(".")]
    expected |= {f"swin_keras/edge_demo/web/{name}" for name in web}
    expected |= {"swin_keras/edge_demo/requirements.txt", "swin_keras/weights/imagenet_22k_to_1k.txt"}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected


def test_every_dependency_has_a_reason_in_contributing(wheel):
    (metadata,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA")]
    lines = zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
    required = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(required) >= 11
    for requirement in required:
        name = requirement.split(";")[0].split("<")[0].split(">")[0].split("=")[0].strip()
        assert f"| {name} |" in contributing, requirement


def test_export_folder_refuses_to_be_imported_under_its_folder_name(run_command):
    finished = run_command("-c", "import export", cwd=ROOT)
    assert finished.returncode != 0 and "This folder is `swin_keras.export`" in finished.stderr


def test_importing_the_package_prints_nothing_and_registers_the_layers(run_command):
    code = "import keras, swin_keras; print(keras.saving.get_registered_object('swin_keras>SwinBlock').__name__)"
    finished = run_command("-c", code.replace("import keras, swin_keras", "import swin_keras, keras"))
    assert (finished.stdout, finished.stderr, finished.returncode) == ("SwinBlock\n", "", 0)
