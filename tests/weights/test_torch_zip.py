"""Files of `torch.save` are read without torch, and nothing that is in them runs."""

import builtins
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile

import keras
import numpy as np
import pytest
import torch_files
from conftest import GOLDENS
from safetensors.numpy import load_file

import swin_keras
from swin_keras.weights.files import read_tensors


@pytest.fixture
def arrays(rng):
    return {
        "a.weight": rng.standard_normal((3, 5)).astype("float32"),
        "b": rng.standard_normal((2, 7, 1, 4)).astype("float64"),
        "half": rng.standard_normal(11).astype("float16"),
        "count": np.array(17, "int64"),
        "none": np.zeros((0, 3), "float32"),
    }


def assert_read(path, arrays):
    tensors = read_tensors(path)
    assert set(tensors) == set(arrays)
    for name, array in arrays.items():
        read = tensors[name].read()
        assert tensors[name].shape == read.shape == array.shape and tensors[name].dtype == read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("protocol", range(1, 6))
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state},
        lambda state: {"meta": {"CLASSES": ("a", "b"), "epoch": 3}, "state_dict": state, "optimizer": {"state": {0: {"step": 1}}, "lr": [0.1]}},
    ],
    ids=["bare", "official", "training"],
)
def test_what_torch_writes_is_read_in_every_protocol(tmp_path, arrays, wrap, protocol):
    torch_files.write(tmp_path / "weights.pth", arrays, wrap, protocol=protocol)
    assert_read(tmp_path / "weights.pth", arrays)


@pytest.mark.parametrize(
    "name", ["official", "official_v2", "official_mlp", "official_simmim", "official_simmim_v2", "torchvision", "torchvision_v2"]
)
def test_files_of_torch_itself_hold_what_their_safetensors_hold(name):
    assert_read(GOLDENS / f"{name}.pth", load_file(GOLDENS / f"{name}.safetensors"))


def test_tensors_that_share_a_storage_are_told_apart():
    assert_read(GOLDENS / "huggingface_v4.bin", load_file(GOLDENS / "huggingface_v4.safetensors"))


def test_strides_and_offsets_are_followed(tmp_path, rng):
    array = rng.standard_normal((5, 7)).astype("float32")
    torch_files.write(tmp_path / "weights.pth", {"x": array}, change=lambda *_: (9, (3, 2), (1, 14)))
    expected = np.array([[array.ravel()[9 + row + 14 * column] for column in range(2)] for row in range(3)])
    np.testing.assert_array_equal(read_tensors(tmp_path / "weights.pth")["x"].read(), expected)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="the backend itself is torch")
def test_reading_a_checkpoint_does_not_import_torch():
    for tensor in read_tensors(GOLDENS / "official.pth").values():
        tensor.read()
    assert "torch" not in sys.modules


def test_the_older_format_is_read_by_torch_or_refused_where_there_is_none():
    try:
        import torch  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match=r"format of torch before version 1\.6.*pip install 'swin-keras\[torch\]'"):
            read_tensors(GOLDENS / "official_legacy.pth")
    else:
        assert_read(GOLDENS / "official_legacy.pth", load_file(GOLDENS / "official.safetensors"))


def _touch(path):
    return torch_files.Call(open, str(path), "w")


@pytest.mark.parametrize("protocol", [1, 2, 4, 5])
@pytest.mark.parametrize(
    ("hostile", "name"),
    [
        (lambda path: torch_files.Call(os.system, f"touch {path}"), r"(posix|nt)\.system"),
        (lambda path: torch_files.Call(builtins.eval, f"open({str(path)!r}, 'w')"), r"\w+\.eval"),
        (lambda path: torch_files.Call(builtins.exec, f"open({str(path)!r}, 'w')"), r"\w+\.exec"),
        (lambda path: torch_files.Call(builtins.getattr, os, "system"), r"\w+\.getattr|cannot pickle"),
        (lambda path: torch_files.Call(builtins.__import__, "os"), r"\w+\.__import__"),
        (_touch, r"(_?io)\.open"),
        (lambda path: torch_files.Call(subprocess.check_call, ["touch", str(path)]), r"(subprocess|commands)\.check_call"),
    ],
    ids=["system", "eval", "exec", "getattr", "import", "open", "subprocess"],
)
def test_hostile_code_is_refused_by_name_and_does_not_run(tmp_path, arrays, hostile, name, protocol):
    trace = tmp_path / "it_ran"
    path = tmp_path / "weights.pth"
    for place in ("before", "inside"):

        def wrap(state, place=place):
            # In front of the weights, and as one of them.
            return {"a": hostile(trace), "model": state} if place == "before" else {"model": {**state, "evil": hostile(trace)}}

        try:
            torch_files.write(path, arrays, wrap, protocol=protocol)
        except TypeError:
            return  # pickle itself refuses to write a module
        # The file is what it claims to be: an unpickler that knows all names does run it.
        with pytest.raises(ValueError, match=rf"it names ({name}), which no state dict needs"):
            read_tensors(path)
        assert not trace.exists()


def test_the_hostile_files_of_these_tests_would_run_elsewhere(tmp_path):
    pickle.loads(pickle.dumps(_touch(tmp_path / "it_ran"), 2))
    assert (tmp_path / "it_ran").exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"cos\nsystem\n(S'touch it_ran'\ntR.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x04\x8c\x0bcollections\x8c\x18OrderedDict.fromkeys.foo\x93.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor\n.",
        b"(S'touch it_ran'\nios\nsystem\n.",
        b"\x80\x02\x82\x01.",
    ],
    ids=["global", "stack global", "dotted", "another name of torch", "inst", "extension"],
)
def test_every_way_to_name_a_function_is_watched(tmp_path, pickled):
    torch_files.write_archive(tmp_path / "weights.pth", pickled)
    with pytest.raises(ValueError, match="it names|its pickle is damaged|what no state dict needs"):
        read_tensors(tmp_path / "weights.pth")


# A small assembler for pickles that no pickler writes.
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x0ctQ"


def tensor(storage=STORAGE, shape=b"K\x0c\x85", strides=b"K\x01\x85"):
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + shape + strides + b"\x89Ntq\x10R"


def state(value, tail=b""):
    return b"\x80\x02}X\x01\x00\x00\x00w" + value + b"s" + tail + b"."


@pytest.mark.parametrize(
    "pickled",
    [
        state(tensor(shape=b"]q\x05K\x0ca", strides=b"]q\x06K\x01a"), tail=b"h\x06K\x00M\xff\xffs0"),
        state(tensor(strides=b"]q\x05K\x01a"), tail=b"h\x05K\x00J\xff\xff\xff\x7fs0"),
        state(tensor(STORAGE + b"}X\x05\x00\x00\x00countM\xff\xffsb")),
        state(tensor() + b"}X\x04\x00\x00\x00readc__builtin__\nset\nsb"),
        b"\x80\x02ccollections\nOrderedDict\nN}X\x05\x00\x00\x00itemsK\x01s\x86b.",
        b"\x80\x02c__builtin__\nset\n}X\x05\x00\x00\x00itemsK\x01sb.",
        b"\x80\x02ccollections\nOrderedDict\n](K\x01K\x02ea\x85R.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
    ],
    ids=["shape", "stride", "storage", "read", "class", "set", "items", "call of a dtype"],
)
def test_what_was_checked_cannot_be_changed_afterwards(tmp_path, arrays, pickled):
    torch_files.write_archive(tmp_path / "evil.pth", pickled, {"0": bytes(48)})
    with pytest.raises(ValueError, match="what no state dict needs|its pickle is damaged"):
        read_tensors(tmp_path / "evil.pth")
    torch_files.write(tmp_path / "good.pth", arrays)
    assert_read(tmp_path / "good.pth", arrays)


def test_the_assembled_tensor_itself_is_good(tmp_path):
    torch_files.write_archive(tmp_path / "weights.pth", state(tensor()), {"0": np.arange(12, dtype="float32").tobytes()})
    np.testing.assert_array_equal(read_tensors(tmp_path / "weights.pth")["w"].read(), np.arange(12))


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02}" + b")" + b"q\x01h\x01\x86" * 40 + b"K\x01s.",
        b"\x80\x02}" + b")" + b"\x85" * 900_000 + b"K\x01s.",
        b"\x80\x02c__builtin__\nset\n](" + b")" + b"\x85" * 900_000 + b"ea\x85R.",
        b"\x80\x02" + b"}" * 8_000_000 + b".",
        b"\x80\x02(" + b"N" * 400_000 + b"lq\x00" + b"c__builtin__\nset\nh\x00\x85R" * 20_000 + b".",
        b"\x80\x02}q\x00(" + b"".join(b"J" + struct.pack("<i", key) + b"h\x00" for key in range(100_000)) + b"u.",
    ],
    ids=["shared tuples", "deep tuples", "deep set", "many objects", "copies", "one dictionary under many keys"],
)
def test_a_pickle_that_would_keep_the_machine_busy_is_refused_soon(tmp_path, pickled):
    torch_files.write_archive(tmp_path / "busy.pth", pickled)
    started = time.process_time()
    with pytest.raises(ValueError, match="is not a readable checkpoint"):
        read_tensors(tmp_path / "busy.pth")
    assert time.process_time() - started < 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"change": lambda name, offset, shape, strides: (1, shape, strides) if name == "a.weight" else (offset, shape, strides)}, "reaches beyond"),
        ({"change": lambda name, offset, shape, strides: (offset, shape, (2**50,) * len(shape))}, "a tensor of no shape"),
        ({"change": lambda name, offset, shape, strides: (-1, shape, strides)}, "a tensor of no shape"),
        ({"change": lambda name, offset, shape, strides: (offset, (2,) * 40, (0,) * 40)}, "a tensor of no shape"),
        ({"change": lambda name, offset, shape, strides: (offset, shape, (*strides, 1))}, "a tensor of no shape"),
        ({"change": lambda name, offset, shape, strides: (offset, ("3",), (1,))}, "a tensor of no shape"),
        ({"counts": {"a.weight": 10**9}}, "shorter than its tensor"),
        ({"counts": {"a.weight": -5}}, "a tensor without data"),
        ({"compression": zipfile.ZIP_DEFLATED}, "compressed or encrypted"),
        ({"wrap": lambda state: {"model": state, "state_dict": state}}, "several state dicts, model, state_dict"),
        ({"wrap": lambda state: {"epoch": 3}}, "it holds no state dict"),
        ({"wrap": lambda state: [1, 2]}, "it holds no state dict"),
        ({"wrap": lambda state: {(1, 2): state}}, "a key that is neither text nor a number"),
    ],
)
def test_damaged_checkpoints_are_refused(tmp_path, arrays, options, message):
    torch_files.write(tmp_path / "weights.pth", arrays, **options)
    with pytest.raises(ValueError, match=f"is not a readable checkpoint .*{message}"):
        read_tensors(tmp_path / "weights.pth")


def test_a_tensor_that_repeats_what_is_stored_is_refused(tmp_path):
    torch_files.write(tmp_path / "weights.pth", {"norm.weight": np.ones(1, "float32")}, change=lambda *_: (0, (10**6, 10**6), (0, 0)))
    with pytest.raises(ValueError, match="reaches beyond"):
        read_tensors(tmp_path / "weights.pth")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data.pkl", "w") as entry:
        for _ in range(200):
            entry.write(bytes(2**20))
    assert (tmp_path / "bomb.pth").stat().st_size < 10**6
    with pytest.raises(ValueError, match="compressed or encrypted"):
        read_tensors(tmp_path / "bomb.pth")


def test_an_entry_that_claims_more_than_the_file_holds_is_refused(tmp_path, arrays):
    path = tmp_path / "weights.pth"
    torch_files.write(path, arrays)
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02", 0, content.rindex(b"archive/data/0"))
    content[place + 20 : place + 28] = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="claims 2147483648 bytes"):
        read_tensors(path)


def test_a_number_in_the_memo_costs_no_memory(tmp_path):
    torch_files.write_archive(tmp_path / "weights.pth", b"\x80\x02}r\xff\xff\xff\xff.")
    with pytest.raises(ValueError, match="holds no state dict"):
        read_tensors(tmp_path / "weights.pth")


def test_a_tensor_beside_a_state_dict_does_not_hide_it(tmp_path, arrays):
    torch_files.write(tmp_path / "weights.pth", arrays, lambda state: {"best_acc1": state["count"], "state_dict": state})
    assert_read(tmp_path / "weights.pth", arrays)


def test_an_archive_that_wants_a_newer_reader_is_refused(tmp_path, arrays):
    torch_files.write(tmp_path / "weights.pth", arrays)
    content = bytearray((tmp_path / "weights.pth").read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 255
    (tmp_path / "weights.pth").write_bytes(content)
    model = swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=3)
    with pytest.raises(ValueError, match="is not a readable checkpoint"):
        swin_keras.load_weights(model, tmp_path / "weights.pth")


def test_a_changed_byte_in_a_tensor_is_noticed_and_the_model_stays(tmp_path):
    model = swin_keras.create_model("swin_tiny_patch4_window7_224", input_shape=(48, 96, 3), embed_dim=12, depths=(2, 3, 1), num_heads=(2, 3, 6))
    content = bytearray((GOLDENS / "official.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "weights.pth").write_bytes(content)
    before = model.get_weights()
    with pytest.raises(ValueError, match="is damaged|is not a readable checkpoint|does not match"):
        swin_keras.load_weights(model, tmp_path / "weights.pth")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_an_archive_with_two_entries_of_one_name_is_refused(tmp_path, arrays):
    torch_files.write(tmp_path / "weights.pth", arrays)
    with zipfile.ZipFile(tmp_path / "weights.pth", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data/0", bytes(60))
    with pytest.raises(ValueError, match="two entries of the archive have one name"):
        read_tensors(tmp_path / "weights.pth")


def test_a_zip_that_is_no_checkpoint_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(ValueError, match="holds no checkpoint of torch or Keras"):
        read_tensors(tmp_path / "weights.pth")
    with zipfile.ZipFile(tmp_path / "empty.pth", "w"):
        pass
    with pytest.raises(ValueError, match="holds no checkpoint of torch or Keras"):
        read_tensors(tmp_path / "empty.pth")


def test_every_truncation_is_refused(tmp_path, arrays):
    torch_files.write(tmp_path / "weights.pth", arrays)
    content = (tmp_path / "weights.pth").read_bytes()
    for kept in range(0, len(content), 37):
        (tmp_path / "cut.pth").write_bytes(content[:kept])
        with pytest.raises(ValueError, match="is not a readable checkpoint"):
            read_tensors(tmp_path / "cut.pth")


def test_no_change_of_a_byte_of_the_pickle_raises_anything_but_a_value_error(tmp_path, arrays):
    torch_files.write(tmp_path / "weights.pth", arrays)
    with zipfile.ZipFile(tmp_path / "weights.pth") as archive:
        pickled = archive.read("archive/data.pkl")
        data = {str(key): archive.read(f"archive/data/{key}") for key in range(len(arrays))}
    for place in range(0, len(pickled)):
        changed = bytearray(pickled)
        changed[place] ^= 1 << place % 8
        torch_files.write_archive(tmp_path / "changed.pth", bytes(changed), data)
        try:
            for tensor in read_tensors(tmp_path / "changed.pth").values():
                tensor.read()
        except ValueError:
            pass
