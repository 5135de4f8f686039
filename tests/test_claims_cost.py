"""benchmarks/claims/cost.py and accuracy_latency.py compare what they say, and find the powers by which cost grows."""

import numpy as np
import pytest
from conftest import ROOT, load_script

CLAIMS = ROOT / "benchmarks" / "claims"


@pytest.fixture(scope="module")
def cost():
    return load_script(CLAIMS / "cost.py")


def test_the_vit_is_that_of_the_papers(cost):
    # timm's vit_small_patch16_224 has as many weights; Touvron et al., 2021, table 5, give 4.6 billion multiply-adds.
    assert cost.build(cost.VIT, 224).count_params() == 22_050_664
    assert round(cost.flops(cost.VIT, 224) / 1e9, 1) == 4.6


def test_a_power_is_found_and_small_pictures_are_left_out(cost):
    sizes = [112, 224, 448, 672]
    values = [99.0, *(3.0 * np.array([224, 448, 672]) ** 2.6)]
    assert abs(cost.exponent(sizes, values) - 1.3) < 1e-9


def test_the_swin_grows_as_pixels_do_and_the_vit_faster(cost):
    sizes = [size for size in cost.SIZES if size % 224 == 0]
    powers = [cost.exponent(sizes, [cost.flops(model, size) for size in sizes]) for model in (cost.SWIN, cost.VIT)]
    assert abs(powers[0] - 1) < 0.01 and powers[1] > 1.2


def test_a_table_and_a_picture_are_made_of_measurements(cost, tmp_path):
    sizes = [224, 448]
    rows = {
        (runtime, model, size): {"flops": cost.flops(model, size), "latency_ms": size * 1.5, "megabytes": size / 3}
        for runtime in cost.RUNTIMES
        for model in (cost.SWIN, cost.VIT)
        for size in sizes
    }
    lines = cost.report(rows, sizes)
    assert lines[3] == "| 224 × 224 | 4.49 G | 4.60 G | 336 | 336 | 75 | 75 |"
    assert lines[5].startswith("| **exponent in pixels** | 1.00 |") and lines[-1].endswith("| 0.50 | 0.50 |  |  |")
    cost.draw(rows, sizes, tmp_path / "cost.svg")
    drawn = (tmp_path / "cost.svg").read_text()
    assert drawn.count("<polyline") == 2 + 4 + 4 + 2 and "NaN" not in drawn and "inf" not in drawn


def test_the_peers_have_their_papers_sizes_and_all_are_in_the_table_and_in_the_picture(tmp_path):
    accuracy = load_script(CLAIMS / "accuracy_latency.py")
    found = accuracy.candidates()
    vit, efficientnet = found[-2:]
    # Without the layer before the head that pre-training has; Tan and Le give 66 million.
    assert accuracy.build(vit).count_params() == 86_859_496 and round(accuracy.build(efficientnet).count_params() / 1e6) in (66, 67)
    rows = {own.name: {"parameters": 10**7, "times": [100.0 * place, 1000.0]} for place, own in enumerate(found, 1)}
    lines = accuracy.report(found, rows)
    assert lines[2].startswith("| Swin-T | 224 × 224 | ImageNet-1K | 81.2 % | 10.0 M | 4.5 G | 550 ms | 1.00 |") and len(lines) == 8
    accuracy.draw(found, rows, tmp_path / "picture.svg")
    drawn = (tmp_path / "picture.svg").read_text()
    assert all(f">{own.name}, {own.size}" in drawn for own in found)
