"""Kernels for GPUs, in Triton, each with the arguments of its twin in torch; `model/fused.py` says which of both runs.

Nothing outside imports these modules before it is known that Triton is here.
"""
