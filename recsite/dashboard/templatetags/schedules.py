"""Schedules on pages, in words."""

from __future__ import annotations

from django import template

from models_registry.loading.schedules import in_words, words

register = template.Library()

register.filter("schedule_words", words)
register.filter("minutes_words", in_words)
