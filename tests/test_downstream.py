"""The downstream benchmark: its statistics, who is trained and tested on, what every arm draws. None is trained."""

import argparse
import csv
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from guidegen_nnunet.settings import PREFIX
from scipy import stats

from benchmarks import downstream, downstream_table, downstream_train, record
from benchmarks.downstream import Benchmark, Training, schedule_of, trainings
from benchmarks.downstream_arms import ARMS, Sizes, Sources, arms_named, complete_cases, facts
from benchmarks.downstream_generators import refuse_leak, refuse_shipped
from benchmarks.downstream_scores import ORGANS, dice, hd95_mm, score_case, score_folder
from benchmarks.downstream_segmenter import CONFIGURATION, Schedule, small_plans
from benchmarks.downstream_statistics import bootstrap, holm, summary, wilcoxon
from benchmarks.downstream_table import markdown
from benchmarks.downstream_train import Segmenter
from benchmarks.nnunet_route import Commands, write_cases
from benchmarks.openkbp_split import LEFT_ASIDE, POOL_SIZE, chosen, pool_and_donors
from guidegen_data import HEAD_NECK, Case, Findings, ShardReader, abstract_report
from guidegen_data.case import centred_affine
from guidegen_data.cli.shard import configure
from guidegen_data.models.folder import model_folder
from guidegen_data.shards.plan import ReportSource, make_recipe

NAMES = ["Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx", "Mandible"]


def cube(low: int, high: int, size: int = 24) -> np.ndarray:
    mask = np.zeros((size, size, size), bool)
    mask[low:high, low:high, low:high] = True
    return mask


def case(seed: int = 0) -> Case:
    """A head of 24^3 at 13 mm with a mandible, a ptv70 and soft tissue."""
    labels = np.zeros((24, 24, 24), np.uint8)
    labels[4:20, 4:20] = HEAD_NECK.ids["soft tissue"]
    labels[8:14, 8:14, 8:14] = HEAD_NECK.ids["ptv70"]
    labels[15:18, 8:14, 8:14] = HEAD_NECK.ids["mandible"]
    ct = np.where(labels > 0, 40, -1000) + np.random.default_rng(seed).integers(-20, 20, labels.shape)
    findings = Findings(region="head and neck", anatomy_name=HEAD_NECK.name)
    affine = centred_affine(labels.shape, (13.0, 13.0, 13.0))
    return Case(f"case-{seed}", ct.astype(np.int16), labels, affine, "CT neck.", findings, {})


@pytest.fixture
def openkbp(tmp_path) -> Path:
    """An index of 200 training and 3 validation patients, every third without a larynx; volumes of the latter."""
    folder = tmp_path / "openkbp"
    (folder / "validation").mkdir(parents=True)
    with (folder / "index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["patient", "split", "organs"])
        for number in range(1, 204):
            split = "train" if number <= 200 else "validation"
            held = [n for n in NAMES if number % 3 or n != "Larynx"]
            rows.writerow([f"pt_{number}", split, " ".join(held)])
    for number in (201, 202, 203):
        labels = np.zeros((24, 24, 24), np.uint8)
        labels[cube(4, 12)] = ORGANS["brainstem"]
        for what, array in (("ct", labels.astype(np.int16)), ("label", labels)):
            image = nib.Nifti1Image(array, np.diag([3.0, 3.0, 2.0, 1.0]))
            nib.save(image, folder / "validation" / f"pt_{number}_{what}.nii.gz")
    return folder


def benchmark(openkbp: Path, work: Path, **changes: object) -> Benchmark:
    told = {"openkbp": openkbp, "work": work, "setting": "donor", "model": "no-model", "test": None}
    told |= {"num_synthetic": 200, "train_recipe": "small", "train_steps": [1, 1, 1], "quick": False, "iterations": 900}
    told |= {"float32": False, "suffix": ""}
    return Benchmark(argparse.Namespace(**(told | changes)))


def run(arm: str, seed: int, gain: float, num_cases: int = 30, k: int = 5) -> dict:
    """A finished training whose Dice is a case's own plus `gain` in every organ; case 0 has no larynx."""
    own = np.random.default_rng(1).uniform(0.3, 0.6, num_cases)
    cases = {
        f"pt_{c}": {
            organ: {"dice": own[c] + gain, "hd95_mm": 10 - 10 * gain} for organ in ORGANS if c or organ != "larynx"
        }
        for c in range(num_cases)
    }
    return {"arm": arm, "k": k, "seed": seed, "cases": cases}


def test_dice_and_hd95_of_shifted_cubes_are_those_of_arithmetic() -> None:
    truth, moved = cube(4, 12), np.roll(cube(4, 12), 2, axis=2)
    assert dice(truth, moved) == pytest.approx(6 / 8)
    assert hd95_mm(truth, truth, (1, 1, 1)) == 0
    # Both faces across the shift, a fifth of all surface voxels, are 2 voxels of 3 mm away.
    assert hd95_mm(truth, moved, (1, 1, 3)) == 6
    assert hd95_mm(truth, moved, (1, 1, 3)) == hd95_mm(moved, truth, (1, 1, 3))


def test_hd95_agrees_with_monai() -> None:
    import torch
    from monai.metrics import compute_hausdorff_distance

    rng = np.random.default_rng(0)
    for _ in range(4):
        truth, found = (cube(5, 15) & (rng.random((24, 24, 24)) > 0.05) for _ in range(2))
        found = np.roll(found, rng.integers(-4, 5, 3), (0, 1, 2))
        batches = [torch.from_numpy(m[None, None].astype(np.float32)) for m in (found, truth)]
        theirs = compute_hausdorff_distance(*batches, include_background=True, percentile=95, spacing=(2.0, 3.0, 4.0))
        assert hd95_mm(truth, found, (2.0, 3.0, 4.0)) == pytest.approx(float(theirs), abs=1e-3)


def test_an_organ_without_a_contour_is_left_out_and_one_that_is_not_found_counts_as_zero() -> None:
    truth, found = np.zeros((24, 24, 24), np.uint8), np.zeros((24, 24, 24), np.uint8)
    truth[cube(4, 8)], found[cube(12, 16)] = ORGANS["mandible"], ORGANS["larynx"]
    assert score_case(truth, found, (1, 1, 1)) == {"mandible": {"dice": 0.0, "hd95_mm": None}}


def test_the_interval_of_a_constant_gain_is_that_gain_and_one_of_noise_holds_zero() -> None:
    assert bootstrap(np.full(33, 0.25), 500) == (0.25, 0.25)
    noise = np.random.default_rng(0).normal(0, 1, 400)
    low, high = bootstrap(noise - noise.mean(), 4000)
    assert (low, high) == pytest.approx((-1.96 / 20, 1.96 / 20), abs=0.012)


def test_wilcoxon_is_scipys_and_no_difference_is_no_evidence() -> None:
    # Ten gains of one sign: 2 of the 2^10 sign patterns are as far out.
    assert wilcoxon(np.arange(1.0, 11.0)) == pytest.approx(2 / 2**10)
    assert wilcoxon(np.zeros(10)) == 1
    mixed = np.random.default_rng(3).normal(0.2, 1, 20)
    assert wilcoxon(mixed) == pytest.approx(stats.wilcoxon(mixed).pvalue)


def test_holm_multiplies_by_the_tests_that_are_left_and_never_falls() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.6})
    assert adjusted == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.6})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_the_summary_compares_equal_seeds_and_counts_a_case_once() -> None:
    runs = [run("real", 0, 0.0), run("real", 1, 0.1), run("guidegen-0.5", 1, 0.3), run("synthseg", 7, 0.9)]
    table = summary(runs, list(ARMS))
    rows = table["k"]["5"]
    assert table["num_contoured"]["larynx"] == 29
    assert table["num_contoured"]["mandible"] == 30
    # Only seed 1 is in both; the real run of seed 0 would make it a gain of 0.25.
    compared = rows["guidegen-0.5"]["against_real"]
    assert compared["seeds"] == [1]
    assert compared["dice"]["difference"] == pytest.approx(0.2, abs=1e-4)
    assert compared["dice"]["interval_95"] == pytest.approx([0.2, 0.2], abs=1e-4)
    assert compared["hd95_mm"]["difference"] == pytest.approx(-2)
    assert compared["organs"]["larynx"]["difference"] == pytest.approx(0.2, abs=1e-4)
    assert compared["p_holm"] == pytest.approx(compared["p_wilcoxon"])
    assert rows["real"]["seeds"] == [0, 1]
    assert "against_real" not in rows["synthseg"]


def test_our_arm_is_compared_with_random_texture_and_real_donors_on_the_seeds_that_both_have() -> None:
    runs = [run("real", 0, 0.0), run("synthseg", 0, 0.1), run("guidegen-0.5", 0, 0.3), run("guidegen-0.5", 1, 0.9)]
    held = summary(runs, list(ARMS))
    rows = held["k"]["5"]
    assert rows["guidegen-0.5"]["against_synthseg"]["seeds"] == [0]
    assert rows["guidegen-0.5"]["against_synthseg"]["dice"]["difference"] == pytest.approx(0.2, abs=1e-4)
    assert "against_synthseg" not in rows["real"] | rows["synthseg"]
    assert "against_donors" not in rows["guidegen-0.5"]
    rows = summary([*runs, run("donors", 0, 0.35)], list(ARMS))["k"]["5"]
    assert rows["guidegen-0.5"]["against_donors"]["dice"]["difference"] == pytest.approx(-0.05, abs=1e-4)
    told = downstream_table.markdown({"setting": "donor", "num_iterations": 9, "num_missing": 0, "summary": held})
    assert "| 5 | GuideGen, half of the patches: +0.200 (+0.200 to +0.200) | 1 (seed 0) |" in told


def test_an_organ_that_was_not_found_is_told_and_its_distance_compared_in_no_pair() -> None:
    worse, real = run("synthseg", 0, 0.0), run("real", 0, 0.0)
    for scores in worse["cases"].values():
        scores["mandible"] = {"dice": 0.0, "hd95_mm": None}
    row = summary([real, worse], list(ARMS))["k"]["5"]["synthseg"]
    assert row["organs"]["mandible"] == {"dice": 0.0, "hd95_mm": None, "not_found": 30}
    assert row["against_real"]["hd95_mm"]["difference"] == 0
    gains = row["against_real"]
    assert "mandible" in gains["organs"]
    assert gains["without"]["mandible"] == {"difference": 0.0, "interval_95": [0.0, 0.0]}
    assert gains["without"]["larynx"]["difference"] < gains["dice"]["difference"] < 0


def test_neither_a_test_patient_nor_a_chosen_patient_taught_the_generator(openkbp) -> None:
    pool, donors = pool_and_donors(openkbp)
    assert (len(pool), len(donors)) == (POOL_SIZE, 130)
    test = ["pt_201", "pt_202", "pt_203"]
    assert not LEFT_ASIDE & {*pool, *donors}
    for k in (5, 10, 20, 40):
        for seed in range(3):
            real = chosen(openkbp, k, seed)
            assert len(set(real)) == k
            refuse_leak(openkbp, real, donors, test)
    for real, generator, tested, words in (
        (donors[:1], donors, test, "real cases of the segmenter and patients of the generator"),
        (pool[:5], [*donors, "pt_201"], test, "test patients and patients of the generator"),
        (pool[:5], donors, [pool[0]], "test patients and real cases"),
        (pool[:5], donors, [pool[9]], "test and training patients"),
    ):
        with pytest.raises(SystemExit, match=words):
            refuse_leak(openkbp, real, generator, tested)


def test_the_model_that_comes_with_the_package_is_no_donor_model(tmp_path) -> None:
    with pytest.raises(SystemExit, match="all training patients"):
        refuse_shipped("head-neck")
    # Nor is a copy, or a model that draws with a part of it; the autoencoder has seen donors alone.
    shipped = model_folder("head-neck")
    for part, refused in (("slice_generator", True), ("mask_sampler", True), ("autoencoder", False)):
        folder = tmp_path / part
        shutil.copytree(shipped / part, folder / part)
        (folder / "model_index.json").write_text("{}")
        with pytest.raises(SystemExit, match="all training patients") if refused else nullcontext():
            refuse_shipped(folder)


def test_every_arm_trains_for_the_same_iterations_on_the_same_plans_with_its_own_fraction(
    openkbp, tmp_path, monkeypatch
) -> None:
    jobs = []

    def no_training(route: object, name: str, *command: object) -> str:
        job = json.loads(Path(str(command[-1])).read_text())
        settings = {n: float(v) for n, v in route.environment.items() if n.startswith(PREFIX)}
        jobs.append(job | {"fraction": settings[PREFIX + "FRACTION"], "settings": settings})
        (Path(job["out"]) / "training.json").write_text("{}")
        return "GuideGen: 0.4000 of 40 training patches\nGuideGen: 0.6000 of 40 training patches"

    monkeypatch.setattr(downstream_train.Route, "__call__", no_training)
    segmenter = Segmenter(tmp_path / "nnunet", [], Schedule(), "float32")
    measured = [segmenter.train("Dataset100_Real", arm, 0, {}, tmp_path / name) for name, arm in ARMS.items()]
    assert {json.dumps(job["schedule"]) for job in jobs} == {json.dumps(jobs[0]["schedule"])}
    fractions = dict(zip(ARMS, (job["fraction"] for job in jobs), strict=True))
    assert {f"guidegen-{v}": v for v in (0.25, 0.5, 0.75)}.items() <= fractions.items()
    assert (fractions["real"], fractions["synthetic"]) == (0, 1)
    assert {fractions[a] for a in ("guidegen-0.5-fixed", "real-masks", "synthseg", "autoencoder")} == {0.5}
    trainers = dict(zip(ARMS, (job["trainer"] for job in jobs), strict=True))
    assert trainers.pop("real") == "nnUNetTrainer"
    falling_trainers = {trainers.pop(arm) for arm in ARMS if arm.endswith("-falling")}
    assert falling_trainers == {"nnUNetTrainerGuideGenSchedule"}
    assert set(trainers.values()) == {"nnUNetTrainerGuideGen"}
    falling = jobs[list(ARMS).index("guidegen-falling")]["settings"]
    assert (falling[PREFIX + "FRACTION_START"] + falling[PREFIX + "FRACTION_END"]) / 2 == fractions["guidegen-falling"]
    assert falling[PREFIX + "FRACTION_END"] == 0
    assert measured[0]["share_drawn"] == 0.5


def test_plans_keep_nnunets_intensities_and_take_the_network_of_the_schedule() -> None:
    network = {"network_class_name": "U", "arch_kwargs": {"n_stages": 6, "norm_op": "IN"}}
    theirs = {
        "plans_name": "nnUNetPlans",
        "guidegen": {"num_real_cases": 5},
        "foreground_intensity_properties_per_channel": {"0": {"mean": 55.0}},
        "configurations": {CONFIGURATION: {"spacing": [2.5, 3.9, 3.9], "architecture": network, "batch_dice": True}},
    }
    before = json.dumps(theirs)
    small = small_plans(theirs, Schedule(spacing_mm=4.0, features=(8, 16, 32)))
    assert json.dumps(theirs) == before
    assert small["guidegen"] == theirs["guidegen"]
    assert small["foreground_intensity_properties_per_channel"]["0"]["mean"] == 55.0
    configuration = small["configurations"][CONFIGURATION]
    assert configuration["spacing"] == [4.0, 4.0, 4.0]
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert (kwargs["n_stages"], kwargs["features_per_stage"], kwargs["norm_op"]) == (3, [8, 16, 32], "IN")
    assert len(kwargs["strides"]) == len(kwargs["kernel_sizes"]) == 3


def test_the_real_arm_is_always_there_and_seeds_come_one_after_the_other() -> None:
    arms = list(arms_named(["synthseg", "guidegen-0.5"]))
    assert arms == ["real", "guidegen-0.5", "synthseg"]
    names = [t.name for t in trainings(arms, [5], [0, 1])]
    assert names[:4] == ["real-k5-seed0", "guidegen-0.5-k5-seed0", "synthseg-k5-seed0", "real-k5-seed1"]
    with pytest.raises(SystemExit, match="no arm 'magic'"):
        arms_named(["magic"])


def test_few_cases_are_repeated_in_the_fixed_arm_and_only_real_ones_go_through_the_autoencoder() -> None:
    sizes = Sizes(200, 20)
    assert [sizes.of(s, 5) for s in ("guidegen", "guidegen-fixed", "synthseg", "real-masks", "autoencoder")] == [
        200, 20, 200, 200, 5,
    ]  # fmt: skip


def test_only_cases_that_show_every_organ_are_complete(tmp_path) -> None:
    whole = dict.fromkeys(ORGANS, 5.0)
    rows = [whole, whole | {"esophagus": 0.9}, whole | {"bone": 0.0}]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps({"volumes_ml": row}) + "\n" for row in rows))
    assert complete_cases(tmp_path) == [0, 2]
    (tmp_path / "rejects.jsonl").write_text("{}\n{}\n")
    told = facts(tmp_path)
    assert (told["num_cases"], told["num_complete"], told["num_rejected"]) == (3, 2, 2)
    assert told["num_showing"]["esophagus"] == 2
    assert told["num_showing"]["mandible"] == 3
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"volumes_ml": rows[1]}) + "\n")
    with pytest.raises(SystemExit, match="none of the 1 cases"):
        complete_cases(tmp_path)


def test_a_training_that_is_done_is_not_done_again_and_one_that_broke_off_is(openkbp, tmp_path, monkeypatch) -> None:
    done = []
    bench = benchmark(openkbp, tmp_path / "work")
    bench.claim()

    def train(self: Benchmark, training: Training) -> dict:
        done.append(training.name)
        if training.arm == "synthseg" and len(done) < 3:
            raise KeyboardInterrupt
        return run(training.arm, training.seed, 0.1)

    monkeypatch.setattr(Benchmark, "_train", train)
    monkeypatch.setattr(downstream, "precision_here", lambda float32: "bfloat16")
    wanted = trainings(["real", "synthseg"], [5], [0])
    bench.do(wanted[0])
    with pytest.raises(KeyboardInterrupt):
        bench.do(wanted[1])
    assert [r["arm"] for r in bench.done(wanted)] == ["real"]
    again = benchmark(openkbp, tmp_path / "work")
    again.claim()
    for training in wanted:
        again.do(training)
    assert done == ["real-k5-seed0", "synthseg-k5-seed0", "synthseg-k5-seed0"]
    assert len(again.done(wanted)) == 2


def test_two_settings_or_schedules_never_share_a_folder(openkbp, tmp_path) -> None:
    benchmark(openkbp, tmp_path / "work").claim()
    for change in ({"setting": "strict"}, {"num_synthetic": 100}, {"quick": True}):
        with pytest.raises(SystemExit, match="other settings"):
            benchmark(openkbp, tmp_path / "work", **change).claim()


def test_the_report_says_how_many_trainings_are_missing(openkbp, tmp_path, monkeypatch, capsys) -> None:
    for module in (downstream, record):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    bench = benchmark(openkbp, tmp_path / "work")
    wanted = trainings(["real", "guidegen-0.5", "synthetic"], [5, 10], [0])
    with pytest.raises(SystemExit, match="none of the 6 trainings"):
        bench.report(wanted)
    (tmp_path / "work" / "runs").mkdir(parents=True)
    for training, gain in ((wanted[0], 0.0), (wanted[1], 0.05), (wanted[3], 0.2)):
        bench.run_file(training).write_text(json.dumps(run(training.arm, 0, gain, k=training.k)))
    bench.report(wanted)
    assert "3 trainings done, 3 missing" in capsys.readouterr().out
    figures = json.loads((tmp_path / "results" / "downstream_donor_imaged.json").read_text())["figures"]
    assert figures["num_missing"] == 3
    assert len(figures["scores"]["real-k5-seed0"]) == 30
    assert (tmp_path / "results" / "downstream_donor_imaged.png").stat().st_size > 10_000
    table = markdown(figures)
    assert "900 iterations in every arm. 3 of the trainings that the command names were not done;" in table
    row = next(line for line in table.splitlines() if line.startswith("| 5 | + GuideGen, half of the patches"))
    assert "| 1 (seed 0) |" in row
    assert "| +0.050 (+0.050 to +0.050) |" in row


def test_a_result_is_gone_on_from_on_another_machine(openkbp, tmp_path, monkeypatch) -> None:
    for module in (downstream, record):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    here, there = (benchmark(openkbp, tmp_path / name) for name in ("here", "there"))
    wanted = trainings(["real", "guidegen-0.5"], [5], [0, 1])
    here.run_file(wanted[0]).parent.mkdir(parents=True)
    for training in wanted[:3]:
        told = run(training.arm, training.seed, 0.03 * (training.arm != "real"))
        told["cases"]["pt_1"]["mandible"]["hd95_mm"] = None
        here.run_file(training).write_text(json.dumps(told))
    here.report(wanted)
    result = tmp_path / "results" / "downstream_donor_imaged.json"
    assert there.restore(result) == 3
    assert there.done(wanted) == here.done(wanted)
    assert there.restore(result) == 0
    strict = benchmark(openkbp, tmp_path / "strict", setting="strict")
    assert strict.restore(result) == 2
    assert [done["arm"] for done in strict.done(wanted)] == ["real", "real"]
    more = benchmark(openkbp, tmp_path / "more", num_synthetic=300)
    assert more.restore(result) == 2
    assert [done["arm"] for done in more.done(wanted)] == ["real", "real"], "cases are of no matter to these alone"
    with pytest.raises(SystemExit, match="another schedule"):
        benchmark(openkbp, tmp_path / "longer", iterations=2400).restore(result)
    old = json.loads(result.read_text())
    del old["figures"]["scores"]
    result.write_text(json.dumps(old))
    with pytest.raises(SystemExit, match="only means"):
        there.restore(result)


def test_a_longer_schedule_or_float32_alone_is_another_result(openkbp, tmp_path, monkeypatch) -> None:
    for module in (downstream, record):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    benchmark(openkbp, tmp_path / "work").claim()
    longer = benchmark(openkbp, tmp_path / "work", iterations=2400)
    assert longer.schedule.num_iterations == 2400
    with pytest.raises(SystemExit, match="other settings"):
        longer.claim()
    wanted = trainings(["real"], [5], [0])
    longer.run_file(wanted[0]).parent.mkdir()
    longer.run_file(wanted[0]).write_text(json.dumps(run("real", 0, 0.0)))
    longer.report(wanted)
    assert [p.name for p in sorted((tmp_path / "results").glob("*.json"))] == ["downstream_donor_2400_imaged.json"]
    other = trainings(["real"], [5], [1])
    exact = {**run("real", 1, 0.0), "precision": "float32"}
    longer.run_file(other[0]).write_text(json.dumps(exact))
    for asked, precisions in ((other, "_float32"), (wanted, "")):
        longer.report(asked)
        result = tmp_path / "results" / f"downstream_donor_2400_imaged{precisions}.json"
        result = json.loads(result.read_text())["figures"]
        assert len(result["trainings"]) == len(asked)
        assert ("in float32" in markdown(result)) == bool(precisions)
    benchmark(openkbp, tmp_path / "work", iterations=2400, suffix="more").report(wanted)
    assert (tmp_path / "results" / "downstream_donor_2400_imaged_more.json").exists()
    for wrong in (0, 920):
        with pytest.raises(SystemExit, match="multiple of 50"):
            schedule_of(wrong)


def test_a_folder_holds_trainings_of_one_precision_and_a_result_gives_those_of_one_generator(
    openkbp, tmp_path, monkeypatch
) -> None:
    for module in (downstream, record):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    model = tmp_path / "model"
    model.mkdir()
    (model / "model_index.json").write_text("{}")
    monkeypatch.setattr(downstream, "fingerprint_of", lambda folder: f"sha of {folder.name}")
    wanted = trainings(["real", "guidegen-0.5", "synthseg"], [5], [0])
    here = benchmark(openkbp, tmp_path / "here")
    here.run_file(wanted[0]).parent.mkdir(parents=True)
    for training, sha in zip(wanted, (None, "sha of another", "sha of model"), strict=True):
        told = run(training.arm, 0, 0.0) | {"model_sha256": sha, "precision": "float32"}
        here.run_file(training).write_text(json.dumps(told))
    here.report(wanted)
    result = tmp_path / "results" / "downstream_donor_imaged_float32.json"
    there = benchmark(openkbp, tmp_path / "there", model=str(model))
    assert there.restore(result) == 2
    assert [done["arm"] for done in there.done(wanted)] == ["real", "synthseg"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(Benchmark, "_train", lambda self, training: run(training.arm, 0, 0.0))
    with pytest.raises(SystemExit, match="float32, which does not compare with bfloat16"):
        there.do(wanted[1])
    goes_on = benchmark(openkbp, tmp_path / "there", model=str(model), float32=True)
    goes_on.do(wanted[1])
    assert len(goes_on.done(wanted)) == 3
    elsewhere = benchmark(openkbp, tmp_path / "elsewhere")
    elsewhere.do(wanted[0])
    with pytest.raises(SystemExit, match="bfloat16, which does not compare with float32"):
        elsewhere.restore(result)


def test_test_patients_and_real_cases_lose_the_slices_that_were_not_imaged(tmp_path) -> None:
    folder = tmp_path / "openkbp"
    for split in ("train", "validation"):
        (folder / split).mkdir(parents=True)
        labels = np.zeros((24, 24, 24), np.uint8)
        labels[11:13, 11:13] = ORGANS["spinal cord"]
        labels[5:19, 5:19, 8:20] = np.maximum(labels[5:19, 5:19, 8:20], ORGANS["brainstem"])
        ct = np.where(labels > 0, 40, -1024).astype(np.int16)
        for what, array in (("ct", ct), ("label", labels)):
            image = nib.Nifti1Image(array, np.diag([6.0, 6.0, 3.0, 1.0]))
            nib.save(image, folder / split / f"pt_{1 + (split == 'train')}_{what}.nii.gz")
    (folder / "index.csv").write_text("patient,split,organs\n")
    bench = benchmark(folder, tmp_path / "work")
    bench.claim()
    bench.clear()
    bench.clear()
    for path in (bench.test["pt_1"], bench.openkbp / "train" / "pt_2_ct.nii.gz"):
        assert path.is_relative_to(tmp_path / "work")
        for what, empty in (("ct", -1024), ("label", 0)):
            held = np.asarray(nib.load(str(path).replace("_ct.", f"_{what}.")).dataobj)
            assert (held[:, :, :8] == empty).all()
            assert (held[:, :, 20:] == empty).all()
            assert (held[12, 12, 8:20] != empty).all()
    assert (bench.openkbp / "index.csv").read_text() == "patient,split,organs\n"


def test_predictions_are_scored_in_mm_against_the_contours_beside_the_ct(openkbp, tmp_path) -> None:
    patients = {p.name.removesuffix("_ct.nii.gz"): p for p in (openkbp / "validation").glob("*_ct.nii.gz")}
    for name in patients:
        found = np.zeros((24, 24, 24), np.uint8)
        found[np.roll(cube(4, 12), 1, axis=0)] = ORGANS["brainstem"]
        nib.save(nib.Nifti1Image(found, np.diag([3.0, 3.0, 2.0, 1.0])), tmp_path / f"{name}.nii.gz")
    scores = score_folder(tmp_path, patients)
    assert len(scores) == 3
    for organs in scores.values():
        assert organs == {"brainstem": {"dice": 0.875, "hd95_mm": 3.0}}


def test_written_cases_are_read_back_and_an_interrupted_writing_goes_on(tmp_path) -> None:
    made = []

    def make(number: int) -> Case:
        made.append(number)
        if number == 3 and len(made) < 5:
            raise KeyboardInterrupt
        return case(number)

    with pytest.raises(KeyboardInterrupt):
        write_cases(make, 5, tmp_path / "shards", cases_a_shard=2)
    write_cases(make, 5, tmp_path / "shards", cases_a_shard=2)
    assert made == [0, 1, 2, 3, 2, 3, 4]
    reader = ShardReader(tmp_path / "shards")
    assert len(reader) == 5
    for number in range(5):
        assert np.array_equal(reader[number].ct_hu, case(number).ct_hu)


def test_random_texture_changes_the_ct_of_every_class_and_leaves_label_map_and_air(tmp_path) -> None:
    pytest.importorskip("torchio")
    from benchmarks.downstream_synthseg import random_texture

    source = case()
    first, again, other = (random_texture(source, seed) for seed in (1, 1, 2))
    for made in (first, other):
        assert np.array_equal(made.label_map, source.label_map)
        assert np.array_equal(made.affine, source.affine)
        assert (made.ct_hu[source.label_map == 0] == -1000).all()
    assert np.array_equal(first.ct_hu, again.ct_hu)
    for number in np.unique(source.label_map[source.label_map > 0]):
        inside = source.label_map == number
        assert abs(first.ct_hu[inside].mean() - other.ct_hu[inside].mean()) > 5


def test_the_generator_is_asked_for_cases_in_which_every_organ_is_contoured(tmp_path, monkeypatch) -> None:
    commands = []
    monkeypatch.setattr(Commands, "guidegen", lambda _, name, *words: commands.append([str(word) for word in words]))
    Sources(tmp_path, tmp_path, [], tmp_path / "model", Sizes(num_cases=60)).shards("guidegen")
    configure(parser := argparse.ArgumentParser())
    args = parser.parse_args(commands[0][1:])
    assert (args.n, args.out, args.report) == (60, str(tmp_path / "guidegen"), [])
    generator = SimpleNamespace(anatomy=HEAD_NECK, fingerprint="one")
    recipe = make_recipe(generator, seed=args.seed, sampling=args.sampling)
    source, again = (ReportSource(recipe, HEAD_NECK) for _ in range(2))
    reports = [source.request(index).report for index in range(args.n)]
    assert reports == [again.request(index).report for index in range(args.n)]
    assert len(set(reports)) > 50
    read = [abstract_report(text, HEAD_NECK).findings for text in reports]
    assert not [f.organs for f in read if "absent" in f.organs.values()]
    # A target hides the organs under it. What else is sampled stays: organs of unusual size, regions.
    assert not any(f.lesions for f in read)
    assert {"neck", "head and neck"} == {f.region for f in read}
    assert {"enlarged", "small"} <= {status for f in read for status in f.organs.values()}
