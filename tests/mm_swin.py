"""Swin as mmsegmentation has it (mmseg/models/backbones/swin.py), in plain PyTorch: an independent reference.

Its parameters and buffers have mmsegmentation's names. Patches are merged by torch's Unfold; maps are padded to whole
windows and shifted, whatever their size.
"""

from __future__ import annotations

import itertools
import re

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import BackboneOutput


class WindowMSA(nn.Module):
    def __init__(self, dim, heads, window):
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        tokens, last = list(itertools.product(range(window), repeat=2)), window - 1
        index = [[(a - c + last) * (2 * window - 1) + b - d + last for c, d in tokens] for a, b in tokens]
        self.register_buffer("relative_position_index", torch.tensor(index))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, apart):
        """(B * windows, N, C); ``apart`` (B * windows, N, N): which pairs must not see one another."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        scores = q @ k.mT / q.shape[-1] ** 0.5 + bias - 100.0 * apart[:, None]
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class ShiftWindowMSA(nn.Module):
    def __init__(self, dim, heads, window, shift):
        super().__init__()
        self.window, self.shift = window, shift
        self.w_msa = WindowMSA(dim, heads, window)

    def cut(self, x):
        """(B, H, W, C) -> (B, H / M, W / M, M, M, C)."""
        return x.unflatten(2, (-1, self.window)).unflatten(1, (-1, self.window)).transpose(2, 3)

    def forward(self, x):
        height, width = x.shape[1:3]
        padded = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        cut = self.cut(padded.roll((-self.shift, -self.shift), (1, 2)))
        if self.shift:  # what came round from the other end is a region of its own
            ends = ((side - self.window, side - self.shift) for side in padded.shape[1:3])
            places = (torch.arange(side) for side in padded.shape[1:3])
            down, right = (sum((at >= end).long() for end in pair) for at, pair in zip(places, ends, strict=True))
            region = self.cut((3 * down[:, None] + right)[None, :, :, None]).flatten(3)  # (1, H / M, W / M, M * M)
        else:
            region = torch.zeros(1, *cut.shape[1:3], self.window**2)
        apart = (region[..., :, None] != region[..., None, :]).expand(len(x), -1, -1, -1, -1).flatten(0, 2)
        out = self.w_msa(cut.flatten(3, 4).flatten(0, 2), apart.float()).view(cut.shape)
        out = out.transpose(2, 3).flatten(3, 4).flatten(1, 2).roll((self.shift, self.shift), (1, 2))
        return out[:, :height, :width]


class FFN(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU()), nn.Linear(4 * dim, dim))


class Block(nn.Module):
    def __init__(self, dim, heads, window, shift):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ShiftWindowMSA(dim, heads, window, shift)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = FFN(dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.ffn.layers(self.norm2(x))


class PatchMerging(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x):
        height, width = x.shape[1:3]
        even = F.pad(x.permute(0, 3, 1, 2), (0, width % 2, 0, height % 2))
        unfolded = F.unfold(even, kernel_size=2, stride=2).transpose(1, 2)  # (B, H / 2 * W / 2, C * 2 * 2)
        return self.reduction(self.norm(unfolded)).unflatten(1, (even.shape[2] // 2, -1))


class SwinTransformer(nn.Module):
    """``forward_with_filtered_kwargs`` is what transformers' segmenters call their backbones by."""

    def __init__(self, dim, depths, heads, window):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"projection": nn.Conv2d(3, dim, 4, stride=4), "norm": nn.LayerNorm(dim)})
        self.stages = nn.ModuleList()
        for i, depth in enumerate(depths):
            width = dim * 2**i
            blocks = [Block(width, heads[i], window, window // 2 if j % 2 else 0) for j in range(depth)]
            merging = {"downsample": PatchMerging(width)} if i < len(depths) - 1 else {}
            self.stages.append(nn.ModuleDict({"blocks": nn.Sequential(*blocks), **merging}))
            self.add_module(f"norm{i}", nn.LayerNorm(width))

    def forward(self, images, **_):
        height, width = images.shape[2:]
        x = self.patch_embed["projection"](F.pad(images, (0, -width % 4, 0, -height % 4)))
        x = self.patch_embed["norm"](x.permute(0, 2, 3, 1))
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage["blocks"](x)
            maps.append(getattr(self, f"norm{i}")(x).permute(0, 3, 1, 2))
            x = stage["downsample"](x) if "downsample" in stage else x
        return BackboneOutput(feature_maps=tuple(maps))

    forward_with_filtered_kwargs = forward


def checkpoint(upernet):
    """The weights of transformers' UPerNet on this backbone in mmsegmentation's names."""

    def renamed(key):
        return re.sub(r"^(\w+_head)\.classifier", r"\1.conv_seg", key).replace("batch_norm", "bn")

    return {renamed(key): tensor for key, tensor in upernet.state_dict().items()}
