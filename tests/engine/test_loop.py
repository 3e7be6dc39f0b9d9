"""What an engine does that has nothing to do."""

from __future__ import annotations

import subprocess
import sys

RESTS = """
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from lavatube.engine.loop import REST_S, run
from lavatube.engine.wire import Shutdown

class Idle:
    has_work = False
    def bind(self):
        # As a step leaves the heap: much that is free between a little that is not.
        blocks = [bytearray(100_000) for _ in range(1000)]
        self.kept = blocks[::100]

def resident_mib():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) // 1024

before, commands = resident_mib(), SimpleQueue()
thread = threading.Thread(target=run, args=[Idle(), commands, print])
thread.start()
time.sleep(REST_S / 2)
held = resident_mib()
time.sleep(REST_S)
rested = resident_mib()
commands.put(Shutdown())
thread.join()
print(before, held, rested)
"""


def test_memory_of_steps_is_given_back_at_rest() -> None:
    ran = subprocess.run([sys.executable, "-c", RESTS], check=True, stdout=subprocess.PIPE, text=True)
    before, held, rested = map(int, ran.stdout.split())
    assert held - before > 50
    assert rested - before < 10
