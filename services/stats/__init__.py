"""The stats service: scores in; comparison, verdict and report out."""
