"""Encoded images, by their keys: what many requests show is encoded once. Knows tensors and bytes; no requests."""

from __future__ import annotations

from collections import OrderedDict

import torch

from lavatube.engine.feature_files import FeatureFiles


class FeatureCache:
    """The most recently used features that fit into `max_bytes` of main memory; 0: none are kept.

    `files`, where there are any, are asked and told besides.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.files: FeatureFiles | None = None
        self.size_bytes = 0
        self.num_hits = 0
        self.num_misses = 0
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: bytes, device: torch.device) -> torch.Tensor | None:
        """On `device`; where that is main memory, the very tensor, which nobody changes."""
        features = self._kept.get(key)
        if features is not None:
            self._kept.move_to_end(key)
        elif self.files is not None and (features := self.files.find(key)) is not None:
            self._remember(key, features)
        else:
            return None
        self.num_hits += 1
        return features.to(device)

    def keep(self, key: bytes, features: torch.Tensor) -> None:
        """Remember features that are all numbers, and let go what was used longest ago. Too large ones are not kept."""
        self.num_misses += 1
        if key in self._kept or not bool(torch.isfinite(features).all()):
            return
        if self.files is not None:
            features = features.to("cpu")
            self.files.keep(key, features)
        self._remember(key, features)

    def _remember(self, key: bytes, features: torch.Tensor) -> None:
        if features.nbytes > self.max_bytes:
            return
        self._kept[key] = features.to("cpu")
        self.size_bytes += features.nbytes
        while self.size_bytes > self.max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.size_bytes -= oldest.nbytes
