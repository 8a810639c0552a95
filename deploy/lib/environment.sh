# Environments: made once for each lock file, kept outside the checkout, found again by digest. Sourced, never run.
#
#   base  a node without an engine      node  + learner, vLLM on CPU, embedded model
#   test  + everything the tests need   cuda  the engine for NVIDIA machines, by itself
#
# An environment is whole when its stamp is there: the stamp is written last and its name holds the digest of
# everything that decides the contents, so a half-made one is never used and a changed lock makes a new one
# beside the old (which a roll-back then finds again).

METAINF_CACHE=${METAINF_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/metainf}
deploy_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $1"; [ -n "${2:-}" ] && say "   do: $2"; exit "${3:-1}"; }

# A Python that the locks support; METAINF_PYTHON names another than the first that is found.
find_python() {
  local candidate
  for candidate in ${METAINF_PYTHON:-python3.11 python3.12 python3.13 python3}; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || continue
    "$candidate" -c 'import sys; print(sys.executable)'
    return
  done
  die "no Python 3.11, 3.12 or 3.13 found" "apt-get install python3 python3-venv, or set METAINF_PYTHON" 69
}

# One-time installer of pinned packages (uv), in an environment of its own.
find_uv() {
  local lock=$deploy_dir/locks/uv.txt python home
  python=$(find_python)
  home=$METAINF_CACHE/envs/uv-$(digest_of "$python" "$lock")
  if [ ! -e "$home/.whole" ]; then
    say "      installing the package installer (uv)"
    rm -rf "$home"
    make_venv "$python" "$home"
    "$home/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$lock" >&2 \
      || die "the package installer could not be installed" "check the network, then run this again" 69
    touch "$home/.whole"
  fi
  printf '%s\n' "$home/bin/uv"
}

make_venv() {
  local python=$1 home=$2
  mkdir -p "$(dirname "$home")"
  "$python" -m venv "$home" 2>/dev/null && return
  rm -rf "$home"
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    local version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    say "      installing Debian's python$version-venv"
    { apt-get update -qq && apt-get install -y -qq "python$version-venv"; } >/dev/null 2>&1 \
      || { apt-get install -y -qq python3-venv >/dev/null 2>&1 || true; }
    "$python" -m venv "$home" && return
  fi
  die "$python cannot make virtual environments" "apt-get install python3-venv, then run this again" 69
}

digest_of() {  # PYTHON FILE...: everything that decides what an environment holds
  local python=$1; shift
  { cat "$@" "${BASH_SOURCE[0]}"; "$python" -c 'import sys, platform; print(sys.version, sys.executable, platform.machine())'; } \
    | sha256sum | cut -c1-16
}

# environment PROFILE: makes it if needed; prints its folder.
environment() {
  local profile=$1 python lock key home
  python=$(find_python) || exit
  lock=$deploy_dir/locks/$profile.txt
  key=$(digest_of "$python" "$lock" "$deploy_dir/locks/torch.txt")
  home=$METAINF_CACHE/envs/$profile-$key
  if [ ! -e "$home/.whole" ]; then
    mkdir -p "$METAINF_CACHE/envs"
    ( flock 9; [ -e "$home/.whole" ] || fill_environment "$profile" "$python" "$lock" "$home" ) 9>"$home.lock" || exit
  fi
  touch "$home/.used"
  printf '%s\n' "$home"
}

fill_environment() {
  local profile=$1 python=$2 lock=$3 home=$4 uv free
  free=$(df -Pk "$METAINF_CACHE" | awk 'NR==2{print $4}')
  case $profile in base) need=1000000 ;; cuda) need=15000000 ;; *) need=6000000 ;; esac
  [ "$free" -ge "$need" ] || die "only $((free / 1000)) MB free in $METAINF_CACHE, $((need / 1000)) MB needed" \
    "free some space, or set METAINF_CACHE to a folder on a larger disk" 69
  uv=$(find_uv) || exit
  say "      environment '$profile': $(grep -c '==' "$lock") packages (once, a minute or two; later starts skip this)"
  rm -rf "$home"
  "$uv" venv --quiet --python "$python" "$home" >&2 || make_venv "$python" "$home"
  install_into "$home" "$uv" --require-hashes -r "$lock"
  case $profile in node|test) install_torch "$home" "$uv" ;; esac
  # libp2p wants trio-typing, which brings stubs of a trio of 2020 along: they would hide the real one from pyright.
  rm -rf "$home"/lib/python*/site-packages/trio-stubs
  touch "$home/.whole"
}

install_into() {
  local home=$1 uv=$2; shift 2
  local -a where=()
  [ -n "${PIP_FIND_LINKS:-}" ] && where+=(--find-links "$PIP_FIND_LINKS")
  [ -n "${PIP_INDEX_URL:-}" ] && where+=(--default-index "$PIP_INDEX_URL")
  # Bytecode now: without it each start of the engine compiles for 15 s.
  "$uv" pip install --python "$home/bin/python" --no-deps --compile-bytecode "${where[@]}" "$@" >&2 \
    || die "packages could not be installed (see above)" "check the network and the disk, then run this again: it goes on where it stopped" 69
}

# The CPU build of torch lives on PyTorch's own index, or in the folder that PIP_FIND_LINKS names.
install_torch() {
  local home=$1 uv=$2 lock=$deploy_dir/locks/torch.txt
  local -a index=() hashes=(--require-hashes -r "$lock")
  # Its one known hash is that of the build for 3.11; for others the index's own TLS and checksums must do.
  "$home/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || hashes=("$(cut -d' ' -f1 "$lock")")
  if ! ls "${PIP_FIND_LINKS:-/nonexistent}"/torch-*+cpu-* >/dev/null 2>&1; then
    index=(--index https://download.pytorch.org/whl/cpu)
  fi
  install_into "$home" "$uv" "${index[@]}" "${hashes[@]}"
}

# Old environments are kept for roll-back, but not for ever: those unused for 60 days go.
prune_environments() {
  local stamp
  find "$METAINF_CACHE/envs" -maxdepth 2 -name .used -mtime +60 2>/dev/null | while read -r stamp; do
    rm -rf "$(dirname "$stamp")"
  done
}

has_nvidia_driver() { [ -e /proc/driver/nvidia/version ] || nvidia-smi -L >/dev/null 2>&1; }

# Links `metainf` into the user's own command folder, once, where nothing of that name is in the way.
offer_command() {
  local bin=$HOME/.local/bin target=$1/deploy/metainf
  [ -e "$bin/metainf" ] && return
  mkdir -p "$bin" 2>/dev/null && ln -sf "$target" "$bin/metainf" 2>/dev/null || return 0
  case ":$PATH:" in
    *":$bin:"*) say "      the command is now: metainf" ;;
    *) say "      the command is now: $bin/metainf (put $bin on your PATH to say just metainf)" ;;
  esac
}
