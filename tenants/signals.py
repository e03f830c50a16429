"""How the apps above learn that serving must be told of a change, without this app knowing them."""

from django.db import transaction
from django.db.models import F
from django.dispatch import Signal

from tenants.models import Tenant

# Sent after commit with `tenant_id: int`. models_registry publishes the tenant's snapshot on it.
tenant_changed = Signal()


def announce_after_commit(tenant_id: int) -> None:
    """Have `tenant_changed` sent once the transaction that is open has committed, and not if it rolls back.

    A receiver that fails is logged; the change has been made and its caller must not fail for it. That there is
    something to tell is written down in that same transaction, so that it is found however this process ends.
    """
    Tenant.objects.filter(pk=tenant_id).update(content_revision=F("content_revision") + 1)

    # A function, not a partial: Django's log of a hook that failed asks for its qualified name.
    def announce() -> None:
        tenant_changed.send(sender=None, tenant_id=tenant_id)

    transaction.on_commit(announce, robust=True)
