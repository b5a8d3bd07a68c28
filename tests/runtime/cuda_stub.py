"""Empty stand-ins for CUDA's libraries, built with a C compiler: onnxruntime's own CUDA provider loads on them.

Its parser of options then runs for real, and so do its words for a machine without a device or without a driver.
Nothing is computed: every function answers with one number, the error that is asked for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NO_DEVICE, NO_DRIVER, OUT_OF_MEMORY = 100, 35, 2  # cudaError_t, driver_types.h
_TOOLS = ("cc", "nm", "readelf")
_TEXTS = {"cudaGetErrorString": "stub says no", "cudaGetErrorName": "cudaErrorStub"}


def find_provider_library(name: str = "cuda") -> Path | None:
    """The library of onnxruntime's provider; None in a build that lacks it."""
    import onnxruntime

    path = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{name}.so"
    return path if path.is_file() else None


def skip_unless_buildable() -> Path:
    """The CUDA provider's library, or a skip that says what is missing."""
    library = find_provider_library() if sys.platform == "linux" else None
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if library is None or missing:
        pytest.skip(f"no stub of CUDA can be built here: {', '.join(missing) or 'onnxruntime has no CUDA provider'}")
    return library


def build_stubs(folder: Path, answer: int = NO_DEVICE, *, leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    """Build a stub of each library that the CUDA provider needs; returns the environment that finds them.

    ``answer`` is what each function of CUDA returns; a library whose name begins with one of ``leave_out`` is missing.
    """
    provider = skip_unless_buildable()
    folder.mkdir(parents=True, exist_ok=True)
    needed = re.findall(r"\(NEEDED\).*\[(lib(?:cu|nv)\w*\.so\.\d+)\]", _read("readelf", "-d", provider))
    functions: dict[str, list[str]] = {name: [] for name in needed}
    for line in _read("nm", "-D", "--undefined-only", provider).splitlines():
        name, _, version = line.split()[-1].partition("@")
        if version in functions:
            functions[version].append(name)
        elif re.match(r"cu[A-Z]", name) and not version:
            functions["libcuda.so.1"].append(name)
    for library, names in functions.items():
        if not library.startswith(leave_out or ("-",)):
            _build(folder / library, names, answer)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}


def _build(library: Path, names: list[str], answer: int) -> None:
    lines = [
        f'const char *{n}(int e) {{ return "{_TEXTS[n]}"; }}'
        if n in _TEXTS
        else f"long {n}(void) {{ return {_answer(n, answer)}; }}"
        for n in names
    ]
    source, script = library.with_suffix(".c"), library.with_suffix(".map")
    source.write_text("\n".join(lines) + "\n")
    node = "" if library.name.startswith("libcuda.") else library.name
    command = ["cc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{library.name}", "-o", library, source]
    if node:
        script.write_text(f"{node} {{ global: *; }};\n")
        command.insert(1, f"-Wl,--version-script={script}")
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def _answer(name: str, answer: int) -> int:
    """Registering kernels while the library loads has to work; only calls from then on fail."""
    return 0 if name.startswith("__cudaRegister") or name == "__cudaInitModule" else answer


def _read(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
