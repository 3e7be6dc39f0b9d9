"""Phase 2, initialise: tensors become logits. Knows ModelSpec and torch; no requests."""
