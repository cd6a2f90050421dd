"""The trainer: cross-validates classifiers on feature tables and fits the chosen one."""
