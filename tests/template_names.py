"""Which names templates ask for, and which of them nobody gives: Django renders nothing for those and says nothing.

A template's comment says what it and what it includes want: `Wants` and names in backticks. What may be left out comes
after `may have`. `tests/unit/test_template_names.py` holds these comments against the templates, and `unknown_names`
what pages are given.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from django.template import Context, Engine, Template, VariableDoesNotExist
from django.template.base import FilterExpression, Node, Variable
from django.template.defaulttags import ForNode, WithNode
from django.template.loader_tags import BlockNode, ExtendsNode, IncludeNode
from django.template.smartif import TokenBase

from recsite.environment import BASE_DIR

OURS = BASE_DIR / "templates"
# What every page has (by context processors, by Django itself); where one does not, rendering it tells.
EVERYWHERE = {"True", "False", "None", "block", "forloop", "messages", "perms", "request", "user"}
_SAYS = re.compile(r"\{#(.*?)#\}", re.DOTALL)


class Names(NamedTuple):
    """The names of a template: what it cannot do without, and what it may have."""

    wanted: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()

    def __or__(self, other: Names) -> Names:
        return Names(self.wanted | other.wanted, self.optional | other.optional)

    def without(self, given: set[Any]) -> Names:
        return Names(self.wanted - given, self.optional - given)


@cache
def declared(template: Template) -> Names:
    """Return what a template's comment says."""
    wanted: set[str] = set()
    optional: set[str] = set()
    for comment in _SAYS.findall(template.source):
        must, _, may = comment.partition("ay have ")
        wanted |= set(re.findall(r"`(\w+)`", must.partition("Wants ")[2]))
        optional |= set(re.findall(r"`(\w+)`", may))
    return Names(frozenset(wanted), frozenset(optional))


@cache
def names_of(template: Template) -> Names:
    """Return the names that a template and what it includes look up and do not set themselves."""
    return _names_in(template, set())


def _names_in(template: Template, overridden: set[str]) -> Names:
    """Return the names of a template but for what is in blocks that another one overrides."""
    optional = declared(template).optional
    # What tags set for all that comes after them: `{% url … as name %}`.
    nodes = template.nodelist.get_nodes_by_type(Node)
    set_here = {getattr(node, key, None) for node in nodes for key in ("asvar", "target_var", "variable")}
    wanted, more = _names(template.nodelist, overridden).without(set_here)
    return Names(wanted - optional - EVERYWHERE, more | optional)


def _names(part: Any, overridden: set[str]) -> Names:  # noqa: C901 - a case for each kind of part
    match part:
        case Variable():
            return Names(frozenset(part.lookups[:1] if part.lookups else ()))
        case FilterExpression():
            return _names([part.var, *(argument for _, arguments in part.filters for argument in arguments)], set())
        case TokenBase():
            return _names([part.value, part.first, part.second], set())
        case ForNode():
            loop = _names(part.nodelist_loop, overridden).without({*part.loopvars})
            return loop | _names([part.sequence, part.nodelist_empty], overridden)
        case WithNode():
            inside = _names(part.nodelist, overridden).without({*part.extra_context})
            return inside | _names(part.extra_context, set())
        case IncludeNode():
            template = _template(part.template)
            inside = Names() if template is None else names_of(template).without({*part.extra_context})
            return inside | _names([part.template, part.extra_context], set())
        case ExtendsNode():
            parent = _template(part.parent_name)
            own = _names(part.nodelist, overridden)
            # One that extends another of its own name (Unfold's) finds itself here.
            if parent is None or parent.origin == part.origin:
                return own
            return own | _names_in(parent, overridden | {*part.blocks})
        case BlockNode() if part.name in overridden:
            return Names()
        case Node():
            return _names([value for name, value in vars(part).items() if name not in ("token", "origin")], overridden)
        case dict():
            return _names([*part.values()], overridden)
        case list() | tuple():
            return reduce(or_, (_names(inner, overridden) for inner in part), Names())
    return Names()


def _template(name: Any) -> Template | None:
    """Return the template whose name stands in another; None for one that is looked up, or is none of ours."""
    if isinstance(name.var, Variable):
        return None
    template = Engine.get_default().get_template(name.var)
    return template if is_ours(template) else None


def is_ours(template: Template) -> bool:
    """Tell whether a template is this project's: Django's and Unfold's, copies too, ask for much that is not there."""
    return _is_our_file(template.origin.name)


@cache
def _is_our_file(name: str) -> bool:
    file = Path(name)
    return file.is_relative_to(OURS) and not file.is_relative_to(OURS / "unfold")


# --- While pages are rendered -----------------------------------------------------------------------------------------


class _Nothing(str):
    """What Django renders for a name it does not know: as empty as its own, but told from other texts by `is`."""

    __slots__ = ()


@contextmanager
def unknown_names() -> Iterator[set[str]]:
    """Note what this project's templates lack.

    That is each name that stands in a template, on whichever branch, without being given to it; and each name,
    attribute and key that is looked up in vain.
    """
    found: set[str] = set()
    nothing = _Nothing()
    look_up, render = vars(Variable)["_resolve_lookup"], Template.render

    def noting_look_up(self: Variable, context: Context) -> Any:
        try:
            value = look_up(self, context)
        except VariableDoesNotExist:
            _note(found, self, context)
            raise
        if value is nothing:
            _note(found, self, context)
        return value

    def noting_render(self: Template, context: Context) -> Any:
        if is_ours(self):
            lacking = sorted(name for name in names_of(self).wanted if name not in context)
            found.update(f"{self.name} is not given `{name}`" for name in lacking)
        return render(self, context)

    with (
        patch.object(Engine.get_default(), "string_if_invalid", nothing),
        patch.object(Variable, "_resolve_lookup", noting_look_up),
        patch.object(Template, "render", noting_render),
    ):
        yield found


def _note(found: set[str], variable: Variable, context: Context) -> None:
    """Note where a name is looked up in vain, if one of this project's templates does and cannot do without."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not Node.render_annotated.__code__:
        frame = frame.f_back
    if frame is None:
        return
    node = frame.f_locals["self"]
    # Unfold's pages look up thousands of names in vain: what is not ours is not even loaded.
    if not _is_our_file(node.origin.name):
        return
    name = str(variable).partition(".")[0]
    if name in context or name not in declared(_loaded(node.origin.loader, node.origin.template_name)).optional:
        found.add(f"{node.origin.template_name}, line {node.token.lineno}: `{variable}` is not there")


@cache
def _loaded(loader: Any, name: str) -> Template:
    template: Template = loader.get_template(name)
    return template
