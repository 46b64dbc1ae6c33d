"""The optional native parts (native/README.md); everything static stands in pyproject.toml.

``SEDSTREAM_NATIVE``: ``auto``, the default, builds what the tools at hand can build; ``yes`` fails where there is no
C++ compiler; ``no`` builds nothing. CUDA is built where ``CUDA_HOME`` holds nvcc. What does not compile is an error.
"""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.errors import CompileError, LinkError

NATIVE = Path("native")
FRONT = "sedstream.libfront"
"""A plain shared library, loaded with ctypes: it knows neither Python nor torch."""


def lacking() -> str | None:
    """What the C++ part needs and does not find here."""
    from distutils.ccompiler import new_compiler  # setuptools' own, which it puts in place when imported
    from distutils.sysconfig import customize_compiler

    compiler = new_compiler()
    if compiler.compiler_type != "unix":
        return "GCC or Clang"
    customize_compiler(compiler)
    program = (getattr(compiler, "compiler_so_cxx", None) or compiler.compiler_so)[0]
    if shutil.which(program) is None:
        return f"a C++ compiler ({program})"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python's headers (Debian: python3-dev)"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "a Python with the stable ABI"
    return None


def extensions() -> list[Extension]:
    wanted = os.environ.get("SEDSTREAM_NATIVE", "auto")
    if wanted not in ("auto", "yes", "no"):
        raise SystemExit(f"Bad SEDSTREAM_NATIVE {wanted!r}, expected auto, yes or no")
    missing = None if wanted == "no" else lacking()
    if wanted == "yes" and missing:
        raise SystemExit(f"Bad SEDSTREAM_NATIVE 'yes', expected {missing}: it is missing")
    if wanted == "no" or missing:
        print(f"sedstream: pure Python, without {missing or 'native parts'}")
        return []
    capture = Extension(
        "sedstream.audio._capture",
        [str(NATIVE / "capture.cpp")],
        depends=[str(NATIVE / "ring.h"), str(NATIVE / "clock.h")],
        define_macros=[("Py_LIMITED_API", "0x030B0000")],
        py_limited_api=True,
        # No contraction: the same floating-point operations as in Python, on every processor.
        extra_compile_args=["-std=c++17", "-O3", "-ffp-contract=off"],
        language="c++",
    )
    return [capture, Extension(FRONT, [str(NATIVE / "front.cu")])] if nvcc() else [capture]


def nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=str(Path(home, "bin"))) if home else None


class BuildNative(build_ext):
    def get_ext_filename(self, fullname: str) -> str:
        if fullname.endswith("libfront"):
            return str(Path(*fullname.split(".")).with_suffix(".so"))
        return super().get_ext_filename(fullname)

    def build_extension(self, ext: Extension) -> None:
        try:
            if ext.name == FRONT:
                self._build_front(ext)
            else:
                super().build_extension(ext)
        except (CompileError, LinkError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"Bad compiler for {ext.sources[0]}, expected one that works: {error} (what it said stands above). "
                "SEDSTREAM_NATIVE=no installs sedstream without its native parts."
            ) from error

    def _build_front(self, ext: Extension) -> None:
        out = Path(self.get_ext_fullpath(ext.name))
        out.parent.mkdir(parents=True, exist_ok=True)
        # all-major: machine code for every generation since Turing, and PTX for those to come. cudart is linked
        # statically: the library loads on machines without CUDA.
        command = [nvcc(), "-shared", "-O3", "-std=c++17", "-arch=all-major", "-Xcompiler=-fPIC", "-o", str(out)]
        subprocess.run([*command, *ext.sources], check=True)


class SourcesToo(sdist):
    def make_distribution(self) -> None:
        """With the sources of what is not built here."""
        self.filelist.extend(str(path) for path in NATIVE.iterdir() if path.is_file())
        self.filelist.sort()
        self.filelist.remove_duplicates()
        super().make_distribution()


parts = extensions()
setup(
    ext_modules=parts,
    cmdclass={"build_ext": BuildNative, "sdist": SourcesToo},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if parts else {},
)
