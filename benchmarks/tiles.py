"""A large image by windows: peak memory of a process that predicts it, and how closely windows agree with one pass.

Memory: a mosaic of the images of a folder (mirrored at random), 12000x9000 pixels, is written as a JPEG and predicted
by ``vitnext.load(...).predict`` in a process of its own for each engine, whose largest resident set is read (Linux);
the bound is 2 GB. torch's is the artifact, ONNX Runtime's its export.

Agreement: a mosaic of 1440x1080 pixels is predicted by windows of the model's size, and in one pass of the whole image.
The shares of equal pixels are those of all pixels at least 32 px from the image's border, of those within 32 px of the
edge of a window, and of the rest; the hill that blends windows should leave little between the last two. Of a model
that tells objects apart memory alone is measured.

    python benchmarks/tiles.py --model model.safetensors --images camvid11/images [--size 12000 9000]
        [--medium 1440 1080] [--engines torch onnxruntime] [--threads 2] [--out runs/benchmarks/tiles]
        [--json tiles.json]

The model is one whose network takes images of any size. The mosaic holds places that no photograph has (its joins), and
the one pass sees across them.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from measure import parser
from PIL import Image

import vitnext
from vitnext.card import read_card
from vitnext.decode import open_image
from vitnext.inference.windows import Tiling, segment, starts

BOUND = 2.0  # GB
NEAR = 32  # pixels
GRAIN = 32  # the one pass fills the image up to a multiple of it

PREDICT = """
import json, sys, time
import vitnext
def peak():  # not ru_maxrss, in which Linux counts what the process that started this one held
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e9
model, image, threads = sys.argv[1:]
predictor = vitnext.load(model, threads=int(threads))
loaded, start = peak(), time.perf_counter()
prediction = predictor.predict(image)
seconds = time.perf_counter() - start
mask = prediction.mask if predictor.card.task == "semantic" else prediction.segments.ids
values = {"shape": mask.shape, "seconds": round(seconds, 1), "loaded_gb": round(loaded, 3)}
if predictor.card.task == "panoptic":
    values["segments"] = len(prediction.segments.labels)
print(json.dumps(values | {"peak_gb": round(peak(), 3), "torch": "torch" in sys.modules}))
"""


def main() -> None:
    flags: argparse.ArgumentParser = parser(__doc__)
    flags.add_argument("--model", type=Path, required=True, help="an artifact, model.safetensors, of a segmenter")
    flags.add_argument("--images", type=Path, required=True, help="a folder")
    flags.add_argument("--size", type=int, nargs=2, default=(12000, 9000), metavar=("WIDTH", "HEIGHT"))
    flags.add_argument("--medium", type=int, nargs=2, default=(1440, 1080), metavar=("WIDTH", "HEIGHT"))
    flags.add_argument("--engines", nargs="+", choices=("torch", "onnxruntime"), default=["torch", "onnxruntime"])
    flags.add_argument("--threads", type=int, default=2)
    flags.add_argument("--out", type=Path, default=Path("runs/benchmarks/tiles"), help="for the image and the export")
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in arguments.images.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    seams: dict[str, object] = {}
    if read_card(arguments.model).task == "semantic":
        seams = agreement(arguments.model, mosaic(files, *arguments.medium), arguments.threads)
        print("  ".join(f"{name} {value}" for name, value in seams.items()), flush=True)
    large = arguments.out / "large.jpg"
    Image.fromarray(mosaic(files, *arguments.size)).save(large, quality=90)
    models = {"torch": arguments.model}
    if "onnxruntime" in arguments.engines:
        models["onnxruntime"] = arguments.out / "model.onnx"
        vitnext.export(arguments.model, out=models["onnxruntime"])
    rows = []
    for engine in arguments.engines:
        command = [sys.executable, "-c", PREDICT, str(models[engine]), str(large), str(arguments.threads)]
        values = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        assert values["shape"] == list(arguments.size[::-1])
        assert values["torch"] == (engine == "torch")
        rows.append({"engine": engine, **values, "within": values["peak_gb"] < BOUND})
        print(
            f"{engine}: {arguments.size[0]}x{arguments.size[1]} in {values['seconds']:,.0f} s, peak "
            f"{values['peak_gb']:.2f} GB ({values['loaded_gb']:.2f} GB before the image), bound {BOUND} GB: "
            f"{'within' if rows[-1]['within'] else 'ABOVE'}"
            f"{', {:,} segments'.format(values['segments']) if 'segments' in values else ''}",
            flush=True,
        )
    if arguments.json is not None:
        machine = {"machine": platform.machine(), "threads": arguments.threads, "torch": torch.__version__}
        table = {**machine, "size": arguments.size, "bound_gb": BOUND, "rows": rows, "agreement": seams}
        arguments.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def mosaic(files: list[Path], width: int, height: int) -> np.ndarray:
    """uint8 (height, width, 3): the files side by side, in random order, every other one mirrored."""
    rng = np.random.default_rng(0)
    canvas = np.zeros((height, width, 3), np.uint8)
    tile_height, tile_width = open_image(files[0]).shape[:2]
    for top in range(0, height, tile_height):
        for left in range(0, width, tile_width):
            image = open_image(files[rng.integers(len(files))])
            place = canvas[top : top + tile_height, left : left + tile_width]
            place = place[: image.shape[0], : image.shape[1]]
            image = image[:, ::-1] if rng.random() < 0.5 else image
            place[:] = image[: place.shape[0], : place.shape[1]]
    return canvas


def agreement(model: Path, pixels: np.ndarray, threads: int) -> dict[str, object]:
    """Shares of equal pixels between windows and one pass, in percent."""
    predictor = vitnext.load(model, threads=threads)
    preprocess = predictor.card.preprocess
    height, width = size = pixels.shape[:2]
    windowed, _ = segment(pixels, size, Tiling(predictor.engine.run, preprocess.normalize, preprocess.image_size))
    whole = tuple(-(-side // GRAIN) * GRAIN for side in size)
    at_once, _ = segment(pixels, size, Tiling(predictor.engine.run, preprocess.normalize, whole))
    equal = windowed == at_once
    inner = np.zeros(size, bool)
    inner[NEAR:-NEAR, NEAR:-NEAR] = True
    near = np.logical_or.outer(*(near_edges(*sides) for sides in zip(size, preprocess.image_size, strict=True)))
    shares = {"inner": equal[inner], "near seams": equal[inner & near], "elsewhere": equal[inner & ~near]}
    found = {name: f"{100 * values.mean():.2f}%" if values.size else "none" for name, values in shares.items()}
    classes = np.bincount(at_once.reshape(-1), minlength=len(predictor.card.classes)) / at_once.size
    largest = f"{100 * classes.max():.1f}%"  # a model that answers one class alone would agree with itself
    return {"image": f"{width}x{height}", "window": preprocess.image_size, **found, "largest class": largest}


def near_edges(length: int, window: int) -> np.ndarray:
    """bool (length,): within NEAR of the first or last pixel of a window that does not lie on the image's border."""
    edges = [edge for start in starts(length, window) for edge in (start, start + window) if 0 < edge < length]
    distance = np.abs(np.arange(length)[:, None] - np.array([*edges, 10 * length])).min(1)
    return distance < NEAR


if __name__ == "__main__":
    main()
