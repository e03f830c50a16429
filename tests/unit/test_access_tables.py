"""The tables of roles and scopes: each member of an enum is in each of them."""

from __future__ import annotations

from itertools import pairwise

from recsite.dashboard.credential_states import LOOKS, CredentialState
from tenants.access import ROLE_FOR, ROLE_WORDS, reaches
from tenants.models import Role, Scope


def test_roles__each__has_words_and_a_rank() -> None:
    assert set(ROLE_WORDS) == set(Role)
    assert all(reaches(role, role) for role in Role)
    # Declared and listed from the one that may do most.
    assert list(ROLE_WORDS) == list(Role)
    assert all(reaches(above, below) and not reaches(below, above) for above, below in pairwise(Role))


def test_scopes__each__goes_with_a_role() -> None:
    assert set(ROLE_FOR) == set(Scope)


def test_looks_of_credentials__every_state_has_one() -> None:
    assert set(LOOKS) == set(CredentialState)
