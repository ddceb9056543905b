"""`completion`: the scripts with which bash, zsh and fish complete commands, options and values.

The scripts of Typer are not used: with them, the first Tab of a script that zsh loads does nothing, no shell completes
`--output=j`, and bash completes no path after an option.
"""

from enum import StrEnum
from typing import Annotated

import typer

from gateway.cli.commands import candidates

# $1 is the line up to the cursor. A line of the output is a value, and after a tab its meaning.
_BASH = r"""# bash completion for jobgateway
_jobgateway() {
    local line="${COMP_LINE:0:COMP_POINT}" word="${COMP_WORDS[COMP_CWORD]}" value
    COMPREPLY=()
    while IFS=$'\t' read -r value _; do
        if [[ $value == :files ]]; then
            compopt -o default
            return
        fi
        # Readline replaces only the part after the last = or :, as it divides words there.
        [[ $value == -*=* && $word != -*=* ]] && value="${value#*=}"
        COMPREPLY+=("$value")
    done < <("${1/#\~/$HOME}" __complete "$line" 2>/dev/null)
}
complete -F _jobgateway jobgateway
"""

_ZSH = r"""#compdef jobgateway
# zsh completion for jobgateway
_jobgateway() {
    local -a candidates
    local tab=$'\t' line="${(j: :)words[1,CURRENT]}"
    candidates=("${(@f)$(${~${(Q)words[1]}} __complete "$line" 2>/dev/null)}")
    if [[ $candidates[1] == :files ]]; then
        compset -P '-*='
        _files
        return
    fi
    # _describe takes VALUE:MEANING.
    candidates=("${(@)candidates//:/\\:}")
    candidates=("${(@)candidates/$tab/:}")
    [[ -n $candidates[1] ]] && _describe -V jobgateway candidates
}
if [[ $funcstack[1] == _jobgateway ]]; then
    _jobgateway "$@"
else
    compdef _jobgateway jobgateway
fi
"""

_FISH = r"""# fish completion for jobgateway
function __jobgateway_complete
    set --local line (commandline --current-process --cut-at-cursor | string collect)
    set --local command (commandline --tokenize --current-process --cut-at-cursor)[1]
    # With eval, because the command may begin with ~.
    set --local candidates (eval $command __complete (string escape -- $line) 2>/dev/null)
    if test "$candidates[1]" != :files
        printf '%s\n' $candidates
        return
    end
    set --local word (commandline --current-token --cut-at-cursor)
    set --local option (string match --regex -- '^-[^=]*=' $word)
    for path in (__fish_complete_path (string replace --regex -- '^-[^=]*=' '' $word))
        printf '%s%s\n' "$option" $path
    end
end
complete --command jobgateway --no-files --keep-order --arguments '(__jobgateway_complete)'
"""


class Shell(StrEnum):
    """The shells that have a script."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


_SCRIPTS = {Shell.BASH: _BASH, Shell.ZSH: _ZSH, Shell.FISH: _FISH}

ShellName = Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="The shell.", show_default=False)]
Line = Annotated[str, typer.Argument(metavar="LINE", help="The line up to the cursor.", show_default=False)]


def completion(shell: ShellName) -> None:
    """Print the script with which a shell completes commands, options and values."""
    typer.echo(_SCRIPTS[shell], nl=False)


def complete(context: typer.Context, line: Line) -> None:
    """Print the candidates for the last word of a line."""
    for value, meaning in candidates.found(context.find_root(), line):
        typer.echo(f"{value}\t{meaning}" if meaning else value)
