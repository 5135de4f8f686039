import keras
import numpy as np
import pytest
from conftest import randomize

from swin_keras.layers import MLP, PatchEmbedding, PatchMerging, SwinBlock, WindowAttention


def weights_of(layer):
    return {w.path.removeprefix(f"{layer.path}/"): w.numpy().astype("float64") for w in layer.weights}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer_norm(x, gamma, beta, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * gamma + beta


def test_window_attention_equals_the_definition_head_by_head(rng):
    height, width, heads, size, images, windows = 2, 3, 5, 7, 2, 4
    layer = WindowAttention((height, width), heads)
    x = rng.standard_normal((images * windows, height * width, heads * size)).astype("float32")
    mask = np.where(rng.random((windows, height * width, height * width)) < 0.3, -100.0, 0.0).astype("float32")
    layer(x)
    randomize(layer, scale=0.5)
    w = weights_of(layer)

    expected = np.zeros(x.shape)
    for n in range(len(x)):
        qkv = x[n] @ w["qkv/kernel"] + w["qkv/bias"]
        for head in range(heads):
            q, k, v = (qkv[:, part * heads * size + head * size :][:, :size] for part in range(3))
            logits = q @ k.T / np.sqrt(size) + mask[n % windows]
            for i, (row_i, column_i) in enumerate(np.ndindex(height, width)):
                for j, (row_j, column_j) in enumerate(np.ndindex(height, width)):
                    offset = (row_i - row_j + height - 1) * (2 * width - 1) + column_i - column_j + width - 1
                    logits[i, j] += w["relative_position_bias_table"][offset, head]
            expected[n, :, head * size : (head + 1) * size] = softmax(logits) @ v
    expected = expected @ w["proj/kernel"] + w["proj/bias"]
    np.testing.assert_allclose(layer(x, attention_mask=mask), expected, rtol=1e-4, atol=1e-4)


def test_shifted_block_equals_attention_over_windows_of_the_shifted_image(rng):
    # Without mask or roll: each token attends to those that lie in its window of the shifted partition.
    layer = SwinBlock(num_heads=2, window_size=(2, 4), shifted=True)
    x = rng.standard_normal((3, 4, 8, 6)).astype("float32")
    layer(x)
    randomize(layer, scale=0.5)
    w = weights_of(layer)
    rows, columns = (a.reshape(-1) for a in np.meshgrid(np.arange(4), np.arange(8), indexing="ij"))
    window = (rows + 1) // 2 * 100 + (columns + 2) // 4  # shift is half the window
    near = window[:, None] == window[None, :]
    down, across = rows[:, None] - rows[None, :], columns[:, None] - columns[None, :]
    table = w["attn/relative_position_bias_table"].reshape(3, 7, 2)
    bias = table[np.clip(down + 1, 0, 2), np.clip(across + 3, 0, 6)]

    tokens = layer_norm(x.reshape(3, 32, 6), w["norm1/gamma"], w["norm1/beta"], 1e-5)
    qkv = (tokens @ w["attn/qkv/kernel"] + w["attn/qkv/bias"]).reshape(3, 32, 3, 2, 3)
    logits = np.einsum("bihd,bjhd->bhij", qkv[:, :, 0], qkv[:, :, 1]) / np.sqrt(3) + bias.transpose(2, 0, 1)
    attended = np.einsum("bhij,bjhd->bihd", softmax(np.where(near, logits, -np.inf)), qkv[:, :, 2]).reshape(3, 32, 6)
    y = x + (attended @ w["attn/proj/kernel"] + w["attn/proj/bias"]).reshape(x.shape)
    hidden = layer_norm(y, w["norm2/gamma"], w["norm2/beta"], 1e-5) @ w["mlp/fc1/kernel"] + w["mlp/fc1/bias"]
    from scipy.special import erf

    hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
    expected = y + hidden @ w["mlp/fc2/kernel"] + w["mlp/fc2/bias"]
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_patch_merging_takes_neighbours_down_then_across(rng):
    layer = PatchMerging()
    x = rng.standard_normal((2, 6, 10, 3)).astype("float32")
    layer(x)
    randomize(layer, scale=0.5)
    w = weights_of(layer)
    groups = np.concatenate([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
    expected = layer_norm(groups, w["norm/gamma"], w["norm/beta"], 1e-5) @ w["reduction/kernel"]
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_patch_embedding_is_one_linear_layer_on_each_patch(rng):
    layer = PatchEmbedding(7, patch_size=(2, 5))
    x = rng.standard_normal((2, 6, 15, 3)).astype("float32")
    layer(x)
    randomize(layer, scale=0.5)
    w = weights_of(layer)
    patches = x.reshape(2, 3, 2, 3, 5, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 3, 3, 30)
    expected = layer_norm(patches @ w["proj/kernel"].reshape(30, 7) + w["proj/bias"], w["norm/gamma"], w["norm/beta"], 1e-5)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean(rng):
    block = SwinBlock(num_heads=1, window_size=2, drop_path_rate=0.4)
    x = np.repeat(rng.standard_normal((1, 2, 4, 6)).astype("float32"), 4000, axis=0)
    block(x[:1])
    randomize(block, scale=0.5)
    block.mlp.fc2.kernel.assign(np.zeros(block.mlp.fc2.kernel.shape))
    block.mlp.fc2.bias.assign(np.zeros(block.mlp.fc2.bias.shape))
    full = np.asarray(block(x[:1]) - x[:1])
    branch = np.asarray(block(x, training=True)) - x
    dropped = np.all(branch == 0, axis=(1, 2, 3))
    kept = branch[~dropped]
    np.testing.assert_allclose(kept, np.repeat(full / 0.6, len(kept), 0), rtol=1e-3, atol=1e-4)
    assert abs(dropped.mean() - 0.4) < 0.03


def test_both_branches_drop_apart_from_each_other(rng):
    block = SwinBlock(num_heads=1, window_size=2, drop_path_rate=0.5)
    x = np.repeat(rng.standard_normal((1, 2, 4, 6)).astype("float32"), 400, axis=0)
    block(x[:1])
    randomize(block, scale=0.5)
    outcomes = np.unique(np.asarray(block(x, training=True)).reshape(400, -1).round(3), axis=0)
    assert len(outcomes) == 4  # neither, one, the other, both


def test_seeds_make_stochastic_depth_repeat(rng):
    x = rng.standard_normal((9, 2, 4, 6)).astype("float32")
    outputs = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        outputs.append(SwinBlock(num_heads=1, window_size=2, drop_path_rate=0.5)(x, training=True))
    np.testing.assert_array_equal(*outputs)


def test_patch_merging_refuses_an_odd_grid():
    with pytest.raises(ValueError, match=r"even grid.*\(2, 7, 10, 3\)"):
        PatchMerging()(np.zeros((2, 7, 10, 3)))


def test_patch_embedding_refuses_an_image_that_the_patch_does_not_divide():
    with pytest.raises(ValueError, match=r"multiples of the patch.*9x10 for patch_size=4"):
        PatchEmbedding(5)(np.zeros((2, 9, 10, 3)))


def test_attention_refuses_heads_that_do_not_divide_the_channels():
    with pytest.raises(ValueError, match="num_heads=4 for 6 channels"):
        SwinBlock(num_heads=4, window_size=2)(np.zeros((2, 4, 6, 6)))


def test_block_refuses_a_window_that_does_not_fit():
    with pytest.raises(ValueError, match=r"window_size=\(3, 3\) for a grid of \(4, 6\) tokens"):
        SwinBlock(num_heads=2, window_size=3)(np.zeros((2, 4, 6, 6)))


def test_official_initializers_have_the_official_spread():
    layer = MLP(400)
    layer.build((None, 300))
    assert abs(layer.fc1.kernel.numpy().std() - 0.02) < 1e-3
    assert layer.fc1.kernel.numpy().max() > 0.05  # not cut at two deviations
    embedding = PatchEmbedding(96)
    embedding.build((None, 8, 8, 3))
    kernel = embedding.proj.kernel.numpy()
    assert abs(np.abs(kernel).max() - 48**-0.5) < 1e-3 and abs(kernel.std() - 48**-0.5 / 3**0.5) < 3e-3
