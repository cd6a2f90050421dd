"""How images are built: which tool is asked for what, and when nothing has to be done."""

from __future__ import annotations

import json
import tarfile
from contextlib import nullcontext
from io import BytesIO
from typing import IO, TYPE_CHECKING

import pytest

from containers import images
from containers.archives import merge
from containers.engines import Build, Buildah, Engine, EngineError, Image
from containers.recipes import BASE, IMAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

MEGABYTE = 10**6
BASE_IMAGE = Image("base-id", "", {"sha256:base": 200 * MEGABYTE})
ORDER = Build(
    name="localhost/offshelf-sdk:dev",
    containerfile="containers/Containerfile",
    arguments={"BASE": BASE, "IMAGE": "sdk"},
    secrets={"pip": "/etc/pip.conf"},
    flags=("--no-cache",),
)


class Shell:
    """Answers commands from a table by how they begin, and fails the others."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, command: Sequence[str], *, show: bool = False) -> str:  # noqa: ARG002 - the form of Run
        """Answer one command."""
        line = " ".join(command)
        self.asked.append(line)
        for beginning, answer in self.answers.items():
            if line.startswith(beginning):
                return answer
        raise EngineError(f"{line} failed")


class FakeEngine(Engine):
    """Builds images at once, each with one layer of its own of so many MB."""

    def __init__(self, megabytes: int = 50) -> None:
        super().__init__("fake", Shell({}))
        self.megabytes = megabytes
        self.here: dict[str, Image] = {}
        self.built: list[Build] = []
        self.saved: list[list[str]] = []

    def pull(self, name: str) -> None:
        """Have the base."""
        assert name == BASE
        self.here[name] = BASE_IMAGE

    def build(self, build: Build) -> None:
        """Have another image under its name."""
        self.built.append(build)
        layers = {**BASE_IMAGE.layers, f"sha256:{len(self.built)}": self.megabytes * MEGABYTE}
        self.here[build.name] = Image(f"id-{len(self.built)}", build.arguments["INPUTS"], layers)

    def inspect(self, name: str) -> Image | None:
        """Look it up."""
        return self.here.get(name)

    def save(self, names: Sequence[str], target: Path) -> None:
        """Write something."""
        self.saved.append(list(names))
        target.write_bytes(b"archive")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., int]:
    """`make images` with a fake engine, whose output goes to a folder of its own."""
    return lambda engine, *arguments: images.main([*arguments, "--output", str(tmp_path)], lambda _: engine)


def archive_of(config: str, tag: str, layers: dict[str, bytes]) -> BytesIO:
    """What `docker save` writes of one image."""
    manifest = [{"Config": f"{config}.json", "RepoTags": [tag], "Layers": [f"{layer}.tar" for layer in layers]}]
    files = {**{f"{layer}.tar": content for layer, content in layers.items()}, f"{config}.json": b"{}"}
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in {**files, "old/VERSION": b"1.0", "manifest.json": json.dumps(manifest).encode()}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
        link = tarfile.TarInfo("old/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../layer.tar"
        archive.addfile(link)
    stream.seek(0)
    return stream


def test_builds_what_users_get(make: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`make images` builds every image under its name, and leaves their sizes in a table and in a file."""
    engine = FakeEngine()
    assert make(engine, "build", "--tag", "1.2") == 0
    assert [order.name for order in engine.built] == [f"localhost/offshelf-{name}:1.2" for name in IMAGES]
    assert [order.arguments["IMAGE"] for order in engine.built] == list(IMAGES)
    written = json.loads((tmp_path / "images.json").read_text())
    assert {row["name"]: row["megabytes"] for row in written["images"]} == {order.name: 50 for order in engine.built}
    table = capsys.readouterr().out
    assert all(order.name in table for order in engine.built)


def test_builds_only_what_changed(make: Callable[..., int]) -> None:
    """A second `make images` builds nothing; another tag, or an image that is gone, is built."""
    engine = FakeEngine()
    make(engine, "build", "sdk", "stats")
    make(engine, "build", "sdk", "stats")
    assert len(engine.built) == 2
    del engine.here["localhost/offshelf-stats:dev"]
    make(engine, "build", "sdk", "stats")
    make(engine, "build", "sdk", "--tag", "other")
    assert [order.name for order in engine.built[2:]] == [
        "localhost/offshelf-stats:dev",
        "localhost/offshelf-sdk:other",
    ]


def test_another_base_builds_again(make: Callable[..., int]) -> None:
    """A base with security fixes reaches the images, though nothing of ours has changed."""
    engine = FakeEngine()
    make(engine, "build", "sdk")
    engine.here[BASE] = Image("newer-id", "", BASE_IMAGE.layers)
    make(engine, "build", "sdk")
    assert len(engine.built) == 2


def test_too_large_an_image_fails(make: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An image over its limit is named, and the command fails."""
    assert make(FakeEngine(megabytes=80), "build", "sdk", "stats") == 1
    sizes = {row["name"]: row["within"] for row in json.loads((tmp_path / "images.json").read_text())["images"]}
    assert sizes == {"localhost/offshelf-sdk:dev": False, "localhost/offshelf-stats:dev": True}
    assert capsys.readouterr().out.count("TOO LARGE") == 1


def test_unknown_image_is_refused(make: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is no image is answered with the ones that are."""
    assert make(FakeEngine(), "build", "trainr") == 2
    assert "did you mean trainer?" in capsys.readouterr().err


def test_archive_is_written_once(make: Callable[..., int]) -> None:
    """The archive for a node is only written again when an image in it has changed."""
    engine = FakeEngine()
    make(engine, "build", "sdk", "stats")
    for _ in range(2):
        assert make(engine, "archive", "sdk", "stats") == 0
    assert engine.saved == [["localhost/offshelf-sdk:dev", "localhost/offshelf-stats:dev"]]
    engine.here["localhost/offshelf-sdk:dev"] = Image("changed", "", {})
    make(engine, "archive", "sdk", "stats")
    assert len(engine.saved) == 2


def test_archive_needs_images(make: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """An archive of what was never built is refused with the command to run first."""
    assert make(FakeEngine(), "archive", "sdk") == 2
    assert "run make images" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["docker", "podman"])
def test_docker_and_podman_are_told_everything(name: str) -> None:
    """Build arguments, secrets and the user's own flags reach the tool."""
    shell = Shell({f"{name} build": ""})
    Engine(name, shell).build(ORDER)
    (asked,) = shell.asked
    assert asked == (
        f"{name} build --file containers/Containerfile --tag localhost/offshelf-sdk:dev --build-arg BASE={BASE} "
        "--build-arg IMAGE=sdk --secret id=pip,src=/etc/pip.conf --no-cache ."
    )


def docker_answer(size: int, labels: dict[str, str] | None, *layers: str) -> str:
    """What `docker image inspect` prints of an image."""
    return json.dumps([{"Id": "id", "Size": size, "Config": {"Labels": labels}, "RootFS": {"Layers": layers}}])


def test_docker_and_podman_measure_by_the_whole() -> None:
    """The size of an image is what it has more than its base, or all of it if it stands on no base."""
    shell = Shell(
        {
            "docker image inspect ours": docker_answer(250, {"dev.offshelf.inputs": "digest"}, "base", "code"),
            "docker image inspect scratch": docker_answer(80, None, "binary"),
            "docker image inspect python": docker_answer(200, None, "base"),
        }
    )
    engine = Engine("docker", shell)
    ours, scratch, base = (engine.inspect(name) for name in ("ours", "scratch", "python"))
    assert ours is not None
    assert scratch is not None
    assert base is not None
    assert (ours.inputs, ours.bytes_over(base), scratch.bytes_over(base)) == ("digest", 50, 80)
    assert engine.inspect("another") is None


def buildah_answer(identity: str, layers: dict[str, int]) -> str:
    """What `buildah inspect` prints of an image."""
    return json.dumps(
        {
            "FromImageID": identity,
            "Manifest": json.dumps({"layers": [{"size": size} for size in layers.values()]}),
            "OCIv1": {"config": {}, "rootfs": {"diff_ids": list(layers)}},
        }
    )


def test_buildah_measures_by_layers() -> None:
    """The size of an image is that of the layers which its base has not, even if the base came compressed."""
    shell = Shell(
        {
            "buildah inspect --type image ours": buildah_answer("1", {"sha256:base": 200, "sha256:code": 7}),
            "buildah inspect --type image python": buildah_answer("0", {"sha256:base": 60}),
        }
    )
    image, below = Buildah(shell).inspect("ours"), Buildah(shell).inspect("python")
    assert image is not None
    assert below is not None
    assert image.bytes_over(below) == 7


@pytest.mark.parametrize(("isolates", "flags"), [(True, False), (False, True)])
def test_buildah_works_inside_a_container(*, isolates: bool, flags: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be isolated further, a build falls back to a chroot; nowhere else."""
    monkeypatch.delenv("BUILDAH_ISOLATION", raising=False)
    answers = {"buildah from": "made-container\n", "buildah rm made-container": "", "buildah bud": ""}
    shell = Shell(answers | ({"buildah run": ""} if isolates else {}))
    Buildah(shell).build(ORDER)
    assert shell.asked[-1].startswith("buildah bud --layers --file containers/Containerfile")
    assert ("--isolation chroot --network host" in shell.asked[-1]) is flags
    assert "buildah rm made-container" in shell.asked


def test_engine_that_does_not_answer_is_passed_over() -> None:
    """A docker command without its daemon does not count."""
    assert not Engine("docker", Shell({})).answers()
    assert Engine("docker", Shell({"docker info": ""})).answers()


def test_archives_share_their_layers(tmp_path: Path) -> None:
    """The archive of several images holds what they share once, and every image by its name."""
    base, code, more = ("a" * 64, "b" * 64, "c" * 64)
    streams: list[IO[bytes]] = [
        archive_of("d" * 64, "localhost/one:dev", {base: b"base", code: b"one"}),
        archive_of("e" * 64, "localhost/two:dev", {base: b"base", more: b"two"}),
    ]
    merge((nullcontext(stream) for stream in streams), tmp_path / "images.tar")
    with tarfile.open(tmp_path / "images.tar") as archive:
        names = archive.getnames()
        content = archive.extractfile("manifest.json")
        assert content is not None
        manifest = json.load(content)
    assert sorted(names) == sorted(
        [*(f"{x * 64}.tar" for x in "abc"), *(f"{x * 64}.json" for x in "de"), "manifest.json"]
    )
    assert [image["RepoTags"] for image in manifest] == [["localhost/one:dev"], ["localhost/two:dev"]]


def test_archive_that_ends_early_is_not_kept(tmp_path: Path) -> None:
    """A half-written archive never looks like a whole one."""
    whole = archive_of("d" * 64, "localhost/one:dev", {"a" * 64: b"layer" * 1000}).getvalue()
    for end in (0, 1024, 6000):
        with pytest.raises((ValueError, tarfile.TarError)):
            merge([nullcontext(BytesIO(whole[:end]))], tmp_path / "images.tar")
    assert not list(tmp_path.iterdir())
