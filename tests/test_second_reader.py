"""A second reader looks at every CT: a case in which it does not find the organs of the label map is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from little_models import train_little

from guidegen_data.anatomy import HEAD_NECK
from guidegen_data.cli.main import main
from guidegen_data.errors import ModelError
from guidegen_data.models.segmenter import Segmenter, body_box, probabilities, second_read
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.quality import verdict
from guidegen_data.shards.verify import problems
from guidegen_data.sources.prepared import case_paths, load_case
from guidegen_data.training.completion import anatomy_of
from guidegen_data.training.second_reader import reader_of
from guidegen_data.training.segmenter import trained_segmenter

SHORT = ["--recipe", "tiny", "--num-steps", "2", "--device", "cpu", "--validate-every", "0"]
CHECK = "spleen as the second reader finds it (Dice)"
REPORT = "The liver and the spleen are normal."


class ByHU(torch.nn.Module):
    """Reads the larynx where a CT is above 100 HU and the mandible where it is above 900."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    multiple = 8

    def forward(self, ct_hu: torch.Tensor) -> torch.Tensor:
        self.seen = tuple(ct_hu.shape[2:])
        logits = torch.zeros(1, HEAD_NECK.num_classes, *ct_hu.shape[2:])
        logits[:, HEAD_NECK.id_of("larynx")] = 50 * (ct_hu[:, 0] > 100).float()
        logits[:, HEAD_NECK.id_of("mandible")] = 100 * (ct_hu[:, 0] > 900).float()
        return logits


def volume(**boxes: tuple[slice, slice, slice]) -> np.ndarray:
    label_map = np.zeros((32, 32, 32), np.uint8)
    for name, box in boxes.items():
        label_map[box] = HEAD_NECK.id_of(name)
    return label_map


def test_it_tells_how_well_each_organ_is_found() -> None:
    block = slice(0, 8)
    label_map = volume(larynx=(block, block, block), mandible=(block, block, slice(16, 24)))
    ct = np.zeros(label_map.shape, np.int16)
    ct[:4, :8, :8] = 200  # one half of the larynx and nothing else
    read = second_read(ByHU(), ct, label_map, HEAD_NECK, {"larynx": 0.5, "mandible": 0.25})
    assert read == {"larynx": {"dice": 0.667, "least": 0.5}, "mandible": {"dice": 0.0, "least": 0.25}}
    read = second_read(ByHU(), ct, label_map, HEAD_NECK, {"larynx": 0.5})
    assert set(read) == {"larynx"}


def test_voxels_of_lesions_and_slivers_of_organs_say_nothing() -> None:
    block = slice(0, 8)
    label_map = volume(larynx=(block, block, block), ptv70=(slice(8, 16), block, block), mandible=(block, block, 20))
    ct = np.where((label_map == HEAD_NECK.id_of("larynx")) | (label_map == HEAD_NECK.lesion_id), 200, 0)
    read = second_read(ByHU(), ct.astype(np.int16), label_map, HEAD_NECK, {"larynx": 0.5, "mandible": 0.25})
    assert read == {"larynx": {"dice": 1.0, "least": 0.5}}  # 64 voxels of mandible are one millilitre


def test_a_network_sees_the_box_around_the_body_and_reads_nothing_outside() -> None:
    ct = np.full((32, 32, 32), -1000, np.int16)
    ct[3:14, 5:9, 29:32] = 200
    ct[20, 20, 20] = -600  # not dense enough for a body
    box = body_box(ct, 8)
    assert box == (slice(3, 19), slice(5, 21), slice(16, 32))
    reader = ByHU()
    chances = probabilities(reader, ct)
    assert reader.seen == (16, 16, 16)
    assert chances.shape == (HEAD_NECK.num_classes, 32, 32, 32)
    assert np.array_equal(chances[HEAD_NECK.id_of("larynx")] > 0.5, ct == 200)
    assert np.allclose(chances.sum(axis=0), 1)
    outside = np.ones(ct.shape, bool)
    outside[box] = False
    assert (chances[0][outside] == 1).all()
    assert body_box(np.full((16, 16, 16), -1000), 8) == (slice(None),) * 3


def test_a_body_of_one_voxel_can_be_read() -> None:
    ct = np.full((32, 32, 32), -1000, np.int16)
    ct[1, 1, 1] = 200
    assert np.isfinite(probabilities(Segmenter(HEAD_NECK.num_classes, channels=(4, 8, 8)).eval(), ct)).all()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`plain`, a model without a reader, and `completed`, whose network never learned enough to find a spleen."""
    folder = tmp_path_factory.mktemp("reader")
    train_little(folder, 12, "0.5", SHORT, {})
    data = str(folder / "prepared")
    assert main(["export", str(folder / "masks"), str(folder / "slices"), str(folder / "plain")]) == 0
    words = ["complete", data, str(folder / "completed"), "--classes", "spleen", "--num-steps", "2", "--device", "cpu"]
    assert main(words) == 0
    return folder


def with_reader(made, out, dice: float, *more: str) -> GuideGenPipeline:
    """The plain model with a reader that found the spleen of all held-out patients that well."""
    completed = out.parent / f"{out.name}-completed"
    shutil.copytree(made / "completed", completed)
    told = json.loads((completed / "completed.json").read_text())
    told["classes"]["spleen"]["held_out_dice"] = [dice] * 6
    (completed / "completed.json").write_text(json.dumps(told))
    plain = str(made / "plain")
    assert main(["export", plain, plain, str(out), "--second-reader", str(completed), *more]) == 0
    return GuideGenPipeline.from_pretrained(out, device="cpu")


def test_a_case_is_refused_where_the_reader_finds_its_organ_worse_than_in_real_patients(made, tmp_path) -> None:
    outcomes = {}
    for name, dice in (("strict", 0.9), ("lenient", 0.0)):
        pipe = with_reader(made, tmp_path / name, dice)
        assert isinstance(pipe.second_reader, Segmenter)
        assert pipe.config.least_read_dice == {"spleen": dice}
        real = load_case(case_paths(made / "prepared" / "train")[0])
        known = torch.from_numpy(real.label_map).long()[None]
        (case,) = pipe(REPORT, seed=1, known=known)
        (check,) = [check for check in verdict(case)["checks"] if check["name"] == CHECK]
        assert check["value"] == case.provenance["second_read"]["spleen"]["dice"] < 0.9
        outcomes[name] = check["pass"]
    assert outcomes == {"strict": False, "lenient": True}


def test_a_model_without_one_reads_nothing(made) -> None:
    pipe = GuideGenPipeline.from_pretrained(made / "plain", device="cpu")
    assert pipe.second_reader is None
    (case,) = pipe(REPORT, seed=1)
    assert "second_read" not in case.provenance
    assert CHECK not in {check["name"] for check in verdict(case)["checks"]}


def test_shards_keep_what_was_read_and_verify_by_it(made, tmp_path) -> None:
    with_reader(made, tmp_path / "strict", 0.9)
    words = ["shard", "--n", "2", "--model", str(tmp_path / "strict"), "--out", str(tmp_path / "shards")]
    assert main([*words, "--report", REPORT, "--no-qc", "--device", "cpu"]) == 0
    assert not list(problems(tmp_path / "shards"))


def test_the_card_tells_once_what_is_read_and_how_well(made, tmp_path) -> None:
    out = tmp_path / "model"
    with_reader(made, out, 0.5)
    before = (out / "README.md").read_text()
    assert "| spleen | 0.500 | 0.500 (6) |" in before
    files = [p.relative_to(made / "plain") for p in (made / "plain").rglob("*") if p.is_file()]
    changed = {str(f) for f in files if (made / "plain" / f).read_bytes() != (out / f).read_bytes()}
    assert changed == {"README.md", "model_index.json"}
    words = ["export", str(out), str(out), str(out), "--second-reader", str(tmp_path / "model-completed")]
    assert main([*words, "--read-percentile", "50"]) == 0
    after = (out / "README.md").read_text()
    assert after.count("## Second reader") == 1
    assert after == before.replace("10 of 100", "50 of 100")


def test_the_least_dice_is_the_percentile_of_real_patients(made, tmp_path) -> None:
    completed = tmp_path / "completed"
    shutil.copytree(made / "completed", completed)
    told = json.loads((completed / "completed.json").read_text())
    told["classes"]["spleen"]["held_out_dice"] = [0.2, 0.4, 0.6, 0.8, 1.0]
    (completed / "completed.json").write_text(json.dumps(told))
    anatomy = anatomy_of(made / "prepared")
    assert reader_of(completed, anatomy, 25)[1] == {"spleen": 0.4}
    told["classes"]["spleen"]["held_out_dice"] = [0.2, 0.4, 0.6, 0.8]
    (completed / "completed.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match="is shown by 5 validation patients"):
        reader_of(completed, anatomy, 10)


def test_a_network_of_another_table_or_spacing_neither_reads_nor_draws(made, tmp_path, capsys) -> None:
    other = tmp_path / "other"
    shutil.copytree(made / "completed", other)
    told = json.loads((other / "completed.json").read_text())
    told["classes"]["spleen"]["held_out_dice"] = [0.5] * 6
    (other / "completed.json").write_text(json.dumps(told))
    table, plain = (other / "anatomy.yaml").read_text(), str(made / "plain")
    read = ["export", plain, plain, str(tmp_path / "none"), "--second-reader", str(other)]
    draw = ["complete", str(made / "prepared"), str(tmp_path / "drawn"), "--classes", "spleen", "--device", "cpu"]
    draw += ["--init", str(other), "--num-steps"]
    spleen, spacing = "name: spleen", "spacing_mm: [12.0, 12.0, 12.0]"
    for was, now, reason in (
        (spleen, "name: stomach", "learned another label table than two-organs"),
        (spacing, "spacing_mm: [6.0, 6.0, 6.0]", "learned at (6.0, 6.0, 6.0) mm, here it is (12.0, 12.0, 12.0) mm"),
    ):
        assert was in table
        (other / "anatomy.yaml").write_text(table.replace(was, now))
        for words in (read, [*draw, "0"], [*draw, "2"]):
            assert main(words) == 1
            assert reason in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    with pytest.raises(ModelError, match="multiple of 8 voxels a side"):
        trained_segmenter(made / "completed", replace(anatomy_of(made / "prepared"), shape=(32, 36, 32)))


def test_what_is_no_reader_is_refused(made, tmp_path, capsys) -> None:
    plain = str(made / "plain")
    words = ["export", plain, plain, str(tmp_path / "none"), "--second-reader"]
    assert main([*words, str(made / "prepared")]) == 1
    assert "holds no completed.json" in capsys.readouterr().err
    assert main([*words, str(made / "completed"), "--read-percentile", "101"]) == 1
    assert "from 0 to 100, got 101" in capsys.readouterr().err
    assert main(["export", "torso", "torso", str(tmp_path / "none"), "--second-reader", str(made / "completed")]) == 1
    assert "completed learned another label table than torso" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
