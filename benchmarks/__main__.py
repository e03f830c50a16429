"""`python -m benchmarks NAME`: run a benchmark. `make bench-serving` and `make bench-loading` are the usual ways."""

import signal
import sys
from contextlib import ExitStack

import django

from benchmarks.machine import Cores, TooFewCores
from benchmarks.options import read_options
from benchmarks.site import prepare
from recsite.embedded import EmbeddedFailure

if __name__ == "__main__":
    options = read_options(sys.argv[1:])
    # What was started is stopped, however this ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ExitStack() as stack:
        try:
            cores = Cores.of_this_machine()
            # A load has the whole machine, and so has Valkey.
            shared = Cores(cores.server, cores.all) if options.command == "loading" else cores
            site = prepare(options.folder, shared, stack)
        except (TooFewCores, EmbeddedFailure) as error:
            sys.exit(str(error))
        django.setup()
        # Only now: it imports models.
        from benchmarks import loading, previews, publishing, serving

        try:
            runs = {"loading": loading, "previews": previews, "publishing": publishing, "serving": serving}
            sys.exit(runs[options.command].run(options, site, cores))
        except KeyboardInterrupt:
            sys.exit("Interrupted.")
