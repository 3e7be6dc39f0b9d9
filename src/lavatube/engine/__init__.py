"""Phase 2 and 3, the engine: Submit and Abort in; Tokens, Done and Failed out. Knows ids; no text, no HTTP."""
