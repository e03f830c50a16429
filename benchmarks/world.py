"""What a serving benchmark asks about: a studio whose two versions the real loader loaded, tokens, and right answers.

Needs Django's settings (`benchmarks.site`). The rows are the demo's: `examples/generate.py` computes each from
studio, model, version and player, so that what a contender answers can be held against it.
"""

from __future__ import annotations

import hmac
import json
import random
import subprocess
import sys
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import jwt
import pyarrow.parquet as pq
import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.conf import settings
from django.core.management import call_command

from benchmarks.load import HEAD_END
from benchmarks.site import ROOT, BenchSite
from examples.generate import Example, answer, example_of, parquet_path, write_parquet
from models_registry.catalogue.access import NarrowedTo
from models_registry.models import RecommendationModel, RolloutRevision, Version
from recsite.demo.data import BURST, REQUESTS_PER_SECOND, make_people, make_studios
from serving.formats.encoding import base64url_decode
from serving.formats.keys import digest, locate, slot
from serving.formats.tokens import derive_key, header_segment, parse_master_keys
from tenants.callers import mint_token
from tenants.credentials import credential_issue, credential_register_key
from tenants.models import Algorithm, Credential

STUDIO, MODEL = "aurora", "offers"
# Within what serving allows (24 h), and longer than any benchmark.
TOKEN_LIFE_SECONDS = 6 * 3600
STUDIO_ISSUER = "aurora-backend"
COMPARED_WITH_GENERATOR = 1_000
ROWS_A_COMMAND = 1_000


class WorldProblem(RuntimeError):
    """The world could not be made as it must be."""


@dataclass(frozen=True)
class Signing:
    """How tokens of one credential are made: what stands before the claims, the claims but for `sub`, the key."""

    header: bytes
    claims: dict[str, Any]
    key: bytes

    def token(self, player: str | None = None) -> bytes:
        """Return a token: of a game's backend, or one player's own."""
        signed = self.header + b"." + _base64url(_json({**self.claims, **({"sub": player} if player else {})}))
        return signed + b"." + _base64url(hmac.digest(self.key, signed, "sha256"))

    def player_tokens(self, players: Sequence[str]) -> Iterator[bytes]:
        """Yield a token for each player; about 5 µs each."""
        start = _json(self.claims)[:-1] + b',"sub":"'
        for player in players:
            signed = self.header + b"." + _base64url(start + player.encode() + b'"}')
            yield signed + b"." + _base64url(hmac.digest(self.key, signed, "sha256"))


@dataclass(frozen=True)
class StudioSigning:
    """How the studio's own backend signs tokens: Ed25519, through PyJWT as such a backend would."""

    kid: str
    private_key: Ed25519PrivateKey

    def token(self, player: str) -> bytes:
        """Return a player's token."""
        now = int(time.time())
        claims = {"aud": settings.TOKEN_AUDIENCE, "iss": STUDIO_ISSUER, "iat": now, "exp": now + TOKEN_LIFE_SECONDS}
        headers = {"kid": self.kid}
        return jwt.encode({**claims, "sub": player}, self.private_key, algorithm="EdDSA", headers=headers).encode()


@dataclass(frozen=True)
class World:
    """Everything that contenders are started with and asked about.

    Attributes:
        players: their ids.
        endings: how each player's answer must end, in the same order.
        cover: where in these are players of whom each block of both tables holds at least one.
        signing: of the credential whose tokens the service mints.
        studio_signing: of the credential whose tokens the studio signs.
        peers_file: JSON with what a peer must know instead of the snapshot.
        loads: what the loader said, a line a version.
    """

    players: list[str]
    endings: list[bytes]
    cover: list[int]
    signing: Signing
    studio_signing: StudioSigning
    peers_file: Path
    loads: list[str]


def make_world(site: BenchSite, players: int) -> World:
    """Make the studio, load both versions, and give peers the same rows as one key a player.

    Takes about 40 s for a million players; twice that the first time, when the tables are generated.

    Raises:
        WorldProblem: a load did not end well, or the rows are not the generator's.
    """
    example = example_of(STUDIO, MODEL)
    data = site.data / str(players)
    for version in example.versions:
        path = parquet_path(data, example, version)
        if not path.exists():
            write_parquet(path, example, version, players)
    call_command("migrate", verbosity=0, interactive=False)
    make_people({})
    make_studios(data)
    model = RecommendationModel.objects.unscoped().select_related("tenant").get(tenant__slug=STUDIO, slug=MODEL)
    loads = [_load(f"{STUDIO}/{MODEL}/{version}") for version in example.versions]

    wide: dict[str, Any] = {
        "requests_per_second": REQUESTS_PER_SECOND,
        "burst": BURST,
        "allowed_models": NarrowedTo([model]),
        "actor": None,
    }
    issued = credential_issue(tenant=model.tenant, name="Benchmark", **wide)
    private_key = Ed25519PrivateKey.generate()
    registered = credential_register_key(
        tenant=model.tenant,
        name="Benchmark, signed by the studio",
        public_key=private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        algorithm=Algorithm.EDDSA,
        issuer=STUDIO_ISSUER,
        **wide,
    )
    signing = _signing(issued.credential)

    rollout = RolloutRevision.objects.for_tenant(model.tenant).filter(model=model).latest("number")
    versions = Version.objects.for_tenant(model.tenant).filter(model=model).select_related("active_table")
    names = {version.code: version.name for version in versions}
    block_bits = {version.name: version.active_table.block_bits for version in versions if version.active_table}
    allocation = bytes(rollout.allocation)
    tables = {version: _rows(parquet_path(data, example, version), example) for version in example.versions}
    ids = [player for player, _ in next(iter(tables.values()))]
    chosen = [names[allocation[slot(rollout.salt, player)]] for player in ids]
    endings = [
        HEAD_END + f'{{"model":"{MODEL}","version":"{version}","recommendation":{tables[version][row][1]}}}'.encode()
        for row, version in enumerate(chosen)
    ]
    _compare_with_generator(ids, chosen, endings)
    row_of_block = {
        (version, locate(digest(player.encode()), block_bits[version])[0]): row
        for row, (player, version) in enumerate(zip(ids, chosen, strict=True))
    }
    _write_for_peers(site.valkey.url, tables)
    peers_file = site.folder / "peers.json"
    peers_file.write_text(
        json.dumps(
            {
                "redis_host": "127.0.0.1",
                "redis_port": site.valkey.port,
                "model": MODEL,
                "salt": rollout.salt,
                "allocation": b64encode(allocation).decode(),
                "versions": {str(code): name for code, name in names.items()},
                "secret": b64encode(signing.key).decode(),
                "audience": settings.TOKEN_AUDIENCE,
                "issuer": settings.TOKEN_ISSUER,
            }
        )
    )
    return World(
        players=ids,
        endings=endings,
        cover=list(row_of_block.values()),
        signing=signing,
        studio_signing=StudioSigning(registered.client_id, private_key),
        peers_file=peers_file,
        loads=loads,
    )


def _load(name: str) -> str:
    """Load a version as an operator would; give what the command said."""
    command = [sys.executable, "manage.py", "load", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise WorldProblem(f"{name} was not loaded: {done.stderr[-2000:]}")
    return done.stdout.strip().partition("\n")[0]


def _rows(path: Path, example: Example) -> list[tuple[str, str]]:
    """Return a table's rows, in order: the player, and the recommendation as JSON."""
    fields = ", ".join(
        f"{field['name']} := {field['name']}{'::DOUBLE' if field['type'] == 'decimal' else ''}"
        for field in example.layout
    )
    query = "SELECT player_id, to_json(struct_pack({}))::VARCHAR FROM read_parquet(?)".format(fields)  # noqa: S608, UP032 - names of the example's own fields
    with duckdb.connect() as database:
        rows: list[tuple[str, str]] = database.execute(query, [str(path)]).fetchall()
    if len(rows) != pq.read_metadata(path).num_rows:
        raise WorldProblem(f"{path} was read in part")
    return rows


def _compare_with_generator(ids: Sequence[str], chosen: Sequence[str], endings: Sequence[bytes]) -> None:
    """Hold a sample of the expected answers against the generator's plain way of computing one."""
    for row in random.sample(range(len(ids)), min(COMPARED_WITH_GENERATOR, len(ids))):
        expected = answer(STUDIO, MODEL, chosen[row], {"player_id": ids[row]})
        if json.loads(endings[row])["recommendation"] != expected:
            raise WorldProblem(f"{ids[row]} should get {expected}, but the table says {endings[row]!r}")


def _write_for_peers(url: str, tables: dict[str, list[tuple[str, str]]]) -> None:
    """Write each row as most would: a key for each player and version, its value the recommendation as JSON."""
    with redis.Redis.from_url(url) as client:
        for version, rows in tables.items():
            for first in range(0, len(rows), ROWS_A_COMMAND):
                client.mset(
                    {f"{MODEL}:{version}:{player}": value for player, value in rows[first : first + ROWS_A_COMMAND]}
                )


def _signing(credential: Credential) -> Signing:
    """Return what the token endpoint signs with, and the claims it writes, but for their life."""
    minted, _ = mint_token(credential=credential)
    claims = json.loads(base64url_decode(minted.split(".")[1]))
    claims["exp"] = claims["iat"] + TOKEN_LIFE_SECONDS
    master_key_id, master_key = next(iter(parse_master_keys(settings.TOKEN_MASTER_KEYS).items()))
    header = header_segment(credential.client_id, credential.generation, master_key_id)
    if header.decode() != minted.split(".")[0]:
        raise WorldProblem("tokens of the benchmark's own would not look like those of the token endpoint")
    key = derive_key(master_key, master_key_id, credential.client_id, credential.generation)
    return Signing(header, claims, key)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")
