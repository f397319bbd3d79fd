"""What holds for all tests."""

import os
import signal

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # every core has a worker already; torch reads this when imported
    os.environ.pop("COLUMNS", None)  # which the plugin sets, as if somebody wanted tables so narrow

os.environ["CUTWORK_COSTS"] = "default"  # the kernels chosen must not depend on what this machine was measured to do

# A shell that starts the tests in the background has them ignore Ctrl-C, and so whatever they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.real_models"]
