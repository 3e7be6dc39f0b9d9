#!/bin/sh
# llama.cpp's server, for this machine's processor, from the source that llama-cpp-python's package carries.
set -eu
mkdir -p "$1/llama.cpp"
environment=$(cd "$1" && pwd)
cd "$environment/llama.cpp"
[ -x bin/llama-server ] && exit
"$environment/bin/python" -m pip download --quiet --no-deps --no-binary :all: llama-cpp-python==0.3.36
tar xzf llama_cpp_python-0.3.36.tar.gz
cmake -B . -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
	-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF llama_cpp_python-0.3.36/vendor/llama.cpp
cmake --build . --parallel "$(nproc)" --target llama-server llama-quantize
