import keras
import numpy as np
import pytest
from conftest import array, randomize

from swin_keras.layers import (
    MLP,
    AbsolutePositionEmbedding,
    PatchEmbedding,
    PatchMerging,
    SwinBlock,
    SwinBlockV2,
    WindowAttention,
    WindowAttentionV2,
)


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
    np.testing.assert_allclose(array(layer(x, attention_mask=mask)), expected, rtol=1e-4, atol=1e-4)


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
    np.testing.assert_allclose(array(layer(x)), expected, rtol=1e-4, atol=1e-4)


def test_patch_merging_takes_neighbours_down_then_across(rng):
    layer = PatchMerging()
    x = rng.standard_normal((2, 6, 10, 3)).astype("float32")
    layer(x)
    randomize(layer, scale=0.5)
    w = weights_of(layer)
    groups = np.concatenate([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
    expected = layer_norm(groups, w["norm/gamma"], w["norm/beta"], 1e-5) @ w["reduction/kernel"]
    np.testing.assert_allclose(array(layer(x)), expected, rtol=1e-4, atol=1e-4)


def test_patch_embedding_is_one_linear_layer_on_each_patch(rng):
    layer = PatchEmbedding(7, patch_size=(2, 5))
    x = rng.standard_normal((2, 6, 15, 3)).astype("float32")
    layer(x)
    randomize(layer, scale=0.5)
    w = weights_of(layer)
    patches = x.reshape(2, 3, 2, 3, 5, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 3, 3, 30)
    expected = layer_norm(patches @ w["proj/kernel"].reshape(30, 7) + w["proj/bias"], w["norm/gamma"], w["norm/beta"], 1e-5)
    np.testing.assert_allclose(array(layer(x)), expected, rtol=1e-4, atol=1e-4)


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean(rng):
    block = SwinBlock(num_heads=1, window_size=2, drop_path_rate=0.4)
    x = np.repeat(rng.standard_normal((1, 2, 4, 6)).astype("float32"), 4000, axis=0)
    block(x[:1])
    randomize(block, scale=0.5)
    block.mlp.fc2.kernel.assign(np.zeros(block.mlp.fc2.kernel.shape))
    block.mlp.fc2.bias.assign(np.zeros(block.mlp.fc2.bias.shape))
    full = array(block(x[:1])) - x[:1]
    branch = array(block(x, training=True)) - x
    dropped = np.all(branch == 0, axis=(1, 2, 3))
    kept = branch[~dropped]
    np.testing.assert_allclose(kept, np.repeat(full / 0.6, len(kept), 0), rtol=1e-3, atol=1e-4)
    assert abs(dropped.mean() - 0.4) < 0.03


def test_both_branches_drop_apart_from_each_other(rng):
    block = SwinBlock(num_heads=1, window_size=2, drop_path_rate=0.5)
    x = np.repeat(rng.standard_normal((1, 2, 4, 6)).astype("float32"), 400, axis=0)
    block(x[:1])
    randomize(block, scale=0.5)
    outcomes = np.unique(array(block(x, training=True)).reshape(400, -1).round(3), axis=0)
    assert len(outcomes) == 4  # neither, one, the other, both


def test_seeds_make_stochastic_depth_repeat(rng):
    x = rng.standard_normal((9, 2, 4, 6)).astype("float32")
    outputs = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        outputs.append(array(SwinBlock(num_heads=1, window_size=2, drop_path_rate=0.5)(x, training=True)))
    np.testing.assert_array_equal(*outputs)


def test_patch_merging_pads_an_odd_grid_at_the_end(rng):
    layer = PatchMerging()
    x = rng.standard_normal((2, 5, 7, 3)).astype("float32")
    expected = layer(np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))))
    np.testing.assert_array_equal(array(layer(x)), array(expected))


def test_patch_embedding_pads_an_image_at_the_end(rng):
    layer = PatchEmbedding(5, patch_size=(4, 3))
    x = rng.standard_normal((2, 9, 10, 3)).astype("float32")
    expected = layer(np.pad(x, ((0, 0), (0, 3), (0, 2), (0, 0))))
    assert expected.shape == (2, 3, 4, 5)
    np.testing.assert_array_equal(array(layer(x)), array(expected))


@pytest.mark.parametrize("shape", [(3, 9), (9, 3)])
def test_patch_embedding_refuses_an_image_smaller_than_a_patch(shape):
    with pytest.raises(ValueError, match=rf"as large as one patch. Received: an image of {shape[0]}x{shape[1]} for patch_size=4"):
        PatchEmbedding(5)(np.zeros((2, *shape, 3)))
    model = keras.Sequential([keras.Input((None, None, 3)), PatchEmbedding(5)])
    with pytest.raises(ValueError, match=f"{shape[0]}x{shape[1]} for patch_size=4"):
        model(np.zeros((2, *shape, 3)))


@pytest.mark.parametrize("block_class", [SwinBlock, SwinBlockV2])
def test_tokens_across_the_padded_edge_do_not_see_each_other(block_class, rng):
    # Grid 5x7, window 3, shift 1: the grid becomes 6x9. A token of the first row shares its shifted window with padding
    # and the last rows, of which it must see neither.
    block = block_class(num_heads=2, window_size=3, shifted=True)
    x = rng.standard_normal((1, 5, 7, 6)).astype("float32")
    block(x)
    randomize(block, scale=0.5)
    changed = x.copy()
    changed[:, 3:, :] += rng.standard_normal((1, 2, 7, 6))
    difference = np.abs(array(block(changed)) - array(block(x))).max(axis=(0, 2, 3))
    # Windows of the shifted partition hold rows 0, 1 to 3, and 4 to 6.
    assert difference[0] < 1e-5 < 1e-3 < difference[1:].min()


def test_block_without_position_bias_ignores_where_in_the_window_a_token_is(rng):
    attention = WindowAttention(window_size=(2, 3), num_heads=2, relative_position_bias=False)
    x = rng.standard_normal((4, 6, 8)).astype("float32")
    order = np.array([3, 5, 0, 1, 4, 2])
    np.testing.assert_allclose(array(attention(x[:, order])), array(attention(x))[:, order], atol=1e-5)
    with_bias = randomize(functional_attention(WindowAttention((2, 3), 2)), scale=1.0)
    assert np.abs(array(with_bias(x[:, order])) - array(with_bias(x))[:, order]).max() > 1e-2


def functional_attention(layer):
    windows = keras.Input((6, 8))
    return keras.Model(windows, layer(windows))


def test_absolute_position_embedding_adds_a_vector_at_each_place(rng):
    layer = AbsolutePositionEmbedding()
    x = rng.standard_normal((2, 3, 5, 7)).astype("float32")
    layer(x)
    randomize(layer)
    np.testing.assert_allclose(array(layer(x)), x + array(layer.embedding), rtol=1e-6)
    assert layer.embedding.shape == (1, 3, 5, 7)


def test_attention_v2_equals_the_definition(rng):
    height, width, heads, size = 2, 3, 5, 7
    layer = WindowAttentionV2((height, width), heads, pretrained_window_size=(4, 2))
    x = rng.standard_normal((4, height * width, heads * size)).astype("float32")
    mask = np.where(rng.random((2, height * width, height * width)) < 0.3, -100.0, 0.0).astype("float32")
    layer(x)
    randomize(layer, scale=0.5)
    # The third head lies beyond the limit of 100.
    layer.logit_scale.assign(np.array([1.5, 2.5, 9.0, 0.5, -1.0]).reshape(5, 1, 1))
    w = weights_of(layer)
    expected = np.zeros(x.shape)
    for n in range(len(x)):
        qkv = x[n] @ w["qkv/kernel"] + np.concatenate([w["q_bias"], 0 * w["q_bias"], w["v_bias"]])
        for head in range(heads):
            q, k, v = (qkv[:, part * heads * size + head * size :][:, :size] for part in range(3))
            cosine = (q @ k.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(k, axis=1)[None, :]
            logits = cosine * min(np.exp(w["logit_scale"][head, 0, 0]), 100) + mask[n % 2]
            for i, (row_i, column_i) in enumerate(np.ndindex(height, width)):
                for j, (row_j, column_j) in enumerate(np.ndindex(height, width)):
                    offset = 8 * np.array([(row_i - row_j) / 3, (column_i - column_j) / 1])
                    coordinates = np.sign(offset) * np.log2(1 + np.abs(offset)) / 3
                    hidden = np.maximum(coordinates @ w["cpb_mlp_0/kernel"] + w["cpb_mlp_0/bias"], 0)
                    logits[i, j] += 16 / (1 + np.exp(-(hidden @ w["cpb_mlp_2/kernel"])[head]))
            expected[n, :, head * size : (head + 1) * size] = softmax(logits) @ v
    expected = expected @ w["proj/kernel"] + w["proj/bias"]
    np.testing.assert_allclose(array(layer(x, attention_mask=mask)), expected, rtol=1e-4, atol=2e-4)


def test_a_window_of_one_token_is_finite_in_v2_and_so_are_its_gradients(rng):
    image = keras.Input((3, 5, 6))
    model = randomize(keras.Model(image, SwinBlockV2(num_heads=2, window_size=1)(image)))
    x = rng.standard_normal((2, 3, 5, 6)).astype("float32")
    assert np.all(np.isfinite(array(model(x))))
    model.compile("sgd", "mse")
    model.fit(x, x + 1, verbose=0)
    assert all(np.all(np.isfinite(weight)) for weight in model.get_weights())


def test_very_short_queries_and_keys_keep_their_direction_in_v2(rng):
    layer = WindowAttentionV2(window_size=2, num_heads=2, qkv_bias=False, return_attention=True)
    x = rng.standard_normal((3, 4, 6)).astype("float32")
    layer(x)
    randomize(layer, scale=0.5)
    expected = array(layer(x)[1])
    np.testing.assert_allclose(array(layer(x * np.float32(1e-9))[1]), expected, atol=1e-5)
    assert expected.std() > 0.05


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_zero_tokens_have_finite_gradients_in_v2(policy):
    # Padding is zero, and the key has no bias: the length that the cosine divides by is zero.
    image = keras.Input((2, 3, 6))
    model = keras.Model(image, SwinBlockV2(num_heads=2, window_size=4, window_fit="pad", qkv_bias=False, dtype=policy)(image))
    randomize(model)
    model.compile("sgd", "mse")
    x = np.zeros((2, 2, 3, 6), "float32")
    model.fit(x, x + 1, verbose=0)
    assert all(np.all(np.isfinite(weight)) for weight in model.get_weights())


def test_norms_of_v2_start_at_zero_so_that_a_new_block_is_the_identity(rng):
    x = rng.standard_normal((2, 4, 6, 6)).astype("float32")
    np.testing.assert_array_equal(array(SwinBlockV2(num_heads=2, window_size=2)(x)), x)


@pytest.mark.parametrize("block_class", [SwinBlock, SwinBlockV2])
def test_attention_weights_are_those_that_make_the_output(block_class, rng):
    block = block_class(num_heads=2, window_size=(2, 3), shifted=True, return_attention=True)
    x = rng.standard_normal((3, 3, 7, 6)).astype("float32")
    y, attention = block(x)
    assert y.shape == x.shape and attention.shape == (3, 2 * 3, 2, 6, 6)
    np.testing.assert_allclose(array(attention).sum(-1), 1.0, rtol=1e-5)
    plain = block_class(num_heads=2, window_size=(2, 3), shifted=True)
    plain(x)
    plain.set_weights(block.get_weights())
    np.testing.assert_array_equal(array(plain(x)), array(y))


def test_attention_refuses_heads_that_do_not_divide_the_channels():
    with pytest.raises(ValueError, match="num_heads=4 for 6 channels"):
        SwinBlock(num_heads=4, window_size=2)(np.zeros((2, 4, 6, 6)))


@pytest.mark.parametrize("block_class", [SwinBlock, SwinBlockV2])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window_size": 0}, "`window_size` must be a positive integer or a pair .*window_size=0"),
        ({"window_size": (3, 4, 5)}, r"window_size=\(3, 4, 5\)"),
        ({"window_size": 3.0}, "window_size=3.0"),
        ({"window_fit": "crop"}, "`window_fit` must be one of .*window_fit='crop'"),
        ({"num_heads": 0}, "`num_heads` must be a positive integer. Received: num_heads=0"),
        ({"num_heads": 2.0}, "num_heads=2.0"),
        ({"mlp_ratio": "4"}, "`mlp_ratio` must be a positive number. Received: mlp_ratio='4'"),
        ({"mlp_ratio": float("inf")}, "mlp_ratio=inf"),
    ],
)
def test_block_refuses_impossible_arguments(block_class, arguments, message):
    with pytest.raises(ValueError, match=message):
        block_class(**{"num_heads": 2, **arguments})(np.zeros((2, 4, 6, 6)))


@pytest.mark.parametrize("block_class", [SwinBlock, SwinBlockV2])
def test_block_refuses_to_clamp_to_an_unknown_grid(block_class):
    with pytest.raises(ValueError, match=r"known grid of tokens. Received: a grid of \(None, 6\). Use `window_fit='pad'`"):
        block_class(num_heads=2)(keras.Input((None, 6, 6)))


def test_official_initializers_have_the_official_spread():
    layer = MLP(400)
    layer.build((None, 300))
    assert abs(layer.fc1.kernel.numpy().std() - 0.02) < 1e-3
    assert layer.fc1.kernel.numpy().max() > 0.05  # not cut at two deviations
    embedding = PatchEmbedding(96)
    embedding.build((None, 8, 8, 3))
    kernel = embedding.proj.kernel.numpy()
    assert abs(np.abs(kernel).max() - 48**-0.5) < 1e-3 and abs(kernel.std() - 48**-0.5 / 3**0.5) < 3e-3
