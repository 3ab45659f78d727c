"""``opc completion bash|zsh|fish``: scripts generated from the parser, so they cannot drift."""

from __future__ import annotations

import argparse
import sys

BASH = """\
_opc() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then words="{commands}"; else
    case "$command" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "$word"))
}}
complete -o filenames -F _opc opc
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "shell", choices=["bash", "zsh", "fish"], help='for example: eval "$(opc completion bash)"'
    )


def run(options: argparse.Namespace) -> int:
    """Print the script."""
    words = _words()
    if options.shell == "fish":
        sys.stdout.write(_fish(words))
        return 0
    cases = "\n".join(f'      {name}) words="{" ".join(flags)}";;' for name, flags in words.items())
    script = BASH.format(commands=" ".join(words), cases=cases)
    prefix = "autoload -U +X bashcompinit && bashcompinit\n" if options.shell == "zsh" else ""
    sys.stdout.write(prefix + script)
    return 0


def _words() -> dict[str, list[str]]:
    from opc.commands.parser import COMMANDS, parser

    found: dict[str, list[str]] = {}
    top = parser(tuple(COMMANDS))
    subs = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    for name, sub in subs.choices.items():
        words = [flag for action in sub._actions for flag in action.option_strings if flag.startswith("--")]
        choices = [
            str(c) for action in sub._actions if not action.option_strings for c in action.choices or ()
        ]
        found[name] = choices + words
    return found


def _fish(words: dict[str, list[str]]) -> str:
    from opc.commands.parser import COMMANDS

    lines = [f"complete -c opc -n __fish_use_subcommand -a {n} -d '{COMMANDS[n]}'" for n in words]
    for name, flags in words.items():
        seen = f"complete -c opc -n '__fish_seen_subcommand_from {name}'"
        lines += [f"{seen} -l {f[2:]}" if f.startswith("--") else f"{seen} -a {f}" for f in flags]
    return "\n".join(lines) + "\n"
