"""Describes the whole model to transformers and builds it: tower, projector, decoder. Knows nothing of its training."""

from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from train.tokenizer import BOS, EOS, IMAGE, PAD, SPECIALS, VOCABULARY_SIZE
from train.tower import GRID, vision_config

NUM_IMAGE_TOKENS = GRID * GRID


def llava_config() -> LlavaConfig:
    """Describe `tiny`: the tower's last layer without its class token, a two-layer projector, a small Llama."""
    text = LlamaConfig(
        vocab_size=VOCABULARY_SIZE, hidden_size=192, intermediate_size=384, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=2048, rms_norm_eps=1e-5, tie_word_embeddings=False,
        bos_token_id=SPECIALS.index(BOS), eos_token_id=SPECIALS.index(EOS), pad_token_id=SPECIALS.index(PAD),
    )  # fmt: skip
    return LlavaConfig(
        vision_config=vision_config(), text_config=text, image_token_index=SPECIALS.index(IMAGE),
        projector_hidden_act="gelu", vision_feature_select_strategy="default", vision_feature_layer=-1,
        image_seq_length=NUM_IMAGE_TOKENS, tie_word_embeddings=False,
    )  # fmt: skip


def build_llava() -> LlavaForConditionalGeneration:
    """Build the model with fresh weights."""
    return LlavaForConditionalGeneration(llava_config())
