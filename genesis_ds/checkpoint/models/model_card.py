"""The card of an export: README.md, as people and the Hugging Face Hub read it."""

import dataclasses
from typing import Any, Literal

from genesis_ds.checkpoint.load.sources import AVERAGE
from genesis_ds.checkpoint.models import hf
from genesis_ds.checkpoint.models.provenance import Provenance, Text
from genesis_ds.checkpoint.models.stored_model import StoredModel
from genesis_ds.config import RunConfig
from genesis_ds.metrics import TRAIN_SUBSET
from genesis_ds.stored import program
from genesis_ds.user_files import dump_yaml

SPLITS = {
    "val_chapter": "val_chapter: whole chapters left out of training",
    "val_book": "val_book: whole books left out",
    TRAIN_SUBSET: "train_subset: a part of the training text",
}
NORMS = {"deepnorm": "DeepNorm (arXiv 2203.00555)", "rmsnorm": "RMSNorm before each branch"}
MAY_REPRODUCE = (
    "A model that has read a text for thousands of epochs may reproduce it, word for word. Pass it on, or what it "
    "writes, only where you may pass on the text."
)


def card(model: StoredModel, known: Provenance | None, to: Literal["safetensors", "hf"]) -> str:
    """Return the card's text in Markdown.

    known: of its training; None where nothing is. to: whom the export is for.
    """
    text = known.text if known else None
    front = {
        "library_name": "transformers" if to == "hf" else "genesis_ds",
        **({"pipeline_tag": "text-generation"} if "tokenizer" in model.about else {}),
        **({"language": text.languages} if text else {}),
        "license": "other",
        "tags": ["genesis_ds"],
    }
    title = f"{known.run.get('name', 'A model')}, step {known.global_step:,}" if known else "A model"
    title += f", average of the weights ({model.about[AVERAGE]})" if AVERAGE in model.about else ""
    sections = [
        f"---\n{dump_yaml(front)}---",
        f"# {title}",
        _what_it_is(model, known),
        *(["## Use", _use(model, to)] if to == "hf" or _generates(model) else []),
        *(_text_section(known) if "tokenizer" in model.about else []),
        *(_measured(known) if known and known.bits_per_byte else []),
        *(_run(known) if known else []),
    ]
    return "\n\n".join(sections) + "\n"


def _use(model: StoredModel, to: Literal["safetensors", "hf"]) -> str:
    of_text = "tokenizer" in model.about
    blocks = ["PATH is this folder."]
    if to == "hf":
        remote = "" if hf.is_llama(model.config) else ", trust_remote_code=True"
        if remote:
            blocks[0] += f" `trust_remote_code` runs `{hf.CODE.name}`, which is in it: read it first."
        if of_text:
            blocks[0] += " No special token is put before a text."
        tokenizer = f'tokenizer = AutoTokenizer.from_pretrained("PATH"{remote})\n' if of_text else ""
        blocks.append(
            f"```python\nfrom transformers import AutoModelForCausalLM{', AutoTokenizer' if of_text else ''}\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("PATH"{remote})\n{tokenizer}```'
        )
    if _generates(model):
        blocks.append('```bash\ngenesis-ds generate PATH --prompt "In the beginning"\n```')
    return "\n\n".join(blocks)


def _generates(model: StoredModel) -> bool:
    """Return whether `genesis-ds generate` takes the model."""
    return "tokenizer" in model.about and model.own is None


def _what_it_is(model: StoredModel, known: Provenance | None) -> str:
    shape = model.config
    kind = model.own or f"A decoder of Llama's kind with {NORMS[shape.norm]}"
    tokenizer = model.about.get("tokenizer", {}).get("kind")
    lines = [
        f"{kind}: {shape.n_layers} layers, width {shape.dim}, {shape.n_heads} heads, "
        f"{_n_parameters(model):,} parameters, {shape.vocab_size:,} token ids"
        + (f" ({tokenizer})." if tokenizer else "."),
        f"Written by {program()}.",
    ]
    if shape.probabilities == "stablemax":
        lines.insert(1, "Its probabilities are StableMax (arXiv 2501.04697).")
    if seq_len := known and known.run.get("batch", {}).get("seq_len"):
        lines.insert(1, f"It was trained on rows of {seq_len:,} tokens, and knows nothing of longer ones.")
    return " ".join(lines)


def _n_parameters(model: StoredModel) -> int:
    """Return the number of weights less those of the tasks' heads."""
    return sum(shape.numel() for name, shape in model.tensors.shapes.items() if name not in model.head_shapes)


def _text_section(known: Provenance | None) -> list[str]:
    if known is None:
        return ["## Text", f"Nothing is known here of what it was trained on. {MAY_REPRODUCE}"]
    lines = [f"It was trained on the corpus `{known.run['data']['corpus'].rstrip('/').rpartition('/')[2]}`."]
    if known.epochs is not None:
        lines.append(f"It has read it for {known.epochs:,.2f} epochs.")
    lines.append(MAY_REPRODUCE)
    if known.extracted:
        shares = ", ".join(f"{language} {share:.1%}" for language, share in known.extracted.items())
        lines.append(f"Of training verses of which it was given the beginning, it wrote the rest exactly: {shares}.")
    marks = [f"- corpus: `{known.text.fingerprint}`"] if known.text else []
    marks += [f"- compiled to tokens, the first 16 digits: `{known.data[:16]}`"] if known.data else []
    return [
        "## Text",
        " ".join(lines),
        *(_licences(known.text) if known.text else ["Its languages and licences are not known here."]),
        *(["Fingerprints (sha256):\n\n" + "\n".join(marks)] if marks else []),
    ]


def _licences(text: Text) -> list[str]:
    if not text.licences:
        return [f"Languages: {', '.join(text.languages)}. Their licences are not known here."]
    rows = [["translation", "licence"], *([name, licence] for name, licence in text.licences.items())]
    return [_table(rows), *text.notices]


def _measured(known: Provenance) -> list[str]:
    languages = list(dict.fromkeys(language for values in known.bits_per_byte.values() for language in values))
    rows = [["bits per byte", *languages]]
    for split, values in known.bits_per_byte.items():
        found = (values.get(language) for language in languages)
        rows.append([SPLITS.get(split, split), *("" if value is None else f"{value:.4f}" for value in found)])
    return [
        "## Measured",
        f"At step {known.measured_at:,}: the cross-entropy in bits per UTF-8 byte of text, of which fewer are better.",
        _table(rows),
    ]


def _run(known: Provenance) -> list[str]:
    settings = {**known.run, "model": known.run["model"] | {"preset": None}}  # all its sizes stand beside it
    changed = dump_yaml(_differing(settings, RunConfig()))
    return ["## Run", f"What differs from the defaults of {program()}:", f"```yaml\n{changed}```"]


def _differing(values: dict[str, Any], defaults: object) -> dict[str, Any]:
    """Return the values that are not the defaults, which are a dataclass's, section by section."""
    found = {}
    for key, value in values.items():
        default = getattr(defaults, key, None)
        if dataclasses.is_dataclass(default) and isinstance(value, dict):
            value, default = _differing(value, default), {}
        if value != (list(default) if isinstance(default, tuple) else default):
            found[key] = value
    return found


def _table(rows: list[list[str]]) -> str:
    """Return rows of cells, the first of them the heading, in Markdown."""
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
