"""What ``vitnext.NAME`` and the command line call: the parts, tied together."""

from vitnext.api.evaluation import evaluate
from vitnext.api.folder import finished, run_name
from vitnext.api.label_noise import doubtful_labels
from vitnext.api.models import convert, create_model, export
from vitnext.api.training import TrainResult, find_learning_rate, train

__all__ = [
    "TrainResult",
    "convert",
    "create_model",
    "doubtful_labels",
    "evaluate",
    "export",
    "find_learning_rate",
    "finished",
    "run_name",
    "train",
]
