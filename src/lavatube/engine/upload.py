"""Small tensors from the host to a device, without waiting for what the device is doing."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(values: Tensor, device: torch.device) -> Tensor:
    """The same on `device`. A copy from memory that is not pinned would wait for all work before it."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
