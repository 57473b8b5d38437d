"""Tests of the packed kernels, every implementation against the oracle."""
