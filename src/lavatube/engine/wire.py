"""Everything that crosses the border between the front and the engine, in both directions.

Ids, numbers and bytes only: text never enters the engine, tensors never leave it. Events are arrays, as there are many;
how all of it becomes bytes is frames.py's affair.
"""

from __future__ import annotations

from typing import Final

import msgspec

from lavatube.fidelity import Choice
from lavatube.geometry import Detail

GAP_LIMITS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper limits of the classes in which gaps between tokens are counted; one more class has what is longer."""


class Sampling(msgspec.Struct, frozen=True):
    """How the next token is chosen: a pure function of (logits, this, the tokens so far).

    What asks for nothing: temperature 0 (greedy), top_k 0, top_p 1, min_p 0, repetition_penalty 1, the other penalties
    0, `top_logprobs` None (0: of the chosen token alone). `seed` makes a run repeatable; of `num_choices` answers to
    one prompt, the i-th is what the seed i later gives alone. `min_tokens` come before a stop token. `grammar` is in
    llguidance's own notation, the one text that crosses: what it does not allow is never said.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    top_logprobs: int | None = None
    num_choices: int = 1
    grammar: str = ""


class Pixels(msgspec.Struct, frozen=True):
    """The squares of one image, as the vision tower reads them.

    `data` is (tiles, 3, size, size) uint8, row-major; `num_tokens` placeholders stand for it in the token ids.
    `digest` names what the tower sees and how it is laid out: same digest, same features.
    width, height (of the upright picture), num_images (of the prompt) and detail are what `plan_image` asks for, so
    that both ends know the same plan.
    """

    digest: bytes
    data: bytes
    tiles: int
    size: int
    num_tokens: int
    width: int
    height: int
    num_images: int = 1
    detail: Detail = "high"


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """One request: its token ids, each image already expanded to its placeholders, and its images in order.

    `begun` has the tokens of each choice of an answer that was begun elsewhere and goes on here as if it had never
    stopped; None for a choice that is over. Empty: nothing was begun. What was computed for one `salt` is not used for
    another.
    """

    request_id: str
    token_ids: list[int]
    images: list[Pixels]
    sampling: Sampling
    begun: list[list[int] | None] = []
    salt: bytes = b""


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Stop a request, or one of its choices, and free what it holds; its stream ends with Done("abort").

    `sent_s` is a moment before which it can't have come, by the clock that both processes share (time.monotonic); 0:
    not told. The front gives that at which it sends; the worker, that at which its socket was empty, if it is later.
    """

    request_id: str
    choice: int | None = None
    sent_s: float = 0.0


class FeatureDisk(msgspec.Struct, frozen=True):
    """Where encoded images are kept on disk, in how many bytes at most, and which weights they come from."""

    folder: str
    max_bytes: int
    weights: str


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Phase 2: put the checkpoint in `folder` into device memory.

    kv_cache_bytes 0: what the device has to spare. num_token_ids is how many ids the tokenizer knows, so that the
    padded rows of the vocabulary are never sampled; 0: all of them. `token_texts` is what each id says, for grammars;
    empty: there are none. `fidelity` is that of the front, so that both plan the same pictures. `image_cache_bytes` of
    main memory hold encoded images, and so does `image_disk`, if there is one; `is_reusing` lets prompts begin with
    what others have computed. `max_guess` tokens of an answer are guessed ahead and checked; 0: none. `quantize` is
    none, int8, int4 or fp8, as the setting. `kernel_notes` is the folder that says which of a GPU's kernels are sound;
    empty: none does. `trace` is the file for a timeline; empty: none.
    """

    folder: str
    device: str
    dtype: str
    max_sequences: int
    max_step_tokens: int
    kv_cache_bytes: int
    num_token_ids: int = 0
    token_texts: list[bytes] = []
    fidelity: Choice = "auto"
    image_cache_bytes: int = 0
    image_disk: FeatureDisk | None = None
    is_reusing: bool = True
    max_guess: int = 0
    quantize: str = "none"
    kernel_notes: str = ""
    trace: str = ""


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """End the worker; whatever still runs is aborted."""


class Loading(msgspec.Struct, frozen=True, array_like=True, tag="loading"):
    """Phase 2 goes on: bytes of weights that are in place, of how many, and how many come in a second."""

    done_bytes: int
    total_bytes: int
    rate_bytes_s: float = 0.0


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """Requests are taken. `layer_s` is how long one layer of a full step may take on this device.

    Phase 2 is over, unless the engine `is_trailing`: then weights still come in, and `Loaded` follows.
    """

    device: str
    dtype: str
    load_s: float
    kv_cache_tokens: int
    max_context_tokens: int
    layer_s: float = 0.0
    is_trailing: bool = False


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag="loaded"):
    """Phase 2 of an engine that trailed is over: every weight is in place, and verified."""

    load_s: float


class LoadFailed(msgspec.Struct, frozen=True, array_like=True, tag="load_failed"):
    """Phase 2 ended in an error that trying again won't mend."""

    code: str
    message: str
    remedy: str


class CacheCounts(msgspec.Struct, frozen=True):
    """Since the start: images that were found encoded or not, tokens of prompts, and those that were found computed.

    Of the images that were found, `image_disk_hits` were on disk.
    """

    image_hits: int = 0
    image_disk_hits: int = 0
    image_misses: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0


class GuessCounts(msgspec.Struct, frozen=True):
    """Since the start: tokens that were guessed ahead, and those of them that were right."""

    made: int = 0
    right: int = 0


class GapCounts(msgspec.Struct, frozen=True):
    """Since the start: how often a stream waited so long for its next token, by the classes of GAP_LIMITS_S."""

    counts: list[int] = []
    sum_s: float = 0.0


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, tag="heartbeat"):
    """Sent about once a second from a thread of its own; `steps` grows as long as the engine makes progress."""

    steps: int
    running: int
    waiting: int
    free_cache_tokens: int
    caches: CacheCounts = CacheCounts()
    guesses: GuessCounts = GuessCounts()
    gaps: GapCounts = GapCounts()


class Logprobs(msgspec.Struct, frozen=True):
    """How likely a token was, as a natural logarithm, and how likely the likeliest ids were, those first.

    In the model's own distribution over what can be said, before bias, penalties, temperature and filters.
    """

    chosen: float
    top: list[tuple[int, float]]


class Tokens(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="tokens"):
    """New ids of one choice; `position` is the index of the first among its completion tokens.

    `logprobs` has one for each id where they were asked for, else none.
    """

    request_id: str
    position: int
    token_ids: list[int]
    choice: int = 0
    logprobs: list[Logprobs] = []


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """The end of one choice; `num_left` others of its request go on. `reason` is "stop", "length" or "abort".

    `cached_tokens` of the prompt were computed before, for another request.
    `late_tokens` were computed after the abort can have come: those of the step that was under way, which is one unless
    it was guessed ahead, and of the one launched behind it, if there was one.
    """

    request_id: str
    reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    queued_s: float
    prefill_s: float
    decode_s: float
    choice: int = 0
    num_left: int = 0
    late_tokens: int = 0


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """The end of one request, as an error; `code` is one of errors.py, `param` the field at fault or nothing."""

    request_id: str
    code: str
    message: str
    param: str = ""


Command = Submit | Abort | Load | Shutdown
Event = Loading | Ready | Loaded | LoadFailed | Heartbeat | Tokens | Done | Failed
RequestEvent = Tokens | Done | Failed


def is_last(event: RequestEvent) -> bool:
    """Whether nothing of its request comes after an event."""
    return isinstance(event, Failed) or (isinstance(event, Done) and event.num_left == 0)
