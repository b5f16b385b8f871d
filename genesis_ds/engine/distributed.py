"""The process group: one process, a node's ranks, or several nodes, as the launcher's environment says."""

import os
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist

from genesis_ds import environment
from genesis_ds.engine import internals, rendezvous
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError
from genesis_ds.user_files import expanded

T = TypeVar("T")
TIMEOUT_MINUTES = 30
"""How long a rank waits in a collective for the others, unless DEEPSPEED_TIMEOUT says otherwise: longer than one rank
may take alone to save, evaluate or compile. A process or a host that is gone is noticed earlier (supervision/)."""


def accelerator() -> Literal["cpu", "cuda"]:
    """As DeepSpeed will choose it: DS_ACCELERATOR if it is set, otherwise a GPU where there is one.

    Raises UserError for one that is not supported or not here.
    """
    available = torch.cuda.is_available()
    wanted = os.environ.get("DS_ACCELERATOR") or ("cuda" if available else "cpu")
    if wanted not in ("cpu", "cuda"):
        raise UserError(f"DS_ACCELERATOR: '{wanted}' is not supported; set it to cuda or cpu, or leave it unset")
    if wanted == "cuda" and not available:
        raise UserError("DS_ACCELERATOR: 'cuda', but torch finds no CUDA device here; set it to cpu, or leave it unset")
    return "cpu" if wanted == "cpu" else "cuda"


def device(ranks: Ranks) -> torch.device:
    """The device of this process."""
    return torch.device("cuda", ranks.local_rank) if accelerator() == "cuda" else torch.device("cpu")


def extensions_directory() -> Path:
    """Where DeepSpeed's compiled operations are kept: a directory of our own, which our build lock guards."""
    given = os.environ.get("TORCH_EXTENSIONS_DIR") or "~/.cache/genesis_ds/torch_extensions"
    os.environ["TORCH_EXTENSIONS_DIR"] = expanded(given, "TORCH_EXTENSIONS_DIR")
    return Path(os.environ["TORCH_EXTENSIONS_DIR"])


def set_environment(ranks: Ranks) -> None:
    """Fill in what DeepSpeed reads from the environment; what is already set stays. Raises UserError for nonsense."""
    environment.check()
    extensions_directory()
    os.environ["DEEPSPEED_TIMEOUT"] = os.environ.get("DEEPSPEED_TIMEOUT") or str(TIMEOUT_MINUTES)
    os.environ["DS_ACCELERATOR"] = accelerator()
    for key, value in (("RANK", ranks.rank), ("LOCAL_RANK", ranks.local_rank), ("WORLD_SIZE", ranks.world_size)):
        os.environ[key] = str(value)
    os.environ["MASTER_ADDR"] = os.environ.get("MASTER_ADDR") or "127.0.0.1"
    os.environ["MASTER_PORT"] = os.environ.get("MASTER_PORT") or str(_free_port())
    if accelerator() == "cpu":
        share_cores(ranks)


def share_cores(ranks: Ranks) -> None:
    """Give this rank its share of the host's cores, unless the user says how many threads it has.

    DeepSpeedCPUAdam and our own kernels have torch's threads: they are linked to the OpenMP library that torch loads.
    """
    if not environment.threads_are_given():
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks.local_world_size))


def initialise(ranks: Ranks, *, mistake: str = "", hosts: Sequence[str] = ()) -> None:
    """Join the process group: NCCL on GPUs, gloo on CPUs. Raises UserError on every rank, where one brings a mistake.

    It is raised too where a rank is late, and where another program has the port. The arguments are those of
    `rendezvous.meet`.
    """
    import deepspeed

    # DeepSpeed 0.19 calls collectives that torch 2.13 has renamed.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    backend = "nccl" if accelerator() == "cuda" else "gloo"
    if backend == "gloo":
        internals.prefer_gloo()
    else:
        torch.cuda.set_device(device(ranks))
    try:
        if backend == "gloo" and ranks.nodes > 1 and not os.environ["MASTER_ADDR"].startswith("127."):
            rendezvous.require_reachable(socket.gethostname())
    except UserError as error:
        mistake = mistake or str(error)
    try:
        store = rendezvous.meet(ranks, mistake=mistake, hosts=hosts)
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise UserError(
            f"MASTER_PORT: {os.environ['MASTER_PORT']} is in use on this host; unset it, or give the launcher a free "
            "one (deepspeed --master_port, torchrun --master-port)"
        ) from error
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world_size, timeout=_longest_wait())
    deepspeed.init_distributed(dist_backend=backend, verbose=False)


@contextmanager
def joined(ranks: Ranks) -> Iterator[None]:
    """Be in the process group for as long as it lasts, with an environment as DeepSpeed reads it.

    A rank that fails while there are others says why and ends its process at once, with exit code 2 for the user's
    mistake and else 1: they may be in the middle of something, and leaving waits for them.
    """
    set_environment(ranks)
    initialise(ranks)
    try:
        yield
    except BaseException as error:
        if ranks.world_size == 1:
            leave()
            raise
        is_mistake = isinstance(error, UserError)
        print(f"error: {error}" if is_mistake else "".join(traceback.format_exception(error)), file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2 if is_mistake else 1)
    leave()


def limit_waiting() -> None:
    """Give every process group the timeout of the first: DeepSpeed makes its own without one."""
    internals.set_timeouts(_longest_wait())


def _longest_wait() -> timedelta:
    return timedelta(minutes=int(os.environ["DEEPSPEED_TIMEOUT"]))


def barrier() -> None:
    """Wait for every rank."""
    dist.barrier()


def from_main(value: T) -> T:
    """Rank 0's value, on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def sum_over_ranks(values: list[float], on: torch.device) -> list[float]:
    """Each value summed over the ranks, in double precision where the device has it."""
    total = torch.tensor(values, dtype=torch.float64, device=on)
    dist.all_reduce(total)
    return total.tolist()


def max_over_ranks(values: list[float], on: torch.device) -> list[float]:
    """The largest of each value over the ranks, in double precision where the device has it."""
    largest = torch.tensor(values, dtype=torch.float64, device=on)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.tolist()


def add_over_ranks(tensor: torch.Tensor) -> None:
    """The sum of the tensor over the ranks, in its place."""
    dist.all_reduce(tensor)


def raise_on_all_ranks(function: Callable[[], T]) -> T:
    """function() on every rank. Where one raises a UserError or an OSError all raise one, so that none waits for it.

    The function itself must not wait for other ranks.
    """
    result: T | None = None
    failure: UserError | OSError | None = None
    try:
        result = function()
    except (UserError, OSError) as error:
        failure = error
    failures = gather(failure and _as_arguments(failure))
    if failure:
        raise failure
    for other in failures:
        if other:
            raise other[0](*other[1])
    return cast(T, result)


def first_on_each_node(function: Callable[[], T], ranks: Ranks) -> T:
    """function() on the first rank of each node, then on the others, which find what it left on the disk."""
    first = raise_on_all_ranks(lambda: function() if ranks.local_rank == 0 else None)
    return raise_on_all_ranks(lambda: function() if first is None else first)


def gather(value: T) -> list[T]:
    """The value of every rank, on every rank."""
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def leave() -> None:
    """Leave the process group, when every rank does."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _as_arguments(error: UserError | OSError) -> tuple[type[UserError | OSError], tuple[Any, ...]]:
    """Return what makes it anew on another rank, where it says where it comes from."""
    if isinstance(error, UserError):
        return type(error), (f"{error} (rank {dist.get_rank()}, on {socket.gethostname()})",)
    return OSError, (error.errno, error.strerror or str(error), error.filename)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
