"""Fashion-MNIST from scratch, 60,000 training and 10,000 test images, by the two recipes that come with the package.

Prints test top-1, parameters and wall time, and the curve of test top-1 over epochs and seconds (the test images are
watched after every epoch but choose nothing: the last epoch is the model).

    python benchmarks/fashion_mnist.py [--json fashion_mnist.json]
"""

from __future__ import annotations

import json
from pathlib import Path

from measure import parser
from rich.console import Console

import vitnext
from vitnext.card import read_card

RECIPES = ("fashion_mnist_vit", "fashion_mnist_convnext")


def main() -> None:
    arguments = parser(__doc__).parse_args()
    results = {}
    for recipe in RECIPES:
        folder = Path("runs/benchmarks") / recipe
        resume = (folder / "last.pt").exists()
        result = vitnext.train(
            "fashion-mnist", recipe=None if resume else recipe, out=folder, resume=resume, console=Console()
        )
        journal = [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
        curve = [
            {"epoch": row["epoch"], "seconds": round(row["seconds"]), "top1": row["top1"]}
            for row in journal
            if row["event"] == "epoch"
        ]
        model = vitnext.load(result.artifact)
        parameters = sum(p.numel() for p in model.engine.model.parameters())
        seconds = read_card(result.artifact).metrics["seconds"]
        results[recipe] = {
            "top1": result.metrics["top1"],
            "interval": result.metrics["top1_interval"],
            "parameters": parameters,
            "seconds": round(seconds),
            "curve": curve,
        }
        print(f"{recipe}: {100 * result.metrics['top1']:.2f}% test top-1, {parameters:,} parameters, {seconds:,.0f} s")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
