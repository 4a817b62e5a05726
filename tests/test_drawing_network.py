"""All cases of a completed folder are drawn by one network, which the folder keeps."""

import json
import shutil

import little_patients
import pytest
import torch

from guidegen_data.cli.main import main
from guidegen_data.errors import ModelError
from guidegen_data.models.segmenter import Segmenter
from guidegen_data.training.completion import anatomy_of
from guidegen_data.training.drawing_network import network_digest
from guidegen_data.training.provenance import data_facts
from guidegen_data.training.second_reader import reader_of


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    little_patients.write_nifti(folder / "src", 8)
    table = str(folder / "src" / "anatomy.yaml")
    assert main(["prepare", "nifti", str(folder / "src"), str(folder / "prepared"), "--anatomy", table]) == 0
    return folder / "prepared"


@pytest.fixture(scope="module")
def others(prepared):
    """Two completed folders with a network each, of which nothing else is used."""
    made = []
    for seed in (0, 1):
        folder = prepared.parent / f"other-{seed}"
        torch.manual_seed(seed)
        network = Segmenter(num_classes=4, channels=(4, 8, 8), num_res_units=1)
        network.save_pretrained(folder / "segmenter" / "model")
        shutil.copyfile(prepared / "anatomy.yaml", folder / "anatomy.yaml")
        made.append(folder)
    return made


def complete(prepared, out, steps: int, init=None) -> int:
    words = ["complete", str(prepared), str(out), "--classes", "spleen", "--num-steps", str(steps), "--device", "cpu"]
    return main([*words, *([] if init is None else ["--init", str(init)])])


def figures(out) -> str:
    return (out / "completed.json").read_text()


def test_the_network_that_draws_is_kept_told_and_no_other_one_follows_it(prepared, others, tmp_path, capsys) -> None:
    one, other = others
    out = tmp_path / "out"
    assert complete(prepared, out, 0, one) == 0
    before = figures(out)
    assert json.loads(before)["network_sha256"] == network_digest(out) == network_digest(one) != network_digest(other)
    (out / "train" / "case-000002.npz").unlink()
    assert complete(prepared, out, 0, other) == 1
    assert f"was begun with another network than that of {other}" in capsys.readouterr().err
    assert complete(prepared, out, 2) == 1
    assert f"go on with --num-steps 0 --init {out}" in capsys.readouterr().err
    assert figures(out) == before
    assert network_digest(out) == network_digest(one)
    for same in (one, out):
        assert complete(prepared, out, 0, same) == 0
        assert figures(out) == before


def test_a_network_that_is_trained_in_the_folder_draws_all_of_it(prepared, others, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert complete(prepared, out, 2) == 0
    before = figures(out)
    assert json.loads(before)["network_sha256"] == network_digest(out)
    assert complete(prepared, out, 0, others[0]) == 1
    assert "was begun with another network" in capsys.readouterr().err
    assert complete(prepared, out, 2) == 0
    assert figures(out) == before
    shutil.rmtree(out / "segmenter")
    for steps, init in ((2, None), (0, others[0])):
        assert complete(prepared, out, steps, init) == 1
        capsys.readouterr()
    assert not (out / "segmenter" / "model").exists()


def test_a_training_that_is_begun_is_gone_on_with(prepared, others, tmp_path) -> None:
    out = tmp_path / "out"
    assert complete(prepared, out, 2) == 0
    for name in ("best", "model", "state.pt"):  # killed before anything was saved
        path = out / "segmenter" / name
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
    (out / "completed.json").unlink()
    assert complete(prepared, out, 0, others[0]) == 1
    assert complete(prepared, out, 2) == 0


def test_a_folder_that_tells_no_network_goes_on_and_keeps_it(prepared, others, tmp_path) -> None:
    out = tmp_path / "out"
    assert complete(prepared, out, 0, others[0]) == 0
    held = json.loads(figures(out))
    (out / "completed.json").write_text(json.dumps({k: held[k] for k in ("files", "classes")}))
    shutil.rmtree(out / "segmenter")
    assert complete(prepared, out, 0, others[0]) == 0
    assert json.loads(figures(out)) == held
    # A run that was begun with a folder that did not tell its network is gone on with when it does.
    assert set(data_facts(out)["completed"]) == {"files", "classes"}
    assert network_digest(out) == network_digest(others[0])


def test_figures_of_another_network_are_no_thresholds(prepared, others, tmp_path) -> None:
    out = tmp_path / "out"
    assert complete(prepared, out, 0, others[0]) == 0
    shutil.rmtree(out / "segmenter" / "model")
    shutil.copytree(others[1] / "segmenter" / "model", out / "segmenter" / "model")
    with pytest.raises(ModelError, match="tells of another network than the folder holds"):
        reader_of(out, anatomy_of(prepared), 10)
