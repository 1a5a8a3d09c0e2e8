"""DINOv2 with weights of timm, transformers and the authors, and with a real network."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from references import LARGEST, near, there_and_back
from shared_data import SHARED
from vitnext.errors import InputError
from vitnext.models.dinov2 import SIZES, DINOv2, DINOv2Config
from vitnext.models.vit import sides
from vitnext.weights.adapt import resize_positions
from vitnext.weights.rename import rename
from vitnext.weights.tables import dinov2 as tables

TINY = {"dim": 24, "depth": 3, "heads": 2, "image_size": 32, "patch_size": 8, "classes": 7}
TINY_TIMM = {"embed_dim": 24, "depth": 3, "num_heads": 2, "img_size": 32, "patch_size": 8, "num_classes": 7}
TINY_TRANSFORMERS = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    "num_labels": 7, "attn_implementation": "eager",
}  # fmt: skip

# A saliency network's backbone with DINOv2's architecture; it is not in the repository.
REAL = SHARED / "weights/vits14_dinov2_saliency"


def random_weights(model):
    """Random values in every parameter and buffer: norms, biases, tokens, positions and layer scale too."""
    torch.manual_seed(0)
    for parameter in model.state_dict().values():
        fan_in = parameter[0].numel() if parameter.ndim in (2, 4) else 4
        nn.init.normal_(parameter, std=fan_in**-0.5)
    return model.eval()


def timm_model(name, **options):
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    return random_weights(model.to_empty(device="cpu"))


def converted(state, table, config, lost=()):
    return there_and_back(lambda: DINOv2(DINOv2Config(**config)), state, table, lost)


def images(model):
    height, width = sides(model.config.image_size)
    batch = 1 if height >= 224 else 2
    return torch.randn(batch, model.config.channels, height, width, generator=torch.Generator().manual_seed(1))


def compare(ours, logits, tokens):
    """Logits or feature, and the patches' tokens (B, N, dim) as the last stage."""
    near(ours(images(ours)), logits)
    near(ours.pyramid(images(ours))["grid"], tokens.transpose(1, 2).unflatten(2, ours.config.grid))


def compare_with_timm(ours, theirs):
    with torch.inference_mode():
        batch = images(ours)
        [tokens] = theirs.forward_intermediates(batch, indices=1, norm=True, output_fmt="NLC", intermediates_only=True)
        compare(ours, theirs(batch), tokens)


def timm_table(name):
    return tables.TIMM_REGISTERS if "reg4" in name else tables.TIMM


@pytest.mark.layout(tables.TIMM, tables.TIMM_REGISTERS)
@pytest.mark.parametrize("changed", [{}, {"channels": 1}, {"classes": 0}, {"image_size": (32, 56)}], ids=str)
@pytest.mark.parametrize("name", SIZES)
def test_timm(name, changed):
    names = {"channels": "in_chans", "classes": "num_classes", "image_size": "img_size"}
    theirs = timm_model(name, **TINY_TIMM | {names[key]: value for key, value in changed.items()})
    config = {key: SIZES[name][key] for key in ("swiglu", "registers") if key in SIZES[name]}
    compare_with_timm(converted(theirs.state_dict(), timm_table(name), TINY | config | changed), theirs)


@pytest.mark.layout(tables.TIMM, tables.TIMM_REGISTERS)
@pytest.mark.parametrize("name", SIZES)
def test_timm_every_size_at_reduced_depth(name):
    theirs = timm_model(name, depth=1, img_size=56)
    ours = converted(theirs.state_dict(), timm_table(name), SIZES[name] | {"depth": 1, "image_size": 56})
    compare_with_timm(ours, theirs)


@pytest.mark.layout(tables.TIMM_REGISTERS)
def test_timm_full_size():
    theirs = timm_model("vit_small_patch14_reg4_dinov2", img_size=224)
    config = SIZES["vit_small_patch14_reg4_dinov2"] | {"image_size": 224}
    compare_with_timm(converted(theirs.state_dict(), tables.TIMM_REGISTERS, config), theirs)


def test_timm_has_no_place_for_the_position_of_the_class_token():
    ours = DINOv2(DINOv2Config(**TINY, registers=4))
    with pytest.raises(InputError, match="position_embedding has a position for the class token, which timm has added"):
        rename(ours.state_dict(), tables.TIMM_REGISTERS, reverse=True)


@pytest.mark.layout(
    tables.TRANSFORMERS,
    tables.TRANSFORMERS_SWIGLU,
    tables.TRANSFORMERS_REGISTERS,
    tables.TRANSFORMERS_REGISTERS_SWIGLU,
)
@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("head", [False, True])
def test_transformers(registers, swiglu, head, tmp_path):
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    count = {"num_register_tokens": registers} if registers else {}
    config = getattr(transformers, f"{kind}Config")(**TINY_TRANSFORMERS, **count, use_swiglu_ffn=swiglu)
    theirs = random_weights(getattr(transformers, f"{kind}{'ForImageClassification' if head else 'Model'}")(config))
    theirs.save_pretrained(tmp_path)
    network = "dinov2_with_registers" if registers else "dinov2"
    state = load_file(tmp_path / "model.safetensors")
    state = state if head else {f"{network}.{key}": tensor for key, tensor in state.items()}
    table = getattr(tables, "TRANSFORMERS" + ("_REGISTERS" if registers else "") + ("_SWIGLU" if swiglu else ""))
    classifier = {"pool": "token_mean"} if head else {"classes": 0}
    changed = {"registers": registers, "swiglu": swiglu} | classifier
    ours = converted(state, table, TINY | changed, lost=[f"{network}.embeddings.mask_token"])
    with torch.inference_mode():
        batch = images(ours)
        body = getattr(theirs, network) if head else theirs
        hidden = body(batch).last_hidden_state
        compare(ours, theirs(batch).logits if head else hidden[:, 0], hidden[:, 1 + registers :])
        attentions = body(batch, output_attentions=True).attentions
        for (name, weights), expected in zip(ours.attention_weights(batch).items(), attentions, strict=True):
            assert (weights - expected).abs().max() <= LARGEST, name


def authors_names(state, swiglu=False, registers=0):
    """timm's weights under the names of facebookresearch/dinov2, models/vision_transformer.py."""
    names = {"reg_token": "register_tokens"} | ({"mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3"} if swiglu else {})
    renamed = {}
    for key, tensor in state.items():
        for old, new in names.items():
            key = key.replace(old, new)
        renamed[key] = tensor
    if registers:  # timm leaves the class token's position out; the authors have it
        row = torch.randn(1, 1, renamed["pos_embed"].shape[2])
        renamed["pos_embed"] = torch.cat([row, renamed["pos_embed"]], dim=1)
        renamed["cls_token"] = renamed["cls_token"] - row
    return renamed | {"mask_token": torch.ones(1, 24)}


@pytest.mark.layout(tables.ORIGINAL, tables.ORIGINAL_SWIGLU)
@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_giant_patch14_reg4_dinov2"])
def test_authors_files_as_timm_reads_them(name):
    config = {key: SIZES[name][key] for key in ("swiglu", "registers") if key in SIZES[name]}
    theirs = timm_model(name, **TINY_TIMM | {"num_classes": 0})
    state = authors_names(theirs.state_dict(), **config)
    read = timm.models.vision_transformer.checkpoint_filter_fn(dict(state), theirs)
    theirs.load_state_dict(read, strict=True)
    table = tables.ORIGINAL_SWIGLU if config else tables.ORIGINAL
    compare_with_timm(converted(state, table, TINY | {"classes": 0} | config, lost=["mask_token"]), theirs)


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_giant_patch14_reg4_dinov2"])
def test_gradients(name):
    config = {key: SIZES[name][key] for key in ("swiglu", "registers") if key in SIZES[name]}
    theirs = timm_model(name, **TINY_TIMM)
    ours = converted(theirs.state_dict(), timm_table(name), TINY | config).double().train()
    theirs, batch = theirs.double().train(), images(ours).double().repeat(4, 1, 1, 1)
    for model in (ours, theirs):
        model(batch).square().sum().backward()
    expected = rename({key: parameter.grad for key, parameter in theirs.named_parameters()}, timm_table(name))
    for key, parameter in ours.named_parameters():
        found, wanted = parameter.grad, expected[key]
        if key == "position_embedding" and config:  # timm has no position for the class token
            found, wanted = found[:, 1:], wanted[:, 1:]
        assert found.abs().max() > 1e-6, key
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9, msg=key)


needs_weights = pytest.mark.skipif(not REAL.is_dir(), reason=f"the weights are not there: {REAL.name}")


@pytest.fixture(scope="module")
def real():
    """The file's weights, stored as fp16, in fp32."""
    return {key: tensor.float() for key, tensor in load_file(REAL / "backbone_fp16.safetensors").items()}


def with_weights(state, size, resize):
    config = DINOv2Config(**SIZES["vit_small_patch14_dinov2"], image_size=size)
    with torch.device("meta"):
        model = DINOv2(config)
    ours = rename(state, tables.ORIGINAL)
    if size != 518:
        ours, _ = resize_positions(ours, config.grid, 1, resize)
    model.load_state_dict(ours, strict=True, assign=True)
    return model.eval()


@needs_weights
def test_real_weights_give_the_known_answer(real):
    """What the fp32 original gives, whose positions are resized as transformers does it."""
    answer = {key: torch.from_numpy(array) for key, array in np.load(REAL / "check_224.npz").items()}
    model = with_weights(real, 224, "plain")
    batch = answer["input"][None]
    with torch.inference_mode():
        hidden = model.norm(model.encode(batch))[0]
        found = {"cls": model(batch)[0], "patch_mean": model.pyramid(batch)["grid"].mean(dim=(2, 3))[0]}
    for name, tensor in {**found, "last_hidden_first3": hidden[:3]}.items():
        expected = answer[name]
        assert torch.cosine_similarity(tensor.flatten(), expected.flatten(), dim=0) >= 0.999999, name
        assert (tensor - expected).abs().max() <= 2e-2, name


@needs_weights
@pytest.mark.parametrize("size", [224, 518])
def test_real_weights_in_timm(real, size):
    theirs = timm.create_model("vit_small_patch14_dinov2", img_size=size, num_classes=0).eval()
    theirs.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(dict(real), theirs), strict=True)
    compare_with_timm(with_weights(real, size, "antialias"), theirs)
