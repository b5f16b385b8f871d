import os

import pytest
from helpers.jobs import prepare
from helpers.two_hosts import Bed, missing


@pytest.fixture(scope="session")
def bed(tmp_path_factory):
    """Two hosts, with a corpus in their home folder. CI has what they need: there it does not skip."""
    if reason := missing():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    hosts = Bed(prepare(tmp_path_factory.mktemp("hosts")))
    yield hosts
    hosts.close()
