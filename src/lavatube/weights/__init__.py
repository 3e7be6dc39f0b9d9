"""Phase 1, provision: a URL becomes trusted files, and files become tensors. Knows files and digests; no models."""
