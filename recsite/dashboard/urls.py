"""Addresses of the dashboard."""

from django.urls import path

from recsite.dashboard.pages import (
    audit,
    automation,
    credentials,
    editing,
    home,
    loads,
    members,
    models,
    rollouts,
    schedules,
    testers,
    traffic,
    versions,
    why,
)
from recsite.dashboard.pages.passwords import OwnPasswordPage, SetPasswordPage
from recsite.dashboard.pages.signing_in import SignInPage, SignOut

_STUDIO = "studios/<slug:studio>"
_MEMBER = f"{_STUDIO}/members/<str:username>"
_LOAD = f"{_STUDIO}/loads/<int:load>"
_MODEL = f"{_STUDIO}/models/<slug:model>"
_CREDENTIAL = f"{_STUDIO}/credentials/<str:client_id>"
_VERSION = f"{_MODEL}/versions/<str:version>"

urlpatterns = [
    path("", home.home, name="home"),
    path("sign-in", SignInPage.as_view(), name="sign-in"),
    path("sign-out", SignOut.as_view(), name="sign-out"),
    path(f"{_STUDIO}/", home.studio, name="studio"),
    path("password", OwnPasswordPage.as_view(), name="password"),
    path("set-password/<str:uidb64>/<str:token>", SetPasswordPage.as_view(), name="set-password"),
    path(f"{_STUDIO}/members", members.members, name="members"),
    path(f"{_STUDIO}/new-member", members.member_new, name="member-new"),
    path(f"{_MEMBER}/role", members.member_role, name="member-role"),
    path(f"{_MEMBER}/remove", members.member_remove_page, name="member-remove"),
    path(f"{_MEMBER}/link", members.member_link, name="member-link"),
    path(f"{_STUDIO}/automation", automation.automation, name="automation"),
    path(f"{_STUDIO}/new-automation-token", automation.automation_token_new, name="automation-token-new"),
    path(
        f"{_STUDIO}/automation/<slug:token>/revoke",
        automation.automation_token_revoke_page,
        name="automation-token-revoke",
    ),
    path(f"{_STUDIO}/models", models.models, name="models"),
    path(f"{_STUDIO}/credentials", credentials.credentials, name="credentials"),
    path(f"{_STUDIO}/audit", audit.audit, name="audit"),
    path(f"{_STUDIO}/audit.csv", audit.audit_file, name="audit-file"),
    path(f"{_STUDIO}/new-credential", credentials.credential_new, name="credential-new"),
    path(f"{_STUDIO}/new-key", credentials.credential_key_new, name="credential-key-new"),
    path(_CREDENTIAL, credentials.credential, name="credential"),
    path(f"{_CREDENTIAL}/rotate", credentials.credential_rotate_page, name="credential-rotate"),
    path(f"{_CREDENTIAL}/revoke", credentials.credential_revoke_page, name="credential-revoke"),
    path(f"{_STUDIO}/new-model", editing.model_new, name="model-new"),
    path(f"{_STUDIO}/traffic", traffic.studio_traffic, name="traffic"),
    path(_MODEL, rollouts.rollout, name="rollout"),
    path(f"{_MODEL}/traffic", traffic.model_traffic, name="model-traffic"),
    path(f"{_MODEL}/weights", rollouts.weights, name="weights"),
    path(f"{_MODEL}/effect", rollouts.effect, name="effect"),
    path(f"{_MODEL}/live", rollouts.live, name="live"),
    path(f"{_MODEL}/history", rollouts.history, name="history"),
    path(f"{_MODEL}/history/<int:number>", rollouts.go_back, name="go-back"),
    path(f"{_MODEL}/serve-default", rollouts.serve_default, name="serve-default"),
    path(f"{_MODEL}/new-phase", rollouts.new_phase, name="new-phase"),
    path(f"{_MODEL}/testers", testers.testers, name="testers"),
    path(f"{_MODEL}/testers/remove", testers.tester_remove, name="tester-remove"),
    path(f"{_MODEL}/why", why.why, name="why"),
    path(f"{_MODEL}/settings", editing.model_settings, name="model-settings"),
    path(f"{_MODEL}/new-version", editing.version_new, name="version-new"),
    path(_VERSION, versions.version, name="version"),
    path(f"{_VERSION}/archive", versions.version_archive_page, name="version-archive"),
    path(f"{_VERSION}/source", versions.version_source, name="version-source"),
    path(f"{_VERSION}/load", versions.version_load, name="version-load"),
    path(f"{_VERSION}/dry-run", versions.version_dry_run, name="version-dry-run"),
    path(f"{_VERSION}/schedule", schedules.version_schedule, name="version-schedule"),
    path(f"{_VERSION}/freshness", schedules.version_freshness, name="version-freshness"),
    path(f"{_VERSION}/tables/<slug:table>", versions.roll_back, name="roll-back"),
    path(f"{_VERSION}/switch-off", rollouts.switch_off, name="switch-off"),
    path(f"{_STUDIO}/loads", loads.loads, name="loads"),
    path(_LOAD, loads.load, name="load"),
    path(f"{_LOAD}/progress", loads.progress, name="load-progress"),
    path(f"{_LOAD}/cancel", loads.cancel, name="load-cancel"),
    path(f"{_LOAD}/activate-anyway", loads.activate_anyway, name="activate-anyway"),
]
