import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def one_thread():
    """As the hooks have it."""
    with threadpool_limits(1):
        yield
