#!/usr/bin/env bash
# Proves the project on a GPU, from the bundle that scripts/gpu-bundle made: this file lies in it. Needs a driver and a
# glibc as new as BUNDLE says, and neither Rust nor a network.
#
# usage: run.sh OUT [--part PART]... [--dry-run]
#
#   probe      the chip's own limits: copies, reads, clusters, launches
#   tests      every test with a GPU required, and the example
#   sanitize   compute-sanitizer's four tools over every kernel
#   rows, images, decode    the benchmark, every output checked against f64 first
#   rivals     what others reach on the same machine, where its Python has torch
#   folding    convolutions with their BatchNorm apart, folded, and compiled, likewise
#
# Without --part all of them, each in at most 8 minutes, each whatever becomes of the others. A part that is run again
# replaces what OUT holds of it; what OUT holds of another commit, or of a dry run beside a real one, is dropped. OUT
# receives at most 8 files of less than 16 MiB: summary.txt, tests.txt, machine.txt, bench.csv, probe.csv, rivals.csv,
# logs.tar.gz.
# Fails if anything in it is red or could not be written; what cannot run on this machine is `unavailable`, neither red
# nor green.
#
# --dry-run does it all on the emulated driver that the binaries carry, with small cells, even where there is a GPU: it
# shows that everything works but says nothing of a GPU. Its parts may take three times as long.
set -uo pipefail

all_parts=(probe tests sanitize rows images decode rivals folding)
# 8 minutes, less what it takes to write OUT.
part_seconds=475
# The emulator computes on this machine's cores, and nobody pays for them by the minute.
dry_part_seconds=1425
# What is told to end and does not is killed so much later.
kill_seconds=10
# A sanitizer that has not run an empty test by then will not run any.
start_seconds=60
# Before the end of its part a comparison begins no cell.
last_cell_seconds=45
# Of a log, and of tests.txt, as far as they are kept.
log_bytes=$((2 * 1024 * 1024))
tests_bytes=$((15 * 1024 * 1024))

bundle=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

main() {
    read_arguments "$@"
    check_glibc
    unpack
    mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
    work=$(mktemp -d) || exit 2
    trap 'rm -rf "$work"' EXIT
    choose_device
    restore

    mkdir -p "$work/machine" && describe_machine >"$work/machine/log.txt" 2>&1
    local part
    for part in "${parts[@]}"; do
        rm -rf "${work:?}/$part" && mkdir "$work/$part" && echo "$origin" >"$work/$part/origin"
        echo "=== $part"
        deadline=$((SECONDS + part_seconds))
        "part_$part"
        [ "${verdicts[$part]:-0}" -gt 0 ] || verdict red "$part" "$part" "ended without a verdict"
        publish
    done
    count_verdicts
    [ "$published" = yes ] && [ $((reds + reds_before)) = 0 ]
}

# Once: what is there stays.
unpack() {
    local packed program
    for packed in "$bundle"/*.gz "$bundle"/python/*.gz; do
        program=${packed%.gz}
        if [ -e "$packed" ] && [ ! -e "$program" ]; then
            gunzip --stdout "$packed" >"$program.unpacking" && chmod 755 "$program.unpacking" &&
                mv "$program.unpacking" "$program" || exit 2
        fi
    done
}

read_arguments() {
    out="" parts=() dry_run=no
    while [ $# -gt 0 ]; do
        case $1 in
            --part)
                [[ " ${all_parts[*]} " == *" ${2:-} "* ]] || usage
                [[ " ${parts[*]} " == *" $2 "* ]] || parts+=("$2")
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

# An older one would refuse the binaries one by one, each in its own words.
check_glibc() {
    local needed found
    needed=$(of_bundle glibc)
    found=$({ getconf GNU_LIBC_VERSION || ldd --version; } 2>/dev/null | grep -Eo '[0-9]+\.[0-9]+' | head -1)
    [ "$(printf '%s\n' "$needed" "${found:-0}" | sort -V | head -1)" = "$needed" ] && return
    echo "run.sh: the binaries need glibc $needed, and this machine has ${found:-none}" >&2
    exit 2
}

# Whatever the caller's environment says: a real run is of the GPU, and a dry one never.
choose_device() {
    origin="$(of_bundle commit) $([ $dry_run = yes ] && echo dry || echo real)"
    if [ $dry_run = yes ]; then
        part_seconds=$dry_part_seconds
        unset WARPNORM_REQUIRE_GPU
        export WARPNORM_EMULATOR=plain
    else
        unset WARPNORM_EMULATOR WARPNORM_EMULATOR_OUT
        export WARPNORM_REQUIRE_GPU=1
    fi
}

# What earlier runs left, unless it was of another commit or kind: an OUT is one run, be it in pieces.
restore() {
    local part red dropped=()
    reds_before=0
    [ -f "$out/logs.tar.gz" ] || return 0
    tar -xzf "$out/logs.tar.gz" -C "$work" || rm -rf "${work:?}"/*
    for part in "${all_parts[@]}"; do
        [ -d "$work/$part" ] || continue
        if [ "$(cat "$work/$part/origin" 2>/dev/null)" != "$origin" ]; then
            rm -rf "${work:?}/$part"
            dropped+=("$part")
        elif [[ " ${parts[*]} " != *" $part "* ]]; then
            red=$(grep -c '^red' "$work/$part/summary.txt")
            reds_before=$((reds_before + ${red:-0}))
        fi
    done
    [ ${#dropped[@]} = 0 ] || echo "dropped from $out what is not of $origin: ${dropped[*]}"
}

# ---- parts

part_probe() { measure probe; }
part_rows() { measure rows; }
part_images() { measure images; }
part_decode() { measure decode; }
part_rivals() { compare norms rivals; }
part_folding() { compare folding folding; }

part_tests() {
    # What a passing test has printed too: the device, and what it had no room for.
    local show=--show-output some=() some_units=() device=cuda
    # In a dry run as many as show that these programs find their device: `cargo test` does the same with the others on
    # any machine. (The example is no test, and brings no emulator.)
    [ $dry_run = no ] || some=(graphs::) some_units=(cuda::) device=cpu
    check tests "integration tests" ran_tests "$bundle/it" $show "${some[@]}"
    check tests "unit tests" ran_tests "$bundle/unit" $show "${some_units[@]}"
    check tests "example" "$bundle/fused_inference" --device $device
}

# Its exit status. A test binary that ran nothing has shown nothing.
ran_tests() {
    local status
    "$@" 2>&1 | tee "$work/ran_tests"
    status=${PIPESTATUS[0]}
    [ "$status" = 0 ] || return "$status"
    grep -Eq '^test result: ok\. [1-9][0-9]* passed' "$work/ran_tests" || { echo "no test ran" && return 1; }
}

part_sanitize() {
    local sanitizer tool share tools_left=4
    [ $dry_run = no ] || WARPNORM_EMULATOR=checked check sanitize "checked emulator" ran_tests "$bundle/it" sanitized::
    sanitizer=$(find_sanitizer)
    for tool in memcheck initcheck synccheck racecheck; do
        if [ -z "$sanitizer" ]; then
            verdict unavailable sanitize "$tool" "compute-sanitizer is not here, or this is a dry run"
        elif starts "$sanitizer" "$tool"; then
            # Of what starting has left.
            share=$(((deadline - SECONDS) / tools_left))
            limit=$share check sanitize "$tool" sanitized "$sanitizer" "$tool" every_kernel_once_on_cuda
        fi
        tools_left=$((tools_left - 1))
    done
}

# Its path. One that is installed would see nothing of the emulated driver; one that was asked for is a stand-in.
find_sanitizer() {
    if [ -n "${COMPUTE_SANITIZER:-}" ]; then
        command -v "$COMPUTE_SANITIZER"
    elif [ $dry_run = no ]; then
        command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null
    fi
}

# One test under one tool.
sanitized() {
    local options=(--tool "$2" --error-exitcode 86 --print-limit 20)
    # It would count calls of the driver that fail, and some are meant to: those that ask whether something is there. A
    # failure that matters is reported by our own code, which fails the test.
    [ "$2" != memcheck ] || options+=(--report-api-errors no)
    ran_tests "$1" "${options[@]}" "$bundle/it" --exact "sanitized::$3" --nocapture
}
export -f ran_tests sanitized

# What it says, or the driver under it, where it cannot work.
refusals="Device not supported|Internal Sanitizer Error|LibraryNotLoaded|not supported|Unable to find injection library"
refusals+="|terminated before first instrumented API call|error 999|CUDA_ERROR_UNKNOWN"

# Whether a tool starts here at all, by a test that launches none of our kernels; if not, the verdict.
starts() {
    local log seconds rc refusal
    log=$(log_of sanitize "$2")
    seconds=$(seconds_left $start_seconds)
    if [ "$seconds" -le 0 ]; then
        verdict red sanitize "$2" "no time left"
        return 1
    fi
    within "$seconds" sanitize "$2" sanitized "$1" "$2" a_device_answers_on_cuda
    rc=$?
    [ $rc != 0 ] || return 0
    refusal=$(grep -Em1 "$refusals" "$log" | sed 's/^[= ]*//' | cut -c1-200)
    # 86 is a finding, unless it has looked at nothing: that a device is not supported it counts as an error of its own.
    if [ $rc = 86 ] && ! grep -q "Device not supported" "$log"; then
        verdict red sanitize "$2" "found something where no kernel runs: $(last_words sanitize "$2")"
    elif [ $rc = 124 ]; then
        verdict unavailable sanitize "$2" "did not start within $seconds s"
    elif [ -n "$refusal" ]; then
        verdict unavailable sanitize "$2" "cannot start on this machine: $refusal"
    else
        verdict red sanitize "$2" "exit status $rc at the start: $(last_words sanitize "$2")"
    fi
    return 1
}

measure() {
    local part=$1
    set_scene
    check "$part" "$part" "$bundle/record" "$part" --out "$work/$part" "${scene[@]}"
    count_cells "$part" bench.csv
}

# compare SUITE PART: by the machine's own Python. Red where warpnorm is wrong; of others what is wrong, fails or is not here
# is on record.
compare() {
    local suite=$1 part=$2 seconds rc start=$SECONDS
    if ! command -v python3 >/dev/null; then
        verdict unavailable "$part" "$part" "python3 is not here"
        return
    fi
    set_scene
    seconds=$(seconds_left $part_seconds)
    PYTHONPATH=$bundle/python${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1 \
        TRITON_CACHE_DIR=$work/triton TORCHINDUCTOR_CACHE_DIR=$work/inductor \
        within "$seconds" "$part" "$part" python3 -m rivals "$suite" --out "$work/$part/rivals.csv" \
        --seconds $((seconds - last_cell_seconds)) "${scene[@]}"
    rc=$?
    rm -rf "$work/triton" "$work/inductor"
    if [ $rc = 3 ]; then
        verdict unavailable "$part" "$part" "$(last_words "$part" "$part" | sed 's/.*unavailable *//')"
    else
        verdict_of $rc "$part" "$part" $((SECONDS - start))
        count_cells "$part" rivals.csv
    fi
}

# What a benchmark is told about its run.
set_scene() {
    local driver
    scene=(--commit "$(of_bundle commit)" --toolkit "nvcc $(of_bundle nvcc)")
    if [ $dry_run = yes ]; then
        scene+=(--dry-run)
    else
        driver=$(driver_version)
        [ -z "$driver" ] || scene+=(--driver "$driver")
    fi
}

count_cells() {
    local status count
    [ ! -f "$work/$1/$2" ] || for status in ok wrong failed unsupported unavailable; do
        count=$(grep -c ",$status," "$work/$1/$2")
        [ "$count" = 0 ] || echo "      $count cells $status" >>"$work/$1/summary.txt"
    done
}

# Nothing where there is no telling; nvidia-smi complains on stdout.
driver_version() {
    timeout 20 nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -1 | grep -Ex '[0-9.]+'
}

# ---- one check

# check PART NAME COMMAND...: runs it within what is left of the part's time, or $limit seconds, and writes its verdict.
check() {
    local part=$1 name=$2 start=$SECONDS seconds
    shift 2
    seconds=$(seconds_left "${limit:-$part_seconds}")
    if [ "$seconds" -le 0 ]; then
        verdict red "$part" "$name" "no time left"
        return
    fi
    within "$seconds" "$part" "$name" "$@"
    verdict_of $? "$part" "$name" $((SECONDS - start))
}

# verdict_of STATUS PART NAME SECONDS
verdict_of() {
    case $1 in
        0) verdict green "$2" "$3" "$4 s" ;;
        124) verdict red "$2" "$3" "cut off after $4 s" ;;
        *) verdict red "$2" "$3" "exit status $1 after $4 s: $(last_words "$2" "$3")" ;;
    esac
}

# within SECONDS PART NAME COMMAND...: runs it, its output into its log. Its exit status; 124 if it was cut off.
within() {
    local seconds=$1 log start=$SECONDS rc
    log=$(log_of "$2" "$3")
    shift 3
    bundle=$bundle work=$work timeout --kill-after=$kill_seconds "$seconds" bash -c '"$@"' - "$@" >"$log" 2>&1
    rc=$?
    last_bytes $log_bytes "$log" >"$log.kept" && mv "$log.kept" "$log"
    # Killed: by `timeout`, or before its time by the system.
    [ $rc != 137 ] || [ $((SECONDS - start)) -lt "$seconds" ] || rc=124
    return $rc
}

# seconds_left MOST: of the part's time, such that what has to be killed ends within it.
seconds_left() {
    local left=$((deadline - SECONDS - kill_seconds))
    echo $((left < $1 ? left : $1))
}

last_bytes() {
    [ "$(stat -c %s "$2")" -le "$1" ] || echo "(what came before is left out)"
    tail -c "$1" "$2"
}

log_of() { echo "$work/$1/${2// /-}.log"; }

last_words() { grep -v '^[[:space:]]*$' "$(log_of "$1" "$2")" 2>/dev/null | tail -1 | cut -c1-200; }

# verdict green|red|unavailable PART NAME DETAIL
declare -A verdicts
reds=0
verdict() {
    verdicts[$2]=$((${verdicts[$2]:-0} + 1))
    [ "$1" != red ] || reds=$((reds + 1))
    printf '%-12s %-9s %-18s %s\n' "$@" | tee -a "$work/$2/summary.txt"
}

# ---- what OUT holds

# Everything that is known so far, so that a run that is cut off leaves what it has.
publish() {
    published=yes
    write logs.tar.gz tar -czf - -C "$work" --exclude ran_tests .
    write machine.txt cat "$work/machine/log.txt"
    write tests.txt logs_of_tests
    write bench.csv cells bench.csv
    write rivals.csv cells rivals.csv
    rm -f "$out/probe.csv"
    [ ! -f "$work/probe/probe.csv" ] || write probe.csv cat "$work/probe/probe.csv"
    write summary.txt summarize
}

# write FILE COMMAND...: what it prints, into OUT.
write() {
    local name=$1
    shift
    "$@" >"$out/$name" || { published=no && echo "run.sh: cannot write $out/$name" >&2; }
}

# The logs that are read: each has the same part of what there is room for.
logs_of_tests() {
    local part log logs=()
    for part in tests sanitize; do
        for log in "$work/$part"/*.log; do [ ! -f "$log" ] || logs+=("$log"); done
    done
    for log in "${logs[@]}"; do
        echo "==== $(basename "$(dirname "$log")"): $(basename "$log" .log)"
        last_bytes $((tests_bytes / ${#logs[@]})) "$log" && echo || return
    done
}

# All parts' of that name under one header.
cells() {
    local part from=1
    for part in "${all_parts[@]}"; do
        [ -f "$work/$part/$1" ] || continue
        tail -n +$from "$work/$part/$1" || return
        from=2
    done
}

summarize() {
    local part
    [ $dry_run = no ] || echo "a dry run on the emulated driver: it says nothing of a GPU"
    echo "commit $(of_bundle commit), bundle of $(of_bundle date), run on $(date -u +%FT%TZ)"
    for part in "${all_parts[@]}"; do
        [ ! -f "$work/$part/summary.txt" ] || cat "$work/$part/summary.txt" || return
    done
    count_verdicts
}

count_verdicts() {
    local part colour all="" line=""
    for part in "${all_parts[@]}"; do all+=$(cat "$work/$part/summary.txt" 2>/dev/null)$'\n'; done
    for colour in green red unavailable; do line+=", $(grep -c "^$colour" <<<"$all") $colour"; done
    echo "in all: ${line#, }"
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
        timeout 20 bash -c "$question" || echo "not here"
    done
    echo "==== Python packages"
    timeout 20 python3 -c "$(
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
