"""Makes the goldens of every project, version and option: logits and the output of each stage. README.md says in which environment.

python make_family_goldens.py official PATH_OF_A_CLONE_OF_microsoft/Swin-Transformer
python make_family_goldens.py detection PATH_OF_A_CLONE_OF_SwinTransformer/Swin-Transformer-Object-Detection
python make_family_goldens.py simmim PATH_OF_A_CLONE_OF_microsoft/Swin-Transformer
python make_family_goldens.py huggingface
python make_family_goldens.py timm
python make_family_goldens.py torchvision
"""

import importlib.util
import json
import math
import pathlib
import sys
import types

import numpy as np
import torch
from make_goldens import declare_torchvision_operators, load
from safetensors.torch import save

HERE = pathlib.Path(__file__).parent
SIZES = {"embed_dim": 8, "depths": [2, 2, 2], "num_heads": [1, 2, 4]}
CLASSES = 7


def randomize(model):
    """Fills every parameter with random values that half precision holds exactly. Zeros and ones would hide defects."""
    generator = torch.Generator().manual_seed(0)
    scales = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("logit_scale"):
            value = math.log(10) + 0.5 * noise
            value[1:2] = 5.0  # above the limit of log(100)
        else:
            value = float(name in scales) + 0.2 * noise
        parameter.data = value.half().float()
    model.eval()
    return model


def write_tensors(name, model):
    """Writes a state dict, its parameters in half precision."""
    parameters = dict(model.named_parameters())
    tensors = {key: (value.half() if key in parameters else value).contiguous() for key, value in model.state_dict().items()}
    (HERE / f"{name}.safetensors").write_bytes(save(tensors))


@torch.no_grad()
def make(name, model, config, last_blocks):
    """Writes a golden. Without `last_blocks`, the stages are what the model returns, channels first."""
    height, width, _ = config["input_shape"]
    pictures = np.random.default_rng(0).standard_normal((2, height, width, 3)).astype("float16")
    stages = []
    for block in last_blocks:
        block.register_forward_hook(lambda module, inputs, output: stages.append(output[0] if isinstance(output, tuple) else output))
    output = randomize(model)(torch.from_numpy(pictures.astype("float32")).permute(0, 3, 1, 2))
    arrays = {"pictures": pictures, "config": np.array(json.dumps(config))}
    if last_blocks:
        arrays["logits"] = getattr(output, "logits", output).numpy()
    else:
        stages = [stage.permute(0, 2, 3, 1) for stage in output]
    for index, stage in enumerate(stages):
        grid = [-(-side // (4 * 2**index)) for side in (height, width)]  # each merge rounds up, and so do patches
        arrays[f"stage{index + 1}"] = stage.reshape(2, *grid, -1).contiguous().numpy()
    write_tensors(name, model)
    np.savez_compressed(HERE / f"{name}.npz", **arrays)
    print(f"{name}: " + ", ".join(f"{key} {abs(value).max():.3g}" for key, value in arrays.items() if key != "config"))


def official(clone):
    models = pathlib.Path(clone) / "models"
    v1 = load(models / "swin_transformer.py").SwinTransformer
    v2 = load(models / "swin_transformer_v2.py").SwinTransformerV2
    mlp = load(models / "swin_mlp.py").SwinMLP
    names = {"input_shape": "img_size", "absolute_position_embedding": "ape"}
    for name, build, options in [
        ("official_options", v1, {"window_size": 6, "qkv_bias": False, "patch_norm": False, "absolute_position_embedding": True}),
        ("official_clamped", v1, {"window_size": 6}),
        ("official_v2", v2, {"window_size": 6, "absolute_position_embedding": True}),
        ("official_v2_pretrained", v2, {"window_size": 6, "pretrained_window_sizes": [4, 4, 2]}),
        ("official_v2_no_bias", v2, {"window_size": 3, "qkv_bias": False, "patch_norm": False}),
        ("official_mlp", mlp, {"window_size": 6}),
    ]:
        config = {"input_shape": [48, 48, 3], **SIZES, **options}
        arguments = {names.get(key, key): value for key, value in config.items()} | {"img_size": 48}
        model = build(num_classes=CLASSES, drop_path_rate=0.0, **arguments)
        make(name, model, config, [layer.blocks[-1] for layer in model.layers])


@torch.no_grad()
def simmim(clone):
    load(pathlib.Path(clone) / "models" / "swin_transformer.py")  # for its stand-ins
    sys.modules["models"] = types.ModuleType("models")
    sys.modules["models"].__path__ = [str(pathlib.Path(clone) / "models")]
    module = importlib.import_module("models.simmim")
    for name, build, target_norm_size in [
        ("official_simmim", module.SwinTransformerForSimMIM, None),
        ("official_simmim_v2", module.SwinTransformerV2ForSimMIM, 5),
    ]:
        options = {**SIZES, "window_size": 3}
        encoder = build(img_size=48, num_classes=0, drop_path_rate=0.0, **options)
        norm = types.SimpleNamespace(ENABLE=target_norm_size is not None, PATCH_SIZE=target_norm_size)
        model = randomize(module.SimMIM(types.SimpleNamespace(NORM_TARGET=norm), encoder, encoder_stride=16, in_chans=3, patch_size=4))
        rng = np.random.default_rng(0)
        pictures, mask = rng.standard_normal((2, 48, 48, 3)).astype("float16"), (rng.random((2, 12, 12)) < 0.6).astype("float32")
        images, hidden = torch.from_numpy(pictures.astype("float32")).permute(0, 3, 1, 2), torch.from_numpy(mask)
        np.savez_compressed(
            HERE / f"{name}.npz",
            pictures=pictures,
            mask=mask,
            reconstruction=model.decoder(model.encoder(images, hidden)).permute(0, 2, 3, 1).contiguous().numpy(),
            loss=model(images, hidden).numpy(),
            config=np.array(json.dumps({"input_shape": [48, 48, 3], "target_norm_size": target_norm_size, **options})),
        )
        write_tensors(name, model)
        print(f"{name}: loss {float(model(images, hidden)):.4f}")


def detection(clone):
    path = pathlib.Path(clone) / "mmdet" / "models" / "backbones" / "swin_transformer.py"
    build = load(path, "mmdet.models.backbones.").SwinTransformer
    options = {"embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 7}
    model = build(drop_path_rate=0.0, out_indices=(0, 1, 2, 3), **options)
    make("detection", model, {"input_shape": [52, 71, 3], **options}, [])


def huggingface():
    declare_torchvision_operators()
    import transformers

    v1 = transformers.SwinConfig, transformers.SwinForImageClassification
    v2 = transformers.Swinv2Config, transformers.Swinv2ForImageClassification
    # Version 2 takes windows and shifts from the picture size of its configuration, with grids rounded down: at 52 x 71
    # its last stage would not shift. Pictures may be smaller than that size.
    for name, (configuration, build), picture, image_size, options in [
        ("huggingface_padded", v1, [52, 71], (52, 71), {"window_size": 3}),
        ("huggingface_v2", v2, [48, 48], (48, 48), {"window_size": 6, "pretrained_window_sizes": [4, 4, 2]}),
        ("huggingface_v2_padded", v2, [52, 71], (64, 96), {"window_size": 3}),
    ]:
        options = {**SIZES, **options}
        model = build(configuration(image_size=image_size, num_labels=CLASSES, drop_path_rate=0.0, **options))
        encoder = getattr(model, model.base_model_prefix).encoder
        make(name, model, {"input_shape": [*picture, 3], **options}, [layer.blocks[-1] for layer in encoder.layers])


def timm():
    declare_torchvision_operators()
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    for name, build, options in [
        ("timm", SwinTransformer, {"window_size": 3}),
        ("timm_rectangular_window", SwinTransformer, {"window_size": [3, 6]}),
        ("timm_windows_of_stages", SwinTransformer, {"window_size": [3, 6, 3]}),
        ("timm_v2", SwinTransformerV2, {"window_size": 3, "pretrained_window_sizes": [4, 4, 2]}),
    ]:
        options = {**SIZES, **options}
        model = build(img_size=(48, 96), num_classes=CLASSES, drop_path_rate=0.0, **options)
        make(name, model, {"input_shape": [48, 96, 3], **options}, [layer.blocks[-1] for layer in model.layers])


def torchvision():
    declare_torchvision_operators()
    from torchvision.models import swin_transformer as module

    second = {"block": module.SwinTransformerBlockV2, "downsample_layer": module.PatchMergingV2}
    for name, version in [("torchvision", {}), ("torchvision_v2", second)]:
        model = module.SwinTransformer([4, 4], window_size=[3, 3], num_classes=CLASSES, stochastic_depth_prob=0.0, **SIZES, **version)
        # Windows and merges are padded, patches are not: 72 and not 71.
        config = {"input_shape": [52, 72, 3], **SIZES, "window_size": 3}
        make(name, model, config, [stage[-1] for stage in model.features[1::2]])


if __name__ == "__main__":
    torch.set_num_threads(1)
    makers = {"official": official, "simmim": simmim, "detection": detection, "huggingface": huggingface, "timm": timm, "torchvision": torchvision}
    makers[sys.argv[1]](*sys.argv[2:])
