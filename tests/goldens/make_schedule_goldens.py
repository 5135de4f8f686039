"""Makes schedules.json: learning rates, decayed parameters and steps of the official optimizer. README.md says in which environment.

python make_schedule_goldens.py PATH_OF_A_CLONE_OF_microsoft/Swin-Transformer
"""

import importlib
import json
import pathlib
import sys
import types

import torch
from make_goldens import HERE, declare_torchvision_operators

OPTIMIZER = {"NAME": "adamw", "EPS": 1e-8, "BETAS": (0.9, 0.999)}
# Of config.py and the files in configs/: epochs, epochs of warm-up, the three rates, pictures a step, steps of an epoch.
RUNS = {
    "imagenet_300": (300, 20, 5e-4, 5e-7, 5e-6, 1024, 1251),
    "imagenet_300_without_warmup": (300, 0, 5e-4, 5e-7, 5e-6, 1024, 1251),
    "finetune_30": (30, 5, 2e-5, 2e-8, 2e-7, 1024, 1251),
    "imagenet22k_90": (90, 5, 1.25e-4, 1.25e-7, 1.25e-6, 4096, 3466),
    "simmim_finetune": (100, 20, 1.25e-3, 2.5e-7, 2.5e-7, 2048, 625),
    "simmim_pretrain": (800, 10, 1e-4, 5e-7, 5e-6, 2048, 625),
}


def settings(**train):
    """A configuration as the official code reads it."""

    def space(values):
        return types.SimpleNamespace(**{key: space(value) if isinstance(value, dict) else value for key, value in values.items()})

    return space({"TRAIN": {"OPTIMIZER": OPTIMIZER, **train}, "MODEL": {"TYPE": "swin", "SWIN": {"DEPTHS": [2, 1, 3]}}})


def schedules(module):
    found = {}
    for name, (epochs, warmup, *rates, batch, steps) in RUNS.items():
        base, start, end = (rate * batch / 512 for rate in rates)
        kind = "multistep" if name == "simmim_pretrain" else "cosine"
        scheduler = {"NAME": kind, "WARMUP_PREFIX": True, "DECAY_EPOCHS": 30, "MULTISTEPS": [700], "GAMMA": 0.1}
        config = settings(EPOCHS=epochs, WARMUP_EPOCHS=warmup, WARMUP_LR=start, MIN_LR=end, LR_SCHEDULER=scheduler)
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=base)
        schedule = module.build_scheduler(config, optimizer, steps)
        first, last = warmup * steps, epochs * steps
        middle = 700 * steps if kind == "multistep" else (first + last) // 2
        risen = max(first, 4)
        at = [0, 1, first // 2 + 2, risen - 1, risen, (2 * first + last) // 3, middle - 1, middle, last - 1, last + 9]
        values = []
        for step in at:
            schedule.step_update(step)
            values.append(optimizer.param_groups[0]["lr"])
        found[name] = {"epochs": epochs, "warmup_epochs": warmup, "batch_size": batch, "steps_per_epoch": steps, "at": at, "rates": values}
        found[name] |= dict(zip(("learning_rate", "warmup_learning_rate", "min_learning_rate"), rates, strict=True)) | {"schedule": kind}
    return found


def accumulated(module):
    """The rates of the updates of main.py's loop: two steps an update, six steps an epoch."""
    scheduler = {"NAME": "cosine", "WARMUP_PREFIX": True, "DECAY_EPOCHS": 30, "MULTISTEPS": []}
    config = settings(EPOCHS=4, WARMUP_EPOCHS=1, WARMUP_LR=2e-3, MIN_LR=1e-3, LR_SCHEDULER=scheduler)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=3e-2)
    schedule = module.build_scheduler(config, optimizer, 6 // 2)
    rates = []
    for index in range(4 * 6):
        if index % 2:
            rates.append(optimizer.param_groups[0]["lr"])
            schedule.step_update(index // 2)
    return rates


def parameters(module, clone):
    """Of each parameter: whether it is decayed, and the scale of its learning rate in fine-tuning from SimMIM."""
    sys.modules["models"] = types.ModuleType("models")
    sys.modules["models"].__path__ = [str(pathlib.Path(clone) / "models")]
    v1 = importlib.import_module("models.swin_transformer").SwinTransformer
    v2 = importlib.import_module("models.swin_transformer_v2").SwinTransformerV2
    mlp = importlib.import_module("models.swin_mlp").SwinMLP
    simmim = importlib.import_module("models.simmim")
    sizes = {"img_size": 48, "embed_dim": 8, "depths": [2, 1, 3], "num_heads": [1, 2, 4], "window_size": 3, "ape": True}
    norm = types.SimpleNamespace(ENABLE=False)

    def pretraining(encoder):
        return simmim.SimMIM(types.SimpleNamespace(NORM_TARGET=norm), encoder(num_classes=0, **sizes), 16, 3, 4)

    found = {}
    for name, model, options in [
        ("swin", v1(num_classes=7, **sizes), {"simmim": True}),
        ("swinv2", v2(num_classes=7, **sizes), {"simmim": True}),
        ("swin_mlp", mlp(num_classes=7, **sizes), {}),
        ("simmim", pretraining(simmim.SwinTransformerForSimMIM), {"simmim": True, "is_pretrain": True}),
        ("simmim_v2", pretraining(simmim.SwinTransformerV2ForSimMIM), {"simmim": True, "is_pretrain": True}),
    ]:
        optimizer = module.build_optimizer(settings(BASE_LR=1.0, WEIGHT_DECAY=0.05, LAYER_DECAY=0.8), model, **options)
        groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
        found[name] = {
            key: [groups[id(parameter)]["weight_decay"] > 0, groups[id(parameter)].get("lr_scale")] for key, parameter in model.named_parameters()
        }
        if not options:  # main.py's, with the same groups of decay
            found[name] = {key: [decays, None] for key, (decays, _) in found[name].items()}
    return found


def steps():
    """Three steps of torch.optim.AdamW on two parameters, of which one is decayed, at 0.8**3 of the rate, after clipping."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.nn.Parameter(torch.randn((2, 3), generator=generator))
    bias = torch.nn.Parameter(torch.randn(3, generator=generator))
    start = {"kernel": kernel.tolist(), "bias": bias.tolist()}
    groups = [{"params": [kernel], "lr": 0.01 * 0.8**3}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.3, betas=OPTIMIZER["BETAS"], eps=OPTIMIZER["EPS"])
    taken = []
    for size in (3.0, 0.02, 1e-7):
        kernel.grad, bias.grad = size * torch.randn((2, 3), generator=generator), size * torch.randn(3, generator=generator)
        gradients = {"kernel_gradient": kernel.grad.tolist(), "bias_gradient": bias.grad.tolist()}
        torch.nn.utils.clip_grad_norm_([kernel, bias], 2.0)
        optimizer.step()
        taken.append({**gradients, "kernel": kernel.tolist(), "bias": bias.tolist()})
    return {"start": start, "steps": taken}


def main(clone):
    declare_torchvision_operators()
    sys.path.insert(0, str(clone))
    scheduling, optimizing = importlib.import_module("lr_scheduler"), importlib.import_module("optimizer")
    # timm has renamed an argument since.
    cosine = scheduling.CosineLRScheduler
    scheduling.CosineLRScheduler = lambda *arguments, t_mul, **others: cosine(*arguments, cycle_mul=t_mul, **others)
    golden = {
        "schedules": schedules(scheduling),
        "accumulated": accumulated(scheduling),
        "parameters": parameters(optimizing, clone),
        "adamw": steps(),
    }
    (HERE / "schedules.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
