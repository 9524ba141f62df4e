#!/usr/bin/env bash
# One run on a card: bash benchmarks/gpu/card_run.sh STAGE..., in the root of the checkout.
# Stages: A right, B fast, C train, D the rest. README.md beside this file says what has to be there
# and which stages fit 15 minutes.
#
# Every step is a process with a limit of its own; one that fails or hangs does not stop the rest.
# Results are in $OUT as they come: results.jsonl, steps.tsv, run.log, and what stages C and D make.
#   RUN_S    seconds that all of it may take
#   STEP_S   seconds that no step may exceed, below its own limit
#   ONLY     names of steps, to run no others: ONLY="golden enhance"
#   COMMIT   told in the results where the copy is no git checkout
#   DEVICE   cpu: a dry run on tiny models
#   PYTHON   the interpreter
set -u
OUT=${OUT:-/tmp/card_run}
RUN_S=${RUN_S:-540}
STEP_S=${STEP_S:-3600}
ONLY=${ONLY:-}
DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-python3}
PACK=${PACK:-.gpu}
RESERVE=15       # seconds under which no step is begun
CLOSING=5        # seconds that a step leaves to those after it
LOG_BYTES=1500000
BEGIN=$SECONDS
SCRATCH=$(mktemp -d)
SITE=$SCRATCH/site
trap 'rm -rf "$SCRATCH"' EXIT

mkdir -p "$OUT"
export OUT PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
export PYTHONPATH="$PWD:$PWD/runtime:$PWD/export:$SITE${PYTHONPATH:+:$PYTHONPATH}"
export TORCHINDUCTOR_CACHE_DIR=$SCRATCH/inductor TRITON_CACHE_DIR=$SCRATCH/triton
printf 'stage\tstep\tcode\tseconds\tlimit\n' > "$OUT/steps.tsv"
: > "$OUT/run.log"

left() { echo $((RUN_S - (SECONDS - BEGIN))); }

note() { printf '%s\t%s\t%s\t%s\t%s\n' "$@" >> "$OUT/steps.tsv"; }  # STAGE STEP CODE SECONDS LIMIT

step() {  # STAGE NAME LIMIT COMMAND...: one process, its end noted and its log kept
    local stage=$1 name=$2 limit=$3 start=$SECONDS code had
    shift 3
    case " ${ONLY:-$name} " in *" $name "*) ;; *) return 0 ;; esac
    had=$(left)
    if [ "$had" -lt "$RESERVE" ] || [ "$limit" -lt 1 ]; then
        note "$stage" "$name" skipped 0 "$limit"
        return 0
    fi
    [ "$limit" -gt $((had - CLOSING)) ] && limit=$((had - CLOSING))
    [ "$limit" -gt "$STEP_S" ] && limit=$STEP_S
    echo "== $stage $name: at most $limit s, $had s left"
    timeout -k 5 "$limit" "$@" > "$SCRATCH/$name.log" 2>&1 < /dev/null
    code=$?
    note "$stage" "$name" "$code" $((SECONDS - start)) "$limit"
    {
        echo "##### $stage $name: exit status $code after $((SECONDS - start)) s: $*"
        tail -c "$LOG_BYTES" "$SCRATCH/$name.log"
        echo
    } >> "$OUT/run.log"
    [ "$code" -ne 0 ] && tail -n 6 "$SCRATCH/$name.log" | cut -c1-300
    return 0
}

gpu() {  # STAGE LIMIT STEP [OPTION...]: a step of benchmarks.gpu, by its own name
    named "$1" "$3" "${@:2}"
}

named() {  # STAGE NAME LIMIT STEP [OPTION...]: the same under another name
    local stage=$1 name=$2 limit=$3 dry=()
    shift 3
    [ "$DEVICE" = cpu ] && dry=(--device cpu --small)
    step "$stage" "$name" "$limit" "$PYTHON" -m benchmarks.gpu "$@" "${dry[@]}"
}

tests() {  # STAGE NAME LIMIT PATH...: the tests there that need a card
    local stage=$1 name=$2 limit=$3
    shift 3
    step "$stage" "$name" "$limit" "$PYTHON" -m pytest -v -p no:cacheprovider -m "gpu and not slow" "$@"
}

install() {  # a wheel that cannot be installed does not keep the others out
    local wheel
    for wheel in "$PACK"/wheels/*.whl; do
        [ -e "$wheel" ] || continue
        "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
            --target "$SITE" "$wheel" || echo "$wheel cannot be installed"
    done
    [ "$DEVICE" = cpu ] || nvidia-smi
}

stage_A() {  # is it right?
    gpu A 60 environment
    tests A captures 90 tests/runtime/test_cuda_graph.py tests/runtime/test_sampler_graph.py \
        tests/runtime/test_cuda_facts.py
    CUBLAS_WORKSPACE_CONFIG=:4096:8 tests A kernels 150 tests/venhancer/model/test_kernels.py
    gpu A 120 enhance
    gpu A 120 graphs
    gpu A 120 golden
}

stage_B() {  # is it fast?
    gpu B 60 profile
    named B denoise 130 denoise --way exact --way eager --way graph --way reuse --way long
    named B denoise_bfloat16 60 denoise --dtype bfloat16 --way exact --way eager
    gpu B 60 codec
    named B denoise_plain 60 denoise --way plain
    named B denoise_compiled 170 denoise --way eager --way compiled
}

train() {  # SECONDS: NANO goes on from its weights; stopped by its time, so that the last save counts
    local run=$SCRATCH/run pool=$SCRATCH/pool perceptual=(--set perceptual_weight=0.0)
    [ -f "$PACK/vgg16.ckpt" ] && perceptual=(--perceptual "$PACK/vgg16.ckpt")
    step C train "$1" "$PYTHON" -m venhancer.training --device "$DEVICE" --data "$pool/train" \
        --validate "$pool/validation" --weights venhancer/presets/nano.safetensors -o "$run" \
        "${perceptual[@]}" --steps "${TRAIN_STEPS:-4000}" --set batch=32 --set micro_batch=32 \
        --set save_every=200 --set validate_every=1000
    local name
    for name in model.safetensors best.safetensors loss.jsonl validation.jsonl; do
        [ -f "$run/$name" ] && cp "$run/$name" "$OUT/nano_$name"
    done
    return 0
}

stage_C() {  # training: speed of an update, a pool made here out of the clips, then as long as there is time
    gpu C 90 update
    [ -d "$PACK/train" ] || return 0
    step C pool 150 "$PYTHON" -m benchmarks.gpu.training "$PACK" "$SCRATCH/pool"
    train $(($(left) - 20))
}

stage_D() {  # layer by layer, and whole films of both models
    step D candidates 240 "$PYTHON" -m benchmarks.questions.candidates --device "$DEVICE" --rounds 3 \
        --out "$OUT/candidates_cuda.json"
    step D end_to_end 120 "$PYTHON" -m benchmarks.speed.end_to_end --device "$DEVICE" \
        --out "$OUT/end_to_end_nano_cuda.json"
    step D end_to_end_released 240 "$PYTHON" -m benchmarks.speed.end_to_end --device "$DEVICE" \
        --preset released --out "$OUT/end_to_end_cuda.json"
}

install > "$SCRATCH/install.log" 2>&1
cat "$SCRATCH/install.log" >> "$OUT/run.log"
for stage in "$@"; do
    "stage_$stage"
done
"$PYTHON" -m benchmarks.gpu.records "$OUT"
