"""The hosts that packages may come from unless the operator names others: the public index and the wheels of PyTorch."""

PUBLIC = "pypi.org, files.pythonhosted.org, download.pytorch.org"
