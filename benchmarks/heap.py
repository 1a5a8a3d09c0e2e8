"""Training steps with glibc's own heap settings and with ``keep_heap``, in turns, each in a process of its own.

python benchmarks/heap.py [--json heap.json]
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from measure import parser, report

STEPS = """
import sys, time, torch
from vitnext.models import catalog
from vitnext.training.hardware import keep_heap
if sys.argv[1] == "kept":
    keep_heap()
family, batch = sys.argv[2], int(sys.argv[3])
from vitnext.recipe import read
from vitnext.training.defaults import model_config
recipe = read(f"fashion_mnist_{family}")
model = catalog.build(recipe.model.name, **model_config(recipe, 10))
if catalog.FAMILIES[family].channels_last:
    model = model.to(memory_format=torch.channels_last)
images, labels = torch.randn(batch, 1, 28, 28), torch.randint(0, 10, (batch,))
times = []
for _ in range(8):
    start = time.perf_counter()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    model.zero_grad()
    times.append(time.perf_counter() - start)
print(sorted(times[2:])[3])
"""


def main() -> None:
    arguments = parser(__doc__).parse_args()
    rows: list[dict[str, object]] = []
    for family in ("vit", "convnext"):
        for batch in (128, 512):
            times: dict[str, list[float]] = {"glibc's defaults": [], "kept": []}
            for _ in range(3):
                for heap, values in times.items():
                    command = [sys.executable, "-c", STEPS, heap, family, str(batch)]
                    values.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            medians = {heap: statistics.median(values) for heap, values in times.items()}
            rows.append({"model": f"{family}, batch {batch}", **medians})
    report(rows, baseline="glibc's defaults", path=arguments.json)


if __name__ == "__main__":
    main()
