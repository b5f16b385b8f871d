"""What `genesis-ds generate` prints: text as it is written, the tokens' probabilities, or JSON."""

import io
import json
import re
import sys
from collections.abc import Callable

from genesis_ds.config.sampling import Sampling
from genesis_ds.errors import UserError
from genesis_ds.inference.generation import Choice, Sample, generate
from genesis_ds.inference.loaded import LoadedModel
from genesis_ds.tokenizer import Tokenizer

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal obeys, but for tab and line break."""


def as_text(word: str, what: str) -> str:
    """Return a word of the command line as text. Raises UserError for bytes that are none.

    In a locale that is not of UTF-8 its bytes have come as surrogates.
    """
    try:
        return word.encode("utf-8", "surrogateescape").decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: {word}: byte {error.start} is no UTF-8 text; mend it") from None
    except UnicodeEncodeError as error:
        raise UserError(f"{what}: {word}: character {error.start} is no Unicode text; mend it") from None


def write(model: LoadedModel, prompt: str, sampling: Sampling, *, as_json: bool, show_probs: bool) -> None:
    """Write what the model makes of a prompt: one sample as it comes, several when all are done."""
    tokenizer, streams = model.tokenizer, sampling.n == 1 and not as_json
    if streams:
        _print_part(0, prompt)
    on_text = _print_part if streams else _ignore
    samples = generate(model.model, tokenizer, prompt, sampling, context=model.context, on_text=on_text)
    if as_json:
        about = {"model": str(model.path), "global_step": model.global_step, "prompt": prompt, "seed": sampling.seed}
        written = [_as_data(tokenizer, sample, show_probs) for sample in samples]
        print(json.dumps(about | {"samples": written}, ensure_ascii=False), flush=True)
        return
    for number, sample in enumerate(samples, 1):
        if streams:
            print()
        else:
            print(f"--- sample {number} of {sampling.n}, {len(sample.choices)} tokens, {sample.finish}")
            print(_printable(prompt + sample.text))
        if show_probs:
            print(*_choices(tokenizer, sample.choices), sep="\n")


def converse(write_after: Callable[[str], None]) -> None:
    """Write after each line that is typed, until the input ends. Ctrl-C ends what is being written, or all."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are no text are the mistake of one line
    while True:
        try:
            prompt = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if not prompt:
            continue
        try:
            write_after(as_text(prompt, "prompt"))
        except KeyboardInterrupt:
            print()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)


def text_of(tokenizer: Tokenizer, token: int) -> str | list[int]:
    """Return the text that a token stands for, none for a special; its bytes where they are no text alone."""
    spelled = tokenizer.decode_bytes([token])
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return list(spelled)


def shown_token(tokenizer: Tokenizer, token: int) -> str:
    """Return a token for people: its text in quotes, or the name of a special or of a byte within a character."""
    text = text_of(tokenizer, token)
    return repr(text) if text and isinstance(text, str) else tokenizer.pieces()[token]


def _as_data(tokenizer: Tokenizer, sample: Sample, show_probs: bool) -> dict[str, object]:
    data: dict[str, object] = {"text": sample.text, "finish": sample.finish, "n_tokens": len(sample.choices)}
    if show_probs:
        data["tokens"] = [
            {
                "token": text_of(tokenizer, choice.token),
                "id": choice.token,
                "probability": choice.probability,
                "likeliest": [[text_of(tokenizer, token), value] for token, value in choice.likeliest],
            }
            for choice in sample.choices
        ]
    return data


def _choices(tokenizer: Tokenizer, choices: list[Choice]) -> list[str]:
    lines = ["token         probability  likeliest"]
    for choice in choices:
        likeliest = "  ".join(f"{shown_token(tokenizer, token)} {value:.3f}" for token, value in choice.likeliest)
        lines.append(f"{shown_token(tokenizer, choice.token):<14}{choice.probability:<13.3f}{likeliest}")
    return lines


def _print_part(sample: int, text: str) -> None:
    print(_printable(text), end="", flush=True)


def _ignore(sample: int, text: str) -> None:
    pass


def _printable(text: str) -> str:
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)
