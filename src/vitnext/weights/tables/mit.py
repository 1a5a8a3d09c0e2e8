"""Mix Transformers (SegFormer's encoders) in other libraries' names."""

from __future__ import annotations

from vitnext.weights.rename import Table

# As in the files; transformers 5 renames the modules when it loads them, and back when it saves them.
TRANSFORMERS: Table = [
    ("segformer.encoder.patch_embeddings.{i}.proj", "levels.{i}.patch_embedding.projection"),
    ("segformer.encoder.patch_embeddings.{i}.layer_norm", "levels.{i}.patch_embedding.norm"),
    ("segformer.encoder.block.{i}.{j}.layer_norm_1", "levels.{i}.blocks.{j}.norm1"),
    ("segformer.encoder.block.{i}.{j}.attention.self.query", "levels.{i}.blocks.{j}.attention.query"),
    (
        ("segformer.encoder.block.{i}.{j}.attention.self.key", "segformer.encoder.block.{i}.{j}.attention.self.value"),
        "levels.{i}.blocks.{j}.attention.key_value",
    ),
    ("segformer.encoder.block.{i}.{j}.attention.self.sr", "levels.{i}.blocks.{j}.attention.reduction"),
    ("segformer.encoder.block.{i}.{j}.attention.self.layer_norm", "levels.{i}.blocks.{j}.attention.norm"),
    ("segformer.encoder.block.{i}.{j}.attention.output.dense", "levels.{i}.blocks.{j}.attention.output"),
    ("segformer.encoder.block.{i}.{j}.layer_norm_2", "levels.{i}.blocks.{j}.norm2"),
    ("segformer.encoder.block.{i}.{j}.mlp.dense1", "levels.{i}.blocks.{j}.mlp.expand"),
    ("segformer.encoder.block.{i}.{j}.mlp.dwconv.dwconv", "levels.{i}.blocks.{j}.mlp.depthwise"),
    ("segformer.encoder.block.{i}.{j}.mlp.dense2", "levels.{i}.blocks.{j}.mlp.project"),
    ("segformer.encoder.layer_norm.{i}", "levels.{i}.norm"),
    ("classifier", "head"),
]

# NVlabs/SegFormer, which counts stages from 1.
ORIGINAL: Table = [
    *(
        entry
        for i in (0, 1, 2, 3)
        for entry in (
            (f"patch_embed{i + 1}.proj", f"levels.{i}.patch_embedding.projection"),
            (f"patch_embed{i + 1}.norm", f"levels.{i}.patch_embedding.norm"),
            (f"block{i + 1}.{{j}}.norm1", f"levels.{i}.blocks.{{j}}.norm1"),
            (f"block{i + 1}.{{j}}.attn.q", f"levels.{i}.blocks.{{j}}.attention.query"),
            (f"block{i + 1}.{{j}}.attn.kv", f"levels.{i}.blocks.{{j}}.attention.key_value"),
            (f"block{i + 1}.{{j}}.attn.sr", f"levels.{i}.blocks.{{j}}.attention.reduction"),
            (f"block{i + 1}.{{j}}.attn.norm", f"levels.{i}.blocks.{{j}}.attention.norm"),
            (f"block{i + 1}.{{j}}.attn.proj", f"levels.{i}.blocks.{{j}}.attention.output"),
            (f"block{i + 1}.{{j}}.norm2", f"levels.{i}.blocks.{{j}}.norm2"),
            (f"block{i + 1}.{{j}}.mlp.fc1", f"levels.{i}.blocks.{{j}}.mlp.expand"),
            (f"block{i + 1}.{{j}}.mlp.dwconv.dwconv", f"levels.{i}.blocks.{{j}}.mlp.depthwise"),
            (f"block{i + 1}.{{j}}.mlp.fc2", f"levels.{i}.blocks.{{j}}.mlp.project"),
            (f"norm{i + 1}", f"levels.{i}.norm"),
        )
    ),
    ("head", "head"),
]
