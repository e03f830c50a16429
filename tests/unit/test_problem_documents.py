"""Problem documents (RFC 9457): one writer, one table of titles."""

from __future__ import annotations

import pytest

from serving.http import TITLES, problem, problem_document


def test_document__members_come_in_their_order_and_further_ones_last() -> None:
    plain = problem_document(404, "not_found", "“é” is not here.")
    expected = '{"type":"about:blank","title":"Not found","status":404,"code":"not_found","detail":"“é” is not here."}'
    assert plain.decode() == expected
    named = problem_document(400, "invalid", "No.", title="Own title", extra={"errors": [{"field": "a"}]})
    assert named.decode() == (
        '{"type":"about:blank","title":"Own title","status":400,"code":"invalid","detail":"No.",'
        '"errors":[{"field":"a"}]}'
    )


@pytest.mark.parametrize("status", TITLES)
def test_problem__of_every_status__is_such_a_document(status: int) -> None:
    response = problem(status, "code", "Detail.", ("retry-after", "1"))
    assert (response.status, response.code) == (status, "code")
    assert response.body == problem_document(status, "code", "Detail.")
    assert response.headers == [
        ("content-type", "application/problem+json"),
        ("cache-control", "no-store"),
        ("retry-after", "1"),
    ]
