"""Build the images, see that none is too large, and write them into one archive: what `make images` calls.

``python -m containers.images build [NAME ...]`` builds what changed, writes build/images.json and fails if an image is
over its limit. ``python -m containers.images archive [NAME ...]`` writes build/images.tar for loading into a node.
"""

from __future__ import annotations

import argparse
import difflib
import json
import subprocess
import sys
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.engines import Build, Engine, EngineError, Image, find_engine
from containers.recipes import BASE, IMAGES, ROOT, SERVING_IMAGES, TEST_IMAGES, Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MEGABYTE: Final = 10**6


def chosen(names: Sequence[str]) -> list[Recipe]:
    """Find the recipes of names; without any, those of all that users get.

    Raises
    ------
    EngineError
        If there is no such image.
    """
    known = {**IMAGES, **SERVING_IMAGES, **TEST_IMAGES}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise EngineError(
                f"there is no image {name!r}{f' (did you mean {near[0]}?)' if near else ''}: {', '.join(known)}"
            )
    return [known[name] for name in names] or list(IMAGES.values())


def revision(recipe: Recipe) -> str:
    """Commit that last changed what an image is made from, with "+modified" if it differs; empty outside of git."""
    # By the inputs alone, so that a commit to something else gives the same image again.
    places = [*recipe.sources, *(f"requirements/images/{name}.txt" for name in recipe.requirements)]
    try:
        commit = _git("log", "-1", "--format=%H", "--", *places)
        modified = _git("status", "--porcelain", "--", *places)
    except (subprocess.CalledProcessError, OSError):
        return ""
    return f"{commit}{'+modified' if modified and commit else ''}"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@dataclass(frozen=True, slots=True)
class Built:
    """An image that is as it should be, apart from its size perhaps."""

    name: str
    id: str
    megabytes: float
    """What it adds to the base, uncompressed."""
    limit: int
    rebuilt: bool

    @property
    def within(self) -> bool:
        """Whether it is not too large."""
        return self.megabytes < self.limit


def build(engine: Engine, recipes: Sequence[Recipe], options: argparse.Namespace) -> list[Built]:
    """Build what changed."""
    base = engine.inspect(options.base)
    if base is None:
        engine.pull(options.base)
        base = _there(engine, options.base)
    done = []
    for recipe in recipes:
        name = f"{options.registry}/{recipe.image}:{options.tag}"
        commit = revision(recipe)
        inputs = recipe.digest(base.id, commit)
        image = engine.inspect(name)
        fresh = image is not None and image.inputs == inputs
        if image is None or not fresh:
            engine.build(_order(recipe, name, options, INPUTS=inputs, REVISION=commit))
            image = _there(engine, name)
        size = round(image.bytes_over(base) / MEGABYTE, 1)
        done.append(Built(name, image.id, size, recipe.limit, rebuilt=not fresh))
    return done


def _there(engine: Engine, name: str) -> Image:
    image = engine.inspect(name)
    if image is None:
        raise EngineError(f"{engine.name} made {name}, and does not find it")
    return image


def _order(recipe: Recipe, name: str, options: argparse.Namespace, **labels: str) -> Build:
    arguments = {"BASE": options.base, "INPUTS": labels["INPUTS"]}
    if recipe.name not in TEST_IMAGES:
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        arguments |= {"IMAGE": recipe.name, "COMMON": recipe.common, "VERSION": version, **labels}
    secrets = {"pip": options.pip_config, "ca": options.ca}
    return Build(
        name=name,
        containerfile=recipe.containerfile,
        arguments=arguments,
        secrets={secret: path for secret, path in secrets.items() if path},
        flags=options.flags.split(),
    )


def report(engine: Engine, images: Sequence[Built], options: argparse.Namespace) -> None:
    """Print the table of sizes, and write it into build/images.json."""
    rows = [{**asdict(image), "within": image.within} for image in images]
    options.output.mkdir(exist_ok=True)
    text = json.dumps({"engine": engine.name, "base": options.base, "images": rows}, indent=2)
    (options.output / "images.json").write_text(text + "\n")
    print(f"\n{'image':<44} {'MB over base':>12} {'limit':>6}")
    for image in images:
        notes = ("" if image.rebuilt else "  unchanged") + ("" if image.within else "  TOO LARGE")
        print(f"{image.name:<44} {image.megabytes:>12} {image.limit:>6}{notes}")


def archive(engine: Engine, recipes: Sequence[Recipe], options: argparse.Namespace) -> None:
    """Write images into build/images.tar, unless it holds just these already."""
    names = [f"{options.registry}/{recipe.image}:{options.tag}" for recipe in recipes]
    images = {name: engine.inspect(name) for name in names}
    missing = [name for name, image in images.items() if image is None]
    if missing:
        raise EngineError(f"{', '.join(missing)}: not built yet: run make images")
    content = json.dumps({name: image.id for name, image in images.items() if image is not None})
    target, record = options.output / "images.tar", options.output / "images.tar.json"
    if target.is_file() and record.is_file() and record.read_text() == content:
        print(f"{target}: unchanged")
        return
    options.output.mkdir(exist_ok=True)
    record.unlink(missing_ok=True)
    engine.save(names, target)
    record.write_text(content)
    print(f"{target}: {len(names)} images, {target.stat().st_size / MEGABYTE:.0f} MB")


def main(arguments: Sequence[str], find: Callable[[str], Engine] = find_engine) -> int:
    """Do what the command line says and return the exit status."""
    parser = argparse.ArgumentParser(prog="containers.images")
    parser.add_argument("command", choices=("build", "archive"))
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"{', '.join(IMAGES)}; besides {', '.join(SERVING_IMAGES)}; for tests {', '.join(TEST_IMAGES)}",
    )
    parser.add_argument("--output", type=Path, default=Path("build"), help="folder of images.json and images.tar")
    parser.add_argument("--registry", default="localhost")
    parser.add_argument("--tag", default="dev")
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--engine", default="", help="docker, podman or buildah; else the first that answers")
    parser.add_argument("--pip-config", default="", help="pip's configuration file for the time of the build")
    parser.add_argument("--ca", default="", help="certificates that pip trusts for the time of the build")
    parser.add_argument("--flags", default="", help="further arguments for the engine's build command")
    options = parser.parse_args(arguments)
    try:
        engine = find(options.engine)
        recipes = chosen(options.names)
        if options.command == "archive":
            archive(engine, recipes, options)
        else:
            images = build(engine, recipes, options)
            report(engine, images, options)
            if not all(image.within for image in images):
                print("An image is too large: see containers/shrink.py and containers/recipes.py.", file=sys.stderr)
                return 1
    except (EngineError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
