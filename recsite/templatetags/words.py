"""Figures and moments as people read them, as filters: `tenants.figures`."""

from django import template

from tenants import figures

register = template.Library()

for _figure in (
    figures.age,
    figures.duration,
    figures.percent,
    figures.percent_number,
    figures.number,
    figures.megabytes,
    figures.plain_json,
    figures.exact,
    figures.day,
    figures.share,
):
    register.filter(_figure)
