"""The command `barewire`: its subcommands and exit codes. No root."""

from __future__ import annotations

import pytest

from cni.errors import IoFailure
from cni.tool import __main__ as tool


def test_every_subcommand_explains_itself(capsys) -> None:
    for command in tool.COMMANDS:
        with pytest.raises(SystemExit) as end:
            tool.main([command.name, "--help"])
        assert end.value.code == 0
        assert command.description in " ".join(capsys.readouterr().out.split())


def test_wrong_usage_and_a_failure_have_different_codes(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        tool.main(["no-such-command"])
    assert end.value.code == 2


def test_a_failure_is_one_message_with_its_remedy(capsys, monkeypatch) -> None:
    def fail(_options: object) -> int:
        raise IoFailure("the disk is full", hint="empty it")

    monkeypatch.setattr(tool, "COMMANDS", (tool.COMMANDS[0].replace(run=fail),))
    assert tool.main([tool.COMMANDS[0].name]) == 1
    assert capsys.readouterr().err == "barewire: the disk is full\n  what to do: empty it\n"
