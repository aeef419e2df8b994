"""What a preprocessor_config.json says."""

import json

import pytest

from mpsplit.errors import ModelError
from mpsplit.package.stages.image_settings import ImageSettings

VIT = {
    "do_normalize": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    "resample": 2, "size": 224,
}  # fmt: skip
CLIP = {
    "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3,
    "image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2], "size": {"shortest_edge": 224},
}  # fmt: skip


def read(tmp_path, said) -> ImageSettings:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    return ImageSettings.read(tmp_path, 3, 224, 224)


def test_without_a_file_values_from_0_to_1_at_the_models_size(tmp_path):
    settings = ImageSettings.read(tmp_path, 3, 32, 48)
    assert settings == ImageSettings(32, 48, 3, (32, 48), 2, 1 / 255, (0.0,) * 3, (1.0,) * 3)


def test_of_several_models(tmp_path):
    assert read(tmp_path, VIT).resize == (224, 224) and read(tmp_path, VIT).mean == (0.5,) * 3
    clip = read(tmp_path, CLIP)
    assert (clip.resize, clip.filter, clip.std) == ((224,), 3, (0.2,) * 3)
    convnext = read(tmp_path, VIT | {"size": {"shortest_edge": 224}, "crop_pct": 0.875})
    assert convnext.resize == (256,)
    plain = read(tmp_path, VIT | {"do_resize": False, "do_rescale": False, "do_normalize": False})
    assert (plain.resize, plain.scale, plain.mean, plain.std) == ((), 1.0, (0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize("text, message", [("{", "is not JSON"), ('{"resample": 5}', "resizes with filter 5")])
def test_what_cannot_be_read_is_refused(tmp_path, text, message):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        ImageSettings.read(tmp_path, 3, 224, 224)
