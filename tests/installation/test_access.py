"""Who may read what, for a user who need not be the present one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar.installation.access import READ, SEARCH, WRITE, Identity, Tree, obstacle, present_user

STRANGER = Identity("stranger", 64_001, 64_001, frozenset({64_001}))
MEMBER = Identity("member", 64_002, 64_002, frozenset({64_002, os.getegid()}))
ROOT = Identity("root", 0, 0, frozenset({0}))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tmp_path.chmod(0o755)
    (tmp_path / "etc").mkdir(mode=0o755)
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\n"
        "# a comment\n"
        "+::::::\n"
        "broken:x\n"
        "kumod:x:120:130::/var/spool/kumod:/sbin/nologin\n"
    )
    (tmp_path / "etc/group").write_text(
        "root:x:0:\nkumod:x:130:\nadm:x:4:syslog,kumod\nmail:x:8:\nbroken\n"
    )
    return Tree(tmp_path)


def make(tree: Tree, path: str, mode: int) -> Path:
    place = tree.at(path)
    for parent in reversed(place.parents):
        if parent.is_relative_to(tree.root):
            parent.mkdir(exist_ok=True)
    place.mkdir()
    place.chmod(mode)
    os.chown(place, -1, os.getegid())
    return Path(path)


def test_users_have_their_groups_and_the_extra_ones(tree: Tree) -> None:
    assert tree.user("kumod") == Identity("kumod", 120, 130, frozenset({4, 130}))
    user = tree.user("kumod", extra_groups=("mail",))
    assert user is not None
    assert user.groups == {4, 8, 130}
    assert tree.group("mail") == 8


@pytest.mark.parametrize("name", ["nobody", "broken", "", "+"])
def test_what_is_no_user_is_none(tree: Tree, name: str) -> None:
    assert tree.user(name) is None
    assert tree.group(name) is None


def test_a_tree_without_accounts_has_no_users(tmp_path: Path) -> None:
    assert Tree(tmp_path).user("root") is None


@pytest.mark.parametrize(
    ("who", "mode", "need", "allowed"),
    [
        (STRANGER, 0o755, READ | SEARCH, True),
        (STRANGER, 0o755, WRITE, False),
        (STRANGER, 0o750, READ, False),
        (MEMBER, 0o750, READ | SEARCH, True),
        (MEMBER, 0o2770, READ | WRITE | SEARCH, True),
        (MEMBER, 0o740, READ | SEARCH, False),
        (MEMBER, 0o707, READ, False),  # the group's bits count, not the others'
        (ROOT, 0o000, READ | WRITE | SEARCH, True),
    ],
)
def test_the_bits_of_the_right_class_count(
    tree: Tree, who: Identity, mode: int, need: int, allowed: bool
) -> None:
    path = make(tree, "/srv", mode)
    assert obstacle(tree, path, who, need) == (None if allowed else path)


def test_a_directory_on_the_way_is_named(tree: Tree) -> None:
    make(tree, "/var", 0o755)
    make(tree, "/var/log", 0o750)
    path = make(tree, "/var/log/kumomta", 0o755)
    assert obstacle(tree, path, STRANGER, READ) == Path("/var/log")
    assert obstacle(tree, path, MEMBER, READ) is None


def test_what_is_not_there_is_an_obstacle(tree: Tree) -> None:
    assert obstacle(tree, Path("/nowhere/at/all"), present_user(), READ) == Path("/nowhere")


def test_the_present_user_is_asked_of_the_system(tree: Tree) -> None:
    path = make(tree, "/srv", 0o700)
    assert obstacle(tree, path, present_user(), READ | WRITE | SEARCH) is None
