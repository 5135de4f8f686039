"""From other projects' tensor names to the official ones, which ours spell.

A dialect is a function from `{name: array}` to `({official name: array}, names of known buffers)`. It works on names
alone; shapes are judged when the tensors are assigned.
"""

import re

import numpy as np

# Computed from the window size by every implementation, ours too; some files store them.
_BUFFERS = re.compile(r"(^|\.)(relative_position_index|relative_coords_table|attn_mask)$")


def official(tensors):
    """The names of microsoft/Swin-Transformer, and so of our own variables."""
    if "encoder.mask_token" in tensors:  # SimMIM
        tensors = _rename(tensors, [(r"^encoder\.", "")])
    buffers = [name for name in tensors if _BUFFERS.search(name)]
    return {name: array for name, array in tensors.items() if name not in buffers}, buffers


# Each spelling of a Hugging Face name (transformers 4 files, and the module names of transformers 5), in order.
_HUGGINGFACE = [
    (r"^swin(v2)?\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.layers\.", "layers."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(self\.)?(query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(self\.)?(key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(self\.)?(value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(self\.|relative_position_bias\.)relative_position_bias_table$", ".attn.relative_position_bias_table"),
    (r"\.attention\.self\.continuous_position_bias_mlp\.", ".attn.cpb_mlp."),
    (r"\.attention\.self\.logit_scale$", ".attn.logit_scale"),
    (r"\.(intermediate\.dense|mlp\.fc1)\.", ".mlp.fc1."),
    (r"\.(output\.dense|mlp\.fc2)\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
]


def huggingface(tensors):
    """The names of transformers' Swin and Swin V2, versions 4 and 5, whose query, key and value are apart."""
    tensors, buffers = official(tensors)
    renamed = _rename(tensors, _HUGGINGFACE)
    for query in [name for name in renamed if ".attn.q." in name]:
        parts = [query.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        # Parts that are missing or do not fit together stay apart, and are named as left over.
        if len({renamed[part].shape[1:] for part in parts if part in renamed and renamed[part].ndim}) == 1 and all(part in renamed for part in parts):
            renamed[query.replace(".attn.q.", ".attn.qkv.")] = np.concatenate([renamed.pop(part) for part in parts])
    for attention in _cosine_attentions(renamed):
        for part in "qv":
            if f"{attention}.{part}.bias" in renamed:
                renamed[f"{attention}.{part}_bias"] = renamed.pop(f"{attention}.{part}.bias")
    return renamed, buffers


def timm(tensors):
    """The names of timm, which counts patch merging to the stage that follows."""
    tensors, buffers = official(tensors)
    merging = re.compile(r"^layers\.(\d+)\.downsample\.")
    names = [(merging, lambda match: f"layers.{int(match[1]) - 1}.downsample."), (r"^head\.fc\.", "head.")]
    return _rename(tensors, names), buffers


# `features` of torchvision: 0 is the patch embedding, odd numbers are stages, even ones the mergings between.
_TORCHVISION = [
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"^features\.(\d*[13579])\.(\d+)\.", lambda match: f"layers.{int(match[1]) // 2}.blocks.{match[2]}."),
    (r"^features\.(\d*[02468])\.", lambda match: f"layers.{int(match[1]) // 2 - 1}.downsample."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
]


def torchvision(tensors):
    """The names of torchvision, whose V2 stores a bias for the key and then does not use it."""
    tensors, buffers = official(tensors)
    renamed = _rename(tensors, _TORCHVISION)
    for attention in _cosine_attentions(renamed):
        bias = renamed.get(f"{attention}.qkv.bias")
        if bias is not None and bias.ndim == 1 and bias.size % 3 == 0:
            del renamed[f"{attention}.qkv.bias"]
            renamed[f"{attention}.q_bias"], _, renamed[f"{attention}.v_bias"] = np.split(bias, 3)
    return renamed, buffers


def _rename(tensors, rules):
    """Applies every rule, a pattern and its replacement, to every name.

    Raises:
        ValueError: If two names become one.
    """
    renamed = {}
    for source, array in tensors.items():
        name = source
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        if name in renamed:
            raise ValueError(f"two tensors of the file are {name}, one of them {source}; remove one")
        renamed[name] = array
    return renamed


def last_stage(names):
    """Returns the number, from 0, of the last stage that official names tell of."""
    return max((int(match[1]) for match in map(re.compile(r"layers\.(\d+)\.").match, names) if match), default=0)


def _cosine_attentions(tensors):
    return [name.removesuffix(".logit_scale") for name in tensors if name.endswith(".attn.logit_scale")]


DIALECTS = {"official": official, "timm": timm, "huggingface": huggingface, "torchvision": torchvision}


def detect(names):
    """Returns the dialect that a file's tensor names are written in.

    Raises:
        ValueError: If they are none of `DIALECTS`.
    """
    if any("embeddings.patch_embeddings.projection." in name for name in names):
        return "huggingface"
    if "features.0.0.weight" in names and "features.0.2.weight" in names:
        return "torchvision"
    if "patch_embed.proj.weight" in names or "encoder.mask_token" in names:
        # In timm the last stage starts with a merging, and elsewhere it never ends in one.
        last = last_stage(names)
        merged = last and any(name.startswith(f"layers.{last}.downsample.") for name in names)
        return "timm" if merged or "head.fc.weight" in names else "official"
    examples = ", ".join(sorted(names)[:3]) or "no tensor at all"
    raise ValueError(f"Expected a Swin checkpoint in one of the dialects {', '.join(DIALECTS)}. Received a file with: {examples}")
