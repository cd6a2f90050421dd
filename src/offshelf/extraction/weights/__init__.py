"""Pretrained weights: where they come from, and the checks before anything of them is parsed."""
