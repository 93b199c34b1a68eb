"""Trees: flattening, rebuilding, mapping, and the messages for trees that do not fit."""

import dataclasses
from collections import OrderedDict, namedtuple

import pytest

import dlc

Point = namedtuple("Point", "x y")


@dataclasses.dataclass(frozen=True)
class Pair:
    left: object
    right: object

    def __post_init__(self):
        if self.left is None:
            raise ValueError("left is required")


TREES = [
    (1, [1]),
    (None, []),
    ([], []),
    ([1, (2, None, [3])], [1, 2, 3]),
    ({"b": 1, "a": [2, 3]}, [1, 2, 3]),
    (OrderedDict(z=1, a=2), [1, 2]),
    (Point(1, {"k": 2}), [1, 2]),
    (Pair([1, 2], 3), [1, 2, 3]),
]


@pytest.mark.parametrize(("tree", "leaves"), TREES)
def test_flatten_and_back(tree, leaves):
    got, treedef = dlc.tree_flatten(tree)
    assert got == leaves
    assert treedef.size == len(leaves)
    assert dlc.tree_unflatten(treedef, got) == tree
    assert hash(treedef) == hash(dlc.tree_structure(tree))


def test_map_keeps_classes_and_key_order():
    tree = {"b": Point(1, 2), "a": [3]}
    out = dlc.tree_map(lambda x, y: x + y, tree, {"a": [30], "b": Point(10, 20)})
    assert out == {"b": Point(11, 22), "a": [33]}
    assert list(out) == ["b", "a"]


def test_map_goes_only_as_deep_as_the_first_tree():
    assert dlc.tree_map(lambda x, y: (x, y), [1, 2], [[3, 4], {"k": 5}]) == [(1, [3, 4]), (2, {"k": 5})]


def test_rebuilding_does_not_run_the_constructor():
    assert dlc.tree_map(lambda x: None, Pair(1, 2)).left is None


def test_registered_class():
    class Box:
        def __init__(self, content, label):
            self.content, self.label = content, label

    dlc.register_tree(Box, lambda b: ([b.content], b.label), lambda label, children: Box(*children, label))
    out = dlc.tree_map(lambda x: x * 2, Box([1, 2], "name"))
    assert (out.content, out.label) == ([2, 4], "name")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1], (1,), "tree is a tuple, in the first tree a list"),
        ([1], [1, 2], "tree has 2 children, in the first tree 1"),
        ({"a": [1]}, {"a": 1}, r"tree\['a'\] is a int"),
        ({"a": 1}, {"b": 1}, r"keys \['b'\]"),
    ],
)
def test_trees_that_differ(first, second, message):
    with pytest.raises(dlc.ShapeError, match=message):
        dlc.tree_map(lambda x, y: x, first, second)


def test_wrong_number_of_leaves():
    with pytest.raises(dlc.ShapeError, match="1 leaves for a tree of 2"):
        dlc.tree_unflatten(dlc.tree_structure([1, 2]), [1])
