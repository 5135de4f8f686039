"""From other projects' tensor names to the official ones, which ours spell.

A dialect is a function from `{name: Tensor}` to `{official name: Tensor}`. It works on names and, where tensors are joined
or split, on shapes; whether they fit a model is judged when they are assigned.
"""

import dataclasses
import re

from swin_keras.weights.tensor import concatenate

# Computed from the window size by every implementation, ours too, and what Keras keeps of an optimizer or of dropout.
_BUFFERS = re.compile(r"(^|\.)(relative_position_index|relative_coords_table|attn_mask)$|^optimizer/|(^|/)seed_generator/")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        source: The dialect it was read in.
        tensors: `{official name: Tensor}`.
        buffers: Likewise, what every implementation computes by itself.
        outside: Names in `tensors` of what stands around a backbone in its file: a detector's neck and heads.
    """

    source: str
    tensors: dict
    buffers: dict = dataclasses.field(default_factory=dict)
    outside: frozenset = frozenset()


def translate(tensors, source="auto"):
    """Translates the tensors of a file into official names.

    Raises:
        ValueError: If they are in no known dialect, or two of them have one name.
    """
    # Of torch's data-parallel training, and of trainers that keep the model as an attribute.
    while tensors and len({name.split(".")[0] for name in tensors}) == 1 and next(iter(tensors)).startswith(("module.", "model.")):
        tensors = _rename(tensors, [(r"^(module|model)\.", "")])
    source = detect(tensors) if source == "auto" else source
    # What begins otherwise, where some names begin so, are a detector's neck and heads; or the head of a classifier of mmpretrain.
    outside = {name: tensor for name, tensor in tensors.items() if not name.startswith("backbone.")}
    if len(outside) == len(tensors) or all(name.startswith("head.fc.") for name in outside):
        outside = {}
    tensors = _rename({name: tensor for name, tensor in tensors.items() if name not in outside}, [(r"^backbone\.", "")])
    renamed = DIALECTS[source](tensors)
    if doubled := sorted(set(outside) & set(renamed)):
        raise ValueError(f"two tensors of the file are {doubled[0]}, one of them backbone.{doubled[0]}; remove one")
    buffers = {name: tensor for name, tensor in renamed.items() if _BUFFERS.search(name)}
    kept = {name: tensor for name, tensor in renamed.items() if name not in buffers}
    return Checkpoint(source, {**kept, **outside}, buffers, frozenset(outside))


def official(tensors):
    """The names of microsoft/Swin-Transformer, and so of our own variables."""
    rules = [(r"\.rpe_mlp\.", ".cpb_mlp.")]  # of the first pre-trained V2
    if "encoder.mask_token" in tensors:  # SimMIM
        rules.append((r"^encoder\.", ""))
    return _rename(tensors, rules)


# Each spelling of a Hugging Face name (transformers 4 files, and the module names of transformers 5), in order.
_HUGGINGFACE = [
    (r"^swin(v2)?\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^embeddings\.position_embeddings$", "absolute_pos_embed"),
    (r"^embeddings\.mask_token$", "mask_token"),
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
    (r"^hidden_states_norms\.stage(\d+)\.", lambda match: f"norm{int(match[1]) - 1}."),
    (r"^classifier\.", "head."),
]


def huggingface(tensors):
    """The names of transformers' Swin and Swin V2, versions 4 and 5, whose query, key and value are apart."""
    renamed = _rename(tensors, _HUGGINGFACE)
    for query in [name for name in renamed if ".attn.q." in name]:
        parts = [query.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        # Parts that are missing or do not fit together stay apart, and are named as left over.
        if all(part in renamed and renamed[part].ndim for part in parts) and len({renamed[part].shape for part in parts}) == 1:
            renamed[query.replace(".attn.q.", ".attn.qkv.")] = concatenate([renamed.pop(part) for part in parts])
    for attention in _cosine_attentions(renamed):
        for part in "qv":
            if f"{attention}.{part}.bias" in renamed:
                renamed[f"{attention}.{part}_bias"] = renamed.pop(f"{attention}.{part}.bias")
    return renamed


# Patch merging counts to the stage before it.
_MERGING = (r"^layers\.(\d+)\.downsample\.", lambda match: f"layers.{int(match[1]) - 1}.downsample.")


def timm(tensors):
    """The names of timm, which counts patch merging to the stage that follows."""
    return _rename(tensors, [_MERGING, (r"^head\.fc\.", "head.")])


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
    renamed = _rename(tensors, _TORCHVISION)
    for attention in _cosine_attentions(renamed):
        bias = renamed.get(f"{attention}.qkv.bias")
        if bias is not None and bias.ndim == 1 and bias.size % 3 == 0:
            del renamed[f"{attention}.qkv.bias"]
            third = bias.size // 3
            renamed[f"{attention}.q_bias"], renamed[f"{attention}.v_bias"] = bias.take(slice(0, third)), bias.take(slice(2 * third, 3 * third))
    return renamed


_MMDET = [
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^stages\.", "layers."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"^head\.fc\.", "head."),
]


def mmdet(tensors):
    """The names of mmdet and mmseg: the official detector's, or since mmdet 2.16 their own, with merging in another order."""
    if not any(name.startswith("stages.") for name in tensors):
        return official(tensors)
    renamed = _rename(tensors, _MMDET)
    if _starts_with_merging(renamed):  # V2 of mmpretrain
        renamed = _rename(renamed, [_MERGING])
    for reduction in [name for name in renamed if name.endswith(".downsample.reduction.weight")]:
        inputs = renamed[reduction].shape[-1:]
        norms = [reduction.replace("reduction.weight", f"norm.{leaf}") for leaf in ("weight", "bias")]
        for name in (reduction, *(norm for norm in norms if norm in renamed)):
            # The norm of V2 comes after the merge, and has another width.
            if inputs and inputs[0] % 4 == 0 and renamed[name].shape[-1:] == inputs:
                renamed[name] = renamed[name].map(_from_unfold, renamed[name].shape)
    if "head.weight" in renamed:
        # The classifiers of mmpretrain call the last norm by the number of its stage.
        last = last_stage(renamed)
        renamed = _rename(renamed, [(rf"^norm{last}\.", "norm.")])
    return renamed


def _from_unfold(array):
    """Reorders the inputs of a merging: `torch.nn.Unfold` has all four places of a channel together, and columns vary first."""
    places = array.reshape(-1, array.shape[-1] // 4, 2, 2)  # outputs, channel, row, column
    return places.transpose(0, 3, 2, 1).reshape(array.shape)


# Keras names what it saves by class and number, and variables by number.
_KERAS_HUB = [
    (r"^layers/swin_transformer_backbone/", ""),
    (r"^layers/patch_embedding/(proj|norm)/", r"patch_embed/\1/"),
    (r"^layers/layer_normalization/", "norm/"),
    (r"^layers/dense/", "head/"),
    (r"^layers/swin_transformer_stage(?:_(\d+))?/", lambda match: f"layers/{match[1] or 0}/"),
    (r"/blocks/swin_transformer_block(?:_(\d+))?/", lambda match: f"/blocks/{match[1] or 0}/"),
    (r"/attn/vars/0$", "/attn/relative_position_bias_table"),
    (r"/vars/0$", "/weight"),
    (r"/vars/1$", "/bias"),
    (r"/", "."),
]


def keras_hub(tensors):
    """The names that Keras gives to KerasHub's Swin Transformer in its files, and its matrices turned."""
    if not any("swin_transformer_stage" in name for name in tensors):
        raise ValueError("it holds weights that Keras saved of another model than KerasHub's: Keras' own `model.load_weights(path)` reads them")
    buffers = {name: tensor for name, tensor in tensors.items() if _BUFFERS.search(name)}
    renamed = _rename({name: tensor for name, tensor in tensors.items() if name not in buffers}, _KERAS_HUB)
    for name, tensor in renamed.items():
        if tensor.ndim == 4:
            renamed[name] = tensor.transpose(3, 2, 0, 1)
        elif tensor.ndim == 2 and name.endswith(".weight"):
            renamed[name] = tensor.transpose(1, 0)
    return {**renamed, **buffers}


def _rename(tensors, rules):
    """Applies every rule, a pattern and its replacement, to every name.

    Raises:
        ValueError: If two names become one.
    """
    renamed = {}
    for source, tensor in tensors.items():
        name = source
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        if name in renamed:
            raise ValueError(f"two tensors of the file are {name}, one of them {source}; remove one")
        renamed[name] = tensor
    return renamed


def last_stage(names):
    """Returns the number, from 0, of the last stage that official names tell of."""
    return max((int(match[1]) for match in map(re.compile(r"layers\.(\d+)\.").match, names) if match), default=0)


def _starts_with_merging(names):
    """Whether stages start with a merging: where they end in one, the last has none."""
    last = last_stage(names)
    return last > 0 and any(name.startswith(f"layers.{last}.downsample.") for name in names)


def _cosine_attentions(tensors):
    return [name.removesuffix(".logit_scale") for name in tensors if name.endswith(".attn.logit_scale")]


DIALECTS = {
    "official": official,
    "timm": timm,
    "huggingface": huggingface,
    "torchvision": torchvision,
    "mmdet": mmdet,
    "keras_hub": keras_hub,
}

# The patch embedding, which every file has, as each project names it. timm's is the official one.
_PATCH_EMBEDDINGS = {
    "huggingface": r"(^|\.)embeddings\.patch_embeddings\.projection\.",
    "torchvision": r"^features\.0\.0\.",
    "keras_hub": r"(^|/)layers/patch_embedding/proj/vars/",
    "mmdet": r"^backbone\.patch_embed\.|^patch_embed\.projection\.",
    "official": r"^(encoder\.)?patch_embed\.proj\.",
}


def detect(names):
    """Returns the dialect that a file's tensor names are written in.

    Raises:
        ValueError: If they are none of `DIALECTS`, or of several.
    """
    found = [dialect for dialect, pattern in _PATCH_EMBEDDINGS.items() if any(re.search(pattern, name) for name in names)]
    if not found:
        examples = ", ".join(sorted(names)[:3]) or "no tensor at all"
        raise ValueError(f"Expected a Swin checkpoint in one of the dialects {', '.join(DIALECTS)}. Received a file with: {examples}")
    if len(found) > 1:
        raise ValueError(f"Expected tensor names of one dialect. Received a file with those of {' and '.join(found)}. Keep one of them")
    if found == ["official"]:
        return "timm" if _starts_with_merging(names) or "head.fc.weight" in names else "official"
    return found[0]
