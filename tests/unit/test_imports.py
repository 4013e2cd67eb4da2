"""What an import of the package and a start of the command bring with them, and that no name gets lost on the way."""

import ast
import subprocess
import sys
from importlib import import_module

import pytest

import signalwire_tokens
from signalwire_tokens import cli
from support.commands import COMMANDS
from support.paths import PACKAGE


def static_names():
    """Return the names that type checkers see, with the modules that they come from."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(one for one in tree.body if isinstance(one, ast.If) and ast.unparse(one.test) == "TYPE_CHECKING")
    return {name.name: one.module for one in block.body for name in one.names}


def loaded_after(code, *arguments, text=""):
    """Return the modules that a new process has loaded after some code."""
    code += "\nimport sys; print('\\n' + ' '.join(sys.modules))"
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, input=text)
    return set(done.stdout.splitlines()[-1].split())


def test_every_name_is_the_one_that_type_checkers_see():
    """They read the imports that aren't executed."""
    names = static_names()
    assert sorted([*names, "__version__"]) == sorted(signalwire_tokens.__all__)
    for name, module in names.items():
        there = getattr(import_module(f"signalwire_tokens.{module}"), name)
        assert getattr(signalwire_tokens, name) is there


def test_every_module_of_a_name_is_searched():
    """And no other."""
    assert set(signalwire_tokens.MODULES) == set(static_names().values())


def test_a_name_that_does_not_exist_is_an_error():
    """As in any module, also if a module has it that the package doesn't export."""
    for name in ("SubscriberSesion", "Engine"):
        with pytest.raises(AttributeError, match=f"module 'signalwire_tokens' has no attribute '{name}'"):
            getattr(signalwire_tokens, name)


def test_modules_are_attributes():
    """As after an import of all of them."""
    assert signalwire_tokens.__getattr__("errors").RateLimited is signalwire_tokens.RateLimited
    assert {"errors", "fleet", "__file__", "__version__"} <= set(dir(signalwire_tokens))


def test_all_names_are_listed_before_they_are_imported():
    """For completion at a prompt."""
    code = "import signalwire_tokens; assert 'SessionFleet' in dir(signalwire_tokens)"
    assert "signalwire_tokens.fleet" not in loaded_after(code)


def test_an_import_brings_only_what_is_used():
    """A program that sends requests needs no sessions."""
    assert not {"aiohttp", "attrs"} & loaded_after("import signalwire_tokens")
    client = loaded_after("from signalwire_tokens import TokenClient")
    assert "aiohttp" in client
    assert not {"signalwire_tokens.keeper", "signalwire_tokens.fleet", "signalwire_tokens.stores", "jwt"} & client
    assert "signalwire_tokens.backend" not in loaded_after("from signalwire_tokens import SessionFleet")


def test_a_name_is_looked_up_with_each_use(monkeypatch):
    """A test may replace it in its module before its first use, and restore it."""
    with monkeypatch.context() as context:
        context.setattr("signalwire_tokens.client.TokenClient", "another")
        assert signalwire_tokens.TokenClient == "another"
    assert signalwire_tokens.TokenClient is import_module("signalwire_tokens.client").TokenClient


RUN = "import sys\nfrom signalwire_tokens.cli import cli\ntry:\n cli(prog_name='x')\nexcept SystemExit: pass"
HEAVY = {"aiohttp", "asyncio", "attrs", "rich", "signalwire_tokens.client"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["inspect"], ["inspect", "--help"]], ids=" ".join)
def test_a_command_imports_what_it_needs(arguments):
    """So that a prompt comes back at once."""
    token = "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwidHlwIjoiU0FUIn0..aXY.Y2lwaGVy.VFRUVFRUVFRUVFRUVFRUVA"
    assert not HEAVY & loaded_after(RUN, *arguments, text=token)


def test_the_help_says_of_each_command_what_the_command_says():
    """It doesn't import them."""
    assert {name: text for name, (_, text) in cli.COMMANDS.items()} == {
        name: command.get_short_help_str(200) for name, command in COMMANDS.items()
    }
    assert list(cli.COMMANDS) == sorted(cli.COMMANDS)
