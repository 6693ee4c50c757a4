#!/usr/bin/env bash
# Proves the project on a GPU, from the bundle that scripts/gpu-bundle made: this file lies in it. Needs a driver, and
# neither Rust nor a network.
#
# usage: run.sh OUT [--part PART]... [--dry-run]
#
#   probe      the chip's own limits: copies, reads, clusters, launches
#   tests      every test with a GPU required, and the example
#   sanitize   compute-sanitizer's four tools over every kernel
#   rows, images, decode    the benchmark, every output checked against f64 first
#   rivals     what others reach on the same machine
#
# Without --part all of them, each in at most 8 minutes, each whatever becomes of the others. A part that is run again
# replaces what OUT holds of it. OUT receives at most 8 files of less than 16 MiB: summary.txt, tests.txt, machine.txt,
# bench.csv, probe.csv, logs.tar.gz. Fails if anything is red; what cannot run on this machine is `unavailable`, which is
# neither red nor green.
#
# --dry-run does it all on the emulated driver that the binaries carry, with small cells: that shows that everything works
# but says nothing of a GPU.
set -uo pipefail

all_parts=(probe tests sanitize rows images decode rivals)
part_seconds=480
# Of a log, as far as it is kept.
log_bytes=$((2 * 1024 * 1024))

bundle=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

main() {
    read_arguments "$@"
    mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
    work=$(mktemp -d) || exit 2
    trap 'rm -rf "$work"' EXIT
    # What earlier runs left of other parts.
    [ ! -f "$out/logs.tar.gz" ] || tar -xzf "$out/logs.tar.gz" -C "$work" || rm -rf "${work:?}"/*

    mkdir -p "$work/machine" && describe_machine >"$work/machine/log.txt" 2>&1
    local part
    for part in "${parts[@]}"; do
        rm -rf "${work:?}/$part" && mkdir "$work/$part"
        echo "=== $part"
        deadline=$((SECONDS + part_seconds))
        "part_$part"
        publish
    done
    tail -1 "$out/summary.txt"
    ! grep -q '^red' "$out/summary.txt"
}

read_arguments() {
    out="" parts=() dry_run=no
    while [ $# -gt 0 ]; do
        case $1 in
            --part)
                [[ " ${all_parts[*]} " == *" ${2:-} "* ]] || usage
                parts+=("$2")
                shift
                ;;
            --dry-run) dry_run=yes ;;
            -*) usage ;;
            *)
                [ -z "$out" ] || usage
                out=$1
                ;;
        esac
        shift
    done
    [ -n "$out" ] || usage
    [ ${#parts[@]} -gt 0 ] || parts=("${all_parts[@]}")
}

usage() {
    echo "usage: run.sh OUT [--part $(IFS='|' && echo "${all_parts[*]}")]... [--dry-run]" >&2
    exit 2
}

# ---- parts

part_probe() { measure probe; }
part_rows() { measure rows; }
part_images() { measure images; }
part_decode() { measure decode; }

part_tests() {
    local only=() device=cuda
    # In a dry run what concerns the device: the rest is what `cargo test` does on any machine. (The example is no test,
    # and brings no emulator.)
    [ $dry_run = no ] || only=(_on_cuda) device=cpu
    check tests "integration tests" ran_tests "$bundle/it" "${only[@]}"
    check tests "unit tests" ran_tests "$bundle/unit"
    check tests "example" "$bundle/fused_inference" --device $device
}

# A test binary that ran nothing has shown nothing.
ran_tests() {
    "$@" 2>&1 | tee "$work/ran_tests"
    [ "${PIPESTATUS[0]}" = 0 ] || return 1
    grep -Eq '^test result: ok\. [1-9][0-9]* passed' "$work/ran_tests"
}

part_sanitize() {
    local sanitizer tool share tools_left=4
    sanitizer=$(command -v "${COMPUTE_SANITIZER:-compute-sanitizer}" || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    if [ $dry_run = yes ]; then
        WARPNORM_EMULATOR=checked check sanitize "checked emulator" ran_tests "$bundle/it" sanitized::
    fi
    for tool in memcheck initcheck synccheck racecheck; do
        share=$(((deadline - SECONDS) / tools_left))
        tools_left=$((tools_left - 1))
        if [ -z "$sanitizer" ]; then
            verdict unavailable sanitize "$tool" "compute-sanitizer is not here"
        elif ! answers "$sanitizer" "$tool"; then
            verdict unavailable sanitize "$tool" "cannot start on this machine: $(last_words sanitize "$tool")"
        else
            limit=$share check sanitize "$tool" sanitized "$sanitizer" "$tool" every_kernel_once_on_cuda
        fi
    done
}

# One test under one tool.
sanitized() {
    ran_tests "$1" --tool "$2" --error-exitcode 86 --print-limit 20 "$bundle/it" --exact "sanitized::$3" --nocapture
}

# Whether a tool can start here at all: by a test that launches none of our kernels.
answers() {
    export -f sanitized ran_tests
    bundle=$bundle work=$work timeout 60 bash -c 'sanitized "$@"' - "$1" "$2" a_device_answers_on_cuda \
        >"$(log_of sanitize "$2")" 2>&1
}

part_rivals() {
    verdict unavailable rivals "all of them" "this bundle brings none: they join with the C library"
}

measure() {
    local part=$1 dry=()
    [ $dry_run = no ] || dry=(--dry-run)
    check "$part" "$part" "$bundle/record" "$part" --out "$work/$part" --commit "$(of_bundle commit)" \
        --toolkit "nvcc $(of_bundle nvcc)" "${dry[@]}"
    local status
    [ ! -f "$work/$part/bench.csv" ] || for status in ok wrong failed unsupported; do
        local count
        count=$(grep -c ",$status," "$work/$part/bench.csv")
        [ "$count" = 0 ] || echo "      $count cells $status" >>"$work/$part/summary.txt"
    done
}

# ---- one check

# check PART NAME COMMAND...: runs it within what is left of the part's time (or $limit seconds), and writes its verdict.
check() {
    local part=$1 name=$2 start=$SECONDS log rc left
    shift 2
    log=$(log_of "$part" "$name")
    left=${limit:-$((deadline - SECONDS))}
    if [ "$left" -le 0 ]; then
        verdict red "$part" "$name" "no time left"
        return
    fi
    export -f sanitized ran_tests
    [ $dry_run = yes ] || export WARPNORM_REQUIRE_GPU=1
    bundle=$bundle work=$work timeout --kill-after=10 "$left" bash -c '"$@"' - "$@" >"$log" 2>&1
    rc=$?
    tail -c $log_bytes "$log" >"$log.kept" && mv "$log.kept" "$log"
    case $rc in
        0) verdict green "$part" "$name" "$((SECONDS - start)) s" ;;
        124 | 137) verdict red "$part" "$name" "cut off after $((SECONDS - start)) s" ;;
        *) verdict red "$part" "$name" "exit status $rc after $((SECONDS - start)) s: $(last_words "$part" "$name")" ;;
    esac
}

log_of() { echo "$work/$1/${2// /-}.log"; }

last_words() { grep -v '^[[:space:]]*$' "$(log_of "$1" "$2")" 2>/dev/null | tail -1 | cut -c1-200; }

# verdict green|red|unavailable PART NAME DETAIL
verdict() {
    printf '%-12s %-9s %-18s %s\n' "$@" | tee -a "$work/$2/summary.txt"
}

# ---- what OUT holds

# Everything that is known so far, so that a run that is cut off leaves what it has.
publish() {
    local part first=yes
    tar -czf "$out/logs.tar.gz" -C "$work" --exclude ran_tests . || echo "cannot write logs" >&2
    cp "$work/machine/log.txt" "$out/machine.txt"
    : >"$out/tests.txt" && : >"$out/bench.csv" && rm -f "$out/probe.csv"
    for part in "${all_parts[@]}"; do
        [ -d "$work/$part" ] || continue
        case $part in tests | sanitize) tests_of "$part" >>"$out/tests.txt" ;; esac
        if [ -f "$work/$part/bench.csv" ]; then
            # One header.
            if [ $first = yes ]; then cat "$work/$part/bench.csv"; else tail -n +2 "$work/$part/bench.csv"; fi \
                >>"$out/bench.csv"
            first=no
        fi
        [ ! -f "$work/$part/probe.csv" ] || cp "$work/$part/probe.csv" "$out/probe.csv"
    done
    summarize >"$out/summary.txt"
}

tests_of() {
    local log
    for log in "$work/$1"/*.log; do
        [ -f "$log" ] || continue
        echo "==== $1: $(basename "$log" .log)"
        cat "$log"
    done
}

summarize() {
    local part green red unavailable all
    [ $dry_run = no ] || echo "a dry run on the emulated driver: it says nothing of a GPU"
    echo "commit $(of_bundle commit), bundle of $(of_bundle date), run on $(date -u +%FT%TZ)"
    for part in "${all_parts[@]}"; do
        [ ! -f "$work/$part/summary.txt" ] || cat "$work/$part/summary.txt"
    done
    all=$(cat "$work"/*/summary.txt 2>/dev/null)
    green=$(grep -c '^green' <<<"$all")
    red=$(grep -c '^red' <<<"$all")
    unavailable=$(grep -c '^unavailable' <<<"$all")
    echo "in all: $green green, $red red, $unavailable unavailable"
}

describe_machine() {
    echo "==== bundle"
    cat "$bundle/BUNDLE"
    echo "==== machine, $(date -u +%FT%TZ)"
    uname -srm
    grep -m1 'model name' /proc/cpuinfo
    echo "cores $(nproc)"
    grep MemTotal /proc/meminfo
    local question
    for question in "nvidia-smi" "nvcc --version" "compute-sanitizer --version" "python3 --version"; do
        echo "==== $question"
        timeout 60 bash -c "$question" || echo "not here"
    done
    echo "==== Python packages"
    timeout 120 python3 -c "$(
        cat <<'PYTHON'
from importlib import metadata
for name in "torch triton jax liger-kernel numpy nvidia-cudnn-cu13".split():
    try:
        print(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        print(name, "is not here")
PYTHON
    )" || echo "not here"
}

# A line of the file BUNDLE.
of_bundle() { sed -n "s/^$1 //p" "$bundle/BUNDLE"; }

main "$@"
