"""Makes the goldens of this folder from the reference implementations. README.md says in which environment.

python make_goldens.py huggingface
python make_goldens.py official PATH_OF_A_CLONE_OF_microsoft/Swin-Transformer
"""

import contextlib
import importlib.util
import pathlib
import re
import sys
import types

import numpy as np
import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
# Not square, windows that clamp in the last stage, heads and widths that all differ.
HEIGHT, WIDTH = 48, 96
CONFIG = {"embed_dim": 12, "depths": [2, 3, 1], "num_heads": [2, 3, 6], "window_size": 3, "num_classes": 7}


def randomize(model):
    """Fills every tensor with random values: zeros and ones would hide swapped axes and missing biases."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data = centre + 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def pictures():
    """Two normalized pictures; half precision holds their values exactly, which keeps the file small."""
    return np.random.default_rng(0).standard_normal((2, HEIGHT, WIDTH, 3)).astype("float16")


@torch.no_grad()
def logits(model):
    output = model(torch.from_numpy(pictures().astype("float32")).permute(0, 3, 1, 2))
    return getattr(output, "logits", output).numpy()


def declare_torchvision_operators():
    """Lets torchvision be imported where its compiled operators do not fit the torch at hand, such as a CPU build."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None:
        return
    folder = pathlib.Path(spec.origin).parent
    try:
        torch.ops.load_library(folder / "_C.so")
    except OSError:
        declare_torchvision_operators.library = library = torch.library.Library("torchvision", "DEF")
        for source in folder.rglob("*.py"):
            for pair in re.findall(r'register_meta\("([a-z_0-9]+)"|torchvision::([a-zA-Z_0-9]+)', source.read_text()):
                with contextlib.suppress(RuntimeError):  # declared already
                    library.define(f"{''.join(pair)}(Tensor x) -> Tensor")


def huggingface():
    declare_torchvision_operators()
    import transformers

    names = {"num_classes": "num_labels"}
    config = transformers.SwinConfig(image_size=(HEIGHT, WIDTH), patch_size=4, **{names.get(k, k): v for k, v in CONFIG.items()})
    model = randomize(transformers.SwinForImageClassification(config))
    major = transformers.__version__.split(".")[0]
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, HERE / f"huggingface_v{major}.safetensors")
    np.savez_compressed(HERE / f"huggingface_v{major}.npz", pictures=pictures(), logits=logits(model))
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")


def load(path, package=""):
    """Imports one file of a clone, with stand-ins for all that it takes from elsewhere."""

    def stand_in(name, **attributes):
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(attributes)

    pair = lambda x: tuple(x) if isinstance(x, (tuple, list)) else (x, x)  # noqa: E731
    stand_in("timm")
    stand_in("timm.models")
    stand_in("timm.models.layers", DropPath=torch.nn.Identity, to_2tuple=pair, trunc_normal_=torch.nn.init.trunc_normal_)
    stand_in("mmcv_custom", load_checkpoint=None)
    stand_in("mmdet")
    stand_in("mmdet.utils", get_root_logger=None)
    stand_in("mmdet.models")
    stand_in("mmdet.models.backbones")
    stand_in("mmdet.models.builder", BACKBONES=types.SimpleNamespace(register_module=lambda: lambda cls: cls))
    spec = importlib.util.spec_from_file_location(package + path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def official(clone):
    module = load(pathlib.Path(clone) / "models" / "swin_transformer.py")
    model = randomize(module.SwinTransformer(img_size=(HEIGHT, WIDTH), patch_size=4, drop_path_rate=0.0, **CONFIG))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, HERE / "official.safetensors")
    np.savez_compressed(HERE / "official.npz", pictures=pictures(), logits=logits(model))
    print(f"official code, torch {torch.__version__}")


if __name__ == "__main__":
    {"huggingface": huggingface, "official": official}[sys.argv[1]](*sys.argv[2:])
