"""Imports go one way. Reads the source; imports nothing of ours."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Who may import whom; each room may import itself. `tensorflow` is a room here too.
ALLOWED = {
    "layers": set(),
    "preprocessing": {"tensorflow"},
    "weights": {"preprocessing"},
    "models": {"weights", "layers", "preprocessing"},
    "compression": {"models", "layers", "export", "tensorflow"},
    "tasks": {"models", "layers", "preprocessing", "training", "tensorflow"},
    "training": {"models", "weights", "layers", "preprocessing", "compression", "edge_demo", "tensorflow", "version"},
    "export": {"models", "weights", "layers", "preprocessing", "edge_demo", "quiet", "tensorflow", "version", "cli"},
    "edge_demo": set(),
    "cli": {
        "export",
        "training",
        "compression",
        "tasks",
        "models",
        "weights",
        "preprocessing",
        "edge_demo",
        "quiet",
        "interrupt",
        "demo",
        "dense_demo",
        "tensorflow",
    },
    "demo": {"export", "training", "edge_demo"},
    "dense_demo": {"demo", "export", "training", "tasks", "models", "weights", "preprocessing", "edge_demo"},
    "interrupt": set(),
    "quiet": set(),
    "version": set(),
}
FOLDERS = {"export": ROOT / "export", "edge_demo": ROOT / "edge_demo"}
EDGE_LIBRARIES = {"ai_edge_litert", "numpy", "PIL"}


def sources(room):
    folder = FOLDERS.get(room, ROOT / "swin_keras" / room)
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def imports(path):
    """Yields the line and the full name of everything that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def room_of(name):
    parts = name.split(".")
    if parts[0] == "tensorflow":
        return "tensorflow"
    if parts[0] != "swin_keras" or len(parts) < 2:
        return None
    # `from swin_keras import create_model` takes it from the package, which takes it from models.
    return parts[1] if parts[1] in ALLOWED or (ROOT / "swin_keras" / parts[1]).exists() else "models"


def test_every_module_and_folder_of_the_package_is_a_known_room():
    found = {path.stem for path in (ROOT / "swin_keras").iterdir() if path.name not in ("__init__.py", "__pycache__")}
    assert found | set(FOLDERS) == set(ALLOWED)


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_go_one_way(room):
    assert sources(room)
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(room)
        for line, name in imports(path)
        if room_of(name) is not None
        and room_of(name) not in ALLOWED[room] | {room}
        # The conversion script is the command line under another name.
        and not (room_of(name) == "cli" and path.name != "__main__.py")
    ]
    assert wrong == []


def test_only_the_export_script_imports_the_command_line():
    assert [path.name for path in sources("export") for _, name in imports(path) if room_of(name) == "cli"] == ["__main__.py"]


def test_preprocessing_imports_tensorflow_inside_functions_only():
    tree = ast.parse((ROOT / "swin_keras" / "preprocessing.py").read_text())
    top = [name for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom) for name in [ast.unparse(node)]]
    assert not any("tensorflow" in name or "keras" in name for name in top)


def test_torch_is_imported_in_one_file_and_inside_a_function():
    found = {path.name for room in ALLOWED for path in sources(room) for _, name in imports(path) if name.split(".")[0] == "torch"}
    assert found == {"legacy_torch.py"}
    tree = ast.parse((ROOT / "swin_keras" / "weights" / "legacy_torch.py").read_text())
    assert not [node for node in tree.body if isinstance(node, ast.Import) and "torch" in ast.unparse(node)]


def test_edge_demo_imports_its_three_libraries_and_the_standard_library():
    import sys

    for path in sources("edge_demo"):
        optional = {"cv2"} if path.name == "camera.py" else set()
        for line, name in imports(path):
            top = name.split(".")[0]
            assert top in EDGE_LIBRARIES | optional or top in sys.stdlib_module_names, f"{path.name}:{line} imports {name}"


def test_edge_demo_imports_opencv_inside_a_function_only():
    tree = ast.parse((ROOT / "edge_demo" / "camera.py").read_text())
    assert not [node for node in tree.body if isinstance(node, ast.Import) and "cv2" in ast.unparse(node)]


def test_no_private_part_of_keras_is_imported():
    for room in ALLOWED:
        for path in sources(room):
            assert not [name for _, name in imports(path) if name.startswith("keras.src")], path


def test_no_file_names_a_machine_or_a_registry():
    words = ["/" + "work/", "/" + "root/", "pypi" + ".org", "registry.npmjs" + ".org", "pythonhosted" + ".org"]
    suffixes = {".py", ".md", ".toml", ".txt", ".json", ".html", ".js", ".cfg", ""}
    for path in ROOT.rglob("*"):
        hidden = any(part.startswith(".") and part != ".ci" for part in path.relative_to(ROOT).parts)
        if path.is_file() and not hidden and path.suffix in suffixes and path.stat().st_size < 2_000_000 and "egg-info" not in str(path):
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not [word for word in words if word in text], path
