"""From encoded images to embeddings: extractors, their weights, the engine and the pipeline that feeds it.

`registry` and `weights` are light: they import the standard library alone until arrays are really touched, so that the
planner and the catalogue can use them.
"""
