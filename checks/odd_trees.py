#!/usr/bin/env python3
"""Makes a folder with entries of every kind that a copy may meet, or changes it: odd_trees.py FOLDER SEED

The same seed makes the same entries. A tree that is there already is changed at random."""

import os
import random
import shutil
import stat
import sys

NAMES = ["a", "b", "-rf", "new\nline", " ", "...", "*", "Ω", "x" * 255, "$HOME", "q'\"", "back\\slash"]


def name(dice):
    raw = os.fsencode(dice.choice(NAMES))[:200] + bytes(dice.choices(range(1, 256), k=dice.randrange(4)))
    return raw.replace(b"/", b"_") or b"n"


def contents(path, dice):
    """Bytes with holes and repetitions between them."""
    with open(path, "wb") as file:
        for _ in range(dice.randrange(5)):
            kind, length = dice.randrange(3), dice.choice([0, 1, 4096, 70000, 1 << 20])
            if kind == 0:
                file.seek(length, os.SEEK_CUR)
            else:
                file.write(dice.randbytes(length) if kind == 1 else b"x" * length)
        file.truncate(file.tell())


def make(path, dice, files, depth):
    kind = dice.randrange(10)
    if kind < 3 and depth < 5:
        os.mkdir(path)
        for _ in range(dice.randrange(6)):
            inner = os.path.join(path, name(dice))
            if not os.path.lexists(inner):
                make(inner, dice, files, depth + 1)
    elif kind < 7 or not files:
        contents(path, dice)
        files.append(path)
    elif kind == 7:
        os.link(dice.choice(files), path)
    elif kind == 8:
        os.symlink(dice.choice([b"a", b"/no/where", b"..", b"\xff", path]), path)
    else:
        os.mkfifo(path)
    attributes(path, dice)


def attributes(path, dice):
    is_link = os.path.islink(path)
    if os.geteuid() == 0 and dice.random() < 0.3:
        os.lchown(path, dice.randrange(3), dice.randrange(3))
    if not is_link:
        os.chmod(path, dice.choice([0o644, 0o600, 0o755, 0o444, 0o6711, 0o1777, 0o000]) | 0o700 * os.path.isdir(path))
    if os.path.isfile(path) and not is_link and dice.random() < 0.3:
        try:
            os.setxattr(path, "user.odd", dice.randbytes(dice.randrange(40)))
        except OSError:
            pass
    when = dice.choice([0, 1, 999999999, 2**31, 2**32 + 1]) * 10**9 + dice.randrange(10**9)
    os.utime(path, ns=(when, when), follow_symlinks=False)


def is_file(path):
    return os.path.lexists(path) and stat.S_ISREG(os.lstat(path).st_mode)


def has_fifo(path):
    inner = [os.path.join(folder, one) for folder, _, names in os.walk(path) for one in names]
    return any(stat.S_ISFIFO(os.lstat(one).st_mode) for one in [path, *inner])


def change(root, dice, files):
    paths = [os.path.join(folder, one) for folder, folders, names in os.walk(root) for one in folders + names]
    for path in dice.sample(paths, len(paths) // 4):
        if not os.path.lexists(path):
            continue
        what = dice.randrange(4)
        is_folder = os.path.isdir(path) and not os.path.islink(path)
        # A FIFO is never replaced, so neither are folders with one in the way.
        if what in (0, 2) and has_fifo(path):
            what = 3
        if what == 0:
            shutil.rmtree(path) if is_folder else os.unlink(path)
        elif what == 1 and stat.S_ISREG(os.lstat(path).st_mode):
            contents(path, dice)
        elif what == 2:
            shutil.rmtree(path) if is_folder else os.unlink(path)
            # What has become something else meanwhile is no file to link to.
            make(path, dice, [one for one in files if is_file(one)], 3)
        else:
            attributes(path, dice)


def main():
    root, dice = os.fsencode(sys.argv[1]), random.Random(int(sys.argv[2]))
    if os.path.isdir(root) and os.listdir(root):
        files = [
            os.path.join(folder, one)
            for folder, _, names in os.walk(root)
            for one in names
            if is_file(os.path.join(folder, one))
        ]
        change(root, dice, files)
        return
    os.makedirs(root, exist_ok=True)
    files = []
    for _ in range(30):
        path = os.path.join(root, name(dice))
        if not os.path.lexists(path):
            make(path, dice, files, 0)


main()
