"""Networks defined here, in Keras. They are built once, when their weights are converted for the engine.

A builder is ``build(arrays, *, size, output) -> keras.Model``. It takes the arrays of the weights file and makes a
functional model whose input is (1, 3, size, size) or (1, size, size, 3), float32, as the network was trained on, and
whose output is (1, dimension).
"""
