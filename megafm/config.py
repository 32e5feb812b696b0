"""From Hydra's YAML and overrides to frozen dataclasses, once, at the entry point of a job.

A job is a function of one frozen dataclass:

    @job("train")
    def main(config: TrainJob) -> None: ...

The dataclass is the schema and holds every default; `hydra_conf/train.yaml` only composes it
with presets. Hydra sees the schema as the config `schema/train`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import hydra
import omegaconf
import pydantic
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from megafm.errors import end_quietly, say_error, tell_torchrun
from megafm.paths import RunDir

T = TypeVar("T")

SHOW_TRACEBACK = "MEGAFM_TRACEBACK"


def config_dir() -> Path:
    """The folder of the YAML files: inside the installed package, or at the top of a checkout."""
    inside = Path(__file__).parent / "hydra_conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "hydra_conf"


def job(name: str) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """Make a function of one frozen dataclass into the Hydra app of `hydra_conf/{name}.yaml`.

    A user's mistake (ValueError, OSError, a bad override) ends as one line on stderr and exit
    code 1; anything else keeps its traceback. MEGAFM_TRACEBACK=1 keeps it for both.
    """

    def decorate(function: Callable[[Any], None]) -> Callable[[], None]:
        schema = typing.get_type_hints(function)["config"]

        def run(composed: DictConfig) -> None:
            with one_line_errors(schema, on_every_rank=True):
                config = from_dict(schema, _to_plain(composed, schema))
            with one_line_errors(schema):
                function(config)

        @functools.wraps(function)
        def main() -> None:
            register_schema(name, schema)
            app = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=name)
            with one_line_errors(schema, on_every_rank=True):
                app(run)()

        main.schema = schema  # type: ignore[attr-defined]  # tab completion asks for it
        return main

    return decorate


def register_schema(name: str, schema: type) -> None:
    """Give Hydra the defaults of `schema` as the config `schema/{name}`."""
    defaults = OmegaConf.create(to_dict(schema()))
    ConfigStore.instance().store(group="schema", name=name, node=defaults, package="_global_")


def compose(name: str, schema: type[T], overrides: list[str]) -> T:
    """What `megafm {name} {overrides}` would run with; raises ValueError on a bad override."""
    register_schema(name, schema)
    try:
        with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            composed = hydra.compose(name, overrides)
    except (HydraException, omegaconf.errors.OmegaConfBaseException) as error:
        raise ValueError(_explain(error, schema)) from error
    return from_dict(schema, _to_plain(composed, schema))


def from_dict(schema: type[T], values: Mapping[str, Any]) -> T:
    """Convert nested plain values to the dataclass `schema`, strictly.

    Raises:
        ValueError: an unknown key (names the nearest valid one) or a value of the wrong type.
    """
    known = dict(_fields(schema))
    for key in _unknown_keys(schema, values):
        raise ValueError(_unknown_key_message(key, list(known)))
    try:
        return pydantic.TypeAdapter(schema).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, ValueError):  # raised by a __post_init__ of ours
            raise ValueError(str(cause)) from error
        field = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{field}={first['input']!r}: {first['msg']}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """The nested plain values of a dataclass (tuples as lists), ready for YAML or JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def override(key: str, value: str) -> str:
    """`key=value` in Hydra's grammar that sets exactly this text, whatever it holds."""
    if re.fullmatch(r"[\w.-]*/[\w./-]*", value):  # a path, which needs no quotes
        return f"{key}={value}"
    # A backslash counts, and is doubled, where it stands before what is special.
    plain = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # OmegaConf's interpolation
    quoted = re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), plain)
    return f"{key}='{quoted}'"


def to_yaml(config: Any) -> str:
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def config_hash(config: Any) -> str:
    """The sha256 of a config's values, independent of key order and of formatting."""
    text = json.dumps(to_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class one_line_errors:
    """Context manager: report a user's mistake in one line on stderr and exit with code 1.

    Args:
        on_every_rank: every rank makes the same mistake, so the first one of each host says it.
    """

    def __init__(self, schema: type | None = None, *, on_every_rank: bool = False) -> None:
        self.schema = schema
        self.on_every_rank = on_every_rank

    def __enter__(self) -> None:
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let exceptions through to us

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if os.environ.get(SHOW_TRACEBACK) == "1" or error is None:
            return
        if isinstance(error, HydraException | omegaconf.errors.OmegaConfBaseException | ValueError):
            message = _explain(error, self.schema)
        elif isinstance(error, BrokenPipeError):  # `megafm train --help | head`: not a mistake
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)  # 128 + SIGPIPE, as of any program in a pipe
        elif isinstance(error, OSError):
            message = str(error)
        elif isinstance(error, KeyboardInterrupt):
            message = "interrupted"
        else:
            if not isinstance(error, SystemExit):
                tell_torchrun(f"{type(error).__name__}: {error}")
            return
        if self.on_every_rank and os.environ.get("LOCAL_RANK", "0") != "0":
            end_quietly()
        say_error(message)
        tell_torchrun(message)
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else 1)


def _to_plain(composed: DictConfig, schema: type) -> dict[str, Any]:
    values = typing.cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if sweep and typing.get_type_hints(schema).get("run") is RunDir:
        # Each job of a sweep writes its own run folder, else the second would resume the first.
        # The label is every override but run.dir (hydra_conf/job.yaml).
        label = HydraConfig.get().job.override_dirname.replace("/", "_")
        if len(label) > 200:  # file systems take 255
            label = f"{label[:180]}-{hashlib.sha256(label.encode()).hexdigest()[:12]}"
        values["run"]["dir"] = str(Path(values["run"]["dir"]) / label)
    return values


def _fields(schema: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of every leaf field of a nested dataclass."""
    for name, kind in typing.get_type_hints(schema).items():
        nested = _dataclass(kind)
        if nested is None:
            yield f"{prefix}{name}", kind
        else:
            yield from _fields(nested, f"{prefix}{name}.")


def _unknown_keys(schema: type, values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    kinds = typing.get_type_hints(schema)
    for key, value in values.items():
        nested = _dataclass(kinds.get(key))
        if key not in kinds:
            yield f"{prefix}{key}"
        elif nested is not None and isinstance(value, Mapping):
            yield from _unknown_keys(nested, value, f"{prefix}{key}.")


def _dataclass(kind: Any) -> type | None:
    """The dataclass that a field's type is, or may be besides None."""
    union = isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
    parts = typing.get_args(kind) if union else (kind,)
    found = (part for part in parts if dataclasses.is_dataclass(part))
    return typing.cast("type | None", next(found, None))


def _unknown_key_message(key: str, known: list[str]) -> str:
    leaf = key.rpartition(".")[2]
    same_leaf = [name for name in known if name.rpartition(".")[2] == leaf]
    sections = {name[:dot] for name in known for dot, c in enumerate(name) if c == "."}
    nearest = same_leaf or difflib.get_close_matches(key, [*known, *sections], n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else "--cfg job prints every key"
    return f"unknown config key {key!r}: {hint}"


def _explain(error: Exception, schema: type | None) -> str:
    """One line for a ValueError of ours or a failure of Hydra or OmegaConf."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        near = difflib.get_close_matches(option, error.options, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"set one of {', '.join(error.options)}"
        return f"{group}={option}: no such option; {hint}"
    if isinstance(error, OverrideParseException):
        key, equals, value = str(error.override).partition("=")
        if equals:
            return f"{error.override}: quote what holds , = or brackets: \"{key}='{value}'\""
        return f"{error.override!r} is not an override: give key=value, --cfg job prints every key"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines)
    if schema is not None and "Could not override '" in text:
        key = text.split("Could not override '")[1].split("'")[0]
        return _unknown_key_message(key, [name for name, _ in _fields(schema)])
    if "Config group override must be" in text:
        return f"{text}; a preset is set by its name, for example model=tiny"
    return text
