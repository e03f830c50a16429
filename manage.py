#!/usr/bin/env python
"""The command line in a checkout: `python manage.py help` lists the commands. Installed, it is `recsite`."""

from recsite.__main__ import main

if __name__ == "__main__":
    main()
