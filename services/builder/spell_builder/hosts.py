"""The hosts that packages may come from unless the operator names others: the public index and the wheels of PyTorch."""

import re

from spell_proto.errors import SettingsError, shown

PUBLIC = "pypi.org, files.pythonhosted.org, download.pytorch.org"

_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?|\[[0-9a-f:.]+\](:[0-9]{1,5})?", re.ASCII)


def read(setting: str) -> frozenset[str]:
    """The hosts of the setting SPELL_INDEX_HOSTS.

    Raises:
        SettingsError: one of them is no host.
    """
    hosts = setting.lower().replace(",", " ").split()
    for host in hosts:
        if not _HOST.fullmatch(host):
            # What stands before an @ may be a secret.
            found = "a value with an @" if "@" in host else shown(host, 80)
            raise SettingsError(
                f"the setting SPELL_INDEX_HOSTS must name hosts, separated by commas, not {found}"
            )
    return frozenset(host.removesuffix(":443") for host in hosts)
