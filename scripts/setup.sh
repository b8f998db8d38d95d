#!/usr/bin/env bash
# Make or refresh the virtual environment: `setup.sh requirements_server.txt`. Quick when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."
requirements=$1
needed_kb=$((3 * 1024 * 1024))

fail() { printf 'sam-droplet: %s\n' "$*" >&2; exit 1; }

stamp=.venv/.$requirements.done
wanted=$(cat requirements_*.txt | sha256sum)
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

python=$(command -v python3.11 || true)
[ -n "$python" ] || fail "python3.11 was not found. Install it (Debian 12: apt-get install python3.11 python3.11-venv) and try again."
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  fail "python3.11 has no venv module. Install it (Debian 12: apt-get install python3.11-venv) and try again."
if [ ! -x .venv/bin/python ]; then
  free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
  [ "$free_kb" -ge "$needed_kb" ] || fail "only $((free_kb / 1024)) MB are free here; the installation needs 3 GB."
  "$python" -m venv .venv || { rm -rf .venv; fail "the virtual environment could not be made; see above."; }
fi
echo "Installing $requirements into .venv (once; a few minutes) ..."
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements" ||
  fail "pip could not install $requirements; see above. Try again when that is mended: what is done is kept."
printf '%s\n' "$wanted" >"$stamp"
