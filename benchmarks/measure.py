"""Side by side in one process, in turns, medians: what every benchmark here uses."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def parser(description: str | None) -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--json", type=Path, help="also write the table as JSON")
    return flags


def interleaved(variants: dict[str, Callable[[], object]], rounds: int = 11, device: str = "cpu") -> dict[str, float]:
    """Median seconds of each variant; the variants take turns, so that a busy moment hits all of them.

    With one thread they are seconds of the CPU, which other work on the machine changes little; else, and on a GPU, of
    the clock.
    """
    now = time.process_time if torch.get_num_threads() == 1 and device == "cpu" else time.perf_counter
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    for run in variants.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            finish()
            start = now()
            run()
            finish()
            times[name].append(now() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def report(rows: list[dict[str, object]], baseline: str, path: Path | None) -> None:
    """Print milliseconds and how many times as fast as ``baseline`` each variant is; write JSON if asked for."""
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for row in rows:
        base = row[baseline]
        cells = [
            f"{name} {1e3 * value:.2f} ms ({base / value:.2f}x)" if isinstance(value, float) else str(value)
            for name, value in row.items()
        ]
        print("  ".join(cells))
    if path is not None:
        machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        path.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")
