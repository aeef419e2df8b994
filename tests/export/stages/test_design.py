"""The cuts of models whose sizes are known, from their config alone."""

import pytest

from mpsplit.export.stages.stage_cuts import cut_model
from mpsplit.plan.stages.placing import even_ends


@pytest.mark.seconds(240)
def test_vit_base_is_the_26_stages_of_the_design(tmp_path):
    """Embedding, 12 times attention half and MLP half, norm and head; no weights are there."""
    from transformers import ViTConfig

    config = ViTConfig(num_labels=1000)
    config.architectures = ["ViTForImageClassification"]
    config.save_pretrained(tmp_path)
    model = cut_model(tmp_path, "26")
    halves = [f"vit.layers.{layer}.{half}" for layer in range(12) for half in ("attention", "mlp")]
    assert [stage.name for stage in model.stages] == ["vit.embeddings", *halves, "classifier"]
    assert sum(stage.bytes for stage in model.stages) == 4 * 86_567_656
    for stage in model.stages:
        assert len(stage.inputs) == len(stage.outputs) == 1 and not stage.shared and not stage.copied
    assert even_ends(model.costs, 3) in ((9, 17, 26), (9, 18, 26))
    pipeline = model.pipeline((9, 18, 26))
    assert pipeline.values[model.stages[1].inputs[0]].shape == (1, 197, 768)
