"""What the control plane tells Prometheus: the names of it all in one place."""

from models_registry.loading.metrics import DEFINITIONS as LOADING
from recsite.background.metrics import DEFINITIONS as BACKGROUND

DEFINITIONS = (*LOADING, *BACKGROUND)
