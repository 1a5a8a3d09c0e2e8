"""What the tests of the training loop say to the run in miniature of training/conftest.py."""

from __future__ import annotations

STEPS = 3  # an epoch of the toy run in conftest.py
PLAIN = (  # nothing random but the order
    *("model.config.dropout=0", "model.config.stochastic_depth=0"),
    *("augment.crop_padding=0", "augment.horizontal_flip=0", "augment.erasing=0"),
)
CONVNEXT = (
    "model.name=convnext",
    "model.config={stem_stride: 2, depths: [1, 1], widths: [8, 16], stochastic_depth: 0.3, dropout: 0.1}",
    *("data.image_size=16", "data.color=RGB", "augment.color_jitter=0.4", "augment.trivial_augment=true"),
    "augment.crop_scale=[0.5, 1.0]",
)


def validation(*results):
    """Validation that answers with these (top-1, loss), one an epoch, as if on 100 images."""
    answers = iter(results)

    def validate(model, precision):
        assert not model.training
        top1, loss = next(answers)
        return {"top1": top1, "score_error": (top1 * (1 - top1) / 100) ** 0.5, "loss": loss}

    return scored(validate)


def scored(validate):
    validate.score = "top1"
    return validate
