"""Where a benchmark keeps its things: a folder under var/, settings with secrets of its own, and what it starts.

`python -m benchmarks` calls `prepare` before Django reads its settings, because they are made here.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.machine import Cores, pinned
from recsite.embedded import EmbeddedValkey
from recsite.environment import BASE_DIR
from serving.formats.encoding import base64url_encode


class BenchSite:
    """One benchmark's folder, and the Valkey that everything in it uses.

    Attributes:
        folder: everything lies below it; generated data stays there for the next time, all else is made anew.
        data: generated tables.
        logs: one log for each process.
        valkey: started by `prepare`.
    """

    def __init__(self, folder: Path, valkey: EmbeddedValkey) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.logs = folder / "log"
        self.valkey = valkey

    @property
    def valkey_processes(self) -> list[int]:
        """The id of Valkey's process, in a list."""
        assert self.valkey.process is not None
        return [self.valkey.process.pid]


def prepare(folder: Path, cores: Cores, stack: ExitStack) -> BenchSite:
    """Start a Valkey of the benchmark's own, and point this process and its children at it and at fresh settings.

    Args:
        folder: of the benchmark.
        cores: Valkey gets those that are not the server's.
        stack: stops Valkey when it is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for made_anew in ("valkey", "lane", "log", "loads"):
        shutil.rmtree(folder / made_anew, ignore_errors=True)
    for left in folder.glob("benchmark.sqlite3*"):
        left.unlink()
    (folder / "log").mkdir()
    valkey = EmbeddedValkey(folder / "valkey", options=("--save", "", "--appendonly", "no"))
    with pinned(cores.rest):
        stack.callback(valkey.stop)
        valkey.start()
    os.environ.update(_settings(folder, valkey))
    os.environ["DJANGO_SETTINGS_MODULE"] = "recsite.settings"
    return BenchSite(folder, valkey)


def _settings(folder: Path, valkey: EmbeddedValkey) -> Mapping[str, str]:
    """Return what an operator sets, as production would have it: nothing that serving does is turned off."""
    signing = Ed25519PrivateKey.generate()
    values = {
        "SECRET_KEY": secrets.token_urlsafe(48),
        "TOKEN_MASTER_KEYS": f"bench1:{base64url_encode(secrets.token_bytes(32))}",
        "SEAL_KEYS": f"bench1:{base64url_encode(secrets.token_bytes(32))}",
        "SNAPSHOT_PRIVATE_KEY": f"bench1:{base64url_encode(signing.private_bytes_raw())}",
        "SNAPSHOT_PUBLIC_KEYS": f"bench1:{base64url_encode(signing.public_key().public_bytes_raw())}",
        # The DRF door would redirect plain HTTP, which is what a benchmark on loopback speaks.
        "HTTPS_ONLY": "false",
        "LOG_LEVEL": "WARNING",
        "VAR_DIR": str(folder),
        "DATABASE_URL": f"sqlite:///{folder / 'benchmark.sqlite3'}",
        "REDIS_URL": valkey.url,
    }
    # No file of the user's is read.
    return {"RECSITE_ENV_FILE": os.devnull, **{f"RECSITE_{name}": value for name, value in values.items()}}


ROOT = BASE_DIR
