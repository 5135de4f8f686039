"""Makes the goldens of file formats, of the names of more projects and of resized tables. README.md says in which environment.

python make_dialect_goldens.py containers
python make_dialect_goldens.py mmdet
python make_dialect_goldens.py mmpretrain PATH_OF_A_CLONE_OF_open-mmlab/mmpretrain
python make_dialect_goldens.py huggingface
python make_dialect_goldens.py resize
python make_dialect_goldens.py keras_hub
"""

import importlib.util
import json
import pathlib
import shutil
import sys
import tempfile
import types

import numpy as np

HERE = pathlib.Path(__file__).parent
SIZES = {"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2]}
CLASSES = 7


def random_pictures(height, width):
    return np.random.default_rng(0).standard_normal((2, height, width, 3)).astype("float16")


def write_arrays(name, config, **arrays):
    np.savez_compressed(HERE / f"{name}.npz", config=np.array(json.dumps(config)), **arrays)
    print(f"{name}: " + ", ".join(f"{key} {abs(value).max():.3g}" for key, value in arrays.items()))


# Real files of torch.save


def detector_tensors():
    """What a detector has beside its backbone."""
    import torch

    generator = torch.Generator().manual_seed(1)
    shapes = {
        "neck.lateral_convs.0.conv.weight": (4, 8, 1, 1),
        "neck.lateral_convs.0.conv.bias": (4,),
        "rpn_head.rpn_conv.weight": (4, 4, 3, 3),
        "roi_head.bbox_head.fc_cls.weight": (3, 4),
    }
    return {name: torch.randn(shape, generator=generator).half() for name, shape in shapes.items()}


def is_buffer(name):
    return name.split(".")[-1] in ("relative_position_index", "relative_coords_table", "attn_mask")


def state_dict(tensors, keep_vars=False):
    """The state dict of a tree of modules that holds the tensors, with `_metadata`. Equal buffers share one storage."""
    import torch

    root, seen = torch.nn.Module(), {}
    for name, value in tensors.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        if is_buffer(last):
            module.register_buffer(last, seen.setdefault((value.shape, value.numpy().tobytes()), value))
        else:
            module.register_parameter(last, torch.nn.Parameter(value))
    return root.state_dict(keep_vars=keep_vars)


def write_torch(name, contents, tensors, **options):
    """Writes a file and compares what torch reads from it with the tensors."""
    import torch

    torch.save(contents, HERE / name, **options)
    read = torch.load(HERE / name, weights_only=False)
    read = read.get("state_dict", read.get("model", read))
    assert all(torch.equal(read.get(key, read.get(f"backbone.{key}")), value) for key, value in tensors.items())
    print(f"{name}: {len(read)} tensors, {(HERE / name).stat().st_size} bytes")


def training_state(tensors):
    """A checkpoint as save_checkpoint of the official code writes it, with the optimizer's state of one tensor."""
    import torch
    from yacs.config import CfgNode

    parameter = torch.nn.Parameter(tensors["encoder.patch_embed.proj.bias"].float())
    optimizer = torch.optim.AdamW([parameter], lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    parameter.sum().backward()
    optimizer.step()
    scheduler.step()
    config = CfgNode({"MODEL": {"NAME": "simmim", "DROP_PATH_RATE": 0.0, "SWIN": {"DEPTHS": [2, 2, 2], "APE": False}}, "AMP_ENABLE": True})
    config.freeze()
    return {
        "model": state_dict(tensors),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "max_accuracy": 0.0,
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "epoch": 3,
        "config": config,
    }


def split_fused(tensors):
    """Query, key and value of each block as slices of one tensor, so that they lie in one storage at offsets."""
    import torch

    tensors = dict(tensors)
    for name in [name for name in tensors if ".query." in name]:
        names = [name.replace("query", part) for part in ("query", "key", "value")]
        tensors.update(zip(names, torch.cat([tensors[part] for part in names]).chunk(3), strict=True))
    return tensors


def containers():
    import torch
    from safetensors.torch import load_file

    def read(name):
        return load_file(HERE / f"{name}.safetensors")

    for name in ("official", "official_mlp"):
        write_torch(f"{name}.pth", {"model": state_dict(read(name))}, read(name))
    write_torch("official_legacy.pth", {"model": state_dict(read("official"))}, read("official"), _use_new_zipfile_serialization=False)
    tensors = read("official_v2")
    columns = {key: value.T.contiguous().T if "reduction" in key else value for key, value in tensors.items()}
    write_torch("official_v2.pth", {"model": state_dict(columns)}, tensors)
    for name in ("official_simmim", "official_simmim_v2"):
        write_torch(f"{name}.pth", training_state(read(name)), read(name))
    write_torch("torchvision.pth", state_dict(read("torchvision")), read("torchvision"))
    write_torch("torchvision_v2.pth", state_dict(read("torchvision_v2"), keep_vars=True), read("torchvision_v2"))
    write_torch("huggingface_v4.bin", state_dict(split_fused(read("huggingface_v4"))), read("huggingface_v4"))
    tensors = {f"backbone.{key}": value for key, value in read("detection").items()} | detector_tensors()
    meta = {
        "env_info": "sys.platform: linux",
        "config": "model = dict(type='MaskRCNN')\n",
        "seed": None,
        "mmdet_version": "2.11.0+",
        "CLASSES": ("person", "bicycle", "car"),
        "epoch": 36,
        "iter": 263844,
        "hook_msgs": {},
    }
    write_torch("detection.pth", {"meta": meta, "state_dict": state_dict(tensors)}, read("detection"))
    print(f"torch {torch.__version__}")


# The names and the merges of OpenMMLab


def packages(folder, *names):
    """Lets modules of these packages be imported without what their __init__ imports."""
    for name in names:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(pathlib.Path(folder).joinpath(*name.split(".")))]


def installed(name):
    return pathlib.Path(importlib.util.find_spec(name).origin).parent.parent


def share(package, *modules):
    for module in modules:
        contents = vars(importlib.import_module(f"{package}.{module}")).items()
        vars(sys.modules[package]).update({key: value for key, value in contents if not key.startswith("_")})


def mm_stand_ins():
    sys.modules["cv2"] = types.ModuleType("cv2")
    packages(installed("mmcv"), "mmcv")


def mm_names(tensors):
    """Tensors of the official code or the detector's under the names of OpenMMLab, merges in the order of nn.Unfold."""
    renamed = {}
    for name, value in tensors.items():
        for old, new in [
            ("layers.", "stages."),
            ("patch_embed.proj.", "patch_embed.projection."),
            (".attn.", ".attn.w_msa."),
            (".mlp.fc1.", ".ffn.layers.0.0."),
            (".mlp.fc2.", ".ffn.layers.1."),
        ]:
            name = name.replace(old, new)
        if ".downsample." in name:
            # From (column, row, channel) to (channel, row, column).
            axes = value.reshape(*value.shape[:-1], 2, 2, -1)
            value = axes.transpose(-1, -3).reshape(value.shape)
        renamed[name] = value
    return renamed


def half_parameters(model):
    parameters = dict(model.named_parameters())
    return {key: value.half() if key in parameters else value for key, value in model.state_dict().items()}


def mmdet():
    import torch
    from make_family_goldens import randomize
    from safetensors.torch import load_file

    folder = installed("mmdet")
    mm_stand_ins()
    packages(folder, *["mmdet", "mmdet.utils", "mmdet.models", "mmdet.models.backbones", "mmdet.models.layers", "mmdet.models.layers.transformer"])
    vars(sys.modules["mmdet.utils"]).update(OptConfigType=dict, OptMultiConfig=dict)
    share("mmdet.models.layers.transformer", "utils")
    vars(sys.modules["mmdet.models.layers"]).update(vars(sys.modules["mmdet.models.layers.transformer.utils"]))
    module = importlib.import_module("mmdet.models.backbones.swin")

    @torch.no_grad()
    def stages(model, pictures):
        outputs = model(torch.from_numpy(pictures.astype("float32")).permute(0, 3, 1, 2))
        return {f"stage{index + 1}": output.permute(0, 2, 3, 1).contiguous().numpy() for index, output in enumerate(outputs)}

    def build(config):
        sizes = {key: config[key] for key in ("depths", "num_heads", "window_size")}
        return module.SwinTransformer(embed_dims=config["embed_dim"], drop_path_rate=0.0, **sizes)

    config = {"input_shape": [31, 45, 3], "embed_dim": 4, "depths": [2, 2, 1, 1], "num_heads": [1, 1, 2, 4], "window_size": 7}
    model, pictures = randomize(build(config)), random_pictures(31, 45)
    write_arrays("mmdet", config, pictures=pictures, **stages(model, pictures))
    tensors = {f"backbone.{key}": value for key, value in half_parameters(model).items()}
    meta = {
        "dataset_meta": {"CLASSES": ("person", "bicycle", "car"), "PALETTE": [(220, 20, 60), (119, 11, 32), (0, 0, 142)]},
        "experiment_name": "mask-rcnn_swin",
        "epoch": 12,
        "iter": 87948,
        "mmengine_version": "0.10.7",
    }
    write_torch("mmdet.pth", {"meta": meta, "state_dict": state_dict(tensors | detector_tensors())}, tensors)

    golden = np.load(HERE / "detection.npz")
    model = build(json.loads(str(golden["config"])))
    model.load_state_dict(mm_names(load_file(HERE / "detection.safetensors")))
    model.eval()
    for key, value in stages(model, golden["pictures"]).items():
        print(f"detection.safetensors in mmdet, {key}: off by {abs(value - golden[key]).max():.2g}")


def mmpretrain(clone):
    import torch
    from make_family_goldens import randomize

    mm_stand_ins()
    packages(clone, "mmpretrain", "mmpretrain.models", "mmpretrain.models.backbones", "mmpretrain.models.utils")
    share("mmpretrain.models.utils", "helpers", "layer_scale", "embed", "attention")
    v1 = importlib.import_module("mmpretrain.models.backbones.swin_transformer").SwinTransformer
    v2 = importlib.import_module("mmpretrain.models.backbones.swin_transformer_v2").SwinTransformerV2

    class Classifier(torch.nn.Module):
        """The image classifier of mmpretrain: a backbone, the average over the positions, a linear head."""

        def __init__(self, backbone, channels):
            super().__init__()
            self.backbone, self.head = backbone, torch.nn.Module()
            self.head.fc = torch.nn.Linear(channels, CLASSES)

        def forward(self, images):
            return self.head.fc(self.backbone(images)[-1].mean((2, 3)))

    for name, build, extra, options in [
        ("mmpretrain", v1, {}, {"window_size": 3}),
        ("mmpretrain_v2", v2, {"extra_norm_every_n_blocks": 0}, {"window_size": 3, "pretrained_window_sizes": [4, 2]}),
    ]:
        config = {"input_shape": [24, 24, 3], **SIZES, **options}
        arch = {"embed_dims": SIZES["embed_dim"], "depths": SIZES["depths"], "num_heads": SIZES["num_heads"], **extra}
        backbone = build(arch, img_size=24, out_indices=(len(SIZES["depths"]) - 1,), drop_path_rate=0.0, **options)
        model, pictures = randomize(Classifier(backbone, 16)), random_pictures(24, 24)
        with torch.no_grad():
            logits = model(torch.from_numpy(pictures.astype("float32")).permute(0, 3, 1, 2)).numpy()
        write_arrays(name, config, pictures=pictures, logits=logits)
        tensors = half_parameters(model)
        meta = {"dataset_meta": {"classes": ("tench", "goldfish")}, "mmengine_version": "0.10.7", "epoch": 300}
        write_torch(f"{name}.pth", {"meta": meta, "state_dict": state_dict(tensors)}, tensors)


# Other models of transformers


def huggingface():
    import torch
    from make_family_goldens import declare_torchvision_operators, randomize, write_tensors

    declare_torchvision_operators()
    import transformers

    def images(pictures):
        return torch.from_numpy(pictures.astype("float32")).permute(0, 3, 1, 2)

    @torch.no_grad()
    def backbone(name):
        options = {**SIZES, "window_size": 3}
        settings = transformers.SwinConfig(image_size=(27, 38), out_features=["stage1", "stage2"], drop_path_rate=0.0, **options)
        model, pictures = randomize(transformers.SwinBackbone(settings)), random_pictures(27, 38)
        outputs = model(images(pictures)).feature_maps
        stages = {f"stage{index + 1}": output.permute(0, 2, 3, 1).contiguous().numpy() for index, output in enumerate(outputs)}
        write_arrays(name, {"input_shape": [27, 38, 3], **options}, pictures=pictures, **stages)
        with tempfile.TemporaryDirectory() as folder:  # its file has other names than its modules
            model.half().save_pretrained(folder)
            shutil.copy(pathlib.Path(folder) / "model.safetensors", HERE / f"{name}.safetensors")

    @torch.no_grad()
    def simmim(name, configuration, build):
        options = {**SIZES, "window_size": 3}
        settings = configuration(image_size=24, encoder_stride=8, drop_path_rate=0.0, **options)
        model, pictures = randomize(build(settings)), random_pictures(24, 24)
        mask = (np.random.default_rng(1).random((2, 6, 6)) < 0.6).astype("float32")
        output = model(images(pictures), bool_masked_pos=torch.from_numpy(mask).flatten(1).bool())
        config = {"input_shape": [24, 24, 3], "target_norm_size": None, **options}
        reconstruction = output.reconstruction.permute(0, 2, 3, 1).contiguous().numpy()
        write_arrays(name, config, pictures=pictures, mask=mask, reconstruction=reconstruction, loss=output.loss.numpy())
        write_tensors(name, model)

    @torch.no_grad()
    def position(name):
        options = {**SIZES, "window_size": 3}
        settings = transformers.SwinConfig(image_size=24, num_labels=CLASSES, use_absolute_embeddings=True, drop_path_rate=0.0, **options)
        model, pictures = randomize(transformers.SwinForImageClassification(settings)), random_pictures(24, 24)
        config = {"input_shape": [24, 24, 3], "absolute_position_embedding": True, **options}
        write_arrays(name, config, pictures=pictures, logits=model(images(pictures)).logits.numpy())
        write_tensors(name, model)

    backbone("huggingface_backbone")
    simmim("huggingface_simmim", transformers.SwinConfig, transformers.SwinForMaskedImageModeling)
    simmim("huggingface_simmim_v2", transformers.Swinv2Config, transformers.Swinv2ForMaskedImageModeling)
    position("huggingface_position")
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")


# Resizing


def resize():
    import torch

    rng = np.random.default_rng(0)

    def bicubic(value, source, target):
        """Resizes (1, rows x columns, channels) as utils.load_pretrained of the official code does."""
        grid = torch.from_numpy(value).reshape(1, *source, -1).permute(0, 3, 1, 2)
        grid = torch.nn.functional.interpolate(grid, size=target, mode="bicubic", align_corners=False, antialias=False)
        return grid.permute(0, 2, 3, 1).flatten(1, 2).contiguous().numpy()

    arrays = {"table": rng.standard_normal((169, 3)).astype("float32")}
    for target in [(23, 23), (7, 7), (9, 15), (25, 13), (1, 1)]:
        arrays["table_13x13_to_{}x{}".format(*target)] = bicubic(arrays["table"][None], (13, 13), target)[0]
    for source, targets in [((7, 7), [(12, 12)]), ((12, 12), [(5, 9)])]:
        start = "position_{}x{}".format(*source)
        arrays[start] = rng.standard_normal((1, source[0] * source[1], 6)).astype("float32")
        for target in targets:
            arrays["{}_to_{}x{}".format(start, *target)] = bicubic(arrays[start], source, target)
    np.savez_compressed(HERE / "resize.npz", **arrays)
    print("resize: " + ", ".join(f"{key} {value.shape}" for key, value in arrays.items()))


# Keras Hub


def keras_hub():
    import keras
    import keras_hub as module

    options = {**SIZES, "depths": [2, 1], "window_size": 3}
    keras.utils.set_random_seed(0)
    backbone = module.models.SwinTransformerBackbone(image_shape=(24, 48, 3), **options)
    model = module.models.SwinTransformerImageClassifier(backbone=backbone, num_classes=CLASSES)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.dtype == "float32":
            variable.assign(((variable.name == "gamma") + 0.2 * rng.standard_normal(variable.shape)).astype("float16"))
    pictures = random_pictures(24, 48)
    outputs = {"features": backbone(pictures.astype("float32")), "logits": model(pictures.astype("float32"))}
    outputs = {key: keras.ops.convert_to_numpy(value) for key, value in outputs.items()}
    outputs["features"] = outputs["features"].reshape(2, 3, 6, 16)
    write_arrays("keras_hub", {"input_shape": [24, 48, 3], **options}, pictures=pictures, **outputs)
    model.save(HERE / "keras_hub.keras")
    backbone.save_weights(HERE / "keras_hub.weights.h5")
    again = keras.saving.load_model(HERE / "keras_hub.keras")
    print(f"loaded again: off by {abs(keras.ops.convert_to_numpy(again(pictures.astype('float32'))) - outputs['logits']).max():.2g}")
    print(f"keras_hub {module.__version__}, keras {keras.__version__}")


if __name__ == "__main__":
    makers = {"containers": containers, "mmdet": mmdet, "mmpretrain": mmpretrain, "huggingface": huggingface}
    makers |= {"resize": resize, "keras_hub": keras_hub}
    if sys.argv[1] != "keras_hub":
        import torch

        torch.set_num_threads(1)
    makers[sys.argv[1]](*sys.argv[2:])
