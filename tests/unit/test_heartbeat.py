"""What a rank says of an error in a collective."""

import pytest

from genesis_ds.supervision.heartbeat import cause

GLOO = "[../third_party/gloo/gloo/transport/tcp"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (f"{GLOO}/pair.cc:553] Connection closed by peer [10.77.0.2]:43210", "Connection closed by peer"),
        (f"{GLOO}/pair.cc:553] Connection closed by peer [10.77.0.2]:43210. This means", "Connection closed by peer"),
        (
            f"{GLOO}/pair.cc:547] Read error [10.77.0.2]:10906: Connection reset by peer",
            "Read error: Connection reset by peer",
        ),
        (f"{GLOO}/buffer.cc:81] Timed out waiting 1800000ms for recv", "Timed out waiting 1800000ms for recv"),
    ],
)
def test_the_cause_is_said_without_its_place_in_the_source_and_the_address(error, said):
    assert cause(error + "\nmore") == said
