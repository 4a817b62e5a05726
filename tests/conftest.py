"""What every test may need: a torchvision that fits torch, a quick generator, and a folder of shards made by it."""

import importlib.util
import os
import sys
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # the other cores are the other workers'; read when torch is loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")
_SHIM = Path(__file__).parent / "torchvision_shim"
if (
    Path(getattr(sys.modules.get("sitecustomize"), "__file__", "")).parent != _SHIM
):  # else PYTHONPATH brought it already
    _spec = importlib.util.spec_from_file_location("torchvision_shim", _SHIM / "sitecustomize.py")
    assert _spec
    assert _spec.loader
    _shim = importlib.util.module_from_spec(_spec)
    sys.modules["torchvision_shim"] = _shim  # held: with the module the operators it defines would go, too
    _spec.loader.exec_module(_shim)
# Worker processes and nnU-Net's own commands need it too.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_SHIM), os.environ.get("PYTHONPATH", ""))))

import pytest  # noqa: E402
from ellipsoids import EllipsoidGenerator, load_ellipsoids  # noqa: E402

from guidegen_data.case import Case  # noqa: E402
from guidegen_data.reports.findings import Findings, Lesion  # noqa: E402
from guidegen_data.shards import generators  # noqa: E402
from guidegen_data.shards.manifest import RunConfig  # noqa: E402
from guidegen_data.shards.plan import make_recipe  # noqa: E402
from guidegen_data.shards.workers import make_shards  # noqa: E402


@pytest.fixture
def cheap_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The commands generate ellipsoids, in an empty folder."""
    monkeypatch.setattr(generators, "load_generator", load_ellipsoids)
    monkeypatch.setattr(generators, "device_kind", lambda device: "cpu")
    monkeypatch.setattr("guidegen_data.cli.memory.keep_freed_memory", lambda: None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def generator() -> EllipsoidGenerator:
    return EllipsoidGenerator()


@pytest.fixture(scope="session")
def config(generator: EllipsoidGenerator) -> RunConfig:
    """Ten cases in shards of three, so that blocks of four and shards do not fall together and both end short."""
    return RunConfig(make_recipe(generator, seed=1), n=10, model="ellipsoids", shard_size=3)


@pytest.fixture(scope="session")
def shards(generator: EllipsoidGenerator, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished shard folder. Not to be written to."""
    folder = tmp_path_factory.mktemp("shards") / "whole"
    for _ in make_shards(folder, config, lambda: generator):
        pass
    return folder


@pytest.fixture(scope="session")
def case() -> Case:
    """A case that shows what it was asked for: a lesion in the liver, no gallbladder, no left kidney."""
    findings = Findings(
        region="abdomen",
        organs={"gallbladder": "absent", "left kidney": "absent"},
        lesions=(Lesion("liver", "right lobe", 40),),
    )
    return EllipsoidGenerator(misses=0).generate([findings], ["CT abdomen."], ["one"], [1])[0]
