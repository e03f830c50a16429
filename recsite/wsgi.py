"""The WSGI application of the dashboard's process: pages, admin, API and the DRF door."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "recsite.settings")

from django.core.wsgi import get_wsgi_application

from recsite.postgresql.limits import SEATS, Seats, options_of
from recsite.settings import DATABASES, ENV
from serving.log_context import be

if DATABASES["default"]["ENGINE"] == "recsite.postgresql":
    options = DATABASES["default"]["OPTIONS"]
    options |= options_of(ENV, statement_seconds=ENV.database_request_seconds, given=options["options"])
    options["seats"] = Seats(SEATS)
be("dashboard")
application = get_wsgi_application()

from recsite.metrics import several  # noqa: E402 - it knows models, which exist only by now
from serving.views import show_numbers  # noqa: E402 - as above

show_numbers()
several.join(ENV.var_dir / "dashboard")
