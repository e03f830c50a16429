from __future__ import annotations

import hashlib
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from django.conf import settings
from django.utils import timezone

from models_registry.catalogue.access import NarrowedTo, askable, narrowed_to
from serving.formats import tokens
from serving.formats.encoding import base64url_decode
from tenants.callers import NotAuthenticated, UnknownModel, credential_authenticate, mint_token
from tenants.credentials import (
    credential_issue,
    credential_register_key,
    credential_revoke,
    credential_rotate,
    credential_update,
)
from tenants.models import AuditEntry, Credential, Tenant, User
from tenants.rules import LimitReached, RuleBroken
from tenants.services import tenant_end
from tests.factories import SECRET, CredentialFactory, ModelFactory

pytestmark = pytest.mark.django_db


def pem(key: Any) -> str:
    return public_pem(key.public_key())


def public_pem(key: Any) -> str:
    text: bytes = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


ED25519 = pem(ed25519.Ed25519PrivateKey.generate())
P256 = pem(ec.generate_private_key(ec.SECP256R1()))
P384 = pem(ec.generate_private_key(ec.SECP384R1()))
RSA_2048 = pem(rsa.generate_private_key(public_exponent=65_537, key_size=2048))
RSA_1024 = pem(rsa.generate_private_key(public_exponent=65_537, key_size=1024))  # noqa: S505 - it must be refused
# Whoever holds these, to check a signature with them takes long.
RSA_WITH_A_LONG_EXPONENT = public_pem(rsa.RSAPublicNumbers(2**2046 + 1, 2**2047 + 1).public_key())
RSA_8192 = public_pem(rsa.RSAPublicNumbers(65_537, 2**8191 + 1).public_key())


def last_entry(tenant: Tenant) -> AuditEntry:
    return AuditEntry.objects.for_tenant(tenant).order_by("pk")[::-1][0]


def check(token: str, credential: Credential, generation: int) -> tokens.Claims:
    """Check a token as a lane does: by the exact header, the derived key, and the claims."""
    master_key_id, master_key = next(iter(tokens.parse_master_keys(settings.TOKEN_MASTER_KEYS).items()))
    header = tokens.header_segment(credential.client_id, generation, master_key_id)
    assert token.encode().startswith(header + b".")
    key = tokens.derive_key(master_key, master_key_id, credential.client_id, generation)
    payload = tokens.check_hs256(token.encode(), len(header), tokens.hmac_of(key))
    return tokens.check_claims(
        payload,
        now=time.time(),
        audience=settings.TOKEN_AUDIENCE,
        issuer=settings.TOKEN_ISSUER,
        tenant_slug=credential.tenant.slug,
    )


# --- Issuing --------------------------------------------------------------------------------------------------------


def test_credential_issue__all_right__shows_a_secret_of_256_bits_once_and_keeps_its_hash(
    studio: Tenant, owner: User
) -> None:
    issued = credential_issue(tenant=studio, name="Android", actor=owner)
    credential = Credential.objects.for_tenant(studio).get()
    assert issued.secret.startswith("rsk_")
    assert len(base64url_decode(issued.secret.removeprefix("rsk_"))) == 32
    assert credential.secret_hash == hashlib.sha256(issued.secret.encode()).hexdigest()
    assert credential.client_id.startswith("cr_")
    assert tokens.KID.fullmatch(credential.client_id)
    assert credential.created_by == owner
    assert issued.secret not in repr(issued)


def test_credential_writes__whatever_they_record__hold_no_secret(studio: Tenant, owner: User) -> None:
    issued = credential_issue(tenant=studio, name="Android", actor=owner)
    until = timezone.now() + timedelta(hours=1)
    rotated = credential_rotate(credential=issued.credential, actor=owner, previous_until=until)
    credential_revoke(credential=issued.credential, actor=owner, reason="lost")
    recorded = json.dumps(list(AuditEntry.objects.for_tenant(studio).values("summary", "subject", "before", "after")))
    assert recorded.count("credential.") == 0
    for secret in (issued.secret, rotated.secret):
        assert secret[4:-4] not in recorded
        assert hashlib.sha256(secret.encode()).hexdigest() not in recorded


def test_credential_issue__narrowed__may_ask_for_those_models(studio: Tenant) -> None:
    model = ModelFactory.create(tenant=studio, slug="offers")
    issued = credential_issue(tenant=studio, name="Android", actor=None, allowed_models=NarrowedTo([model]), burst=7)
    assert list(narrowed_to(issued.credential)) == [model]
    after = last_entry(studio).after
    assert after is not None
    assert (after["allowed_models"], after["burst"]) == (["offers"], 7)


def test_credential_issue__model_of_another_studio__is_refused(studio: Tenant) -> None:
    with pytest.raises(RuleBroken, match="own studio"):
        credential_issue(tenant=studio, name="Android", actor=None, allowed_models=NarrowedTo([ModelFactory.create()]))
    assert not Credential.objects.unscoped().exists()


@pytest.mark.parametrize("values", [{"name": ""}, {"requests_per_second": 0}, {"burst": -1}])
def test_credential_issue__value_that_will_not_do__is_refused(studio: Tenant, values: dict[str, Any]) -> None:
    with pytest.raises(RuleBroken):
        credential_issue(tenant=studio, actor=None, **{"name": "Android", **values})


def test_credentials__as_many_as_a_studio_may_have__the_next_is_refused(
    studio: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenants.credentials.MAX_CREDENTIALS", 2)
    first = credential_issue(tenant=studio, name="a", actor=None).credential
    CredentialFactory.create()  # another studio's
    key: dict[str, Any] = {"public_key": ED25519, "algorithm": "EdDSA", "issuer": "https://studio.example"}
    credential_register_key(tenant=studio, name="b", actor=None, **key)
    with pytest.raises(LimitReached, match="already has the maximum of 2 credentials"):
        credential_issue(tenant=studio, name="c", actor=None)
    with pytest.raises(LimitReached):
        credential_register_key(tenant=studio, name="c", actor=None, **key)
    credential_revoke(credential=first, actor=None, reason="makes room")
    credential_issue(tenant=studio, name="c", actor=None)


def test_credential_issue__studio_ended__is_refused(studio: Tenant) -> None:
    tenant_end(tenant=studio, actor=None, reason="over")
    with pytest.raises(RuleBroken, match="ended"):
        credential_issue(tenant=studio, name="Android", actor=None)


# --- Registering keys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "key"), [("EdDSA", ED25519), ("ES256", P256), ("RS256", RSA_2048)])
def test_credential_register_key__key_of_its_algorithm__is_kept_as_pem(
    studio: Tenant, algorithm: str, key: str
) -> None:
    credential = credential_register_key(
        tenant=studio, name="Backend", public_key=f"\n{key}\n", algorithm=algorithm, issuer=" lark ", actor=None
    )
    credential.refresh_from_db()
    assert (credential.public_key, credential.issuer, credential.secret_hash) == (key, "lark", "")


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("EdDSA", P256),
        ("ES256", P384),
        ("ES256", ED25519),
        ("RS256", RSA_1024),
        ("RS256", RSA_WITH_A_LONG_EXPONENT),
        ("RS256", RSA_8192),
        ("RS256", P256),
        ("HS256", ED25519),
        ("none", ED25519),
        ("EdDSA", "not a key"),
        ("EdDSA", ED25519.replace("A", "!")),
        ("EdDSA", ""),
    ],
)
def test_credential_register_key__key_of_another_kind__is_refused(studio: Tenant, algorithm: str, key: str) -> None:
    with pytest.raises(RuleBroken):
        credential_register_key(
            tenant=studio, name="Backend", public_key=key, algorithm=algorithm, issuer="lark", actor=None
        )


def test_credential_register_key__a_private_key__is_refused_and_not_repeated(studio: Tenant) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    text = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(RuleBroken, match="private key") as refused:
        credential_register_key(
            tenant=studio, name="Backend", public_key=text, algorithm="EdDSA", issuer="lark", actor=None
        )
    assert text.splitlines()[1] not in str(refused.value)


def test_credential_register_key__no_issuer__is_refused(studio: Tenant) -> None:
    with pytest.raises(RuleBroken, match="issuer"):
        credential_register_key(
            tenant=studio, name="Backend", public_key=ED25519, algorithm="EdDSA", issuer=" ", actor=None
        )


# --- Updating, rotating, revoking -----------------------------------------------------------------------------------


def test_credential_update__models_and_limit__says_before_and_after(studio: Tenant) -> None:
    credential = CredentialFactory.create(tenant=studio)
    models = ModelFactory.create_batch(2, tenant=studio)
    credential_update(credential=credential, actor=None, allowed_models=NarrowedTo(models), burst=9)
    credential.refresh_from_db()
    assert set(narrowed_to(credential)) == set(models)
    entry = last_entry(studio)
    assert entry.before == {"burst": 20_000, "allowed_models": []}
    assert entry.after == {"burst": 9, "allowed_models": sorted(model.slug for model in models)}
    credential_update(credential=credential, actor=None, allowed_models=NarrowedTo(models), burst=9)
    assert AuditEntry.objects.for_tenant(studio).count() == 1


def test_credential_rotate__with_an_overlap__both_secrets_work_until_it_ends(studio: Tenant) -> None:
    first = credential_issue(tenant=studio, name="Android", actor=None)
    client_id = first.credential.client_id
    until = timezone.now() + timedelta(hours=2)
    second = credential_rotate(credential=first.credential, actor=None, previous_until=until)
    assert credential_authenticate(client_id, first.secret).generation == 1
    assert credential_authenticate(client_id, second.secret).generation == 2
    later = until + timedelta(seconds=1)
    assert credential_authenticate(client_id, second.secret, now=later).generation == 2
    with pytest.raises(NotAuthenticated):
        credential_authenticate(client_id, first.secret, now=later)


def test_credential_rotate__with_no_overlap__ends_the_old_secret_at_once(studio: Tenant) -> None:
    first = credential_issue(tenant=studio, name="Android", actor=None)
    rotated = credential_rotate(credential=first.credential, actor=None, previous_until=timezone.now())
    assert (rotated.credential.previous_secret_hash, rotated.credential.previous_until) == ("", None)
    with pytest.raises(NotAuthenticated):
        credential_authenticate(first.credential.client_id, first.secret)


def test_credential_rotate__twice__only_the_newest_two_work(studio: Tenant) -> None:
    first = credential_issue(tenant=studio, name="Android", actor=None)
    until = timezone.now() + timedelta(hours=2)
    second = credential_rotate(credential=first.credential, actor=None, previous_until=until)
    credential_rotate(credential=first.credential, actor=None, previous_until=until)
    assert credential_authenticate(first.credential.client_id, second.secret).generation == 2
    with pytest.raises(NotAuthenticated):
        credential_authenticate(first.credential.client_id, first.secret)


@pytest.mark.parametrize("until", [datetime(2026, 1, 1), datetime.now(UTC) + timedelta(days=31)])  # noqa: DTZ001
def test_credential_rotate__hour_that_will_not_do__is_refused(studio: Tenant, until: datetime) -> None:
    credential = CredentialFactory.create(tenant=studio)
    with pytest.raises(RuleBroken):
        credential_rotate(credential=credential, actor=None, previous_until=until)
    credential.refresh_from_db()
    assert credential.generation == 1


def test_credential_rotate__a_public_key__is_refused(studio: Tenant) -> None:
    credential = credential_register_key(
        tenant=studio, name="Backend", public_key=ED25519, algorithm="EdDSA", issuer="lark", actor=None
    )
    with pytest.raises(RuleBroken, match="public key"):
        credential_rotate(credential=credential, actor=None, previous_until=timezone.now())
    with pytest.raises(RuleBroken, match="The studio signs"):
        mint_token(credential=credential)


def test_credential_revoke__then_anything__is_refused(studio: Tenant, owner: User) -> None:
    credential = CredentialFactory.create(tenant=studio)
    credential_revoke(credential=credential, actor=owner, reason="phone lost")
    assert last_entry(studio).reason == "phone lost"
    for change in (
        lambda: credential_revoke(credential=credential, actor=owner, reason=""),
        lambda: credential_rotate(credential=credential, actor=owner, previous_until=timezone.now()),
        lambda: credential_update(credential=credential, actor=owner, name="Other"),
    ):
        with pytest.raises(RuleBroken, match="revoked"):
            change()
    with pytest.raises(NotAuthenticated):
        credential_authenticate(credential.client_id, SECRET)


# --- Authenticating -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", ["", "rsk_wrong", SECRET + "x", SECRET[:-1], "\ud800", "x" * 10_000])
def test_credential_authenticate__wrong_secret__is_refused(studio: Tenant, secret: str) -> None:
    credential = CredentialFactory.create(tenant=studio)
    with pytest.raises(NotAuthenticated):
        credential_authenticate(credential.client_id, secret)


@pytest.mark.parametrize("client_id", ["", "cr_nobody", "a\0b", "\ud800", "x" * 65, "' OR 1=1 --"])
def test_credential_authenticate__unknown_or_malformed_client__is_refused(client_id: str) -> None:
    with pytest.raises(NotAuthenticated):
        credential_authenticate(client_id, SECRET)


def test_credential_authenticate__secret_whose_hash_is_empty__is_refused(studio: Tenant) -> None:
    # A credential without a previous secret must not accept whatever stands for the missing one.
    credential = CredentialFactory.create(tenant=studio)
    for secret in ("", hashlib.sha256(b"").hexdigest()):
        with pytest.raises(NotAuthenticated):
            credential_authenticate(credential.client_id, secret)


def test_credential_authenticate__studio_ended__is_refused(studio: Tenant) -> None:
    credential = CredentialFactory.create(tenant=studio)
    tenant_end(tenant=studio, actor=None, reason="over")
    with pytest.raises(NotAuthenticated):
        credential_authenticate(credential.client_id, SECRET)


def test_credential_authenticate__unknown_client__runs_the_queries_of_a_wrong_secret(
    studio: Tenant, django_assert_num_queries: Any
) -> None:
    credential = CredentialFactory.create(tenant=studio)
    for client_id in (credential.client_id, "cr_nobody"):
        with django_assert_num_queries(1), pytest.raises(NotAuthenticated):
            credential_authenticate(client_id, "rsk_wrong")


def test_credential_authenticate__often__records_its_use_once_a_minute(
    studio: Tenant, django_assert_num_queries: Any
) -> None:
    credential = CredentialFactory.create(tenant=studio)
    now = timezone.now()
    with django_assert_num_queries(2):
        credential_authenticate(credential.client_id, SECRET, now=now)
    with django_assert_num_queries(1):
        credential_authenticate(credential.client_id, SECRET, now=now + timedelta(seconds=59))
    credential.refresh_from_db()
    assert credential.last_used_at == now
    credential_authenticate(credential.client_id, SECRET, now=now + timedelta(seconds=60))
    credential.refresh_from_db()
    assert credential.last_used_at == now + timedelta(seconds=60)


def test_credential_authenticate__wrong_secret__records_no_use(studio: Tenant) -> None:
    credential = CredentialFactory.create(tenant=studio)
    with pytest.raises(NotAuthenticated):
        credential_authenticate(credential.client_id, "rsk_wrong")
    credential.refresh_from_db()
    assert credential.last_used_at is None


# --- Minting --------------------------------------------------------------------------------------------------------


def test_mint_token__for_a_player__is_what_a_lane_accepts(studio: Tenant) -> None:
    credential = CredentialFactory.create(tenant=studio)
    ModelFactory.create(tenant=studio, slug="offers")
    token, seconds = mint_token(
        credential=credential, subject="player 1", models=askable(credential, ["offers"]), expires_in_seconds=60
    )
    claims = check(token, credential, 1)
    assert (claims.subject, claims.models, seconds) == ("player 1", ("offers",), 60)
    assert abs(claims.expires_at - time.time() - 60) < 5


def test_mint_token__for_a_server__says_only_what_it_must(studio: Tenant) -> None:
    credential = CredentialFactory.create(tenant=studio)
    token, seconds = mint_token(credential=credential)
    payload = json.loads(base64url_decode(token.split(".")[1]))
    assert sorted(payload) == ["aud", "exp", "iat", "iss", "tenant"]
    assert (payload["exp"] - payload["iat"], seconds) == (900, 900)
    assert check(token, credential, 1).subject is None


def test_mint_token__previous_generation__is_signed_with_its_key_and_ends_with_it(studio: Tenant) -> None:
    credential = credential_issue(tenant=studio, name="Android", actor=None).credential
    until = timezone.now() + timedelta(seconds=100)
    credential_rotate(credential=credential, actor=None, previous_until=until)
    token, seconds = mint_token(credential=credential, generation=1)
    assert 90 < seconds <= 100
    check(token, credential, 1)
    with pytest.raises(tokens.BadToken):
        check_with_other_key(token, credential)


def check_with_other_key(token: str, credential: Credential) -> None:
    master_key_id, master_key = next(iter(tokens.parse_master_keys(settings.TOKEN_MASTER_KEYS).items()))
    key = tokens.derive_key(master_key, master_key_id, credential.client_id, 2)
    tokens.check_hs256(token.encode(), token.index("."), tokens.hmac_of(key))


def test_mint_token__generation_that_is_gone__is_refused(studio: Tenant) -> None:
    credential = CredentialFactory.create(tenant=studio, generation=3)
    with pytest.raises(RuleBroken):
        mint_token(credential=credential, generation=2)


@pytest.mark.parametrize("seconds", [0, -1, 901, True, 60.0])
def test_mint_token__life_that_will_not_do__is_refused(studio: Tenant, seconds: Any) -> None:
    with pytest.raises(RuleBroken, match="expires_in"):
        mint_token(credential=CredentialFactory.create(tenant=studio), expires_in_seconds=seconds)


@pytest.mark.parametrize("subject", ["", "x" * 257, "a\nb", "\ud800"])
def test_mint_token__subject_that_is_no_unit__is_refused(studio: Tenant, subject: str) -> None:
    with pytest.raises(RuleBroken, match="sub"):
        mint_token(credential=CredentialFactory.create(tenant=studio), subject=subject)


def test_mint_token__model_outside_the_credentials__is_unknown(studio: Tenant) -> None:
    offers, difficulty = (ModelFactory.create(tenant=studio, slug=slug) for slug in ("offers", "difficulty"))
    ModelFactory.create(slug="foreign")
    credential = CredentialFactory.create(tenant=studio)
    assert mint_token(credential=credential, models=askable(credential, ["offers", "difficulty"]))
    for models in (["foreign"], ["offers", "nothing"], []):
        with pytest.raises(UnknownModel):
            askable(credential, models)
    offers.credentials.set([credential])
    with pytest.raises(UnknownModel):
        askable(credential, [difficulty.slug])


def test_mint_token__more_models_than_a_token_holds__is_refused(studio: Tenant) -> None:
    slugs = [f"{n:03d}" + "m" * 47 for n in range(80)]
    for slug in slugs:
        ModelFactory.create(tenant=studio, slug=slug)
    credential = CredentialFactory.create(tenant=studio)
    with pytest.raises(UnknownModel, match="so many"):
        mint_token(credential=credential, models=askable(credential, slugs))
