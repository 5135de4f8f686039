"""From other projects' tensor names to the official ones, which ours spell.

A dialect is a function from `{name: array}` to `({official name: array}, names of known buffers)`. It works on names
alone; shapes are judged when the tensors are assigned.
"""

import re

import numpy as np

# Computed from the window size by every implementation, ours too; some files store them.
_BUFFERS = re.compile(r"(^|\.)(relative_position_index|attn_mask)$")


def official(tensors):
    """The names of microsoft/Swin-Transformer, and so of our own variables."""
    buffers = [name for name in tensors if _BUFFERS.search(name)]
    return {name: array for name, array in tensors.items() if name not in buffers}, buffers


# Each spelling of a Hugging Face name (transformers 4 files, and the module names of transformers 5), in order.
_HUGGINGFACE = [
    (r"^swin\.", ""),
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
    (r"\.(intermediate\.dense|mlp\.fc1)\.", ".mlp.fc1."),
    (r"\.(output\.dense|mlp\.fc2)\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
]


def huggingface(tensors):
    """The names of transformers' Swin, versions 4 and 5, whose query, key and value are apart."""
    tensors, buffers = official(tensors)
    renamed = {}
    for name, array in tensors.items():
        source = name
        for pattern, replacement in _HUGGINGFACE:
            name = re.sub(pattern, replacement, name)
        if name in renamed:
            raise ValueError(f"two tensors of the file are {name}, one of them {source}; remove one")
        renamed[name] = array
    for query in [name for name in renamed if ".attn.q." in name]:
        parts = [query.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        # Parts that are missing or do not fit together stay apart, and are named as left over.
        if len({renamed[part].shape[1:] for part in parts if part in renamed and renamed[part].ndim}) == 1 and all(part in renamed for part in parts):
            renamed[query.replace(".attn.q.", ".attn.qkv.")] = np.concatenate([renamed.pop(part) for part in parts])
    return renamed, buffers


DIALECTS = {"official": official, "huggingface": huggingface}


def detect(names):
    """Returns the dialect that a file's tensor names are written in.

    Raises:
        ValueError: If they are none of `DIALECTS`.
    """
    if any("embeddings.patch_embeddings.projection." in name for name in names):
        return "huggingface"
    if "patch_embed.proj.weight" in names:
        return "official"
    examples = ", ".join(sorted(names)[:3]) or "no tensor at all"
    raise ValueError(f"Expected a Swin checkpoint in one of the dialects {', '.join(DIALECTS)}. Received a file with: {examples}")
