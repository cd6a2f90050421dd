"""The parts of benchmarks/extraction.py: photos, the raw engine, the running service, and Keras one image at a time."""
