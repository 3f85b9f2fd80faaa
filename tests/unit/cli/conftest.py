"""The command line in this process, where nothing that it refuses may leave a trace."""

import pytest

from spell_cli import main
from support.spawned import announced


@pytest.fixture
def spell(tmp_path, monkeypatch, capfd):
    """Run a command line in this process, where nothing can be asked for: there is a server and no token for it.

    The exit code, and what it wrote to stdout and stderr, as it was.
    """
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("SPELL_DIR", str(tmp_path / "spell"))
    monkeypatch.setenv("SPELL_API_URL", "http://127.0.0.1:1")
    monkeypatch.delenv("SPELL_TOKEN", raising=False)

    def call(*words):
        with announced() as started:
            code = main._guarded(list(words))
        said = capfd.readouterr()
        assert started == []
        assert "Traceback" not in said.err
        assert list((tmp_path / "work").iterdir()) == []
        return code, said.out, said.err

    return call
