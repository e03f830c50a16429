"""The command line: `recsite` where it is installed, `python manage.py` in a checkout; `help` lists the commands."""

import os
import sys


def main() -> None:
    """Run the command that the arguments name."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "recsite.settings")
    if sys.argv[1:2] == ["demo"]:
        # The one command that makes its own settings, which must be there before Django reads them.
        from recsite.demo.site import prepare

        prepare(sys.argv[2:])
    if sys.argv[1:2] == ["check_formats"]:
        # It checks the code, not an installation, and works where there are no settings yet.
        from models_registry.management.commands.check_formats import run_without_settings

        run_without_settings(sys.argv)
    elif sys.argv[1:2] == ["lane"]:
        # It uses settings and nothing else of Django's: setting up the other applications would take most of its start.
        from serving.management.commands.lane import run

        run(sys.argv)
    elif sys.argv[1:2] == ["healthy"]:
        # Asked every half minute of every process: as above.
        from recsite.management.commands.healthy import run

        run(sys.argv)
    else:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line

        try:
            execute_from_command_line(sys.argv)
        except ImproperlyConfigured as error:
            # It is for whoever runs this: which setting, and where to read on. Where it was noticed helps nobody.
            sys.exit(str(error))


if __name__ == "__main__":
    main()
