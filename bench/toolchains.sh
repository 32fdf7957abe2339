#!/bin/bash
# Installs the toolchains of the languages that modules are written in, for bench/guests and checks, below one folder:
#   toolchains.sh DIR [LANGUAGE...]    python, javascript, rust [default: all]; what is there already stays; prints
#                                      KEY=VALUE lines for make(1) and cargo on standard output
# Python and JavaScript: componentize-py from PyPI, componentize-qjs from npm. Rust: the target wasm32-wasip2, if
# rustup has it (`rustup target add wasm32-wasip2`); else Debian's compiler for web browsers and the source of its
# standard library, which is compiled with the first module. Nothing is installed outside of DIR.
set -eu

readonly componentize_py=0.25.1 componentize_qjs=0.4.5
readonly debian=(rustc-web libstd-rust-web-1.96 libstd-rust-web-dev rust-web-src libllvm22 wasi-libc)

main() {
  if [ $# = 0 ]; then
    sed -n 2,7p "$0" >&2
    exit 2
  fi
  mkdir -p "$1"
  dir=$(realpath "$1")
  shift
  [ $# != 0 ] || set -- python javascript rust
  local language
  for language in "$@"; do
    case $language in
    python)
      python >&2
      echo "COMPONENTIZE_PY=$dir/py/bin/componentize-py"
      ;;
    javascript)
      javascript >&2
      echo "COMPONENTIZE_QJS=$dir/js/node_modules/.bin/componentize-qjs"
      ;;
    rust) rust ;;
    *)
      echo "no toolchain for $language" >&2
      exit 2
      ;;
    esac
  done
}

python() {
  [ -e "$dir/py/$componentize_py" ] && return
  python3 -m venv "$dir/py"
  "$dir/py/bin/pip" install --quiet --disable-pip-version-check "componentize-py==$componentize_py"
  touch "$dir/py/$componentize_py"
}

javascript() {
  [ -e "$dir/js/$componentize_qjs" ] && return
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$dir/js" "componentize-qjs@$componentize_qjs"
  touch "$dir/js/$componentize_qjs"
}

rust() {
  local tools
  # A whole target, as rustup installs it.
  compgen -G "$(rustc --print sysroot)/lib/rustlib/wasm32-wasip2/lib/libstd-*.rlib" >/dev/null && return
  [ -e "$dir/rust/done" ] || debian_rust >&2
  # The linkers come with rustup's compiler for this machine.
  tools=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
  wasi=$dir/rust/usr/lib/wasm32-wasi
  cat <<LINES
RUSTC=$dir/rust/rustc
RUSTC_BOOTSTRAP=1
CARGO_FLAGS=-Zbuild-std=std,panic_abort
CARGO_TARGET_WASM32_WASIP2_LINKER=$tools/wasm-component-ld
CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS=-Clink-self-contained=no -Lnative=$wasi -Clink-arg=$wasi/crt1-reactor.o -Clink-arg=--wasm-ld-path=$tools/gcc-ld/wasm-ld
LINES
}

debian_rust() {
  rm -rf "$dir/rust" "$dir/deb"
  mkdir -p "$dir/rust" "$dir/deb"
  (cd "$dir/deb" && download)
  local package
  for package in "$dir"/deb/*.deb; do dpkg-deb -x "$package" "$dir/rust"; done
  rm -r "$dir/deb"
  cat >"$dir/rust/rustc" <<SCRIPT
#!/bin/sh
LD_LIBRARY_PATH=$dir/rust/usr/lib/$(uname -m)-linux-gnu exec $dir/rust/usr/bin/rustc "\$@"
SCRIPT
  chmod +x "$dir/rust/rustc"
  "$dir/rust/rustc" --version
  touch "$dir/rust/done"
}

download() {
  # Debian's lists may never have been fetched here, or be too old.
  apt-get download --quiet "${debian[@]}" 2>/dev/null || {
    apt-get update --quiet
    apt-get download --quiet "${debian[@]}"
  }
}

main "$@"
