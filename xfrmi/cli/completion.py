"""`xfrmi completion`: what makes a shell complete the words of xfrmi. The shell asks xfrmi for them, at each key.

So there is one place that knows them (complete.py), and the interfaces and labs of this moment are among them.
"""

from __future__ import annotations

import argparse
import sys

BASH = """\
# bash completion for xfrmi:  source <(xfrmi completion bash)
_xfrmi() {
    local IFS=$'\\n'
    COMPREPLY=($("${COMP_WORDS[0]}" completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    case ${COMPREPLY[0]} in
        :files) compopt -o default; COMPREPLY=() ;;
        :commands) COMPREPLY=($(compgen -c -- "${COMP_WORDS[COMP_CWORD]}")) ;;
    esac
}
complete -F _xfrmi xfrmi
"""

ZSH = """\
#compdef xfrmi
# zsh completion for xfrmi:  source <(xfrmi completion zsh), behind compinit
_xfrmi() {
    local -a found
    found=("${(@f)$("${words[1]}" completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    case ${found[1]} in
        :files) _files ;;
        :commands) _command_names -e ;;
        ?*) compadd -a found ;;
    esac
}
compdef _xfrmi xfrmi
"""

FISH = """\
# fish completion for xfrmi:  xfrmi completion fish | source
function __xfrmi_words
    set -l words (commandline -opc)
    set -l begun (commandline -ct)
    set -l found ($words[1] completion words -- $words[2..-1] "$begun" 2>/dev/null)
    switch "$found[1]"
        case :files
            __fish_complete_path "$begun"
        case :commands
            complete -C "$begun"
        case '*'
            printf '%s\\n' $found
    end
end
complete -c xfrmi -f -a '(__xfrmi_words)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}

EPILOG = """\
  source <(xfrmi completion bash)       in ~/.bashrc
  source <(xfrmi completion zsh)        in ~/.zshrc, behind compinit
  xfrmi completion fish | source        in ~/.config/fish/config.fish

They ask `xfrmi completion words -- WORD ...` what the last of these words may become."""


def completion_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xfrmi completion",
        description="Print what makes a shell complete xfrmi's words, names of interfaces and labs included.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=tuple(SCRIPTS), help="which shell")
    return parser


def completion(words: list[str]) -> int:
    """The words after `completion`."""
    if words[:2] == ["words", "--"]:
        from xfrmi.cli.complete import complete

        sys.stdout.writelines(f"{word}\n" for word in complete(words[2:]))
        return 0
    given = completion_parser().parse_args(words)
    sys.stdout.write(SCRIPTS[given.shell])
    return 0
