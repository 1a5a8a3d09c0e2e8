"""A run's journal as a picture: losses, the score on held-out images and the learning rate, step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vitnext.files import atomic_write


def draw(folder: Path, held_out: str, score: str, title: str) -> None:
    """Draw ``folder/journal.jsonl`` as ``folder/curves.png``.

    held_out: the images that were watched; score: the metric of them that decided, ``title`` its name in print.
    """
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    epochs = [line for line in lines if line["event"] == "epoch"]
    measured = [line for line in epochs if score in line]
    kept = [line for line in measured if line["kept"]][-1:]
    figure = Figure((11, 3.4), layout="constrained")
    losses, scores, rates = figure.subplots(1, 3)

    def plot(axes: Any, rows: list[dict[str, Any]], key: str, **how: Any) -> None:
        rows = [row for row in rows if key in row]
        axes.plot([row["step"] for row in rows], [row[key] for row in rows], **how)

    marker = "." if len(epochs) < 30 else None
    plot(losses, steps, "loss", color="0.8", label="training")
    plot(losses, epochs, "train_loss", color="C0", marker=marker, label="training, of an epoch")
    if any("loss" in line for line in measured):
        plot(losses, measured, "loss", color="C1", marker=marker, label=held_out)
    losses.set(title="loss", xlabel="step")
    losses.legend()
    plot(scores, measured, score, color="C1", marker=marker, label=held_out)
    plot(scores, kept, score, color="C3", marker="o", linestyle="", label="the model")
    scores.set(title=title, xlabel="step")
    scores.legend()
    plot(rates, steps, "learning_rate", color="C2")
    rates.set(title="learning rate", xlabel="step")
    with atomic_write(folder / "curves.png") as temporary:
        figure.savefig(temporary, format="png", dpi=110)
