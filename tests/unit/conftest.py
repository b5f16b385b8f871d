import resource
from contextlib import contextmanager

import pytest
import torch.distributed as dist
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # a test of behaviour is no test of speed
settings.load_profile("any machine")


@pytest.fixture
def limited_file_size():
    """Within it no file can grow beyond so many bytes, as on a disk that is full."""

    @contextmanager
    def limited(nbytes):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    """torch.distributed with this process alone."""
    store = tmp_path_factory.mktemp("store") / "file"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def transformers(tmp_path_factory):
    """The library, without network, with a folder of its own for the code of the models it loads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield pytest.importorskip("transformers")
