#!/usr/bin/env bash
# A foldrank command on 64-bit ARM, emulated: Debian's arm64 Python and PyPI's aarch64 wheels under qemu's user mode, as
# a Cortex-A76 (Raspberry Pi 5). It says whether a bundle computes the same there, not how fast.
#
#     apt-get install qemu-user-static mmdebstrap
#     examples/edge/aarch64.sh selftest my-bundle
#
# What is fetched (250 MB) stays in build/aarch64, or in $AARCH64; the wheel is that of the last commit.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(realpath -m "${AARCH64:-$root/build/aarch64}")
system=$folder/debian python=3.11

for tool in qemu-aarch64-static mmdebstrap; do
    command -v "$tool" > /dev/null || { echo "aarch64: no $tool: apt-get install qemu-user-static mmdebstrap" >&2; exit 3; }
done

if [ ! -x "$system/usr/bin/python$python" ]; then
    rm -rf "$system" && mkdir -p "$folder"
    mmdebstrap --quiet --arch=arm64 --variant=extract --include=python3,libstdc++6,libgomp1,ca-certificates \
        bookworm "$system" http://deb.debian.org/debian
    mkdir -p "$system/proc"
    # qemu shows the host's processor where there is no file of its own, and ONNX Runtime trips over it.
    for core in 0 1; do
        printf '%s\n' "processor : $core" 'Features : fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp' \
            'CPU implementer : 0x41' 'CPU architecture: 8' 'CPU variant : 0x4' 'CPU part : 0xd0b' 'CPU revision : 1' ''
    done > "$system/proc/cpuinfo"
fi

commit=$(git -C "$root" rev-parse HEAD)
if [ "$(cat "$folder/commit" 2> /dev/null)" != "$commit" ]; then
    rm -rf "$folder/wheel" "$folder/site" "$folder/commit"
    PYTHON="${PYTHON:-$root/.venv/bin/python}" "$root/.ci/wheel" "$folder/wheel"
    platforms=()
    for glibc in 17 24 26 27 28 31 34 35; do platforms+=(--platform "manylinux_2_${glibc}_aarch64"); done
    "${PYTHON:-$root/.venv/bin/python}" -m pip install -q --target "$folder/site" --only-binary=:all: --python-version $python \
        --implementation cp --platform manylinux2014_aarch64 "${platforms[@]}" -c "$root/constraints.txt" \
        "$(ls "$folder"/wheel/foldrank-*.whl)[cpu]"
    echo "$commit" > "$folder/commit"
fi

PYTHONPATH=$folder/site OMP_NUM_THREADS=1 exec qemu-aarch64-static -cpu cortex-a76 -L "$system" \
    "$system/usr/bin/python$python" -m foldrank "$@"
