"""Workers of pytest-xdist share the cores, so each computes with one thread: told before torch is imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
