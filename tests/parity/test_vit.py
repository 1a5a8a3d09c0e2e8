"""The plain ViT with weights of timm, torchvision, transformers and Google's .npz: the same logits, and back again."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import transformers
from timm.models.vision_transformer import _load_weights
from torch import nn
from torchvision.models import vision_transformer as torchvision

from references import LARGEST, near, saved, there_and_back
from vitnext.errors import InputError
from vitnext.models.vit import SIZES, VisionTransformer, ViTConfig, sides
from vitnext.weights.rename import rename
from vitnext.weights.tables import vit as tables

TINY = {"dim": 24, "depth": 3, "heads": 2, "image_size": 32, "patch_size": 8, "classes": 7}
TINY_TIMM = {"embed_dim": 24, "depth": 3, "num_heads": 2, "img_size": 32, "patch_size": 8, "num_classes": 7}
TINY_TORCHVISION = {
    "num_layers": 3, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 96, "image_size": 32, "patch_size": 8,
    "num_classes": 7,
}  # fmt: skip
TINY_TRANSFORMERS = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96, "image_size": 32,
    "patch_size": 8, "num_labels": 7, "attn_implementation": "eager",
}  # fmt: skip

MEAN = {"global_pool": "avg", "fc_norm": False}
MEAN_NORM = {"global_pool": "avg"}  # timm's default for a mean: fc_norm
TIMM_CASES = {
    "token": ({}, {}),
    "mean": ({"pool": "mean"}, MEAN),
    "mean_norm": ({"pool": "mean_norm"}, MEAN_NORM),
    "mean, no class token": ({"pool": "mean", "class_token": False}, MEAN | {"class_token": False}),
    "mean_norm, no class token": ({"pool": "mean_norm", "class_token": False}, MEAN_NORM | {"class_token": False}),
    "no qkv bias": ({"qkv_bias": False}, {"qkv_bias": False}),
    "narrow mlp": ({"mlp_ratio": 2.5}, {"mlp_ratio": 2.5}),
    "one channel": ({"channels": 1}, {"in_chans": 1}),
    "no head": ({"classes": 0}, {"num_classes": 0}),
    "no square": ({"image_size": (32, 56)}, {"img_size": (32, 56)}),
}


def random_weights(model):
    """Random values in every parameter and buffer: norms, biases, tokens and positions too."""
    torch.manual_seed(0)
    for parameter in model.state_dict().values():
        fan_in = parameter[0].numel() if parameter.ndim in (2, 4) else 4
        nn.init.normal_(parameter, std=fan_in**-0.5)
    return model.eval()


def timm_model(name, **options):
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    return random_weights(model.to_empty(device="cpu"))


def table_of(config):
    return tables.TIMM_MEAN_NORM if config.get("pool") == "mean_norm" else tables.TIMM


def converted(state, table, config):
    return there_and_back(lambda: VisionTransformer(ViTConfig(**config)), state, table)


def images(model, batch=0):
    height, width = sides(model.config.image_size)
    batch = batch or (2 if height < 224 else 1)
    return torch.randn(batch, model.config.channels, height, width, generator=torch.Generator().manual_seed(1))


def compare(ours, logits, tokens):
    """Logits, and the patches' tokens (B, N, dim) as the last stage."""
    near(ours(images(ours)), logits)
    near(ours.pyramid(images(ours))["grid"], tokens.transpose(1, 2).unflatten(2, ours.config.grid))


def compare_with_timm(ours, theirs):
    with torch.inference_mode():
        batch = images(ours)
        [tokens] = theirs.forward_intermediates(batch, indices=1, norm=True, output_fmt="NLC", intermediates_only=True)
        compare(ours, theirs(batch), tokens)


@pytest.mark.layout(tables.TIMM, tables.TIMM_MEAN_NORM)
@pytest.mark.parametrize("case", TIMM_CASES)
def test_timm(case):
    changed, its_changed = TIMM_CASES[case]
    theirs = timm_model("vit_tiny_patch16_224", **TINY_TIMM | its_changed)
    compare_with_timm(converted(theirs.state_dict(), table_of(changed), TINY | changed), theirs)


@pytest.mark.layout(tables.TIMM)
@pytest.mark.parametrize("name", SIZES)
def test_timm_every_size_at_reduced_depth(name):
    size = SIZES[name] | {"depth": 1, "classes": 10}
    size |= {"image_size": 4 * size["patch_size"]}
    theirs = timm_model(
        f"{name}_patch{size['patch_size']}_224", depth=1, img_size=size["image_size"], num_classes=10
    )  # fmt: skip
    compare_with_timm(converted(theirs.state_dict(), tables.TIMM, size), theirs)


@pytest.mark.layout(tables.TIMM)
def test_timm_full_size():
    theirs = timm_model("vit_small_patch16_224")
    compare_with_timm(converted(theirs.state_dict(), tables.TIMM, SIZES["vit_small"]), theirs)


@pytest.mark.layout(tables.ORIGINAL_MAE)
def test_mae_with_its_decoder():
    """The keys of facebookresearch/mae, models_mae.py; its encoder's are timm's."""
    theirs = timm_model("vit_tiny_patch16_224", **TINY_TIMM | {"num_classes": 0})
    block = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    linears = [
        "decoder_embed",
        "decoder_norm",
        "decoder_pred",
        *(f"decoder_blocks.{i}.{n}" for i in (0, 1) for n in block),
    ]
    decoder = ["mask_token", "decoder_pos_embed", *(f"{name}.{p}" for name in linears for p in ("weight", "bias"))]
    state = theirs.state_dict() | {key: torch.ones(3) for key in decoder}
    ours = VisionTransformer(ViTConfig(**TINY | {"classes": 0})).eval()
    ours.load_state_dict(rename(state, tables.ORIGINAL_MAE), strict=True)
    compare_with_timm(ours, theirs)
    back = rename(ours.state_dict(), tables.ORIGINAL_MAE, reverse=True)
    assert back.keys() == theirs.state_dict().keys()


@pytest.mark.layout(tables.TORCHVISION, tables.TORCHVISION_REPRESENTATION)
@pytest.mark.parametrize("representation", [0, 5])
def test_torchvision(representation):
    theirs = torchvision.VisionTransformer(**TINY_TORCHVISION, representation_size=representation or None)
    table = tables.TORCHVISION_REPRESENTATION if representation else tables.TORCHVISION
    compare_with_torchvision(random_weights(theirs), table, TINY | {"representation": representation})


@pytest.mark.layout(tables.TORCHVISION)
def test_torchvision_of_full_width():
    with torch.device("meta"):
        theirs = torchvision.vit_b_16()
        theirs.encoder.layers = theirs.encoder.layers[:2]
    theirs = random_weights(theirs.to_empty(device="cpu"))
    compare_with_torchvision(theirs, tables.TORCHVISION, SIZES["vit_base"] | {"depth": 2})


def compare_with_torchvision(theirs, table, config):
    ours = converted(theirs.state_dict(), table, config)
    with torch.inference_mode():
        batch = images(ours)
        patches = theirs._process_input(batch)
        tokens = theirs.encoder(torch.cat([theirs.class_token.expand(len(batch), -1, -1), patches], dim=1))[:, 1:]
        compare(ours, theirs(batch), tokens)


def test_torchvision_names_of_the_published_files():
    state = random_weights(torchvision.VisionTransformer(**TINY_TORCHVISION)).state_dict()
    published = {k.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): t for k, t in state.items()}
    assert published.keys() != state.keys()
    again = torchvision.VisionTransformer(**TINY_TORCHVISION)
    again.load_state_dict(dict(published), strict=True)  # torchvision reads them
    expected, found = rename(again.state_dict(), tables.TORCHVISION), rename(published, tables.TORCHVISION)
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


@pytest.mark.layout(tables.TRANSFORMERS)
@pytest.mark.parametrize("epsilon", [1e-6, 1e-12])  # ours, and what the published configs say
def test_transformers(epsilon, tmp_path):
    theirs = random_weights(
        transformers.ViTForImageClassification(transformers.ViTConfig(**TINY_TRANSFORMERS, layer_norm_eps=epsilon))
    )
    ours = converted(saved(theirs, tmp_path), tables.TRANSFORMERS, TINY)
    with torch.inference_mode():
        batch = images(ours)
        compare(ours, theirs(batch).logits, theirs.vit(batch).last_hidden_state[:, 1:])
        expected = theirs(batch, output_attentions=True).attentions
        for (name, weights), attention in zip(ours.attention_weights(batch).items(), expected, strict=True):
            assert (weights - attention).abs().max() <= LARGEST, name


@pytest.mark.layout(tables.TRANSFORMERS)
def test_transformers_without_a_head(tmp_path):
    """ViTModel: no "vit." before the names, and a pooler that is left behind."""
    theirs = random_weights(transformers.ViTModel(transformers.ViTConfig(**TINY_TRANSFORMERS)))
    state = {f"vit.{key}": tensor for key, tensor in saved(theirs, tmp_path).items()}
    assert {"vit.pooler.dense.weight", "vit.pooler.dense.bias"} <= state.keys()
    compare_features(theirs, {key: tensor for key, tensor in state.items() if "pooler" not in key})
    rename(state, tables.TRANSFORMERS)


@pytest.mark.layout(tables.TRANSFORMERS)
@pytest.mark.parametrize("pretraining", [False, True])
def test_transformers_mae(pretraining, tmp_path):
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    config = transformers.ViTMAEConfig(**TINY_TRANSFORMERS | {"mask_ratio": 0.0} | decoder)
    theirs = random_weights((transformers.ViTMAEForPreTraining if pretraining else transformers.ViTMAEModel)(config))
    state = saved(theirs, tmp_path)
    if pretraining:
        assert "class_token" in rename(state, tables.TRANSFORMERS)  # the decoder is left behind
    encoder = {
        key if pretraining else f"vit.{key}": tensor for key, tensor in state.items() if not key.startswith("decoder.")
    }
    keep_order = {"noise": torch.arange(16.0).expand(2, -1)}  # it shuffles the patches by this
    compare_features(theirs.vit if pretraining else theirs, encoder, **keep_order)


def compare_features(theirs, state, **inputs):
    ours = converted(state, tables.TRANSFORMERS, TINY | {"classes": 0})
    with torch.inference_mode():
        hidden = theirs(images(ours), **inputs).last_hidden_state
        compare(ours, hidden[:, 0], hidden[:, 1:])


def google_npz(dim, depth, hidden, patch, tokens, heads, classes, representation=0, channels=3):
    """The names and shapes of google-research/vision_transformer's checkpoints, with random values."""
    width = dim // heads
    shapes = {
        "cls": (1, 1, dim),
        "Transformer/posembed_input/pos_embedding": (1, tokens, dim),
        "embedding/kernel": (patch, patch, channels, dim),
        "embedding/bias": (dim,),
        "Transformer/encoder_norm/scale": (dim,),
        "Transformer/encoder_norm/bias": (dim,),
        "head/kernel": (representation or dim, classes),
        "head/bias": (classes,),
    }
    if representation:
        shapes |= {"pre_logits/kernel": (dim, representation), "pre_logits/bias": (representation,)}
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}/{norm}/scale": (dim,), f"{block}/{norm}/bias": (dim,)}
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for name in ("query", "key", "value"):
            shapes |= {f"{attention}/{name}/kernel": (dim, heads, width), f"{attention}/{name}/bias": (heads, width)}
        shapes |= {f"{attention}/out/kernel": (heads, width, dim), f"{attention}/out/bias": (dim,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_0/kernel": (dim, hidden), f"{block}/MlpBlock_3/Dense_0/bias": (hidden,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_1/kernel": (hidden, dim), f"{block}/MlpBlock_3/Dense_1/bias": (dim,)}
    random = np.random.default_rng(0)
    return {key: (0.3 * random.standard_normal(shape)).astype(np.float32) for key, shape in shapes.items()}


@pytest.mark.layout(tables.ORIGINAL)
@pytest.mark.parametrize(("dim", "heads"), [(128, 2), (1280, 16)])  # heads of 64, and ViT-H's of 80
def test_google_npz_as_timm_reads_it(dim, heads, tmp_path):
    arrays = google_npz(dim, 2, 40, 8, 17, heads, 7)
    np.savez(tmp_path / "vit.npz", **arrays)
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=dim, depth=2, num_heads=heads, mlp_ratio=40 / dim,
        num_classes=7,
    ).eval()  # fmt: skip
    with torch.no_grad():
        _load_weights(theirs, str(tmp_path / "vit.npz"))
    state = {key: torch.from_numpy(array) for key, array in arrays.items()}
    sizes = {"dim": dim, "depth": 2, "heads": heads, "mlp_ratio": 40 / dim}
    compare_with_timm(converted(state, tables.ORIGINAL, TINY | sizes), theirs)


@pytest.mark.layout(tables.ORIGINAL_REPRESENTATION)
def test_google_npz_with_a_representation():
    """No timm model has the tanh layer any more: the head's equation on our own feature."""
    arrays = google_npz(64, 1, 40, 8, 17, 1, 7, representation=5)
    state = {key: torch.from_numpy(array) for key, array in arrays.items()}
    sizes = {"dim": 64, "depth": 1, "heads": 1, "mlp_ratio": 40 / 64, "representation": 5}
    ours = converted(state, tables.ORIGINAL_REPRESENTATION, TINY | sizes)
    with torch.inference_mode():
        hidden = torch.tanh(ours.pooled(images(ours)) @ state["pre_logits/kernel"] + state["pre_logits/bias"])
        near(ours(images(ours)), hidden @ state["head/kernel"] + state["head/bias"])


@pytest.mark.parametrize("pool", ["token", "mean_norm"])
def test_gradients(pool):
    its_changed = MEAN_NORM if pool == "mean_norm" else {}
    theirs = timm_model("vit_tiny_patch16_224", **TINY_TIMM | its_changed)
    table = table_of({"pool": pool})
    ours = converted(theirs.state_dict(), table, TINY | {"pool": pool})
    ours, theirs = ours.double().train(), theirs.double().train()
    batch = images(ours, 16).double()
    for model in (ours, theirs):
        model(batch).square().sum().backward()
    expected = rename({name: parameter.grad for name, parameter in theirs.named_parameters()}, table)
    for name, parameter in ours.named_parameters():
        assert parameter.grad.abs().max() > 1e-6, name
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("table", ["TIMM", "TIMM_MEAN_NORM"])
def test_every_entry_of_the_table_has_a_weight(table):
    theirs = timm_model("vit_tiny_patch16_224", **TINY_TIMM, **MEAN_NORM if table == "TIMM_MEAN_NORM" else {})
    entries = getattr(tables, table)
    for entry in entries:
        with pytest.raises(InputError, match=r"no place in this model"):
            rename(theirs.state_dict(), [other for other in entries if other != entry])


def test_weights_with_layer_scale_are_no_plain_vit():
    state = timm.create_model("vit_tiny_patch16_224", depth=1, init_values=0.1).state_dict()
    with pytest.raises(InputError, match=r"no place in this model: blocks\.0\.ls1\.gamma, blocks\.0\.ls2\.gamma"):
        rename(state, tables.TIMM)
