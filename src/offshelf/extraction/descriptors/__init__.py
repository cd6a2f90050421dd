"""Classical descriptors: a vector computed from pixels by a formula, as FrImCla uses them.

Each function takes pixels, uint8 of shape (height, width, 3), RGB, and gives a float32 vector that is finite for every
image. Change one and its version in the registry goes up.

Images over four megapixels are shrunk to four first (`pixels.bounded`): cost and memory then have a bound, and a
photo's colours and textures at that size say what they said before. Beyond that none changes an image's size but `hog`,
which needs a square. FrImCla squeezes every image to 231 x 231 before all of them.
"""
