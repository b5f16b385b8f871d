from dataclasses import replace

import pytest
import torch
from helpers.built_in_heads import heads_of

from genesis_ds.config import ActivationCheckpointingConfig, ModelConfig
from genesis_ds.model.documents import PADDING, Documents
from genesis_ds.model.multitask import MultiTaskModel, keep_idle
from genesis_ds.model.transformer import Transformer

TINY = ModelConfig(n_layers=2, dim=32, n_heads=4, n_kv_heads=2, intermediate_size=64, vocab_size=50, max_seq_len=64)
TASKS = ("coherence", "cross_reference", "paraphrase")
LENGTHS = ([5, 9, 2], [12])


def packed(time=17):
    """Tokens [2, 17] and the documents of LENGTHS in them, numbered out of the rows' order."""
    numbers = torch.full((len(LENGTHS), time), PADDING)
    order = iter((2, 0, 3, 1))
    for row, lengths in enumerate(LENGTHS):
        for end, length in zip(torch.tensor(lengths).cumsum(0), lengths, strict=True):
            numbers[row, end - length : end] = next(order)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(50, numbers.shape, generator=generator), Documents.of(numbers)


@pytest.mark.parametrize("mode", ["none", "block"])
def test_packed_documents_have_the_states_and_gradients_they_have_alone(mode):
    torch.manual_seed(0)
    model = Transformer(TINY, ActivationCheckpointingConfig(mode))
    tokens, documents = packed()
    mean = documents.mean(model.hidden(tokens, documents))
    (mean**3).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    alone = [model.hidden(tokens[documents.numbers == n][None]).mean(1)[0] for n in range(documents.n)]
    torch.testing.assert_close(mean, torch.stack(alone), rtol=1e-4, atol=1e-5)
    (torch.stack(alone) ** 3).sum().backward()
    expected = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-4)


def test_documents_know_their_positions_and_boundaries():
    _, documents = packed()
    assert documents.positions[0].tolist() == [*range(5), *range(9), 0, 1, 0]
    assert documents.boundaries.tolist() == [0, 5, 14, 16, 17, 29, 34]
    assert (documents.n, documents.longest) == (4, 12)
    groups, places = documents.by_length
    assert [tuple(group.shape) for group in groups] == [(1, 1), (1, 2), (2, 5), (2, 12)]
    assert torch.cat([group.flatten() for group in groups])[places].tolist() == [*range(34)]


@pytest.mark.parametrize("task", ["lm", *TASKS])
def test_in_training_every_head_gets_a_gradient_and_an_unused_one_gets_zero(task):
    torch.manual_seed(0)
    model = MultiTaskModel(Transformer(TINY), heads_of(TASKS, TINY.dim))
    tokens, documents = packed()
    examples = torch.tensor([[0, 1, 2], [3, 2, 1]])
    inputs = {} if task == "lm" else {"documents": documents, "examples": examples}
    outputs = model(task, tokens, **inputs)
    keep_idle(outputs.output.square().sum(), outputs.idle).backward()
    heads = {"lm": model.base.output, **model.heads}
    used = {name: any(p.grad.abs().max() > 0 for p in head.parameters()) for name, head in heads.items()}
    assert used == {name: name == task for name in heads}


def test_idle_heads_do_not_change_an_output():
    torch.manual_seed(0)
    model = MultiTaskModel(Transformer(TINY), heads_of(TASKS, TINY.dim))
    tokens, documents = packed()
    examples = torch.tensor([[0, 1]])
    trained = model("coherence", tokens, documents=documents, examples=examples)
    evaluated = model.eval()("coherence", tokens, documents=documents, examples=examples)
    assert torch.equal(keep_idle(trained.output.sum(), trained.idle), keep_idle(evaluated.output.sum(), evaluated.idle))
    assert evaluated.idle is None


@pytest.mark.parametrize("task", ["lm", "multi_token"])
def test_every_task_gives_as_many_outputs_for_zero3_to_count(task):
    model = MultiTaskModel(Transformer(TINY), heads_of(("multi_token",), TINY.dim))
    assert model(task, packed()[0]).idle.requires_grad


def test_a_task_without_a_head_is_given_the_decoders_logits():
    model = MultiTaskModel(Transformer(TINY), heads_of(TASKS, TINY.dim)).eval()
    tokens, _ = packed()
    assert torch.equal(model("another", tokens).output, model("lm", tokens).output)


@pytest.mark.parametrize("tied", [False, True])
def test_the_output_layer_reads_what_a_head_on_tokens_gives(tied):
    torch.manual_seed(0)
    shape = replace(TINY, tie_embeddings=tied)
    model = MultiTaskModel(Transformer(shape), heads_of(("multi_token",), TINY.dim)).eval()
    tokens, _ = packed()
    found = model("multi_token", tokens)
    states = model.heads["multi_token"](model.base.hidden(tokens))
    assert states.shape == (2, 3 * 17, TINY.dim)
    assert torch.equal(found.output, model.base.logits(states))
    assert found.idle is None


def test_a_task_with_a_head_on_tokens_uses_the_output_layer_as_well():
    torch.manual_seed(0)
    model = MultiTaskModel(Transformer(TINY), heads_of((*TASKS, "multi_token"), TINY.dim))
    outputs = model("multi_token", packed()[0])
    keep_idle(outputs.output.square().sum(), outputs.idle).backward()
    heads = {"lm": model.base.output, **model.heads}
    used = {name for name, head in heads.items() if any(p.grad.abs().max() > 0 for p in head.parameters())}
    assert used == {"lm", "multi_token"}
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_modules_are_called_in_the_same_order_whatever_the_task(tied):
    """Otherwise ranks that compute different tasks at the same time would wait for each other under ZeRO-3."""
    model = MultiTaskModel(
        Transformer(replace(TINY, tie_embeddings=tied)), heads_of(("coherence", "multi_token", "paraphrase"), TINY.dim)
    )
    tokens, documents = packed()
    called: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    orders = []
    for task in ("lm", "coherence", "multi_token", "paraphrase"):
        examples = torch.tensor([[0, 1, 2], [3, 2, 1]])
        of_documents = {"documents": documents, "examples": examples}
        model(task, tokens, **(of_documents if task in TASKS else {}))
        orders.append([*called])
        called.clear()
    assert orders[1:] == orders[:1] * 3
