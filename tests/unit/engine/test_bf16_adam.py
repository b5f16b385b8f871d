"""The kernel of bf16 masters against NumPy, bit for bit, and what its noise is worth."""

import itertools

import numpy as np
import pytest
import torch

from genesis_ds.engine import bf16_adam, compiled_ops
from genesis_ds.engine.bf16_adam import bf16_adam_update, parameter_key, slice_table

ADAMW = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
KEY = parameter_key(0, "a weight")
pytestmark = pytest.mark.skipif(compiled_ops.compiler_missing() is not None, reason="nothing can be compiled")


def bf16(*values):
    return [torch.tensor(value).bfloat16() for value in values]


def some_tensors(n, seed=0):
    """Weights, gradient, moments and a compensation."""
    drawn = torch.Generator().manual_seed(seed)
    w, g, m, v, c = torch.randn(5, n, generator=drawn).unbind()
    return [each.bfloat16() for each in (w, g * 1e-2, m * 1e-3, v.abs() * 1e-5, c * 1e-3)]


def whole(n, key=KEY):
    return slice_table([(0, n, 0, key)])


def update(tensors, step, slices, **more):
    bf16_adam_update(tuple(tensors[:4]), tensors[4] if len(tensors) > 4 else None, slices=slices, step=step, **more)


def bits(tensor):
    return tensor.view(torch.int16).tolist()


# --- the same in NumPy -----------------------------------------------------------------------------------------------


def mixed(x):
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def step_key(key, step):
    mask = 2**64 - 1
    x = (key + step * 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def widened(values):
    return (values.astype(np.uint32) << 16).view(np.float32)


def stochastic(values, noise):
    return ((values.view(np.uint32) + (noise & 0xFFFF)) >> 16).astype(np.uint16)


def nearest(values):
    return torch.from_numpy(values).bfloat16().view(torch.uint16).numpy()


def in_numpy(tensors, step, key, *, lr, betas, eps, weight_decay):
    """What the kernel makes of weights, moments and, where there is one, of the compensation, as bits."""
    w, g, m, v, *compensation = (each.view(torch.uint16).numpy().copy() for each in tensors)
    f = np.float32
    (beta1, beta2), element = betas, np.arange(len(w), dtype=np.uint32)
    keyed = step_key(key, step)
    noise = mixed(mixed(element ^ np.uint32(keyed & 0xFFFFFFFF)) ^ np.uint32(keyed >> 32))
    gradient = widened(g)
    m1 = f(beta1) * widened(m) + f(1 - beta1) * gradient
    v1 = f(beta2) * widened(v) + f(1 - beta2) * (gradient * gradient)
    step_size, scale2 = f(lr / (1 - beta1**step)), f(1 / (1 - beta2**step) ** 0.5)
    change = step_size * m1 / (np.sqrt(v1) * scale2 + f(eps))
    keep = f(1 - lr * weight_decay)
    moments, another = [stochastic(m1, noise), stochastic(v1, noise >> 16)], mixed(noise + np.uint32(0x9E3779B9))
    if not compensation:
        return [stochastic(widened(w) * keep - change, another), *moments]
    w1 = (widened(w) + widened(compensation[0])) * keep - change
    rounded = nearest(w1)
    return [rounded, *moments, stochastic(w1 - widened(rounded), another)]


@pytest.mark.parametrize("compensates", [False, True])
def test_every_bit_is_that_of_numpy(compensates):
    n = 100_003
    tensors = some_tensors(n)[: 5 if compensates else 4]
    for step in (1, 2, 3_000):
        expected = in_numpy(tensors, step, KEY, **ADAMW)
        update(tensors, step, whole(n), **ADAMW)
        updated = [tensors[0], *tensors[2:]]
        for found, wanted in zip(updated, expected, strict=True):
            assert np.array_equal(found.view(torch.uint16).numpy(), wanted)


def test_without_vector_instructions_the_bits_are_the_same(monkeypatch, tmp_path):
    def updated():
        bf16_adam._library.cache_clear()
        tensors = some_tensors(10_001)
        update(tensors[:4], 7, whole(10_001), **ADAMW)
        update(tensors, 8, whole(10_001), **ADAMW)
        return [bits(each) for each in tensors]

    expected = updated()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    scalar = [flag for flag in compiled_ops.FLAGS if flag not in ("-O3", "-march=native")]
    monkeypatch.setattr(compiled_ops, "FLAGS", (*scalar, "-O1"))
    assert updated() == expected
    assert (tmp_path / "bf16_adam/bf16_adam.so").is_file()
    bf16_adam._library.cache_clear()


def test_threads_change_nothing(monkeypatch):
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        tensors = some_tensors(200_003)[:4]
        update(tensors, 1, whole(200_003), **ADAMW)
        found.append([bits(each) for each in tensors])
    assert found[0] == found[1]


def test_a_parameter_cut_in_any_way_is_updated_as_the_whole():
    n, cuts = 70_001, (0, 13, 14, 33_000, 70_001)
    expected = some_tensors(n)
    update(expected, 5, whole(n), **ADAMW)
    for first, end in itertools.pairwise(cuts):
        padding = torch.full((3,), 2.0).bfloat16()
        parts = [torch.cat([padding, each[first:end], padding]) for each in some_tensors(n)]
        update(parts, 5, slice_table([(3, end - first, first, KEY)]), **ADAMW)
        for part, one in zip(parts, expected, strict=True):
            assert bits(part) == bits(torch.cat([padding, one[first:end], padding]))


# --- what the noise is worth -----------------------------------------------------------------------------------------


def coins(n, step=1, key=KEY):
    """Whether each of n weights of 1 was rounded up, that an update has put half between two bf16."""
    w, g, m, v = bf16([1.0] * n, [-1.0] * n, [0.0] * n, [0.0] * n)
    half = 2.0**-8  # of the distance to the next bf16 above 1
    betas = (0.5, 0.5)
    update([w, g, m, v], step, whole(n, key), lr=half, betas=betas, eps=0.0, weight_decay=0.0)
    return (w.float() > 1).numpy()


def test_rounding_is_unbiased_and_small_updates_add_up():
    n, steps, lr = 20_000, 200, 1e-5
    w, g, m, v = bf16([1.0] * n, [-1.0] * n, [0.0] * n, [0.0] * n)
    for step in range(1, steps + 1):
        update([w, g, m, v], step, whole(n), lr=lr, betas=(0.9, 0.999), eps=0.0, weight_decay=0.0)
    spread = (steps * lr * 2**-7 / n) ** 0.5
    assert float(w.double().mean()) == pytest.approx(1 + steps * lr, abs=5 * spread)
    assert lr < 2**-10  # to the nearest the weights would be 1 still
    assert float(m.double().mean()) == pytest.approx(-(1 - 0.9**steps), rel=1e-3)
    assert float(v.double().mean()) == pytest.approx(1 - 0.999**steps, rel=1e-3)


def test_with_a_compensation_they_add_up_in_every_weight():
    n, steps, lr = 1_000, 400, 2.0**-17
    w, g, m, v, c = bf16([1.0] * n, [-1.0] * n, [0.0] * n, [0.0] * n, [0.0] * n)
    for step in range(1, steps + 1):
        update([w, g, m, v, c], step, whole(n), lr=lr, betas=(0.9, 0.95), eps=0.0, weight_decay=0.0)
    moved = w.double() + c.double() - 1
    assert float(moved.mean()) == pytest.approx(steps * lr, rel=0.01)
    assert float(moved.std()) < 0.1 * steps * lr  # 1.6 without one


def test_elements_steps_and_parameters_have_noise_of_their_own():
    n = 40_000
    first = coins(n)
    others = [coins(n, step=2), coins(n, key=parameter_key(0, "another")), coins(n, key=parameter_key(1, "a weight"))]
    neighbours = [np.roll(first, by) for by in (1, 2, 8, 64, 1024)]
    limit = 5 * 0.5 / n**0.5
    assert abs(first.mean() - 0.5) < limit
    for other in (*others, *neighbours):
        assert abs((first == other).mean() - 0.5) < limit
