#!/bin/sh
# Builds the tests of the CPU engine for 64-bit ARM and runs them under qemu-user: primitives, matrix products,
# attention, the op matrix, random graphs and chains, at the levels `portable` and `neon`.
#
# Needs, beside Rust:
#   * the standard library of the target:    rustup target add aarch64-unknown-linux-gnu
#   * a linker for it, with its C library:   Debian's gcc-aarch64-linux-gnu and libc6-dev-arm64-cross
#   * qemu-aarch64:                          Debian's qemu-user
# RUSTC and CARGO choose another toolchain, SYSROOT where the C library of the target lies, TARGET_DIR where to build.
# Arguments are those of the test programs, for example `attention` to run only what has that in its name.
set -eu
cd "$(dirname "$0")/.."

CARGO=${CARGO:-cargo}
SYSROOT=${SYSROOT:-/usr/aarch64-linux-gnu}
TARGET=aarch64-unknown-linux-gnu
export CARGO_TARGET_DIR="${TARGET_DIR:-target/aarch64}"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER="${LINKER:-aarch64-linux-gnu-gcc}"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="${RUNNER:-qemu-aarch64 -L $SYSROOT}"
# The emulator runs some dozen times slower: few random graphs unless told otherwise.
export TORSH_FUZZ_CASES="${TORSH_FUZZ_CASES:-60}"

missing() {
	echo "tools/aarch64.sh needs $1: see the head of this file" >&2
	exit 1
}
command -v "$CARGO" >/dev/null || missing "cargo"
command -v "$CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER" >/dev/null || missing "a linker for $TARGET"
command -v "${CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER%% *}" >/dev/null || missing "qemu-aarch64"
"${RUSTC:-rustc}" --print target-libdir --target "$TARGET" | { read -r dir && ls "$dir"/libcore-*.rlib >/dev/null 2>&1; } ||
	missing "the standard library of $TARGET"

# Speed under an emulator says nothing: `speed` and `product_speed` are left out.
"$CARGO" test --release --locked --target "$TARGET" -p torsh-runtime --lib --test executor --test kernels --test fuzz_kernels -- "$@"
"$CARGO" test --release --locked --target "$TARGET" -p torsh-tests --test op_matrix --test chains --test fuzz -- "$@"
