"""A kubectl for tests of k8s/scripts, with a cluster that is a folder: `KUBECTL_STATE`.

`manifests.yaml` is what it renders; `secrets/NAME.json` and `namespaces/NAME` are what there is; `load-balancer` is the
address that one has got; `calls` is what it was asked, a line each. What the scripts do not ask, it refuses.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

STATE = Path(os.environ["KUBECTL_STATE"])
SECRETS = STATE / "secrets"
FLAGS = ("--ignore-not-found", "--overwrite", "--all")

Options = dict[str, list[str]]


def parse(arguments: list[str]) -> tuple[list[str], Options]:
    """Split what was asked into words and options."""
    words: list[str] = []
    options: Options = {}
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith("--"):
            name, given, value = argument.partition("=")
            options.setdefault(name, []).append(value if given or name in FLAGS else next(rest))
        else:
            words.append(argument)
    return words, options


def kustomize(_words: list[str], _options: Options) -> str:
    """Render whatever is asked for."""
    return (STATE / "manifests.yaml").read_text()


def get(words: list[str], options: Options) -> str:
    """Show what there is."""
    if words == ["namespace", "offshelf"] and "--ignore-not-found" not in options:
        return (STATE / "namespaces/offshelf").read_text()  # fails if it is not there
    if words[:1] == ["secret"] and "ca.crt" in options["--output"][0]:
        content: dict[str, str] = json.loads((SECRETS / f"{words[1]}.json").read_text())
        return content["ca.crt"]
    names = sorted(path.stem for path in SECRETS.iterdir())
    one = "addresses[0]" in options.get("--output", [""])[0]
    balancer = STATE / "load-balancer"
    shown = {
        "--raw": "{}",
        "--filename": "deployment.apps/orchestrator\nservice/orchestrator\n",
        "namespace": "",
        "deployments": "",
        "nodes": "10.0.0.5" if one else "10.0.0.5 node-1",
        "service": balancer.read_text() if balancer.exists() else "",
        "secrets": " ".join(names),
        "persistentvolumeclaims,secrets,leases": "".join(f"secret/{name}\n" for name in names),
    }
    return shown[words[0] if words else next(name for name in shown if name in options)]


def create(words: list[str], options: Options) -> str:
    """Make a secret."""
    content: dict[str, str] = {}
    for source in options.get("--from-env-file", []):
        content |= dict(line.split("=", 1) for line in Path(source).read_text().splitlines())
    for source in options.get("--from-file", []):
        name, given, path = source.rpartition("=")
        files = sorted(Path(path).iterdir()) if Path(path).is_dir() else [Path(path)]
        content |= {name if given else file.name: file.read_text() for file in files}
    (SECRETS / f"{words[2]}.json").write_text(json.dumps(content))
    return f"secret/{words[2]} created\n"


def apply(_words: list[str], options: Options) -> str:
    """Take note of manifests; the namespace is always among them."""
    (source,) = options["--filename"]
    (STATE / "applied.yaml").write_text(sys.stdin.read() if source == "-" else Path(source).read_text())
    (STATE / "namespaces/offshelf").touch()
    return "namespace/offshelf configured\n"


def delete(words: list[str], options: Options) -> str:
    """Remove secrets or the namespace; of the rest there is nothing."""
    if words[:1] == ["namespace"]:
        (STATE / "namespaces" / words[1]).unlink()
    for word in words:
        (SECRETS / f"{word.removeprefix('secret/')}.json").unlink(missing_ok=True)
    return "".join(f"{Path(source).name} deleted\n" for source in options.get("--filename", []))


def nothing(_words: list[str], _options: Options) -> str:
    """Be done at once."""
    return ""


ANSWERS = {
    "kustomize": kustomize,
    "get": get,
    "create": create,
    "apply": apply,
    "delete": delete,
    "wait": nothing,
    "rollout": nothing,
}


if __name__ == "__main__":
    with (STATE / "calls").open("a") as calls:
        calls.write(" ".join(sys.argv[1:]) + "\n")
    asked, given = parse(sys.argv[1:])
    sys.stdout.write(ANSWERS[asked[0]](asked[1:], given))
