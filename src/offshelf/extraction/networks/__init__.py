"""Networks defined here, in Keras. They are built once, when their weights are converted for the engine.

What a builder takes and gives stands in `blueprint`.
"""
