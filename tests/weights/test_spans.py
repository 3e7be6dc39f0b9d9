"""What is fetched when, and over how many connections; plain values and times."""

from __future__ import annotations

from concurrent.futures import Future
from itertools import pairwise

from lavatube.weights.crew import Crew
from lavatube.weights.headers import TensorPlace
from lavatube.weights.options import MIB
from lavatube.weights.order import rank, rank_chunks
from lavatube.weights.spans import Line, Span
from lavatube.weights.throttle import AGAIN_S, Throttle

SPANS = [Span(0, 0, 10), Span(1, 0, 10), Span(0, 10, 20)]


def test_spans_come_in_line_and_only_once() -> None:
    line = Line(SPANS, 1.0)
    assert [line.take(0.0) for _ in range(4)] == [*SPANS, None]


def test_a_file_that_nobody_is_at_comes_first_unless_somebody_waits_for_another() -> None:
    by_file = sorted(SPANS, key=lambda span: span.file)
    line = Line(by_file, 1.0)
    assert [line.take(0.0) for _ in SPANS] == SPANS
    ranked = Line(SPANS, 1.0)
    ranked.sort(lambda span: ((span.file, 0), span.start))
    assert [ranked.take(0.0) for _ in SPANS] == by_file


def test_a_straggler_is_raced_once() -> None:
    line = Line(SPANS, 1.0)
    for _ in SPANS:
        line.take(0.0)
    assert line.take(100.0) is None, "nobody knows yet how long a span takes"
    line.give_back(SPANS[0], 0.5)
    assert line.take(1.4) is None
    assert line.take(1.6) == SPANS[1]
    assert line.take(1.6) == SPANS[2]
    assert line.take(99.0) is None, "two at one span are enough"
    line.give_back(SPANS[1], 2.0)
    assert line.take(99.0) is None, "the faster one has brought it"


def test_what_was_wrong_comes_next() -> None:
    line = Line(SPANS, 1.0)
    line.take(0.0)
    line.take(0.0)
    line.add(SPANS[:2])
    assert [line.take(0.0) for _ in SPANS] == SPANS


def test_what_is_left_is_shared_out_in_pieces() -> None:
    line = Line([Span(0, start * MIB, (start + 16) * MIB) for start in range(0, 64, 16)], 1.0)
    taken: list[Span] = []
    while (span := line.take(0.0)) is not None:
        taken.append(span)
    assert taken[0].size == 16 * MIB, "as long as there is plenty, a span is a request"
    assert min(span.size for span in taken) == 4 * MIB
    assert all(before.stop == after.start for before, after in pairwise(taken))
    assert taken[-1].stop == 64 * MIB


def test_a_file_whose_server_ignores_ranges_is_not_raced() -> None:
    line, whole = Line(SPANS, 1.0), Span(0, 0, 20)
    assert line.take(0.0) == SPANS[0]
    line.drop(0)
    line.give_back(SPANS[0], 0.1)
    line.add([whole])
    assert line.take(0.2) == whole
    assert line.take(0.2) == SPANS[1]
    line.give_back(SPANS[1], 0.3)
    assert line.take(99.0) is None


def test_connections_double_while_that_helps() -> None:
    throttle = Throttle(8, 32)
    assert throttle.advance(0, 0.0) == 0
    assert throttle.advance(50, 0.25) == 0
    assert throttle.advance(100, 0.5) == 8
    assert throttle.advance(210, 1.0) == -8, "a tenth more is no gain"
    assert throttle.advance(1_000, 1.5) == 0
    assert throttle.connections == 8


def test_no_connections_are_added_where_the_processor_is_the_bottleneck() -> None:
    throttle = Throttle(4, 32, num_processors=2)
    assert throttle.advance(0, 0.0, 1.0) == 0
    assert throttle.advance(100, 0.5, 1.8) == 0
    assert throttle.advance(900, 1.0, 1.9) == 0, "that is settled"
    assert throttle.connections == 4


def test_connections_have_a_limit() -> None:
    throttle = Throttle(8, 20)
    counts = [throttle.advance(10 ** (second + 1), float(second)) for second in range(6)]
    assert sum(counts) == 12


def test_a_line_that_has_changed_is_tried_again() -> None:
    throttle = Throttle(4, 32)
    assert [throttle.advance(received, now_s) for received, now_s in ((0, 0.0), (50, 0.5), (100, 1.0))] == [0, 4, -4]
    assert throttle.advance(150, 1.0 + AGAIN_S) == 0, "from now on it is looked at anew"
    assert throttle.advance(200, 1.5 + AGAIN_S) == 4
    assert throttle.advance(250, 2.0 + AGAIN_S) == -4
    assert throttle.advance(300, 2.0 + 2 * AGAIN_S) == 0
    assert throttle.advance(350, 2.5 + 2 * AGAIN_S) == 0, "the second time counts for twice as long"


def test_connections_that_are_refused_are_no_more_for_a_while() -> None:
    throttle = Throttle(4, 32)
    assert throttle.advance(0, 0.0) == 0
    assert throttle.advance(100, 0.5) == 4
    throttle.refuse(2, 0.8)
    assert throttle.connections == 6
    assert throttle.advance(1_000, 1.0) == 0
    assert throttle.advance(2_000, 0.8 + AGAIN_S) == 0
    assert throttle.advance(3_000, 1.3 + AGAIN_S) == 6


def test_of_those_that_are_refused_the_last_stays() -> None:
    crew = Crew(Throttle(2, 8))
    assert len(crew.begin(Future)) == 2
    assert not crew.leave(), "the source gives to nobody, so that it is not a matter of how many there are"
    with crew.served():
        assert crew.leave()
        assert not crew.leave()
    assert crew.adjust(0, 0.0) == set(), "it counts with one from now on"
    assert crew.adjust(100, AGAIN_S) == set()
    assert len(crew.adjust(200, AGAIN_S + 1)) == 1


def test_those_that_bring_nothing_end() -> None:
    crew = Crew(Throttle(2, 8))
    crew.begin(Future)
    assert [len(crew.adjust(received, now_s)) for received, now_s in ((0, 0.0), (50, 0.5), (100, 1.0))] == [0, 2, 0]
    with crew.served():
        assert crew.leave()
        assert not crew.leave(), "of the three that are left two are to end anyway"
    assert [crew.retire() for _ in range(3)] == [True, True, False]


def test_what_a_receiver_leaves_is_in_line_again() -> None:
    line = Line([Span(0, 0, 10), Span(0, 10, 20)], race_after_s=0.0)
    first = line.take(0.0)
    assert first == Span(0, 0, 10)
    line.put_back(first, 4)
    assert line.take(0.0) == Span(0, 4, 10)
    assert line.take(0.0) == Span(0, 10, 20)


def test_tensors_rank_as_a_forward_pass_reads_them() -> None:
    names = [
        "vision_tower.vision_model.embeddings.class_embedding",
        "vision_tower.vision_model.pre_layrnorm.weight",
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "vision_tower.vision_model.encoder.layers.10.mlp.fc1.weight",
        "vision_tower.vision_model.post_layernorm.weight",
        "multi_modal_projector.linear_1.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.mlp.up_proj.weight",
        "language_model.model.layers.2.mlp.up_proj.weight",
        "language_model.model.layers.10.mlp.up_proj.weight",
        "language_model.model.norm.weight",
        "language_model.lm_head.weight",
    ]
    assert sorted(names, key=rank) == names
    other_layout = ["model.vision_tower.layers.3.x", "model.mm_projector.0.weight", "model.embed_tokens.weight"]
    assert sorted(other_layout, key=rank) == other_layout


def test_a_chunk_is_needed_with_the_first_of_its_tensors() -> None:
    places = [
        TensorPlace("lm_head.weight", "F32", (3,), 8, 20),
        TensorPlace("model.layers.1.mlp.up_proj.weight", "F32", (4,), 20, 36),
        TensorPlace("model.embed_tokens.weight", "F32", (1,), 36, 40),
    ]
    head, middle, last = rank_chunks(places, 40, 16)
    assert head < last < middle
