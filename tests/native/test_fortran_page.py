"""The page for Fortran programmers says what compiles."""

from __future__ import annotations

from pathlib import Path
import re
import subprocess

import pytest
from surrogates import need

from surrogate.exporting import native

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "call-from-fortran.md"
# What the snippets take as given.
HEAD = """program page
  use, intrinsic :: iso_fortran_env, only: int32, real32, real64
  use surrogate
  implicit none
  integer, parameter :: levels = 3, columns = 4
  logical :: running = .false.
  type(surrogate_bundle) :: climate, bundle
  type(surrogate_function) :: step, physics
  real :: heating(levels, columns), my_own_heating(levels, columns), distance(columns)
"""
TAIL = """contains
  subroutine fall_back_on_physics(message)
    character(*), intent(in) :: message
    print *, message
  end subroutine fall_back_on_physics
end program page
"""


def snippets() -> list[list[str]]:
    """Indented parts of the page; a blank line does not end one."""
    parts: list[list[str]] = [[]]
    for line in PAGE.read_text().splitlines():
        if line.startswith("    "):
            parts[-1].append(line)
        elif line.strip() and parts[-1]:
            parts.append([])
    return parts


def command(text: str) -> str:
    """The documented line that builds the library, on one line."""
    found = re.search(r"cc -std=c11.*?-lpthread", text, re.DOTALL)
    assert found is not None
    return " ".join(re.sub(r"\\|(?<= )[*!](?= )", " ", found[0]).split())


@pytest.mark.parametrize("path", [PAGE, ROOT / "examples" / "fortran_lorenz96" / "README.md"], ids=lambda p: p.stem)
def test_the_line_that_builds_the_library_is_the_headers(path: Path) -> None:
    expected = command((native.HERE / "surrogate.h").read_text())
    assert command(path.read_text()) == expected
    patterns = [w for w in expected.split() if w.endswith(".c")]
    sources = {p.name for pattern in patterns for p in native.HERE.glob(pattern)}
    assert sources == {p.name for p in native.library_sources()}


def test_every_fortran_snippet_compiles(tmp_path: Path) -> None:
    need("gfortran")
    fortran = [p for p in snippets() if any(re.match(r" +(call|print) ", line) for line in p)]
    assert len(fortran) >= 6
    body = ""
    for part in fortran:
        own = "\n".join(
            line for line in part if line.strip() != "use surrogate" and not line.strip().startswith("mpirun")
        )
        body += f"  block\n{own}\n  end block\n"
    (tmp_path / "page.f90").write_text(HEAD + body + TAIL)
    for flags in (["-c", str(native.HERE / "surrogate.f90")], ["-fsyntax-only", "page.f90"]):
        done = subprocess.run(["gfortran", "-std=f2018", *flags], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
