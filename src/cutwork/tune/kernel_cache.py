"""Has oneDNN forget kernels: it compiles some for every shape, and batches whose lengths vary have ever new ones."""

import os

_SHAPES = "64"  # of several megabytes each in bfloat16 with AMX; a micro-batch has some twenty


def few_kernels() -> None:
    """Let oneDNN keep the kernels of the last shapes alone, for CPUs; what the environment says goes before.

    Has to come before this process's first product in bfloat16. By default it keeps 1,024: Qwen2.5-0.5B grows by
    0.6 GB a step then, and a step takes as long (measured; compiling again takes a fiftieth of it).
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _SHAPES)
