"""The shard folder: bytes that depend on the recipe alone, files that are whole or not there, runs that go on."""

import errno
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
import webdataset
from ellipsoids import EllipsoidGenerator
from hypothesis import given, settings
from hypothesis import strategies as st

from guidegen_data.errors import ShardError
from guidegen_data.shards import storage, workers, writer
from guidegen_data.shards.blocks import ATTEMPTS_PER_REPORT, MAX_ATTEMPTS, generate_block
from guidegen_data.shards.folder import ShardFolder, check_folder
from guidegen_data.shards.generators import set_torch_threads
from guidegen_data.shards.manifest import FILES, WORK, RunConfig, key_of
from guidegen_data.shards.plan import ReportSource, derive_seed, make_recipe
from guidegen_data.shards.reader import ShardReader, TarCases, decode_case
from guidegen_data.shards.storage import LocalFolder, write_whole
from guidegen_data.shards.workers import compute_blocks, make_shards
from guidegen_data.shards.writer import encode_case, write_tar


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def fill(folder: Path, config: RunConfig, generator: EllipsoidGenerator, num_blocks: int | None = None) -> None:
    """A run, stopped after so many blocks."""
    for number, _ in enumerate(make_shards(folder, config, lambda: generator)):
        if number == num_blocks:
            return


def test_a_finished_folder_holds_just_what_the_contract_names(shards: Path) -> None:
    tars = [f"shard-{i:06d}.tar" for i in range(4)]
    assert sorted(contents(shards)) == sorted(
        [
            *tars,
            "README.md",
            "anatomy.yaml",
            "croissant.json",
            "histograms.png",
            "index.json",
            "manifest.jsonl",
            "rejects.jsonl",
            "run.json",
        ]
    )


def test_plain_tar_lists_four_members_a_case_with_fixed_time_and_owner(shards: Path) -> None:
    listed = subprocess.run(["tar", "tf", shards / "shard-000001.tar"], capture_output=True, text=True, check=True)
    suffixes = ("ct.nii.gz", "label.nii.gz", "report.txt", "meta.json")
    assert listed.stdout.split() == [f"{key_of(i)}.{suffix}" for i in (3, 4, 5) for suffix in suffixes]
    with tarfile.open(shards / "shard-000001.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "", "", 0o644)}


def test_webdataset_reads_the_shards(shards: Path) -> None:
    samples = list(webdataset.WebDataset(str(shards / "shard-{000000..000003}.tar"), shardshuffle=False))
    assert [s["__key__"] for s in samples] == [key_of(i) for i in range(10)]
    for sample, case in zip(samples, ShardReader(shards), strict=True):
        image = nib.Nifti1Image.from_bytes(gzip.decompress(sample["ct.nii.gz"]))
        assert np.array_equal(np.asanyarray(image.dataobj), case.ct_hu)
        assert json.loads(sample["meta.json"]) == case.provenance
        assert sample["report.txt"].decode() == case.report


def test_nifti_files_carry_type_axes_and_millimetres(shards: Path, tmp_path: Path) -> None:
    with tarfile.open(shards / "shard-000000.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    for suffix, dtype in (("ct", np.int16), ("label", np.uint8)):
        image = nib.load(tmp_path / f"{key_of(0)}.{suffix}.nii.gz")
        assert image.get_data_dtype() == dtype
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        assert image.header.get_xyzt_units()[0] == "mm"
        assert np.array_equal(image.get_qform(), image.get_sform())
        assert image.header.get_zooms() == (12, 12, 12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**40), low=st.integers(-1024, -400), report=st.text("aé λ\n.", min_size=1))
def test_encoding_and_decoding_a_case_changes_nothing(case, seed: int, low: int, report: str) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 9, 3))
    ct_hu = rng.integers(low, 1900, shape).astype(np.int16)
    ct_hu.flat[0], ct_hu.flat[-1] = low, low
    ct_hu = np.append(ct_hu, np.full((1, *shape[1:]), 40, np.int16), axis=0)
    label_map = rng.integers(0, 21, ct_hu.shape).astype(np.uint8)
    meta = {"key": case.key, "findings": case.findings.to_dict()}
    before = replace(case, ct_hu=ct_hu, label_map=label_map, report=report, provenance=meta)
    encoded = encode_case(before)
    after = decode_case(case.key, encoded.members, "here")
    assert np.array_equal(after.ct_hu, ct_hu)
    assert np.array_equal(after.label_map, label_map)
    assert np.array_equal(after.affine, case.affine)
    assert (after.report, after.findings) == (report, case.findings)
    assert encode_case(before).members == encoded.members


@pytest.mark.parametrize("order", ["C", "F"])
def test_nifti_bytes_are_those_of_nibabel(case, order: str) -> None:
    for array in (np.array(case.ct_hu[:, :20, :9], order=order), np.array(case.label_map, order=order)):
        image = nib.Nifti1Image(array, case.affine, dtype=array.dtype)
        image.header.set_xyzt_units("mm")
        image.set_qform(case.affine, code="scanner")
        image.set_sform(case.affine, code="scanner")
        assert writer.nifti_bytes(array, case.affine) == image.to_bytes()


def test_gzip_bytes_carry_neither_time_nor_name_nor_system() -> None:
    data = bytes(range(256)) * 50
    packed = writer.gzip_bytes(data)
    assert gzip.decompress(packed) == data
    assert packed[:10] == b"\x1f\x8b\x08\0\0\0\0\0\x04\xff"


def test_metadata_say_where_a_case_comes_from_and_how_it_was_judged(shards: Path, config: RunConfig) -> None:
    for index, case in enumerate(ShardReader(shards)):
        meta = case.provenance
        assert (meta["key"], meta["index"], meta["seed"]) == (key_of(index), index, 1)
        assert meta["case_seed"] == derive_seed(1, "case", index, meta["attempt"])
        assert meta["label_table"]["3"] == "liver"
        assert meta["volumes_ml"] == case.volumes_ml()
        assert meta["quality"]["passed"]
        assert meta["model_sha256"] == config.recipe.model_sha256


def test_index_manifest_and_rejects_agree_with_the_shards(shards: Path) -> None:
    index = json.loads((shards / "index.json").read_text())
    lines = [json.loads(line) for line in (shards / "manifest.jsonl").read_text().splitlines()]
    rejects = [json.loads(line) for line in (shards / "rejects.jsonl").read_text().splitlines()]
    assert [s["num_cases"] for s in index["shards"]] == [3, 3, 3, 1]
    for shard in index["shards"]:
        data = (shards / shard["name"]).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (shard["sha256"], shard["bytes"])
        assert [shard["first_key"], shard["last_key"]] == [
            [line["key"] for line in lines if line["shard"] == shard["name"]][i] for i in (0, -1)
        ]
    assert [line["index"] for line in lines] == list(range(10))
    assert len(rejects) == index["num_rejects"] == sum(line["attempt"] for line in lines) > 0
    assert {check["name"] for reject in rejects for check in reject["failed"]} == {"tumour volume (ml)"}


@pytest.mark.parametrize("shard_size", [1, 4, 5, 10, 64])
def test_cases_do_not_depend_on_the_shard_size(
    shards: Path, config: RunConfig, tmp_path, generator, shard_size
) -> None:
    fill(tmp_path, replace(config, shard_size=shard_size), generator)
    members = [(t.members(k)) for t, k in map(ShardReader(tmp_path).locate, range(10))]
    assert members == [(t.members(k)) for t, k in map(ShardReader(shards).locate, range(10))]


def test_case_i_is_the_same_in_runs_of_every_length(shards: Path, config: RunConfig, tmp_path, generator) -> None:
    fill(tmp_path, replace(config, n=6), generator)
    members = [(t.members(k)) for t, k in map(ShardReader(tmp_path).locate, range(6))]
    assert members == [(t.members(k)) for t, k in map(ShardReader(shards).locate, range(6))]


def test_batches_are_always_whole_blocks(config: RunConfig, tmp_path, generator) -> None:
    trace = tmp_path / "trace"
    fill(tmp_path / "out", replace(config, n=6), replace(generator, trace=trace))
    batches = [line.split()[1:] for line in trace.read_text().splitlines()]
    first_drafts = [batch for batch in batches if len(batch) > 1]
    assert first_drafts == [[key_of(i) for i in range(b, b + 4)] for b in (0, 4)]
    assert all(batch[0] <= key_of(5) for batch in batches if len(batch) == 1)  # what is not kept is not made anew


@pytest.mark.parametrize("num_workers", [2, 3])
def test_any_number_of_workers_writes_the_same_bytes(shards: Path, config: RunConfig, tmp_path, num_workers) -> None:
    for _ in make_shards(tmp_path / "out", config, EllipsoidGenerator, num_workers):
        pass
    assert contents(tmp_path / "out") == contents(shards)


@pytest.mark.parametrize("num_blocks", [0, 1, 2, 3])
def test_a_run_stopped_after_any_block_goes_on_to_the_same_bytes(
    shards: Path, config: RunConfig, tmp_path, generator, num_blocks: int
) -> None:
    trace = tmp_path / "trace"
    fill(tmp_path / "out", config, replace(generator, trace=trace), num_blocks)
    fill(tmp_path / "out", config, replace(generator, trace=trace))
    assert contents(tmp_path / "out") == contents(shards)
    firsts = [line.split()[1] for line in trace.read_text().splitlines() if len(line.split()) > 2]
    assert sorted(firsts) == [key_of(0), key_of(4), key_of(8)]  # no block was computed twice


def test_finished_blocks_of_an_unfinished_shard_survive(config: RunConfig, tmp_path, generator) -> None:
    one_shard = replace(config, shard_size=64)
    fill(tmp_path, one_shard, generator, num_blocks=2)
    with ShardFolder(tmp_path, one_shard) as begun:
        assert begun.missing_blocks == [2]
        assert begun.num_done == 8
    assert not list(tmp_path.glob("*.tar"))


def test_a_finished_run_is_not_touched_by_the_same_command(config: RunConfig, tmp_path, generator) -> None:
    fill(tmp_path, config, generator)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    fill(tmp_path, config, replace(generator, trace=tmp_path.parent / "never"))
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before
    assert not (tmp_path.parent / "never").exists()


@pytest.mark.parametrize("lost", ["shard-000001.tar", *FILES[1:-1]])
def test_what_is_lost_from_a_folder_comes_back_the_same(shards: Path, config, tmp_path, generator, lost: str) -> None:
    fill(tmp_path, config, generator)
    (tmp_path / lost).unlink()
    fill(tmp_path, config, generator)
    assert contents(tmp_path) == contents(shards)


def test_a_truncated_shard_is_made_anew(shards: Path, config: RunConfig, tmp_path, generator) -> None:
    fill(tmp_path, config, generator)
    for name, length in (("shard-000000.tar", 1000), ("shard-000002.tar", 0)):
        os.truncate(tmp_path / name, length)
    fill(tmp_path, config, generator)
    assert contents(tmp_path) == contents(shards)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_to_the_same_bytes(shards: Path, config: RunConfig, tmp_path, how) -> None:
    out, trace = tmp_path / "out", tmp_path / "trace"
    program = (
        "import pickle, sys\n"
        "from guidegen_data.shards.workers import make_shards\n"
        "out, config, load = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "if __name__ == '__main__':\n"
        "    for _ in make_shards(out, config, load, num_workers=2): pass\n"
    )
    script = tmp_path / "run.py"
    script.write_text(program)
    load = partial(EllipsoidGenerator, trace=trace, pause_s=0.05)
    path = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    process = subprocess.Popen(
        [sys.executable, script, pickle.dumps((out, config, load)).hex()], env=os.environ | {"PYTHONPATH": path}
    )
    while process.poll() is None and not list(out.glob("shard-*.tar")):
        time.sleep(0.01)
    process.send_signal(how)
    process.wait()
    for _ in make_shards(out, config, EllipsoidGenerator):
        pass
    assert contents(out) == contents(shards)
    workers = {int(line.split()[0]) for line in trace.read_text().splitlines()} - {os.getpid()}
    assert len(workers) == 2
    for _ in range(200):
        if not any(is_running(pid) for pid in workers):
            return
        time.sleep(0.1)
    raise AssertionError("a worker outlived its parent")


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie, which nobody may be there to reap in a container."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("call", [1, 3, 5, 7, 11, 17])  # the odd ones sync files, the even ones folders
def test_a_full_disk_leaves_nothing_half_written_and_the_run_goes_on(
    shards: Path, config, tmp_path, generator, monkeypatch, call: int
) -> None:
    calls = iter(range(1, 1000))

    def full(handle: int) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fill(tmp_path, config, generator)
    monkeypatch.undo()
    assert not [name for name in contents(tmp_path) if name.endswith(storage.TEMPORARY)]
    for tar in tmp_path.glob("shard-*.tar"):
        assert tar.read_bytes() == (shards / tar.name).read_bytes()
    fill(tmp_path, config, generator)
    assert contents(tmp_path) == contents(shards)


def test_a_failed_write_keeps_what_was_there(tmp_path: Path) -> None:
    def fails():
        yield b"half"
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file", fails())
    assert contents(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize(
    "change",
    [{"seed": 2}, {"num_steps_ct": 7}, {"guidance": 1.5}, {"quality_control": False}, {"model_sha256": "0" * 64}],
)
def test_another_configuration_in_the_folder_is_refused_by_name(config: RunConfig, tmp_path, generator, change) -> None:
    fill(tmp_path, replace(config, n=2), generator)
    before = contents(tmp_path)
    other = replace(config, n=2, recipe=replace(config.recipe, **change))
    with pytest.raises(ShardError, match=next(iter(change))):
        fill(tmp_path, other, generator)
    assert contents(tmp_path) == before


def test_overwrite_replaces_another_configuration_and_continues_the_same(config: RunConfig, tmp_path) -> None:
    fill(tmp_path / "a", config, EllipsoidGenerator())
    other = replace(config, n=2, shard_size=1)
    for _ in range(2):
        list(make_shards(tmp_path / "a", other, EllipsoidGenerator, overwrite=True))
    list(make_shards(tmp_path / "b", other, EllipsoidGenerator))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(config: RunConfig, tmp_path, generator) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ShardError, match=r"thesis\.tex"):
            ShardFolder(tmp_path, config, overwrite)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}
    with pytest.raises(ShardError, match="is a file"):
        ShardFolder(tmp_path / "thesis.tex", config)


def test_two_runs_in_one_folder_do_not_meet(config: RunConfig, tmp_path) -> None:
    with ShardFolder(tmp_path, config), pytest.raises(ShardError, match="another run"):
        ShardFolder(tmp_path, config)
    with ShardFolder(tmp_path, config):
        pass


def test_leftovers_of_a_killed_write_are_removed(config: RunConfig, tmp_path, generator, shards: Path) -> None:
    fill(tmp_path, config, generator, num_blocks=1)
    (tmp_path / ".shard-000009.tar.123.tmp").write_bytes(b"half")
    (tmp_path / WORK / ".block-00000002.tar.123.tmp").write_bytes(b"half")
    (tmp_path / WORK / "block-00000002.tar").write_bytes(b"not a tar")
    fill(tmp_path, config, generator)
    assert contents(tmp_path) == contents(shards)


def test_a_model_that_changes_while_the_run_goes_on_is_refused(config: RunConfig) -> None:
    changed = partial(EllipsoidGenerator, version="2")
    for num_workers in (1, 2):
        with pytest.raises(ShardError, match="model changed"):
            list(compute_blocks(config.recipe, [changed] * num_workers, [0, 1], config.n))


def test_a_worker_that_dies_is_told_in_a_sentence(config: RunConfig) -> None:
    with pytest.raises(ShardError, match="exit code 3") as told:
        list(compute_blocks(config.recipe, [partial(os._exit, 3)] * 2, [0, 1], config.n))
    assert "memory" not in str(told.value)
    with pytest.raises(ShardError, match=r"for want of memory.*fewer --workers"):
        list(compute_blocks(config.recipe, [partial(signal.raise_signal, signal.SIGKILL)] * 2, [0, 1], config.n))


def test_a_block_that_came_before_its_worker_died_is_kept() -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.send((0, []))
    theirs.close()
    worker = workers._Worker.__new__(workers._Worker)
    worker.connection, worker._process = ours, SimpleNamespace(join=lambda: None, exitcode=9)
    finished = workers._share_out([worker], [0, 1])
    assert next(finished) == (0, [])
    with pytest.raises(ShardError, match="exit code 9"):
        next(finished)


def test_float32_on_a_cpu_has_the_same_threads_whatever_the_workers() -> None:
    before = torch.get_num_threads()
    try:
        for num_threads in (1, 2, 8):
            set_torch_threads(SimpleNamespace(dtype=torch.float32), num_threads)
            assert torch.get_num_threads() == 2
            set_torch_threads(SimpleNamespace(dtype=torch.bfloat16), num_threads)
            assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)


def test_rejects_are_made_anew_alone_from_the_next_seed_and_after_some_with_other_findings(generator) -> None:
    poor = replace(generator, misses=8)
    recipe = make_recipe(poor, seed=1)
    source = ReportSource(recipe, poor.anatomy)
    cases = [case for block in range(4) for case in generate_block(poor, recipe, source, block)]
    rejected = [case for case in cases if case.provenance["attempt"]]
    assert 0 < len(rejected) < len(cases)
    long = [case for case in rejected if case.provenance["attempt"] >= ATTEMPTS_PER_REPORT]
    assert long
    assert all(case.findings != source.request(case.provenance["index"]).findings for case in long)
    for case in rejected:
        meta = case.provenance
        request = source.request(meta["index"], meta["attempt"] // ATTEMPTS_PER_REPORT)
        (alone,) = poor.generate([request.findings], [request.report], [case.key], [meta["case_seed"]])
        assert np.array_equal(alone.ct_hu, case.ct_hu)
        assert (case.report, case.findings) == (request.report, request.findings)
        assert [r["case_seed"] for r in meta["rejects"]] == [
            derive_seed(1, "case", meta["index"], a) for a in range(meta["attempt"])
        ]


def test_a_report_that_no_attempt_satisfies_ends_the_run_with_a_sentence(generator) -> None:
    hopeless = replace(generator, misses=10)
    recipe = make_recipe(hopeless, reports=["CT abdomen. 30 mm mass in the right lobe of the liver."])
    source = ReportSource(recipe, hopeless.anatomy)
    with pytest.raises(ShardError, match=rf"{MAX_ATTEMPTS} times .*tumour volume.*--no-qc"):
        generate_block(hopeless, recipe, source, 0)
    kept = generate_block(hopeless, replace(recipe, quality_control=False), source, 0)
    assert [case.provenance["quality"]["passed"] for case in kept] == [False] * 4


def test_given_reports_are_taken_in_turns(generator) -> None:
    texts = ["CT chest. The heart is enlarged.", "CT abdomen. Status post splenectomy."]
    recipe = make_recipe(generator, reports=texts, templates="no such library")
    source = ReportSource(recipe, generator.anatomy)
    cases = [case for block in (0, 1) for case in generate_block(generator, recipe, source, block)]
    assert [case.report for case in cases] == texts * 4
    assert [case.findings.region for case in cases] == ["chest", "abdomen"] * 4


@given(st.integers(0, 2**32), st.integers(0, 10**9), st.integers(0, 30))
def test_seeds_of_cases_are_distinct_and_fit_a_generator(seed: int, index: int, draw: int) -> None:
    near = [(seed, "case", index, draw), (seed + 1, "case", index, draw), (seed, "case", index + 1, draw)]
    near += [(seed, "case", index, draw + 1), (seed, "words", index, draw)]
    seeds = [derive_seed(*arguments) for arguments in near]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**63 for s in seeds)


def test_reading_one_case_reads_only_its_bytes(shards: Path, monkeypatch) -> None:
    tar, key = ShardReader(shards).locate(4)
    num_read: list[int] = []

    class Counting(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            num_read.append(size)
            return super().read(size)

    monkeypatch.setattr("builtins.open", Counting)
    members = tar.members(key)
    monkeypatch.undo()
    assert num_read == [len(data) for data in members.values()]


def damage(path: Path, what: str) -> None:
    data = bytearray(path.read_bytes())
    if what == "missing":
        path.unlink()
        return
    if what == "truncated":
        data = data[: len(data) // 2]
    elif what == "altered":
        data[data.index(b".report.txt") + 600] ^= 1
    elif what == "not a tar":
        data = bytearray(b"x" * len(data))
    path.write_bytes(data)


@pytest.mark.parametrize("what", ["missing", "truncated", "altered", "not a tar"])
def test_a_damaged_shard_is_named_in_a_sentence(config: RunConfig, tmp_path, generator, what: str) -> None:
    fill(tmp_path, replace(config, n=3), generator)
    damage(tmp_path / "shard-000000.tar", what)
    with pytest.raises(ShardError, match=r"shard-000000\.tar.*guidegen verify DIR --repair"):
        list(ShardReader(tmp_path))


def test_a_case_without_all_its_members_is_named(case, tmp_path: Path) -> None:
    tar = tmp_path / "some.tar"
    write_tar(tar, [writer.tar_part("one", {"report.txt": b"text"})])
    with pytest.raises(ShardError, match=r"no one\.ct\.nii\.gz"):
        TarCases(tmp_path, tar.name).case("one")


def test_positions_beyond_the_end_are_index_errors_and_negative_ones_count_back(shards: Path) -> None:
    reader = ShardReader(shards)
    assert reader[-1].key == reader[9].key == key_of(9)
    for beyond in (10, -11):
        with pytest.raises(IndexError):
            reader[beyond]


def test_an_index_is_needed_to_read_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no index\.json"):
        ShardReader(tmp_path)
    assert check_folder(LocalFolder(tmp_path / "new"), None) is None  # type: ignore[arg-type]


def test_the_card_counts_cases_rejects_and_findings(shards: Path) -> None:
    card = (shards / "README.md").read_text()
    index = json.loads((shards / "index.json").read_text())
    assert "# 10 synthetic CT volumes" in card
    assert f"{index['num_rejects']} drafts" in card
    assert "| 3 | liver | 10 |" in card
    assert "| lesion x phase | 252 |" in card
    assert "Licence" in card
