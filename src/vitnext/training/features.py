"""Features of a frozen network, computed once: a feature is kept under what the network is and the pixels it saw."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitnext.data.dataset import Split
from vitnext.errors import WorkError
from vitnext.files import atomic_write, cache_folder
from vitnext.models import create
from vitnext.preprocess import Preprocess
from vitnext.training.hardware import Precision
from vitnext.training.loop import Normalize

BATCH = 32
SHARD = 1024  # features in a file: what a stopped run has lost at most
LAYOUT = 1  # of the files; another one is another key
OF_THE_HEAD = ("classes", "head", "representation")  # of a config


class FrozenFeatures:
    """What the head of ``network`` would be given of images, float32, with those kept that have been computed before.

    Files lie in ``folder``, one for each SHARD features, named by what is in them and never changed: two processes
    may write at once, and a stopped one has lost little. Each feature stands beside the SHA-256 of the pixels that the
    network saw, so that an image that changes is another image; the folder's name is that of the architecture, its
    weights but for the head, the normalisation and the number format. Damaged files are passed over.

    folder:   default: features/ in ``files.cache_folder()``
    say:      is told if the features cannot be kept
    computed: how many features were not found
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        preprocess: Preprocess,
        precision: Precision,
        *,
        folder: Path | None = None,
        say: Callable[[str], None],
    ) -> None:
        self.network, self.preprocess, self.precision, self._say = network.eval(), preprocess, precision, say
        key = identity(network, name, preprocess, precision)
        self.folder = (folder or cache_folder() / "features") / key
        self.computed = 0
        self._known: dict[bytes, np.ndarray] = dict(_kept(self.folder))
        self._new: list[bytes] = []

    def of(self, split: Split, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """float32 (N, width), a row for each image. Raises ImageError for an image that cannot be read."""
        digests: list[bytes] = []
        waiting: dict[bytes, np.ndarray] = {}  # pixels without a feature, of different images
        for pixels in self._pixels(split):
            digest = hashlib.sha256(pixels.tobytes()).digest()
            digests.append(digest)
            if digest not in self._known:
                waiting[digest] = pixels
            if len(waiting) == BATCH:
                self._compute(waiting)
            if progress is not None:
                progress(len(digests), len(split))
        self._compute(waiting)
        self._keep()
        return np.stack([self._known[digest] for digest in digests])

    def _pixels(self, split: Split) -> Iterator[np.ndarray]:
        """uint8 (H, W, C) of each image; threads decode up to two batches ahead."""
        if split.arrays is not None:  # to hand over small arrays takes longer than to prepare them
            yield from (self.preprocess.pixels(split.image(i)) for i in range(len(split)))
            return
        ahead: deque[Future[np.ndarray]] = deque()
        pool = ThreadPoolExecutor()
        try:
            for i in range(len(split)):
                ahead.append(pool.submit(self.preprocess.pixels, split.image(i)))
                if len(ahead) > 2 * BATCH:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _compute(self, waiting: dict[bytes, np.ndarray]) -> None:
        if not waiting:
            return
        device = next(self.network.parameters()).device
        images = torch.from_numpy(np.stack(list(waiting.values()))).to(device).permute(0, 3, 1, 2)
        pooled: Any = self.network.pooled
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),  # as prediction computes
            self.precision.autocast(device),
        ):
            rows = pooled(Normalize(self.preprocess, device)(images)).float().cpu().numpy()
        if not np.isfinite(rows).all():
            raise WorkError("the network gives a feature that is not a finite number: its weights may be broken")
        self._known |= zip(waiting, rows, strict=True)
        self._new += waiting
        self.computed += len(waiting)
        waiting.clear()
        if len(self._new) >= SHARD:
            self._keep()

    def _keep(self) -> None:
        digests, self._new = self._new, []
        if not digests:
            return
        path = self.folder / f"{hashlib.sha256(b''.join(digests)).hexdigest()[:32]}.npz"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path, shared=True) as temporary, temporary.open("wb") as file:
                rows = np.stack([self._known[digest] for digest in digests])
                np.savez(file, digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32), features=rows)
        except (OSError, WorkError) as error:
            self._say(f"warning: the features are not kept for the next time: {error}")


def identity(network: nn.Module, name: str, preprocess: Preprocess, precision: Precision) -> str:
    """32 hex digits that tell whether two networks give the same features of the same pixels."""
    config = {key: value for key, value in create.config_dict(network).items() if key not in OF_THE_HEAD}
    what = [LAYOUT, create.backbone_of(name), config, preprocess.to_dict(), precision.name]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    for key, tensor in network.state_dict().items():
        if not key.startswith("head."):
            values = tensor.detach().cpu().contiguous().numpy()
            digest.update(f"\n{key} {values.dtype} {values.shape}\n".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()[:32]


def _kept(folder: Path) -> Iterator[tuple[bytes, np.ndarray]]:
    """Of each file in ``folder`` the digests and their features."""
    for path in sorted(folder.glob("*.npz")):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                digests, rows = arrays["digests"], arrays["features"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue
        if digests.shape == (len(rows), 32) and rows.ndim == 2 and rows.dtype == np.float32:
            yield from zip(map(bytes, digests), rows, strict=True)
