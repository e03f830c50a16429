"""Addresses of the operations, below /api/v1/."""

from django.urls import path, re_path

from recsite.api.operations.audit_trail import AuditTrail
from recsite.api.operations.automation_tokens import (
    AutomationTokenDetail,
    AutomationTokenList,
    AutomationTokenRevocation,
)
from recsite.api.operations.catalogue import LayoutDetail, LayoutList, ModelDefault, ModelDetail, ModelList
from recsite.api.operations.credentials import (
    CredentialDetail,
    CredentialList,
    CredentialRevocation,
    CredentialRotation,
    KeyRegistration,
)
from recsite.api.operations.explanations import ModelExplanation
from recsite.api.operations.loads import LoadActivation, LoadCancellation, LoadDetail, StudioLoads, VersionLoads
from recsite.api.operations.members import MemberDetail, MemberLink, MemberList
from recsite.api.operations.rollout_changes import (
    RolloutGoBack,
    RolloutNewPhase,
    RolloutReweight,
    RolloutServeDefault,
    RolloutSwitchOff,
)
from recsite.api.operations.rollouts import (
    NewPhaseEffect,
    RevisionDetail,
    RevisionEffect,
    RevisionList,
    RolloutDetail,
    RolloutPreview,
    ServeDefaultEffect,
)
from recsite.api.operations.schedules import VersionSchedule
from recsite.api.operations.studio import CallerDetail, StudioDetail
from recsite.api.operations.testers import Testers
from recsite.api.operations.traffic import ModelTraffic, Propagation
from recsite.api.operations.versions import (
    VersionArchive,
    VersionDetail,
    VersionFreshness,
    VersionList,
    VersionRollBack,
    VersionSource,
)

MEMBER = r"members/(?P<username>[\w@+-][\w.@+-]{0,149})"
MODEL = r"^models/(?P<model>[-a-zA-Z0-9_]{1,50})"
VERSION = rf"{MODEL}/versions/(?P<version>[A-Za-z0-9][A-Za-z0-9._-]{{0,59}})"
LOAD = rf"{VERSION}/loads/(?P<fence>[0-9]{{1,13}})"
REVISION = rf"{MODEL}/rollout/revisions/(?P<number>[0-9]{{1,10}})"

urlpatterns = [
    path("caller", CallerDetail.as_view(), name="api-caller"),
    path("studio", StudioDetail.as_view(), name="api-studio"),
    path("members", MemberList.as_view(), name="api-members"),
    re_path(rf"^{MEMBER}$", MemberDetail.as_view(), name="api-member"),
    re_path(rf"^{MEMBER}/password-link$", MemberLink.as_view(), name="api-member-link"),
    path("audit", AuditTrail.as_view(), name="api-audit"),
    path("automation-tokens", AutomationTokenList.as_view(), name="api-automation-tokens"),
    path("automation-tokens/<slug:token>", AutomationTokenDetail.as_view(), name="api-automation-token"),
    path(
        "automation-tokens/<slug:token>/revoke", AutomationTokenRevocation.as_view(), name="api-automation-token-revoke"
    ),
    path("credentials", CredentialList.as_view(), name="api-credentials"),
    path("credentials/register-key", KeyRegistration.as_view(), name="api-credentials-register-key"),
    path("credentials/<slug:client_id>", CredentialDetail.as_view(), name="api-credential"),
    path("credentials/<slug:client_id>/rotate", CredentialRotation.as_view(), name="api-credential-rotate"),
    path("credentials/<slug:client_id>/revoke", CredentialRevocation.as_view(), name="api-credential-revoke"),
    re_path(r"^models$", ModelList.as_view(), name="api-models"),
    re_path(rf"{MODEL}$", ModelDetail.as_view(), name="api-model"),
    re_path(rf"{MODEL}/default$", ModelDefault.as_view(), name="api-model-default"),
    re_path(rf"{MODEL}/layouts$", LayoutList.as_view(), name="api-layouts"),
    re_path(rf"{MODEL}/layouts/(?P<revision>[0-9]{{1,3}})$", LayoutDetail.as_view(), name="api-layout"),
    re_path(rf"{MODEL}/versions$", VersionList.as_view(), name="api-versions"),
    re_path(rf"{VERSION}$", VersionDetail.as_view(), name="api-version"),
    re_path(rf"{VERSION}/archive$", VersionArchive.as_view(), name="api-version-archive"),
    re_path(rf"{VERSION}/source$", VersionSource.as_view(), name="api-version-source"),
    re_path(rf"{VERSION}/schedule$", VersionSchedule.as_view(), name="api-version-schedule"),
    re_path(rf"{VERSION}/freshness$", VersionFreshness.as_view(), name="api-version-freshness"),
    re_path(rf"{VERSION}/roll-back$", VersionRollBack.as_view(), name="api-version-roll-back"),
    re_path(rf"{VERSION}/loads$", VersionLoads.as_view(), name="api-version-loads"),
    re_path(rf"{LOAD}$", LoadDetail.as_view(), name="api-version-load"),
    re_path(rf"{LOAD}/cancel$", LoadCancellation.as_view(), name="api-version-load-cancel"),
    re_path(rf"{LOAD}/activate-anyway$", LoadActivation.as_view(), name="api-version-load-activate"),
    re_path(r"^loads$", StudioLoads.as_view(), name="api-loads"),
    re_path(rf"{MODEL}/overrides$", Testers.as_view(), name="api-overrides"),
    re_path(rf"{MODEL}/rollout$", RolloutDetail.as_view(), name="api-rollout"),
    re_path(rf"{MODEL}/rollout/preview$", RolloutPreview.as_view(), name="api-rollout-preview"),
    re_path(rf"{MODEL}/rollout/reweight$", RolloutReweight.as_view(), name="api-rollout-reweight"),
    re_path(rf"{MODEL}/rollout/switch-off$", RolloutSwitchOff.as_view(), name="api-rollout-switch-off"),
    re_path(rf"{MODEL}/rollout/serve-default$", RolloutServeDefault.as_view(), name="api-rollout-serve-default"),
    re_path(
        rf"{MODEL}/rollout/serve-default/effect$",
        ServeDefaultEffect.as_view(),
        name="api-rollout-serve-default-effect",
    ),
    re_path(rf"{MODEL}/rollout/go-back$", RolloutGoBack.as_view(), name="api-rollout-go-back"),
    re_path(rf"{MODEL}/rollout/new-phase$", RolloutNewPhase.as_view(), name="api-rollout-new-phase"),
    re_path(rf"{MODEL}/rollout/new-phase/effect$", NewPhaseEffect.as_view(), name="api-rollout-new-phase-effect"),
    re_path(rf"{MODEL}/rollout/revisions$", RevisionList.as_view(), name="api-rollout-revisions"),
    re_path(rf"{REVISION}$", RevisionDetail.as_view(), name="api-rollout-revision"),
    re_path(rf"{REVISION}/effect$", RevisionEffect.as_view(), name="api-rollout-revision-effect"),
    re_path(rf"{MODEL}/explain$", ModelExplanation.as_view(), name="api-model-explain"),
    re_path(rf"{MODEL}/traffic$", ModelTraffic.as_view(), name="api-model-traffic"),
    re_path(r"^propagation$", Propagation.as_view(), name="api-propagation"),
]
