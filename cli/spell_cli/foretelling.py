"""What `spell run --dry-run` does: says what a run would be, and makes nothing."""

import os

from spell_cli import config, projects, terminal
from spell_cli.args import usage_errors
from spell_cli.client import Client
from spell_cli.repository import Inspection
from spell_cli.run_lists import plan_rows
from spell_cli.spec_from_args import Checked, check_targets, with_code
from spell_cli.tables import pairs


def foretell(request: Checked, inspection: Inspection | None) -> int:
    """Say what `spell run` would do. Nothing is asked, pushed or created."""
    settings = config.load(os.environ)
    for text in (*settings.warnings, *request.warnings):
        terminal.warn(text)
    body, repository = request.body, inspection.result() if inspection is not None else None
    if repository is not None:
        with usage_errors():
            body = with_code(body, repository, None)
    with usage_errors():
        check_targets(body)
        body = projects.with_needs(body, repository, None)
    plan = Client(settings.connect()).plan_run(body)
    changes = bool(repository and repository.changed and settings.include_uncommitted)
    terminal.say("\n".join(pairs(plan_rows(body, plan, changes=changes))))
    return 0
