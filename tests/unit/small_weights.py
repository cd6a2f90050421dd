"""Networks whose weights are some bytes each, for tests of how weights are found and moved about."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from offshelf.extraction.registry import EXTRACTORS
from offshelf.extraction.spec import Network, Weights, WeightsFile

if TYPE_CHECKING:
    from offshelf.extraction.spec import ExtractorSpec

CONTENT = {"one.h5": b"1" * 100_000, "one_classes.h5": b"c" * 3000, "two.h5": b"2" * 2000, "theirs": b"3" * 4000}
"""Files by name: of the network "one", its classes, of "two", and of "restricted"."""

RESTRICTION = "These weights are for research alone."


def small_networks(base: str = "") -> dict[str, ExtractorSpec]:
    """Make three networks whose authors publish their files below an address; that of "restricted" is not published."""

    def weights(name: str, algorithm: str = "sha256", *, published: bool = True) -> Weights:
        data = CONTENT[name]
        digest = len(data) if algorithm == "size" else hashlib.new(algorithm, data).hexdigest()
        source = f"{base}/{name}" if base and published else ""
        file = WeightsFile(name, f"{algorithm}:{digest}", source=source, size=len(data))
        return Weights(f"the weights {name}", (file,), "MIT", restriction="" if published else RESTRICTION)

    network = EXTRACTORS["squeezenet"].method
    assert isinstance(network, Network)
    one = replace(
        network,
        weights=weights("one.h5"),
        classes_weights=weights("one_classes.h5"),
        outputs={**network.outputs, "classes": 1000},
    )
    two = replace(network, weights=weights("two.h5", "md5"))
    restricted = replace(network, weights=weights("theirs", "size", published=False))
    made = {"one": one, "two": two, "restricted": restricted}
    return {name: replace(EXTRACTORS["squeezenet"], name=name, method=method) for name, method in made.items()}
