# What the `run` scripts share, to be sourced: where cargo builds, and what this machine lacks.

# A relative CARGO_TARGET_DIR is meant from where the script was called, before it goes elsewhere.
if [ -n "${CARGO_TARGET_DIR:-}" ]; then
    CARGO_TARGET_DIR=$(realpath -m "$CARGO_TARGET_DIR")
    export CARGO_TARGET_DIR
fi

# target_directory MANIFEST: where cargo builds it, whatever says so.
target_directory() {
    cargo metadata --format-version 1 --no-deps --manifest-path "$1" \
        | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p' | grep .
}

# Each tells what is missing with the command that installs it, and then fails.
need_program() {
    if ! command -v "$1" > /dev/null; then
        echo "error: $1 is missing. Install it (Debian: apt-get install $2)." >&2
        return 1
    fi
}
need_file() {
    if [ ! -e "$1" ]; then
        echo "error: $1 is missing. Install it (Debian: apt-get install $2)." >&2
        return 1
    fi
}
need_target() {
    if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$1" ]; then
        echo "error: the Rust target $1 is missing. Install it (rustup target add $1)." >&2
        return 1
    fi
}

# commands SECTION: the command lines in a section of core/FIRMWARE.md, but for what installs. They
# run in an empty folder, where `mote` is on the path and $MOTE says where the repository is.
commands() {
    awk -v section="## $1" '
        /^```/ { fenced = !fenced; next }
        !fenced && /^## / { inside = index($0, section) == 1 }
        inside && !fenced && sub(/^    /, "") && !/^rustup / { print; found = 1 }
        END { exit !found }
    ' "$MOTE/core/FIRMWARE.md"
}
