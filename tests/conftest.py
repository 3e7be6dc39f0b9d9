"""For the whole suite, and for every process that a test starts."""

from __future__ import annotations

import os

# Test models are tiny: a second thread costs more than it brings, and where cores are shared, many times more.
os.environ.setdefault("OMP_NUM_THREADS", "1")
