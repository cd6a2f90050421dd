"""Whether decision trees out of a file may be followed.

scikit-learn indexes memory with what stands in a tree's nodes and checks nothing: an altered file could crash the
process that serves it or have it read foreign memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def are_sound(estimator: Any) -> bool:
    """Tell whether every path in every tree inside an estimator ends in a leaf and reads only features that exist."""
    return all(_is_sound(tree) for tree in _trees(estimator))


def _is_sound(tree: Any) -> bool:
    import numpy as np

    count = tree.node_count
    left, right, feature = tree.children_left, tree.children_right, tree.feature
    if count < 1 or not len(left) == len(right) == len(feature) == len(tree.value) == count:
        return False
    inner = np.flatnonzero(left != -1)
    # scikit-learn numbers children after their parent, so following them must end.
    below = [(children[inner] > inner) & (children[inner] < count) for children in (left, right)]
    known = (feature[inner] >= 0) & (feature[inner] < tree.n_features)
    return bool((below[0] & below[1] & known).all())


def _trees(root: Any) -> Iterator[Any]:
    """Find all trees in what can be reached through attributes and containers."""
    import numpy as np
    from sklearn.tree._tree import Tree

    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Tree):
            yield node
        elif isinstance(node, dict):
            waiting.extend(node.values())
        elif isinstance(node, list | tuple | set):
            waiting.extend(node)
        elif isinstance(node, np.ndarray):
            if node.dtype == object:
                waiting.extend(node.ravel())
        elif not isinstance(node, type):
            waiting.extend(getattr(node, "__dict__", {}).values())
