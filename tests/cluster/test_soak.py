"""Ordinary use for a long time: nothing fails, no process grows, and nothing is left of what was deleted."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from minio import Minio

from offshelf import Client
from offshelf.errors import OffshelfError
from offshelf.store import keys
from tests.cluster import photos
from tests.cluster.installation import BUCKET, NAMESPACE, S3_PORT, figures_of, pods_of, read, state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cluster.installation import Deployed

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))

pytestmark = [pytest.mark.cluster, pytest.mark.nightly, pytest.mark.timeout(int(MINUTES * 60) + 1800)]

IMAGES = 60
WATCHED = ("orchestrator", "stats", "predictor")
"""Services whose pods stay, unlike those that are scaled with the work."""
_HOPELESS = 20
"""Failures after which there is nothing more to learn."""
GROWTH = 1.10
"""How much more memory a process may have at the end than after a third of the time: what grows with use goes on."""
SLACK_BYTES = 20e6


class Use:
    """What some users do at the same time, again and again, and what went wrong."""

    def __init__(self, deployed: Deployed, folder: Path) -> None:
        self._deployed = deployed
        self._folder = folder
        self._over = threading.Event()
        self._model = ""
        self.failures: list[str] = []
        self.done: dict[str, int] = defaultdict(int)

    def go_on(self, seconds: float, meanwhile: Callable[[], None]) -> None:
        """Use it for a while."""
        users = [
            threading.Thread(target=self._again, args=(what, pause))
            for what, pause in (
                (self._work, 1.0),
                (self._predict, 0.05),
                (self._predict, 0.05),
                (self._look_around, 1.0),
            )
        ]
        for user in users:
            user.start()
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end and len(self.failures) < _HOPELESS:
                time.sleep(30)
                meanwhile()
        finally:
            self._over.set()
            for user in users:
                user.join()

    def _again(self, what: Callable[[Client, int], bool], pause: float) -> None:
        with Client(self._deployed.server, self._deployed.token, self._deployed.authority) as client:
            for number in itertools.count():
                if self._over.wait(pause):
                    return
                try:
                    self.done[what.__name__] += what(client, number)
                except Exception as error:  # noqa: BLE001  (each is a failure that a user sees)
                    self.failures.append(f"{what.__name__}: {error!r}")

    def _work(self, client: Client, number: int) -> bool:
        """Run on a dataset that nobody has seen, and delete the one before it."""
        name = f"soak-{number}"
        folder = photos.generate(self._folder / name, IMAGES, first=number * IMAGES)
        run = client.run(folder, extractors=("hog", "haralick"), classifiers=("LR", "KNN"), folds=3).watch()
        self._model = run.result.model
        if number:
            client.delete_dataset(f"soak-{number - 1}")
        return True

    def _predict(self, client: Client, number: int) -> bool:
        if not (model := self._model):
            return False
        photo = self._folder / f"photo-{threading.get_ident()}.jpg"
        if number % 10 == 0:
            photo.write_bytes(b"no image at all")
        else:
            photo.write_bytes(next((self._folder / "soak-0" / "sea").iterdir()).read_bytes())
        try:
            answer = client.model(model).predict(photo)
        except OffshelfError:
            if model == self._model:
                raise
            return False  # it was deleted with its dataset while it was asked
        assert bool(answer.error) == (number % 10 == 0), answer.error
        return True

    def _look_around(self, client: Client, number: int) -> bool:
        """List everything, and turn away from a run in the middle of what it says."""
        del number
        list(client.datasets())
        for run in itertools.islice(client.runs(), 3):
            next(client.get(run.id).updates(), None)
        return True


def test_nothing_grows_and_nothing_is_left(deployed: Deployed, tmp_path: Path) -> None:
    """People may use an installation for as long as they like; what they delete is gone."""
    pods = pods_of(*WATCHED)
    assert len(pods) >= len(WATCHED)
    samples: dict[str, list[dict[str, float]]] = {pod: [] for pod in pods}

    def sample() -> None:
        for pod in pods:
            samples[pod].append(figures_of(pod))

    use = Use(deployed, tmp_path)
    use.go_on(MINUTES * 60, sample)
    print(f"\ndone: {dict(use.done)}")  # noqa: T201
    assert not use.failures, f"{len(use.failures)}: {use.failures[:5]}\n{state()}"
    assert use.done["_work"] > 1
    assert use.done["_predict"] > 1

    for pod, seen in samples.items():
        for figure, growth, slack in (
            ("process_resident_memory_bytes", GROWTH, SLACK_BYTES),
            ("process_open_fds", 1.0, 20),
        ):
            early, late = seen[len(seen) // 3][figure], seen[-1][figure]
            print(f"{pod} {figure}: {early:.0f} after a third, {late:.0f} at the end")  # noqa: T201
            assert late <= growth * early + slack, f"{pod} {figure}: {[each[figure] for each in seen]}"
    restarts = {
        pod["metadata"]["name"]: status["restartCount"]
        for pod in read("get", "pods", "--namespace", NAMESPACE)["items"]
        for status in pod["status"]["containerStatuses"]
        if pod["metadata"]["name"] in pods
    }
    assert set(restarts.values()) == {0}, restarts

    with Client(deployed.server, deployed.token, deployed.authority) as client:
        for dataset in list(client.datasets()):
            client.delete_dataset(dataset.digest)
    access, secret = deployed.s3_keys
    s3 = Minio(f"{deployed.host}:{S3_PORT}", access_key=access, secret_key=secret, secure=False, region="us-east-1")
    left = [found.object_name for found in s3.list_objects(BUCKET, recursive=True)]
    print(f"objects left: {len(left)}")  # noqa: T201
    assert left
    for prefix in (keys.IMAGES, keys.DATASETS, keys.FEATURES, keys.SCORES, keys.COMPARISONS, keys.REPORTS, keys.MODELS):
        assert not [name for name in left if (name or "").startswith(prefix)], left
