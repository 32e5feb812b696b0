"""Conversations: ShareGPT's and OpenAI's forms of a list of turns, and their text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_LISTS = ("messages", "conversations", "conversation")  # where a record may have its turns
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant"}


def messages_of(record: Any) -> list[dict[str, Any]]:
    """The turns as OpenAI writes them, {role, content, ...}; empty where there are none.

    ShareGPT's {from, value} is taken over; what a turn has besides (tool calls, a name) is kept.
    """
    turns = record if isinstance(record, list) else None
    if isinstance(record, Mapping):
        turns = next((record[name] for name in _LISTS if isinstance(record.get(name), list)), None)
    messages = [_message(turn) for turn in turns or []]
    return [message for message in messages if message] if all(messages) else []


def render(messages: list[dict[str, Any]]) -> str:
    """The text that filters, duplicates and tokenizers see: a paragraph per turn."""
    return "\n\n".join(f"{message['role']}: {_content(message)}" for message in messages)


def _message(turn: Any) -> dict[str, Any] | None:
    if not isinstance(turn, Mapping):
        return None
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    calls = turn.get("tool_calls")
    if not isinstance(role, str) or not (isinstance(content, str | list) or calls):
        return None
    rest = {k: v for k, v in turn.items() if k not in ("role", "from", "content", "value") and v}
    return {"role": _ROLES.get(role, role), "content": content, **rest}


def _content(message: dict[str, Any]) -> str:
    content = message["content"] or ""
    if isinstance(content, list):  # parts: text, images
        texts = (part.get("text") for part in content if isinstance(part, Mapping))
        content = "\n".join(text for text in texts if isinstance(text, str))
    calls = message.get("tool_calls")
    lines = [content, json.dumps(calls, ensure_ascii=False, default=str)] if calls else [content]
    return "\n".join(line for line in lines if line)
