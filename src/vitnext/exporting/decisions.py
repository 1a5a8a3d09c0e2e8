"""Compare Mask2Former's export by its decisions, because its answers jump.

Masked attention sees the pixels whose logit is at least zero (``heads.mask2former``, eq. 3). Of some 300,000 logits
an image a few lie so close to zero that rounding in float32 chooses their side, in PyTorch as in ONNX Runtime: each
differs from float64 on some images. One such pixel moves its query, and the layers after it the others, by up to
0.005 of a probability; no tolerance on answers tells that from a mistake. So two things are asked: that the export
decides as the model does wherever the logit is not within rounding of zero, and that to the same decisions the model
gives the same answers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from vitnext.errors import WorkError
from vitnext.models.heads.mask2former import at_least_half
from vitnext.models.segmenter import Mask2Former

DECISION = "held_"  # the names, within the file, of what each layer decided: bool (B, K, N)
ROUNDING = 2e-5  # of the largest logit of the image: ten times what the two engines were seen to differ by


class WithDecisions(nn.Module):
    """The model with what each of its layers decided as further outputs."""

    def __init__(self, model: Mask2Former) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        decided: list[Tensor] = []

        def decide(logits: Tensor) -> Tensor:
            decided.append(at_least_half(logits))
            return decided[-1]

        return (*self.model(images, decide), *decided)


class Decisions:
    """What the export ``file`` decides, and what ``model``, on the CPU, answers to that."""

    def __init__(self, model: Mask2Former, file: Path) -> None:
        self.model, self.count = model, len(model.head.layers)
        network = onnx.load(file, load_external_data=False)
        kind = onnx.TensorProto.BOOL
        network.graph.output.extend(
            onnx.helper.make_tensor_value_info(f"{DECISION}{i}", kind, None) for i in range(self.count)
        )
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".onnx") as copy:  # beside the file of the weights
            copy.write(network.SerializeToString())
            copy.flush()
            self._session = onnxruntime.InferenceSession(copy.name, providers=["CPUExecutionProvider"])

    def of_export(self, images: np.ndarray) -> list[np.ndarray]:
        """Of each layer, for images (B, C, H, W): which pixels the masks hold, bool (B, K, N)."""
        names = [f"{DECISION}{i}" for i in range(self.count)]
        found: list[np.ndarray] = self._session.run(names, {"images": images})
        return found

    def followed(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """The model's masks and classes, were it to decide as the export does. Raises WorkError if that is otherwise
        than the model would, by more than rounding."""
        theirs = map(torch.from_numpy, self.of_export(images))

        def decide(logits: Tensor) -> Tensor:
            held, size = next(theirs), logits.abs()
            largest = size.amax(dim=(1, 2), keepdim=True)
            wrong = (held != at_least_half(logits)) & (size > ROUNDING * largest)
            if wrong.any():
                raise WorkError(
                    "the export does not agree with the model: its masks hold other pixels in attention, "
                    f"{wrong.sum()} of {held.numel()}, with logits of up to {size[wrong].max():.2g} "
                    f"(the largest: {size.max():.2g})"
                )
            return held

        with torch.inference_mode():
            return tuple(part.float().numpy() for part in self.model(torch.from_numpy(images), decide))
