"""The trained models that a run learns from (`distill`), from files."""

from pathlib import Path

from genesis_ds.checkpoint.load.find import find_model
from genesis_ds.checkpoint.load.sources import SEQ_LEN, open_model
from genesis_ds.checkpoint.models.stored_model import StoredModel
from genesis_ds.config import ModelShape, RunConfig
from genesis_ds.errors import UserError
from genesis_ds.model.transformer import Transformer
from genesis_ds.tasks.distillation import Teacher


def open_teacher(run: RunConfig, model: ModelShape, tokenizer: str, trust: bool = False) -> Teacher:
    """Return the teacher of a run, in fp32 on the CPU.

    model: the run's, with its vocabulary; tokenizer: the fingerprint of the run's. trust: as in safe_load. Raises
    UserError for a path that holds no decoder, and for one of another vocabulary, of shorter windows, or with weights
    that are not finite.
    """
    try:
        members = [_member(path, run, model, tokenizer=tokenizer, trust=trust) for path in run.distill.teacher]
        return Teacher(run.distill, [_finite(member) for member in members])
    except UserError as error:
        raise UserError(f"distill.teacher: {error}") from error


def teacher_shapes(run: RunConfig) -> tuple[ModelShape, ...]:
    """Return the shapes of the models of a run's teacher, for a memory plan; none where nothing is distilled."""
    try:
        return tuple(open_model(find_model(Path(path))).config for path in run.distill.teacher)
    except UserError as error:
        raise UserError(f"distill.teacher: {error}") from error


def _member(path: str, run: RunConfig, model: ModelShape, *, tokenizer: str, trust: bool) -> StoredModel:
    stored = open_model(find_model(Path(path)), trust=trust)
    stored.require_decoder()
    if stored.config.vocab_size != model.vocab_size:
        raise UserError(
            f"{stored.tensors.where}: a model of {stored.config.vocab_size} token ids, and this run's has "
            f"{model.vocab_size}; give one of the run's tokenizer and model.vocab_size"
        )
    stored.require_tokenizer(tokenizer, "this run")
    if "fingerprint" not in stored.about.get("tokenizer", {}):
        own = stored.tokenizer()
        if own and own.fingerprint != tokenizer:
            raise UserError(f"{stored.tensors.where}: has another tokenizer than this run; give one of the run's")
    longest = min(stored.about.get(SEQ_LEN) or stored.config.max_seq_len, stored.config.max_seq_len)
    if run.batch.seq_len > longest:
        raise UserError(
            f"{stored.tensors.where}: a model of windows of {longest} tokens, and batch.seq_len is "
            f"{run.batch.seq_len}; give one of windows as long, or lower batch.seq_len"
        )
    return stored


def _finite(member: StoredModel) -> Transformer:
    decoder = member.decoder()
    for name, weight in decoder.named_parameters():
        if not weight.isfinite().all():
            raise UserError(
                f"{member.tensors.where}: {name} has weights that are not finite numbers; give a model without them"
            )
    return decoder
