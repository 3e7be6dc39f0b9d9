"""Thin adapters between a platform's own predictor interface and ours."""
