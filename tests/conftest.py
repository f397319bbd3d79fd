"""What holds for all tests."""

import os

os.environ["CUTWORK_COSTS"] = "default"  # the kernels chosen must not depend on what this machine was measured to do
