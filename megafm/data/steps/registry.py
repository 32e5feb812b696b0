"""Every step, signal, rule and corpus step by its version, which is its name in configs."""

from __future__ import annotations

from megafm.data.steps.boilerplate import Boilerplate, RepeatedLines
from megafm.data.steps.c4 import C4Lines, C4Page, C4Signal
from megafm.data.steps.code import CodeQuality, CodeSignal, Generated
from megafm.data.steps.copies import RepeatedRuns, SimHash
from megafm.data.steps.decontaminate import Decontaminate
from megafm.data.steps.fineweb import FineWeb, LineSignal
from megafm.data.steps.gopher import GopherQuality, GopherRepetition, GopherSignal
from megafm.data.steps.importance import Importance, ImportanceSignal
from megafm.data.steps.language import Language, LanguageRule, LanguageSignal
from megafm.data.steps.licence import Licence
from megafm.data.steps.limits import Empty, LongLine, Size, Table
from megafm.data.steps.malware import Malware, MalwareSignal
from megafm.data.steps.normalise import Normalise
from megafm.data.steps.pii import PII
from megafm.data.steps.presidio import Presidio
from megafm.data.steps.quality import Quality, QualitySignal
from megafm.data.steps.secrets import Secrets
from megafm.data.steps.step import CorpusStep, Rule, Signal, Step
from megafm.data.steps.toxicity import Toxicity, ToxicitySignal

_STEPS: tuple[type[Step], ...] = (
    *(Size, Empty, LongLine, Table, Generated),
    *(Normalise, Language, Licence, C4Lines, Boilerplate),
    *(PII, Presidio, Secrets, Decontaminate),
)
_SIGNALS: tuple[type[Signal], ...] = (
    *(LanguageSignal, GopherSignal, C4Signal, LineSignal, CodeSignal, MalwareSignal),
    *(ToxicitySignal, QualitySignal, ImportanceSignal),
)
_RULES: tuple[type[Rule], ...] = (
    *(LanguageRule, GopherQuality, GopherRepetition, C4Page, FineWeb, CodeQuality, Malware),
    *(Toxicity, Quality, Importance),
)
_CORPUS: tuple[type[CorpusStep], ...] = (RepeatedLines, RepeatedRuns, SimHash)

STEPS = {one.version: one for one in _STEPS}
SIGNALS = {one.version: one for one in _SIGNALS}
RULES = {one.version: one for one in _RULES}
CORPUS = {one.version: one for one in _CORPUS}
