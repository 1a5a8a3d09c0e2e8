"""The tests need no network: without this, training on photographs would ask the hub for published weights."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported; tests of downloads set it back
