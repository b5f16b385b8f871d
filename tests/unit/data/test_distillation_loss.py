"""What language modelling minimises with a teacher, and what the teacher sees."""

import copy

import pytest
import torch
from torch.nn import functional as F

from genesis_ds.config import DistillConfig, MaskingConfig, ModelShape
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.model.transformer import Transformer
from genesis_ds.tasks.distillation import Teacher, distilled
from genesis_ds.tasks.lm import LanguageModelling
from genesis_ds.tasks.masking import Masks
from genesis_ds.tokenizer import load_tokenizer

SEQ_LEN, V = 16, 260
SHAPE = ModelShape(vocab_size=V, n_layers=1, dim=16, n_heads=2, intermediate_size=16, max_seq_len=SEQ_LEN)


def decoder(seed):
    torch.manual_seed(seed)
    return Transformer(SHAPE).eval()


@pytest.fixture
def task_of(tmp_path):
    corpus = synthetic_corpus()
    token_set = compile_token_set(corpus, [], tokenizer := load_tokenizer("bytes"), split_verses(corpus), tmp_path)

    def build(teacher, loss_weight=0.0):
        config = MaskingConfig("random", 0.5, loss_weight=loss_weight)
        masks = Masks(config, token_set, tokenizer=tokenizer, connectives={})
        return LanguageModelling(token_set, SEQ_LEN, 0, masks=masks, teacher=teacher)

    return build


@pytest.mark.parametrize(("weight", "temperature"), [(0.3, 1.0), (0.6, 2.5), (1.0, 0.5)])
def test_the_total_is_the_weighted_mean_of_the_papers_two_losses_and_so_is_its_gradient(weight, temperature):
    config = DistillConfig(["teacher"], weight, temperature)
    generator = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(2, 2, 5, V, generator=generator) * 3
    logits.requires_grad_()
    targets = torch.arange(10).view(2, 5)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    total, divergence = distilled(loss, logits, (teacher / temperature).softmax(-1), config)
    soft, said = ((values / temperature).log_softmax(-1).flatten(0, 1) for values in (logits, teacher))
    expected = F.kl_div(soft, said, log_target=True, reduction="batchmean")
    torch.testing.assert_close(divergence, expected)
    whole = (1 - weight) * loss + weight * temperature**2 * expected
    torch.testing.assert_close(total, whole)
    gradients = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (total, whole))
    torch.testing.assert_close(*gradients, atol=1e-7, rtol=1e-5)


def test_a_model_has_nothing_to_learn_from_itself(task_of):
    model = decoder(0)
    task = task_of(Teacher(DistillConfig(["teacher"], temperature=3.0), [copy.deepcopy(model)]))
    batch = task.corrupted(task.batch(range(3)), range(3), 0)
    whole = task.batch(range(3)).inputs["tokens"]
    losses = task.losses(model(whole), batch)
    assert losses.extra["distillation"].item() == pytest.approx(0, abs=1e-6)
    assert losses.total.item() == pytest.approx(losses.reported.item() / 2, abs=1e-5)


def test_the_teacher_sees_the_text_where_the_model_reads_masks_and_is_the_mean_of_its_probabilities(task_of):
    members = [decoder(1), decoder(2)]
    task, alone = task_of(Teacher(DistillConfig(["a", "b"]), members)), task_of(None)
    batch = task.corrupted(task.batch(range(4)), range(4), 0)
    assert torch.equal(batch.inputs["tokens"], alone.corrupted(alone.batch(range(4)), range(4), 0).inputs["tokens"])
    whole = task.batch(range(4)).inputs["tokens"]
    assert not torch.equal(batch.inputs["tokens"], whole)
    expected = torch.stack([member(whole).softmax(-1) for member in members]).mean(0)
    torch.testing.assert_close(batch.labels["teacher"], expected)
    assert not batch.labels["teacher"].requires_grad


def test_beside_a_loss_on_masked_rows_the_teacher_speaks_of_the_others(task_of):
    config, weight = DistillConfig(["teacher"], 0.25), 0.4
    task = task_of(Teacher(config, [decoder(1)]), weight)
    batch = task.corrupted(task.batch(range(3)), range(3), 0)
    logits = torch.randn(6, SEQ_LEN, V, generator=torch.Generator().manual_seed(0))
    targets = batch.labels["targets"].flatten()
    clean, masked = (F.cross_entropy(part.flatten(0, 1), targets) for part in logits.split(3))
    total, divergence = distilled(clean, logits[:3], batch.labels["teacher"], config)
    losses = task.losses(logits, batch)
    torch.testing.assert_close(losses.total, total + weight * masked)
    torch.testing.assert_close(losses.own, clean)
    torch.testing.assert_close([*losses.extra.values()], [masked, divergence])


def test_a_teacher_that_is_placed_keeps_its_weights_whatever_becomes_of_those_that_were_read():
    model = decoder(0)
    teacher = Teacher(DistillConfig(["teacher"]), [model])
    tokens = torch.arange(SEQ_LEN)[None]
    before, fingerprint = teacher.probabilities(tokens), teacher.fingerprint
    assert fingerprint == Teacher(DistillConfig(["another path"]), [decoder(0)]).fingerprint
    assert fingerprint != Teacher(DistillConfig(["teacher"]), [decoder(1)]).fingerprint
    teacher.place(torch.device("cpu"), torch.float32)
    with torch.no_grad():
        model.norm.weight.zero_()
    assert torch.equal(teacher.probabilities(tokens), before)
    teacher.place(torch.device("cpu"), torch.bfloat16)
    rounded = teacher.probabilities(tokens)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, before, atol=5e-3, rtol=0.1)
