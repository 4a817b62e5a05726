"""The downstream benchmark's real donors, its control arms' labels, and whether a gain is that of most patients."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks import donor_reader, downstream_arms, downstream_donors, downstream_table
from benchmarks.downstream import Benchmark, Training
from benchmarks.downstream_arms import ARMS, Sizes, Sources, as_it_is, prepare_real_cases
from benchmarks.downstream_donors import ORGAN_FILES, donor_cases
from benchmarks.downstream_scores import ORGANS
from benchmarks.downstream_statistics import summary
from benchmarks.openkbp_split import DONOR_VALIDATION, pool_and_donors
from guidegen_data import HEAD_NECK
from guidegen_data.sources.prepared import load_case


def patient(folder: Path, name: str) -> Path:
    """A head of 48^3 at 5 mm with a mandible, the lower half of which lies under the target volume."""
    folder.mkdir(parents=True, exist_ok=True)
    head, labels, target = (np.zeros((48, 48, 48), np.uint8) for _ in range(3))
    head[8:40, 8:40] = 1
    labels[20:28, 20:28, 20:28] = HEAD_NECK.ids["mandible"]
    target[18:30, 18:30, 16:24] = 1
    ct = np.where(head > 0, 30, -1000) + 600 * (labels > 0)
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    for what, array in (("ct", ct.astype(np.int16)), ("label", labels), ("ptv70", target)):
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}_{what}.nii.gz")
    return folder / f"{name}_ct.nii.gz"


def run(arm: str, gains: np.ndarray, k: int = 5) -> dict:
    """A finished training with a Dice of 0.4 plus a case's gain, of which brainstem and cord have all there is."""
    cases = {
        f"pt_{c:02d}": {
            organ: {"dice": 0.4 + gain * (organ in ("brainstem", "spinal cord")), "hd95_mm": 5.0} for organ in ORGANS
        }
        for c, gain in enumerate(gains)
    }
    return {"arm": arm, "k": k, "seed": 0, "cases": cases}


def test_a_target_volume_takes_no_voxel_of_an_organ_in_the_arms_made_of_real_patients(tmp_path) -> None:
    real = [patient(tmp_path / "openkbp", "pt_1")]
    held = []
    for name, files in (("all", ("*",)), ("organs", ORGAN_FILES)):
        (path,) = prepare_real_cases(real, tmp_path / name, 0, files)
        labels = load_case(path).label_map
        held.append({n: int((labels == HEAD_NECK.ids[n]).sum()) for n in ("mandible", "ptv70")})
    assert held[0]["ptv70"] > 0
    assert held[1]["ptv70"] == 0
    assert held[1]["mandible"] == pytest.approx(2 * held[0]["mandible"], rel=0.15)
    sources = Sources(tmp_path, tmp_path / "of-real", real, tmp_path, Sizes(num_cases=1))
    (path,) = sources._prepared("real-masks")
    assert (load_case(path).label_map == HEAD_NECK.ids["ptv70"]).sum() == 0
    # As the arm of the donors writes it.
    case = as_it_is(load_case(path), 7)
    assert (case.key, case.ct_hu.dtype) == ("case-7", np.int16)
    np.testing.assert_allclose(case.ct_hu, load_case(path).ct_hu, atol=0.5)
    np.testing.assert_array_equal(case.label_map, load_case(path).label_map)


def test_donors_are_completed_by_a_network_of_donors_and_given_without_targets(tmp_path, monkeypatch) -> None:
    openkbp, commands = tmp_path / "openkbp", []
    (openkbp / "train").mkdir(parents=True)
    with (openkbp / "index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["patient", "split", "organs"])
        for number in range(60):
            rows.writerow([f"pt_{number}", "train", "Brainstem"])
            for what in ("ct", "label", "ptv70"):
                (openkbp / "train" / f"pt_{number}_{what}.nii.gz").touch()
    monkeypatch.setattr(downstream_donors.Commands, "guidegen", lambda _, name, *words: commands.append(words))
    monkeypatch.setattr(downstream_donors, "case_paths", lambda folder: [folder])
    assert donor_cases(openkbp, tmp_path / "work") == [tmp_path / "work/completed/train"]
    pool, donors = pool_and_donors(openkbp)
    linked = {s: {f.name for f in (tmp_path / "work/source" / s).iterdir()} for s in ("train", "validation")}
    files = {n: {f"{n}_{what}.nii.gz" for what in ("ct", "label")} for n in donors}
    assert linked["validation"] == set().union(*(files[n] for n in donors[:DONOR_VALIDATION]))
    assert linked["train"] == set().union(*(files[n] for n in donors[DONOR_VALIDATION:]))
    assert not any(name.startswith(f"{n}_") for n in pool for names in linked.values() for name in names)
    assert [words[0] for words in commands] == ["prepare", "complete"]
    assert commands[0][2] == tmp_path / "work/source"
    assert commands[1][1] == commands[0][3]
    (tmp_path / "work/completed").mkdir()
    (tmp_path / "work/completed/completed.json").touch()
    assert donor_cases(openkbp, tmp_path / "work") == [tmp_path / "work/completed/train"]
    assert len(commands) == 2, "what is completed already, by whatever network, is taken as it is"


def test_only_a_generator_of_donors_has_donors_and_as_many_as_are_asked_for(tmp_path) -> None:
    sources = Sources(tmp_path, tmp_path, [], tmp_path, Sizes(num_cases=3))
    with pytest.raises(SystemExit, match="one of the donor setting"):
        sources._maker("donors")
    sources.donors = lambda: [tmp_path / "case-000000.npz"]
    with pytest.raises(SystemExit, match="there are 1 donors, not 3"):
        sources._maker("donors")


def test_a_whole_folder_of_another_model_is_refused_like_one_that_was_begun(tmp_path, monkeypatch) -> None:
    made = []

    def write(maker, num_cases, folder) -> None:
        made.append(folder.name)
        (folder / "index.json").touch()

    monkeypatch.setattr(downstream_arms, "write_cases", write)
    monkeypatch.setattr(downstream_arms, "num_whole", lambda folder: 3 * (folder / "index.json").exists())
    monkeypatch.setattr(Sources, "_maker", lambda self, source: None)
    monkeypatch.setattr(Sources, "fingerprint", lambda self: f"sha of {self.model.name}")

    def shards(model: str, source: str) -> Path:
        return Sources(tmp_path / "one", tmp_path / "real", [], Path(model), Sizes(num_cases=3)).shards(source)

    for source in ("synthseg", "real-masks"):
        folder = shards("mine", source)
        assert shards("mine", source) == folder
        for _ in ("refused", "and not noted as its own"):
            with pytest.raises(SystemExit, match=f"{source} was begun with another model; give another --work"):
                shards("yours", source)
        assert json.loads((folder / "model.json").read_text()) == "sha of mine"
    assert made == ["synthseg", "real-masks"]


def test_a_gain_of_few_patients_and_organs_is_told_as_one() -> None:
    gains = np.array([0.7, 0.35, *[-0.007] * 6, *[0.014] * 2])
    runs = [run("real", 0 * gains), run("real", 0 * gains + 0.07, k=40), run("guidegen-0.5", gains)]
    runs += [run("guidegen-0.5", gains, k=40), run("real", gains, k=80)]  # not the next one of k = 5
    held = summary(runs, list(ARMS))
    row = held["k"]["5"]["guidegen-0.5"]
    spread, without = row["against_real"]["cases"], row["against_real"]["without"]
    assert (spread["num_gaining"], spread["num_losing"]) == (4, 6)
    assert spread["median"] == pytest.approx(-0.002, abs=1e-4)
    assert spread["without_two_best"]["difference"] == pytest.approx((2 / 7) * (-0.042 + 0.028) / 8, abs=1e-4)
    assert without["brainstem and spinal cord"]["difference"] == pytest.approx(0, abs=1e-6)
    # What five patients and the cases are worth beside forty: 0.07 of two organs in seven less.
    assert row["against_more_real"]["k"] == 40
    assert row["against_more_real"]["dice"]["difference"] == pytest.approx((2 / 7) * (gains.mean() - 0.07), abs=1e-4)
    assert held["k"]["40"]["guidegen-0.5"]["against_more_real"]["k"] == 80
    assert "against_more_real" not in summary(runs[:-1], list(ARMS))["k"]["40"]["guidegen-0.5"]
    figures = {"setting": "donor", "num_iterations": 9, "num_missing": 0, "summary": held}
    told = downstream_table.markdown(figures)
    assert "| 5 | + GuideGen, half of the patches | +0.030 | -0.002 | 4 / 6 | -0.001 " in told
    assert "5 + GuideGen, half of the patches, beside 40 alone: +0.010" in told


def test_an_interval_above_zero_is_not_enough_for_holms_p() -> None:
    for gains, significant in ((np.full(12, 0.1), True), (np.array([*[0.7] * 4, *[-0.01] * 9]), False)):
        held = summary([run("real", 0 * gains), run("guidegen-0.5", gains)], list(ARMS))
        compared = held["k"]["5"]["guidegen-0.5"]["against_real"]
        assert compared["dice"]["interval_95"][0] > 0
        assert (compared["p_holm"] < 0.05) is significant


def test_the_donor_setting_hands_its_sources_the_donors(tmp_path, monkeypatch) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    benchmark = object.__new__(Benchmark)
    benchmark.openkbp, benchmark.work, benchmark.sizes = tmp_path / "openkbp", tmp_path / "work", Sizes()
    benchmark.args = type("Args", (), {"setting": "donor", "model": str(tmp_path)})
    monkeypatch.setattr("benchmarks.downstream.donor_cases", lambda *folders: list(folders))
    sources = benchmark._sources(Training("donors", 5, 0), [], tmp_path / "cell")
    assert sources.donors is not None
    assert sources.donors() == [tmp_path / "openkbp", tmp_path / "work" / "donors"]


def test_a_second_reader_learns_from_donors_alone(tmp_path, monkeypatch) -> None:
    openkbp = tmp_path / "openkbp"
    names = [f"pt_{n}" for n in range(900, 945)]
    for name in names:
        (openkbp / "train").mkdir(parents=True, exist_ok=True)
        (openkbp / "train" / f"{name}_ct.nii.gz").write_bytes(b"ct")
        (openkbp / "train" / f"{name}_label.nii.gz").write_bytes(b"label")
    with (openkbp / "index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["patient", "split", "organs"])
        rows.writerows([name, "train", "Larynx " * (n < 40)] for n, name in enumerate(names))
    told: list[tuple[object, ...]] = []
    monkeypatch.setattr(donor_reader.Commands, "guidegen", lambda self, name, *words: told.append(words))
    assert donor_reader.donor_reader(openkbp, tmp_path / "work") == tmp_path / "work" / "completed"
    linked = {p.name.split("_ct")[0] for p in (tmp_path / "work" / "source").glob("*_ct.nii.gz")}
    assert linked == set(pool_and_donors(openkbp)[1]) == set(names[40:])
    assert told[0][-2:] == ("--validation-share", 0.3)
    assert told[1][:3] == ("complete", told[0][3], tmp_path / "work" / "completed")
