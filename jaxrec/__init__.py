"""jaxrec: session-based and sequential recommenders in JAX, with the training loop on the accelerator."""

import sys as _sys

__version__ = "0.1.0"

if _sys.argv[:1] == ["-m"]:  # Python looks for the module to run: a missing package is told before the first import
    from jaxrec.cli import startup as _startup

    _startup.check(_sys.orig_argv)
elif _sys.argv and _sys.argv[0].endswith("scripts/benchmark.py"):
    from jaxrec.cli import startup as _startup

    _startup.check_packages()
