"""What templates say they want, held against what they look up."""

from __future__ import annotations

import re

import pytest
from django.core.exceptions import ObjectDoesNotExist
from django.template import Context, Engine, Template

from tests.template_names import OURS, declared, names_of, unknown_names

# The staff's templates are Unfold's pages with a part of our own, and none is put into another.
FILES = sorted(
    str(path.relative_to(OURS))
    for folder in ("api", "components", "dashboard")
    for path in OURS.joinpath(folder).glob("*.html")
)


def template_of(name: str) -> Template:
    return Engine.get_default().get_template(name)


@pytest.mark.parametrize("name", FILES)
def test_comment__says_all_that_a_fragment_wants_and_nothing_else(name: str) -> None:
    template = template_of(name)
    says = declared(template)
    is_page = "{% extends" in template.source
    if not is_page or says.wanted:
        assert says.wanted == names_of(template).wanted
    looked_up = re.sub(r"\{#.*?#\}", "", template.source)
    assert [optional for optional in says.optional if optional not in looked_up] == []


def test_pages_and_fragments__are_found() -> None:
    assert {"dashboard/rollout.html", "dashboard/_effect.html", "components/field.html"} <= {*FILES}


# --- What is noted while a page is rendered ---------------------------------------------------------------------------


class Total:
    code = 1

    @property
    def name(self) -> str:
        raise ObjectDoesNotExist

    share = None


def noted(name: str, **context: object) -> set[str]:
    with unknown_names() as found:
        template_of(name).render(Context(context))
    return found


def test_unknown_names__all_given__are_none() -> None:
    assert noted("components/wrong_fields.html", wrong={"visible_fields": []}, where="") == set()


def test_unknown_names__one_on_a_branch_that_is_not_rendered__is_noted() -> None:
    found = noted("components/wrong_fields.html", wrong={"visible_fields": []})
    assert found == {"components/wrong_fields.html is not given `where`"}


def test_unknown_names__attribute_in_a_condition__is_noted() -> None:
    assert noted("components/field_errors.html", field=object()) == {
        "components/field_errors.html, line 2: `field.errors` is not there"
    }


def test_unknown_names__attribute_whose_row_does_not_exist__is_noted() -> None:
    assert noted("dashboard/chart_legend.html", totals=[Total()], has_gaps=False) == {
        "dashboard/chart_legend.html, line 3: `total.name` is not there"
    }


def test_unknown_names__one_that_may_be_left_out__is_not_noted() -> None:
    field = {"use_fieldset": False, "widget_type": "checkbox", "id_for_label": "a", "label": "A", "help_text": ""}
    assert noted("components/field.html", field={**field, "errors": []}) == set()


def test_unknown_names__attribute_of_what_may_be_left_out__is_noted_where_it_is_given() -> None:
    form = {"errors": ["wrong"], "non_field_errors": ["wrong"], "visible_fields": []}
    assert noted("components/form_errors.html", form=form) == set()
    assert noted("components/form_errors.html", form=form, editor={"rows": []}) == {
        "components/form_errors.html, line 9: `editor.problem` is not there"
    }
