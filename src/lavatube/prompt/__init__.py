"""Phase 3, first half: a Chat becomes Prepared, token ids become text. Knows ModelSpec; no engine, no HTTP."""
