"""A wheel has what a checkout ships, and works in an empty directory."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = [*ROOT.glob("launch/runs/*.yaml"), *ROOT.glob("ds_configs/*.json"), *ROOT.glob("tokenizers/*.yaml")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which a wheel of this checkout was unpacked."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("genesis_ds", "launch", "ds_configs", "tokenizers"):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    backend = "from setuptools import build_meta as b; b.build_wheel('.')"
    subprocess.run([sys.executable, "-c", backend], cwd=source, capture_output=True, check=True, timeout=120)
    (wheel,) = source.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(target)
    return target


def test_every_shipped_file_is_in_a_wheel(installed):
    for path in SHIPPED:
        assert (installed / "genesis_ds/shipped" / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    assert (installed / "genesis_ds/py.typed").is_file()
    assert (installed / "genesis_ds/engine/kernels/bf16_adam.cpp").is_file()
    assert (installed / "genesis_ds/report/assets/report.js").is_file()
    assert not any(path.is_symlink() for path in (installed / "genesis_ds/shipped").rglob("*"))


@pytest.mark.parametrize(
    "words",
    ["corpus synthetic", "memory --ds_config ds_configs/zero2.json --hardware rtx4070", "train --print_config"],
)
def test_a_command_of_a_wheel_works_in_an_empty_directory(installed, tmp_path, words):
    done = subprocess.run(
        [sys.executable, "-m", "genesis_ds", *words.split()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    if words.startswith("memory"):
        assert f"reading the shipped {installed / 'genesis_ds/shipped/ds_configs/zero2.json'}" in done.stderr
