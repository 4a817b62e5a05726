"""The label table that lies in a shard folder: made known by its name, and compared with the model's."""

from __future__ import annotations

from guidegen_data.anatomy import ANATOMIES, Anatomy
from guidegen_data.anatomy_files import register, unregistered_text
from guidegen_data.errors import AnatomyError, ShardError
from guidegen_data.shards.manifest import ANATOMY, damaged
from guidegen_data.shards.storage import Folder


def know_anatomy(folder: Folder) -> None:
    """Makes the label table of a shard folder known by its name; a folder without one has a table that comes with us.

    ShardError when it is damaged, or another table of that name is known already.
    """
    if (table := read_table(folder)) is None:
        return
    try:
        register(table, f"{folder.url}/{ANATOMY}")
    except AnatomyError as error:  # nothing is damaged: the name is taken
        raise ShardError(str(error)) from error


def read_table(folder: Folder) -> Anatomy | None:
    """The label table of a shard folder, not made known by its name; None for a folder that has none.

    ShardError when it is damaged.
    """
    if folder.size(ANATOMY) is None:
        return None
    try:
        with folder.open(ANATOMY) as file:
            return unregistered_text(file.read().decode("utf-8"), f"{folder.url}/{ANATOMY}")
    except (OSError, UnicodeDecodeError, AnatomyError) as error:
        raise damaged(folder, ANATOMY, error) from error


def check_table(folder: Folder, name: str) -> None:
    """ShardError where the cases of a folder are of another table than the one of that name that is known, such as one
    that was edited since: a model is known by its weights and settings alone."""
    held, known = read_table(folder), ANATOMIES.get(name)
    if None not in (held, known) and held != known:
        raise ShardError(
            f"{folder.url} holds cases of another {name} table than the model's: compare its {ANATOMY} with "
            f"the model's, and put that back as it was, or give another folder."
        )
