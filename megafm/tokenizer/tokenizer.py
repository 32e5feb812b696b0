"""Text to token ids and back, through Hugging Face `tokenizers`."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from megafm.files import write_text
from megafm.tokenizer.chat import Chat, ChatTemplate, Message
from megafm.tokenizer.controls import Controls

END_OF_DOCUMENT = "<|endoftext|>"
BYTE = re.compile("<0x[0-9A-F]{2}>")
# White space of all sorts, signs, digits, composed and decomposed accents, half of a pair, NUL.
PROBE = (
    " A  b\t\n\r\n   c \u00e9 e\u0301 \ufb01 \uff21 \u4e2d\u6587 \U0001f600\u200d \x00 12345,6 'S"
)
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


class Tokenizer:
    """Text to ids and back. Special tokens in a text are ordinary text, never special ids.

    Attributes:
        vocab_size: ids are below it.
        eod_id: closes a document: END_OF_DOCUMENT, or else the eos_token.
        chat: the chat template, or None.
        definition: tokenizer.json.
        hash: sha256 of tokenizer.json, of the chat template where there is one, and of the token
            that closes documents where it is not END_OF_DOCUMENT. Shards and checkpoints hold it.
        special: names of special tokens by role (ROLES).
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        special: dict[str, str] | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.special = special or {"bos_token": END_OF_DOCUMENT, "eos_token": END_OF_DOCUMENT}
        self.definition = inner.to_str(pretty=True)
        inner.encode_special_tokens = True
        self._inner = inner
        vocab = inner.get_vocab()
        self.vocab_size: int = 1 + max(vocab.values())
        end = end_of_document(inner, self.special)
        assert end is not None, "load and train see to it"
        self.eod_id: int = vocab[end]
        self.chat = ChatTemplate(chat_template, self.special) if chat_template else None
        locked = [self.definition]
        locked += [chat_template] if chat_template else []
        locked += [end] if end != END_OF_DOCUMENT else []
        self.hash = hashlib.sha256("\0".join(locked).encode()).hexdigest()

    @classmethod
    def load(cls, directory: str | Path) -> Tokenizer:
        """Read DIRECTORY/tokenizer.json, and what tokenizer_config.json and chat_template.jinja
        beside it say of special tokens and of chats.

        Raises:
            ValueError: there is none, or none whose tokens we know the end of a document of.
        """
        folder = Path(directory)
        path = folder / "tokenizer.json"
        remedy = f"run: megafm tokenizer tokenizer.dir={directory}"
        if not path.is_file():
            raise ValueError(f"tokenizer.dir={directory}: no tokenizer.json there; {remedy}")
        text = path.read_text(encoding="utf-8")
        try:
            inner = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{path}: not a tokenizer ({error}); {remedy}") from error
        special, template = _read_config(folder)
        if end_of_document(inner, special) is None:
            raise ValueError(
                f"{path}: has no token {END_OF_DOCUMENT}, and tokenizer_config.json names no "
                f"eos_token of it; {remedy}"
            )
        return cls(inner, special, template)

    def save(self, directory: str | Path) -> None:
        """Write tokenizer.json, and tokenizer_config.json so that transformers loads it too."""
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self.special,
            "clean_up_tokenization_spaces": False,
        }
        folder = Path(directory)
        if self.chat is not None:
            config["chat_template"] = self.chat.source
        write_text(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
        (folder / "chat_template.jinja").unlink(missing_ok=True)  # it would go first
        write_text(folder / "tokenizer.json", self.definition)

    def with_chat_template(self, source: str) -> Tokenizer:
        return Tokenizer(tokenizers.Tokenizer.from_str(self.definition), self.special, source)

    def encode(self, text: str) -> list[int]:
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Encode many texts on all cores."""
        encodings = self._inner.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: list[int]) -> str:
        """The text of the ids; bytes that are not UTF-8 become U+FFFD, special tokens are shown."""
        return self._inner.decode(ids, skip_special_tokens=False)

    def encode_chat(
        self, messages: list[Message], *, generation_prompt: bool = False, **values: Any
    ) -> tuple[list[int], list[int]]:
        """The ids of a conversation, and a mask of them: 1 where the assistant speaks.

        Special tokens are those that the template writes. Where a message, a tool or another value
        holds one, it is ordinary text, so nobody can close a turn or open another by writing so;
        transformers makes a special id of it. Otherwise ids and mask are those of transformers.
        See `ChatTemplate.render` for the arguments.

        Raises:
            ValueError: there is no chat template, or it refuses the conversation, or it rewrites
                special tokens of a message, or a role is the name of one and none of SPEAKERS.
        """
        if self.chat is None:
            raise ValueError(
                "this tokenizer has no chat template; train it with tokenizer.chat_template=chatml"
            )
        controls = self._controls
        controls.check_roles(messages)
        chat = self.chat.render(messages, generation_prompt=generation_prompt, **values)
        hidden = controls.hide({"messages": messages, **values})
        bare = self.chat.text(**hidden, generation_prompt=generation_prompt)
        chat = controls.rename(chat, bare)
        encoding = controls.inner.encode(chat.text, add_special_tokens=False)
        return encoding.ids, _mask(encoding, chat)

    @property
    def lossless(self) -> bool:
        """Whether text of all sorts decodes to itself."""
        return self.decode(self.encode(PROBE)) == PROBE

    def token_bytes(self) -> np.ndarray:
        """How many bytes of text each id stands for, int32 (vocab_size,); 0 for special tokens.

        Of a SentencePiece kind U+2581 and U+FDD0 in a text, which are escaped, count a byte more.
        Of a SentencePiece tokenizer that puts a blank before the text, the first token counts it;
        of a WordPiece tokenizer of BERT's sort no token counts white space.
        """
        sizes = np.zeros(self.vocab_size, np.int32)
        in_bytes = '"ByteLevel"' in json.dumps(json.loads(self.definition)["decoder"])
        for token, index in self._inner.get_vocab(with_added_tokens=False).items():
            if in_bytes:  # one character of its alphabet is one byte
                sizes[index] = len(token.removeprefix("\u2581"))
            elif BYTE.fullmatch(token):
                sizes[index] = 1
            else:
                sizes[index] = len(token.removeprefix("##").replace("\u2581", " ").encode())
        for index, added in self._inner.get_added_tokens_decoder().items():
            sizes[index] = 0 if added.special else len(added.content.encode())
        return sizes

    @functools.cached_property
    def _controls(self) -> Controls:
        return Controls(self.definition)


def end_of_document(inner: tokenizers.Tokenizer, special: dict[str, str]) -> str | None:
    """The token that closes a document, if there is one."""
    for token in (END_OF_DOCUMENT, special.get("eos_token")):
        if token is not None and inner.token_to_id(token) is not None:
            return token
    return None


def _mask(encoding: tokenizers.Encoding, chat: Chat) -> list[int]:
    """1 for each token of the assistant's text; a character may take several."""
    return [
        int(any(begin < last and first < end for begin, end in chat.assistant))
        for first, last in encoding.offsets
    ]


def _read_config(folder: Path) -> tuple[dict[str, str], str | None]:
    """Special tokens by role, and the chat template, which a file of its own holds in new folders
    of transformers; of several templates the one named default."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    special = {}
    for role in ROLES:
        token = config.get(role)
        content = token.get("content") if isinstance(token, dict) else token
        if content is not None:
            special[role] = content
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {one["name"]: one["template"] for one in template}.get("default")
    file = folder / "chat_template.jinja"
    if file.is_file():
        template = file.read_text(encoding="utf-8")
    return special, template
