#!/usr/bin/env python
"""Django's command line for this project: `python manage.py help` lists the commands."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "recsite.settings")
    if sys.argv[1:2] == ["demo"]:
        # The one command that makes its own settings, which must be there before Django reads them.
        from recsite.demo.places import prepare

        prepare(sys.argv[2:])
    execute_from_command_line(sys.argv)
