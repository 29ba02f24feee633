"""``--completion``: what the shells need to complete clstr's command line, made from the parser.

Each script finds the last flag before the cursor and how many words have followed it: from that it knows whether
values of that flag may stand here, flags, or both. Hosts are those of known_hosts, where a hashed name says nothing,
and of the Host lines of ssh_config without wildcards.

(Not by shtab: its scripts for zsh and fish complete no further value of ``-n A B``, and take ``-o`` for a flag that
must have a value.)
"""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass

FILES = {"FILE", "LOCAL[:REMOTE]"}
DIRECTORIES = {"run_dir", "results"}
"""By dest: --chdir's is a directory of the nodes."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: its spellings, how many values it takes (none, one, maybe, many), what they are, and its help."""

    names: tuple[str, ...]
    takes: str
    values: str  # host, file, directory, choice, other
    choices: tuple[str, ...]
    help: str


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for bash, zsh or fish."""
    flags = [_flag(action) for action in parser._actions]
    text = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](flags)
    hosts = f"sh -c {shlex.quote(HOSTS)}"  # fish reads such quotes too, as long as no backslash is doubled
    return text.replace("@HOSTS@", hosts if shell == "fish" else f"_clstr_hosts() {{ {hosts}; }}")


def _flag(action: argparse.Action) -> Flag:
    takes = {0: "none", None: "one", "?": "maybe", "+": "many"}[action.nargs]
    values = "other"
    if action.choices:
        values = "choice"
    elif action.metavar == "NODE":
        values = "host"
    elif action.metavar in FILES:
        values = "file"
    elif action.dest in DIRECTORIES:
        values = "directory"
    first = (action.help or "").partition(";")[0].partition(" (")[0]
    return Flag(tuple(action.option_strings), takes, values, tuple(map(str, action.choices or ())), first)


def _names(flags: list[Flag]) -> list[str]:
    return [name for flag in flags for name in flag.names]


HOSTS = r"""
{
    cat ~/.ssh/known_hosts ~/.ssh/known_hosts2 /etc/ssh/ssh_known_hosts |
        awk '!/^[#|@]/ { gsub(/\[|\](:[0-9]+)?/, "", $1); gsub(/,/, "\n", $1); print $1 }'
    cat ~/.ssh/config ~/.ssh/config.d/* /etc/ssh/ssh_config /etc/ssh/ssh_config.d/* |
        awk '{ sub(/=/, " ") } tolower($1) == "host" { for (i = 2; i <= NF; i++) print $i }'
} 2>/dev/null | LC_ALL=C grep -x '[A-Za-z0-9_][A-Za-z0-9_.-]*'
"""
"""Prints the hosts, for any ``sh``. What is no plain name is left out: shells expand words that they are offered."""


# --- bash --------------------------------------------------------------------------------------------------


BASH = r"""# bash completion for clstr:  source <(clstr --completion bash)
@HOSTS@
_clstr() {
    local current=${COMP_WORDS[COMP_CWORD]} flag= user= word
    local -i count=0
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in
            =) ;;
            -*) flag=$word count=0 ;;
            *) count+=1 ;;
        esac
    done
    [[ $current == = ]] && current=
    local takes=none values=other choices=
    case $flag in
@CASES@
    esac
    COMPREPLY=()
    compopt +o default 2>/dev/null
    if [[ $takes$count == one0 || ( $current != -* && ( $takes == many || $takes$count == maybe0 ) ) ]]; then
        case $values in
            file) compopt -o default 2>/dev/null ;;
            directory) compopt -o dirnames 2>/dev/null ;;
            host)
                choices=$(_clstr_hosts)
                # Most bashes part words at an @, and yet replace it together with what follows.
                if [[ $current == *@* ]]; then user=${current%@*}@
                elif [[ ${COMP_WORDS[COMP_CWORD-1]} == @ ]]; then user=@
                fi ;;
        esac
    else
        choices='@FLAGS@'
    fi
    [[ -n $choices ]] && COMPREPLY=($(compgen -P "$user" -W "$choices" -- "${current#"$user"}"))
}
complete -o default -F _clstr clstr
"""


def _bash(flags: list[Flag]) -> str:
    cases = []
    for flag in flags:
        if flag.takes != "none":
            choices = f" choices={shlex.quote(' '.join(flag.choices))}" if flag.choices else ""
            cases.append(f"        {'|'.join(flag.names)}) takes={flag.takes} values={flag.values}{choices} ;;")
    return BASH.replace("@CASES@", "\n".join(cases)).replace("@FLAGS@", " ".join(_names(flags)))


# --- zsh ---------------------------------------------------------------------------------------------------


ZSH = r"""#compdef clstr
# zsh completion for clstr: as _clstr in a directory of $fpath, or  source <(clstr --completion zsh)
@HOSTS@
_clstr() {
    local flag= word takes=none values=other
    local -a choices flags
    integer count=0
    if [[ ${words[CURRENT]} == --*=* ]]; then
        flag=${words[CURRENT]%%=*}
        compset -P '*='
    else
        for word in ${words[2,CURRENT-1]}; do
            case $word in
                (--*=*) flag=${word%%=*}; count=1 ;;
                (-*) flag=$word; count=0 ;;
                (*) (( count += 1 )) ;;
            esac
        done
    fi
    case $flag in
@CASES@
    esac
    if [[ $takes$count == one0 || ( $PREFIX != -* && ( $takes == many || $takes$count == maybe0 ) ) ]]; then
        case $values in
            (file) _files ;;
            (directory) _files -/ ;;
            (host) compset -P '*@'; compadd -- ${(f)"$(_clstr_hosts)"} ;;
            (choice) compadd -a choices ;;
            (*) _message -r "value of $flag" ;;
        esac
    else
        flags=(
@FLAGS@
        )
        _describe -o flag flags
    fi
}
if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then
    _clstr "$@"
else
    compdef _clstr clstr
fi
"""


def _zsh(flags: list[Flag]) -> str:
    cases, described = [], []
    for flag in flags:
        if flag.takes != "none":
            choices = f" choices=({' '.join(flag.choices)})" if flag.choices else ""
            cases.append(f"        ({'|'.join(flag.names)}) takes={flag.takes} values={flag.values}{choices} ;;")
        text = flag.help.replace(":", r"\:")
        described += [f"            {shlex.quote(f'{name}:{text}')}" for name in flag.names]
    return ZSH.replace("@CASES@", "\n".join(cases)).replace("@FLAGS@", "\n".join(described))


# --- fish --------------------------------------------------------------------------------------------------


FISH = r"""# fish completion for clstr:  clstr --completion fish > ~/.config/fish/completions/clstr.fish
function __clstr_hosts
    set -l user (commandline -ct | string match -r -- '[^=]*@')
    for host in (@HOSTS@)
        echo "$user$host"
    end
end
function __clstr_behind --description 'Is the last flag before the cursor one of these?'
    set -l last (commandline -opc | string match -r -- '^-.*')[-1]
    test -n "$last"; and contains -- $last $argv
end
function __clstr_right_behind --description 'Is the word before the cursor one of these?'
    contains -- (commandline -opc)[-1] $argv
end
complete -c clstr -f
"""

FISH_VALUES = {
    "host": "-f -a '(__clstr_hosts)'",
    "file": "-F",
    "directory": "-f -a '(__fish_complete_directories)'",
    "other": "-f",
}


def _fish(flags: list[Flag]) -> str:
    lines = []
    for flag in flags:
        spelled = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names)
        values = f"-f -a {shlex.quote(' '.join(flag.choices))}" if flag.choices else FISH_VALUES[flag.values]
        value = {"none": "", "maybe": values}.get(flag.takes, f"-r {values}")
        lines.append(f"complete -c clstr {spelled} {value} -d {_fish_quoted(flag.help)}")
        condition = {"many": "__clstr_behind", "maybe": "__clstr_right_behind"}.get(flag.takes)
        if condition is not None:
            lines.append(f"complete -c clstr -n '{condition} {' '.join(flag.names)}' {values}")
    return FISH + "\n".join(lines) + "\n"


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", r"\\").replace("'", r"\'")
    return f"'{escaped}'"
