"""How a ds_config is read, and that reading it needs no torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from genesis_ds.ds_config import load_ds_config
from genesis_ds.errors import UserError


def assert_names(text: str, *parts: str) -> None:
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"bf16": {},\n "aio": {},}', ("line 2, column 12", "not valid JSON", "trailing comma")),
        ('{"bf16": {},\n "bf16": {}}', ("'bf16'", "twice", "lines 1 and 2")),
        ('{"aio": {"queue_depth": 1, "queue_\\u0064epth": 2}}', ("'queue_depth'", "twice")),
        ('{"gradient_clipping": 1e400}', ("1e400", "finite")),
        ('{"gradient_clipping": ' + "9" * 5000 + "}", ("more than 30 digits",)),
        ('{"aio": ' * 5000, ("levels deep",)),
        ("[1]", ("holds list", "object")),
        ('{"gradient_clipping": NaN}', ("NaN", "finite")),
        ("", ("line 1, column 1",)),
    ],
)
def test_unreadable_file_names_the_place(tmp_path, text, parts):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_ds_config(path)
    assert_names(str(error.value), str(path), *parts)


def test_missing_file_and_directory_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        load_ds_config(tmp_path / "absent.json")
    with pytest.raises(UserError, match="is no file"):
        load_ds_config(tmp_path)


def test_binary_file_is_a_user_error(tmp_path):
    (tmp_path / "model.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8 text"):
        load_ds_config(tmp_path / "model.json")


def test_importing_the_package_needs_neither_torch_nor_deepspeed():
    code = "import sys, genesis_ds.ds_config; print({'torch', 'deepspeed'} & set(sys.modules))"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "set()\n"
