"""Checks of what runs: Python, the program and its libraries, the run and its ds_config, what it learns from."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import genesis_ds
from genesis_ds import environment
from genesis_ds.config.changes import flat
from genesis_ds.data.coverage import chosen_of
from genesis_ds.data.token_set import select_translations
from genesis_ds.engine import members
from genesis_ds.errors import UserError
from genesis_ds.hosts.case import Case
from genesis_ds.hosts.finding import Finding, fails, ok
from genesis_ds.tokenizer import load_tokenizer
from genesis_ds.versions import git_commit, versions


def python(case: Case) -> Finding:
    """Look at the interpreter and what surrounds it: the locale, OMP_NUM_THREADS, a launcher's variables."""
    environment.check()
    return ok(f"{versions()['python']}, {sys.executable}")


def program(case: Case) -> Finding:
    """Look at the versions of the program and its libraries."""
    found = ", ".join(f"{name} {version}" for name, version in versions().items() if name != "python")
    if lost := members.gone():
        return fails(lost[0], "pip install -c constraints.txt . in the project's folder")
    return ok(f"{found}, in {Path(genesis_ds.__file__).parents[1]}")


def commit(case: Case) -> Finding:
    """Look at the commit of the source."""
    described = git_commit()
    if described is None:
        return ok("no git repository: the version alone says what the source is")
    name, _, changes = described.partition("-")
    return ok(f"{name[:12]}{', with changes that are not committed' * bool(changes)}")


def run(case: Case) -> Finding:
    """Look at whether the run and its ds_config go together on this machine."""
    resolved = case.resolved
    files = f"{case.arguments.run_file} with {case.arguments.ds_config_file}"
    return ok(f"{files}: ZeRO-{resolved.zero_stage}, {resolved.precision}, {of_ranks(case.ranks.world_size)}")


def data(case: Case) -> Finding:
    """Read the corpus and the tokenizer, every byte of them, as a start does."""
    config = case.config
    if config.arithmetic.modulus:
        return ok(f"arithmetic modulo {config.arithmetic.modulus}, which is made and not read")
    load_tokenizer(config.tokenizer.kind, config.tokenizer.path)
    known = select_translations(case.corpus.translations, [])
    chosen = select_translations(case.corpus.translations, config.data.languages)
    return ok(chosen_of(list(chosen), known, config.data.corpus))


CHECKS = (python, program, commit, run, data)


def facts(case: Case) -> dict[str, Any] | None:
    """Return what hosts are compared by: subject -> {name: value}, as JSON has it; None for a run that is refused."""
    config = case.config
    try:
        ds_config = case.resolved.config
    except UserError:
        return None
    return {
        "versions": versions(),
        "commit": {"commit": git_commit()},
        "run": flat({"run": asdict(config), "ds_config": ds_config}),
        "data": {} if config.arithmetic.modulus else _fingerprints(case),
    }


def _fingerprints(case: Case) -> dict[str, str]:
    """Return those of the corpus and the tokenizer; none where they are not there, which is a finding of its own."""
    config = case.config
    try:
        tokenizer = load_tokenizer(config.tokenizer.kind, config.tokenizer.path)
        return {"corpus": case.corpus.fingerprint, "tokenizer": tokenizer.fingerprint}
    except UserError:
        return {}


def of_ranks(count: int) -> str:
    """Return the number of ranks in words."""
    return f"{count} rank{'s' * (count > 1)}"
