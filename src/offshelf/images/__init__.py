"""THE decoder: encoded bytes in, RGB pixels out, by one written policy.

Every extractor and the predictor see an image through this package only. What it does is part of each extractor's
fingerprint by `DECODER_VERSION`: raise that number with any change that can change a pixel.

========================  =============================================================================================
formats                   JPEG (MPO too), PNG, BMP, GIF, TIFF, WebP, PBM/PGM/PPM, told by their first bytes and never by
                          the file's name. No other parser is reached.
rotation                  EXIF orientation is applied (mirroring too). Orientation that cannot be parsed counts as none.
8-bit greyscale, 1 bit    three equal channels.
palette                   looked up.
transparency              composited on white, as pages and viewers show it; the colours hidden under transparent pixels
                          are what the drawing program left there.
16-bit greyscale          the high byte, as in 16-bit colour: 0 to 65535 become 0 to 255 linearly, nothing is clipped.
                          A TIFF that declares 12 bits is taken as 0 to 4095; one where 0 is white is inverted.
32-bit, signed or float   have no range of their own: the smallest value becomes 0, the largest 255, linearly. NaN and
                          minus infinity become 0, infinity 255.
CMYK, YCbCr, Lab          converted by Pillow's formulas; CMYK JPEGs are taken as inverted, as Adobe writes them.
more channels             of a TIFF that says what they are: RGB, and transparency if the fourth is; the others are left
                          out. Any other TIFF of five channels is unreadable, and so is one in separate planes of more
                          than 8 bits that is not compressed (Pillow misreads it); the reason says what it holds.
colour profiles           ignored, broken ones too: the networks were trained on pictures read without them.
several pages or frames   the first.
reduced size              a JPEG that is much larger than what is wanted of it, if it is told (`decode`'s `enough`), is
                          decoded at a half, a quarter or an eighth; all other images always whole.
========================  =============================================================================================

What is not used, and its status:

========================  =============================================================================================
zero bytes                unreadable, as are texts, SVG, HTML and other files that are named like an image.
truncated                 unreadable: half a picture is not what was labelled.
damaged inside            unreadable if its parser notices. What a format has no checksum for shows as in any viewer:
                          a JPEG that ends properly but lacks pixels before that is grey there.
over `max_pixels`         too large, by the header, before anything is decoded: 20,000 x 20,000 pixels by default, and
                          not 1 x 10,000. A TIFF's tiles count as they are, however small the image. Pillow's own limit
                          of 178 megapixels stays in force for WebP, MPO, GIF's frames and tiled TIFF.
bombs                     a PNG whose comments or colour profile unpack to more than a mebibyte each is unreadable.
memory                    an image that takes more than decoders may have (`offshelf.extraction.decoding`) is too large.
========================  =============================================================================================
"""

from typing import Final

from offshelf.images.decoder import decode, decode_image
from offshelf.images.outcomes import ImageStatus, UnusableImage

__all__ = ["DECODER_VERSION", "ImageStatus", "UnusableImage", "decode", "decode_image"]

DECODER_VERSION: Final = 2
"""Version of the policy above; part of every extractor's fingerprint."""
