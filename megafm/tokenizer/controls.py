"""Special tokens of a chat: those that its template writes are control ids, those that a message
holds are text like any other. A user who writes "<|im_end|>" closes no turn.

What the template wrote is told by rendering a second time, with the special tokens in the values
overwritten; those still in the text are the template's. They are then encoded under names that no
message holds, by a tokenizer that knows them by these names alone.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from typing import Any

import tokenizers

from megafm.tokenizer.chat import Chat, Message

NAME = re.compile(r"^\W+|\W+$")  # what stands around the name of a special token
# Roles that may have a special token of their own, such as <|user|>.
SPEAKERS = (
    *("system", "developer", "user", "assistant", "tool", "function"),  # of OpenAI's messages
    *("human", "bot", "model", "ipython", "observation", "environment"),  # of other templates
)
VISIBLE = re.compile(r"\S")
HIDING = string.ascii_letters + string.digits + "\ue000"  # one of them is in no special token


class Controls:
    """
    Args:
        tokenizer: text of a tokenizer.json; its added tokens of "special": true are meant. Others
            are found in messages too, as in any text.

    Attributes:
        inner: finds the special tokens by their other names alone.
    """

    def __init__(self, tokenizer: str) -> None:
        content = json.loads(tokenizer)
        special = [one["content"] for one in content["added_tokens"] if one["special"]]
        self._by_name = {_name(token): token for token in special}
        longest_first = sorted(special, key=len, reverse=True)  # as `tokenizers` finds them
        self._whole = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._hiding = next(one for one in HIDING if not any(one in token for token in special))
        self._begun = {token[:at] for token in special for at in range(1, len(token))}
        self._ended = {token[at:] for token in special for at in range(1, len(token))}
        self._longest = max(map(len, special), default=0)
        # Drawn anew here: nobody can write them into a message.
        draw = secrets.token_hex(8)
        self._names = {token: f"<{draw}{number:06}>" for number, token in enumerate(special)}
        self.inner = tokenizers.Tokenizer.from_str(json.dumps(_renamed(content, self._names)))

    def check_roles(self, messages: list[Message]) -> None:
        """A template may write "<|" + role + "|>", so a role can make a special token by its name.

        Raises:
            ValueError: a role is such a name, and none of SPEAKERS.
        """
        for number, message in enumerate(messages):
            name = _name(str(message.get("role")))
            if name in self._by_name and name not in SPEAKERS:
                raise ValueError(
                    f"messages[{number}].role={message['role']}: names the special token "
                    f"{self._by_name[name]}; set one of {', '.join(SPEAKERS)}"
                )

    def hide(self, value: Any) -> Any:
        """`value` with each special token in its texts overwritten, character by character, and
        each beginning or end of one where texts may be joined."""
        if isinstance(value, dict):
            return {self.hide(key): self.hide(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide(one) for one in value]
        if not isinstance(value, str):
            return value
        text = self._whole.sub(self._cover, value)
        sizes = range(1, min(self._longest, len(text) + 1))
        begin = max((size for size in sizes if text[:size] in self._ended), default=0)
        text = VISIBLE.sub(self._hiding, text[:begin]) + text[begin:]
        end = min((-size for size in sizes if text[-size:] in self._begun), default=len(text))
        return text[:end] + VISIBLE.sub(self._hiding, text[end:])

    def rename(self, chat: Chat, hidden: str) -> Chat:
        """`chat` with the special tokens of its template under the names that `inner` knows.

        Args:
            hidden: text of the chat whose values went through `hide`.

        Raises:
            ValueError: the template rewrites special tokens of a message, so that its own cannot
                be told from them.
        """
        same = len(hidden) == len(chat.text) and all(
            one in (other, self._hiding) for one, other in zip(hidden, chat.text, strict=True)
        )
        if not same:
            found = sorted(set(self._whole.findall(chat.text)))
            raise ValueError(
                f"chat template: it rewrites special tokens of a message ({', '.join(found)} are "
                "in the text), so they cannot be told from its own; take them out of the message"
            )
        pieces, done, grown = [], 0, []
        for match in self._whole.finditer(hidden):
            name = self._names[match.group()]
            pieces += [chat.text[done : match.start()], name]
            done = match.end()
            grown.append((done, len(name) - len(match.group())))

        def place(at: int) -> int:
            return at + sum(growth for end, growth in grown if end <= at)

        spans = [(place(begin), place(end)) for begin, end in chat.assistant]
        return Chat("".join([*pieces, chat.text[done:]]), spans)

    def _cover(self, match: re.Match[str]) -> str:
        return VISIBLE.sub(self._hiding, match.group())


def _name(text: str) -> str:
    return NAME.sub("", text).casefold()


def _renamed(content: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """A tokenizer.json with other names of tokens and the same ids. Its model cannot make the old
    names of pieces either, as a Unigram model does that holds them."""
    model = content["model"]
    for one in content["added_tokens"]:
        one["content"] = names[one["content"]] if one["special"] else one["content"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): at for token, at in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [
            [left, right]
            for left, right in model["merges"]
            if not {left, right, left + right} & names.keys()
        ]
    return content
