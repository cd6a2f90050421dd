"""What networks with their real weights make of large photos, decoded at half their size."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offshelf.extraction.conversion import network_of
from offshelf.extraction.decoding import setup
from offshelf.extraction.engine import Engine
from offshelf.extraction.registry import EXTRACTORS
from offshelf.extraction.spec import Network
from offshelf.extraction.squeezing import squeezed
from offshelf.images import decode_image
from tests.unit.fakes import MemoryStore
from tests.unit.odd_images import encoded

PHOTOS = 8
LIMIT = 100_000_000


@pytest.mark.parametrize("name", ["googlenet", "squeezenet"])
def test_large_photos_have_the_features_that_they_have_decoded_whole(name: str) -> None:
    """The cosine between the features of a photo decoded whole and at half its size is at least 0.9995."""
    folder = os.environ.get("OFFSHELF_TEST_MATERIAL", "")
    if not folder:
        pytest.skip("OFFSHELF_TEST_MATERIAL is not set: there are no real weights and photos here")
    spec = EXTRACTORS[name]
    assert isinstance(spec.method, Network)
    network = network_of(spec, store=MemoryStore(), weights=str(Path(folder, "weights")))
    engine = Engine(network, cores=1)
    photos = sorted(Path(folder, "images", "dogs-cats", "test").glob("*/*"))
    for photo in photos[:: len(photos) // PHOTOS]:
        with Image.open(photo) as image:
            large = image.convert("RGB").resize((2400, 1840), Image.Resampling.BICUBIC)
        data = encoded(large, "JPEG", quality=90)
        whole = decode_image(data, max_pixels=LIMIT)
        reduced = decode_image(data, max_pixels=LIMIT, enough=setup(spec, LIMIT)["enough"])
        assert (whole.size, reduced.size) == ((2400, 1840), (1200, 920))
        one, other = (engine.infer(squeezed(each, size=spec.method.size)) for each in (whole, reduced))
        cosine = float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
        assert 0.9995 <= cosine < 1.0
