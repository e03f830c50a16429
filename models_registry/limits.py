"""How much one studio may have, so that none takes what all share. Each check refuses with `LimitReached`.

Under the studio's lock, so that of two at once the second sees what the first took.
"""

from __future__ import annotations

from models_registry.models import Load, LoadState, Version
from tenants.rules import LimitReached

# All studios' loads wait in one queue. More than this a studio has no use for: one load a version, of the dozens that
# it may have in use at once.
MAX_WAITING_LOADS = 50


def check_load_may_wait(version: Version, *, is_dry_run: bool) -> None:
    """Refuse a load where too many wait; a dry run also where one of the version waits. Two queries at most.

    Real loads of one version may wait together: the newer takes the older's place, which ends as soon as it has begun.
    """
    waiting = Load.objects.for_tenant(version.model.tenant).filter(state=LoadState.QUEUED)
    same = waiting.filter(version=version, is_dry_run=True).first() if is_dry_run else None
    if same is not None:
        raise LimitReached(
            f"Load {same.fence}, a dry run of “{version.name}”, waits already; ask for another once it has begun."
        )
    if waiting.count() >= MAX_WAITING_LOADS:
        raise LimitReached(
            f"{MAX_WAITING_LOADS} loads of this studio wait already, and more may not; ask again once some have begun."
        )
