"""A LLaVA-1.5 folder in the llava-hf layout → llama.cpp's two files: `python write_gguf.py FOLDER OUT`.

OUT gets `text.gguf`, the decoder in bfloat16, and `mmproj.gguf`, tower and projector. For speed only: the words are
made up, and split as GPT-2 splits them.
"""

import json
import re
import sys
from pathlib import Path

import gguf
import torch
from safetensors.torch import load_file

BF16 = gguf.GGMLQuantizationType.BF16
TEXT = {
    "lm_head.weight": "output.weight",
    "model.language_model.embed_tokens.weight": "token_embd.weight",
    "model.language_model.norm.weight": "output_norm.weight",
}
TEXT_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
VISION = {
    "model.vision_tower.embeddings.class_embedding": "v.class_embd",
    "model.vision_tower.embeddings.patch_embedding.weight": "v.patch_embd.weight",
    "model.vision_tower.embeddings.position_embedding.weight": "v.position_embd.weight",
    "model.vision_tower.pre_layrnorm.weight": "v.pre_ln.weight",
    "model.vision_tower.pre_layrnorm.bias": "v.pre_ln.bias",
    "model.multi_modal_projector.linear_1.weight": "mm.0.weight",
    "model.multi_modal_projector.linear_1.bias": "mm.0.bias",
    "model.multi_modal_projector.linear_2.weight": "mm.2.weight",
    "model.multi_modal_projector.linear_2.bias": "mm.2.bias",
}
VISION_BLOCK = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}


def main():
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    out.mkdir(parents=True, exist_ok=True)
    write_text(config["text_config"], json.loads((folder / "tokenizer.json").read_text()), tensors, out / "text.gguf")
    write_vision(config, tensors, out / "mmproj.gguf")


def write_text(config, tokenizer, tensors, path):
    writer = gguf.GGUFWriter(path, "llama")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    add_tokenizer(writer, tokenizer, config["vocab_size"])
    for name, tensor in tensors.items():
        block = re.fullmatch(r"model\.language_model\.layers\.(\d+)\.(.+)\.weight", name)
        if block:
            for projection, count in (("q_proj", heads), ("k_proj", kv_heads)):
                if block[2].endswith(projection):
                    tensor = as_pairs(tensor, count)
            add(writer, f"blk.{block[1]}.{TEXT_BLOCK[block[2]]}.weight", tensor)
        elif name in TEXT:
            add(writer, TEXT[name], tensor)
    finish(writer)


def write_vision(config, tensors, path):
    vision = config["vision_config"]
    num_layers = vision["num_hidden_layers"] + 1 + config["vision_feature_layer"]
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", False)
    writer.add_uint32("clip.vision.image_size", vision["image_size"])
    writer.add_uint32("clip.vision.patch_size", vision["patch_size"])
    writer.add_uint32("clip.vision.embedding_length", vision["hidden_size"])
    writer.add_uint32("clip.vision.feed_forward_length", vision["intermediate_size"])
    writer.add_uint32("clip.vision.projection_dim", config["text_config"]["hidden_size"])
    writer.add_uint32("clip.vision.block_count", num_layers)
    writer.add_uint32("clip.vision.attention.head_count", vision["num_attention_heads"])
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", vision["layer_norm_eps"])
    writer.add_array("clip.vision.image_mean", [0.48, 0.46, 0.41])
    writer.add_array("clip.vision.image_std", [0.27, 0.26, 0.28])
    for name, tensor in tensors.items():
        block = re.fullmatch(r"model\.vision_tower\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if block and int(block[1]) < num_layers:
            add(writer, f"v.blk.{block[1]}.{VISION_BLOCK[block[2]]}.{block[3]}", tensor)
        elif name in VISION:
            add(writer, VISION[name], tensor)
    finish(writer)


def add_tokenizer(writer, tokenizer, vocab_size):
    model, special = tokenizer["model"], {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    by_id = {index: token for token, index in model["vocab"].items()} | special
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([by_id.get(index, f"[PAD{index}]") for index in range(vocab_size)])
    normal, control, unused = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.UNUSED
    writer.add_token_types(
        [control if index in special else normal if index in by_id else unused for index in range(vocab_size)]
    )
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)


def as_pairs(weight, num_heads):
    """llama.cpp turns neighbouring dimensions of a head together, where transformers turns its halves."""
    rows, columns = weight.shape
    return weight.view(num_heads, 2, rows // num_heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def add(writer, name, tensor):
    """Matrices in bfloat16; vectors, and what is not a factor of a product, in full."""
    if tensor.ndim == 2 and not name.startswith("v.position"):
        data = tensor.contiguous().view(torch.uint8).numpy()
        writer.add_tensor(name, data, raw_dtype=BF16)
    else:
        writer.add_tensor(name, tensor.float().contiguous().numpy())


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
