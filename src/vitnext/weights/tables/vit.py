"""The plain ViT in other libraries' names. DeiT's and DINO's authors use timm's; DeiT's heads are in tables/deit.py."""

from __future__ import annotations

from torch import Tensor

from vitnext.weights.rename import DROPPED, HWIO, TRANSPOSED, Layout, Table

_TIMM_BODY: Table = [
    ("cls_token", "class_token"),
    ("pos_embed", "position_embedding"),
    ("patch_embed.proj", "patch_embedding"),
    ("blocks.{i}.norm1", "encoder.{i}.norm1"),
    ("blocks.{i}.attn.qkv", "encoder.{i}.attention.qkv"),
    ("blocks.{i}.attn.proj", "encoder.{i}.attention.output"),
    ("blocks.{i}.norm2", "encoder.{i}.norm2"),
    ("blocks.{i}.mlp.fc1", "encoder.{i}.mlp.0"),
    ("blocks.{i}.mlp.fc2", "encoder.{i}.mlp.3"),
]

TIMM: Table = [*_TIMM_BODY, ("norm", "norm"), ("head", "head")]

# pool="mean_norm": MAE after fine-tuning, from timm or its authors.
TIMM_MEAN_NORM: Table = [*_TIMM_BODY, ("fc_norm", "norm"), ("head", "head")]

# MAE's pre-training, with its decoder.
ORIGINAL_MAE: Table = [
    *_TIMM_BODY,
    ("norm", "norm"),
    ("mask_token", DROPPED),
    ("decoder_embed", DROPPED),
    ("decoder_pos_embed", DROPPED),
    ("decoder_blocks", DROPPED),
    ("decoder_norm", DROPPED),
    ("decoder_pred", DROPPED),
]

_TORCHVISION_BODY: Table = [
    ("class_token", "class_token"),
    ("encoder.pos_embedding", "position_embedding"),
    ("conv_proj", "patch_embedding"),
    ("encoder.layers.encoder_layer_{i}.ln_1", "encoder.{i}.norm1"),
    ("encoder.layers.encoder_layer_{i}.self_attention.in_proj_weight", "encoder.{i}.attention.qkv.weight"),
    ("encoder.layers.encoder_layer_{i}.self_attention.in_proj_bias", "encoder.{i}.attention.qkv.bias"),
    ("encoder.layers.encoder_layer_{i}.self_attention.out_proj", "encoder.{i}.attention.output"),
    ("encoder.layers.encoder_layer_{i}.ln_2", "encoder.{i}.norm2"),
    ("encoder.layers.encoder_layer_{i}.mlp.{j}", "encoder.{i}.mlp.{j}"),
    ("encoder.layers.encoder_layer_{i}.mlp.linear_1", "encoder.{i}.mlp.0"),  # the published files
    ("encoder.layers.encoder_layer_{i}.mlp.linear_2", "encoder.{i}.mlp.3"),
    ("encoder.ln", "norm"),
]

TORCHVISION: Table = [*_TORCHVISION_BODY, ("heads.head", "head")]

TORCHVISION_REPRESENTATION: Table = [
    *_TORCHVISION_BODY,
    ("heads.pre_logits", "head.0"),
    ("heads.head", "head.2"),
]

# ViT, DeiT without distillation, DINO and MAE.
TRANSFORMERS: Table = [
    ("vit.embeddings.cls_token", "class_token"),
    ("vit.embeddings.position_embeddings", "position_embedding"),
    ("vit.embeddings.patch_embeddings.projection", "patch_embedding"),
    ("vit.encoder.layer.{i}.layernorm_before", "encoder.{i}.norm1"),
    (
        (
            "vit.encoder.layer.{i}.attention.attention.query",
            "vit.encoder.layer.{i}.attention.attention.key",
            "vit.encoder.layer.{i}.attention.attention.value",
        ),
        "encoder.{i}.attention.qkv",
    ),
    ("vit.encoder.layer.{i}.attention.output.dense", "encoder.{i}.attention.output"),
    ("vit.encoder.layer.{i}.layernorm_after", "encoder.{i}.norm2"),
    ("vit.encoder.layer.{i}.intermediate.dense", "encoder.{i}.mlp.0"),
    ("vit.encoder.layer.{i}.output.dense", "encoder.{i}.mlp.3"),
    ("vit.layernorm", "norm"),
    ("vit.pooler", DROPPED),  # a tanh layer whose head is not in the file
    ("decoder", DROPPED),  # MAE's pre-training
    ("classifier", "head"),
]


def _head_width(dim: int) -> int:
    """Numbers in a head of the published files: 80 in ViT-H, 64 in all others."""
    return 80 if dim == 1280 else 64


_QKV = Layout(  # (D, h, d) | (h d, D)
    lambda t: t.flatten(1).T, lambda t: t.T.unflatten(1, (-1, _head_width(t.shape[1])))
)
_QKV_BIAS = Layout(  # (h, d) | (h d)
    Tensor.flatten, lambda t: t.unflatten(0, (-1, _head_width(len(t))))
)
_OUT = Layout(  # (h, d, D) | (D, h d)
    lambda t: t.flatten(0, 1).T, lambda t: t.T.unflatten(0, (-1, _head_width(t.shape[0])))
)

_BLOCK = "Transformer/encoderblock_{i}"
_ATTENTION = f"{_BLOCK}/MultiHeadDotProductAttention_1"

# Google's .npz of Dosovitskiy et al. 2021 and of AugReg.
_ORIGINAL_BODY: Table = [
    ("cls", "class_token"),
    ("Transformer/posembed_input/pos_embedding", "position_embedding"),
    ("embedding/kernel", "patch_embedding.weight", HWIO),
    ("embedding/bias", "patch_embedding.bias"),
    (f"{_BLOCK}/LayerNorm_0/scale", "encoder.{i}.norm1.weight"),
    (f"{_BLOCK}/LayerNorm_0/bias", "encoder.{i}.norm1.bias"),
    (
        (f"{_ATTENTION}/query/kernel", f"{_ATTENTION}/key/kernel", f"{_ATTENTION}/value/kernel"),
        "encoder.{i}.attention.qkv.weight",
        _QKV,
    ),
    (
        (f"{_ATTENTION}/query/bias", f"{_ATTENTION}/key/bias", f"{_ATTENTION}/value/bias"),
        "encoder.{i}.attention.qkv.bias",
        _QKV_BIAS,
    ),
    (f"{_ATTENTION}/out/kernel", "encoder.{i}.attention.output.weight", _OUT),
    (f"{_ATTENTION}/out/bias", "encoder.{i}.attention.output.bias"),
    (f"{_BLOCK}/LayerNorm_2/scale", "encoder.{i}.norm2.weight"),
    (f"{_BLOCK}/LayerNorm_2/bias", "encoder.{i}.norm2.bias"),
    (f"{_BLOCK}/MlpBlock_3/Dense_0/kernel", "encoder.{i}.mlp.0.weight", TRANSPOSED),
    (f"{_BLOCK}/MlpBlock_3/Dense_0/bias", "encoder.{i}.mlp.0.bias"),
    (f"{_BLOCK}/MlpBlock_3/Dense_1/kernel", "encoder.{i}.mlp.3.weight", TRANSPOSED),
    (f"{_BLOCK}/MlpBlock_3/Dense_1/bias", "encoder.{i}.mlp.3.bias"),
    ("Transformer/encoder_norm/scale", "norm.weight"),
    ("Transformer/encoder_norm/bias", "norm.bias"),
]

ORIGINAL: Table = [
    *_ORIGINAL_BODY,
    ("head/kernel", "head.weight", TRANSPOSED),
    ("head/bias", "head.bias"),
]

# With the tanh layer (ImageNet-21k).
ORIGINAL_REPRESENTATION: Table = [
    *_ORIGINAL_BODY,
    ("pre_logits/kernel", "head.0.weight", TRANSPOSED),
    ("pre_logits/bias", "head.0.bias"),
    ("head/kernel", "head.2.weight", TRANSPOSED),
    ("head/bias", "head.2.bias"),
]
