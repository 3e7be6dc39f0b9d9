import os
import threading
import time

from lavatube.weights.spare import Spare, yield_to_others


def test_what_is_left_is_a_share() -> None:
    spare = Spare()
    time.sleep(0.05)
    assert 0.0 <= spare.share() <= 1.0


def test_no_time_has_nothing_left() -> None:
    spare = Spare()
    shares = [spare.share() for _ in range(5)]
    assert all(0.0 <= share <= 1.0 for share in shares)


def test_only_the_thread_that_yields_does() -> None:
    before, seen = os.getpriority(os.PRIO_PROCESS, 0), []

    def run() -> None:
        yield_to_others()
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen[0] >= before
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
