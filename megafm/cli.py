"""`megafm JOB [override ...]`: one command for every job; each is also `python -m megafm.JOB`."""

from __future__ import annotations

import difflib
import runpy
import sys

import megafm

JOBS = {
    "quickstart": "raw text to a trained, evaluated, exported model, in one command",
    "doctor": "what this machine can run, and why not the rest",
    "data": "read, deduplicate and split documents; write token shards",
    "tokenizer": "train, study, compare or import a tokenizer",
    "plan": "memory and traffic of any rank of a training run, before it is started",
    "train": "pretrain a model on token shards (alone or under torchrun)",
    "evaluate": "validation loss, perplexity and bits per byte, against baselines",
    "generate": "sample text from a trained model",
    "convert": "to and from the Hugging Face format",
    "bench": "speed of the ops, or of whole training steps, against other libraries",
}


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    if arguments[0] == "--version":
        print(f"megafm {megafm.__version__}")
        return
    name = arguments[0]
    if name in ("completion", "__complete"):
        from megafm import completion  # only here: it takes Hydra to answer

        if name == "__complete":
            print("\n".join(completion.complete(" ".join(arguments[1:]), JOBS)))
        else:
            completion.run(arguments[1:])
        return
    if name not in JOBS:
        near = difflib.get_close_matches(name, JOBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"jobs: {' '.join(JOBS)}"
        print(f"megafm: error: unknown job {name!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"megafm {name}", *arguments[1:]]
    runpy.run_module(f"megafm.{name}", run_name="__main__", alter_sys=True)


def usage() -> str:
    width = max(map(len, JOBS))
    jobs = "\n".join(f"  {name:<{width}}  {what}" for name, what in JOBS.items())
    return (
        f"megafm {megafm.__version__}: {megafm.__doc__}\n\n"
        f"usage: megafm JOB [key=value ...]\n\njobs:\n{jobs}\n\n"
        "megafm JOB --help      the job's config groups and keys\n"
        "megafm JOB --cfg job   the config it would run with\n"
        "megafm JOB --multirun key=a,b   a sweep, one run folder each\n"
        "source <(megafm completion bash)   tab completion"
    )


if __name__ == "__main__":
    main()
