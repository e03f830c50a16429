"""Two commands for a shell, with which somebody who has just been given a secret sees that it works."""

from __future__ import annotations

import shlex
from typing import Any, assert_never
from urllib.parse import urlencode

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse

from models_registry.catalogue.access import models_of
from tenants.models import Credential, CredentialKind

# Stands for a value of each key field: a studio's keys are not kept anywhere that can be read.
SOME_KEY = "1"


def example_model(credential: Credential) -> Any:
    """Return a model that the credential may ask for, one that is served if there is one; None if there is none.

    Up to three queries.
    """
    models = models_of(credential)
    return models.filter(versions__active_table__isnull=False).first() or models.first()


def commands_to_try(request: HttpRequest, credential: Credential, model: Any, *, secret: str = "") -> str:
    """Return commands that work as they are pasted: one asks for a token, the next with it for an answer.

    Args:
        request: of the page that shows them, by which tokens are given out too.
        credential: whose they are. One that is a public key signs its tokens elsewhere: a place for one is left.
        model: what to ask for; None leaves it out of the address.
        secret: of the credential; without it a place for it is left.
    """
    asked = {"model": model.slug, **dict.fromkeys(model.key_fields, SOME_KEY)} if model else {}
    address = f"{settings.SERVING_URL.rstrip('/')}/v1/recommendations{'?' if asked else ''}{urlencode(asked)}"
    ask = f'curl -i {shlex.quote(address)} -H "Authorization: Bearer $TOKEN"'
    match CredentialKind(credential.kind):
        case CredentialKind.PUBLIC_KEY:
            return f"TOKEN='a token that your backend has signed'\n{ask}"
        case CredentialKind.SECRET:
            return f"{_asking_for_a_token(request, credential, secret)}\n{ask}"
        case unknown:
            assert_never(unknown)


def _asking_for_a_token(request: HttpRequest, credential: Credential, secret: str) -> str:
    # Its letters need no quotes, but what somebody puts in place of the words may.
    quoted = f"'{secret or 'the secret you were shown'}'"
    token_url = request.build_absolute_uri(reverse("token"))
    read = r"""sed 's/.*"access_token": *"\([^"]*\)".*/\1/'"""
    return (
        f"CLIENT_SECRET={quoted}\n"
        f"TOKEN=$(curl -sS {shlex.quote(token_url)} -d grant_type=client_credentials \\\n"
        f'  -d client_id={credential.client_id} -d client_secret="$CLIENT_SECRET" | {read})'
    )
