"""Machines by name, by numbers and as found."""

import dataclasses
import types

import psutil
import pytest
import torch

from genesis_ds.errors import UserError
from genesis_ds.memory.machine import hardware
from genesis_ds.memory.machine.hardware import (
    GIB,
    NAMED,
    Hardware,
    cgroup_limits,
    find_hardware,
    format_bytes,
    from_numbers,
    here,
    parse_size,
)


def test_the_desktop_of_the_facts() -> None:
    machine = find_hardware("rtx4070")
    assert machine.usable_gpu_bytes / GIB == pytest.approx(11.2, abs=0.001)
    assert machine.usable_gpu_bytes <= 11.2 * GIB
    assert machine.usable_host_bytes == 57 * GIB
    assert (machine.world_size, machine.peak_flops, machine.memory_bandwidth) == (1, 58.3e12, 504e9)


def test_names() -> None:
    assert list(NAMED) == ["rtx3060-12g", "rtx4070", "rtx4090", "a100-40g", "a100-80g", "h100", "cpu"]
    assert all(name == machine.name for name, machine in NAMED.items())
    with pytest.raises(UserError, match=r"'rtx4080' is not known; did you mean 'rtx40.0'\?"):
        find_hardware("rtx4080")


@pytest.mark.parametrize("machine", NAMED.values(), ids=list(NAMED))
def test_reserves_are_stated(machine: Hardware) -> None:
    told = "\n".join(machine.reserves)
    assert format_bytes(machine.system_bytes) in told
    assert format_bytes(machine.process_bytes) in told
    assert 0 < machine.usable_host_bytes < machine.host_bytes
    if machine.has_gpu:
        assert 0 < machine.gpu_overhead_bytes < machine.usable_gpu_bytes < machine.gpu_bytes
        assert format_bytes(machine.held_bytes) in told
        assert format_bytes(machine.outside_torch_bytes) in told
    else:
        assert machine.usable_gpu_bytes == machine.gpu_overhead_bytes == 0
        assert "GPU" not in told
        assert "CUDA" not in told


def test_ranks_of_a_node_share_the_host() -> None:
    one = find_hardware("h100")
    many = dataclasses.replace(one, gpus_per_node=8, nodes=2)
    assert many.world_size == 16
    assert many.usable_host_bytes == one.usable_host_bytes // 8
    assert many.usable_gpu_bytes == one.usable_gpu_bytes
    assert many.gpu_overhead_bytes == one.gpu_overhead_bytes + hardware.NCCL_BYTES
    assert any("NCCL" in line for line in many.reserves)
    assert any("8 ranks" in line for line in many.reserves)


@pytest.mark.parametrize(
    ("size", "nbytes"),
    [("12GiB", 12 * GIB), ("12 GB", 12 * 10**9), ("64G", 64 * GIB), (" 1.5 gib ", 3 * GIB // 2), ("2TiB", 2048 * GIB),
     ("512 MB", 512 * 10**6), ("1024B", 1024), (12345, 12345), ("7k", 7168)],
)  # fmt: skip
def test_sizes(size: str | int, nbytes: int) -> None:
    assert parse_size(size) == nbytes


@pytest.mark.parametrize(
    ("size", "complaint"),
    [("12", "no unit; write 12GiB, or 12B"), ("", "not a size"), ("lots", "not a size"), ("12 parsecs", "not a size"),
     ("GiB", "not a size"), ("nan GiB", "not a size"), ("1e3GiB", "not a size"), ("0GiB", "above 0"), (0, "above 0"),
     ("-4GiB", "above 0"), (-1, "above 0"), ("0.1B", "above 0"), ("12GiB 4", "not a size"), ("12iB", "not a size")],
)  # fmt: skip
def test_sizes_that_are_none(size: str | int, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        parse_size(size, "vram")
    assert str(caught.value).startswith("vram: ")


def test_numbers() -> None:
    machine = from_numbers("12GiB", "64GiB")
    named = NAMED["rtx4070"]
    assert (machine.usable_gpu_bytes, machine.usable_host_bytes) == (named.usable_gpu_bytes, named.usable_host_bytes)
    assert machine.peak_flops is None


@pytest.mark.parametrize(
    ("sizes", "counts", "complaint"),
    [(("1GiB", "64GiB"), {}, "hardware: a card's 1.00 GiB is no more than the reserves"),
     (("12GiB", "1GiB"), {}, "hardware: a node's 1.00 GiB for 1 ranks"),
     (("12GiB", "16GiB"), {"gpus_per_node": 64}, "hardware: a node's 16.00 GiB for 64 ranks"),
     (("12GiB", "64GiB"), {"gpus_per_node": 0}, "--gpus: 0 is not allowed"),
     (("12GiB", "64GiB"), {"gpus_per_node": 1000, "nodes": 1000}, "1,000,000 GPUs in all are not allowed"),
     (("9" * 400 + "GiB", "64GiB"), {}, "is not allowed; give a size above 0"),
     (("12GiB", "64GiB"), {"nodes": -1}, "--nodes: -1 is not allowed"),
     (("12GiB", "much"), {}, "--ram: 'much' is not a size")],
)  # fmt: skip
def test_machines_that_cannot_be(sizes: tuple[str, str], counts: dict[str, int], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        dataclasses.replace(from_numbers(*sizes), **counts)


@pytest.fixture
def roomy(monkeypatch) -> None:
    """A machine of 32 GiB without a container's limit."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(total=32 * GIB))
    monkeypatch.setattr(hardware, "cgroup_limits", lambda *_: iter([]))


def fake_cuda(monkeypatch, **answers: object) -> None:
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)


def test_here_without_a_gpu(monkeypatch, roomy) -> None:
    fake_cuda(monkeypatch, is_available=False)
    assert find_hardware("here") == Hardware("here", 0, 32 * GIB)


def test_here_follows_ds_accelerator(monkeypatch, roomy) -> None:
    fake_cuda(monkeypatch, is_available=True)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert here() == Hardware("here", 0, 32 * GIB)
    fake_cuda(monkeypatch, is_available=False)
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    with pytest.raises(UserError, match="DS_ACCELERATOR: 'cuda', but torch finds no CUDA device here"):
        here()


def test_here_with_gpus(monkeypatch, roomy) -> None:
    fake_cuda(monkeypatch, is_available=True, mem_get_info=(70 * GIB, 79 * GIB), memory_reserved=GIB // 2,
               device_count=2, get_device_name="NVIDIA H100 80GB HBM3")  # fmt: skip
    machine = here()
    assert machine.held_bytes == 8 * GIB
    assert machine.usable_gpu_bytes == 71 * GIB
    assert (machine.gpus_per_node, machine.peak_flops) == (2, 990e12)
    assert "8.00 GiB of a card's 79.00 GiB left to what other programs hold now" in machine.reserves[0]


def test_here_within_a_container(monkeypatch, roomy) -> None:
    fake_cuda(monkeypatch, is_available=False)
    monkeypatch.setattr(hardware, "cgroup_limits", lambda *_: iter([48 * GIB, 8 * GIB]))
    assert here().host_bytes == 8 * GIB


def test_container_limits(tmp_path) -> None:
    membership, mount = tmp_path / "cgroup", tmp_path / "mount"
    assert list(cgroup_limits(membership, mount)) == []
    membership.write_text("9:name=systemd:/\n4:memory:/job/step\n0::/user.slice/app\n")
    (mount / "memory/job/step").mkdir(parents=True)
    (mount / "memory/job/memory.limit_in_bytes").write_text("1000\n")
    (mount / "user.slice/app").mkdir(parents=True)
    (mount / "user.slice/app/memory.max").write_text("max\n")
    (mount / "user.slice/memory.max").write_text("2000\n")
    (mount / "memory.max").write_text("3000\n")
    assert sorted(cgroup_limits(membership, mount)) == [1000, 2000, 3000]
