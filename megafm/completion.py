"""Tab completion in bash: job names, then what Hydra knows of a job's overrides.

    source <(megafm completion bash)

The script hands the line up to the cursor to `megafm __complete`, which prints one candidate a
line. Candidates of a job's overrides (config groups, their options, keys, present values) come
from Hydra's own completion, over the job's schema.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable

from megafm.config import config_dir, register_schema

# Bash splits words at "=" (COMP_WORDBREAKS), so what stands before it is cut from the candidates.
# A candidate that goes on (key= or group.) gets no space behind it.
BASH = """\
_megafm() {
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$'\\n'
    local word="${line##* }"
    COMPREPLY=($(megafm __complete "$line" 2>/dev/null))
    if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
    fi
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=./] ]]; then
        compopt -o nospace
    fi
}
complete -F _megafm megafm
"""


def complete(line: str, jobs: Iterable[str]) -> list[str]:
    """Candidates for the last word of `line`, a command line from `megafm` up to the cursor."""
    words = line.split(" ")
    if len(words) <= 2:
        names = [*jobs, "completion", "--help", "--version"]
        return [name for name in names if name.startswith(words[-1])]
    name = words[1]
    if name == "completion":
        return [shell for shell in ("bash",) if shell.startswith(words[-1])]
    if name not in jobs:
        return []
    if words[-1].startswith("-"):
        options = ("--help", "--cfg", "--multirun", "--info")
        return [option for option in options if option.startswith(words[-1])]
    return overrides(name, " ".join(words[2:]))


def overrides(name: str, line: str) -> list[str]:
    """Hydra's candidates for the last of the overrides in `line`, for one job."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.core_plugins.bash_completion import BashCompletion
    from hydra._internal.utils import create_config_search_path

    main = importlib.import_module(module_of(name)).main
    register_schema(name, main.schema)
    loader = ConfigLoaderImpl(create_config_search_path(str(config_dir())))
    found = BashCompletion(loader)._query(config_name=name, line=line)
    hidden = ("hydra", "schema", "what=")  # not the user's business
    return [candidate for candidate in found if not candidate.startswith(hidden)]


def module_of(name: str) -> str:
    """The module whose `main` is the Hydra app of a job."""
    package = f"megafm.{name}"
    main = f"{package}.__main__"
    spec = importlib.util.find_spec(package)
    is_package = spec is not None and spec.submodule_search_locations is not None
    return main if is_package else package


def run(arguments: list[str]) -> None:
    """`megafm completion SHELL`: print the script that a shell's start file sources."""
    if arguments != ["bash"]:
        shown = " ".join(arguments) or "nothing"
        print(f"megafm: error: completion {shown}: give bash", file=sys.stderr)
        sys.exit(2)
    print(BASH, end="")
