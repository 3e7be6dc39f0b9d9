"""Cog: `cog.yaml` and `predict.py`, run by Cog's own server."""
