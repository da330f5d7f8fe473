#!/bin/sh
# Builds what computes on 64-bit ARM and runs it under qemu-user:
#
#   tools/aarch64.sh [tests|packages|libraries|python|all] [ARGUMENT..]
#
#   tests      the CPU engine at the levels `portable` and `neon`: primitives, matrix products, attention, the op matrix,
#              random graphs and chains. This is what runs without a name; ARGUMENTs are those of the test programs, for
#              example `attention` to run only what has that in its name.
#   packages   reading of packages: their tests, and hostile files for a minute (or as many seconds as ARGUMENT says).
#   libraries  libraries in C that a 64-bit ARM machine makes for x86-64, and for itself: they must be byte for byte those
#              that this machine makes, of CASES random graphs and the golden packages; they are compiled, linked and run, for
#              x86-64 as they are and for ARM under qemu, and must give the bits that the engine on ARM gives.
#   python     `torsh.export(format="c", targets=("x86_64",))` on ARM: in the Python of PYTHON_ROOT, a folder with
#              usr/bin/python3 and its libraries for 64-bit ARM, such as Debian's python3:arm64 unpacked by `dpkg -x`.
#              Header, archive and shared library must be byte for byte those of the torsh in .venv.
#
# Needs, beside Rust:
#   * the standard library of the target:    rustup target add aarch64-unknown-linux-gnu
#   * a linker for it, with its C library:   Debian's gcc-aarch64-linux-gnu and libc6-dev-arm64-cross
#   * qemu-aarch64:                          Debian's qemu-user
#   * for `libraries` and `python`:          an x86-64 machine with GCC
# RUSTC and CARGO choose another toolchain, SYSROOT where the C library of the target lies, TARGET_DIR where to build.
set -eu
cd "$(dirname "$0")/.."

CARGO=${CARGO:-cargo}
SYSROOT=${SYSROOT:-/usr/aarch64-linux-gnu}
TARGET=aarch64-unknown-linux-gnu
HOST_DIR=${CARGO_TARGET_DIR:-target}
LINKER=${LINKER:-aarch64-linux-gnu-gcc}
RUNNER=${RUNNER:-qemu-aarch64 -L $SYSROOT}
ARM_DIR=${TARGET_DIR:-target/aarch64}
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER="$LINKER"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$RUNNER"
# The emulator runs some dozen times slower: few random graphs unless told otherwise.
export TORSH_FUZZ_CASES="${TORSH_FUZZ_CASES:-60}"
CASES=${CASES:-60}

missing() {
	echo "tools/aarch64.sh needs $1: see the head of this file" >&2
	exit 1
}
command -v "$CARGO" >/dev/null || missing "cargo"
command -v "$LINKER" >/dev/null || missing "a linker for $TARGET"
command -v "${RUNNER%% *}" >/dev/null || missing "qemu-aarch64"
"${RUSTC:-rustc}" --print target-libdir --target "$TARGET" | { read -r dir && ls "$dir"/libcore-*.rlib >/dev/null 2>&1; } ||
	missing "the standard library of $TARGET"

# One selection of packages, and always with a test or an example, so that what they share is built once.
arm() {
	command=$1
	shift
	CARGO_TARGET_DIR=$ARM_DIR "$CARGO" "$command" --release --locked --target "$TARGET" -p torsh-runtime -p torsh-tests "$@"
}

# Speed under an emulator says nothing: `speed` and `product_speed` are left out.
tests() {
	arm test --lib --test executor --test kernels --test fuzz_kernels --test op_matrix --test chains --test fuzz --test c_libraries -- "$@"
}

packages() {
	arm test --test package
	arm build -q --example fuzz_packages
	$RUNNER "$ARM_DIR/$TARGET/release/examples/fuzz_packages" "${1:-60}"
}

# Compiles, links and runs every program of folder $1 for architecture $2 with compiler $3, by $4.
run_libraries() {
	count=0
	for main in "$1"/*-main.c; do
		name=$(basename "$main" -main.c)
		place=$1/$2
		$3 -std=gnu99 -O2 -ffp-contract=off -fno-math-errno -fno-strict-aliasing -I"$place" \
			"$main" "$place/$name.c" "$place/$name.o" -lm -o "$place/$name"
		$4 "$place/$name" || { echo "the library $place/$name gives something else than the engine on ARM" >&2; exit 1; }
		count=$((count + 1))
	done
	echo "$count libraries for $2 give the bits of the engine on ARM"
}

libraries() {
	[ "$(uname -m)" = x86_64 ] || missing "an x86-64 machine"
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	set -- tests/golden/packages/*/*.torsh
	CARGO_TARGET_DIR=$HOST_DIR "$CARGO" build -q --release --locked --workspace --exclude torsh-python --bin c_libraries --test c_libraries
	"$HOST_DIR/release/c_libraries" "$work/here" "$CASES" "$@"
	arm build -q --bin c_libraries --test c_libraries
	$RUNNER "$ARM_DIR/$TARGET/release/c_libraries" "$work/arm" "$CASES" "$@"
	diff -rq "$work/here" "$work/arm" >&2 || { echo "libraries depend on the machine that makes them" >&2; exit 1; }
	echo "byte for byte the same, whether x86-64 or 64-bit ARM makes them"
	run_libraries "$work/arm" x86_64 "${CC:-gcc}" ""
	run_libraries "$work/arm" aarch64 "$LINKER" "$RUNNER"
}

python() {
	root=${PYTHON_ROOT:-}
	[ -n "$root" ] && [ -x "$root/usr/bin/python3" ] || missing "PYTHON_ROOT"
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	CARGO_TARGET_DIR=$ARM_DIR .venv/bin/maturin build -q --release --locked --target "$TARGET" --compatibility linux -o "$work/wheel"
	.venv/bin/python -m zipfile -e "$work"/wheel/*.whl "$work/torsh"
	export CC=x86_64-linux-gnu-gcc
	for place in here arm; do mkdir "$work/$place"; done
	.venv/bin/python tools/c_libraries.py "$work/here"
	PYTHONPATH="$work/torsh" ${RUNNER%% *} -L "$root" "$root/usr/bin/python3" tools/c_libraries.py "$work/arm"
	diff -rq "$work/here" "$work/arm" >&2 || { echo "exports depend on the machine that makes them" >&2; exit 1; }
	echo "exports for x86-64 and aarch64 are byte for byte the same, whether x86-64 or 64-bit ARM makes them"
}

case "${1:-tests}" in
tests | packages | libraries | python)
	what=${1:-tests}
	[ $# -eq 0 ] || shift
	"$what" "$@"
	;;
all)
	tests
	packages
	libraries
	;;
*) tests "$@" ;;
esac
