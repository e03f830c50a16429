"""Reads that pages and the API share: how a studio's models and their versions stand.

Nothing here changes anything, and every function says what it costs, so that a page can be held to its fifteen queries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from itertools import pairwise

from django.db.models import Count, F, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone

from models_registry.catalogue.codes import CodeNames, code_names, code_names_of
from models_registry.models import (
    RUNNING_STATES,
    CredentialUse,
    Load,
    LoadState,
    RecommendationModel,
    RolloutRevision,
    Table,
    TableState,
    Version,
)
from tenants.models import Credential, Tenant
from tenants.paging import Page, page_of

# Without a target: tables are written every few hours; data a day old was missed several times.
LATE_AFTER = timedelta(hours=24)


def with_model_count(studios: QuerySet[Tenant]) -> QuerySet[Tenant]:
    """Return the same studios, each with its number of models as `model_count`."""
    models = RecommendationModel.objects.unscoped().filter(tenant=OuterRef("pk")).order_by().values("tenant")
    return studios.annotate(model_count=Coalesce(Subquery(models.annotate(count=Count("pk")).values("count")), 0))


@dataclass(frozen=True)
class VersionState:
    """A version as pages show it, its layout, source and active table fetched with it.

    Attributes:
        table: the rows it is answered from; None if it was never loaded, or they are not whole.
        data_at: the instant whose data these are; None without a table.
        newest_load: the last one begun, ended or not; dry runs, which change nothing, left out.
    """

    version: Version
    weight_bp: int
    table: Table | None
    data_at: datetime | None
    is_late: bool
    newest_load: Load | None

    @property
    def code(self) -> int:
        """Its code."""
        return self.version.code

    @property
    def name(self) -> str:
        """Its name."""
        return self.version.name

    @property
    def is_loading(self) -> bool:
        """Tell whether a load of it runs or waits."""
        return self.newest_load is not None and self.newest_load.state in RUNNING_STATES

    @property
    def has_bad_load(self) -> bool:
        """Tell whether its newest load was rejected or failed."""
        return self.newest_load is not None and self.newest_load.state in (LoadState.REJECTED, LoadState.FAILED)


class ModelState(Enum):
    """How a model stands, in the words of its pill, from the worst to the best.

    Whether anybody is answered from it is not known here: that takes a lane.
    """

    NO_VERSION = "No version yet"
    LOADING = "First load runs"
    NOT_LOADED = "Nothing loaded yet"
    DEFAULT = "Default for everybody"
    PARTLY = "Partly loaded"
    LATE = "Loaded · data is late"
    LOADED = "Loaded"


@dataclass(frozen=True)
class ModelSummary:
    """A model, its tenant with it, every version by code, and the weights.

    `rollout` is the revision that is served, its 10,000 slots left out; None without versions.
    """

    model: RecommendationModel
    rollout: RolloutRevision | None
    versions: list[VersionState] = field(default_factory=list)

    @property
    def served(self) -> list[VersionState]:
        """The versions that have a weight, by code."""
        return [state for state in self.versions if state.weight_bp]

    @property
    def weights_bp(self) -> dict[int, int]:
        """Basis points by code, of the versions that have any."""
        return {state.code: state.weight_bp for state in self.served}

    @property
    def names(self) -> dict[int, str]:
        """Names of all versions by code."""
        return {state.code: state.name for state in self.versions}

    @property
    def serves_default(self) -> bool:
        """Whether everybody gets the default answer."""
        return self.rollout is not None and self.rollout.serves_default

    @property
    def data_at(self) -> datetime | None:
        """The instant of the oldest data that is served."""
        return min((state.data_at for state in self.served if state.data_at is not None), default=None)

    @property
    def state(self) -> ModelState:
        """How it stands."""
        if not self.versions:
            return ModelState.NO_VERSION
        loaded = [state for state in self.served if state.table is not None]
        if self.serves_default:
            return ModelState.DEFAULT
        if not loaded:
            is_loading = any(state.is_loading for state in self.served)
            return ModelState.LOADING if is_loading else ModelState.NOT_LOADED
        if len(loaded) < len(self.served):
            return ModelState.PARTLY
        return ModelState.LATE if any(state.is_late for state in loaded) else ModelState.LOADED

    def version_state(self, code: int) -> VersionState | None:
        """Return the version with a code."""
        return next((state for state in self.versions if state.code == code), None)


@dataclass(frozen=True)
class WeightChange:
    """What one line of the history did to one version, in basis points."""

    code: int
    name: str
    before_bp: int
    after_bp: int


@dataclass(frozen=True)
class HistoryLine:
    """A saved revision, its 10,000 slots left out, and what it changed against the one before it.

    `changes` are the versions whose weight changed, by code; at the first revision, all that have one. With a new phase
    everybody was reassigned.
    """

    revision: RolloutRevision
    changes: list[WeightChange]
    is_newest: bool
    is_new_phase: bool
    begins_default: bool
    ends_default: bool

    @property
    def weights_bp(self) -> dict[int, int]:
        """The weights that were saved, by code."""
        return weights_by_code(self.revision.weights_bp)


@dataclass(frozen=True)
class FirstSteps:
    """How far a studio has come on the way to its first answer.

    Attributes:
        model: the model that the next step is about; None before there is one.
        version: its first version.
        credential: the one used last, else made last.
        without_players: a loaded version with no weight, where no version that has one is loaded; else None.
        has_asked: serving has counted a request; that a token was given out does not do.
    """

    model: RecommendationModel | None
    version: Version | None
    has_table: bool
    without_players: Version | None
    credential: Credential | None
    has_asked: bool

    @property
    def is_done(self) -> bool:
        """Tell whether nothing is left."""
        return self.has_table and self.has_asked

    @property
    def next_step(self) -> str:
        """The first step that is not done: model, version, load, credential, ask, or nothing."""
        steps = {
            "model": self.model is not None,
            "version": self.version is not None,
            "load": self.has_table,
            "credential": self.credential is not None,
            "ask": self.has_asked,
        }
        return next((step for step, is_done in steps.items() if not is_done), "")


# --- Models ---------------------------------------------------------------------------------------------------------


def model_summaries(tenant: Tenant, *, now: datetime | None = None) -> list[ModelSummary]:
    """Return all of a studio's models with their versions. Four queries."""
    newest = RolloutRevision.objects.unscoped().filter(model=OuterRef("pk")).order_by("-number")
    rows = RecommendationModel.objects.for_tenant(tenant)
    models = list(rows.annotate(rollout_id=Subquery(newest.values("pk")[:1])))
    rollouts = RolloutRevision.objects.for_tenant(tenant).defer("allocation")
    found = rollouts.in_bulk([model.rollout_id for model in models if model.rollout_id])
    return _summaries(tenant, models, {rollout.model_id: rollout for rollout in found.values()}, now or timezone.now())


def model_summary(model: RecommendationModel, *, now: datetime | None = None) -> ModelSummary:
    """Return one model with its versions. Three queries."""
    rows = RolloutRevision.objects.for_tenant(model.tenant).filter(model=model).defer("allocation")
    newest = rows.order_by("-number").first()
    rollouts = {model.pk: newest} if newest else {}
    return _summaries(model.tenant, [model], rollouts, now or timezone.now())[0]


def data_at(table: Table) -> datetime:
    """Return the instant whose data a table holds: BigQuery's, or when its load began to read."""
    return table.load.source_snapshot_at or table.load.started_at or table.created_at


def is_late(version: Version, now: datetime) -> bool:
    """Tell whether a version's data is older than its target, or than a day if it has none.

    One that has a target and was never loaded is late once it has existed for so long. No query, if the active table
    and its load were fetched with the version.
    """
    return late_by(version, now) > timedelta(0)


def late_by(version: Version, now: datetime) -> timedelta:
    """Return by how much a version's data is older than it should be; negative or zero if it is not. As `is_late`."""
    table = version.active_table
    if table is None and version.freshness_minutes is None:
        return timedelta(0)
    target = LATE_AFTER if version.freshness_minutes is None else timedelta(minutes=version.freshness_minutes)
    return now - (data_at(table) if table is not None else version.created_at) - target


def weights_by_code(weights_bp: Mapping[str, int]) -> dict[int, int]:
    """Return weights as JSON holds them by code."""
    return {int(code): bp for code, bp in weights_bp.items()}


def _summaries(
    tenant: Tenant, models: Sequence[RecommendationModel], rollouts: Mapping[int, RolloutRevision], now: datetime
) -> list[ModelSummary]:
    """Return the models with their versions. Two queries."""
    newest_load = Load.objects.unscoped().filter(version=OuterRef("pk"), is_dry_run=False).order_by("-fence")
    versions = (
        Version.objects.for_tenant(tenant)
        .filter(model__in=[model.pk for model in models], archived_at=None)
        .select_related("layout", "source", "active_table__load")
        .defer("active_table__load__report", "active_table__load__source_location", "source__location")
        .annotate(newest_load_id=Subquery(newest_load.values("pk")[:1]))
        .order_by("code")
    )
    load_ids = [version.newest_load_id for version in versions if version.newest_load_id]
    loads = Load.objects.for_tenant(tenant).defer("report", "source_location").in_bulk(load_ids)
    by_model: dict[int, list[VersionState]] = defaultdict(list)
    by_pk = {model.pk: model for model in models}
    for version in versions:
        version.layout.model = by_pk[version.model_id]
        rollout = rollouts.get(version.model_id)
        weights = weights_by_code(rollout.weights_bp) if rollout else {}
        load = loads.get(version.newest_load_id) if version.newest_load_id else None
        table = version.active_table
        if table is not None and table.state != TableState.READY:
            table = None
        at = data_at(table) if table is not None else None
        state = VersionState(version, weights.get(version.code, 0), table, at, is_late(version, now), load)
        by_model[version.model_id].append(state)
    for model in models:
        model.tenant = tenant
    return [ModelSummary(model, rollouts.get(model.pk), by_model[model.pk]) for model in models]


# --- Rollouts -------------------------------------------------------------------------------------------------------


def history_of(summary: ModelSummary, *, after: int | str | None = None, limit: int = 20) -> Page[HistoryLine]:
    """Return one page of the lines of a model's rollout, newest first; `after` is the cursor's value.

    One query, and one more where a version of these lines is archived.
    """
    model = summary.model
    rows = RolloutRevision.objects.for_tenant(model.tenant).filter(model=model)
    rows = rows.select_related("restores").defer("allocation", "restores__allocation")
    page = page_of(rows, by="number", limit=limit, after=after, is_descending=True)
    revisions = [*page.rows, page.beyond]
    since = {state.code: state.version.created_at for state in summary.versions}
    are_there = all(
        code in since and since[code] <= revision.created_at
        for revision in revisions
        if revision is not None
        for code in weights_by_code(revision.weights_bp)
    )
    names = code_names([state.version for state in summary.versions]) if are_there else code_names_of(model)
    lines = [
        _line(newer, older, names, is_newest=after is None and number == 0)
        for number, (newer, older) in enumerate(pairwise(revisions))
    ]
    return Page(lines, page.next_cursor, None)


def _line(
    revision: RolloutRevision, before: RolloutRevision | None, code_names: CodeNames, *, is_newest: bool
) -> HistoryLine:
    names = code_names.at(revision.created_at)
    was = weights_by_code(before.weights_bp) if before else {}
    became = weights_by_code(revision.weights_bp)
    changes = [
        WeightChange(code, name_of(code, names), was.get(code, 0), became.get(code, 0))
        for code in sorted(was.keys() | became.keys())
        if was.get(code, 0) != became.get(code, 0)
    ]
    is_new_phase = before is not None and revision.restores_id is None and revision.phase != before.phase
    served_default = before is not None and before.serves_default
    return HistoryLine(
        revision,
        changes,
        is_newest,
        is_new_phase,
        begins_default=revision.serves_default and not served_default,
        ends_default=served_default and not revision.serves_default,
    )


def name_of(code: int, names: Mapping[int, str]) -> str:
    """Return a version's name, also of one that is gone."""
    return names.get(code, f"version {code}")


# --- First use ------------------------------------------------------------------------------------------------------


def first_steps(tenant: Tenant, models: Iterable[ModelSummary]) -> FirstSteps:
    """Return how far a studio is from its first answer. Two queries; `models` is what `model_summaries` gave."""
    # The model that is furthest is the one to go on with.
    summaries = sorted(models, key=lambda summary: list(ModelState).index(summary.state), reverse=True)
    furthest = summaries[0] if summaries else None
    credentials = Credential.objects.for_tenant(tenant).filter(revoked_at=None)
    credential = credentials.order_by(F("last_used_at").desc(nulls_last=True), "-created_at").first()
    version = furthest.versions[0].version if furthest and furthest.versions else None
    loaded = [state for summary in summaries for state in summary.versions if state.table]
    return FirstSteps(
        model=furthest.model if furthest else None,
        version=version,
        has_table=bool(loaded),
        without_players=None if any(state.weight_bp for state in loaded) or not loaded else loaded[0].version,
        credential=credential,
        has_asked=CredentialUse.objects.for_tenant(tenant).exists(),
    )
