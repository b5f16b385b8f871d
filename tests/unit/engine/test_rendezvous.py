"""Before there is a process group, ranks say for whom they wait, and a mistake of one is raised on all."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.jobs import free_port

from genesis_ds.engine import rendezvous
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError

RANKS = [Ranks(rank, 0, 2, 1) for rank in range(2)]


@pytest.fixture(autouse=True)
def place(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))


def test_who_is_waited_for_is_said_and_the_wait_has_an_end(capsys):
    hosts = ["node-1", "node-2"]
    with pytest.raises(UserError, match=r"^1 of 2 ranks at 127.0.0.1:\d+ \(node-2\) did not come .* in time; see what"):
        rendezvous.meet(RANKS[0], hosts=hosts, seconds=1.5, said_after=0.2)
    assert capsys.readouterr().err.splitlines()[0].startswith("waiting for 1 of 2 ranks at 127.0.0.1:")


def test_rank_0_is_waited_for(capsys):
    with pytest.raises(UserError, match=r"^rank 0 was not at "):
        rendezvous.meet(RANKS[1], seconds=1.5, said_after=0.2)
    assert capsys.readouterr().err.startswith("waiting for rank 0 at 127.0.0.1:")


def test_a_mistake_of_one_rank_is_raised_on_all():
    def meet(ranks):
        return rendezvous.meet(ranks, mistake="lr: is wrong" if ranks.rank else "", seconds=30)

    with ThreadPoolExecutor() as pool:
        raised = [str(future.exception()) for future in [pool.submit(meet, ranks) for ranks in RANKS]]
    assert raised[0] == raised[1]
    assert raised[0].startswith("lr: is wrong (rank 1, on ")


def test_a_host_that_is_only_itself_by_its_own_name_is_told_the_cure(monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    with pytest.raises(UserError, match=r"^localhost: is 127.0.0.1 by its own /etc/hosts.*GLOO_SOCKET_IFNAME"):
        rendezvous.require_reachable("localhost")
