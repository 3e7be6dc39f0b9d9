"""A block's key names all that its keys and values depend on, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from lavatube.engine.admission import admit
from lavatube.engine.prefix import block_key, root_key
from lavatube.engine.wire import Sampling, Submit
from lavatube.spec import ModelSpec
from tests.engine.requests import pixels, submit

BLOCK_SIZE = 4


def keys(request: Submit, spec: ModelSpec, block_size: int = BLOCK_SIZE) -> list[bytes]:
    (sequence,) = admit(request, spec, 1000, 0.0)
    return sequence.keys_of_blocks(sequence.num_tokens // block_size, block_size)


def in_common(some: list[bytes], others: list[bytes]) -> int:
    """How many first keys; after them there must be none."""
    same = [one == other for one, other in zip(some, others, strict=False)]
    count = same.index(False) if False in same else len(same)
    assert not set(some[count:]) & set(others[count:])
    return count


def test_prompts_have_in_common_what_they_begin_with(spec: ModelSpec) -> None:
    one = Submit("a", [*range(3, 15)], [], Sampling(1))
    assert in_common(keys(one, spec), keys(one, spec)) == 3
    assert in_common(keys(one, spec), keys(replace(one, token_ids=[*range(3, 14), 99]), spec)) == 2
    assert in_common(keys(one, spec), keys(replace(one, token_ids=[99, *range(4, 15)]), spec)) == 0


def test_how_tokens_are_chosen_is_no_part_of_it(spec: ModelSpec) -> None:
    one = submit(spec, "a", Sampling(3), length=20)
    other = submit(spec, "b", Sampling(9, temperature=1.0, seed=5), length=20)
    assert keys(one, spec) == keys(other, spec)


def test_another_salt_has_nothing_in_common(spec: ModelSpec) -> None:
    one = submit(spec, "a", length=20, num_images=1)
    assert in_common(keys(one, spec), keys(replace(one, salt=b"another owner"), spec)) == 0


def test_another_picture_changes_its_blocks_and_those_after_it(spec: ModelSpec) -> None:
    one = submit(spec, "a", length=20, num_images=1)
    spaced = replace(one, token_ids=[3, 4, 5, 6, 7, 8, 9, *one.token_ids])  # block 1 is the picture's from its end on
    other = replace(spaced, images=[pixels(spec, seed=99)])
    assert other.token_ids == spaced.token_ids
    assert in_common(keys(spaced, spec), keys(other, spec)) == 2


def test_pictures_that_change_places_are_others(spec: ModelSpec) -> None:
    one = submit(spec, "a", length=20, num_images=2)
    other = replace(one, images=one.images[::-1])
    assert in_common(keys(one, spec, 1), keys(other, spec, 1)) == 1


def test_the_same_squares_laid_out_otherwise_are_another_picture(spec: ModelSpec) -> None:
    """The plan is in the key, whatever the front's digest says."""
    one = submit(spec, "a", length=20, num_images=1)
    wide = replace(one, images=[replace(one.images[0], width=2 * one.images[0].width)])
    before, after = (admit(request, spec, 1000, 0.0)[0].images[0] for request in (one, wide))
    assert (before.plan == after.plan) == (before.key == after.key)


def test_a_row_of_the_same_picture_has_another_place_in_it(spec: ModelSpec) -> None:
    """Blocks in the middle of a picture have the same ids; what was before them tells them apart."""
    found = keys(submit(spec, "a", length=4, num_images=1), spec, 2)
    assert len(set(found)) == len(found)


Blocks = st.lists(st.integers(-1, 2**40), max_size=4)
Places = st.lists(st.tuples(st.integers(-9, 9), st.sampled_from([b"x" * 32, b"y" * 32])), max_size=2)


@given(st.lists(st.tuples(Blocks, Places), min_size=2, max_size=2))
def test_keys_are_equal_where_the_contents_are(contents: list[tuple[list[int], list[tuple[int, bytes]]]]) -> None:
    one, other = (block_key(root_key(b""), ids, images) for ids, images in contents)
    assert (one == other) == (contents[0] == contents[1])
