import os

import pytest
from helpers.jobs import prepare
from helpers.two_hosts import Bed, HostsJob, missing


@pytest.fixture(scope="session")
def bed(tmp_path_factory):
    """Two hosts, with a corpus in their home folder. CI has what they need: there it does not skip."""
    if reason := missing():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    hosts = Bed(prepare(tmp_path_factory.mktemp("hosts")))
    yield hosts
    hosts.close()


@pytest.fixture
def make_job(bed, request):
    """A run on both hosts; what is left of it when the test has failed is killed."""
    made = []

    def make(*arguments):
        name = "".join(c if c.isalnum() else "-" for c in request.node.name)
        made.append(HostsJob(bed, name, *arguments))
        return made[-1]

    yield make
    for job in made:
        for process in job.processes():
            process.kill()
