"""What names the repository that images are shared by, and what does not."""

import pytest

from spell_builder.image_cache import repository
from spell_proto.errors import SettingsError


def test_a_repository_is_a_host_and_a_path():
    assert repository("") is None
    assert str(repository("127.0.0.1:5000/team/cache")) == "127.0.0.1:5000/team/cache"
    assert str(repository("registry.example.org/cache")) == "registry.example.org/cache"


@pytest.mark.parametrize(
    "setting", ["Nonsense!", "host:5000/team/cache:tag", "host:5000/cache@sha256:" + "0" * 64, "host:5000/"]
)
def test_a_setting_that_names_no_repository_is_refused_by_name(setting):
    with pytest.raises(SettingsError, match="SPELL_IMAGE_CACHE"):
        repository(setting)
