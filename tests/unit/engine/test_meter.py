import threading

from genesis_ds.engine import meter
from genesis_ds.engine.meter import HostSampler


def test_a_peak_that_the_thread_has_seen_is_not_of_the_next_phase(monkeypatch):
    """The thread's look at 100 bytes goes on while the phase ends, after which there are 1."""
    looking, go_on = threading.Event(), threading.Event()

    def host_bytes():
        if threading.current_thread() is threading.main_thread():
            return 1
        looking.set()
        go_on.wait(10)
        return 100

    monkeypatch.setattr(meter, "host_bytes", host_bytes)
    before = {*threading.enumerate()}
    sampler = HostSampler(interval_seconds=0.001)
    [thread] = {*threading.enumerate()} - before
    assert looking.wait(10)
    sampler.close()
    threading.Timer(0.05, go_on.set).start()
    first = sampler.take_peak()
    thread.join(10)
    assert (first, sampler.take_peak()) == (100, 1)
