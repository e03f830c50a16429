"""Points the project at the tests' settings before pytest-django loads them."""

import os
from pathlib import Path

os.environ["RECSITE_ENV_FILE"] = str(Path(__file__).with_name("test.env"))
