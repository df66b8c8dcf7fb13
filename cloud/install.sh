#!/usr/bin/env bash
# The pinned training environment with the package of this source tree: cloud/install.sh cpu|cuda|tpu VENV
#
# TPU hosts, Slurm nodes, the Docker image and plain machines all install by it. It is over at once where VENV is up to
# date, and mends what was stopped half-way: only a finished VENV has a stamp. The package runs from the source tree.
# Whoever holds a shared lock on VENV.lock uses VENV, which is left as it is for so long. A uv on PATH is taken whatever
# its version, since the packages are pinned. Exit codes: 1 it could not be installed, 2 something about the arguments has
# to change.
set -euo pipefail

uv_version=0.13.9
python='>=3.11,<3.13' # where the machine has none, as TPU hosts with Ubuntu 22.04, uv brings it along

fail() { # exit code, sentence
    echo "error: $2" >&2
    exit "$1"
}

# Says what is done and does it. What the command says is only shown where it fails; the disk may be full, so it is not
# kept there.
step() { # what is done, command
    echo "$1"
    local said last
    shift
    said=$("$@" 2>&1) && return
    printf '%s\n' "$said" | tail -n 5 >&2
    last=${said##*$'\n'}
    last=${last#"${last%%[![:space:]]*}"} # without what stands before its first word
    case $said in
        *"o space left"* | *"os error 28"* | *"uota exceeded"* | *"os error 122"*)
            fail 1 "the disk of $venv is full; cuda needs 8 GB there, half of it for uv's cache, cpu and tpu 2 GB: free some, and run the same again"
            ;;
        *"dns error"* | *"error sending request"* | *"ailed to fetch"* | *"ould not fetch"* | *"Retrying (Retry"*)
            fail 1 "$HOSTNAME could not fetch what it needs ($last); check its network, and run the same command again"
            ;;
    esac
    fail 1 "${*:1:3} did not work ($last); mend that, and run the same command again"
}

[ $# = 2 ] || fail 2 "$# arguments were given; two are needed, as in cloud/install.sh cpu .venv-train"
case $1 in
    cpu) requirements='requirements-train.txt' ;;
    cuda) requirements='requirements-gpu.txt' ;;
    tpu) requirements='requirements-tpu.txt' ;;
    *) fail 2 "$1 is no kind of machine; give cpu, cuda or tpu" ;;
esac
[ -n "$2" ] || fail 2 "VENV is empty; give a folder, as in cloud/install.sh $1 .venv-train"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
above=$(dirname "$2")
said=$(mkdir -p "$above" 2>&1) || fail 2 "$2 can't be made (${said#mkdir: }); give a folder where you may write"
[ -w "$above" ] || fail 2 "$2 can't be made, as you may not write to $above; give a folder where you may"
venv=$(cd "$above" && pwd)/$(basename "$2")
stamp=$venv/installed-from unfinished=$venv/unfinished
wanted=$(cd "$root" && {
    echo "$1 $root"
    cat cloud/install.sh requirements-train.txt "$requirements" constraints.txt pyproject.toml
} | sha256sum)

leave_if_up_to_date() {
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] || return 0
    echo "$venv is up to date"
    exit
}

# Also for reading, without which NFS gives no shared lock.
{ exec 9<>"$venv.lock"; } 2>/dev/null || fail 2 "$venv.lock can't be opened; give another VENV, or mend its rights"
if ! flock --shared --nonblock 9; then
    echo "$venv is being installed by another process; waiting for it"
    flock --shared 9
fi
leave_if_up_to_date
if ! flock --nonblock 9; then
    echo "$venv has other packages and is in use; waiting until it is not (give another VENV to go on at once)"
    flock 9
fi
leave_if_up_to_date # by another one that waited
if [ -e "$venv" ] && [ ! -e "$stamp" ] && [ ! -e "$unfinished" ] && [ -n "$(ls -A "$venv")" ]; then
    fail 2 "$venv is there, but not made by cloud/install.sh; give another folder, or remove that one"
fi
mkdir -p "$venv"
touch "$unfinished" # before anything goes: half of an environment would not be known again
find "$venv/" -mindepth 1 -maxdepth 1 ! -name unfinished -exec rm -rf {} +

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
    tools=$(mktemp -d)
    trap 'rm -rf "$tools"' EXIT
    # Into a folder of its own: allowed where the system keeps its Python to itself, too.
    step "fetching uv $uv_version" python3 -m pip --disable-pip-version-check install --target "$tools" "uv==$uv_version"
    uv=$tools/bin/uv
fi
step "making $venv" "$uv" venv --no-project --allow-existing --python "$python" "$venv"
step "installing $requirements" "$uv" pip install --python "$venv/bin/python" -r "$root/$requirements"
step "installing jaxgpt" "$uv" pip install --python "$venv/bin/python" --no-deps --no-build-isolation -e "$root"
version=jaxgpt
# The image makes its environment before it gets the code.
[ ! -e "$root/jaxgpt/cli.py" ] || version=$("$venv/bin/jaxgpt" --version) || fail 1 "$venv/bin/jaxgpt does not start; remove $venv, and run the same again"
echo "$wanted" >"$stamp.new"
mv "$stamp.new" "$stamp"
rm "$unfinished"
echo "$venv has $version for $1"
