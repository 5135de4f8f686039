import numpy as np
from swin_keras.export import folding


def test_fold_norm_moves_scale_and_shift_into_the_dense_layer(rng):
    x, gamma, beta = rng.standard_normal((5, 7)), rng.standard_normal(7), rng.standard_normal(7)
    kernel, bias = rng.standard_normal((7, 3)), rng.standard_normal(3)
    folded_kernel, folded_bias = folding.fold_norm(gamma, beta, kernel, bias)
    np.testing.assert_allclose(x @ folded_kernel + folded_bias, (x * gamma + beta) @ kernel + bias)


def test_centre_takes_the_mean_over_the_channels_away(rng):
    x, kernel, bias = rng.standard_normal((5, 7)), rng.standard_normal((7, 3)), rng.standard_normal(3)
    expected = x @ kernel + bias
    centred_kernel, centred_bias = folding.centre(kernel, bias)
    np.testing.assert_allclose(x @ centred_kernel + centred_bias, expected - expected.mean(-1, keepdims=True), atol=1e-12)


def test_a_kernel_of_few_zeros_or_few_numbers_is_compressed_and_a_trained_one_is_not(rng):
    kernel = rng.standard_normal((70, 90)).astype("float32")
    pruned = np.where(np.abs(kernel) < np.quantile(np.abs(kernel), 0.02), 0, kernel)
    assert [folding.is_compressed(own) for own in (kernel, pruned, np.round(kernel))] == [False, True, True]


def test_bias_and_mask_depend_on_the_offset_and_the_regions(rng):
    table = rng.standard_normal((3 * 5, 2))
    folded = folding.fold_bias_and_mask(table, (2, 3), (4, 6), (1, 1))
    assert folded.shape == (4, 2, 6, 6)
    # In the first window nothing wraps: entry (i, j) is the table's row for their offset.
    for i, (row_i, column_i) in enumerate(np.ndindex(2, 3)):
        for j, (row_j, column_j) in enumerate(np.ndindex(2, 3)):
            np.testing.assert_allclose(folded[0, :, i, j], table[(row_i - row_j + 1) * 5 + column_i - column_j + 2])
    # In the last window its last token is alone.
    np.testing.assert_allclose(folded[3, 0, 5, :5], folded[0, 0, 5, :5] - 100)
    np.testing.assert_allclose(folded[3, 0, 5, 5], folded[0, 0, 5, 5])


def test_fold_merging_reorders_rows_from_down_across_to_across_down(rng):
    x = rng.standard_normal((4, 6, 5))
    kernel = rng.standard_normal((20, 10))
    folded = folding.fold_merging({"norm/gamma": np.ones(20), "norm/beta": np.zeros(20), "reduction/kernel": kernel}, post_norm=False)
    official = np.concatenate([x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]], -1) @ kernel
    groups = x.reshape(2, 2, 3, 2, 5).transpose(0, 2, 1, 3, 4).reshape(2, 3, 20)
    np.testing.assert_allclose(groups @ folded["reduction"] + folded["reduction_bias"], official)


def test_fold_normalization_takes_it_into_the_convolution(rng):
    patches, kernel, bias = rng.random((6, 2, 3, 5)), rng.standard_normal((2, 3, 5, 7)), rng.standard_normal(7)
    mean, std = rng.random(5), rng.uniform(0.1, 0.4, 5)
    folded_kernel, folded_bias = folding.fold_normalization(mean, std, kernel, bias)
    expected = np.tensordot((patches - mean) / std, kernel, 3) + bias
    np.testing.assert_allclose(np.tensordot(patches, folded_kernel, 3) + folded_bias, expected, atol=1e-12)
