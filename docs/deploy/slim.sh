#!/usr/bin/env bash
# Takes from an environment what a service never uses, and compiles what it imports: half the size.
set -euo pipefail
environment=$1
packages=$("$environment/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
cd "$packages"
# Of onnxruntime its bindings are enough: the library beside them is the same code for C.
rm -rf onnxruntime/capi/libonnxruntime.so.* onnxruntime/{backend,datasets,quantization,tools,transformers}
rm -rf numpy/f2py numpy/_core/{include,lib} numpy/random/lib numpy/_core/_simd*.so
find . -type d \( -name tests -o -name test -o -name __pycache__ \) -prune -exec rm -rf {} +
find . -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.a' -o -name '*.h' \
    -o -name '*.safetensors' \) -delete
# Nothing is highlighted here; rich asks for the names of languages only.
find pygments/lexers -name '*.py' ! -name __init__.py ! -name _mapping.py ! -name python.py -delete
# Symbols of wheels whose libraries were not patched, which strip would break.
strip --strip-unneeded uvloop/*.so httptools/parser/*.so pydantic_core/*.so
env -u PYTHONDONTWRITEBYTECODE "$environment/bin/python" -c \
    'import distill.cli.app, distill.cli.serve, distill.serve.server, distill.serve.worker'
