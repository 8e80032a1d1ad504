"""The recorded figures of compiled kernels: how many instructions each may take, and of what.

A record also has all that was read of the binary, and a digest of what the compiler was given.
Where the compiler would be given the same again it would make the same again: the record stands for
the binary, and the gate judges it without compiling (`gate.check`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from hashlib import sha256
from inspect import getsource
from pathlib import Path
from typing import Any

from cusoftmax.machine_code import flow, opcodes, sass
from cusoftmax.machine_code.catalog import elements_held
from cusoftmax.machine_code.sass import Compiled
from cusoftmax.planning.plan import Kernel
from cusoftmax.runtime import nvrtc, source

# A figure may exceed the recorded one by this factor: every compiler schedules differently.
_SLACK, _SLACK_OTHER_NVRTC = 1.03, 1.25
# What is read of a binary: all but what follows from the kernel.
_READ = [f.name for f in fields(Compiled) if f.name not in ("kernel", "arch", "per_element")]
_WIDTHS = {"loads", "stores"}  # by width


@cache
def _readers() -> str:
    """Return the code that reads binaries."""
    return "".join(getsource(module) for module in (sass, flow, opcodes))


def digest(kernel: Kernel, arch: str) -> str:
    """Return a digest of what a record depends on: compiler, sources, options, and the readers."""
    parts = (nvrtc.build(), source.identity(kernel, arch), _readers())
    return sha256("\0".join(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Record:
    """What NVRTC made of a kernel for one architecture.

    Attributes
    ----------
    nvrtc : str
        Its version.
    per_element : float or None
        Instructions an element, rounded: what the kernel may take.
    digest : str
        What `digest` returned; empty where only the figure is known.
    read : dict
        The attributes of `Compiled` that are not 0, but for those that the kernel's name implies.
    """

    nvrtc: str
    per_element: float | None
    digest: str = ""
    read: Mapping[str, Any] = field(default_factory=dict)

    def compiled(self, kernel: Kernel, arch: str) -> Compiled:
        """Return what was read of the binary."""
        read = {name: self.read.get(name, {} if name in _WIDTHS else 0) for name in _READ}
        elements = elements_held(kernel)
        per_element = read["main"] / elements if elements else None
        return Compiled(kernel=kernel, arch=arch, per_element=per_element, **read)


@dataclass(frozen=True)
class Budget:
    """The records, by kernel and architecture.

    Each has the version of the compiler that it was made with, so recording some anew leaves the
    others as they are. The file groups the records by version.
    """

    records: Mapping[str, Mapping[str, Record]]

    @staticmethod
    def load(path: Path) -> Budget:
        records: defaultdict[str, dict[str, Record]] = defaultdict(dict)
        for version, kernels in json.loads(path.read_text(encoding="utf-8")).items():
            for kernel, by_arch in kernels.items():
                for arch, saved in by_arch.items():
                    figure, given = saved.pop("per_element"), saved.pop("digest")
                    for name in _WIDTHS & saved.keys():
                        saved[name] = {int(width): n for width, n in saved[name].items()}
                    records[kernel][arch] = Record(version, figure, given, saved)
        return Budget(records)

    def save(self, path: Path) -> None:
        versions: defaultdict[str, defaultdict[str, dict[str, Any]]] = defaultdict(
            lambda: defaultdict(dict)
        )
        for kernel, by_arch in self.records.items():
            for arch, record in by_arch.items():
                saved = {"per_element": record.per_element, "digest": record.digest, **record.read}
                versions[record.nvrtc][kernel][arch] = saved
        sections = []
        for version, kernels in sorted(versions.items()):
            lines = (f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(kernels.items()))
            sections.append(f"  {json.dumps(version)}: {{\n" + ",\n".join(lines) + "\n  }")
        path.write_text("{\n" + ",\n".join(sections) + "\n}\n", encoding="utf-8")

    def recorded(self, kernel: Kernel, arch: str) -> Record | None:
        """Return the record of a kernel and architecture, if there is one."""
        return self.records.get(kernel.name, {}).get(arch)

    def standing(self, kernel: Kernel, arch: str) -> Compiled | None:
        """Return what was read of a kernel's binary, if the compiler would make the same again."""
        record = self.recorded(kernel, arch)
        if record is None or record.digest != digest(kernel, arch):
            return None
        return record.compiled(kernel, arch)

    def updated(self, results: Iterable[Compiled]) -> Budget:
        """Return the budget with records of `results`; others are kept as they are."""
        records = {name: dict(by_arch) for name, by_arch in self.records.items()}
        for c in results:
            figure = None if c.per_element is None else round(c.per_element, 2)
            read = {name: value for name in _READ if (value := getattr(c, name))}
            made = Record(nvrtc.version(), figure, digest(c.kernel, c.arch), read)
            records.setdefault(c.kernel.name, {})[c.arch] = made
        return Budget(records)

    def faults(self, compiled: Compiled) -> list[str]:
        """Return a complaint where the binary takes more instructions an element than recorded."""
        record = self.recorded(compiled.kernel, compiled.arch)
        if record is None or record.per_element is None or compiled.per_element is None:
            return []
        slack = _SLACK if record.nvrtc == nvrtc.version() else _SLACK_OTHER_NVRTC
        if compiled.per_element <= record.per_element * slack:
            return []
        return [
            f"{compiled.per_element:.2f} instructions an element, recorded: {record.per_element}"
        ]
