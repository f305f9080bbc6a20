# make demo   set up, build, and compress the two shipped models
# make test   set up, build, lint, and run the tests; the CUDA kernels are compiled too where nvcc is
# make test-gpu   the kernels on the NVIDIA GPU that is here, against the operators' meaning in float64
# make fuzz   the same tests on cases that are drawn anew
# make lint   ruff and pyright alone
# make cuda   the CUDA kernels, for every architecture that they are written for; needs nvcc, and no GPU
# make emulated   the CUDA kernels on a CPU, as the tests run them
# make peers  the peers of benchmarks/cpu_peers.py, each into an environment of its own

PYTHON ?= python3
BIN := .venv/bin
NVCC ?= $(firstword $(wildcard $(addsuffix /nvcc,$(subst :, ,$(PATH)) /usr/local/cuda/bin)))
LIBRARY := build/cpu/libaquatint_cpu.so
SOURCES := $(wildcard csrc/*/*.cpp csrc/*/*.h) csrc/CMakeLists.txt

.PHONY: demo test test-gpu fuzz lint setup cuda emulated peers clean

demo: setup
	PYTHONPATH=. $(BIN)/python -m aquatint demo

test: setup lint build/peers/optimum/ready
	+$(MAKE) --jobs=$(shell nproc) emulated $(if $(NVCC),cuda)
	$(BIN)/python -m pytest

test-gpu: setup cuda
	$(BIN)/python -m pytest -m gpu

fuzz: setup
	$(BIN)/python -m pytest --hypothesis-profile=fuzz

lint: setup
	$(BIN)/ruff check .
	$(BIN)/pyright --level error

setup: .venv/ready $(LIBRARY)

# torch first and alone: the range keeps pip from the newest, which brings gigabytes of CUDA.
.venv/ready: pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "torch>=2.11,<2.14"
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(LIBRARY): .venv/ready $(SOURCES)
	$(BIN)/cmake -S csrc -B build/cpu -DCMAKE_BUILD_TYPE=Release
	$(BIN)/cmake --build build/cpu --parallel

CUDA_HEADERS := $(wildcard csrc/cuda/*.h) csrc/common/codec.h
FATBIN = @mkdir -p $(@D); echo $@; $(NVCC) -std=c++17 -O3 -Icsrc -fatbin -Xptxas -v $(FLAGS) $< -o $@ > $(@:.fatbin=.log) 2>&1 \
  || (cat $(@:.fatbin=.log); false)
FOR = $(foreach sm,$1,-gencode=arch=compute_$(sm),code=sm_$(sm))
KERNELS := product_w4_sm90 product_w8_sm90 quantize_sm90 turned_sm90
KERNELS += $(filter-out ceiling%,$(patsubst csrc/cuda/%.cu,%,$(wildcard csrc/cuda/*_sm80.cu csrc/cuda/*_sm120.cu)))
# For models in bfloat16, and in float16.
FATBINS := $(KERNELS) $(KERNELS:%=%_f16) ceiling_sm80 ceiling_sm90
cuda: $(FATBINS:%=build/cuda/%.fatbin)
build/cuda/%_f16.fatbin: FLAGS += -DAQ_HALF
build/cuda/product_w4_%.fatbin: FLAGS += -DAQ_BITS=4
build/cuda/product_w8_%.fatbin: FLAGS += -DAQ_BITS=8
build/cuda/%_sm80.fatbin: FLAGS += $(call FOR,80 86 89 90 120)
build/cuda/%_sm80_f16.fatbin: FLAGS += $(call FOR,75 80 86 89 90 120)
build/cuda/%_sm90.fatbin build/cuda/%_sm90_f16.fatbin: FLAGS += $(call FOR,90a)
build/cuda/%_sm120.fatbin build/cuda/%_sm120_f16.fatbin: FLAGS += $(call FOR,120f)
# A pattern a rule: of two in one make thinks that both are made at once.
build/cuda/product_w4_%_f16.fatbin: csrc/cuda/product_%.cu $(CUDA_HEADERS); $(FATBIN)
build/cuda/product_w4_%.fatbin: csrc/cuda/product_%.cu $(CUDA_HEADERS); $(FATBIN)
build/cuda/product_w8_%_f16.fatbin: csrc/cuda/product_%.cu $(CUDA_HEADERS); $(FATBIN)
build/cuda/product_w8_%.fatbin: csrc/cuda/product_%.cu $(CUDA_HEADERS); $(FATBIN)
build/cuda/%_f16.fatbin: csrc/cuda/%.cu $(CUDA_HEADERS); $(FATBIN)
build/cuda/%.fatbin: csrc/cuda/%.cu $(CUDA_HEADERS); $(FATBIN)

# The same kernels on a CPU, to be tested where there is no GPU.
EMULATOR := $(wildcard tests/native/emulator/*.h tests/native/emulator/cuda/*.h)
EMULATED := $(patsubst tests/native/emulator/%.cpp,%,$(wildcard tests/native/emulator/*.cpp))
EMULATED += $(EMULATED:%=%_f16) $(patsubst %,turing/%_f16,$(filter %_sm80,$(EMULATED)))
emulated: $(EMULATED:%=build/emulated/%.so)
build/emulated/%_f16.so: FLAGS += -DAQ_HALF
build/emulated/turing/%.so: FLAGS += -DAQ_TURING
EMULATE = @mkdir -p $(@D); echo $@; $(CXX) -std=c++17 -O2 -fPIC -shared -fno-strict-aliasing -ffp-contract=off -Wno-psabi \
  -Itests/native/emulator -Icsrc $(FLAGS) $< -o $@
SHARED := $(wildcard csrc/cuda/*.cu) $(CUDA_HEADERS) $(EMULATOR)
build/emulated/turing/%_f16.so: tests/native/emulator/%.cpp $(SHARED); $(EMULATE)
build/emulated/%_f16.so: tests/native/emulator/%.cpp $(SHARED); $(EMULATE)
build/emulated/%.so: tests/native/emulator/%.cpp $(SHARED); $(EMULATE)

# Their own packages on top of ours: torch, numpy and diffusers are the ones that we measure with.
PEERS := openvino onnxruntime torchao bitsandbytes quanto optimum
peers: $(PEERS:%=build/peers/%/ready)
build/peers/openvino/ready: PACKAGES = openvino nncf
build/peers/onnxruntime/ready: PACKAGES = onnxruntime onnx onnxscript onnx_ir
build/peers/torchao/ready: PACKAGES = torchao
build/peers/bitsandbytes/ready: PACKAGES = bitsandbytes
build/peers/quanto/ready: PACKAGES = optimum-quanto
# optimum-onnx asks for transformers < 4.58, these for huggingface_hub < 1, and that for an older diffusers.
build/peers/optimum/ready: PACKAGES = optimum-onnx "diffusers<0.37" "transformers<4.58"
build/peers/%/ready: .venv/ready
	$(PYTHON) -m venv build/peers/$*
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])" \
	  > $$(build/peers/$*/bin/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")/aquatint.pth
	build/peers/$*/bin/python -m pip install --quiet $(PACKAGES)
	touch $@

clean:
	rm -rf build/cpu .venv
