"""The Dockerfile, read: its stages, and what each says with what it stands on."""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"


@dataclass(frozen=True)
class Instruction:
    word: str
    text: str

    @property
    def words(self) -> list[str]:
        """Of the exec form as it stands, of others as a shell would split them."""
        if self.text.startswith("["):
            told: list[str] = json.loads(self.text)
            return told
        return shlex.split(self.text)


@dataclass
class Stage:
    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, word: str) -> list[Instruction]:
        return [one for one in self.instructions if one.word == word]

    def last(self, word: str) -> Instruction:
        return self.all(word)[-1]


def stages() -> dict[str, Stage]:
    """By name, each with the instructions of the stages it stands on before its own."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.M)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    found: dict[str, Stage] = {}
    current: Stage | None = None
    for line in filter(str.strip, lines):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            current = Stage(name, base, list(found[base].instructions) if base in found else [])
            found[name] = current
        elif current is not None:
            current.instructions.append(Instruction(word, rest.strip()))
    return found


def environment(stage: Stage) -> dict[str, str]:
    """What ENV gives to its processes."""
    pairs = (word.partition("=") for one in stage.all("ENV") for word in one.words)
    return {name: value for name, _, value in pairs}


def ports(stage: Stage) -> set[int]:
    return {int(word) for one in stage.all("EXPOSE") for word in one.words}


def health_command(stage: Stage) -> list[str] | None:
    text = stage.last("HEALTHCHECK").text
    if text == "NONE":
        return None
    command: list[str] = json.loads(text.partition(" CMD ")[2])
    return command
