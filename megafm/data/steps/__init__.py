"""Cleaning: steps that change or drop documents, signals that measure them, rules that decide."""

import dataclasses

from megafm.data.config import Source, Steps
from megafm.data.steps.code import Generated
from megafm.data.steps.limits import Empty, LongLine, Size, Table
from megafm.data.steps.pipeline import Pipeline, build
from megafm.data.steps.step import Rule, Signal, Step, describe, domain

__all__ = [
    "Pipeline",
    "Rule",
    "Signal",
    "Step",
    "build",
    "cleaning_steps",
    "describe",
    "domain",
    "pipeline",
]


def pipeline(source: Source, config: Steps) -> Pipeline:
    """The limits of the source, then what the config names."""
    named = build(config)
    return dataclasses.replace(named, transform=(*cleaning_steps(source), *named.transform))


def cleaning_steps(source: Source) -> list[Step]:
    """What every document goes through, in order."""
    return [
        Size(source.max_document_bytes),
        Empty(),
        LongLine(source.max_line_bytes),
        Generated(),
        Table(),
    ]
