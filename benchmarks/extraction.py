"""Extraction against the engine alone, and against one image at a time: images per second, memory, and start.

Usage: python benchmarks/extraction.py [EXTRACTOR,…] [PHOTOS]

By default resnet50, googlenet and lab888 over 1,000 generated JPEGs of 500 x 375 pixels; memory over 100, 1,000 and
10,000 (or PHOTOS, if that is less). What is compared runs in turns, several times, on the cores of OFFSHELF_CORES
(default 2), and the median of the ratios counts: machines differ and are noisy. A network whose weights are not in
OFFSHELF_WEIGHTS has random ones, which cost the same. Keras on TensorFlow gets an environment of its own under build/.
The last line is one JSON object; the exit status is 1 if a bar is missed.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bars import Bar, report
from benchmarks.extracting import one_by_one, photos, service
from benchmarks.extracting.raw import RawEngine
from benchmarks.extracting.weights import network_for
from offshelf.extraction.conversion import network_of
from offshelf.extraction.engine import Engine
from offshelf.extraction.registry import find
from offshelf.extraction.runtime import load_openvino
from offshelf.extraction.spec import PRECISIONS, Network
from offshelf.extraction.squeezing import squeezed
from offshelf.images import decode_image
from offshelf.store import open_store
from tests.integration.rclone_s3 import BUCKET, serve_s3

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.extracting.service import Photos, Service
    from offshelf.extraction.spec import ExtractorSpec

ROUNDS = 3
RAW_SECONDS = 4.0
ONE_BY_ONE_SECONDS = 8.0
COUNTS = (100, 1_000, 10_000)
"""Photos over which memory is measured, with the last network that is named."""
KERAS = "3.15.1"
TENSORFLOW = "2.21.0"

OVER_RAW = {"resnet50": 0.92, "googlenet": 0.85}
"""What the service has to reach of the engine alone, from disk and from S3."""
OVER_ONE_BY_ONE = {"resnet50": 3.3}
_RATIOS = {"service_over_raw": "disk", "service_over_raw_s3": "s3"}
BF16_OVER_F32 = 1.7
LEAST_COSINE = 0.999
WITH_WEIGHTS = "googlenet"
"""The network whose real weights the test material has."""
READY_SECONDS = 2.0
PEAK_GROWTH = 1.1


def median_ratio(above: Iterable[float], below: Iterable[float]) -> float:
    """Median of the ratios of what was measured in turns."""
    return statistics.median(one / other for one, other in zip(above, below, strict=True))


class Comparison:
    """One extractor, measured in turns."""

    def __init__(self, spec: ExtractorSpec, running: Service, raw: RawEngine | None) -> None:
        self._spec = spec
        self._running = running
        self._raw = raw
        self.ways: dict[str, list[float]] = {}
        self.figures: dict[str, list[float]] = {"raw": [], "disk": [], "s3": [], "one_by_one": []}

    def turn(self, setting: Setting) -> None:
        """Measure each once."""
        if self._raw:
            rates = self._raw.images_per_second(RAW_SECONDS)
            for way, rate in rates.items():
                self.ways.setdefault(way, []).append(rate)
            self.figures["raw"].append(max(rates.values()))
        self.figures["disk"].append(self._running.images_per_second(setting.disk, setting.count))
        self.figures["s3"].append(self._running.images_per_second(setting.s3, setting.count))
        if self._spec.name in one_by_one.NETWORKS:
            self.figures["one_by_one"].append(one_by_one_rate(keras_environment(), self._spec.name, setting.photos))
        print(self._spec.name, {name: round(rates[-1], 1) for name, rates in self.figures.items() if rates}, flush=True)

    def rates(self) -> dict[str, float]:
        """Images per second."""
        return {name: statistics.median(measured) for name, measured in self.figures.items() if measured}

    def over_raw(self, place: str) -> float:
        """What the service reaches of the engine in its best way, whichever it is: the same in all turns."""
        best = max(self.ways, key=lambda way: statistics.median(self.ways[way]))
        return median_ratio(self.figures[place], self.ways[best])


def one_by_one_rate(python: Path, name: str, folder: Path) -> float:
    """Images per second of Keras on TensorFlow."""
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command: list[str | Path] = [python, one_by_one.__file__, name, folder, str(ONE_BY_ONE_SECONDS)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def keras_environment() -> Path:
    """Make the environment that FrImCla's way runs in, once; returns its interpreter."""
    folder = Path(__file__).parents[1] / "build" / "keras"
    python = folder / "bin" / "python"
    if not (folder / ".complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        packages = [f"keras=={KERAS}", f"tensorflow-cpu=={TENSORFLOW}", "pillow"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (folder / ".complete").touch()
    return python


@dataclass(frozen=True)
class Setting:
    """Where everything is, and with how many cores and photos it is measured."""

    folder: Path
    store: str
    weights: str
    cores: int
    count: int
    photos: Path
    """The generated JPEGs, as many as anything needs."""
    disk: Photos
    s3: Photos
    real_photos: tuple[Path, ...]
    """Of the test material; empty without it."""


class Figures(dict[str, Any]):
    """All that is measured: by its name, and by the extractor's."""

    def note(self, name: str, extractor: str, figure: Any) -> None:
        """Write a figure of an extractor down."""
        self.setdefault(name, {})[extractor] = figure


def compare(spec: ExtractorSpec, setting: Setting, figures: Figures) -> None:
    """Measure one extractor in turns."""
    raw = None
    if isinstance(spec.method, Network):
        network = network_for(spec, open_store(setting.store), setting.weights)
        raw = RawEngine(network, precision=spec.method.precision, cores=setting.cores)
    with service.running(spec, setting.store, setting.folder, cores=setting.cores) as running:
        running.images_per_second(setting.disk, min(setting.count, 100))
        comparison = Comparison(spec, running, raw)
        for _ in range(ROUNDS):
            comparison.turn(setting)
    if raw:
        for ratio, place in _RATIOS.items():
            figures.note(ratio, spec.name, comparison.over_raw(place))
    if comparison.figures["one_by_one"]:
        measured = comparison.figures
        figures.note("service_over_one_by_one", spec.name, median_ratio(measured["disk"], measured["one_by_one"]))
    figures.note("images_per_s", spec.name, comparison.rates())
    with service.running(spec, setting.store, setting.folder, cores=setting.cores) as again:
        figures.note("ready_s", spec.name, again.ready_s)


def bars_of(name: str) -> list[Bar]:
    """What an extractor's figures have to reach."""
    bars = [Bar(f"ready_s.{name}", "at most", READY_SECONDS)]
    if name in OVER_RAW:
        bars += [Bar(f"{figure}.{name}", "at least", OVER_RAW[name]) for figure in _RATIOS]
    if name in OVER_ONE_BY_ONE:
        bars.append(Bar(f"service_over_one_by_one.{name}", "at least", OVER_ONE_BY_ONE[name]))
    return bars


def compare_precisions(name: str, setting: Setting) -> float:
    """How much faster the engine is in bf16."""
    raw = {}
    for precision in PRECISIONS:
        spec = find(f"{name}:{precision}")
        network = network_for(spec, open_store(setting.store), setting.weights)
        raw[precision] = RawEngine(network, precision=precision, cores=setting.cores)
    turns = [{one: max(raw[one].images_per_second(RAW_SECONDS).values()) for one in raw} for _ in range(ROUNDS)]
    return median_ratio([turn["bf16"] for turn in turns], [turn["f32"] for turn in turns])


def least_cosine(spec: ExtractorSpec, photos: Sequence[Path], setting: Setting) -> float:
    """How near the vectors of real photos by real weights in bf16 are to those in f32, at least."""
    assert isinstance(spec.method, Network)  # noqa: S101
    network = network_of(spec, store=open_store(setting.store), weights=setting.weights)
    size = spec.method.size
    pixels = [squeezed(decode_image(path.read_bytes(), max_pixels=10**8), size=size) for path in photos]
    units = []
    for precision in PRECISIONS:
        engine = Engine(network, cores=setting.cores, precision=precision)
        vectors = np.stack([engine.infer(image) for image in pixels]).astype(np.float64)
        units.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return float((units[0] * units[1]).sum(axis=1).min())


def memory(spec: ExtractorSpec, setting: Setting) -> dict[int, float]:
    """Most memory of a fresh service, in MiB, by the number of photos that it extracts."""
    found = {}
    available = len(setting.disk.images)
    for count in sorted({min(count, available) for count in COUNTS}):
        with service.running(spec, setting.store, setting.folder, cores=setting.cores) as running:
            found[count] = running.peak_mb(setting.disk, count)
        print(spec.name, f"{count} photos", f"{found[count]:.0f} MB", flush=True)
    return found


def has_bf16() -> bool:
    """Whether this CPU has instructions for 16-bit floats."""
    return "BF16" in load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def measure(names: list[str], setting: Setting) -> tuple[Figures, list[Bar]]:
    """Measure all that is asked for; the figures, and what they have to reach."""
    figures = Figures()
    bars: list[Bar] = []
    for name in names:
        compare(find(name), setting, figures)
        bars += bars_of(name)
    networks = [name for name in names if isinstance(find(name).method, Network)]
    if networks and has_bf16():
        figures["bf16_over_f32"] = compare_precisions(networks[0], setting)
        bars.append(Bar("bf16_over_f32", "at least", BF16_OVER_F32))
    elif networks:
        figures["bf16_over_f32"] = "not measured: this CPU has no instructions for it"
    if has_bf16() and setting.real_photos:
        figures["bf16_cosine_least"] = least_cosine(find(WITH_WEIGHTS), setting.real_photos, setting)
        bars.append(Bar("bf16_cosine_least", "at least", LEAST_COSINE))
    else:
        figures["bf16_cosine_least"] = "not measured: no instructions for it, or no real photos and weights"
    # The quickest: memory does not depend on how long each photo takes.
    quickest = min(names, key=lambda name: find(name).cost_seconds)
    peaks = memory(find(networks[-1] if networks else quickest), setting)
    figures["peak_mb"] = peaks
    if len(peaks) == len(COUNTS):
        figures["peak_growth"] = peaks[COUNTS[2]] / peaks[COUNTS[1]]
        bars.append(Bar("peak_growth", "at most", PEAK_GROWTH))
    return figures, bars


def main(arguments: list[str]) -> int:
    """Measure, print, and return the exit status."""
    names = arguments[0].split(",") if arguments else ["resnet50", "googlenet", "lab888"]
    count = int(arguments[1]) if len(arguments) > 1 else 1_000
    most = COUNTS[-1] if count == 1_000 else count
    cores = int(os.environ.get("OFFSHELF_CORES", "2"))
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # and so for all that is started here
    material = os.environ.get("OFFSHELF_TEST_MATERIAL", "")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "s3").mkdir()
        with serve_s3(folder / "s3") as server:
            os.environ |= {**server.environ, "OFFSHELF_S3_ENDPOINT": f"http://{server.address}"}
            os.environ["OFFSHELF_DATA_BUCKETS"] = bucket = "s3://photos"
            drawn = photos.generate(folder / "photos", most)
            shutil.copytree(drawn, folder / "s3" / "photos")
            store = f"s3://{BUCKET}/store"
            setting = Setting(
                folder=folder,
                store=store,
                weights=os.environ.get("OFFSHELF_WEIGHTS", "") or (f"{material}/weights" if material else ""),
                cores=cores,
                count=count,
                photos=drawn,
                disk=service.register(store, str(drawn)),
                s3=service.register(store, bucket, (bucket,)),
                real_photos=tuple(sorted(Path(material).glob("images/dogs-cats/test/*/*"))) if material else (),
            )
            figures, bars = measure(names, setting)
    return report({"cores": cores, "photos": count, **figures}, bars)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
