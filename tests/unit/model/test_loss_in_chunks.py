import pytest
import torch

from genesis_ds.config import ActivationCheckpointingConfig, ModelShape
from genesis_ds.model.multitask import LM, build_model
from genesis_ds.model.output import IGNORE
from genesis_ds.tasks.lm import cross_entropy

TINY = {"n_layers": 1, "dim": 16, "n_heads": 2, "intermediate_size": 32, "vocab_size": 50, "max_seq_len": 32}
TOKENS = torch.randint(0, 50, (3, 20), generator=torch.Generator().manual_seed(1))
TARGETS = TOKENS.roll(-1, 1).masked_fill(torch.arange(20) > 15, IGNORE)
VARIANTS = [{}, {"tie_embeddings": True}, {"probabilities": "stablemax"}]


def model(chunk, variant):
    torch.manual_seed(0)
    return build_model(ModelShape(**TINY | variant), ActivationCheckpointingConfig(loss_chunk=chunk))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("chunk", [1, 7, 60, 1000])
def test_a_loss_in_chunks_has_the_value_and_the_gradients_of_one_at_once(chunk, variant):
    def train(chunk):
        of = model(chunk, variant)
        loss = cross_entropy(of(LM, TOKENS, targets=TARGETS).output, TARGETS)
        loss.backward()
        return loss, [weight.grad for weight in of.parameters()]

    (loss, gradients), (expected, of_whole) = train(chunk), train(None)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients, of_whole, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nats_of_the_model_are_reduced_as_logits_are(reduction):
    whole = model(None, {})(LM, TOKENS, targets=TARGETS).output
    with torch.no_grad():
        nats = model(7, {})(LM, TOKENS, targets=TARGETS).output
    assert (whole.shape, nats.shape) == ((3, 20, 50), (3, 20))
    torch.testing.assert_close(cross_entropy(nats, TARGETS, reduction), cross_entropy(whole, TARGETS, reduction))


def test_without_targets_a_model_with_a_chunk_gives_logits():
    assert torch.equal(model(7, {})(LM, TOKENS).output, model(None, {})(LM, TOKENS).output)


def test_no_more_logits_than_those_of_a_chunk_are_alive():
    largest = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            largest.append(result.numel() if isinstance(result, torch.Tensor) else 0)
            return result

    with Sizes():
        cross_entropy(
            model(7, {"dim": 2, "intermediate_size": 2, "n_heads": 1})(LM, TOKENS, targets=TARGETS).output, TARGETS
        ).backward()
    assert max(largest) == 7 * 50
