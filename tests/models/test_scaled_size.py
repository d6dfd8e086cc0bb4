from pathlib import Path

import pytest

from tests.fakes import unchanging_tiny

SIZES = [(300, 100), (30, 30), (1, 1), (1000, 37), (57, 640)]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_qwen_scales_to_the_patches_that_its_processor_makes(
    tiny_folders: dict[str, Path], family: str, width: int, height: int
) -> None:
    inputs = unchanging_tiny(tiny_folders[family]).inputs
    image = unchanging_tiny(tiny_folders[family]).image(width, height, seed=0)
    _, rows, columns = inputs.family.preprocess(inputs.images.open(image)).tensors["image_grid_thw"][0].tolist()
    assert inputs.family.scaled_size(image) == (columns * 14, rows * 14)


@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_idefics_scales_to_the_tiles_that_its_processor_makes_beside_the_whole(
    tiny_folders: dict[str, Path], family: str, width: int, height: int
) -> None:
    inputs = unchanging_tiny(tiny_folders[family]).inputs
    image = unchanging_tiny(tiny_folders[family]).image(width, height, seed=0)
    num_tiles = inputs.family.preprocess(inputs.images.open(image)).tensors["pixel_values"].shape[0] - 1
    scaled = inputs.family.scaled_size(image)
    assert max(scaled) == 4 * 56  # the tiny processors scale the longer side to 4 tiles of 56 pixels
    assert scaled[0] * scaled[1] == num_tiles * 56 * 56
    assert (scaled[0] >= scaled[1]) == (width >= height)
