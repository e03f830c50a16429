"""`manage.py demo`: the whole system on this machine, on embedded parts, with data whose every answer can be proved."""
