"""The table of audit actions: what each is filtered by and called."""

from __future__ import annotations

import pytest

from tenants.audit import Action, Kind, words_of


@pytest.mark.parametrize("action", Action)
def test_action__each__is_a_noun_and_a_verb_with_a_kind_and_words(action: Action) -> None:
    noun, _, verb = action.value.partition(".")
    assert action.name == f"{noun}_{verb}".upper()
    assert len(action.value) <= 60
    assert action.words[0].isupper()
    assert action.noun in action.kind.nouns


def test_actions__nouns_and_words__are_of_one_kind_and_one_action() -> None:
    nouns = [noun for kind in Kind for noun in kind.nouns]
    assert len(nouns) == len(set(nouns)), "the trail is narrowed to a kind by the nouns of its actions"
    assert all(kind.nouns for kind in Kind)
    assert len({action.words for action in Action}) == len(Action)


def test_words__of_an_action_that_nothing_writes_any_more__are_its_value() -> None:
    assert words_of("rollout.reweight") == "Weights changed"
    assert words_of("thing.new") == "thing.new"
