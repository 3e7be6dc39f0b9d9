"""A source with stand-ins: each chunk comes from the first place that is not known to fail. Digests decide."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from lavatube.errors import SourceUnavailable
from lavatube.weights.options import Policy
from lavatube.weights.patience import Transient, check_rate
from lavatube.weights.places import Place
from lavatube.weights.source import Body, Reader, Source

logger = logging.getLogger(__name__)


def with_mirrors(source: Source, mirrors: Sequence[Place], policy: Policy) -> Source:
    """The same source, with mirrors behind it; only files with a digest may come from one, or an archive of such."""
    places: dict[str, list[str]] = {}
    for file in source.files:
        is_known = bool(file.sha256 or file.git_sha1 or source.contents)
        trusted = [place.locate(file.path) for place in mirrors] if is_known else []
        places[file.location] = [file.location, *trusted]
    if all(len(locations) == 1 for locations in places.values()):
        logger.warning("no mirror is used for %s: nothing says which bytes are right", source.uri)
    board = _Board(1 + len(mirrors))
    connects = [source.connect, *(place.connect for place in mirrors)]
    return replace(
        source,
        connect=lambda: MirroredReader(connects, places, board, policy),
        num_places=1 + len(mirrors),
        blame=board.blame,
    )


class _Board:
    """What is known of the places, by all readers together."""

    def __init__(self, num_places: int) -> None:
        self._lock = threading.Lock()
        self._failures = [0] * num_places
        self._given: dict[str, list[tuple[int, int, int]]] = {}
        """By location: first byte, one past the last, and who gave them; until they turn out to be wrong."""
        self._num_wrong: Counter[tuple[str, int]] = Counter()
        """By location and place."""

    def order(self, location: str, num_places: int) -> list[int]:
        """The places to try: least often wrong about this file first, then fewest failures, then as they were given."""
        with self._lock:
            return sorted(
                range(num_places),
                key=lambda place: (self._num_wrong[location, place], self._failures[place], place),
            )

    def give(self, location: str, start: int, stop: int, place: int) -> None:
        """A place begins to give these bytes."""
        with self._lock:
            self._given.setdefault(location, []).append((start, stop, place))

    def fail(self, place: int) -> None:
        with self._lock:
            self._failures[place] += 1

    def succeed(self, place: int) -> None:
        """A place that gave a whole range is as good as ever: a passing failure should not move the load for good."""
        with self._lock:
            self._failures[place] = max(0, self._failures[place] - 1)

    def blame(self, location: str, spans: Sequence[tuple[int, int]]) -> None:
        """These bytes turned out to be wrong. It is held once against each place that gave some of them, and what a
        place had given in one piece never again.
        """
        with self._lock:
            places, rest = set(), []
            for given in self._given.get(location, []):
                start, stop, place = given
                if any(start < last and first < stop for first, last in spans):
                    places.add(place)
                else:
                    rest.append(given)
            self._given[location] = rest
            for place in places:
                self._num_wrong[location, place] += 1


class MirroredReader:
    """A reader for each place, connected when it is first needed."""

    def __init__(
        self, connects: Sequence[Callable[[], Reader]], places: dict[str, list[str]], board: _Board, policy: Policy
    ) -> None:
        self._connects = connects
        self._places = places
        self._board = board
        self._policy = policy
        self._readers: dict[int, Reader] = {}
        self._is_aborted = False

    def open(self, location: str, start: int, stop: int, size: int) -> Body:
        """Raises: when all have failed, what may pass if it is so of any, else what the last one raised."""
        locations = self._places[location]
        failure: Exception | None = None
        for place in self._board.order(location, len(locations)):
            try:
                body = self._reader(place).open(locations[place], start, stop, size)
            except (Transient, SourceUnavailable) as error:
                self._board.fail(place)
                failure = failure if isinstance(failure, Transient) else error
                if self._is_aborted:
                    break
            else:
                self._board.give(location, body.start, body.stop, place)
                return _MirroredBody(body, place, self._board, self._policy)
        assert failure is not None, "there is no file without a place"
        raise failure

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()

    def abort(self) -> None:
        self._is_aborted = True
        for reader in list(self._readers.values()):
            reader.abort()

    def _reader(self, place: int) -> Reader:
        if place not in self._readers:
            self._readers[place] = self._connects[place]()
        return self._readers[place]


class _MirroredBody:
    """A body that tells the board how it went, also where it is too slow."""

    def __init__(self, body: Body, place: int, board: _Board, policy: Policy) -> None:
        self.start, self.stop = body.start, body.stop
        self.version = body.version
        self._body = body
        self._place = place
        self._board = board
        self._policy = policy
        self._begun_s = time.monotonic()
        self._left = body.stop - body.start

    def readinto(self, buffer: memoryview) -> int:
        try:
            count = self._body.readinto(buffer)
            received_bytes = self.stop - self.start - self._left + count
            check_rate(self._policy, received_bytes, time.monotonic() - self._begun_s)
        except (Transient, SourceUnavailable):
            self._board.fail(self._place)
            raise
        self._left -= count
        if self._left == 0:
            self._board.succeed(self._place)
        return count

    def close(self) -> None:
        self._body.close()
