"""The admin of what other packages keep, in the same looks: repeated tasks and sign-ins."""

from __future__ import annotations

import json
from typing import Any

from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from celery import current_app
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    PeriodicTasks,
    SolarSchedule,
)
from kombu.exceptions import OperationalError as BrokerDown
from unfold.contrib.filters.admin import BooleanRadioFilter
from unfold.decorators import display

from recsite.staff.pages import Label, ReadOnlyAdmin, acting, column, instant
from tenants import audit
from tenants.figures import age, number

# Rights are being staff, and roles in studios: groups mean nothing. The packages' own pages do not look like ours.
for _table in (
    *(Group, PeriodicTask, ClockedSchedule, CrontabSchedule, IntervalSchedule, SolarSchedule),
    *(AccessAttempt, AccessFailureLog, AccessLog),
):
    if admin.site.is_registered(_table):
        admin.site.unregister(_table)


@admin.register(PeriodicTask)
class RepeatedTaskAdmin(ReadOnlyAdmin):
    """What beat does again and again. It is defined in the settings; here it is switched on and off, and run."""

    actions = ("switch_on", "switch_off", "run_now")
    list_display = ("name", "state", "every", "last_run", "runs", "task")
    list_filter = (("enabled", BooleanRadioFilter),)
    list_select_related = ("interval", "crontab", "solar", "clocked")
    search_fields = ("name", "task")
    fields = ("name", "task", "state", "every", "last_run", "runs", "args", "kwargs", "expire_seconds", "description")

    @display(description="State", label={"on": "success", "off": "warning"}, ordering="enabled")
    def state(self, task: Any) -> Label:
        """Say whether beat runs it."""
        return Label("on", "On") if task.enabled else Label("off", "Off")

    every = column("When", lambda task: str(task.interval or task.crontab or task.clocked or task.solar or "–"))
    last_run = column("Last run", lambda task: age(task.last_run_at), "last_run_at")
    runs = column("Runs", lambda task: number(task.total_run_count), "total_run_count")

    @admin.action(description="Switch on", permissions=["act"])
    def switch_on(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Have beat run them."""
        self._switch(request, queryset, is_on=True)

    @admin.action(description="Switch off", permissions=["act"])
    def switch_off(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Have beat leave them."""
        self._switch(request, queryset, is_on=False)

    @admin.action(description="Run now", permissions=["act"])
    def run_now(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Hand each of them to the workers once."""
        for task in queryset:
            try:
                current_app.send_task(
                    task.task, args=json.loads(task.args), kwargs=json.loads(task.kwargs), retry=False
                )
            except (BrokerDown, OSError):
                self.message_user(request, f"{task.name}: the broker does not answer.", messages.ERROR)
            else:
                self._record(request, task, audit.Action.TASK_RUN, f"Ran the task “{task.name}” by hand.")
                self.message_user(request, f"{task.name} is on its way.", messages.SUCCESS)

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls it."""
        return f"task {obj.name}"

    def _switch(self, request: HttpRequest, tasks: QuerySet[Any], *, is_on: bool) -> None:
        words = "on" if is_on else "off"
        action = audit.Action.TASK_SWITCH_ON if is_on else audit.Action.TASK_SWITCH_OFF
        with transaction.atomic():
            for task in tasks.exclude(enabled=is_on):
                self._record(request, task, action, f"Switched the task “{task.name}” {words}.")
            tasks.update(enabled=is_on)
            PeriodicTasks.update_changed()
        self.message_user(request, f"Switched {words}.", messages.SUCCESS)

    def _record(self, request: HttpRequest, task: PeriodicTask, action: audit.Action, summary: str) -> None:
        with transaction.atomic():
            audit.record(
                tenant=None, actor=acting(request), action=action, subject=self.audit_subject(task), summary=summary
            )


@admin.register(AccessAttempt)
class FailedSignInAdmin(ReadOnlyAdmin):
    """Names and addresses that gave a wrong password, and whether they are locked out for a while."""

    actions = ("unlock",)
    list_display = ("username", "state", "failures_since_start", "ip_address", "when", "user_agent")
    search_fields = ("username", "ip_address")
    date_hierarchy = "attempt_time"
    fields = ("username", "state", "failures_since_start", "ip_address", "last_try", "user_agent", "path_info")

    last_try = instant("attempt_time", "Last try")

    @display(description="State", label={"locked": "danger", "open": "default"})
    def state(self, attempt: Any) -> Label:
        """Say whether the sign-in is locked."""
        is_locked = attempt.failures_since_start >= settings.AXES_FAILURE_LIMIT
        return Label("locked", "Locked out") if is_locked else Label("open", "May try again")

    when = column("Last try", lambda attempt: age(attempt.attempt_time), "attempt_time")

    @admin.action(description="Unlock", permissions=["act"])
    def unlock(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Forget the failures, so that the person may try again."""
        with transaction.atomic():
            for attempt in queryset:
                audit.record(
                    tenant=None,
                    actor=acting(request),
                    action=audit.Action.SIGN_IN_UNLOCK,
                    subject=f"account {attempt.username}",
                    summary=f"Unlocked the sign-in of “{attempt.username}” from {attempt.ip_address}.",
                )
            queryset.delete()
        self.message_user(request, "They may try again.", messages.SUCCESS)


@admin.register(AccessLog)
class SignInAdmin(ReadOnlyAdmin):
    """Who signed in, from where."""

    list_display = ("username", "when", "ip_address", "user_agent")
    search_fields = ("username", "ip_address")
    date_hierarchy = "attempt_time"
    fields = ("username", "signed_in", "signed_out", "ip_address", "user_agent", "path_info")

    signed_in = instant("attempt_time", "Signed in")
    signed_out = instant("logout_time", "Signed out")
    when = column("Signed in", lambda entry: age(entry.attempt_time), "attempt_time")
