"""`guidegen complete` run again after cases were refused or prepared anew: the folder is what one made now would be."""

import contextlib
import json
from pathlib import Path

import pytest
from little_kidneys import KIDNEY, SMALL, ByHU, make_folders, write_prepared

from guidegen_data.sources.prepared import load_case, save_case
from guidegen_data.training import completion

COPIES = 2


@pytest.fixture
def prepared(tmp_path):
    return write_prepared(tmp_path / "prepared", COPIES)


@pytest.fixture
def completed(prepared, tmp_path):
    out = make_folders(tmp_path / "completed")
    assert complete(prepared, out) == 10
    return out


def complete(prepared, out) -> int:
    return len(list(completion.complete(prepared, out, ByHU(), ["kidney"], SMALL)))


def contents(out: Path) -> dict[str, bytes]:
    """Every file by its path, the lines of the record sorted."""
    held = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    held[completion.RECORD] = b"".join(sorted(held[completion.RECORD].splitlines(keepends=True)))
    return held


def made_now(prepared, folder) -> dict[str, bytes]:
    complete(prepared, make_folders(folder))
    return contents(folder)


def files_of(prepared, number: int) -> list[Path]:
    return [prepared / "train" / f"case-{number * COPIES + copy:06d}.npz" for copy in range(COPIES)]


def refuse(prepared, number: int) -> None:
    """What `guidegen prepare` leaves of a case that it refuses: a note that says why."""
    for path in files_of(prepared, number):
        path.unlink()
    note = prepared / "cases" / f"p{number}.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"refused": "broken"}))


def without_a_kidney(prepared, number: int) -> None:
    """The patient is prepared anew, and this time the CT shows no kidney."""
    for path in files_of(prepared, number):
        case = load_case(path)
        case.ct_hu[:] = 20
        case.label_map[case.label_map == KIDNEY] = 0
        save_case(path, case, "A report.")


def test_what_was_made_of_a_case_that_is_refused_by_now_is_removed(prepared, completed, tmp_path, capsys) -> None:
    refuse(prepared, 3)
    capsys.readouterr()
    assert complete(prepared, completed) == 8
    assert "2 files whose cases" in capsys.readouterr().err
    assert contents(completed) == made_now(prepared, tmp_path / "now")
    assert not (completed / "cases" / "p3.json").exists()


def test_a_file_that_no_record_tells_of_goes_with_its_case(prepared, completed, tmp_path) -> None:
    record = completed / completion.RECORD
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(line for line in lines if "case-000006" not in line))  # killed before it was told
    refuse(prepared, 3)
    complete(prepared, completed)
    assert contents(completed) == made_now(prepared, tmp_path / "now")


def test_a_copy_that_is_gone_for_a_while_comes_back_as_it_was(prepared, completed) -> None:
    before, path = contents(completed), files_of(prepared, 4)[1]
    held = path.read_bytes()
    path.unlink()
    assert complete(prepared, completed) == 9
    assert (completed / "cases" / "p4.json").exists()
    path.write_bytes(held)
    assert complete(prepared, completed) == 10
    assert contents(completed) == before


@pytest.mark.parametrize("steps", range(5))
@pytest.mark.parametrize("change", [refuse, without_a_kidney])
def test_killed_at_any_step_and_run_again_nothing_old_stays(
    change, steps, prepared, completed, tmp_path, monkeypatch
) -> None:
    left = iter(range(steps))

    def killed_before(step):
        def run(*args, **named):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return step(*args, **named)

        return run

    change(prepared, 4)
    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        for owner, name in ((completion, "write_text"), (completion, "save_case"), (Path, "unlink")):
            patch.setattr(owner, name, killed_before(getattr(owner, name)))
        complete(prepared, completed)
    complete(prepared, completed)
    assert contents(completed) == made_now(prepared, tmp_path / "now")
