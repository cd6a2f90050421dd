"""Runs: what they are asked to do, what is done, where they stand."""
