"""The tests need no network: without this, training on photographs would ask the hub for published weights. And none
fails for the time that it took, as hypothesis would have it: the machine may be busy."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported; tests of downloads set it back

settings.register_profile("whatever it takes", deadline=None)
settings.load_profile("whatever it takes")
