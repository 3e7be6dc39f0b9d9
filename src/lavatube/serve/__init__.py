"""Phase 3, the edge: bytes to predictions and back, one file a protocol. No torch."""
