"""Starts the projector from what the dense head already reads, in the decoder's own words.

Some hidden units each fire where one claim is true and a thing's centre is near; such a unit adds the embedding of the
word for its claim. So a patch with a red star arrives as "red" plus "star", and the decoder need not first find out
what the tower's features mean.
"""

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from train.dense import DenseHead, DenseLabels
from train.scene import COLOURS, COLUMNS, KINDS, ROWS, SHAPES, SIZES

SHARPNESS = 3.0
CENTRE_BIAS = 1.0
CODE_SHARE = 0.5
OUTPUT_NORM = 4.0


def claim_words() -> list[list[str]]:
    """List, for each claim that gets a unit, the words that stand for it, in the order of claim_rows."""
    kinds = [[f" {kind}", f" {kind}s"] if kind in SHAPES else [f" {kind}"] for kind in KINDS]
    plain = [[f" {word}"] for word in (*COLOURS, *SIZES, *COLUMNS, *ROWS)]
    return kinds + plain


def claim_rows(claims: tuple[Tensor, ...]) -> Tensor:
    """Set the claims' logits side by side, each group with a mean of zero. Shapes: out (..., claims)."""
    kind, colour, _, size, column, row, *_ = claims
    groups = (kind[..., :-1], colour[..., :-1], size, column, row)
    return torch.cat([group - group.mean(dim=-1, keepdim=True) for group in groups], dim=-1)


def truths(labels: DenseLabels) -> Tensor:
    """Say which claims hold at each true centre. Shapes: out (centres, claims) bool."""
    at = labels.is_centre
    groups = (
        (labels.kind, len(KINDS)), (labels.colour, len(COLOURS)), (labels.size, 2), (labels.column, 3), (labels.row, 3),
    )  # fmt: skip
    return torch.cat([nn.functional.one_hot(truth[at], size) for truth, size in groups], dim=-1).bool()


@torch.no_grad()
def start_projector(
    projector: nn.Module,
    head: DenseHead,
    features: Tensor,
    labels: DenseLabels,
    embeddings: Tensor,
    tokenizer: Tokenizer,
) -> None:
    """Give the least used hidden units one claim each; the other units stay as they are.

    Shapes: features (n, patches, tower width); embeddings (vocabulary, decoder width).
    """
    first, second = projector.linear_1, projector.linear_2
    claims = head(features)
    logits, holds = claim_rows(claims)[labels.is_centre], truths(labels)
    true_level = torch.stack([logits[holds[:, claim], claim].median() for claim in range(logits.shape[1])])
    false_level = torch.stack([logits[~holds[:, claim], claim].quantile(0.95) for claim in range(logits.shape[1])])
    # A kind that no picture shows has no level of its own.
    true_level = true_level.where(~true_level.isnan(), true_level.nanmedian())
    gap = (true_level - false_level).clamp(min=0.5)
    centre_scale = claims[2][..., 0][labels.is_centre].median().clamp(min=1.0)

    hidden = nn.functional.gelu(first(features))
    use = hidden.flatten(0, 1).std(dim=0) * second.weight.norm(dim=0)
    units = use.argsort()[: len(gap)]
    output_norm = second(hidden).norm(dim=-1)[labels.is_centre].mean()

    weight, bias = head.read.weight, head.read.bias
    claim_weight = claim_rows(torch.split(weight.T, DenseHead.SPLITS, dim=-1)).T
    claim_bias = claim_rows(torch.split(bias, DenseHead.SPLITS, dim=-1))
    centre = sum(DenseHead.SPLITS[:2])
    middle = (true_level + false_level) / 2
    scale = 2 * SHARPNESS / gap
    gate = SHARPNESS / centre_scale
    first.weight[units] = scale[:, None] * claim_weight + gate * weight[centre]
    first.bias[units] = scale * (claim_bias - middle) + gate * bias[centre] - SHARPNESS + CENTRE_BIAS * gate

    words = embeddings - embeddings.mean(dim=0)
    codes = torch.stack(
        [torch.stack([words[tokenizer.encode(word).ids[-1]] for word in group]).mean(dim=0) for group in claim_words()]
    )
    codes = codes / codes.norm(dim=1, keepdim=True)
    fired = nn.functional.gelu(first(features))[labels.is_centre][:, units][holds].mean()
    # The features are large; at the decoder's own scale its layers can still change what they read.
    second.weight *= OUTPUT_NORM / output_norm
    second.bias *= OUTPUT_NORM / output_norm
    second.weight[:, units] = (codes * CODE_SHARE * OUTPUT_NORM / fired).T
