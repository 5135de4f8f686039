"""Compares full-size models with Hugging Face's on random weights. Two environments: tests/goldens/README.md says how to make the first.

reference/bin/python benchmarks/full_size_parity.py reference FOLDER
.venv/bin/python benchmarks/full_size_parity.py compare FOLDER
"""

import pathlib
import platform
import sys

import numpy as np

CASES = {"swin_tiny_patch4_window7_224": (224, 7), "swinv2_tiny_patch4_window8_256": (256, 8)}


def pictures(side):
    return np.random.default_rng(0).standard_normal((2, side, side, 3)).astype("float32")


def reference(folder):
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests" / "goldens"))
    import torch
    from make_goldens import declare_torchvision_operators

    declare_torchvision_operators()
    import transformers
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for name, (side, window) in CASES.items():
        kind = "Swinv2" if "v2" in name else "Swin"
        config = getattr(transformers, f"{kind}Config")(image_size=side, window_size=window, num_labels=1000)
        model = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
        generator = torch.Generator().manual_seed(0)
        for parameter_name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            norm_scale = parameter_name.endswith("weight") and "norm" in parameter_name
            # As wide as trained weights, and none zero or one.
            parameter.data = 1 + 0.2 * noise if norm_scale else noise * (0.05 if parameter.ndim > 1 else 0.2)
            if parameter_name.endswith("logit_scale"):
                parameter.data = np.log(10) + 0.5 * noise
        with torch.no_grad():
            output = model(torch.from_numpy(pictures(side)).permute(0, 3, 1, 2))
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / f"{name}.safetensors")
        np.savez(folder / f"{name}.npz", logits=output.logits.numpy())
        print(f"{name}: transformers {transformers.__version__}, torch {torch.__version__}")


def compare(folder):
    import keras

    import swin_keras

    print(f"Keras {keras.__version__} on {keras.backend.backend()}, {platform.machine()}, {platform.processor() or 'processor unknown'}")
    for name, (side, _) in CASES.items():
        model = swin_keras.create_model(name, weights=folder / f"{name}.safetensors")
        logits = np.asarray(model.predict(pictures(side), verbose=0))
        expected = np.load(folder / f"{name}.npz")["logits"]
        print(f"{name}: largest difference {np.abs(logits - expected).max():.1e} of a largest logit of {np.abs(expected).max():.2f}")


if __name__ == "__main__":
    {"reference": reference, "compare": compare}[sys.argv[1]](pathlib.Path(sys.argv[2]))
