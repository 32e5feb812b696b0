"""Chat templates: Jinja text that makes one text of a conversation, as transformers renders it.

A template marks what the assistant says by {% generation %} ... {% endgeneration %}. Of one that
does not, it is what a turn of the assistant adds to the text before it, the prompt for it
included. The text is that of transformers to the character; which of its special tokens become
control ids is told in `controls`.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATES = Path(__file__).parent / "templates"
Message = dict[str, Any]  # role, content, and what else a template reads


@dataclass(frozen=True)
class Chat:
    """`assistant` are the spans of characters (begin, end) in which the assistant speaks."""

    text: str
    assistant: list[tuple[int, int]]


class ChatTemplate:
    """
    Raises:
        ValueError: `source` is not a template.
    """

    def __init__(self, source: str, special: dict[str, str]) -> None:
        self.source = source
        self.special = special
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
            tree = environment.parse(source)
        except jinja2.TemplateError as error:
            raise ValueError(f"chat template: {error}; see the templates of Jinja") from error
        self.marks_generation = any(
            isinstance(call.node, nodes.ExtensionAttribute) and call.node.name == "_mark"
            for call in tree.find_all(nodes.Call)
        )

    def render(
        self,
        messages: list[Message],
        *,
        tools: list[dict[str, Any]] | None = None,
        documents: list[dict[str, Any]] | None = None,
        generation_prompt: bool = False,
        **values: Any,
    ) -> Chat:
        """One text of a conversation.

        Args:
            tools: JSON schemas of functions.
            generation_prompt: end where the assistant's next turn begins.
            values: what else the template reads.

        Raises:
            ValueError: the template refuses the conversation, or the assistant's turns cannot be
                told from the others'.
        """
        values |= {"tools": tools, "documents": documents}
        text, marked = self._rendered(messages, values, generation_prompt)
        if not self.marks_generation:
            marked = self._by_prefix(text, messages, values)
        return Chat(text, marked)

    def text(
        self, messages: list[Message], *, generation_prompt: bool = False, **values: Any
    ) -> str:
        """That of `render`, which also tells who speaks."""
        values = {"tools": None, "documents": None, **values}
        return self._rendered(messages, values, generation_prompt)[0]

    def _rendered(
        self, messages: list[Message], values: dict[str, Any], prompt: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the spans that {% generation %} marks."""
        pieces: list[str] = []
        marked: list[tuple[int, int]] = []
        context = {"_pieces": pieces, "_marked": marked, **self.special, **values}
        context |= {"messages": messages, "add_generation_prompt": prompt}
        try:
            for piece in self._template.generate(**context):
                pieces.append(piece)  # at once: a mark reads them
        except jinja2.TemplateError as error:
            raise ValueError(f"chat template: {error}") from error
        return "".join(pieces), marked

    def _by_prefix(
        self, text: str, messages: list[Message], values: dict[str, Any]
    ) -> list[tuple[int, int]]:
        spans = []
        for number, message in enumerate(messages):
            if message.get("role") == "assistant":
                before, _ = self._rendered(messages[:number], values, prompt=True)
                after, _ = self._rendered(messages[: number + 1], values, prompt=False)
                if not (after.startswith(before) and text.startswith(after)):
                    raise ValueError(
                        f"chat template: message {number} changes the text before it, so the "
                        "assistant's turns cannot be told; put {% generation %} and "
                        "{% endgeneration %} around them in the template"
                    )
                spans.append((len(before), len(after)))
        return spans


def read_template(name: str) -> str:
    """The template of a Jinja file, or one that comes with megafm, by name.

    Raises:
        ValueError: there is neither.
    """
    for path in (TEMPLATES / f"{name}.jinja", Path(name)):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    known = ", ".join(sorted(path.stem for path in TEMPLATES.glob("*.jinja")))
    raise ValueError(f"tokenizer.chat_template={name}: no such file; set {known} or a Jinja file")


class _Generation(Extension):
    """{% generation %}: notes where in the text its body stands."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        arguments: list[nodes.Expr] = [
            nodes.Name("_pieces", "load"),
            nodes.Name("_marked", "load"),
        ]
        call = self.call_method("_mark", arguments)
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(
        self, pieces: list[str], marked: list[tuple[int, int]], caller: Callable[[], str]
    ) -> str:
        text = caller()
        begin = sum(map(len, pieces))
        marked.append((begin, begin + len(text)))
        return text


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own it leaves <, > and & as they are."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
