"""A folder in the llava-hf layout → one that vLLM reads: `python write_vllm.py FOLDER OUT KIND`.

Names become those of the published checkpoints, which vLLM still expects of the tower. KIND `int8` makes weights and
activations 8 bits wide, a scale for each row, tower included; `int4` the decoder's weights 4 bits, a scale for each
128; any other leaves them. Quantised as compressed-tensors has it, which vLLM reads.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.torch import load_file, save_file

NAMES = {
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.language_model.": "language_model.model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}
DECODER = r"language_model\.model\.layers\..*_proj\.weight"
TOWER = r"vision_tower\.vision_model\.encoder\.layers\..*(_proj|fc[12])\.weight"
GROUP = 128
ROWS_OF_INT8 = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
TOKENS_OF_INT8 = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
GROUPS_OF_INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
SCHEMES = {
    "int8": {
        "format": "int-quantized",
        "ignore": ["re:.*lm_head", "re:.*multi_modal_projector.*"],
        "config_groups": {
            "all": {"targets": ["Linear"], "weights": ROWS_OF_INT8, "input_activations": TOKENS_OF_INT8},
        },
    },
    "int4": {
        "format": "pack-quantized",
        "ignore": ["re:.*lm_head", "re:.*multi_modal_projector.*", "re:.*vision_tower.*"],
        "config_groups": {"decoder": {"targets": ["Linear"], "weights": GROUPS_OF_INT4}},
    },
}


def main():
    folder, out, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    out.mkdir(parents=True)
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, out)
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        tensors |= written(renamed(name), tensor, kind)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    if kind in SCHEMES:
        config = json.loads((folder / "config.json").read_text())
        scheme = {"quant_method": "compressed-tensors", "quantization_status": "compressed"}
        config["quantization_config"] = scheme | SCHEMES[kind]
        (out / "config.json").write_text(json.dumps(config))


def renamed(name):
    for old, new in NAMES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def written(name, tensor, kind):
    if kind == "int8" and re.fullmatch(f"{DECODER}|{TOWER}", name):
        values, scales = quantised(tensor, tensor.shape[1], 127)
        return {name: values, f"{name}_scale": scales}
    if kind == "int4" and re.fullmatch(DECODER, name):
        values, scales = quantised(tensor, GROUP, 7)
        packed = pack_to_int32(values, 4)
        return {f"{name}_packed": packed, f"{name}_scale": scales, f"{name}_shape": torch.tensor(tensor.shape)}
    return {name: tensor}


def quantised(weight, size, largest):
    """Symmetric, a scale for each `size` weights of a row: [rows, columns] → as many int8, [rows, columns / size]."""
    groups = weight.float().unflatten(1, (-1, size))
    scales = groups.abs().amax(-1, keepdim=True) / largest
    values = (groups / scales).round().to(torch.int8)
    return values.flatten(1), scales.squeeze(-1).to(weight.dtype)


main()
