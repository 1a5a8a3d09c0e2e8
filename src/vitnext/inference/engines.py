"""What runs the network: PyTorch for an artifact, ONNX Runtime or OpenVINO for an export. All compute in float32.

Every engine has ``card`` and ``run``; ``predictor.load`` picks one. Each imports its library only when it is made, so
that predicting from an export never loads torch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np

from vitnext.card import METADATA_KEY, Card
from vitnext.errors import InputError, require


class Engine(Protocol):
    """A loaded network and the card that came with it."""

    card: Card

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Normalised images, float32 (B, C, H, W) -> logits (B, classes); of a segmenter (B, classes, H, W)."""

    def outputs(self, batch: np.ndarray) -> tuple[np.ndarray, ...]:
        """All that the network gives: of queries masks and classes, of others what ``run`` gives alone."""


class TorchEngine:
    """An artifact (``.safetensors``) on the GPU if torch sees one, otherwise on the CPU.

    Args:
        threads: CPU threads. torch has one setting for the whole process; None leaves it as it is.
        device: where to run, in torch's words ("cpu", "cuda:1").
    """

    def __init__(self, path: Path, threads: int | None = None, device: str | None = None) -> None:
        self._torch = torch = require("torch", "train")
        from vitnext.weights.artifact import load_artifact

        self.model, self.card = load_artifact(path)
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model.eval().to(self._device)
        if threads is not None:
            torch.set_num_threads(threads)

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self.outputs(batch)[0]

    def outputs(self, batch: np.ndarray) -> tuple[np.ndarray, ...]:
        torch = self._torch
        # TensorFloat-32 convolutions, torch's default on a GPU, would move probabilities by 1e-3.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            given = self.model(torch.from_numpy(batch).to(self._device))
            parts = given if isinstance(given, tuple) else (given,)
            return tuple(part.float().cpu().numpy() for part in parts)


class OnnxRuntimeEngine:
    """An export (``.onnx``) on ONNX Runtime's CPU provider. ``threads``: None takes one for each core."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 4  # what goes wrong is raised, and reported once
        try:
            self._session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise _unloadable(path, error) from error
        self._input = self._session.get_inputs()[0].name
        self.card = _card(path, self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY))

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self.outputs(batch)[0]

    def outputs(self, batch: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(self._session.run(None, {self._input: batch}))


class OpenVinoEngine:
    """An export (``.onnx``) on OpenVINO's CPU device. ``threads``: None leaves the number to OpenVINO."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        openvino = require("openvino", "openvino")
        # OpenVINO would take bfloat16 where the CPU has it: faster, but not the answers that were measured.
        settings: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            model = openvino.Core().read_model(path)
            self._model = openvino.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise _unloadable(path, error) from error
        # An ONNX file's metadata_props stand under "framework".
        key = ["framework", METADATA_KEY]
        self.card = _card(path, model.get_rt_info(key).astype(str) if model.has_rt_info(key) else None)

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self.outputs(batch)[0]

    def outputs(self, batch: np.ndarray) -> tuple[np.ndarray, ...]:
        # A request of its own for each call, because one request serves one thread at a time.
        found = self._model.create_infer_request().infer([batch])
        return tuple(found[i] for i in range(len(found)))


def _card(path: Path, text: str | None) -> Card:
    if text is None:
        raise InputError(f"{path}: an ONNX file without a vitnext card; make one with: vitnext export MODEL --to onnx")
    try:
        return Card.from_json(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _unloadable(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(f"{path}: not a model that can be loaded, it may be damaged: export it again ({reason})")
