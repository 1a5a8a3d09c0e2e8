"""Write the first held-out handwritten digits as PNG files, so that there is something to predict: TRUTH_NUMBER.png."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from vitnext.data.dataset import held_out, open_dataset

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
_, digits = held_out(open_dataset("digits"))
for i in range(12):
    Image.fromarray(digits.image(i)).save(folder / f"{digits.classes[digits.labels[i]]}_{i:02}.png")
