"""The extractor service: turns images into embeddings; each replica serves one extractor."""
