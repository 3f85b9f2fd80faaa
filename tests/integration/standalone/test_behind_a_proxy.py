"""A stack behind a company's own certificates and its proxy: builds, fetched code and runs all get through."""

import pytest

from support import git_https, web
from support.authority import loopback
from support.packages import Index
from support.standalone import prepared

pytestmark = pytest.mark.integration

SECRET = "s3cret-of-the-proxy"
INDEX, GIT = "index.example.test", "git.example.test"
LOOK = (
    "import os, ssl, sys, urllib.request; "
    "ssl.create_default_context(); "
    "print(urllib.request.urlopen('https://127.0.0.1:{port}/simple/alpha/').status, "
    "os.environ['PIP_INDEX_URL'], os.environ['https_proxy'])"
)


def test_builds_fetches_and_runs_reach_what_only_the_operator_can(tmp_path):
    index = Index(tmp_path / "index")
    index.add("alpha", "1.0")
    trusted, context = loopback(tmp_path, INDEX, GIT)
    with (
        web.files(index.directory, context) as packages,
        git_https.serving(tmp_path, served=(trusted, context)) as code,
        web.proxy(
            {f"{INDEX}:443": packages, f"{GIT}:443": int(code.host.rpartition(":")[2])}, f"bot:{SECRET}"
        ) as between,
        prepared(
            ca_bundle=str(trusted),
            index_url=f"https://bot:{SECRET}@{INDEX}/simple",
            https_proxy=between.url,
            git_hosts=GIT,
        ) as stack,
    ):
        # What stands in the environment of the tests would be as good.
        for name in ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "SSL_CERT_FILE", "SSL_CERT_DIR"):
            stack.environment.pop(name, None)
        stack.up()
        code.publish(
            stack.repository({"say.py": "import alpha; print('fetched', alpha.VERSION)\n"}), "team/say"
        )

        run = stack.spell(
            "run", "--force", "--verbose", "--pip", "alpha", f'python -c "{LOOK.format(port=packages)}"'
        )
        fetched = stack.spell(
            *("run", "--force", "--pip", "alpha", "--github-url", f"https://{GIT}/team/say"), "python say.py"
        )
        asked = dict(between.connects)
        logs = stack.logs()

    assert f"200 https://{INDEX}/simple {between.url.replace(f'bot:{SECRET}@', '')}" in run.stdout, (
        f"{run}{logs}"
    )
    assert "fetched 1.0" in fetched.stdout, f"{fetched}{logs}"
    assert asked[f"{INDEX}:443"]
    assert asked[f"{GIT}:443"]
    assert SECRET not in f"{run}{fetched}{logs}"
